"""`broadcasts`: elementwise operators broadcast by themselves, so Expands before them go.

    Add(Expand(x, [B, 4]), y)   becomes   Add(x, y)   where y: f32[B,4]
    Exp(Expand(x, [B, 4]))      becomes   Expand(Exp(x), [B, 4])

They do so too where leading axes of size 1 are missing or too many: what adds or takes off such axes goes.
An Expand that no other operand makes up for moves behind what is computed: that is done for fewer elements.
So do reductions and normalisations along axes that it leaves as they are: latents and learnt queries, the
same for a whole batch, are normalised once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.inference.table import broadcast_shape
from j2o.ir.ops import REDUCTIONS, RESHAPES, VIEWS
from j2o.ir.types import Attr, Shape, from_zero, is_one, same_dim, same_shape
from j2o.passes.context import Context
from j2o.passes.pipeline import graph_pass

BROADCASTING = frozenset(
    [
        # arithmetic
        "onnx.Add",
        "onnx.Div",
        "onnx.Max",
        "onnx.Min",
        "onnx.Mod",
        "onnx.Mul",
        "onnx.Pow",
        "onnx.Sub",
        # Booleans and bits
        "onnx.And",
        "onnx.BitwiseAnd",
        "onnx.BitwiseOr",
        "onnx.BitwiseXor",
        "onnx.Or",
        "onnx.Xor",
        # comparisons and selection
        "onnx.Equal",
        "onnx.Greater",
        "onnx.GreaterOrEqual",
        "onnx.Less",
        "onnx.LessOrEqual",
        "onnx.Where",
    ]
)


NORMS = frozenset(["onnx.LayerNormalization", "onnx.RMSNormalization"])
ALONG_AXES = REDUCTIONS | NORMS | {"onnx.LogSoftmax", "onnx.Softmax"}


@graph_pass("broadcasts", at="onnx", level=1)
def broadcasts(graph: Graph, context: Context) -> int:
    """Take Expands, and changes of leading axes of size 1, off the operands of what broadcasts by itself."""
    count = 0
    has_expands = bool(graph.ops["onnx.Expand"])  # none comes where there was none
    constants: set[Value] = set()
    for node in context.fresh(graph, broadcasts, 1):
        if not _takes_view(node):
            continue
        if node.op in BROADCASTING:
            for index, value in enumerate(node.inputs):
                if value is not None and value.op in VIEWS:
                    count += _unexpand(node, index)
        if has_expands:
            count += _move_expands(node, constants)
    return count


def _move_expands(node: Node, constants: set[Value]) -> int:
    """Take Expands off a MatMul, and expand what a node computes in place of its operands; returns how many.

    `constants` are what was made of constants alone, which `fold` computes.
    """
    count = 0
    if node.op == "onnx.MatMul":
        for index, value in enumerate(node.operands):
            if value.op == "onnx.Expand":
                count += _unexpand_matmul(node, index)
        return count + _multiply_first(node, constants)
    if node.spec.elementwise:
        return _compute_first(node, constants)
    if node.op in ALONG_AXES:
        return _compute_rows_first(node, constants)
    return 0


def _takes_view(node: Node) -> bool:
    """Return True where something may be taken off an operand: most nodes have nothing of the kind."""
    for value in node.inputs:  # a loop is faster than `any`
        maker = None if value is None else value.node
        if maker is not None and maker.op in VIEWS:
            return True
    return False


def _unexpand(node: Node, index: int) -> int:
    """Take from one operand of an elementwise operator what that does by itself; returns how many nodes."""
    others: list[Shape] = []
    for place, other in enumerate(node.inputs):
        if place != index and other is not None:
            others.append(other.type.shape)
    value = node.inputs[index]
    count = 0
    while value is not None:
        source = _before_broadcast(value)
        if source is None:
            break
        shape = broadcast_shape([source.type.shape, *others])
        if shape is None:
            break
        if value.op == "onnx.Expand" and _lacks_ones_alone(shape, node.out):
            node.set_input(index, _with_leading_ones(node, source))
            count += 1
            break
        if not same_shape(shape, node.out.type.shape):
            break
        node.set_input(index, source)
        value = source
        count += 1
    return count


def _lacks_ones_alone(shape: Shape, out: Value) -> bool:
    """Return True where leading axes of size 1 are all that a result would lose."""
    extra = out.type.rank - len(shape)
    return extra > 0 and same_shape((1,) * extra + shape, out.type.shape)


def _with_leading_ones(node: Node, source: Value) -> Value:
    """An operand with as many axes as the result has."""
    op = Builder(node.home, node, node.loc, source.hint)
    return op.unsqueeze(source, range(node.out.type.rank - source.type.rank))


def _before_broadcast(value: Value) -> Value | None:
    """What a value is an Expand of, or the same as but for leading axes of size 1; else None."""
    node = value.node
    if node is None or not node.inputs:
        return None
    if value.op == "onnx.Expand" or _changes_leading_ones(node):
        return node.inputs[0]
    return None


def _changes_leading_ones(node: Node) -> bool:
    """Return True for a node that adds leading axes of size 1, or takes them off, and does nothing else."""
    if node.op not in RESHAPES or node.inputs[0] is None:
        return False
    before, after = node.inputs[0].type.shape, node.out.type.shape
    short, long = sorted((before, after), key=len)
    extra = len(long) - len(short)
    if extra == 0 or not all(map(is_one, long[:extra])):
        return False
    return same_shape(long[extra:], short)


def _unexpand_matmul(node: Node, index: int) -> int:
    """Take an Expand of a stack of matrices from an operand of MatMul, which broadcasts stacks."""
    value, other = node.operand(index), node.operand(1 - index)
    if value.type.rank < 3:
        return 0
    source = value.producer.operand(0)
    is_matrix = source.type.rank >= 2
    if not is_matrix or source.type.shape[-2:] != value.type.shape[-2:]:
        return 0
    stacks = [source.type.shape[:-2], other.type.shape[:-2]]
    if broadcast_shape(stacks) != node.out.type.shape[:-2]:
        return 0
    node.set_input(index, source)
    return 1


# ------------------------------------------------------------ Expands behind what is computed


def _is_constant(value: Value, constants: set[Value]) -> bool:
    return value.const is not None or value in constants


def _computed(
    op: Builder,
    node: Node,
    inputs: Sequence[Value | None],
    attrs: Mapping[str, Attr],
    constants: set[Value],
) -> Value:
    """What a node computes of other operands."""
    out = op.node(node.op, inputs, attrs).out
    if all(_is_constant(value, constants) for value in inputs if value is not None):
        constants.add(out)
    return out


def _compute_first(node: Node, constants: set[Value]) -> int:
    """Expand the result of an elementwise operator in place of its operands; returns whether it did."""
    if not _has_expand_of_its_own(node) and not _is_of_constants(node, constants):
        return 0
    op = Builder(node.home, node, node.loc, node.out.hint)
    inputs = [None if value is None else _narrow(op, value) for value in node.inputs]
    shape = broadcast_shape([value.type.shape for value in inputs if value is not None])
    wide = node.out.type.shape
    if shape is None or same_shape(shape, wide):
        return 0
    narrow = _computed(op, node, inputs, node.attrs, constants)
    node.replace_by(op.expand(narrow, wide))
    return 1


def _has_expand_of_its_own(node: Node) -> bool:
    """Return True where an operand is an Expand, or its Unsqueeze, that nothing else uses."""
    for value in node.inputs:
        maker = None if value is None else value.node
        # most nodes end here, and a loop is faster than `any`
        if maker is None or maker.op not in VIEWS:
            continue
        expand = _expand_behind(maker.out)
        if expand is not None and _feeds_alone(expand, node):
            return True
    return False


def _is_of_constants(node: Node, constants: set[Value]) -> bool:
    """Return True where all operands are constants, or Expands of constants, which may have other uses."""
    for value in node.inputs:
        if value is None:
            continue
        expand = _expand_behind(value)
        source = value if expand is None else expand.operand(0)
        if not _is_constant(source, constants):
            return False
    return True


def _expand_behind(value: Value) -> Node | None:
    """The Expand that a value is the result of, but for axes of size 1 that were added."""
    if value.op == "onnx.Unsqueeze":
        value = value.producer.operand(0)
    return value.node if value.op == "onnx.Expand" else None


def _feeds_alone(expand: Node, node: Node) -> bool:
    """Return True where nothing but one node, by way of Unsqueezes, uses an Expand."""
    users: list[Node] = []
    for user in expand.out.users():
        users += user.out.users() if user.op == "onnx.Unsqueeze" else [user]
    return all(user is node for user in users)


def _narrow(op: Builder, value: Value) -> Value:
    """A value without the Expand that is behind it."""
    expand = _expand_behind(value)
    if expand is None:
        return value
    source = expand.operand(0)
    if expand.out is value:
        return source
    missing = expand.out.type.rank - source.type.rank
    inserted = value.producer.operand(1).known_ints
    if inserted is None:
        return value
    plain = op.unsqueeze(source, range(missing))
    return op.unsqueeze(plain, from_zero(inserted, value.type.rank))


def _compute_rows_first(node: Node, constants: set[Value]) -> int:
    """Expand what a node computes along axes that an Expand leaves as they are; returns whether it did."""
    wide, *others = node.inputs
    if wide is None or wide.op != "onnx.Expand" or len(node.outputs) != 1:
        return 0
    source = wide.producer.operand(0)
    if len(wide.uses) != 1 and not _is_constant(source, constants):
        return 0
    missing = wide.type.rank - source.type.rank
    axes = [axis - missing for axis in _axes_along(node)]
    if not axes or not all(_keeps_axis(source, wide, axis) for axis in axes):
        return 0
    op = Builder(node.home, node, node.loc, node.out.hint)
    attrs = dict(node.attrs)
    if node.op in REDUCTIONS:
        others = [op.dims(axes)]
    else:
        attrs["axis"] = axes[0]
    narrow = _computed(op, node, [source, *others], attrs, constants)
    node.replace_by(op.expand(narrow, node.out.type.shape))
    return 1


def _axes_along(node: Node) -> Sequence[int]:
    """The axes along which a node computes; none where that is not known, or they are all."""
    rank = node.operand(0).type.rank
    if node.op in REDUCTIONS:
        axes = node.optional(1)
        known = None if axes is None else axes.known_ints
        return from_zero(known or (), rank)
    first = node.int_attr("axis", -1) % rank
    return range(first, rank) if node.op in NORMS else [first]


def _keeps_axis(source: Value, wide: Value, axis: int) -> bool:
    """Return True where an Expand leaves an axis of its operand, counted from 0 there, as it is."""
    if axis < 0:
        return False
    missing = wide.type.rank - source.type.rank
    return same_dim(source.type.shape[axis], wide.type.shape[axis + missing])


def _multiply_first(node: Node, constants: set[Value]) -> int:
    """Expand a product with one matrix in place of the rows that are multiplied; returns whether it did."""
    rows, matrix = node.operands
    if rows.op != "onnx.Expand" or matrix.type.rank != 2:
        return 0
    source = rows.producer.operand(0)
    size = rows.type.shape[-1]
    op = Builder(node.home, node, node.loc, node.out.hint)
    if _is_constant(source, constants) and type(size) is int:
        row = broadcast_shape([source.type.shape, (1, size)])
        assert row is not None
        source = op.expand(source, row)
    if source.type.rank < 2 or not same_dim(source.type.shape[-1], size):
        return 0
    product = _computed(op, node, [source, matrix], {}, constants)
    node.replace_by(op.expand(product, node.out.type.shape))
    return 1
