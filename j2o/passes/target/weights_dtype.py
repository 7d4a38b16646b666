"""`weights_dtype`: large float weights are stored in another dtype, and a Cast or DequantizeLinear gives them back theirs.

int8 is symmetric, with a scale for each output channel (ONNX DequantizeLinear) and for each matrix of a stack (blocked, from
opset 21): the largest magnitude is 127. What is stored is computed while the model is written; so is the error, for the report.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from j2o.errors import SpecError
from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Value
from j2o.ir.tensor import CHUNK, SMALL, Box, Reader, Tensor, boxes
from j2o.ir.types import DType, Type
from j2o.ir.views import View, axis_groups, unbroadcast
from j2o.passes.context import Context
from j2o.passes.pipeline import graph_pass

DTYPES = {"bfloat16": DType.BF16, "float16": DType.F16, "int8": DType.I8}
BLOCKED = 21  # the opset from which DequantizeLinear takes more than one axis of scales
NAMED = 4096  # bytes from which a matrix that is a weight of the user's counts as large

TINY = np.float32(
    1e-36
)  # largest magnitudes below this are stored as zeros: the inverse of their scale is none
# a box and its values → what is stored for them, and what that stands for
Convert: TypeAlias = "Callable[[Box, np.ndarray], tuple[np.ndarray, np.ndarray]]"


@graph_pass("weights_dtype", at="target", level=0, scope="root")
def weights_dtype(graph: Graph, context: Context) -> int:
    """Store large float weights as `compile(…, weights_dtype=…)` says."""
    dtype = DTYPES.get(context.options.get("weights_dtype") or "")
    if dtype is None:
        return 0
    count, opset = 0, context.target.opset if context.target is not None else 0
    for top in (graph, *graph.functions.values()):
        given: dict[Tensor, Value] = {}
        for node in [n for n in top.walk() if n.op == "const"]:
            tensor: Tensor = node.attrs["value"]  # type: ignore[assignment]
            if not _is_weight(tensor, dtype):
                continue
            if tensor not in given:
                op = Builder(top, top.start, node.loc, node.out.hint)
                given[tensor] = _stored(
                    op, node.out, tensor, dtype, context.errors, opset
                )
            node.replace_by(given[tensor])
            count += 1
    return count


def _is_weight(tensor: Tensor, dtype: DType) -> bool:
    """Whether a constant is a large float matrix or more, of the user's, in a wider dtype."""
    is_wider = tensor.dtype.is_float and tensor.dtype.bits > max(8, dtype.bits)
    return (
        is_wider
        and len(tensor.shape) > 1
        and tensor.nbytes > (NAMED if tensor.name else SMALL)
    )


def _stored(
    op: Builder,
    value: Value,
    tensor: Tensor,
    dtype: DType,
    errors: dict[str, float],
    opset: int,
) -> Value:
    """`value` made of what is stored for it."""
    if dtype != DType.I8:
        return op.cast(
            op.const(
                _measured(
                    f"store[{dtype.value}]", tensor, dtype, _narrow(dtype), errors
                )
            ),
            tensor.dtype,
        )
    reduced, where = _scaling(value, opset)
    kept = tuple(1 if k in reduced else d for k, d in enumerate(tensor.shape))
    scales = functools.cache(lambda: _scales(tensor, reduced, kept))

    def convert(box: Box, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        steps = scales()[unbroadcast(box, kept)]
        back = array * (1 / steps)
        np.rint(back, out=back)
        stored = back.astype(np.int8)
        back *= steps
        return stored, back

    shape = kept if "block_size" in where else (tensor.shape[where["axis"]],)
    type = Type(DType.F32, shape)
    scale = View(
        f"scale{list(reduced)}",
        type,
        (tensor,),
        lambda: lambda box: scales().reshape(shape)[box],
    )
    scale.name = f"{scale.name}_scale"
    stored = _measured(f"int8{list(reduced)}", tensor, dtype, convert, errors)
    return op.cast(
        op.DequantizeLinear(op.const(stored), op.const(scale), **where), tensor.dtype
    )


def _narrow(dtype: DType) -> Convert:
    """Rounds to a float dtype; finite values beyond float16's stay finite."""
    top = float(np.finfo(np.float16).max) if dtype == DType.F16 else math.inf

    def convert(_: Box, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        finite = (
            np.where(np.isfinite(array), np.clip(array, -top, top), array)
            if top < math.inf
            else array
        )
        stored = finite.astype(dtype.numpy)
        return stored, stored.astype(array.dtype)

    return convert


def _measured(
    how: str, tensor: Tensor, dtype: DType, convert: Convert, errors: dict[str, float]
) -> View:
    """What `convert` makes of a weight, box by box; reading all of it leaves its error (relative, root mean square) in `errors`."""

    def open() -> Reader:
        read, sums = tensor.reader(), np.zeros(2)

        def converted(box: Box) -> np.ndarray:
            array = read(box)
            with np.errstate(all="ignore"):
                stored, back = convert(box, array)
                for i, part in enumerate((np.subtract(back, array, out=back), array)):
                    flat = part.astype(np.float32, copy=False).ravel("K")
                    sums[i] += np.dot(flat, flat)
                errors[tensor.name or tensor.key] = (
                    float(np.sqrt(sums[0] / sums[1])) if sums[0] else 0.0
                )
            return stored

        return converted

    return View(how, Type(dtype, tensor.shape), (tensor,), open)


def _scales(
    tensor: Tensor, reduced: tuple[int, ...], shape: tuple[int, ...]
) -> np.ndarray:
    """One scale for what lies along the `reduced` axes of a weight, which is read once; SpecError where one is not finite."""
    largest, read = np.zeros(shape, np.float32), tensor.reader()
    for box in boxes(tensor.shape, CHUNK // tensor.dtype.numpy.itemsize):
        array, part = read(box), largest[unbroadcast(box, shape)]
        for extreme in (
            array.max(reduced, keepdims=True),
            -array.min(reduced, keepdims=True),
        ):
            with np.errstate(over="ignore"):
                np.maximum(part, extreme.astype(np.float32), out=part)
    if not np.isfinite(largest).all():
        what = f"weights_dtype='int8': {(tensor.name or tensor.key)!r} has values that are not finite in float32"
        raise SpecError(f"{what}; 'bfloat16' stores them")
    return np.where(largest < TINY, np.float32(1), largest / np.float32(127))


def _scaling(value: Value, opset: int) -> tuple[tuple[int, ...], dict[str, int]]:
    """The axes along which elements share a scale, and the attributes of DequantizeLinear that say so."""
    shape, summed = value.type.shape, sorted(_summed(value))
    others = [k for k in range(len(shape)) if k not in summed]
    if len(others) > 1 and len(summed) == 1 and opset >= BLOCKED:
        return tuple(summed), {"axis": summed[0], "block_size": shape[summed[0]]}  # type: ignore[dict-item]
    return tuple(k for k in range(len(shape)) if k != others[-1]), {"axis": others[-1]}


def _summed(value: Value) -> set[int]:
    """The axes of a weight that its first known use sums over, or reads together; the rest are of outputs, or of a stack."""
    rank = value.type.rank
    for node, index in value.uses:
        match node.kind:
            case "MatMul" | "Gemm":
                turned = bool(node.attrs.get("transB" if index else "transA"))
                return {rank - 2 if (index == 1) != turned else rank - 1}
            case "Conv" | "ConvTranspose":
                return set(range(rank)) - {int(node.kind != "Conv")}
            case "Gather" | "GatherND" if rank == 2:
                return {1}
            case "Transpose":
                perm = node.attrs.get("perm") or tuple(range(rank))[::-1]
                return {perm[k] for k in _summed(node.out)}  # type: ignore[index, misc]
            case "Reshape" | "Squeeze" | "Unsqueeze" if node.out.type.is_static:
                summed, groups = (
                    _summed(node.out),
                    axis_groups(value.type.shape, node.out.type.shape),
                )  # type: ignore[arg-type]
                axes = [
                    range(old.start, old.stop)
                    for old, new in groups
                    if summed & {*range(new.start, new.stop)}
                ]
                return {*itertools.chain(*axes)}
            case "Cast" | "Identity":
                return _summed(node.out)
            case (
                "Scan" | "Loop"
            ):  # what is scanned over lacks the first axis in the body
                inner = node.graphs[0].inputs[index]
                return {k + rank - inner.type.rank for k in _summed(inner)}
            case "call":
                return _summed(
                    node.graph.functions[str(node.attrs["function"])].inputs[index]
                )  # type: ignore[union-attr]
    return {rank - 2}
