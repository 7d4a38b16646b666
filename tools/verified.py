"""Writes docs/supported.json: which primitives the passing cases of conformance suites have.

For each primitive it tells the dtypes, and whether a case has symbolic sizes.

    python -m tools.verified FOLDER prims_suite=RESULTS.jsonl poly_suite=RESULTS.jsonl

FOLDER holds the suites, RESULTS what they wrote with `--out`. A case is traced again; it counts for
every primitive in it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import jax

import j2o
from j2o.errors import J2OError
from j2o.ir import dims
from j2o.ir.graph import Graph, Node
from j2o.passes.pipeline import graph_pass

PATH = Path(__file__).parent.parent / "docs" / "supported.json"
# the operand whose dtype is the primitive's, where it is not the first
TELLING = {"select_n": 1}


class Seen(J2OError):
    """The case has been looked at; the rest of its compilation is of no interest."""


def dtype_of(node: Node) -> str:
    values = node.inputs[TELLING.get(node.kind, 0) :] or node.outputs
    return values[0].type.dtype.value if values and values[0] is not None else "none"


def has_symbolic_size(node: Node) -> bool:
    values = [v for v in (*node.inputs, *node.outputs) if v is not None]
    return any(dims.is_symbolic(d) for v in values for d in v.type.shape)


def look(case: Any, found: dict[str, set[str]], symbolic: set[str]) -> None:
    """Add what one case has."""

    @graph_pass("look", at="lax", level=0, scope="root")
    def record(graph: Graph) -> int:
        for each in (graph, *graph.functions.values()):
            for node in each.walk():
                if node.dialect == "lax":
                    found[node.kind].add(dtype_of(node))
                    if has_symbolic_size(node):
                        symbolic.add(node.kind)
        raise Seen

    def first(pipeline: Any) -> Any:
        return pipeline.before(pipeline.names()[0], record)

    with contextlib.suppress(Seen):
        j2o.compile(case.fn, case.specs, passes=first, **case.options)


def main(folder: str, *pairs: str) -> None:
    sys.path.insert(0, folder)
    found: dict[str, set[str]] = defaultdict(set)
    symbolic: set[str] = set()
    counts = {}
    for suite, path in (pair.split("=") for pair in pairs):
        rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
        passed = [r["case"] for r in rows if r["class"] == "pass"]
        counts[suite] = len(passed)
        module: Any = importlib.import_module(suite)
        module.names()
        for name in passed:
            jax.config.update("jax_enable_x64", False)
            case = module.load(name)
            jax.config.update("jax_enable_x64", case.x64)
            look(case, found, symbolic)
    lines = []
    for name, dtypes in sorted(found.items()):
        row = {"dtypes": sorted(dtypes), "symbolic": name in symbolic}
        lines.append(f"  {json.dumps(name)}: {json.dumps(row)}")
    rows = ",\n".join(lines)
    cases = json.dumps(counts)
    PATH.write_text(f'{{"cases": {cases}, "primitives": {{\n{rows}\n}}}}\n')


if __name__ == "__main__":
    main(*sys.argv[1:])
