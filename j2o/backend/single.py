"""Single operators in onnxruntime: one node of a graph, run on arrays.

The models of one node are written here, not by `proto.py`: so what this file computes tells whether
that one writes what a graph says.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import onnx

from j2o.backend.proto import ONNX_DTYPES, ir_version
from j2o.backend.session import Session
from j2o.errors import LoadError, shown
from j2o.ir.graph import Node
from j2o.ir.onnx_ops import CONTRIB
from j2o.ir.ops import LABEL
from j2o.ir.tensor import Tensor
from j2o.ir.types import Attr, DType, dtype_of, exact_attrs

KINDS = onnx.AttributeProto.AttributeType
DOMAINS = {"onnx": "", "ort": CONTRIB}


class SingleOperators:
    """Runs nodes of ONNX operators without regions; a session is made once for nodes that are alike."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.sessions: dict[Hashable, Session | LoadError] = {}

    def run(
        self, node: Node, operands: Sequence[np.ndarray | None]
    ) -> list[np.ndarray]:
        """The results of a node, in order.

        LoadError where onnxruntime has no such operator for these dtypes, J2OError where it does not
        take these values.
        """
        session = self.session(node, operands)
        feeds = {f"x{i}": x for i, x in enumerate(operands) if x is not None}
        return session.run(feeds)

    def session(self, node: Node, operands: Sequence[np.ndarray | None]) -> Session:
        """The session of a node."""
        kinds = tuple([None if x is None else (x.dtype, x.ndim) for x in operands])
        results = tuple([value.type.dtype for value in node.outputs])
        key = (node.op, exact_attrs(node.attrs), kinds, results)
        if key not in self.sessions:
            try:
                model = one_node_model(node, operands, self.opset)
                self.sessions[key] = Session(model, optimise=False, threads=1)
            except LoadError as error:
                self.sessions[key] = error
        found = self.sessions[key]
        if isinstance(found, LoadError):
            raise found
        return found


def one_node_model(
    node: Node, operands: Sequence[np.ndarray | None], opset: int
) -> onnx.ModelProto:
    """A model of one node; its inputs `x0`, `x1`, … have the dtypes and ranks of the operands."""
    domain = DOMAINS.get(node.dialect, node.dialect)
    made = onnx.NodeProto(op_type=node.kind, domain=domain)
    graph = onnx.GraphProto(name="one_node", node=[made])
    inner = graph.node[0]
    for i, operand in enumerate(operands):
        inner.input.append("" if operand is None else f"x{i}")
        if operand is not None:
            _declare(graph.input.add(), f"x{i}", dtype_of(operand.dtype), operand.ndim)
    for i, value in enumerate(node.outputs):
        inner.output.append(f"y{i}")
        _declare(graph.output.add(), f"y{i}", value.type.dtype, None)
    for name, value in node.attrs.items():
        if name != LABEL:
            _set_attribute(inner.attribute.add(), name, value)
    model = onnx.ModelProto(ir_version=ir_version(opset), graph=graph)
    model.opset_import.add(version=opset)
    if domain:
        model.opset_import.add(domain=domain, version=1)
    return model


def _declare(info: Any, name: str, dtype: DType, rank: int | None) -> None:
    """Write the name and the type of an input or output; its sizes stay open."""
    info.name = name
    tensor = info.type.tensor_type
    tensor.elem_type = int(ONNX_DTYPES[dtype])
    if rank is None:
        return
    tensor.shape.SetInParent()
    for _ in range(rank):
        tensor.shape.dim.add()


def _set_attribute(made: Any, name: str, value: Attr) -> None:
    """Write one attribute; LoadError where it has no form in ONNX."""
    made.name = name
    if isinstance(value, DType):
        value = int(ONNX_DTYPES[value])
    if isinstance(value, bool | int):
        made.type, made.i = KINDS.INT, int(value)
    elif isinstance(value, float):
        made.type, made.f = KINDS.FLOAT, value
    elif isinstance(value, str):
        made.type, made.s = KINDS.STRING, value.encode()
    elif isinstance(value, Tensor):
        made.type = KINDS.TENSOR
        made.t.CopyFrom(_tensor(value))
    elif isinstance(value, tuple):
        _set_list(made, value)
    else:
        raise LoadError(f"attribute {name}={shown(value)} has no ONNX form")


def _set_list(made: Any, values: tuple[Any, ...]) -> None:
    """Write a list of texts, of floats where one of them is a float, or of integers."""
    if values and all(isinstance(value, str) for value in values):
        made.type = KINDS.STRINGS
        made.strings.extend([value.encode() for value in values])
    elif any(isinstance(value, float) for value in values):
        made.type = KINDS.FLOATS
        made.floats.extend(values)
    else:
        made.type = KINDS.INTS
        made.ints.extend(values)


def _tensor(value: Tensor) -> onnx.TensorProto:
    """A tensor of an attribute."""
    array = np.ascontiguousarray(value.load())
    dtype = int(ONNX_DTYPES[value.dtype])
    made = onnx.TensorProto(data_type=dtype, dims=value.shape)
    if value.dtype is DType.STRING:
        made.string_data.extend([str(text).encode() for text in array.flat])
    else:
        made.raw_data = array.tobytes()
    return made
