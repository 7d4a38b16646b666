"""`weights_dtype`: large float weights are stored in another dtype.

Cast or DequantizeLinear gives them theirs. int8 is symmetric, with a scale for each output channel
(ONNX DequantizeLinear) and for each matrix of a stack (blocked, from opset 21): the largest magnitude
is 127. What is stored is computed while the model is written; so is the error, for the report.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from j2o.errors import SpecError
from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Value
from j2o.ir.tensor import CHUNK, SMALL, Box, Reader, Tensor, boxes
from j2o.ir.types import DType, Type
from j2o.ir.views import TensorView, axis_groups, unbroadcast
from j2o.passes.context import Context
from j2o.passes.pipeline import graph_pass

DTYPES = {"bfloat16": DType.BF16, "float16": DType.F16, "int8": DType.I8}
BLOCKED = 21  # the opset from which DequantizeLinear takes more than one axis of scales
NAMED = 4096  # bytes from which a matrix that is a weight of the user's counts as large
# the least scale: the inverse of a smaller one may be infinite. It is that of zeros, too: kernels that
# multiply integers leave a rest of some scales where the sum is 0
TINY = np.float32(1e-36)
# what takes a weight as it is stored
PRODUCTS = frozenset(["onnx.Conv", "onnx.ConvTranspose", "onnx.Gemm", "onnx.MatMul"])
# a box and its values → what is stored for them, and what that stands for
Convert: TypeAlias = "Callable[[Box, np.ndarray], tuple[np.ndarray, np.ndarray]]"


@graph_pass("weights_dtype", at="target", level=0, scope="root")
def weights_dtype(graph: Graph, context: Context) -> int:
    """Store large float weights as `compile(…, weights_dtype=…)` says."""
    dtype = context.options.weights_dtype
    if dtype is None:
        return 0
    count = 0
    for top in (graph, *graph.functions.values()):
        stored: dict[Tensor, Value] = {}
        for node in [n for n in top.walk() if n.op == "const"]:
            tensor: Tensor = node.attrs["value"]  # type: ignore[assignment]
            if not _is_weight(tensor, dtype):
                continue
            if tensor not in stored:
                op = Builder(top, top.start, node.loc, node.out.hint)
                stored[tensor] = _stored(op, node.out, tensor, dtype, context)
            node.replace_by(stored[tensor])
            count += 1
        for value in stored.values():
            _add_zero_point(value)
    return count


def _add_zero_point(value: Value) -> None:
    """Say that the zero point of a weight is the int8 0, where more than products take it.

    Behind a Gather onnxruntime up to 1.24 may quantise again, and without a zero point in uint8: then it does
    not load. Products with a zero point are slower.
    """
    node = value.producer
    if node.op == "onnx.Cast":
        node = node.operand(0).producer
    if node.op != "onnx.DequantizeLinear":
        return
    if all(user.op in PRODUCTS for user in node.out.users()):
        return
    weight, scale = node.operands
    op = Builder(node.home, node, node.loc, node.out.hint)
    zeros = np.zeros(scale.type.static_shape, weight.type.dtype.numpy)
    node.set_inputs([weight, scale, op.const(zeros)])


def _is_weight(tensor: Tensor, dtype: DType) -> bool:
    """Return True where a constant is a large float matrix or more, of the user's, in a wider dtype."""
    if not tensor.dtype.is_float or tensor.dtype.bits <= max(8, dtype.bits):
        return False
    least = NAMED if tensor.name else SMALL
    return len(tensor.shape) > 1 and tensor.nbytes > least


def _stored(
    op: Builder, value: Value, tensor: Tensor, dtype: DType, context: Context
) -> Value:
    """`value` made of what is stored for it."""
    if dtype == DType.I8:
        opset = context.target.opset if context.target is not None else 0
        return _quantised(op, tensor, _scaling(value, opset), context.errors)
    how = f"store[{dtype.value}]"
    stored = _measured(how, tensor, dtype, _narrow(dtype), context.errors)
    return op.cast(op.const(stored), tensor.dtype)


class Scaling(NamedTuple):
    """The axes of a weight along which elements share a scale, and the attributes that say so."""

    shared: tuple[int, ...]
    attrs: dict[str, int]


def _quantised(
    op: Builder, tensor: Tensor, scaling: Scaling, errors: dict[str, float]
) -> Value:
    """DequantizeLinear of a weight stored in int8."""
    shared, attrs = scaling
    kept = tuple(1 if k in shared else d for k, d in enumerate(tensor.shape))

    @functools.cache
    def scales() -> np.ndarray:
        return _scales(tensor, shared, kept)

    def convert(box: Box, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        steps = scales()[unbroadcast(box, kept)]
        back = array * (1 / steps)
        np.rint(back, out=back)
        stored = back.astype(np.int8)
        back *= steps
        return stored, back

    is_blocked = "block_size" in attrs
    shape = kept if is_blocked else (tensor.shape[attrs["axis"]],)
    type = Type(DType.F32, shape)

    def open_scales() -> Reader:
        return lambda box: scales().reshape(shape)[box]

    scale = TensorView(f"scale{list(shared)}", type, (tensor,), open_scales)
    scale.name = f"{scale.name}_scale"
    stored = _measured(f"int8{list(shared)}", tensor, DType.I8, convert, errors)
    back = op.DequantizeLinear(op.const(stored), op.const(scale), **attrs)
    return op.cast(back, tensor.dtype)


def _narrow(dtype: DType) -> Convert:
    """Round to a float dtype; finite values beyond float16's stay finite."""
    top = np.finfo(np.float16).max

    def convert(_: Box, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rounded = array
        if dtype == DType.F16:
            within = np.clip(array, -float(top), float(top))
            rounded = np.where(np.isfinite(array), within, array)
        stored = rounded.astype(dtype.numpy)
        return stored, stored.astype(array.dtype)

    return convert


def _measured(
    how: str, tensor: Tensor, dtype: DType, convert: Convert, errors: dict[str, float]
) -> TensorView:
    """A weight as `convert` stores it, box by box.

    Reading all of it leaves its error (relative, root mean square) in `errors`.
    """

    def open() -> Reader:
        read = tensor.reader()
        of_errors = np.zeros(())  # the sums of squares so far
        of_values = np.zeros(())

        def converted(box: Box) -> np.ndarray:
            array = read(box)
            with np.errstate(all="ignore"):
                stored, back = convert(box, array)
                error = np.subtract(back, array, out=back)
                of_errors[...] += _sum_of_squares(error)
                of_values[...] += _sum_of_squares(array)
                relative = float(np.sqrt(of_errors / of_values)) if of_errors else 0.0
                errors[tensor.name or tensor.key] = relative
            return stored

        return converted

    return TensorView(how, Type(dtype, tensor.shape), (tensor,), open)


def _sum_of_squares(array: np.ndarray) -> float:
    """The sum of the squares of all elements, in float32."""
    flat = array.astype(np.float32, copy=False).ravel("K")
    return np.dot(flat, flat)


def _scales(
    tensor: Tensor, reduced: tuple[int, ...], shape: tuple[int, ...]
) -> np.ndarray:
    """One scale for what lies along the `reduced` axes of a weight, read once.

    SpecError for one that is not finite.
    """
    largest = np.zeros(shape, np.float32)
    read = tensor.reader()
    for box in boxes(tensor.shape, CHUNK // tensor.dtype.numpy.itemsize):
        array = read(box)
        part = largest[unbroadcast(box, shape)]
        highest = array.max(reduced, keepdims=True)
        lowest = array.min(reduced, keepdims=True)
        with np.errstate(over="ignore"):
            np.maximum(part, highest.astype(np.float32), out=part)
            np.maximum(part, (-lowest).astype(np.float32), out=part)
    if not np.isfinite(largest).all():
        name = tensor.name or tensor.key
        what = f"{name!r} has values that are not finite in float32"
        raise SpecError(f"weights_dtype='int8': {what}; 'bfloat16' stores them")
    return np.maximum(largest / np.float32(127), TINY)


def _scaling(value: Value, opset: int) -> Scaling:
    """One scale for each channel of the result and each matrix of a stack, where the opset has that."""
    shape = value.type.static_shape
    summed = sorted(_summed(value))
    others = [axis for axis in range(len(shape)) if axis not in summed]
    if len(others) > 1 and len(summed) == 1 and opset >= BLOCKED:
        [blocked] = summed
        return Scaling((blocked,), {"axis": blocked, "block_size": shape[blocked]})
    channels = others[-1]
    shared = tuple(axis for axis in range(len(shape)) if axis != channels)
    return Scaling(shared, {"axis": channels})


def _summed(value: Value) -> set[int]:
    """The axes of a weight that its first known use sums over, or reads together.

    The rest are of outputs, or of a stack.
    """
    rank = value.type.rank
    for node, index in value.uses:
        match node.kind:
            case "MatMul" | "Gemm":
                is_turned = bool(node.attrs.get("transB" if index else "transA"))
                # the left operand is summed over its last axis, the right one over that before
                is_last = (index != 1) != is_turned
                return {rank - 1 if is_last else rank - 2}
            case "Conv" | "ConvTranspose":
                channels = 0 if node.kind == "Conv" else 1
                return set(range(rank)) - {channels}
            case "Gather" | "GatherND" if rank == 2:
                return {1}
            case "Transpose":
                perm = node.ints_attr("perm", range(rank)[::-1])
                return {perm[axis] for axis in _summed(node.out)}
            case "Reshape" | "Squeeze" | "Unsqueeze" if node.out.type.is_static:
                return _before_reshape(value, node.out, _summed(node.out))
            case "Cast" | "Identity":
                return _summed(node.out)
            case "Scan" | "Loop":
                # what is scanned over lacks the first axis in the body
                inner = node.graphs[0].inputs[index]
                return {k + rank - inner.type.rank for k in _summed(inner)}
            case "call":
                function = node.home.functions[node.str_attr("function")]
                return _summed(function.inputs[index])
    return {rank - 2}


def _before_reshape(value: Value, reshaped: Value, summed: set[int]) -> set[int]:
    """The axes of a value that become those which are summed over in a new shape of it."""
    axes: set[int] = set()
    groups = axis_groups(value.type.static_shape, reshaped.type.static_shape)
    for old, new in groups:
        if summed & {*range(new.start, new.stop)}:
            axes |= {*range(old.start, old.stop)}
    return axes
