"""Control flow: scan, while and cond as ONNX Scan, Loop and If.

Constants of bodies become values captured from outside, and so does what a body hands on unchanged (`fixed`).

    lax.scan    body(carry…, x…) -> (carry…, y…)
    onnx.Scan   (carry…, xs…)            body(carry…, x…) -> (carry…, y…)
    onnx.Loop   (length, none, carry…)   body(step, go_on, carry…) -> (go_on, carry…, y…), with x = xs[step]

    lax.while   cond(state…) -> bool, body(state…) -> (state…)
    onnx.Loop   (none, cond(state…), state…)   body(step, go_on, state…) -> (cond(new state…), new state…)
    onnx.Loop   (rounds, none, state…)         body(step, go_on, state…) -> (go_on, new state…)
                                               where that is `while i < end: …; i += 1`

    lax.cond    (index, operands…), branches[i](operands…)
    onnx.If     (index < k), then: branches below k, else: the others; of more than two, a tree of these

A scan over arrays is a Scan, which reads and writes its slices in place. It cannot run zero times: so a scan
whose length may be 0 is a Loop, and so is one over nothing.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from j2o.errors import UnsupportedError
from j2o.ir import dims
from j2o.ir.copies import splice
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.types import Attr, Dim, DType, Type
from j2o.passes.lower.shape import rev
from j2o.passes.lower.table import Lowering, lower

Values: TypeAlias = Sequence[Value]
COUNTER, CONDITION = Type(DType.I64, ()), Type(DType.BOOL, ())


# ----------------------------------------------------------------------------------------------- regions


def capture(region: Graph, index: int, values: Values) -> None:
    """Let a region use `values` of the graph around it in place of its inputs from `index` on."""
    for value in values:
        region.inputs[index].replace_by(value)
        region.remove_input(index)


def add_loop_inputs(body: Graph) -> tuple[Value, Value]:
    """The two inputs that the body of a Loop has in front: the number of the round, and whether to go on."""
    old = len(body.inputs)
    step = body.add_input(COUNTER, "step")
    go_on = body.add_input(CONDITION, "go_on")
    body.inputs[:] = [step, go_on, *body.inputs[:old]]
    for i, value in enumerate(body.inputs):
        value.index = i
    return step, go_on


def inside(op: Lowering, region: Graph, before: Node | None) -> Lowering:
    """A builder like `op` that inserts into a region."""
    inner = copy.copy(op)
    inner.graph, inner.before, inner.made = region, before, []
    return inner


def capture_fixed(body: Graph, carry: Values, *others: Graph) -> list[int]:
    """Let a body, and other regions, capture what it hands on as it is.

    Returns the places of these among the carried values. The first inputs of all of them are the carried
    values, as are the first outputs of the body.
    """
    fixed = [i for i in range(len(carry)) if body.outputs[i] is body.inputs[i]]
    body.set_outputs([v for i, v in enumerate(body.outputs) if i not in fixed])
    for i in reversed(fixed):
        for region in (body, *others):
            capture(region, i, carry[i : i + 1])
    return fixed


def moving(carry: Values, fixed: Sequence[int]) -> list[Value]:
    """The carried values that a body changes."""
    return [v for i, v in enumerate(carry) if i not in fixed]


def finals(carry: Values, fixed: Sequence[int], moved: Iterable[Value]) -> list[Value]:
    """The carried values at the end: those in fixed places as they were, the others as they have become."""
    others = iter(moved)
    return [v if i in fixed else next(others) for i, v in enumerate(carry)]


# -------------------------------------------------------------------------------------------------- scan


class CapturedScan(NamedTuple):
    """A scan whose constants and fixed values are captured: `body(carry…, x…) -> (carry…, y…)`."""

    body: Graph
    carry: Values
    xs: Values
    types: Sequence[Type]  # of the final carries, then of the stacked ys
    length: Dim
    reverse: bool


@lower("scan")
def scan(
    op: Lowering,
    *operands: Value,
    length: Dim,
    num_consts: int = 0,
    num_carry: int = 0,
    reverse: bool = False,
    **_: object,
) -> Values:
    """`body(consts, carry, x) -> (carry, y)` over the leading axis of the xs.

    Returns the final carries, then the stacked ys.
    """
    body = op.source.graphs[0]
    consts, rest = operands[:num_consts], operands[num_consts:]
    carry, xs = rest[:num_carry], rest[num_carry:]
    capture(body, 0, consts)
    if type(length) is int and length <= 1:
        return _once(op, body, carry, xs) if length else _never(op, carry)
    fixed = capture_fixed(body, carry)
    moved = moving(carry, fixed)
    types = [*(v.type for v in moved), *op.out_types[num_carry:]]
    results = _run(op, CapturedScan(body, moved, xs, types, length, reverse))
    stacked = results[len(moved) :]
    return [*finals(carry, fixed, results[: len(moved)]), *stacked]


def _never(op: Lowering, carry: Values) -> Values:
    """No round: the carries as they are, and nothing stacked."""
    stacked = [op.full(t.shape, 0, t.dtype) for t in op.out_types[len(carry) :]]
    return [*carry, *stacked]


def _once(op: Lowering, body: Graph, carry: Values, xs: Values) -> Values:
    """One round needs no loop."""
    rows = [op.squeeze(x, [0]) for x in xs]
    results = splice(body, [*carry, *rows], op.source)
    stacked = [op.unsqueeze(y, [0]) for y in results[len(carry) :]]
    return [*results[: len(carry)], *stacked]


def _run(op: Lowering, scan: CapturedScan) -> Values:
    """A Scan where there certainly is a row to read, else a Loop."""
    if not scan.types:
        return []
    if scan.xs and dims.known_ge(scan.length, 1):
        return _as_scan(op, scan)
    return _as_loop(op, scan)


def _as_scan(op: Lowering, scan: CapturedScan) -> Values:
    """The operator Scan, which reads rows and stacks results by itself."""
    stacked = len(scan.types) - len(scan.carry)
    attrs: dict[str, Attr] = {"num_scan_inputs": len(scan.xs)}
    if scan.reverse:
        attrs["scan_input_directions"] = (1,) * len(scan.xs)
    if scan.reverse and stacked:
        attrs["scan_output_directions"] = (1,) * stacked
    operands = [*scan.carry, *scan.xs]
    return op.node("onnx.Scan", operands, attrs, scan.types, [scan.body]).outputs


def _as_loop(op: Lowering, scan: CapturedScan) -> Values:
    """The operator Loop, whose body looks its rows up by the number of the round."""
    body, count = scan.body, len(scan.carry)
    step, go_on = add_loop_inputs(body)
    if scan.xs:
        _gather_rows(op, scan, step)
    body.set_outputs([go_on, *body.outputs])
    operands = [op.dim(scan.length), None, *scan.carry]
    results = op.node("onnx.Loop", operands, {}, scan.types, [body]).outputs
    stacked = results[count:]
    if scan.reverse:
        stacked = [rev(op, y, dimensions=[0]) for y in stacked]
    return [*results[:count], *stacked]


def _gather_rows(op: Lowering, scan: CapturedScan, step: Value) -> None:
    """Let the body of a Loop read the rows that a Scan would hand to it."""
    inner = inside(op, scan.body, scan.body.start)
    row = step
    if scan.reverse:
        last = op.dim(dims.sub(scan.length, 1))
        row = inner.Sub(last, step)
    first = 2 + len(scan.carry)
    for x in scan.xs:
        capture(scan.body, first, [inner.Gather(x, row, axis=0)])


# ------------------------------------------------------------------------------------------------- while


@lower("while")
def while_(
    op: Lowering, *operands: Value, cond_nconsts: int, body_nconsts: int, **_: object
) -> Values:
    """`body` on the carried values as long as `cond` holds of them."""
    cond, body = op.source.graphs
    cond_consts, rest = operands[:cond_nconsts], operands[cond_nconsts:]
    body_consts, init = rest[:body_nconsts], rest[body_nconsts:]
    capture(cond, 0, cond_consts)
    capture(body, 0, body_consts)
    if cond.outputs[0].type.rank:
        _keep_finished_rows(op, cond, body)
        _hold_of_any(op, cond)
    fixed = capture_fixed(body, init, cond)
    moved = moving(init, fixed)
    results = _repeat(op, cond, body, moved) if moved else []
    return finals(init, fixed, results)


def _keep_finished_rows(op: Lowering, cond: Graph, body: Graph) -> None:
    """A predicate for each row: rows of which it does not hold stay as they are."""
    start = body.start
    assert start is not None
    (going,) = splice(cond.clone(), body.inputs, start)
    inner = inside(op, body, body.ret)
    outputs = []
    for old, new in zip(body.inputs, body.outputs, strict=True):
        if new is not old:
            ones = (1,) * (new.type.rank - going.type.rank)
            mask = inner.reshape(going, (*going.type.shape, *ones))
            new = inner.Where(mask, new, old)
        outputs.append(new)
    body.set_outputs(outputs)


def _hold_of_any(op: Lowering, cond: Graph) -> None:
    """A predicate for each row: go on while any holds."""
    cond.set_outputs([_any(inside(op, cond, cond.ret), cond.outputs[0])])


def _any(op: Lowering, flags: Value) -> Value:
    """One bool: is any of them True?"""
    flat = op.cast(op.reshape(flags, (dims.prod(flags.type.shape),)), DType.I32)
    return op.cast(op.ReduceMax(flat, np.array([0]), keepdims=0), DType.BOOL)


def _repeat(op: Lowering, cond: Graph, body: Graph, init: Values) -> Values:
    """A Loop of as many rounds as are known before, or one that asks the predicate after each round."""
    rounds = _rounds(op, cond, body, init)
    if rounds is not None:
        go_on = None
        _, still = add_loop_inputs(body)
    else:
        (go_on,) = splice(cond.clone(), init, op.source)
        add_loop_inputs(body)
        (still,) = splice(cond, body.outputs, body.ret)
    body.set_outputs([still, *body.outputs])
    types = [v.type for v in init]
    return op.node("onnx.Loop", [rounds, go_on, *init], {}, types, [body]).outputs


class Counted(NamedTuple):
    """The predicate `state[index] < end`, of an integer, with an end that does not change."""

    index: int
    end: Value


def _rounds(op: Lowering, cond: Graph, body: Graph, init: Values) -> Value | None:
    """How often `while i < end: …; i += 1` runs, where cond and body are that; None where they are not."""
    counted = _counted(cond)
    if counted is None or not _adds_one(body, counted.index):
        return None
    constant = counted.end.const
    last = counted.end if constant is None else op.const(constant)
    start = init[counted.index]
    count = op.Sub(op.cast(last, DType.I64), op.cast(start, DType.I64))
    return op.Max(count, 0)


def _counted(cond: Graph) -> Counted | None:
    """The counter of a condition `counter < end`, and the end; None of other conditions."""
    test = cond.outputs[0].node
    if test is None or test.op != "onnx.Less" or test.graph is not cond:
        return None
    counter, end = test.operands
    changes = end.graph is cond and end.const is None
    if counter not in cond.inputs or not counter.type.dtype.is_int or changes:
        return None
    return Counted(counter.index, end)


def _adds_one(body: Graph, index: int) -> bool:
    """Return True where a body only adds 1 to this carried value."""
    step = body.outputs[index].node
    if (
        step is None
        or step.op != "onnx.Add"
        or step.operand(0) is not body.inputs[index]
    ):
        return False
    one = step.operand(1)
    return one.type.rank == 0 and one.number == 1


# -------------------------------------------------------------------------------------------------- cond


@lower("cond")
def cond(op: Lowering, index: Value, *operands: Value, **_: object) -> Values:
    """The branch at `index`, which is clamped to the branches there are."""
    branches = op.source.graphs
    for branch in branches:
        capture(branch, 0, operands)
    if not op.out_types:
        return []
    if len(branches) == 1:
        return splice(branches[0], (), op.source)
    return _choose(op, index, branches, 0)


def _choose(
    op: Lowering, index: Value, branches: Sequence[Graph], first: int
) -> Values:
    """A balanced tree of Ifs; `branches[0]` is for the index `first`."""
    middle = len(branches) // 2
    low = _branch(op, index, branches[:middle], first)
    high = _branch(op, index, branches[middle:], first + middle)
    predicate = _predicate(index) if len(branches) == 2 and first == 0 else None
    if predicate is not None:
        return op.node("onnx.If", [predicate], {}, op.out_types, [high, low]).outputs
    is_low = op.Less(index, first + middle)
    return op.node("onnx.If", [is_low], {}, op.out_types, [low, high]).outputs


def _predicate(index: Value) -> Value | None:
    """The bool that an index of 0 or 1 was made from."""
    if index.type.dtype != DType.BOOL and index.op == "onnx.Cast":
        index = index.producer.operand(0)
    return index if index.type.dtype == DType.BOOL else None


def _branch(op: Lowering, index: Value, branches: Sequence[Graph], first: int) -> Graph:
    """One branch as it is; of several a region that chooses between them."""
    if len(branches) == 1:
        return branches[0]
    region = Graph("branches")
    region.set_outputs(_choose(inside(op, region, None), index, branches, first))
    return region


# ------------------------------------------------------------------------------------- errors and the host


@lower("check")
def check(
    op: Lowering,
    index: Value,
    *values: Value,
    raises: str,
    failing: Sequence[int] = (1,),
    branches: int = 2,
) -> Values:
    """The values as they are.

    With `checks=True` the model refuses an index (or a bool) that stands for an error. A check of nothing is
    one of all that the graph around it gives.
    """
    if not op.checks:
        op.notes.append(
            f"{raises!r}{_at(op)} is not checked; checks=True lets the model check it"
        )
        return values
    if values:
        fails = _fails(op, index, failing, branches)
        return _checked(op, fails, values, raises)
    op.before = op.graph.ret
    fails = _fails(op, index, failing, branches)
    op.graph.set_outputs(_checked(op, fails, op.graph.outputs, raises))
    return []


def _checked(op: Lowering, fails: Value, values: Values, words: str) -> Values:
    """Values behind a check that fails where `fails` is true."""
    types = [v.type for v in values]
    return op.node("check", [fails, *values], {"raises": words}, types).outputs


def _fails(op: Lowering, index: Value, failing: Sequence[int], branches: int) -> Value:
    """One bool: is an index, which is clamped to the branches there are, that of a failing one?

    Of many indices: is any?
    """
    found = index
    if index.type.dtype != DType.BOOL:
        clamped = op.Min(op.Max(index, 0), branches - 1)
        found = functools.reduce(op.Or, [op.Equal(clamped, i) for i in failing])
    return _any(op, found) if found.type.rank else found


def _at(op: Lowering) -> str:
    """Where an operation comes from, as messages end."""
    return f" at {op.loc}" if op.loc else ""


@lower("pure_callback", "io_callback")
def callback(
    op: Lowering, *_: Value, function: str, raises: str | None = None
) -> Values:
    """No graph has what Python computes while JAX runs: UnsupportedError."""
    raise UnsupportedError(
        [f"it calls the Python function {function!r}, and ONNX cannot call the host"]
    )


@lower("debug_callback")
def debug_callback(op: Lowering, *_: Value, function: str, raises: str) -> Values:
    """A function that raises whenever it is called, and gives nothing."""
    op.notes.append(
        f"{function}{_at(op)}, which raises {raises!r}, is left out: "
        "ONNX cannot call the host"
    )
    return []
