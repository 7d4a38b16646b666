"""Type inference of `onnx.*`: one small function an operator family, exact with symbolic dimensions.

A rule reads operand types, attributes and known shape vectors, and gives the types of the results; TypeError names the
operator, the operand types and what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

from j2o.ir import dims
from j2o.ir.graph import Node, Value
from j2o.ir.types import Dim, DType, Shape, Type, is_one, same_dim, same_shape

Rule: TypeAlias = Callable[[Node], "Type | tuple[Type, ...]"]
F = TypeVar("F", bound=Rule)
RULES: dict[str, Rule] = {}
END = 2**62  # ends beyond this mean the end of the axis


def rule(kinds: str) -> Callable[[F], F]:
    """Register the rule of one or several operators; it gives the type of the only result, or a tuple of types."""

    def register(fn: F) -> F:
        RULES.update(dict.fromkeys(kinds.split(), fn))
        return fn

    return register


def fail(node: Node, why: str) -> TypeError:
    operands = ", ".join("_" if v is None else str(v.type) for v in node.inputs)
    attrs = ", ".join(f"{k}={v!r}" for k, v in node.attrs.items())
    return TypeError(f"{node.op}({operands}){{{attrs}}}: {why}")


def _in(node: Node, index: int) -> Value:
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        raise fail(node, f"operand {index} is missing")
    return value


def _type(node: Node, index: int) -> Type:
    return _in(node, index).type


def _known(
    node: Node, index: int, default: Sequence[Dim] | None = None
) -> Sequence[Dim]:
    """The entries of a shape vector; `default` where the operand is left out."""
    if default is not None and (
        index >= len(node.inputs) or node.inputs[index] is None
    ):
        return default
    known = _in(node, index).known
    if known is None:
        raise fail(
            node,
            f"operand {index} is not a known shape vector: give the types of the outputs",
        )
    return known


def _axis(node: Node, rank: int, default: int | None = None) -> int:
    axis = node.attrs.get("axis", default)
    if type(axis) is not int or not -rank <= axis < max(rank, 1):
        raise fail(node, f"axis {axis} of rank {rank}")
    return axis % rank if rank else 0


def _axes(
    node: Node, index: int, rank: int, default: Sequence[Dim] | None = None
) -> list[int]:
    return [int(a) % max(rank, 1) for a in _known(node, index, default)]


def _int(node: Node, name: str, default: int) -> int:
    return int(node.attrs.get(name, default))  # type: ignore[arg-type]


def _put(shape: Shape, axis: int, *sizes: Dim) -> Shape:
    """The shape with other sizes in the place of one axis."""
    return (*shape[:axis], *sizes, *shape[axis + 1 :])


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
    for i in range(-rank, 0):
        sizes = [s[i] for s in shapes if len(s) >= -i and not is_one(s[i])]
        if any(not same_dim(d, sizes[0]) for d in sizes[1:]):
            return None
        out.append(sizes[0] if sizes else 1)
    return tuple(out)


# ------------------------------------------------------------------------------------------ elementwise


@rule(
    "Abs Acos Acosh Asin Asinh Atan Atanh BatchNormalization BitwiseNot Ceil Celu Clip Cos Cosh CumSum CumProd Elu Erf Exp "
    "Floor Gelu GroupNormalization HardSigmoid HardSwish Hardmax Identity InstanceNormalization LayerNormalization "
    "LeakyRelu Log LogSoftmax LpNormalization MeanVarianceNormalization Mish Neg Not RMSNormalization Reciprocal Relu "
    "ReverseSequence RotaryEmbedding Round ScatterElements ScatterND Selu Sigmoid Sign Sin Sinh Softmax Softplus Softsign "
    "Sqrt Swish Tan Tanh TensorScatter ThresholdedRelu Trilu"
)
def same_as_first(node: Node) -> Type:
    return _type(node, 0)


@rule(
    "Add Sub Mul Div Mod Pow Max Min Sum Mean BitwiseAnd BitwiseOr BitwiseXor BitShift And Or Xor PRelu"
)
def arithmetic(node: Node) -> Type:
    first = _type(node, 0)
    if len(node.inputs) == 2:
        second = _type(node, 1)
        if first == second or (second.dtype == first.dtype and not second.shape):
            return first
    types = [_type(node, i) for i in range(len(node.inputs))]
    if node.kind != "Pow" and any(t.dtype != first.dtype for t in types):
        raise fail(node, "operands of different dtypes")
    return Type(first.dtype, broadcast(node, [t.shape for t in types]))


@rule("Equal Less LessOrEqual Greater GreaterOrEqual")
def comparison(node: Node) -> Type:
    a, b = _type(node, 0), _type(node, 1)
    if a.dtype != b.dtype:
        raise fail(node, "operands of different dtypes")
    return Type(
        DType.BOOL,
        a.shape if a.shape == b.shape else broadcast(node, [a.shape, b.shape]),
    )


@rule("Where")
def where(node: Node) -> Type:
    c, a, b = (_type(node, i) for i in range(3))
    if a.dtype != b.dtype or c.dtype != DType.BOOL:
        raise fail(node, "the condition must be bool and the operands of one dtype")
    return Type(a.dtype, broadcast(node, [c.shape, a.shape, b.shape]))


@rule("BitCast")
def bitcast(node: Node) -> Type:
    to, x = _dtype(node, "to"), _type(node, 0)
    if to.bits != x.dtype.bits:
        raise fail(node, "the widths must be equal")
    return Type(to, x.shape)


def _dtype(node: Node, name: str, default: DType | None = None) -> DType:
    dtype = node.attrs.get(name, default)
    if not isinstance(dtype, DType):
        raise fail(node, f"attribute {name} must be a DType")
    return dtype


# ------------------------------------------------------------------------------------------------ shapes


@rule("Reshape")
def reshape(node: Node) -> Type:
    x, shape = _type(node, 0), list(_known(node, 1))
    if not node.attrs.get("allowzero"):
        shape = [
            x.shape[i] if type(d) is int and d == 0 else d for i, d in enumerate(shape)
        ]
    if -1 in [d for d in shape if type(d) is int]:
        i = next(k for k, d in enumerate(shape) if type(d) is int and d == -1)
        rest = dims.prod(d for k, d in enumerate(shape) if k != i)
        quotient = dims.divides(rest, x.size)
        if quotient is None:
            raise fail(
                node, f"{x.size} elements are not known to be a multiple of {rest}"
            )
        shape[i] = quotient
    elif not same_dim(size := dims.prod(shape), x.size) and not dims.agree(
        size, x.size, divisible=True
    ):
        raise fail(node, f"{x.size} elements in the shape {shape}")
    return x.with_shape(tuple(shape))


@rule("Unsqueeze")
def unsqueeze(node: Node) -> Type:
    x, axes = _type(node, 0), [int(a) for a in _known(node, 1)]
    rank = x.rank + len(axes)
    at = {a % rank for a in axes}
    rest = iter(x.shape)
    return x.with_shape(tuple(1 if i in at else next(rest) for i in range(rank)))


@rule("Squeeze")
def squeeze(node: Node) -> Type:
    x = _type(node, 0)
    axes = set(_axes(node, 1, x.rank, [i for i, d in enumerate(x.shape) if is_one(d)]))
    if not all(is_one(x.shape[a]) for a in axes):
        raise fail(node, f"axes {sorted(axes)} are not all of size 1")
    return x.with_shape(tuple(d for i, d in enumerate(x.shape) if i not in axes))


@rule("Transpose")
def transpose(node: Node) -> Type:
    x = _type(node, 0)
    perm: Any = node.attrs.get("perm", tuple(range(x.rank))[::-1])
    if sorted(perm) != list(range(x.rank)):
        raise fail(node, f"perm is no permutation of {x.rank} axes")
    return x.with_shape(tuple(x.shape[p] for p in perm))


@rule("Concat")
def concat(node: Node) -> Type:
    parts = [_type(node, i) for i in range(len(node.inputs))]
    first = parts[0]
    axis = _axis(node, first.rank)
    for p in parts:
        if (
            p.dtype != first.dtype
            or p.rank != first.rank
            or _put(p.shape, axis) != _put(first.shape, axis)
        ):
            raise fail(node, "the parts differ in more than the axis")
    return first.with_shape(
        _put(first.shape, axis, dims.total(p.shape[axis] for p in parts))
    )


@rule("Split")
def split(node: Node) -> tuple[Type, ...]:
    x = _type(node, 0)
    axis = _axis(node, x.rank, 0)
    n = _int(node, "num_outputs", 1)
    part = dims.ceildiv(x.shape[axis], n)
    sizes = _known(
        node, 1, [part] * (n - 1) + [dims.sub(x.shape[axis], dims.mul(part, n - 1))]
    )
    return tuple(x.with_shape(_put(x.shape, axis, s)) for s in sizes)


def slice_size(size: Dim, start: Dim, end: Dim, step: int) -> Dim:
    """How many elements `[start:end:step]` takes of an axis, by ONNX's (numpy's) rules of clamping."""
    low, high = (0, size) if step > 0 else (-1, dims.sub(size, 1))
    start, end = (
        _bound(start, size, low if step > 0 else 0, high),
        _bound(end, size, low, high),
    )
    span = dims.sub(end, start) if step > 0 else dims.sub(start, end)
    if abs(step) == 1:
        count = span
    else:  # written as JAX writes it
        count = dims.add(dims.floordiv(dims.sub(span, 1), abs(step)), 1)
    return dims.maximum(count, 0)


def _bound(bound: Dim, size: Dim, low: Dim, high: Dim) -> Dim:
    if type(bound) is int:
        if bound >= END:
            return high
        if bound <= -END:
            return low
        if bound < 0:
            bound = dims.add(bound, size)
    return dims.minimum(dims.maximum(bound, low), high)


@rule("Slice")
def slice_(node: Node) -> Type:
    x, starts, ends = _type(node, 0), _known(node, 1), _known(node, 2)
    axes, steps = (
        _axes(node, 3, x.rank, range(len(starts))),
        _known(node, 4, [1] * len(starts)),
    )
    shape = list(x.shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        shape[axis] = slice_size(x.shape[axis], start, end, int(step))
    return x.with_shape(tuple(shape))


@rule("Pad")
def pad(node: Node) -> Type:
    x, pads = _type(node, 0), _known(node, 1)
    axes = _axes(node, 3, x.rank, range(x.rank))
    shape = list(x.shape)
    for i, axis in enumerate(axes):
        shape[axis] = dims.add(dims.add(shape[axis], pads[i]), pads[i + len(axes)])
    return x.with_shape(tuple(shape))


@rule("Range")
def range_(node: Node) -> Type:
    start, limit, step = (_in(node, i) for i in range(3))
    if start.const is not None and limit.const is not None and step.const is not None:
        a, b, c = start.const.scalar, limit.const.scalar, step.const.scalar
        return Type(start.type.dtype, (max(0, -(-(b - a) // c)),))
    raise fail(node, "give the type of the output: its size is not known here")


@rule("DepthToSpace SpaceToDepth")
def depth_space(node: Node) -> Type:
    x, b = _type(node, 0), int(node.attrs["blocksize"])  # type: ignore[arg-type]
    n, c, h, w = x.shape
    if node.kind == "DepthToSpace":
        return x.with_shape(
            (n, dims.floordiv(c, b * b), dims.mul(h, b), dims.mul(w, b))
        )
    return x.with_shape(
        (n, dims.mul(c, b * b), dims.floordiv(h, b), dims.floordiv(w, b))
    )


# --------------------------------------------------------------------------------- indexing, sorting


@rule("GatherND")
def gather_nd(node: Node) -> Type:
    x, i, batch = _type(node, 0), _type(node, 1), _int(node, "batch_dims", 0)
    k = i.shape[-1]
    if type(k) is not int:
        raise fail(node, "the last axis of the indices must be static")
    return x.with_shape((*i.shape[:-1], *x.shape[batch + k :]))


@rule("OneHot")
def one_hot(node: Node) -> Type:
    i, (depth,), values = _type(node, 0), _known(node, 1), _type(node, 2)
    axis = _int(node, "axis", -1) % (i.rank + 1)
    return Type(values.dtype, (*i.shape[:axis], depth, *i.shape[axis:]))


@rule("TopK")
def top_k(node: Node) -> tuple[Type, ...]:
    x, (k,) = _type(node, 0), _known(node, 1)
    out = x.with_shape(_put(x.shape, _axis(node, x.rank, -1), k))
    return out, out.with_dtype(DType.I64)


# ------------------------------------------------------------------------------------------ reductions


@rule(
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
)
def reduction(node: Node) -> Type:
    x = _type(node, 0)
    given = _axes(node, 1, x.rank, ())
    if not given and node.attrs.get("noop_with_empty_axes"):
        return x
    return x.with_shape(_reduced(node, x.shape, given or range(x.rank)))


@rule("ArgMax ArgMin")
def arg_reduction(node: Node) -> Type:
    x = _type(node, 0)
    return Type(DType.I64, _reduced(node, x.shape, [_axis(node, x.rank, 0)]))


def _reduced(node: Node, shape: Shape, axes: Sequence[int]) -> Shape:
    keep = node.attrs.get("keepdims", 1)
    return tuple(
        1 if i in axes else d for i, d in enumerate(shape) if keep or i not in axes
    )


# -------------------------------------------------------------------------------- linear algebra, convolution


@rule("MatMul")
def matmul(node: Node) -> Type:
    a, b = _type(node, 0), _type(node, 1)
    if a.dtype != b.dtype:
        raise fail(node, "operands of different dtypes")
    return Type(a.dtype, matmul_shape(node, a.shape, b.shape))


def matmul_shape(node: Node, a: Shape, b: Shape) -> Shape:
    if not a or not b:
        raise fail(node, "scalars cannot be multiplied as matrices")
    left, right = ((1, *a) if len(a) == 1 else a), ((*b, 1) if len(b) == 1 else b)
    if not same_dim(left[-1], right[-2]):
        raise fail(node, f"the contracted sizes {left[-1]} and {right[-2]} differ")
    out = (*broadcast(node, [left[:-2], right[:-2]]), left[-2], right[-1])
    if len(a) == 1:
        out = (*out[:-2], out[-1])
    return out[:-1] if len(b) == 1 else out


@rule("Gemm")
def gemm(node: Node) -> Type:
    a, b = _type(node, 0), _type(node, 1)
    left = a.shape[::-1] if node.attrs.get("transA") else a.shape
    right = b.shape[::-1] if node.attrs.get("transB") else b.shape
    return Type(a.dtype, matmul_shape(node, left, right))


@rule("Einsum")
def einsum(node: Node) -> Type:
    left, arrow, right = str(node.attrs["equation"]).replace(" ", "").partition("->")
    sizes: dict[str, Dim] = {}
    for term, i in zip(left.split(","), range(len(node.inputs)), strict=True):
        for letter, d in zip(term, _type(node, i).shape, strict=True):
            if letter not in sizes or sizes[letter] == 1:
                sizes[letter] = d
    if not arrow:
        right = "".join(sorted(c for c in sizes if left.count(c) == 1))
    return Type(_type(node, 0).dtype, tuple(sizes[c] for c in right))


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
    reach = dims.add(dims.mul(dims.sub(kernel, 1), dilation), 1)
    span = dims.sub(dims.add(dims.add(size, low), high), reach)
    steps = dims.ceildiv(span, stride) if ceil else dims.floordiv(span, stride)
    out = dims.add(steps if stride != 1 else span, 1)
    return out if dims.known_ge(out, 0) else dims.maximum(out, 0)


def _window_attributes(node: Node, n: int) -> tuple[Any, Any, Any]:
    """Strides, dilations and pads of `n` axes."""
    a = node.attrs
    return (
        a.get("strides", (1,) * n),
        a.get("dilations", (1,) * n),
        a.get("pads", (0,) * 2 * n),
    )


def _windows(node: Node, spatial: Sequence[Dim], kernel: Sequence[Dim]) -> list[Dim]:
    n = len(spatial)
    strides, dilations, pads = _window_attributes(node, n)
    if node.attrs.get("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
        return [dims.ceildiv(d, s) for d, s in zip(spatial, strides, strict=True)]
    ceil = bool(node.attrs.get("ceil_mode", 0))
    return [
        window_size(
            spatial[i], kernel[i], strides[i], pads[i], pads[n + i], dilations[i], ceil
        )
        for i in range(n)
    ]


@rule("Conv")
def conv(node: Node) -> Type:
    x, w = _type(node, 0), _type(node, 1)
    if x.rank != w.rank or x.shape[1] != dims.mul(w.shape[1], _int(node, "group", 1)):
        raise fail(node, "the channels of operand and weights do not fit")
    return x.with_shape(
        (x.shape[0], w.shape[0], *_windows(node, x.shape[2:], w.shape[2:]))
    )


@rule("ConvTranspose")
def conv_transpose(node: Node) -> Type:
    x, w = _type(node, 0), _type(node, 1)
    n = x.rank - 2
    strides, dilations, pads = _window_attributes(node, n)
    extra: Any = node.attrs.get("output_padding", (0,) * n)
    spatial = []
    for i in range(n):
        starts = dims.add(dims.mul(dims.sub(x.shape[2 + i], 1), strides[i]), extra[i])
        reach = dims.add(dims.mul(dims.sub(w.shape[2 + i], 1), dilations[i]), 1)
        spatial.append(dims.sub(dims.add(starts, reach), pads[i] + pads[n + i]))
    return x.with_shape(
        (x.shape[0], dims.mul(w.shape[1], _int(node, "group", 1)), *spatial)
    )


def _pooled(node: Node, x: Type) -> Sequence[Dim]:
    return [*x.shape[:2], *_windows(node, x.shape[2:], node.attrs["kernel_shape"])]  # type: ignore[arg-type]


@rule("DFT")
def dft(node: Node) -> Type:
    x = _type(node, 0)
    (axis,) = _axes(node, 2, x.rank, (-2,))
    (n,) = _known(node, 1, x.shape[axis : axis + 1])
    if node.attrs.get("onesided") and not node.attrs.get("inverse"):
        n = dims.add(dims.floordiv(n, 2), 1)
    return x.with_shape((*_put(x.shape, axis, n)[:-1], 2))


@rule("Attention")
def attention(node: Node) -> Type:
    q, v = _type(node, 0), _type(node, 2)
    if q.rank == 4:
        return q.with_shape((*q.shape[:3], v.shape[3]))
    size = dims.floordiv(v.shape[2], _int(node, "kv_num_heads", 1))
    return q.with_shape((*q.shape[:2], dims.mul(size, _int(node, "q_num_heads", 1))))


# ---------------------------------------------------------------------------- quantisation, control flow


@rule("If")
def if_(node: Node) -> tuple[Type, ...]:
    then, other = ([v.type for v in g.outputs] for g in node.graphs)
    if then != other:
        raise fail(node, "the branches give different types")
    return tuple(then)


@rule("Loop")
def loop(node: Node) -> tuple[Type, ...]:
    carried = len(node.inputs) - 2
    body = node.graphs[0]
    if len(body.outputs) != 1 + carried:
        raise fail(node, "a loop with scan outputs: give the types of its outputs")
    return tuple(v.type for v in body.outputs[1:])


# ------------------------------------------------------------------------------------------ one expression


def _shaped(shape: Callable[[Node, Type], Sequence[Dim]]) -> Rule:
    """The dtype of the first operand, and a shape."""
    return lambda node: (x := _type(node, 0)).with_shape(tuple(shape(node, x)))


def _typed(dtype: Callable[[Node], DType]) -> Rule:
    """The shape of the first operand, and a dtype."""
    return lambda node: _type(node, 0).with_dtype(dtype(node))


RULES |= {
    "Cast": _typed(lambda n: _dtype(n, "to")),
    "CastLike": _typed(lambda n: _type(n, 1).dtype),
    "EyeLike": _typed(lambda n: _dtype(n, "dtype", _type(n, 0).dtype)),
    "IsNaN": _typed(lambda n: DType.BOOL),
    "IsInf": _typed(lambda n: DType.BOOL),
    "QuantizeLinear": _typed(lambda n: _type(n, 2).dtype if any(n.inputs[2:]) else DType.U8),
    "DequantizeLinear": _typed(lambda n: _type(n, 1).dtype),
    "Expand": _shaped(lambda n, x: broadcast(n, [x.shape, tuple(_known(n, 1))])),
    "Flatten": _shaped(lambda n, x: [dims.prod(x.shape[: _int(n, "axis", 1)]), dims.prod(x.shape[_int(n, "axis", 1) :])]),
    "Tile": _shaped(lambda n, x: [dims.mul(d, r) for d, r in zip(x.shape, _known(n, 1), strict=True)]),
    "Gather": _shaped(lambda n, x: _put(x.shape, _axis(n, x.rank, 0), *_type(n, 1).shape)),
    "GatherElements": _shaped(lambda n, x: _type(n, 1).shape),
    "Det": _shaped(lambda n, x: x.shape[:-2]),
    **dict.fromkeys(["MaxPool", "AveragePool", "LpPool"], _shaped(_pooled)),
    **dict.fromkeys(["GlobalAveragePool", "GlobalMaxPool"], _shaped(lambda n, x: [*x.shape[:2], *(1,) * (x.rank - 2)])),
    "Shape": lambda n: Type(DType.I64, (len(_type(n, 0).shape[_int(n, "start", 0) : n.attrs.get("end")]),)),  # type: ignore[misc]
    "Size": lambda n: Type(DType.I64, ()),
    "ConstantOfShape": lambda n: Type(getattr(n.attrs.get("value"), "dtype", DType.F32), tuple(_known(n, 0))),
    "Dropout": lambda n: (_type(n, 0), _type(n, 0).with_dtype(DType.BOOL)),
    "MatMulInteger": lambda n: Type(DType.I32, matmul_shape(n, _type(n, 0).shape, _type(n, 1).shape)),
    "ConvInteger": lambda n: conv(n).with_dtype(DType.I32),
}  # fmt: skip


def _fused_matmul(node: Node) -> Type:
    shapes = [list(_type(node, i).shape) for i in (0, 1)]
    for shape, flag in zip(shapes, ("transA", "transB"), strict=True):
        if node.attrs.get(flag):
            shape[-2:] = shape[:-3:-1]
    return _type(node, 0).with_shape(matmul_shape(node, *map(tuple, shapes)))


CONTRIB = {
    **dict.fromkeys(
        ["Gelu", "FastGelu", "QuickGelu", "BiasGelu", "RotaryEmbedding"], same_as_first
    ),
    "FusedMatMul": _fused_matmul,
}
