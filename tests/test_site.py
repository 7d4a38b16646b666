"""The site: every public name has its place, every error its cure, every link leads somewhere."""

import itertools
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt

import j2o
import j2o.ir
import j2o.passes

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("**/*.md")])
DOCUMENTED = re.compile(
    r"^\.\. (?:auto)?(?:function|class|exception):: (\S+)", re.MULTILINE
)


def _name(page):
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize(
    ("module", "page"),
    [(j2o, "api.md"), (j2o.passes, "api-passes.md"), (j2o.ir, "api-ir.md")],
    ids=["j2o", "passes", "ir"],
)
def test_every_public_name_is_documented(module, page):
    documented = set(DOCUMENTED.findall((DOCS / page).read_text()))
    names = [name for name in module.__all__ if name != "__version__"]
    assert {f"{module.__name__}.{name}" for name in names} <= documented


def test_every_error_and_warning_has_an_example_and_a_cure():
    page = (DOCS / "troubleshooting.md").read_text()
    errors = [name for name in j2o.__all__ if name.endswith(("Error", "Warning"))]
    sections = re.split(r"^## ", page, flags=re.MULTILINE)
    by_name = {section.partition("\n")[0]: section for section in sections}
    assert len(errors) > 10
    for name in errors:
        assert name in by_name, name
        assert "```python" in by_name[name] or "```bash" in by_name[name], name


def test_the_site_has_every_page_once():
    index = (DOCS / "index.md").read_text()
    trees = re.findall(r"```\{toctree\}\n(.*?)```", index, re.DOTALL)
    entries = [line for tree in trees for line in tree.split("\n")]
    entries = [line for line in entries if line and not line.startswith(":")]
    pages = [path.relative_to(DOCS).with_suffix("") for path in DOCS.glob("**/*.md")]
    wanted = [page.as_posix() for page in pages if page.name != "index"]
    assert sorted(entries) == sorted(wanted)


def links(page):
    """The targets of the links and images of a page."""
    for token in MarkdownIt().enable("table").parse(page.read_text()):
        for part in token.children or ():
            target = part.attrGet("href") or part.attrGet("src")
            if target:
                yield unquote(str(target))


def anchors(page):
    """The anchors of a page's headings, as GitHub and MyST name them."""
    found = []
    tokens = MarkdownIt().parse(page.read_text())
    for token, heading in itertools.pairwise(tokens):
        if token.type == "heading_open":
            parts = [part.content for part in heading.children or ()]
            words = re.sub(r"[^\w\- ]", "", "".join(parts).lower()).replace(" ", "-")
            again = sum(name == words for name, _ in found)
            found.append((words, f"{words}-{again}" if again else words))
    return {anchor for _, anchor in found}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_link_leads_to_a_file_and_a_heading(page):
    for target in links(page):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_relative_to(ROOT), target
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), target


def test_anchors_of_equal_headings_are_numbered():
    """`## C++` and `## C#` have the same letters."""
    assert {"c", "c-1"} <= anchors(DOCS / "deployment.md")
