"""`weights_dtype`: large float weights are stored in another dtype, and a Cast or DequantizeLinear gives them back theirs.

int8 is symmetric, with a scale for each output channel (ONNX DequantizeLinear) and for each matrix of a stack (blocked, from
opset 21): the largest magnitude is 127. What is stored is computed while the model is written; so is the error, for the report.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from j2o.errors import SpecError
from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Value
from j2o.ir.tensor import CHUNK, SMALL, Box, Reader, Tensor, boxes
from j2o.ir.types import DType, Type
from j2o.ir.views import View, axis_groups
from j2o.passes.pipeline import Context, graph_pass

DTYPES = {"bfloat16": DType.BF16, "float16": DType.F16, "int8": DType.I8}
BLOCKED = 21  # the opset from which DequantizeLinear takes more than one axis of scales
NAMED = 4096  # bytes from which a matrix that is a weight of the user's counts as large

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
                given[tensor] = _stored(op, node.out, tensor, dtype, context.errors, opset)
            node.replace_by(given[tensor])
            count += 1
    return count


def _is_weight(tensor: Tensor, dtype: DType) -> bool:
    """Whether a constant is a large float matrix or more, of the user's, in a wider dtype."""
    is_wider = tensor.dtype.is_float and tensor.dtype.bits > max(8, dtype.bits)
    return is_wider and len(tensor.shape) > 1 and tensor.nbytes > (NAMED if tensor.name else SMALL)


def _stored(op: Builder, value: Value, tensor: Tensor, dtype: DType, errors: dict[str, float], opset: int) -> Value:
    """`value` made of what is stored for it."""
    name = tensor.name or tensor.key
    if dtype != DType.I8:
        top = float(np.finfo(np.float16).max) if dtype == DType.F16 else math.inf

        def narrow(box: Box, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            finite = np.where(np.isfinite(array), np.clip(array, -top, top), array) if top < math.inf else array
            stored = finite.astype(dtype.numpy)
            return stored, stored.astype(array.dtype)

        return op.cast(
            op.const(_Measured(f"store[{dtype.value}]", tensor, dtype, lambda: narrow, name, errors)), tensor.dtype
        )
    reduced, where = _scaling(value, opset)
    scales = _Scales(tensor, reduced, name, keep="block_size" in where)

    def quantise() -> Convert:
        scale = scales.values

        def part(box: Box, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            steps = scale[scales.within(box)]
            stored = np.rint(array / steps)
            return stored.astype(np.int8), stored * steps

        return part

    stored = op.const(_Measured(f"int8{list(reduced)}", tensor, dtype, quantise, name, errors))
    return op.cast(op.DequantizeLinear(stored, op.const(scales), **where), tensor.dtype)


class _Measured(View):
    """What is stored for a weight; reading all of it leaves its error (root mean square, relative) in `errors`.

    `start()` gives a function of a box and its values, which gives what is stored for them and what that stands for.
    """

    __slots__ = ()

    def __init__(
        self,
        how: str,
        tensor: Tensor,
        dtype: DType,
        start: Callable[[], Convert],
        name: str,
        errors: dict[str, float],
    ) -> None:
        def open() -> Reader:
            read, convert, sums = tensor.reader(), start(), np.zeros(2)

            def converted(box: Box) -> np.ndarray:
                array = read(box)
                with np.errstate(all="ignore"):
                    stored, back = convert(box, array)
                    for i, part in enumerate((back - array, array)):
                        flat = part.astype(np.float32, copy=False).ravel("K")
                        sums[i] += np.dot(flat, flat)
                    errors[name] = float(np.sqrt(sums[0] / sums[1])) if sums[0] else 0.0
                return stored

            return converted

        super().__init__(how, Type(dtype, tensor.shape), (tensor,), open)


class _Scales(View):
    """One scale for what lies along the `reduced` axes of a weight; SpecError where it is not finite."""

    def __init__(self, tensor: Tensor, reduced: tuple[int, ...], name: str, keep: bool) -> None:
        self.tensor, self.reduced = tensor, reduced
        shape = tuple(1 if k in reduced else d for k, d in enumerate(tensor.shape))
        type = Type(DType.F32, shape if keep else tuple(d for k, d in enumerate(shape) if k not in reduced))
        super().__init__(
            f"scale{list(reduced)}",
            type,
            (tensor,),
            lambda: lambda box: self.values.reshape(type.shape)[box],  # type: ignore[arg-type]
        )
        self.name = f"{name}_scale"

    def within(self, box: Box) -> Box:
        """The scales of a box of the weight."""
        return tuple(slice(0, 1) if k in self.reduced else s for k, s in enumerate(box))

    @functools.cached_property
    def values(self) -> np.ndarray:
        """The scales, with axes of size 1 for those reduced, found by reading the weight once."""
        largest = np.zeros([1 if k in self.reduced else d for k, d in enumerate(self.tensor.shape)], np.float32)
        read = self.tensor.reader()
        for box in boxes(self.tensor.shape, CHUNK // self.tensor.dtype.numpy.itemsize):
            array, part = read(box), largest[self.within(box)]
            for extreme in (array.max(self.reduced, keepdims=True), -array.min(self.reduced, keepdims=True)):
                np.maximum(part, extreme.astype(np.float32), out=part)
        if not np.isfinite(largest).all():
            what = (
                f"weights_dtype='int8': {self.name.removesuffix('_scale')!r} has values that are not finite in float32"
            )
            raise SpecError(f"{what}; 'bfloat16' stores them")
        return np.where(largest == 0, np.float32(1), largest / np.float32(127))


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
                summed, groups = _summed(node.out), axis_groups(value.type.shape, node.out.type.shape)  # type: ignore[arg-type]
                return {
                    k
                    for old, new in groups
                    if summed & {*range(new.start, new.stop)}
                    for k in range(old.start, old.stop)
                }
            case "Cast" | "Identity":
                return _summed(node.out)
            case "Scan" | "Loop":  # what is scanned over lacks the first axis in the body
                inner = node.graphs[0].inputs[index]
                return {k + rank - inner.type.rank for k in _summed(inner)}
            case "call":
                return _summed(node.graph.functions[str(node.attrs["function"])].inputs[index])  # type: ignore[union-attr]
    return {rank - 2}
