"""Type inference of `onnx.*`: one small function an operator family, exact with symbolic dimensions.

A rule reads operand types, attributes and known shape vectors, and gives the types of the results; TypeError names the
operator, the operand types and what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from j2o.ir import dims
from j2o.ir.graph import Node, Value
from j2o.ir.types import Dim, DType, Shape, Type, is_one, same_dim, same_shape

Rule: TypeAlias = Callable[[Node], "tuple[Type, ...]"]
RULES: dict[str, Rule] = {}
CONTRIB: dict[str, Rule] = {}
F = Callable[[Node], "tuple[Type, ...]"]
END = 2**62  # ends beyond this mean the end of the axis


def rule(*kinds: str) -> Callable[[F], F]:
    def register(fn: F) -> F:
        for kind in kinds:
            RULES[kind] = fn
        return fn

    return register


def fail(node: Node, why: str) -> TypeError:
    operands = ", ".join("_" if v is None else str(v.type) for v in node.inputs)
    attrs = ", ".join(f"{k}={v!r}" for k, v in node.attrs.items())
    return TypeError(f"{node.op}({operands}){{{attrs}}}: {why}")


def unknown(node: Node) -> tuple[Type, ...]:
    raise fail(node, "no inference for this operator: give the types of its outputs")


def _in(node: Node, index: int) -> Value:
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        raise fail(node, f"operand {index} is missing")
    return value


def _opt(node: Node, index: int) -> Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _known(node: Node, index: int) -> tuple[Dim, ...]:
    known = _in(node, index).known
    if known is None:
        raise fail(node, f"operand {index} is not a known shape vector: give the types of the outputs")
    return known


def _axis(node: Node, rank: int, default: int | None = None) -> int:
    axis = node.attrs.get("axis", default)
    if type(axis) is not int or not -rank <= axis < max(rank, 1):
        raise fail(node, f"axis {axis} of rank {rank}")
    return axis % rank if rank else 0


def broadcast(node: Node, shapes: Sequence[Shape]) -> Shape:
    """numpy's broadcasting; two sizes go together when they are equal or one is 1."""
    first = shapes[0]
    if all(same_shape(s, first) for s in shapes):
        return first
    rank = max(map(len, shapes))
    out: list[Dim] = []
    for i in range(rank):
        dim: Dim = 1
        for shape in shapes:
            k = i - rank + len(shape)
            d = shape[k] if k >= 0 else 1
            if is_one(d):
                continue
            if is_one(dim):
                dim = d
            elif not same_dim(dim, d):
                raise fail(node, f"sizes {dim} and {d} do not go together")
        out.append(dim)
    return tuple(out)


# ------------------------------------------------------------------------------------------ elementwise


@rule(
    *(
        "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Ceil Celu Clip Cos Cosh CumSum CumProd Elu Erf Exp "
        "Floor Gelu HardSigmoid HardSwish Hardmax Identity LeakyRelu Log LogSoftmax LpNormalization Mish Neg "
        "Not Reciprocal Relu Round Selu Sigmoid Sign Sin Sinh Softmax Softplus Softsign Sqrt Swish Tan Tanh "
        "ThresholdedRelu Trilu ScatterElements ScatterND ReverseSequence MeanVarianceNormalization "
        "InstanceNormalization GroupNormalization RotaryEmbedding TensorScatter"
    ).split()
)
def same_as_first(node: Node) -> tuple[Type, ...]:
    return (_in(node, 0).type,)


@rule(*("Add Sub Mul Div Mod Pow Max Min Sum Mean BitwiseAnd BitwiseOr BitwiseXor BitShift And Or Xor PRelu").split())
def arithmetic(node: Node) -> tuple[Type, ...]:
    first = _in(node, 0).type
    if len(node.inputs) == 2:
        second = _in(node, 1).type
        if first == second or (second.dtype == first.dtype and not second.shape):
            return (first,)
    types = [_in(node, i).type for i in range(len(node.inputs))]
    if node.kind != "Pow" and any(t.dtype != first.dtype for t in types):
        raise fail(node, "operands of different dtypes")
    return (Type(first.dtype, broadcast(node, [t.shape for t in types])),)


@rule(*["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"])
def comparison(node: Node) -> tuple[Type, ...]:
    a, b = _in(node, 0).type, _in(node, 1).type
    if a.dtype != b.dtype:
        raise fail(node, "operands of different dtypes")
    return (Type(DType.BOOL, a.shape if a.shape == b.shape else broadcast(node, [a.shape, b.shape])),)


@rule("IsNaN", "IsInf")
def predicate(node: Node) -> tuple[Type, ...]:
    return (Type(DType.BOOL, _in(node, 0).type.shape),)


@rule("Where")
def where(node: Node) -> tuple[Type, ...]:
    c, a, b = (_in(node, i).type for i in range(3))
    if a.dtype != b.dtype or c.dtype != DType.BOOL:
        raise fail(node, "the condition must be bool and the operands of one dtype")
    return (Type(a.dtype, broadcast(node, [c.shape, a.shape, b.shape])),)


@rule("Cast")
def cast(node: Node) -> tuple[Type, ...]:
    return (Type(_dtype(node, "to"), _in(node, 0).type.shape),)


@rule("BitCast")
def bitcast(node: Node) -> tuple[Type, ...]:
    to, x = _dtype(node, "to"), _in(node, 0).type
    if to.bits != x.dtype.bits:
        raise fail(node, "the widths must be equal")
    return (Type(to, x.shape),)


@rule("CastLike")
def cast_like(node: Node) -> tuple[Type, ...]:
    return (Type(_in(node, 1).type.dtype, _in(node, 0).type.shape),)


def _dtype(node: Node, name: str, default: DType | None = None) -> DType:
    dtype = node.attrs.get(name, default)
    if not isinstance(dtype, DType):
        raise fail(node, f"attribute {name} must be a DType")
    return dtype


@rule("Dropout")
def dropout(node: Node) -> tuple[Type, ...]:
    x = _in(node, 0).type
    return (x, Type(DType.BOOL, x.shape))


# ------------------------------------------------------------------------------------------------ shapes


@rule("Reshape")
def reshape(node: Node) -> tuple[Type, ...]:
    x, shape = _in(node, 0).type, list(_known(node, 1))
    if not node.attrs.get("allowzero"):
        shape = [x.shape[i] if type(d) is int and d == 0 else d for i, d in enumerate(shape)]
    if -1 in [d for d in shape if type(d) is int]:
        i = next(k for k, d in enumerate(shape) if type(d) is int and d == -1)
        rest = dims.prod(d for k, d in enumerate(shape) if k != i)
        quotient = dims.divides(rest, x.size)
        if quotient is None:
            raise fail(node, f"{x.size} elements are not known to be a multiple of {rest}")
        shape[i] = quotient
    elif not same_dim(size := dims.prod(shape), x.size) and not dims.agree(size, x.size, divisible=True):
        raise fail(node, f"{x.size} elements in the shape {shape}")
    return (x.with_shape(tuple(shape)),)


@rule("Expand")
def expand(node: Node) -> tuple[Type, ...]:
    x = _in(node, 0).type
    return (x.with_shape(broadcast(node, [x.shape, _known(node, 1)])),)


@rule("Unsqueeze")
def unsqueeze(node: Node) -> tuple[Type, ...]:
    x, axes = _in(node, 0).type, [int(a) for a in _known(node, 1)]
    rank = x.rank + len(axes)
    at = {a % rank for a in axes}
    rest = iter(x.shape)
    return (x.with_shape(tuple(1 if i in at else next(rest) for i in range(rank))),)


@rule("Squeeze")
def squeeze(node: Node) -> tuple[Type, ...]:
    x = _in(node, 0).type
    axes = (
        {int(a) % x.rank for a in _known(node, 1)}
        if _opt(node, 1) is not None
        else {i for i, d in enumerate(x.shape) if is_one(d)}
    )
    if not all(is_one(x.shape[a]) for a in axes):
        raise fail(node, f"axes {sorted(axes)} are not all of size 1")
    return (x.with_shape(tuple(d for i, d in enumerate(x.shape) if i not in axes)),)


@rule("Flatten")
def flatten(node: Node) -> tuple[Type, ...]:
    x, axis = _in(node, 0).type, int(node.attrs.get("axis", 1))  # type: ignore[arg-type]
    return (x.with_shape((dims.prod(x.shape[:axis]), dims.prod(x.shape[axis:]))),)


@rule("Transpose")
def transpose(node: Node) -> tuple[Type, ...]:
    x = _in(node, 0).type
    perm: Any = node.attrs.get("perm", tuple(range(x.rank))[::-1])
    if sorted(perm) != list(range(x.rank)):
        raise fail(node, f"perm is no permutation of {x.rank} axes")
    return (x.with_shape(tuple(x.shape[p] for p in perm)),)


@rule("Concat")
def concat(node: Node) -> tuple[Type, ...]:
    parts = [_in(node, i).type for i in range(len(node.inputs))]
    first = parts[0]
    axis = _axis(node, first.rank)
    for p in parts:
        if (
            p.dtype != first.dtype
            or p.rank != first.rank
            or any(a != b for i, (a, b) in enumerate(zip(p.shape, first.shape, strict=True)) if i != axis)
        ):
            raise fail(node, "the parts differ in more than the axis")
    return (
        first.with_shape((*first.shape[:axis], dims.total(p.shape[axis] for p in parts), *first.shape[axis + 1 :])),
    )


@rule("Split")
def split(node: Node) -> tuple[Type, ...]:
    x = _in(node, 0).type
    axis = _axis(node, x.rank, 0)
    if _opt(node, 1) is not None:
        sizes: Sequence[Dim] = _known(node, 1)
    else:
        n = int(node.attrs["num_outputs"])  # type: ignore[arg-type]
        part = dims.ceildiv(x.shape[axis], n)
        sizes = [part] * (n - 1) + [dims.sub(x.shape[axis], dims.mul(part, n - 1))]
    return tuple(x.with_shape((*x.shape[:axis], s, *x.shape[axis + 1 :])) for s in sizes)


def slice_size(size: Dim, start: Dim, end: Dim, step: int) -> Dim:
    """How many elements `[start:end:step]` takes of an axis, by ONNX's (numpy's) rules of clamping."""
    low, high = (0, size) if step > 0 else (-1, dims.sub(size, 1))
    start, end = _bound(start, size, low if step > 0 else 0, high), _bound(end, size, low, high)
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
def slice_(node: Node) -> tuple[Type, ...]:
    x, starts, ends = _in(node, 0).type, _known(node, 1), _known(node, 2)
    axes = [int(a) % x.rank for a in _known(node, 3)] if _opt(node, 3) is not None else list(range(len(starts)))
    steps = [int(s) for s in _known(node, 4)] if _opt(node, 4) is not None else [1] * len(starts)
    shape = list(x.shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        shape[axis] = slice_size(x.shape[axis], start, end, step)
    return (x.with_shape(tuple(shape)),)


@rule("Pad")
def pad(node: Node) -> tuple[Type, ...]:
    x, pads = _in(node, 0).type, _known(node, 1)
    axes = [int(a) % x.rank for a in _known(node, 3)] if _opt(node, 3) is not None else list(range(x.rank))
    shape = list(x.shape)
    for i, axis in enumerate(axes):
        shape[axis] = dims.add(dims.add(shape[axis], pads[i]), pads[i + len(axes)])
    return (x.with_shape(tuple(shape)),)


@rule("Tile")
def tile(node: Node) -> tuple[Type, ...]:
    x = _in(node, 0).type
    return (x.with_shape(tuple(dims.mul(d, r) for d, r in zip(x.shape, _known(node, 1), strict=True))),)


@rule("Shape")
def shape(node: Node) -> tuple[Type, ...]:
    rank = _in(node, 0).type.rank
    start, end = int(node.attrs.get("start", 0)), int(node.attrs.get("end", rank))  # type: ignore[arg-type]
    return (Type(DType.I64, (len(range(rank)[start:end]),)),)


@rule("Size")
def size(node: Node) -> tuple[Type, ...]:
    return (Type(DType.I64, ()),)


@rule("Range")
def range_(node: Node) -> tuple[Type, ...]:
    start, limit, step = (_in(node, i) for i in range(3))
    if start.const is not None and limit.const is not None and step.const is not None:
        a, b, c = start.const.scalar, limit.const.scalar, step.const.scalar
        return (Type(start.type.dtype, (max(0, -(-(b - a) // c)),)),)
    raise fail(node, "give the type of the output: its size is not known here")


@rule("ConstantOfShape")
def constant_of_shape(node: Node) -> tuple[Type, ...]:
    value: Any = node.attrs.get("value")
    return (Type(value.dtype if value is not None else DType.F32, tuple(_known(node, 0))),)


@rule("EyeLike")
def eye_like(node: Node) -> tuple[Type, ...]:
    x = _in(node, 0).type
    return (x.with_dtype(_dtype(node, "dtype", x.dtype)),)


@rule("DepthToSpace", "SpaceToDepth")
def depth_space(node: Node) -> tuple[Type, ...]:
    x, b = _in(node, 0).type, int(node.attrs["blocksize"])  # type: ignore[arg-type]
    n, c, h, w = x.shape
    if node.kind == "DepthToSpace":
        return (x.with_shape((n, dims.floordiv(c, b * b), dims.mul(h, b), dims.mul(w, b))),)
    return (x.with_shape((n, dims.mul(c, b * b), dims.floordiv(h, b), dims.floordiv(w, b))),)


# --------------------------------------------------------------------------------- indexing, sorting


@rule("Gather")
def gather(node: Node) -> tuple[Type, ...]:
    x, i = _in(node, 0).type, _in(node, 1).type
    axis = _axis(node, x.rank, 0)
    return (x.with_shape((*x.shape[:axis], *i.shape, *x.shape[axis + 1 :])),)


@rule("GatherElements")
def gather_elements(node: Node) -> tuple[Type, ...]:
    return (_in(node, 0).type.with_shape(_in(node, 1).type.shape),)


@rule("GatherND")
def gather_nd(node: Node) -> tuple[Type, ...]:
    x, i, batch = _in(node, 0).type, _in(node, 1).type, int(node.attrs.get("batch_dims", 0))  # type: ignore[arg-type]
    k = i.shape[-1]
    if type(k) is not int:
        raise fail(node, "the last axis of the indices must be static")
    return (x.with_shape((*i.shape[:-1], *x.shape[batch + k :])),)


@rule("OneHot")
def one_hot(node: Node) -> tuple[Type, ...]:
    i, (depth,), values = _in(node, 0).type, _known(node, 1), _in(node, 2).type
    axis = int(node.attrs.get("axis", -1)) % (i.rank + 1)  # type: ignore[arg-type]
    return (Type(values.dtype, (*i.shape[:axis], depth, *i.shape[axis:])),)


@rule("TopK")
def top_k(node: Node) -> tuple[Type, ...]:
    x, (k,) = _in(node, 0).type, _known(node, 1)
    axis = _axis(node, x.rank, -1)
    out = x.with_shape((*x.shape[:axis], k, *x.shape[axis + 1 :]))
    return (out, out.with_dtype(DType.I64))


@rule("Compress")
def compress(node: Node) -> tuple[Type, ...]:
    raise fail(node, "give the type of the output: its size depends on values")


# ------------------------------------------------------------------------------------------ reductions


@rule(
    *(
        "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
        "ReduceSumSquare"
    ).split()
)
def reduction(node: Node) -> tuple[Type, ...]:
    x, keep = _in(node, 0).type, node.attrs.get("keepdims", 1)
    given = _known(node, 1) if _opt(node, 1) is not None else ()
    if not given and node.attrs.get("noop_with_empty_axes"):
        return (x,)
    axes = {int(a) % max(x.rank, 1) for a in given} or set(range(x.rank))
    return (x.with_shape(tuple(1 if i in axes else d for i, d in enumerate(x.shape) if keep or i not in axes)),)


@rule("ArgMax", "ArgMin")
def arg_reduction(node: Node) -> tuple[Type, ...]:
    x = _in(node, 0).type
    axis, keep = _axis(node, x.rank, 0), node.attrs.get("keepdims", 1)
    return (Type(DType.I64, tuple(1 if i == axis else d for i, d in enumerate(x.shape) if keep or i != axis)),)


# -------------------------------------------------------------------------------- linear algebra, convolution


@rule("MatMul")
def matmul(node: Node) -> tuple[Type, ...]:
    a, b = _in(node, 0).type, _in(node, 1).type
    if a.dtype != b.dtype:
        raise fail(node, "operands of different dtypes")
    return (Type(a.dtype, matmul_shape(node, a.shape, b.shape)),)


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


@rule("MatMulInteger")
def matmul_integer(node: Node) -> tuple[Type, ...]:
    return (Type(DType.I32, matmul_shape(node, _in(node, 0).type.shape, _in(node, 1).type.shape)),)


@rule("Gemm")
def gemm(node: Node) -> tuple[Type, ...]:
    a, b = _in(node, 0).type, _in(node, 1).type
    left = a.shape[::-1] if node.attrs.get("transA") else a.shape
    right = b.shape[::-1] if node.attrs.get("transB") else b.shape
    return (Type(a.dtype, matmul_shape(node, left, right)),)


@rule("Einsum")
def einsum(node: Node) -> tuple[Type, ...]:
    left, arrow, right = str(node.attrs["equation"]).replace(" ", "").partition("->")
    sizes: dict[str, Dim] = {}
    for term, i in zip(left.split(","), range(len(node.inputs)), strict=True):
        for letter, d in zip(term, _in(node, i).type.shape, strict=True):
            if letter not in sizes or sizes[letter] == 1:
                sizes[letter] = d
    if not arrow:
        right = "".join(sorted(c for c in sizes if left.count(c) == 1))
    return (Type(_in(node, 0).type.dtype, tuple(sizes[c] for c in right)),)


def window_size(size: Dim, kernel: Dim, stride: int, low: Dim, high: Dim, dilation: int, ceil: bool = False) -> Dim:
    """How many positions a window has along one axis."""
    reach = dims.add(dims.mul(dims.sub(kernel, 1), dilation), 1)
    span = dims.sub(dims.add(dims.add(size, low), high), reach)
    steps = dims.ceildiv(span, stride) if ceil else dims.floordiv(span, stride)
    out = dims.add(steps if stride != 1 else span, 1)
    return out if dims.known_ge(out, 0) else dims.maximum(out, 0)


def _windows(node: Node, spatial: Sequence[Dim], kernel: Sequence[Dim]) -> list[Dim]:
    n = len(spatial)
    a: Any = node.attrs
    if a.get("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
        return [dims.ceildiv(d, s) for d, s in zip(spatial, a.get("strides", (1,) * n), strict=True)]
    strides, dilations, pads = a.get("strides", (1,) * n), a.get("dilations", (1,) * n), a.get("pads", (0,) * 2 * n)
    ceil = bool(a.get("ceil_mode", 0))
    return [window_size(spatial[i], kernel[i], strides[i], pads[i], pads[n + i], dilations[i], ceil) for i in range(n)]


@rule("Conv")
def conv(node: Node) -> tuple[Type, ...]:
    x, w = _in(node, 0).type, _in(node, 1).type
    group = node.attrs.get("group", 1)
    if x.rank != w.rank or x.shape[1] != dims.mul(w.shape[1], group):  # type: ignore[arg-type]
        raise fail(node, "the channels of operand and weights do not fit")
    return (x.with_shape((x.shape[0], w.shape[0], *_windows(node, x.shape[2:], w.shape[2:]))),)


@rule("ConvInteger")
def conv_integer(node: Node) -> tuple[Type, ...]:
    return (conv(node)[0].with_dtype(DType.I32),)


@rule("ConvTranspose")
def conv_transpose(node: Node) -> tuple[Type, ...]:
    x, w, a = _in(node, 0).type, _in(node, 1).type, node.attrs
    n = x.rank - 2
    get: Any = lambda name, default: a.get(name, default)  # noqa: E731
    strides, dilations, pads, extra = (
        get("strides", (1,) * n),
        get("dilations", (1,) * n),
        get("pads", (0,) * 2 * n),
        get("output_padding", (0,) * n),
    )
    spatial = [
        dims.sub(
            dims.add(
                dims.add(dims.mul(dims.sub(x.shape[2 + i], 1), strides[i]), extra[i]),
                dims.add(dims.mul(dims.sub(w.shape[2 + i], 1), dilations[i]), 1),
            ),
            pads[i] + pads[n + i],
        )
        for i in range(n)
    ]
    return (x.with_shape((x.shape[0], dims.mul(w.shape[1], get("group", 1)), *spatial)),)


@rule("MaxPool", "AveragePool", "LpPool")
def pool(node: Node) -> tuple[Type, ...]:
    x, kernel = _in(node, 0).type, node.attrs["kernel_shape"]
    return (x.with_shape((*x.shape[:2], *_windows(node, x.shape[2:], kernel))),)  # type: ignore[arg-type]


@rule("GlobalAveragePool", "GlobalMaxPool")
def global_pool(node: Node) -> tuple[Type, ...]:
    x = _in(node, 0).type
    return (x.with_shape((*x.shape[:2], *(1,) * (x.rank - 2))),)


@rule("LayerNormalization", "RMSNormalization", "BatchNormalization")
def normalization(node: Node) -> tuple[Type, ...]:
    return (_in(node, 0).type,)


@rule("DFT")
def dft(node: Node) -> tuple[Type, ...]:
    x = _in(node, 0).type
    known = _known(node, 2) if _opt(node, 2) is not None else (-2,)
    axis, length = int(known[0]) % x.rank, _known(node, 1)[0] if _opt(node, 1) is not None else None
    n = x.shape[axis] if length is None else length
    if node.attrs.get("onesided"):
        n = dims.add(dims.floordiv(n, 2), 1) if not node.attrs.get("inverse") else n
    return (x.with_shape((*x.shape[:axis], n, *x.shape[axis + 1 : -1], 2)),)


@rule("Det")
def det(node: Node) -> tuple[Type, ...]:
    x = _in(node, 0).type
    return (x.with_shape(x.shape[:-2]),)


@rule("Attention")
def attention(node: Node) -> tuple[Type, ...]:
    q, v = _in(node, 0).type, _in(node, 2).type
    if q.rank == 4:
        return (q.with_shape((*q.shape[:3], v.shape[3])),)
    heads, kv = node.attrs["q_num_heads"], node.attrs["kv_num_heads"]
    return (q.with_shape((*q.shape[:2], dims.mul(dims.floordiv(v.shape[2], kv), heads))),)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------- quantisation, control flow


@rule("QuantizeLinear")
def quantize(node: Node) -> tuple[Type, ...]:
    zero = _opt(node, 2)
    return (_in(node, 0).type.with_dtype(zero.type.dtype if zero is not None else DType.U8),)


@rule("DequantizeLinear")
def dequantize(node: Node) -> tuple[Type, ...]:
    return (_in(node, 0).type.with_dtype(_in(node, 1).type.dtype),)


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


def _contrib(kind: str, fn: Rule) -> None:
    CONTRIB[kind] = fn


for _kind in ("Gelu", "FastGelu", "QuickGelu", "BiasGelu", "RotaryEmbedding"):
    _contrib(_kind, same_as_first)
