"""Control flow: scan, while and cond as ONNX Scan, Loop and If.

Constants of bodies become values captured from outside, and so does what a body hands on unchanged. A scan over arrays
is a Scan, which reads and writes its slices in place; it cannot run zero times, so a length that may be 0, as well as a
scan over nothing, is a Loop.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from j2o.errors import UnsupportedError
from j2o.ir import dims
from j2o.ir.graph import Graph, Node, Value, splice
from j2o.ir.types import Dim, DType, Type
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


def add_first_inputs(
    region: Graph, types: Sequence[Type], hints: Sequence[str]
) -> list[Value]:
    """New inputs in front of those that a region has."""
    old = len(region.inputs)
    new = [region.add_input(t, h) for t, h in zip(types, hints, strict=True)]
    region.inputs[:] = [*new, *region.inputs[:old]]
    for i, value in enumerate(region.inputs):
        value.index = i
    return new


def inside(op: Lowering, region: Graph, before: Node | None) -> Lowering:
    """A builder like `op` that inserts into a region."""
    inner = copy.copy(op)
    inner.graph, inner.before, inner.made = region, before, []
    return inner


def capture_fixed(body: Graph, carry: Values, *others: Graph) -> list[int]:
    """Let a body, and other regions, capture what it hands on as it is; returns which of the carried values that are.

    The first inputs of all of them are the carried values, as are the first outputs of the body.
    """
    fixed = [i for i in range(len(carry)) if body.outputs[i] is body.inputs[i]]
    body.set_outputs([v for i, v in enumerate(body.outputs) if i not in fixed])
    for i in reversed(fixed):
        for region in (body, *others):
            capture(region, i, carry[i : i + 1])
    return fixed


# -------------------------------------------------------------------------------------------------- scan


@lower("scan")
def scan(
    op: Lowering, *operands: Value, length: Dim, num_consts: int = 0, num_carry: int = 0, reverse: bool = False, **_: object
) -> tuple[Value, ...]:  # fmt: skip
    """`body(consts, carry, x) -> (carry, y)` over the leading axis of the xs: final carries, then stacked ys."""
    body = op.source.graphs[0]
    carry, xs = (
        operands[num_consts : num_consts + num_carry],
        operands[num_consts + num_carry :],
    )
    capture(body, 0, operands[:num_consts])
    if type(length) is int and length <= 1:
        return _once(op, body, carry, xs) if length else _never(op, carry)
    fixed = capture_fixed(body, carry)
    moving = [v for i, v in enumerate(carry) if i not in fixed]
    types = [v.type for v in moving] + list(op.out_types[num_carry:])
    run = _scan if xs and dims.known_ge(length, 1) else _loop
    results = iter(run(op, body, moving, xs, types, length, reverse) if types else ())
    finals = [carry[i] if i in fixed else next(results) for i in range(num_carry)]
    return (*finals, *results)


def _never(op: Lowering, carry: Values) -> tuple[Value, ...]:
    return (*carry, *(op.full(t.shape, 0, t.dtype) for t in op.out_types[len(carry) :]))


def _once(op: Lowering, body: Graph, carry: Values, xs: Values) -> tuple[Value, ...]:
    """One round needs no loop."""
    assert op.before is not None
    rows = [op.squeeze(x, [0]) for x in xs]
    results = splice(body, [*carry, *rows], op.before)
    return (
        *results[: len(carry)],
        *(op.unsqueeze(y, [0]) for y in results[len(carry) :]),
    )


def _scan(
    op: Lowering,
    body: Graph,
    carry: Values,
    xs: Values,
    types: Sequence[Type],
    length: Dim,
    reverse: bool,
) -> Values:
    stacked = len(types) - len(carry)
    attrs: dict[str, object] = {"num_scan_inputs": len(xs)}
    if reverse:
        attrs["scan_input_directions"] = (1,) * len(xs)
        if stacked:
            attrs["scan_output_directions"] = (1,) * stacked
    return op.node("onnx.Scan", [*carry, *xs], attrs, types, [body]).outputs  # type: ignore[arg-type]


def _loop(
    op: Lowering,
    body: Graph,
    carry: Values,
    xs: Values,
    types: Sequence[Type],
    length: Dim,
    reverse: bool,
) -> Values:
    step, go_on = add_first_inputs(body, (COUNTER, CONDITION), ("step", "go_on"))
    inner = inside(op, body, body.start)
    if xs:
        row = inner.Sub(op.dim(dims.sub(length, 1)), step) if reverse else step
        for x in xs:
            capture(body, 2 + len(carry), [inner.Gather(x, row, axis=0)])
    body.set_outputs([go_on, *body.outputs])
    results = op.node(
        "onnx.Loop", [op.dim(length), None, *carry], {}, types, [body]
    ).outputs
    return [
        *results[: len(carry)],
        *(rev(op, y, dimensions=[0]) if reverse else y for y in results[len(carry) :]),
    ]


# ------------------------------------------------------------------------------------------------- while


@lower("while")
def while_(
    op: Lowering, *operands: Value, cond_nconsts: int, body_nconsts: int, **_: object
) -> tuple[Value, ...]:
    """`body` on the carried values as long as `cond` holds of them."""
    cond, body = op.source.graphs
    init = operands[cond_nconsts + body_nconsts :]
    capture(cond, 0, operands[:cond_nconsts])
    capture(body, 0, operands[cond_nconsts : cond_nconsts + body_nconsts])
    if cond.outputs[0].type.rank:
        _batched(op, cond, body)
    fixed = capture_fixed(body, init, cond)
    moving = [v for i, v in enumerate(init) if i not in fixed]
    results = iter(_while(op, cond, body, moving) if moving else ())
    return tuple(init[i] if i in fixed else next(results) for i in range(len(init)))


def _batched(op: Lowering, cond: Graph, body: Graph) -> None:
    """A predicate per row: go on while any holds; rows whose predicate does not hold stay as they are."""
    start = body.start
    assert start is not None
    (going,) = splice(cond.clone(), body.inputs, start)
    inner = inside(op, body, body.ret)

    def keep(old: Value, new: Value) -> Value:
        shape = (*going.type.shape, *(1 for _ in new.type.shape[going.type.rank :]))
        return inner.Where(inner.reshape(going, shape), new, old)

    body.set_outputs(
        [
            n if n is o else keep(o, n)
            for o, n in zip(body.inputs, body.outputs, strict=True)
        ]
    )
    outer = inside(op, cond, cond.ret)
    flat = outer.cast(
        outer.reshape(cond.outputs[0], (dims.prod(going.type.shape),)), DType.I32
    )
    cond.set_outputs(
        [outer.cast(outer.ReduceMax(flat, np.array([0]), keepdims=0), DType.BOOL)]
    )


def _while(op: Lowering, cond: Graph, body: Graph, init: Values) -> Values:
    assert op.before is not None
    rounds = _rounds(op, cond, body, init)
    go_on = None if rounds is not None else splice(cond.clone(), init, op.before)[0]
    _, still = add_first_inputs(body, (COUNTER, CONDITION), ("step", "go_on"))
    if rounds is None:
        (still,) = splice(cond, body.outputs, body.ret)
    body.set_outputs([still, *body.outputs])
    return op.node(
        "onnx.Loop", [rounds, go_on, *init], {}, [v.type for v in init], [body]
    ).outputs


def _rounds(op: Lowering, cond: Graph, body: Graph, init: Values) -> Value | None:
    """How often `while i < end: …; i += 1` runs, where cond and body are that; None where they are not."""
    test = cond.outputs[0].node
    if test is None or test.op != "onnx.Less" or test.graph is not cond:
        return None
    counter, end = test.inputs
    if counter is None or end is None:
        return None
    if (
        counter not in cond.inputs
        or not counter.type.dtype.is_int
        or (end.graph is cond and end.const is None)
    ):
        return None
    step = body.outputs[counter.index].node
    if (
        step is None
        or step.op != "onnx.Add"
        or step.inputs[0] is not body.inputs[counter.index]
    ):
        return None
    one = step.inputs[1]
    if one is None or one.const is None or one.const.shape or one.const.scalar != 1:
        return None
    last = op.const(end.const) if end.const is not None else end
    start = init[counter.index]
    count = op.Sub(op.cast(last, DType.I64), op.cast(start, DType.I64))
    return op.Max(count, 0)


# -------------------------------------------------------------------------------------------------- cond


@lower("cond")
def cond(
    op: Lowering, index: Value, *operands: Value, **_: object
) -> tuple[Value, ...]:
    """The branch at `index`, which is clamped to the branches there are."""
    branches = list(op.source.graphs)
    for branch in branches:
        capture(branch, 0, operands)
    if not op.out_types:
        return ()
    if len(branches) == 1:
        assert op.before is not None
        return splice(branches[0], (), op.before)
    return tuple(_choose(op, index, branches, 0))


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
    return op.node(
        "onnx.If", [op.Less(index, first + middle)], {}, op.out_types, [low, high]
    ).outputs


def _predicate(index: Value) -> Value | None:
    """The bool that an index of 0 or 1 was made from."""
    if index.type.dtype == DType.BOOL:
        return index
    source = (
        index.node.inputs[0]
        if index.node is not None and index.op == "onnx.Cast"
        else None
    )
    return source if source is not None and source.type.dtype == DType.BOOL else None


def _branch(op: Lowering, index: Value, branches: Sequence[Graph], first: int) -> Graph:
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
    """The values as they are. With `checks=True` the model refuses an index (or a bool) that stands for an error.

    A check of nothing is one of all that the graph around it gives.
    """
    if not op.checks:
        op.notes.append(
            f"{raises!r}{_at(op)} is not checked; checks=True lets the model check it"
        )
        return values
    if values:
        return _checked(op, _fails(op, index, failing, branches), values, raises)
    op.before = op.graph.ret
    op.graph.set_outputs(
        _checked(op, _fails(op, index, failing, branches), op.graph.outputs, raises)
    )
    return ()


def _checked(op: Lowering, fails: Value, values: Values, words: str) -> Values:
    types = [v.type for v in values]
    return op.node("check", [fails, *values], {"raises": words}, types).outputs


def _fails(op: Lowering, index: Value, failing: Sequence[int], branches: int) -> Value:
    """Whether an index, which is clamped to the branches there are, is that of a failing one; for many, whether any is."""
    if index.type.dtype == DType.BOOL:
        found = index
    else:
        clamped = op.Min(op.Max(index, 0), branches - 1)
        found = functools.reduce(op.Or, [op.Equal(clamped, i) for i in failing])
    if not found.type.rank:
        return found
    flat = op.cast(op.reshape(found, (dims.prod(found.type.shape),)), DType.I32)
    return op.cast(op.ReduceMax(flat, np.array([0]), keepdims=0), DType.BOOL)


def _at(op: Lowering) -> str:
    return f" at {op.loc}" if op.loc else ""


@lower("pure_callback", "io_callback")
def called(op: Lowering, *_: Value, function: str, raises: str | None = None) -> Values:
    """What Python computes while JAX runs is in no graph."""
    raise UnsupportedError(
        [f"it calls the Python function {function!r}, and ONNX cannot call the host"]
    )


@lower("debug_callback")
def always_raises(op: Lowering, *_: Value, function: str, raises: str) -> Values:
    """A function that raises whenever it is called, and gives nothing."""
    op.notes.append(
        f"{function}{_at(op)}, which raises {raises!r}, is left out: ONNX cannot call the host"
    )
    return ()
