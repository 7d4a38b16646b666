"""Passes and rules on text: `golden/*.j2o` hold a graph before and after the pass that their first line names.

What the pass gives must be the second graph but for names, and both must compute the same in onnxruntime. `--update`
writes what the passes give today.
"""

import difflib
from pathlib import Path

import pytest

import j2o
from j2o.backend.kernels import target
from j2o.check import NumericCheck
from j2o.frontend.retrace import Retracer
from j2o.ir.same import same
from j2o.ir.text import parse
from j2o.passes.pipeline import Context, PassPipeline, run

GOLDEN = Path(__file__).parent / "golden"
BETWEEN = "---\n"


def find(name):
    """A pass of the default pipeline, or a rule of one."""
    passes = list(j2o.default_pipeline(opt_level=3))
    rules = [rule for one in passes for rule in getattr(one, "rules", ())]
    return next(p for p in (*passes, *rules) if p.name == name)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.j2o")), ids=lambda p: p.stem)
def test_golden(path, request):
    before, _, after = path.read_text().partition(BETWEEN)
    graph = parse(before)
    retrace = Retracer()
    check = NumericCheck(graph, target(None), retrace)
    run(PassPipeline((find(before.partition("\n")[0].removeprefix("// ")),)), graph, Context(target(None), retrace, 3))
    graph.verify()
    check("the pass", graph)
    if request.config.getoption("--update"):
        path.write_text(before + BETWEEN + str(graph))
    elif difference := same(graph, parse(after)):
        lines = difflib.unified_diff(after.splitlines(), str(graph).splitlines(), "wanted", "given", lineterm="")
        pytest.fail(f"{difference}\n" + "\n".join(lines))
