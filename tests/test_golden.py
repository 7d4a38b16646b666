"""Passes and rules on text: `golden/*.j2o` hold cases, each a graph and what one pass or rule makes of it.

    === sub_zero                       the pass or rule
    graph …                            what it is given
    ---
    graph …                            what it makes of that, but for names and what nothing uses

    === sub_zero stays: 1 is not 0     a look-alike, and why the rule must leave it as it is
    graph …

Both graphs must compute the same in onnxruntime, at random values and at the edges of their dtypes
(but for zeros in `EITHER_ZERO`). Every pass and rule has cases of both kinds. `--update` writes
what passes give today.
"""

import dataclasses
import difflib
import math
import re
from pathlib import Path

import numpy as np
import pytest

import j2o
from j2o.backend.kernels import target
from j2o.frontend.retrace import Retracer
from j2o.ir.parser import parse
from j2o.ir.same import same
from j2o.numeric_check import NumericCheck
from j2o.passes.clean.dce import dce
from j2o.passes.context import Context
from j2o.passes.pipeline import PassPipeline
from j2o.passes.rewriting.rule import Rule
from j2o.passes.runner import run

GOLDEN = Path(__file__).parent / "golden"
BETWEEN = "---\n"
HEAD = re.compile(r"=== (?P<name>\w+)(?: stays: (?P<reason>.+))?\n")

# what these do comes from an argument of `compile`, not from a graph: tests/test_checks.py and
# tests/test_weights.py
OPTIONS = {"checks", "weights_dtype"}

# which of two zeros these give is left open (docs/semantics.md): onnxruntime's Max and Where lose
# the sign of some
EITHER_ZERO = {
    "add_zero",
    "celu",
    "choice_by_place",
    "elu_of_exp",
    "leaky_relu",
    "linear_resize",
    "relu",
    "selu",
    "where_not",
    "where_true",
}

# these make another choice near infinities (docs/semantics.md): they run at finite values alone
FINITE = {"linear_resize"}

# these fit wherever their operation stands: what they leave is another operation
UNCONDITIONAL = {"identity"}

FLOATS = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    math.inf,
    0.5,
    -math.inf,
    math.nan,
    -2.5,
    3.0,
    1e-3,
    240.0,
    -7.0,
]
INTEGERS = [1, 0, 2, 127, 3, 7, 100]


@dataclasses.dataclass
class Case:
    """One case of a file; `reason` is empty where the rule fires."""

    path: Path
    name: str
    reason: str
    before: str
    after: str  # empty where it must stay as it is
    text: str  # all of it as it stands in the file


def case_of(path, head, body):
    before, _, after = body.partition(BETWEEN)
    return Case(
        path,
        head["name"],
        head["reason"] or "",
        before.rstrip() + "\n",
        after,
        head[0] + body,
    )


def read(path):
    """The cases of a file, in order."""
    text = path.read_text()
    heads = list(HEAD.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    return [
        case_of(path, head, text[head.end() : end].rstrip() + "\n")
        for head, end in zip(heads, ends, strict=True)
    ]


CASES = [case for path in sorted(GOLDEN.glob("*.j2o")) for case in read(path)]


def all_passes():
    """The passes of all levels, and the rules of those that are sets of rules."""
    for level in range(4):
        for one in j2o.default_pipeline(opt_level=level):
            yield one
            yield from getattr(one, "rules", ())


PASSES = {one.name: one for one in all_passes()}
# a set of rules does what its rules do
NAMES = [
    name
    for name, one in PASSES.items()
    if not hasattr(one, "rules") and name not in OPTIONS
]


def test_names_of_passes_and_rules_are_unique():
    for one in all_passes():
        assert PASSES[one.name] is one, f"two passes or rules have the name {one.name}"


@pytest.mark.parametrize("name", NAMES)
def test_every_pass_and_rule_has_a_case_that_fires_and_a_look_alike(name):
    reasons = [case.reason for case in CASES if case.name == name]
    assert "" in reasons, f"no case of {name} in {GOLDEN} shows what it does"
    assert any(reasons), (
        f"no case '=== {name} stays: …' in {GOLDEN} shows what it must leave as it is"
    )


def _identifier(case):
    words = [case.path.stem, case.name]
    if case.reason:
        words.append(case.reason.replace(" ", "_"))
    return "-".join(words)


@pytest.mark.parametrize("case", CASES, ids=map(_identifier, CASES))
def test_golden(case, request):
    assert case.name in PASSES, f"no pipeline of j2o/passes/default.py has {case.name}"
    one = PASSES[case.name]
    before = parse(case.before)
    graph = parse(case.before)
    check = NumericCheck(before, target(None), Retracer())
    changes = apply(one, graph)
    check(f"the pass {case.name}", graph)
    computes_the_same_at_edges(case, check, before, graph)
    if case.reason:
        assert not changes, f"{case.name} must not fire: {case.reason}"
        assert looked_for(one) <= set(graph.ops), (
            "a look-alike has the operations that the rule looks for"
        )
    else:
        assert changes, f"{case.name} must fire"
    if request.config.getoption("--update") and not case.reason:
        write_after(case, graph)
    else:
        is_as_wanted(graph, case.after or case.before)


def apply(one, graph):
    """Run one pass over a graph, without what nothing uses afterwards; returns how much the pass changed."""
    context = Context(target(None), Retracer(), 3)
    records = run(PassPipeline((one,)), graph, context)
    without_dead_nodes(graph).verify()
    return sum(record.changes for record in records)


def without_dead_nodes(graph):
    run(PassPipeline((dce,)), graph, Context())
    return graph


def looked_for(one):
    """The operations without which a pass never fires, where they are known."""
    if isinstance(one, Rule) and one.name not in UNCONDITIONAL:
        return one.required
    return frozenset()


def write_after(case, graph):
    """Put what a pass gives today into the file of its case."""
    given, _, _ = case.text.partition(BETWEEN)
    new = given + BETWEEN + str(graph)
    case.path.write_text(case.path.read_text().replace(case.text, new))


def is_as_wanted(graph, text):
    """Fail, with both graphs, where they differ in more than names and what nothing uses."""
    difference = different(graph, without_dead_nodes(parse(text)))
    if difference is not None:
        pair = (text.splitlines(), str(graph).splitlines())
        lines = difflib.unified_diff(*pair, "wanted", "given", lineterm="")
        pytest.fail(f"{difference}\n" + "\n".join(lines))


def different(graph, wanted):
    """The first difference of two graphs and their functions, or None."""
    given = [graph, *graph.functions.values()]
    others = [wanted, *wanted.functions.values()]
    if len(given) != len(others):
        return "a function"
    differences = map(same, given, others)
    return next((found for found in differences if found is not None), None)


def computes_the_same_at_edges(case, check, before, after):
    """Both graphs give the same at the edges of their dtypes."""
    feeds = {name: edges(array) for name, array in check.feeds.items()}
    if case.name in FINITE:
        for name, array in feeds.items():
            feeds[name] = np.nan_to_num(array, posinf=9, neginf=-9)
    check.feeds = feeds
    want, *_ = check.evaluate(before)
    got, *_ = check.evaluate(after)
    compare(want, got, signs=case.name not in EITHER_ZERO)


def edges(array):
    """An array of that type, of values at the edges of its dtype; the rows have other orders."""
    if array.dtype.kind == "b":
        return np.resize([True, False, False], array.shape)
    values = INTEGERS if array.dtype.kind in "iu" else FLOATS
    return np.resize(np.asarray(values, np.float64), array.shape).astype(array.dtype)


def compare(want, got, signs):
    """Outputs may differ by rounding, and where `signs` is false in the signs of zeros."""
    for w, g in zip(want, got, strict=True):
        assert (w.dtype, w.shape) == (g.dtype, g.shape)
        if w.dtype.kind in "biu":
            np.testing.assert_array_equal(g, w)
            continue
        a, b = w.astype(np.float64), g.astype(np.float64)
        rounding = {2: 1e-2, 4: 1e-5}.get(w.dtype.itemsize, 1e-12)
        np.testing.assert_allclose(b, a, rtol=rounding, atol=rounding)
        if signs:
            zeros = (a == 0) & (b == 0)
            np.testing.assert_array_equal(np.signbit(b[zeros]), np.signbit(a[zeros]))
