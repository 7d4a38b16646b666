"""Generated pages are up to date, and what they and the README show works."""

import json
import re
from pathlib import Path

import pytest

from j2o.ir.parser import parse
from j2o.passes.lower.table import temporary_rules
from tools import architecture, supported

ROOT = Path(__file__).parents[1]


def test_supported_primitives():
    assert supported.PATH.read_text() == supported.text(), (
        "run python -m tools.supported"
    )


def test_outputs_on_the_page_of_the_architecture():
    page = architecture.PATH.read_text()
    assert page == architecture.text(), "run python -m tools.architecture"


def test_the_page_of_files_has_all_of_them():
    page = architecture.FILES.read_text()
    assert page == architecture.files(), "run python -m tools.architecture"


def test_the_code_on_the_page_about_tests_runs():
    page = (ROOT / "docs" / "testing.md").read_text()
    architecture.with_outputs(page)


def test_the_outputs_on_the_page_about_debugging_are_those_of_its_code():
    page = (ROOT / "docs" / "debugging.md").read_text()
    assert architecture.with_outputs(page) == page


def test_the_outputs_on_the_page_about_the_graph_are_those_of_its_code():
    page = (ROOT / "docs" / "ir.md").read_text()
    assert architecture.with_outputs(page) == page


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


PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_are_there(page):
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / link).exists(), link


def test_the_first_program_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = architecture.CODE.search((ROOT / "README.md").read_text())
    exec(code["code"], {})
    assert (tmp_path / "mlp.onnx").is_file()


@pytest.fixture
def rules_put_back():
    """Rules that a page registers are gone after its test."""
    with temporary_rules():
        yield


@pytest.mark.usefixtures("rules_put_back")
def test_the_code_on_the_page_about_lowerings_prints_what_the_page_says():
    page = (ROOT / "docs" / "writing-a-lowering.md").read_text()
    assert architecture.with_outputs(page) == page


@pytest.mark.usefixtures("rules_put_back")
def test_the_code_on_the_page_for_authors_of_passes_prints_what_the_page_says():
    page = (ROOT / "docs" / "writing-a-pass.md").read_text()
    assert architecture.with_outputs(page) == page
    assert "%min = onnx.Clip(%concatenate, " in page
    assert "%concatenate = onnx.Concat(%x, %y, %z)" in page
