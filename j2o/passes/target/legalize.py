"""Kernels: every node gets operands of a dtype that the target runs, by Cast pairs where it does not run it as it stands."""

from __future__ import annotations

import math
from collections.abc import Callable

from j2o.errors import UnsupportedError
from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.onnx_ops import constraint_of
from j2o.ir.target import Target
from j2o.ir.types import OPSET_OF, DType, Type, is_in_onnx
from j2o.ir.views import casted
from j2o.passes.context import Context
from j2o.passes.pipeline import graph_pass

# what stands in for a dtype, nearest first: each holds all of its values
WIDER: dict[DType, tuple[DType, ...]] = {
    DType(k): tuple(map(DType, v.split()))
    for k, v in {
        "f16": "f32 f64", "bf16": "f32 f64", "f32": "f64", "bool": "u8 i32 i64 f32",
        "i2": "i8 i16 i32 i64", "i4": "i8 i16 i32 i64", "i8": "i16 i32 i64 f32", "i16": "i32 i64 f32", "i32": "i64 f64",
        "u2": "u8 i32 i64", "u4": "u8 i32 i64", "u8": "i16 i32 u32 i64 f32", "u16": "i32 u32 i64 f32", "u32": "i64 u64",
        "f8e4m3fn": "f32", "f8e5m2": "f32", "f8e4m3fnuz": "f32", "f8e5m2fnuz": "f32", "f8e8m0fnu": "f32", "f4e2m1fn": "f32",
        "f8e4m3b11fnuz": "f32", "f8e4m3": "f32", "f8e3m4": "f32",
    }.items()
}  # fmt: skip
# same width, other sign: right where only the bits matter
SAME_BITS = {
    DType(a): DType(b)
    for a, b in zip(
        "u64 i64 u32 u16 i16 u8".split(), "i64 u64 i32 i16 u16 i8".split(), strict=True
    )
}
BITWISE = frozenset(
    "Add Sub Mul Where Expand Pad Concat Reshape Transpose Slice Gather GatherND GatherElements ScatterND "
    "ScatterElements Tile Equal BitwiseAnd BitwiseOr BitwiseXor BitwiseNot ReduceSum ReduceProd CumSum "
    "MatMul Trilu Unsqueeze Squeeze Identity Neg".split()
)


@graph_pass("legalize", at="target", level=0)
def legalize(graph: Graph, context: Context) -> int:
    """Insert the casts that make every node runnable; UnsupportedError lists the nodes that cannot be."""
    target = context.target
    if target is None:
        return 0
    _refuse_foreign_dtypes(graph, target)
    count, problems = 0, []
    for node in [n for n in graph if n.op in FAULTY]:
        count += FAULTY[node.op](graph, node)
    for node in graph:
        if not node.op.startswith("onnx.") or _runs(node, target):
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
        _retype(graph, node, choice, target)
        count += 1
    if problems:
        raise UnsupportedError(problems)
    return count


def _refuse_foreign_dtypes(graph: Graph, target: Target) -> None:
    """UnsupportedError lists what has a dtype that ONNX lacks at the target's opset; casts of constants are done beforehand."""
    for node in graph:
        if node.op == "onnx.Cast" and not _is_castable(
            node.operand(0).type.dtype, target
        ):
            constant = node.operand(0).const
            if constant is not None:
                node.replace_by(
                    Builder(graph, node).const(casted(constant, node.out.type.dtype))
                )
    problems = []
    for name, value in zip(
        graph.input_names, graph.inputs, strict=False
    ):  # those of regions come from other values
        if _is_foreign(value, target):
            problems.append(f"input {name!r}: {_lacking(value.type.dtype, target)}")
    for node in graph:
        foreign = [v.type.dtype for v in node.outputs if _is_foreign(v, target)]
        if foreign and (node.op != "const" or node.used):
            what = (
                f"constant {node.out.hint!r}" if node.op == "const" else node.described
            )
            problems.append(f"{what}: {_lacking(foreign[0], target)}")
    for name, value in zip(graph.output_names, graph.outputs, strict=False):
        if (
            value.node is None
            and not _is_foreign(value, target)
            and not _is_castable(value.type.dtype, target)
        ):
            problems.append(
                f"output {name!r}: {target.name} cannot copy an input of {value.type.dtype.value}"
            )
    if problems:
        raise UnsupportedError(problems)


def _is_foreign(value: Value, target: Target) -> bool:
    return value.type.dtype in OPSET_OF and not is_in_onnx(
        value.type.dtype, target.opset
    )


def _lacking(dtype: DType, target: Target) -> str:
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
    """Let control flow carry wider dtypes in the place of those that it has no kernel for, with casts at all ends."""
    wide: dict[DType, DType] = {}
    for dtype in _not_carried(node, target):
        options = [w for w in WIDER.get(dtype, ()) if w in target.dtypes(node.op, "V")]
        if not options or not _is_castable(dtype, target):
            raise UnsupportedError(
                [
                    f"{node.described}: {target.name} carries no {dtype.value} through {node.kind}"
                ]
            )
        wide[dtype] = options[0]
    for region in node.graphs:
        for value in region.inputs:
            _widen(value, wide, Builder(region, region.start))
        op = Builder(region, region.ret)
        region.set_outputs(
            [op.cast(v, wide.get(v.type.dtype, v.type.dtype)) for v in region.outputs]
        )
    op = Builder(graph, node, node.loc)
    node.set_inputs(
        [v and op.cast(v, wide.get(v.type.dtype, v.type.dtype)) for v in node.inputs]
    )
    for value in node.outputs:
        _widen(value, wide, Builder(graph, node.next, node.loc))


def _widen(value: Value, wide: dict[DType, DType], op: Builder) -> None:
    """Give a value the dtype that stands in for its own, and its users a cast of it."""
    narrow = value.type.dtype
    if narrow not in wide:
        return
    users = set(value.users())
    value.retype(value.type.with_dtype(wide[narrow]))
    value.replace_by(op.cast(value, narrow), where=users.__contains__)


def _with_nans(graph: Graph, node: Node) -> bool:
    """Make the greatest or least of a row with a NaN NaN: onnxruntime overlooks all but those that come first."""
    if not node.out.type.dtype.is_float:
        return False
    op = Builder(graph, node, node.loc, node.out.hint)
    x, *axes = node.inputs
    found = op.ReduceSum(op.cast(op.IsNaN(x), DType.F32), *axes, **node.attrs)
    extreme = op.node(node.op, node.inputs, node.attrs).out
    node.replace_by(
        op.Where(
            op.cast(found, DType.BOOL), op.const(math.nan, extreme.type.dtype), extreme
        )
    )
    return True


def _one_over(graph: Graph, node: Node) -> bool:
    """1 / y of integers in another form, as onnxruntime makes `z / y` of `1 / y * z`."""
    one, y = node.inputs
    if (
        one is None
        or y is None
        or not node.out.type.dtype.is_int
        or node.out.type != y.type
    ):
        return False
    if one.const is None or one.type.size != 1 or one.const.load().item() != 1:
        return False
    op, dtype = Builder(graph, node, node.loc, node.out.hint), node.out.type.dtype
    node.replace_by(
        op.Div(op.const(-1, dtype), op.Neg(y))
        if dtype.is_signed
        else op.cast(op.Equal(y, 1), dtype)
    )
    return True


# operators that the target runs, but not as ONNX has them: (graph, node) → whether it made the same of other nodes
FAULTY: dict[str, Callable[[Graph, Node], bool]] = {
    "onnx.ReduceMax": _with_nans,
    "onnx.ReduceMin": _with_nans,
    "onnx.Div": _one_over,
}


def _variables(node: Node, target: Target) -> dict[str, DType]:
    """The dtype of each type constraint of a node."""
    found: dict[str, DType] = {}
    for i, value in enumerate(node.inputs):
        if value is not None:
            found.setdefault(
                constraint_of(node.kind, i, opset=target.opset), value.type.dtype
            )
    for i, value in enumerate(node.outputs):
        found.setdefault(
            constraint_of(node.kind, i, output=True, opset=target.opset),
            value.type.dtype,
        )
    return found


def _runs(node: Node, target: Target) -> bool:
    rows = target.rows.get(node.op)
    if rows is None:
        return True  # a function that the runtime inlines
    if node.graphs:
        return not _not_carried(node, target)
    variables = _variables(node, target)
    return any(
        all(dtype in row[name] for name, dtype in variables.items() if name in row)
        for row in rows
    )


def _is_castable(dtype: DType, target: Target) -> bool:
    return "onnx.Cast" not in target.rows or target.supports("onnx.Cast", dtype, "T1")


def _choose(node: Node, target: Target) -> dict[str, DType] | None:
    """The dtype for each constraint in the kernel that is nearest; None where none will do."""
    options: dict[str, list[DType]] = {}
    for name, dtype in _variables(node, target).items():
        same_bits = (
            [SAME_BITS[dtype]] if node.kind in BITWISE and dtype in SAME_BITS else []
        )
        wider = WIDER.get(dtype, ()) if _is_castable(dtype, target) else ()
        options[name] = [dtype, *same_bits, *wider]
    choices: list[dict[str, DType]] = []
    for row in target.rows[node.op]:
        picks = {name: next((d for d in row_options if d in row.get(name, row_options)), None)
                 for name, row_options in options.items()}  # fmt: skip
        if None not in picks.values():
            choices.append(picks)  # type: ignore[arg-type]
    return min(
        choices,
        key=lambda picks: sum(options[n].index(d) for n, d in picks.items()),
        default=None,
    )


def _retype(graph: Graph, node: Node, chosen: dict[str, DType], target: Target) -> None:
    """Cast operands to the chosen dtypes, and results back."""
    op = Builder(graph, node, node.loc, node.outputs[0].hint)
    inputs: list[Value | None] = []
    for i, value in enumerate(node.inputs):
        want = (
            chosen.get(constraint_of(node.kind, i, opset=target.opset))
            if value is not None
            else None
        )
        inputs.append(value if value is None or want is None else op.cast(value, want))
    types = []
    for i, value in enumerate(node.outputs):
        want = chosen.get(
            constraint_of(node.kind, i, output=True, opset=target.opset),
            value.type.dtype,
        )
        types.append(Type(want, value.type.shape))
    new = op.node(node.op, inputs, node.attrs, types, node.graphs)
    node.replace_by(
        *[
            op.cast(v, old.type.dtype)
            for v, old in zip(new.outputs, node.outputs, strict=True)
        ]
    )
