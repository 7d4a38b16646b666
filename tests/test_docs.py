"""Generated pages are up to date, and what they and the README show works."""

import json
from pathlib import Path

from j2o.ir.text import parse
from tools import supported

ROOT = Path(__file__).parents[1]


def test_supported_primitives():
    assert supported.PATH.read_text() == supported.text(), "run python -m tools.supported"


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
