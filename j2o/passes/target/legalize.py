"""`legalize`: every node gets operands of a dtype that the target runs, by Casts where it has others.

What the target runs, but not as ONNX has it, is written in another way before (`FAULTY`). A dtype that ONNX
does not have at the opset is refused.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence

from j2o.errors import UnsupportedError
from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.node import erase_dead
from j2o.ir.onnx_ops import constraint_of
from j2o.ir.target import Row, Target
from j2o.ir.types import OPSET_OF, DType, is_in_onnx
from j2o.ir.views import casted
from j2o.passes.context import Context
from j2o.passes.layout.perms import perm_of
from j2o.passes.pipeline import graph_pass
from j2o.passes.target.misfused import gate_apart, product_apart
from j2o.passes.target.nan_order import extreme_with_nan
from j2o.passes.target.scan_loops import scan_as_loop
from j2o.passes.target.tie_order import sorted_in_order

# what stands in for a dtype, nearest first: each holds all of its values
WIDER: dict[DType, tuple[DType, ...]] = {
    DType.BOOL: (DType.U8, DType.I32, DType.I64, DType.F32),
    # integers
    DType.I2: (DType.I8, DType.I16, DType.I32, DType.I64),
    DType.I4: (DType.I8, DType.I16, DType.I32, DType.I64),
    DType.I8: (DType.I16, DType.I32, DType.I64, DType.F32),
    DType.I16: (DType.I32, DType.I64, DType.F32),
    DType.I32: (DType.I64, DType.F64),
    DType.U2: (DType.U8, DType.I32, DType.I64),
    DType.U4: (DType.U8, DType.I32, DType.I64),
    DType.U8: (DType.I16, DType.I32, DType.U32, DType.I64, DType.F32),
    DType.U16: (DType.I32, DType.U32, DType.I64, DType.F32),
    DType.U32: (DType.I64, DType.U64),
    # floats
    DType.F16: (DType.F32, DType.F64),
    DType.BF16: (DType.F32, DType.F64),
    DType.F32: (DType.F64,),
    # floats of 4 and 8 bits
    DType.F4E2M1FN: (DType.F32,),
    DType.F8E3M4: (DType.F32,),
    DType.F8E4M3: (DType.F32,),
    DType.F8E4M3B11FNUZ: (DType.F32,),
    DType.F8E4M3FN: (DType.F32,),
    DType.F8E4M3FNUZ: (DType.F32,),
    DType.F8E5M2: (DType.F32,),
    DType.F8E5M2FNUZ: (DType.F32,),
    DType.F8E8M0FNU: (DType.F32,),
}
# same width, other sign: right where only the bits matter
SAME_BITS = {
    DType.I16: DType.U16,
    DType.I64: DType.U64,
    DType.U8: DType.I8,
    DType.U16: DType.I16,
    DType.U32: DType.I32,
    DType.U64: DType.I64,
}
# where only the bits of integers matter
BITWISE = frozenset(
    [
        # arithmetic modulo a power of two
        "Add",
        "CumSum",
        "MatMul",
        "Mul",
        "Neg",
        "ReduceProd",
        "ReduceSum",
        "Sub",
        # bits
        "BitwiseAnd",
        "BitwiseNot",
        "BitwiseOr",
        "BitwiseXor",
        "Equal",
        # what moves elements
        "Concat",
        "Expand",
        "Gather",
        "GatherElements",
        "GatherND",
        "Identity",
        "Pad",
        "Reshape",
        "ScatterElements",
        "ScatterND",
        "Slice",
        "Squeeze",
        "Tile",
        "Transpose",
        "Trilu",
        "Unsqueeze",
        "Where",
    ]
)


@graph_pass("legalize", at="target", level=0)
def legalize(graph: Graph, context: Context) -> int:
    """Insert the casts that make every node runnable; UnsupportedError lists the nodes that cannot be."""
    target = context.target
    if target is None:
        return 0
    _refuse_foreign_dtypes(graph, target)
    count, problems = 0, []
    for node in graph.nodes_of(*FAULTY):
        for mend in FAULTY[node.op]:
            count += mend(node, target)
    for node in graph:
        if not node.op.startswith("onnx.") or runs(node, target):
            continue
        if node.graphs:
            _widen_regions(graph, node, target)
            count += 1
            continue
        choice = _choose(node, target)
        if choice is None:
            problems.append(
                f"{node.described}: {target.name} has no such kernel at opset {target.opset}"
            )
            continue
        _tell(node, choice, context)
        _retype(graph, node, choice, target)
        count += 1
    if problems:
        raise UnsupportedError(problems)
    return count


def _refuse_foreign_dtypes(graph: Graph, target: Target) -> None:
    """Raise UnsupportedError with all values whose dtype ONNX lacks at the opset."""
    for node in graph.nodes_of("onnx.Cast"):
        _cast_constant(graph, node, target)
    problems = _foreign_dtypes(graph, target)
    if problems:
        raise UnsupportedError(problems)


def _cast_constant(graph: Graph, node: Node, target: Target) -> None:
    """Do the Cast of a constant of a dtype from which the target casts nothing."""
    source = node.operand(0)
    if source.const is None or _is_castable(source.type.dtype, target):
        return
    constant = casted(source.const, node.out.type.dtype)
    node.replace_by(Builder(graph, node).const(constant))


def _foreign_dtypes(graph: Graph, target: Target) -> list[str]:
    """A message for each input, node and output of a dtype that the model cannot have."""
    problems = []
    foreign = {dtype for dtype in OPSET_OF if not is_in_onnx(dtype, target.opset)}
    # the inputs of regions have no names: they come from other values
    for name, value in zip(graph.input_names, graph.inputs, strict=False):
        if value.type.dtype in foreign:
            problems.append(f"input {name!r}: {_lacking(value.type.dtype, target)}")
    for node in graph:
        lacking = [v.type.dtype for v in node.outputs if v.type.dtype in foreign]
        if lacking and (node.op != "const" or node.used):
            is_const = node.op == "const"
            what = f"constant {node.out.hint!r}" if is_const else node.described
            problems.append(f"{what}: {_lacking(lacking[0], target)}")
    for name, value in zip(graph.output_names, graph.outputs, strict=False):
        dtype = value.type.dtype
        if value.node is not None or dtype in foreign:
            continue
        if not _is_castable(dtype, target):
            copies_none = f"{target.name} cannot copy an input of {dtype.value}"
            problems.append(f"output {name!r}: {copies_none}")
    return problems


def _lacking(dtype: DType, target: Target) -> str:
    """That ONNX has no such dtype at the opset, in words."""
    since = OPSET_OF[dtype]
    if since is None:
        return f"ONNX has no {dtype.value}"
    return f"ONNX has {dtype.value} from opset {since} on, not at {target.opset}"


def _not_carried(node: Node, target: Target) -> set[DType]:
    """The dtypes that a node with regions takes, gives or hands on, and that the target has no kernel for."""
    values = [*node.operands, *node.outputs]
    for region in node.graphs:
        values += [*region.inputs, *region.outputs]
    conditions_and_counts = {DType.BOOL, DType.I64}
    return (
        {v.type.dtype for v in values}
        - target.dtypes(node.op, "V")
        - conditions_and_counts
    )


def _widen_regions(graph: Graph, node: Node, target: Target) -> None:
    """Let control flow carry wider dtypes for those that it has no kernel for, with casts at all ends."""
    wide: dict[DType, DType] = {}
    for dtype in _not_carried(node, target):
        options = [w for w in WIDER.get(dtype, ()) if w in target.dtypes(node.op, "V")]
        if not options or not _is_castable(dtype, target):
            lacks = f"{target.name} carries no {dtype.value} through {node.kind}"
            raise UnsupportedError([f"{node.described}: {lacks}"])
        wide[dtype] = options[0]
    for region in node.graphs:
        for value in region.inputs:
            _widen(value, wide, Builder(region, region.start))
        op = Builder(region, region.ret)
        region.set_outputs([_widened(op, v, wide) for v in region.outputs])
    op = Builder(graph, node, node.loc)
    node.set_inputs([v and _widened(op, v, wide) for v in node.inputs])
    for value in node.outputs:
        _widen(value, wide, Builder(graph, node.next, node.loc))


def _widened(op: Builder, value: Value, wide: dict[DType, DType]) -> Value:
    """A value in the dtype that stands in for its own."""
    dtype = value.type.dtype
    return op.cast(value, wide.get(dtype, dtype))


def _widen(value: Value, wide: dict[DType, DType], op: Builder) -> None:
    """Give a value the dtype that stands in for its own, and its users a cast of it."""
    narrow = value.type.dtype
    if narrow not in wide:
        return
    users = set(value.users())
    value.retype(value.type.with_dtype(wide[narrow]))
    value.replace_by(op.cast(value, narrow), where=users.__contains__)


def _one_over(node: Node, _: Target) -> bool:
    """1 / y of integers in another form, as onnxruntime makes `z / y` of `1 / y * z`."""
    one, y, dtype = node.operand(0), node.operand(1), node.out.type.dtype
    if not dtype.is_int or node.out.type != y.type:
        return False
    if one.number != 1:
        return False
    op = Builder(node.home, node, node.loc, node.out.hint)
    if dtype.is_signed:
        node.replace_by(op.Div(op.const(-1, dtype), op.Neg(y)))
    else:
        node.replace_by(op.cast(op.Equal(y, 1), dtype))
    return True


def _cast_in_front(node: Node, _: Target) -> bool:
    """`Cast(Transpose(x))` as an operand of a product is `Transpose(Cast(x))`.

    Onnxruntime ends the process where it fuses the product with a Transpose of a batch behind which a Cast
    stands.
    """
    found = False
    for index, value in enumerate(node.operands):
        cast = value.node
        if cast is None or cast.op != "onnx.Cast" or cast.graph is not node.graph:
            continue
        source = cast.operand(0)
        perm = perm_of(source.node)
        if perm is not None:
            op = Builder(node.home, node, cast.loc, value.hint)
            first = op.node("onnx.Cast", [source.producer.operand(0)], cast.attrs).out
            node.set_input(index, op.transpose(first, perm))
            erase_dead(cast)
            found = True
    return found


# operators that the target runs, but not as ONNX has them: (node, target) → True where it made others of them
FAULTY: dict[str, Sequence[Callable[[Node, Target], bool]]] = {
    "onnx.ReduceMax": [extreme_with_nan],
    "onnx.ReduceMin": [extreme_with_nan],
    "onnx.TopK": [sorted_in_order],
    "onnx.Scan": [scan_as_loop],
    "onnx.Div": [_one_over],
    "onnx.MatMul": [_cast_in_front, product_apart],
    "onnx.Mul": [gate_apart],
}


def _variables(node: Node, target: Target) -> dict[str, DType]:
    """The dtype of each type constraint of a node."""
    return _constrained(node.op, *_dtypes(node), target.opset)


def _dtypes(node: Node) -> tuple[tuple[DType | None, ...], tuple[DType, ...]]:
    """The dtypes of a node's operands, None for those left out, and of its results."""
    operands = [None if v is None else v.type.dtype for v in node.inputs]
    results = [value.type.dtype for value in node.outputs]
    return tuple(operands), tuple(results)


def _constrained(
    op: str, operands: Sequence[DType | None], results: Sequence[DType], opset: int
) -> dict[str, DType]:
    """The dtype of each type constraint of an operator of ONNX."""
    kind = op.removeprefix("onnx.")
    found: dict[str, DType] = {}
    for i, dtype in enumerate(operands):
        if dtype is not None:
            found.setdefault(constraint_of(kind, i, opset=opset), dtype)
    for i, dtype in enumerate(results):
        name = constraint_of(kind, i, output=True, opset=opset)
        found.setdefault(name, dtype)
    return found


def runs(node: Node, target: Target) -> bool:
    """Return True where the target runs a node as it stands."""
    if node.graphs and _rows(node.op, target):
        return not _not_carried(node, target)
    return _has_kernel(node.op, *_dtypes(node), target)


# most nodes are like others, in this graph and the next
@functools.lru_cache(maxsize=16384)  # targets are few and live long
def _has_kernel(
    op: str,
    operands: tuple[DType | None, ...],
    results: tuple[DType, ...],
    target: Target,
) -> bool:
    """Return True where the target runs an operator with these dtypes."""
    rows = _rows(op, target)
    if not rows:
        return target.has(op)
    variables = _constrained(op, operands, results, target.opset)
    return any(
        all(dtype in row[name] for name, dtype in variables.items() if name in row)
        for row in rows
    )


def _rows(op: str, target: Target) -> tuple[Row, ...]:
    """What the kernels of an operator take, and what it takes as a function that is written out."""
    return (*target.rows.get(op, ()), *target.inlined.get(op, ()))


def _is_castable(dtype: DType, target: Target) -> bool:
    """Return True where the target casts from a dtype."""
    return "onnx.Cast" not in target.rows or target.supports("onnx.Cast", dtype, "T1")


def _choose(node: Node, target: Target) -> dict[str, DType] | None:
    """The dtype for each constraint in the kernel that is nearest; None where none will do."""
    options: dict[str, list[DType]] = {}
    for name, dtype in _variables(node, target).items():
        options[name] = [dtype]
        if node.kind in BITWISE and dtype in SAME_BITS:
            options[name].append(SAME_BITS[dtype])
        if _is_castable(dtype, target):
            options[name] += WIDER.get(dtype, ())

    def distance(picks: dict[str, DType]) -> int:
        return sum(options[name].index(dtype) for name, dtype in picks.items())

    choices = (_picks(options, row) for row in _rows(node.op, target))
    fitting = [picks for picks in choices if picks is not None]
    return min(fitting, key=distance, default=None)


def _picks(
    options: Mapping[str, list[DType]], row: Mapping[str, Collection[DType]]
) -> dict[str, DType] | None:
    """The first option of each constraint that a kernel takes; None where it takes none of one."""
    picks: dict[str, DType] = {}
    for name, dtypes in options.items():
        taken = row.get(name, dtypes)
        pick = next((dtype for dtype in dtypes if dtype in taken), None)
        if pick is None:
            return None
        picks[name] = pick
    return picks


def _tell(node: Node, chosen: Mapping[str, DType], context: Context) -> None:
    """Count, for the report, what runs in another dtype than the program has."""
    assert context.target is not None
    for name, dtype in _variables(node, context.target).items():
        if chosen[name] is not dtype:
            told = f"{node.kind} of {dtype.value} in {chosen[name].value}"
            context.widened[told] = context.widened.get(told, 0) + 1
            return


def _retype(graph: Graph, node: Node, chosen: dict[str, DType], target: Target) -> None:
    """Cast operands to the chosen dtypes, and results back."""
    op = Builder(graph, node, node.loc, node.outputs[0].hint)
    inputs: list[Value | None] = []
    for i, value in enumerate(node.inputs):
        if value is not None:
            name = constraint_of(node.kind, i, opset=target.opset)
            value = op.cast(value, chosen.get(name, value.type.dtype))
        inputs.append(value)
    types = []
    for i, value in enumerate(node.outputs):
        name = constraint_of(node.kind, i, output=True, opset=target.opset)
        want = chosen.get(name, value.type.dtype)
        types.append(value.type.with_dtype(want))
    new = op.node(node.op, inputs, node.attrs, types, node.graphs)
    pairs = zip(new.outputs, node.outputs, strict=True)
    node.replace_by(*[op.cast(value, old.type.dtype) for value, old in pairs])
