"""Type inference of `onnx.*`: one small function an operator family, exact with symbolic dimensions.

An inference reads operand types, attributes and known shape vectors, and returns the types of the results.
`UnknownTypesError` names the operator, the types of its operands and the reason where these do not tell it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

from j2o.ir import dims
from j2o.ir.dims_agree import agree
from j2o.ir.graph import Node, Value
from j2o.ir.ops import UnknownTypesError
from j2o.ir.tensor import Tensor
from j2o.ir.types import Dim, DType, Shape, Type, is_one, same_dim, same_shape

Inference: TypeAlias = Callable[[Node], "Type | tuple[Type, ...]"]
F = TypeVar("F", bound=Inference)
INFERENCES: dict[str, Inference] = {}
CONTRIB_INFERENCES: dict[str, Inference] = {}  # of onnxruntime's own operators
END = 2**62  # ends beyond this mean the end of the axis


def infers(*kinds: str, table: dict[str, Inference] = INFERENCES) -> Callable[[F], F]:
    """A decorator: registers the inference of one or several operators.

    An inference returns the type of the only result, or a tuple of types.
    """

    def register(fn: F) -> F:
        table.update(dict.fromkeys(kinds, fn))
        return fn

    return register


# ------------------------------------- operands and attributes, as inferences read them


def fail(node: Node, why: str) -> UnknownTypesError:
    """The error that an inference raises: operator, types of the operands, attributes, and the reason."""
    operands = ", ".join("_" if v is None else str(v.type) for v in node.inputs)
    attrs = ", ".join(f"{k}={v!r}" for k, v in node.attrs.items())
    return UnknownTypesError(f"{node.op}({operands}){{{attrs}}}: {why}")


def _operand(node: Node, index: int) -> Value:
    """An operand; TypeError where it is left out."""
    value = node.optional(index)
    if value is None:
        raise fail(node, f"operand {index} is missing")
    return value


def _type(node: Node, index: int) -> Type:
    return _operand(node, index).type


def _types(node: Node) -> list[Type]:
    """The types of all operands, none of which may be left out."""
    return [_type(node, index) for index in range(len(node.inputs))]


def _known(
    node: Node, index: int, default: Sequence[Dim] | None = None
) -> Sequence[Dim]:
    """The entries of a shape vector; `default` where the operand is left out."""
    if default is not None and node.optional(index) is None:
        return default
    known = _operand(node, index).known
    if known is None:
        why = f"operand {index} is not a known shape vector"
        raise fail(node, f"{why}: give the types of the outputs")
    return known


def _axis(node: Node, rank: int, default: int | None = None) -> int:
    """The attribute `axis`, counted from the front; TypeError where the operand has no such axis."""
    axis = node.attrs.get("axis", default)
    if type(axis) is not int or not -rank <= axis < max(rank, 1):
        raise fail(node, f"axis {axis} of rank {rank}")
    return axis % rank if rank else 0


def _axes(
    node: Node, index: int, rank: int, default: Sequence[Dim] | None = None
) -> list[int]:
    """The axes that an operand lists, counted from the front."""
    return [int(axis) % max(rank, 1) for axis in _known(node, index, default)]


def _dtype(node: Node, name: str, default: DType | None = None) -> DType:
    dtype = node.attrs.get(name, default)
    if not isinstance(dtype, DType):
        raise fail(node, f"attribute {name} must be a DType")
    return dtype


def _put(shape: Shape, axis: int, *sizes: Dim) -> Shape:
    """The shape with other sizes in the place of one axis."""
    return (*shape[:axis], *sizes, *shape[axis + 1 :])


# ------------------------------------------------------------------------- broadcasting


def broadcast(node: Node, shapes: Sequence[Shape]) -> Shape:
    """numpy's broadcasting; two sizes go together when they are equal or one is 1."""
    shape = broadcast_shape(shapes)
    if shape is None:
        raise fail(node, f"shapes {' and '.join(map(str, shapes))} do not go together")
    return shape


def broadcast_shape(shapes: Sequence[Shape]) -> Shape | None:
    """The shape that these broadcast to; None where they do not, or that is not certain."""
    first = shapes[0]
    if all(same_shape(s, first) for s in shapes):
        return first
    rank = max(map(len, shapes))
    out: list[Dim] = []
    for axis in range(-rank, 0):  # from the end, where shorter shapes end too
        here = [shape[axis] for shape in shapes if len(shape) >= -axis]
        wide = [size for size in here if not is_one(size)]
        if any(not same_dim(size, wide[0]) for size in wide[1:]):
            return None
        out.append(wide[0] if wide else 1)
    return tuple(out)


# -------------------------------------------------------------------------- elementwise


ONE_OPERAND = (  # functions of each element, whose type stays
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BitwiseNot",
    "Ceil",
    "Celu",
    "Clip",
    "Cos",
    "Cosh",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "Log",
    "Mish",
    "Neg",
    "Not",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
)
SAME_TYPE = (  # other operators whose result has the type of their first operand
    # along axes, where every size stays
    "CumProd",
    "CumSum",
    "Hardmax",
    "LogSoftmax",
    "LpNormalization",
    "ReverseSequence",
    "RotaryEmbedding",
    "Softmax",
    "Trilu",
    # normalisations
    "BatchNormalization",
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "MeanVarianceNormalization",
    "RMSNormalization",
    # writes into the first operand
    "ScatterElements",
    "ScatterND",
    "TensorScatter",
)


@infers(*ONE_OPERAND, *SAME_TYPE)
def same_as_first(node: Node) -> Type:
    return _type(node, 0)


ARITHMETIC = (  # of operands that are broadcast
    "Add",
    "And",
    "BitShift",
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
    "Div",
    "Max",
    "Mean",
    "Min",
    "Mod",
    "Mul",
    "Or",
    "PRelu",
    "Pow",
    "Sub",
    "Sum",
    "Xor",
)


@infers(*ARITHMETIC)
def arithmetic(node: Node) -> Type:
    first = _type(node, 0)
    if len(node.inputs) == 2:  # most are of one type, or with a scalar
        second = _type(node, 1)
        if first == second or (second.dtype == first.dtype and not second.shape):
            return first
    types = _types(node)
    if node.kind != "Pow" and any(t.dtype != first.dtype for t in types):
        raise fail(node, "operands of different dtypes")
    return Type(first.dtype, broadcast(node, [t.shape for t in types]))


COMPARISONS = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")


@infers(*COMPARISONS)
def comparison(node: Node) -> Type:
    a = _type(node, 0)
    b = _type(node, 1)
    if a.dtype != b.dtype:
        raise fail(node, "operands of different dtypes")
    return Type(DType.BOOL, broadcast(node, [a.shape, b.shape]))


@infers("Where")
def where(node: Node) -> Type:
    condition = _type(node, 0)
    a = _type(node, 1)
    b = _type(node, 2)
    if a.dtype != b.dtype or condition.dtype != DType.BOOL:
        raise fail(node, "the condition must be bool and the operands of one dtype")
    return Type(a.dtype, broadcast(node, [condition.shape, a.shape, b.shape]))


# ------------------------------------------------------------------------- other dtypes


@infers("Cast")
def cast(node: Node) -> Type:
    return _type(node, 0).with_dtype(_dtype(node, "to"))


@infers("CastLike")
def cast_like(node: Node) -> Type:
    return _type(node, 0).with_dtype(_type(node, 1).dtype)


@infers("BitCast")
def bitcast(node: Node) -> Type:
    to = _dtype(node, "to")
    x = _type(node, 0)
    if to.bits != x.dtype.bits:
        raise fail(node, "the widths must be equal")
    return Type(to, x.shape)


@infers("EyeLike")
def eye_like(node: Node) -> Type:
    x = _type(node, 0)
    return x.with_dtype(_dtype(node, "dtype", x.dtype))


@infers("IsInf", "IsNaN")
def predicate(node: Node) -> Type:
    return _type(node, 0).with_dtype(DType.BOOL)


@infers("QuantizeLinear")
def quantize(node: Node) -> Type:
    """The dtype is that of the zero point."""
    zero_point = node.optional(2)
    dtype = DType.U8 if zero_point is None else zero_point.type.dtype
    return _type(node, 0).with_dtype(dtype)


@infers("DequantizeLinear")
def dequantize(node: Node) -> Type:
    """The dtype is that of the scale."""
    return _type(node, 0).with_dtype(_type(node, 1).dtype)


@infers("Dropout")
def dropout(node: Node) -> tuple[Type, ...]:
    """The values, and the mask of those that were kept."""
    x = _type(node, 0)
    return x, x.with_dtype(DType.BOOL)


# ------------------------------------------------------------------------------- shapes


@infers("Shape")
def shape_of(node: Node) -> Type:
    rank = _type(node, 0).rank
    start = node.int_attr("start", 0)
    end = node.int_attr("end", rank)
    return Type(DType.I64, (len(range(rank)[start:end]),))


@infers("Size")
def number_of_elements(node: Node) -> Type:
    return Type(DType.I64, ())


@infers("ConstantOfShape")
def constant_of_shape(node: Node) -> Type:
    value = node.attrs.get("value")
    dtype = value.dtype if isinstance(value, Tensor) else DType.F32
    return Type(dtype, tuple(_known(node, 0)))


@infers("Reshape")
def reshape(node: Node) -> Type:
    x = _type(node, 0)
    wanted = list(_known(node, 1))
    if not node.attrs.get("allowzero"):
        wanted = [_or_as_it_was(x, axis, size) for axis, size in enumerate(wanted)]
    open_axes = [axis for axis, size in enumerate(wanted) if _is(size, -1)]
    if open_axes:
        axis = open_axes[0]
        others = wanted[:axis] + wanted[axis + 1 :]
        wanted[axis] = _rest(node, x.size, others)
    elif not _same_size(dims.prod(wanted), x.size):
        raise fail(node, f"{x.size} elements in the shape {wanted}")
    return x.with_shape(tuple(wanted))


def _is(size: Dim, number: int) -> bool:
    """Return True where a size is that number, and no expression."""
    return type(size) is int and size == number


def _or_as_it_was(x: Type, axis: int, size: Dim) -> Dim:
    """The size that a Reshape asks for; 0 stands for that of the operand."""
    return x.shape[axis] if _is(size, 0) else size


def _rest(node: Node, size: Dim, others: Sequence[Dim]) -> Dim:
    """The size that -1 stands for in a Reshape of `size` elements, beside the other axes."""
    others_size = dims.prod(others)
    quotient = dims.divides(others_size, size)
    if quotient is None:
        why = f"{size} elements are not known to be a multiple of {others_size}"
        raise fail(node, why)
    return quotient


def _same_size(a: Dim, b: Dim) -> bool:
    """Return True where two numbers of elements are equal, or agree at all of many sizes."""
    return same_dim(a, b) or agree(a, b, divisible=True)


@infers("Flatten")
def flatten(node: Node) -> Type:
    """A matrix: the axes in front of `axis`, and the others."""
    x = _type(node, 0)
    axis = node.int_attr("axis", 1)
    rows = dims.prod(x.shape[:axis])
    columns = dims.prod(x.shape[axis:])
    return x.with_shape((rows, columns))


@infers("Unsqueeze")
def unsqueeze(node: Node) -> Type:
    x = _type(node, 0)
    axes = [int(axis) for axis in _known(node, 1)]
    rank = x.rank + len(axes)
    added = {axis % rank for axis in axes}
    rest = iter(x.shape)
    return x.with_shape(tuple(1 if i in added else next(rest) for i in range(rank)))


@infers("Squeeze")
def squeeze(node: Node) -> Type:
    x = _type(node, 0)
    ones = [i for i, d in enumerate(x.shape) if is_one(d)]
    axes = set(_axes(node, 1, x.rank, ones))
    if not axes.issubset(ones):
        raise fail(node, f"axes {sorted(axes)} are not all of size 1")
    return x.with_shape(tuple(d for i, d in enumerate(x.shape) if i not in axes))


@infers("Expand")
def expand(node: Node) -> Type:
    x = _type(node, 0)
    return x.with_shape(broadcast(node, [x.shape, tuple(_known(node, 1))]))


@infers("Tile")
def tile(node: Node) -> Type:
    x = _type(node, 0)
    repeats = _known(node, 1)
    pairs = zip(x.shape, repeats, strict=True)
    return x.with_shape(tuple(dims.mul(size, times) for size, times in pairs))


@infers("Transpose")
def transpose(node: Node) -> Type:
    x = _type(node, 0)
    perm = node.ints_attr("perm", range(x.rank)[::-1])
    if sorted(perm) != list(range(x.rank)):
        raise fail(node, f"perm is no permutation of {x.rank} axes")
    return x.with_shape(tuple(x.shape[p] for p in perm))


@infers("Concat")
def concat(node: Node) -> Type:
    parts = _types(node)
    first = parts[0]
    axis = _axis(node, first.rank)
    others = _put(first.shape, axis)
    for part in parts:
        is_alike = part.dtype == first.dtype and part.rank == first.rank
        if not is_alike or _put(part.shape, axis) != others:
            raise fail(node, "the parts differ in more than the axis")
    size = dims.total(part.shape[axis] for part in parts)
    return first.with_shape(_put(first.shape, axis, size))


@infers("Split")
def split(node: Node) -> tuple[Type, ...]:
    x = _type(node, 0)
    axis = _axis(node, x.rank, 0)
    count = node.int_attr("num_outputs", 1)
    part = dims.ceildiv(x.shape[axis], count)
    last = dims.sub(x.shape[axis], dims.mul(part, count - 1))
    sizes = _known(node, 1, [part] * (count - 1) + [last])
    return tuple(x.with_shape(_put(x.shape, axis, size)) for size in sizes)


def slice_size(size: Dim, start: Dim, end: Dim, step: int) -> Dim:
    """How many elements `[start:end:step]` takes of an axis, by ONNX's (numpy's) rules of clamping."""
    if step > 0:
        first = _bound(start, size, 0, size)
        beyond = _bound(end, size, 0, size)
        span = dims.sub(beyond, first)
    else:
        last = dims.sub(size, 1)
        first = _bound(start, size, 0, last)
        beyond = _bound(end, size, -1, last)
        span = dims.sub(first, beyond)
    if abs(step) == 1:
        count = span
    else:  # written as JAX writes it
        count = dims.add(dims.floordiv(dims.sub(span, 1), abs(step)), 1)
    return dims.maximum(count, 0)


def _bound(bound: Dim, size: Dim, low: Dim, high: Dim) -> Dim:
    """A bound of a slice, counted from the front and clamped to `low … high`."""
    if type(bound) is int:
        if bound >= END:
            return high
        if bound <= -END:
            return low
        if bound < 0:
            bound = dims.add(bound, size)
    return dims.minimum(dims.maximum(bound, low), high)


@infers("Slice")
def slice_(node: Node) -> Type:
    x = _type(node, 0)
    starts = _known(node, 1)
    ends = _known(node, 2)
    axes = _axes(node, 3, x.rank, range(len(starts)))
    steps = _known(node, 4, [1] * len(starts))
    shape = list(x.shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        shape[axis] = slice_size(x.shape[axis], start, end, int(step))
    return x.with_shape(tuple(shape))


@infers("Pad")
def pad(node: Node) -> Type:
    x = _type(node, 0)
    pads = _known(node, 1)
    axes = _axes(node, 3, x.rank, range(x.rank))
    shape = list(x.shape)
    for i, axis in enumerate(axes):
        both = dims.add(pads[i], pads[i + len(axes)])
        shape[axis] = dims.add(shape[axis], both)
    return x.with_shape(tuple(shape))


@infers("Range")
def range_(node: Node) -> Type:
    start = _operand(node, 0).const
    limit = _operand(node, 1).const
    step = _operand(node, 2).const
    if start is None or limit is None or step is None:
        raise fail(node, "give the type of the output: its size is not known here")
    count = -((start.scalar - limit.scalar) // step.scalar)  # rounded up
    return Type(start.dtype, (max(0, count),))


@infers("DepthToSpace", "SpaceToDepth")
def depth_space(node: Node) -> Type:
    x = _type(node, 0)
    block = node.int_attr("blocksize")
    batch, channels, *spatial = x.shape
    if node.kind == "DepthToSpace":
        channels = dims.floordiv(channels, block * block)
        sides = [dims.mul(side, block) for side in spatial]
    else:
        channels = dims.mul(channels, block * block)
        sides = [dims.floordiv(side, block) for side in spatial]
    return x.with_shape((batch, channels, *sides))


# -------------------------------------------------------------------- indexing, sorting


@infers("Gather")
def gather(node: Node) -> Type:
    x = _type(node, 0)
    indices = _type(node, 1)
    return x.with_shape(_put(x.shape, _axis(node, x.rank, 0), *indices.shape))


@infers("GatherElements")
def gather_elements(node: Node) -> Type:
    return _type(node, 0).with_shape(_type(node, 1).shape)


@infers("GatherND")
def gather_nd(node: Node) -> Type:
    x = _type(node, 0)
    indices = _type(node, 1)
    batch_axes = node.int_attr("batch_dims", 0)
    indexed_axes = indices.shape[-1]
    if type(indexed_axes) is not int:
        raise fail(node, "the last axis of the indices must be static")
    taken = x.shape[batch_axes + indexed_axes :]  # of each place that is read
    return x.with_shape((*indices.shape[:-1], *taken))


@infers("OneHot")
def one_hot(node: Node) -> Type:
    indices = _type(node, 0)
    (depth,) = _known(node, 1)
    axis = node.int_attr("axis", -1) % (indices.rank + 1)
    shape = (*indices.shape[:axis], depth, *indices.shape[axis:])
    return Type(_type(node, 2).dtype, shape)


@infers("TopK")
def top_k(node: Node) -> tuple[Type, ...]:
    """The greatest elements, and where they were."""
    x = _type(node, 0)
    (count,) = _known(node, 1)
    out = x.with_shape(_put(x.shape, _axis(node, x.rank, -1), count))
    return out, out.with_dtype(DType.I64)


# --------------------------------------------------------------------------- reductions


REDUCTIONS = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
)


@infers(*REDUCTIONS)
def reduction(node: Node) -> Type:
    x = _type(node, 0)
    given = _axes(node, 1, x.rank, ())
    if not given and node.attrs.get("noop_with_empty_axes"):
        return x
    return x.with_shape(_reduced(node, x.shape, given or range(x.rank)))


@infers("ArgMax", "ArgMin")
def arg_reduction(node: Node) -> Type:
    x = _type(node, 0)
    return Type(DType.I64, _reduced(node, x.shape, [_axis(node, x.rank, 0)]))


def _reduced(node: Node, shape: Shape, axes: Sequence[int]) -> Shape:
    """The shape without these axes, or with 1 in their place."""
    if node.attrs.get("keepdims", 1):
        return tuple(1 if i in axes else d for i, d in enumerate(shape))
    return tuple(d for i, d in enumerate(shape) if i not in axes)


# ---------------------------------------------------------- linear algebra, convolution


@infers("MatMul")
def matmul(node: Node) -> Type:
    a = _type(node, 0)
    b = _type(node, 1)
    if a.dtype != b.dtype:
        raise fail(node, "operands of different dtypes")
    return Type(a.dtype, matmul_shape(node, a.shape, b.shape))


def matmul_shape(node: Node, a: Shape, b: Shape) -> Shape:
    """numpy's `matmul` of stacks of matrices, which broadcast.

    A vector is a row on the left and a column on the right; its axis is then left out.
    """
    if not a or not b:
        raise fail(node, "scalars cannot be multiplied as matrices")
    left = (1, *a) if len(a) == 1 else a
    right = (*b, 1) if len(b) == 1 else b
    if not same_dim(left[-1], right[-2]):
        raise fail(node, f"the contracted sizes {left[-1]} and {right[-2]} differ")
    stacks = broadcast(node, [left[:-2], right[:-2]])
    rows = left[-2:-1] if len(a) > 1 else ()
    columns = right[-1:] if len(b) > 1 else ()
    return (*stacks, *rows, *columns)


@infers("MatMulInteger")
def matmul_integer(node: Node) -> Type:
    shape = matmul_shape(node, _type(node, 0).shape, _type(node, 1).shape)
    return Type(DType.I32, shape)


@infers("Gemm")
def gemm(node: Node) -> Type:
    a = _type(node, 0)
    b = _type(node, 1)
    left = a.shape[::-1] if node.attrs.get("transA") else a.shape
    right = b.shape[::-1] if node.attrs.get("transB") else b.shape
    return Type(a.dtype, matmul_shape(node, left, right))


@infers("Det")
def det(node: Node) -> Type:
    x = _type(node, 0)
    return x.with_shape(x.shape[:-2])


@infers("Einsum")
def einsum(node: Node) -> Type:
    equation = node.str_attr("equation").replace(" ", "")
    left, arrow, right = equation.partition("->")
    types = _types(node)
    sizes: dict[str, Dim] = {}
    for term, x in zip(left.split(","), types, strict=True):
        for letter, size in zip(term, x.shape, strict=True):
            if letter not in sizes or sizes[letter] == 1:
                sizes[letter] = size
    if not arrow:  # numpy's rule: the letters that stand once, in alphabetical order
        right = "".join(sorted(c for c in sizes if left.count(c) == 1))
    return Type(types[0].dtype, tuple(sizes[c] for c in right))


# -------------------------------------------------------- windows: convolution, pooling


def window_size(
    size: Dim,
    kernel: Dim,
    stride: int,
    low: Dim,
    high: Dim,
    dilation: int,
    ceil: bool = False,
) -> Dim:
    """How many positions a window has along one axis."""
    padded = dims.add(dims.add(size, low), high)
    span = dims.sub(padded, _reach(kernel, dilation))
    steps = dims.ceildiv(span, stride) if ceil else dims.floordiv(span, stride)
    out = dims.add(steps if stride != 1 else span, 1)
    return out if dims.known_ge(out, 0) else dims.maximum(out, 0)


def _reach(kernel: Dim, dilation: int) -> Dim:
    """How many elements a window spans along an axis."""
    return dims.add(dims.mul(dims.sub(kernel, 1), dilation), 1)


class WindowAttrs(NamedTuple):
    """Windows over spatial axes: one number an axis; `pads` has those in front, then those behind."""

    strides: Sequence[int]
    dilations: Sequence[int]
    pads: Sequence[int]


def _window_attrs(node: Node, axes: int) -> WindowAttrs:
    """The attributes of windows over so many axes."""
    return WindowAttrs(
        node.ints_attr("strides", (1,) * axes),
        node.ints_attr("dilations", (1,) * axes),
        node.ints_attr("pads", (0,) * 2 * axes),
    )


def _window_sizes(
    node: Node, spatial: Sequence[Dim], kernel: Sequence[Dim]
) -> list[Dim]:
    """How many positions the windows of a node have along each spatial axis."""
    axes = len(spatial)
    windows = _window_attrs(node, axes)
    if node.attrs.get("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
        pairs = zip(spatial, windows.strides, strict=True)
        return [dims.ceildiv(size, stride) for size, stride in pairs]
    ceil = bool(node.attrs.get("ceil_mode", 0))
    return [
        window_size(
            spatial[i],
            kernel[i],
            windows.strides[i],
            windows.pads[i],
            windows.pads[axes + i],
            windows.dilations[i],
            ceil,
        )
        for i in range(axes)
    ]


@infers("Conv")
def conv(node: Node) -> Type:
    x = _type(node, 0)
    weights = _type(node, 1)
    fits = x.rank == weights.rank and _channels_fit(node, x, weights)
    if not fits:
        raise fail(node, "the channels of operand and weights do not fit")
    spatial = _window_sizes(node, x.shape[2:], weights.shape[2:])
    return x.with_shape((x.shape[0], weights.shape[0], *spatial))


def _channels_fit(node: Node, x: Type, weights: Type) -> bool:
    """Return True where the weights of all groups take as many channels as there are."""
    return x.shape[1] == dims.mul(weights.shape[1], node.int_attr("group", 1))


@infers("ConvInteger")
def conv_integer(node: Node) -> Type:
    return conv(node).with_dtype(DType.I32)


@infers("ConvTranspose")
def conv_transpose(node: Node) -> Type:
    x = _type(node, 0)
    weights = _type(node, 1)
    axes = x.rank - 2
    windows = _window_attrs(node, axes)
    output_padding = node.ints_attr("output_padding", (0,) * axes)
    spatial: list[Dim] = []
    for i in range(axes):
        last_start = dims.mul(dims.sub(x.shape[2 + i], 1), windows.strides[i])
        starts = dims.add(last_start, output_padding[i])
        reach = _reach(weights.shape[2 + i], windows.dilations[i])
        pads = windows.pads[i] + windows.pads[axes + i]
        spatial.append(dims.sub(dims.add(starts, reach), pads))
    channels = dims.mul(weights.shape[1], node.int_attr("group", 1))
    return x.with_shape((x.shape[0], channels, *spatial))


@infers("AveragePool", "LpPool", "MaxPool")
def pool(node: Node) -> Type:
    x = _type(node, 0)
    spatial = _window_sizes(node, x.shape[2:], node.ints_attr("kernel_shape"))
    return x.with_shape((*x.shape[:2], *spatial))


@infers("GlobalAveragePool", "GlobalMaxPool")
def global_pool(node: Node) -> Type:
    x = _type(node, 0)
    ones = (1,) * (x.rank - 2)
    return x.with_shape((*x.shape[:2], *ones))


# ---------------------------------------------------------------- transforms, attention


@infers("DFT")
def dft(node: Node) -> Type:
    x = _type(node, 0)
    (axis,) = _axes(node, 2, x.rank, (-2,))
    (n,) = _known(node, 1, x.shape[axis : axis + 1])
    if node.attrs.get("onesided") and not node.attrs.get("inverse"):
        n = dims.add(dims.floordiv(n, 2), 1)
    return x.with_shape((*_put(x.shape, axis, n)[:-1], 2))


@infers("Attention")
def attention(node: Node) -> Type:
    """Heads stand on an axis of their own (rank 4), or side by side in the last axis (rank 3)."""
    query = _type(node, 0)
    value = _type(node, 2)
    if query.rank == 4:
        return query.with_shape((*query.shape[:3], value.shape[3]))
    head = dims.floordiv(value.shape[2], node.int_attr("kv_num_heads", 1))
    heads = dims.mul(head, node.int_attr("q_num_heads", 1))
    return query.with_shape((*query.shape[:2], heads))


# ------------------------------------------------------------------------- control flow


@infers("If")
def if_(node: Node) -> tuple[Type, ...]:
    then, other = ([v.type for v in branch.outputs] for branch in node.graphs)
    if then != other:
        raise fail(node, "the branches give different types")
    return tuple(then)


@infers("Loop")
def loop(node: Node) -> tuple[Type, ...]:
    carried = len(node.inputs) - 2
    body = node.graphs[0]
    if len(body.outputs) != 1 + carried:
        raise fail(node, "a loop with scan outputs: give the types of its outputs")
    return tuple(v.type for v in body.outputs[1:])


# ---------------------------------------------------------- onnxruntime's own operators

CONTRIB_SAME_TYPE = ("BiasGelu", "FastGelu", "Gelu", "QuickGelu", "RotaryEmbedding")
infers(*CONTRIB_SAME_TYPE, table=CONTRIB_INFERENCES)(same_as_first)


@infers("FusedMatMul", table=CONTRIB_INFERENCES)
def fused_matmul(node: Node) -> Type:
    a = _type(node, 0)
    left = _transposed_if(node, "transA", a.shape)
    right = _transposed_if(node, "transB", _type(node, 1).shape)
    return a.with_shape(matmul_shape(node, left, right))


def _transposed_if(node: Node, flag: str, shape: Shape) -> Shape:
    """The shape of an operand, its last two axes exchanged where the attribute `flag` says so."""
    if not node.attrs.get(flag):
        return shape
    return (*shape[:-2], *reversed(shape[-2:]))
