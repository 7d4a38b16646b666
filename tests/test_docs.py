"""Generated pages are up to date, and what they and the README show works."""

import json
import re
from pathlib import Path

from j2o.ir.parser import parse
from j2o.passes.default import LAYOUT
from tools import architecture, supported

ROOT = Path(__file__).parents[1]


def test_supported_primitives():
    assert supported.PATH.read_text() == supported.text(), (
        "run python -m tools.supported"
    )


def test_the_page_of_files_has_all_of_them():
    page = architecture.FILES.read_text()
    assert page == architecture.files(), "run python -m tools.architecture"


def test_the_example_of_the_text_form_reads_and_prints():
    text = (ROOT / "docs" / "text-form.md").read_text().split("```")[1]
    graph = parse(text)
    graph.verify()
    assert str(parse(str(graph))) == str(graph)


def test_results_are_of_primitives_that_have_a_rule():
    """But for calls, which are inlined."""
    results = json.loads(supported.RESULTS.read_text())["primitives"]
    calls = {c.removeprefix("lax.") for c in supported.CALLS} | {"custom_linear_solve"}
    assert set(results) <= supported.rules() | calls
    assert len(results) > 130


def test_the_page_of_the_architecture_has_the_steps_of_layout_in_order():
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = page.partition("The steps of `layout`")[2].partition("## ")[0]
    cells = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    named = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    again = {"fold", "shapes", "dce", "layout"}  # they clean up between the others
    steps = [step.name for step in LAYOUT if step.name not in again]
    assert named == steps


def test_the_page_for_authors_of_passes_shows_what_its_rules_make():
    page = (ROOT / "docs" / "writing-a-pass.md").read_text()
    assert "%min = onnx.Clip(%concatenate, " in page
    assert "%concatenate = onnx.Concat(%x, %y, %z)" in page
