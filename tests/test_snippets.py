"""Every snippet of every page does what the page says, and nothing is left out without a reason."""

from pathlib import Path

import pytest

from j2o.passes.lower.table import temporary_rules
from tools import needs
from tools.snippets import SnippetError, snippets, with_outputs

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
# the packages that a page's code needs, where they are none that all tests need
NEEDS = {
    "docs/guides/equinox.md": ["equinox"],
    "docs/guides/haiku.md": ["haiku"],
    "docs/guides/keras.md": ["keras"],
}
# what does not run, in the order of the pages: each needs more than a test has
LEFT_OUT = {
    "CONTRIBUTING.md": ["it sets up and tests the checkout, as CI does"],
    "README.md": ["it sets up the checkout, as CI does"],
    "docs/deployment.md": ["C# needs .NET and a package of NuGet"],
    "docs/guides/first-export.md": ["it makes an environment"],
    "docs/report.md": ["ViT-B/16 has 330 MB of weights"],
    "docs/testing.md": ["it sets up and tests the checkout, as CI does"],
}


def _name(page):
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_a_page_shows_what_its_code_prints(page):
    for package in NEEDS.get(_name(page), []):
        pytest.importorskip(package)
    text = page.read_text()
    with temporary_rules():
        shown = with_outputs(text, _name(page))
    assert text == shown, f"run python -m tools.snippets {_name(page)}"


def test_what_does_not_run_is_known():
    found = {}
    for page in PAGES:
        marks = [block.marks for block in snippets(page.read_text())]
        reasons = [mark["no-run"] for mark in marks if "no-run" in mark]
        if reasons:
            found[_name(page)] = reasons
    assert found == LEFT_OUT


@pytest.mark.parametrize(
    "name", ["onnxruntime-node", "onnxruntime-web", "openvino", "$ORT"]
)
def test_what_some_blocks_need_is_at_hand(name):
    """Skipped where it is not: then the blocks of pages that need it have not run."""
    wanting = [_name(page) for page in PAGES if f"needs: {name} " in page.read_text()]
    assert wanting, f"no page needs {name}"
    if not needs.is_here(name):
        pytest.skip(f"no {name}: {', '.join(wanting)} ran without")


HELLO = """\
# A page

```python
print("hello")
```

```text
good day
```
"""


def test_what_the_code_prints_takes_the_place_of_what_the_page_shows():
    assert with_outputs(HELLO) == HELLO.replace("good day", "hello")


def test_dots_in_an_output_stand_for_anything():
    page = HELLO.replace("good day", "h…o")
    assert with_outputs(page) == page


def test_a_block_that_stands_alone_is_no_output():
    page = HELLO.replace("```\n\n```text", "```\n\nThus:\n\n```text")
    assert with_outputs(page) == page


def test_blocks_share_names_and_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = """\
<!-- file: mine.py -->

```python
x = 1
```

```python
from mine import x
```

```bash
cat mine.py && echo $((2 + 3))
```

```text
```

```python
import os
print(x, os.path.isfile('mine.py'))
```

```text
```
"""
    shown = with_outputs(page)
    assert "```text\nx = 1\n5\n```" in shown
    assert "```text\n1 True\n```" in shown
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_needs_what_is_not_here_is_left():
    page = "<!-- needs: no_such_module -->\n\n" + HELLO.partition("\n\n")[2]
    assert with_outputs(page) == page


def test_hidden_code_runs():
    page = "<!-- run: greeting = 'good day' -->\n\n" + HELLO
    page = page.replace('"hello"', "greeting")
    assert with_outputs(page) == page


def test_errors_and_warnings_that_a_page_tells_of_are_printed():
    page = """\
<!-- raises: ValueError -->

```python
raise ValueError("no")
```

```text
ValueError: no
```

<!-- warns: UserWarning -->

```python
import warnings
warnings.warn("take care")
```

```text
UserWarning: take care
```

<!-- exit: 3 -->

```bash
echo gone; exit 3
```

```text
gone
```
"""
    assert with_outputs(page) == page


FAULTS = {
    "an error": ("```python\n1 / 0\n```", "page:2: ZeroDivisionError"),
    "no error": ("<!-- raises: ValueError -->\n\n```python\n```", "should raise"),
    "another error": ("<!-- raises: KeyError -->\n\n```python\n1 / 0\n```", "Zero"),
    "no warning": ("<!-- warns: UserWarning -->\n\n```python\n```", "should warn"),
    "a failing command": ("```bash\nfalse\necho a\n```", "exit status 1, not 0"),
    "a good command": ("<!-- exit: 1 -->\n\n```bash\n```", "exit status 0, not 1"),
    "another language": ("```cpp\nint x;\n```", "cpp does not run"),
    "no reason": ("<!-- no-run: -->\n\n```cpp\n```", "a reason must follow"),
    "a need that is met": (
        "<!-- needs: os -->\n\n```python\n1 / 0\n```",
        "ZeroDivision",
    ),
    "no code": ("<!-- no-run: so -->\n\nText.", "no code follows a comment"),
    "an unknown mark": ("<!-- norun: so -->\n\n```python\n1 / 0\n```", "Zero"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_page_is_told_with_its_line(fault):
    page, message = FAULTS[fault]
    with pytest.raises(SnippetError, match=message):
        with_outputs(page)
