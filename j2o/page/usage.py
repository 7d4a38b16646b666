"""How to run a model: a few lines of Python for exactly its inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from j2o.backend.proto import ONNX_DTYPES
from j2o.backend.session import is_numpys_own
from j2o.errors import DimensionError
from j2o.ir import dims
from j2o.ir.graph import Graph
from j2o.ir.types import Type
from j2o.numeric_check import sizes_that_fit, symbols_of


def snippet(graph: Graph, file: str) -> str:
    """Return a program that runs the model in a file at zeros, in onnxruntime, and prints what comes out."""
    types = [value.type for value in (*graph.inputs, *graph.outputs)]
    is_plain = all(is_numpys_own(type.dtype) for type in types)
    lines = _plain(graph, file) if is_plain else _by_ort_values(graph, file)
    return "\n".join(lines) + "\n"


def _plain(graph: Graph, file: str) -> Iterator[str]:
    """The program of a model whose dtypes numpy has."""
    yield "import numpy as np"
    yield from _session(file)
    yield from _feeds(graph, "np.zeros({shape}, {dtype!r})")
    yield "outputs = session.run(None, inputs)"
    yield "for output, array in zip(session.get_outputs(), outputs):"
    yield "    print(output.name, array.dtype, array.shape)"


def _by_ort_values(graph: Graph, file: str) -> Iterator[str]:
    """The program of a model with dtypes that onnxruntime has, and numpy has not."""
    yield "import ctypes"
    yield ""
    yield from _session(file)
    yield "# numpy lacks some of these dtypes: they go in and out as onnxruntime's own values"
    yield "make = ort.OrtValue.ortvalue_from_shape_and_type"
    yield from _feeds(graph, "make({shape}, {number})")
    yield "for value in inputs.values():  # all zeros; put your own bytes there"
    yield "    ctypes.memset(value.data_ptr(), 0, value.tensor_size_in_bytes())"
    yield "names = [output.name for output in session.get_outputs()]"
    yield "outputs = session.run_with_ort_values(names, inputs)"
    yield "for name, value in zip(names, outputs):"
    yield "    print(name, value.data_type(), value.shape())"


def _session(file: str) -> Iterator[str]:
    yield "import onnxruntime as ort"
    yield ""
    yield f"session = ort.InferenceSession({file!r})"


def _feeds(graph: Graph, make: str) -> Iterator[str]:
    """A line for each input."""
    try:
        sizes = sizes_that_fit(graph)
    except DimensionError:
        sizes = dict.fromkeys(symbols_of(graph), 1)
        yield "# the sizes below may break a constraint: none that fit were found"
    yield "inputs = {"
    for name, value in zip(graph.input_names, graph.inputs, strict=True):
        made = _made(make, value.type, sizes)
        yield f"    {name!r}: {made},{_remark(value.type)}"
    yield "}"


def _made(make: str, type: Type, sizes: Mapping[str, int]) -> str:
    shape = [dims.evaluate(size, sizes) for size in type.shape]
    number = int(ONNX_DTYPES[type.dtype])
    return make.format(shape=shape, dtype=type.dtype.numpy.name, number=number)


def _remark(type: Type) -> str:
    """The dtype where numpy lacks it, and the sizes where some are symbolic."""
    remarks: list[str] = []
    if not is_numpys_own(type.dtype):
        remarks.append(type.dtype.numpy.name)
    if any(dims.is_symbolic(size) for size in type.shape):
        remarks.append(f"[{', '.join(map(str, type.shape))}]")
    return f"  # {' '.join(remarks)}" if remarks else ""
