"""Generated pages are up to date, and what they and the README show works."""

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
