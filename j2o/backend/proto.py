"""Graph → ONNX protobuf, by way of onnx-ir.

Constants become initializers of the main graph, wherever they stand (in functions: Constant nodes). Every
value gets a unique readable name from its hint, and every value its type with symbolic sizes, as
`value_info`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from j2o.backend.names import Names, clean, operator_name, own_name
from j2o.errors import InvalidGraphError, PassError, SaveError, shown
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.onnx_ops import CONTRIB, GRAPH_ATTRIBUTES
from j2o.ir.ops import LABEL
from j2o.ir.places import portable
from j2o.ir.scopes import Scope, scopes
from j2o.ir.tensor import Tensor
from j2o.ir.types import NOT_COPIED, Attr, DType, Type, dim_text

if TYPE_CHECKING:
    import onnx

FUNCTION_DOMAIN = "j2o"
# key in the model's metadata: what the symbolic sizes must fulfil
CONSTRAINTS = "constraints"
# key in a node's metadata: its module, as the exporter of torch writes it and model-explorer groups by it
NAMESPACE = "namespace"
LIMIT = 2**31 - 2**20  # protobuf refuses messages of 2 GiB
_ONNX_NAMES = {
    DType.BOOL: "BOOL",
    DType.STRING: "STRING",
    DType.F64: "DOUBLE",
    DType.F32: "FLOAT",
    DType.F16: "FLOAT16",
    DType.BF16: "BFLOAT16",
    DType.F8E4M3FN: "FLOAT8E4M3FN",
    DType.F8E4M3FNUZ: "FLOAT8E4M3FNUZ",
    DType.F8E5M2: "FLOAT8E5M2",
    DType.F8E5M2FNUZ: "FLOAT8E5M2FNUZ",
    DType.F8E8M0FNU: "FLOAT8E8M0",
    DType.F4E2M1FN: "FLOAT4E2M1",
    DType.C64: "COMPLEX64",
    DType.C128: "COMPLEX128",
    **{DType(f"i{bits}"): f"INT{bits}" for bits in (2, 4, 8, 16, 32, 64)},
    **{DType(f"u{bits}"): f"UINT{bits}" for bits in (2, 4, 8, 16, 32, 64)},
}
# an older onnx-ir lacks the youngest of them
ONNX_DTYPES: dict[DType, ir.DataType] = {
    dtype: ir.DataType[name]
    for dtype, name in _ONNX_NAMES.items()
    if name in ir.DataType.__members__
}
# the IR version that came with an opset; a runtime that knows the opset knows the version
_IR_VERSIONS = ((25, 13), (24, 12), (23, 11), (21, 10), (19, 9), (0, 8))
# the first IR version in which values of functions have types
FUNCTIONS_WITH_SHAPES = 10


def ir_version(opset: int) -> int:
    """Return the oldest IR version that may be used with an opset."""
    return next(version for first, version in _IR_VERSIONS if opset >= first)


def to_proto(graph: Graph, opset: int, sources: bool = True) -> onnx.ModelProto:
    """Return the whole model as one message, weights inside.

    With `sources`, nodes carry the line and the module of the program that they come from. SaveError above
    protobuf's 2 GiB, PassError where operations are left that are not ONNX.
    """
    model, constants = to_parts(graph, opset, sources)
    total = sum(t.nbytes for t in constants.values())
    if total > LIMIT:
        raise SaveError(
            f"the model has {total / 2**30:.1f} GiB of weights, "
            "a protobuf message holds 2 GiB: save it with external_data=True"
        )
    model.graph.initializer.extend(
        initializer(key, tensor) for key, tensor in constants.items()
    )
    return model


def to_parts(
    graph: Graph, opset: int, sources: bool = True
) -> tuple[onnx.ModelProto, dict[str, Tensor]]:
    """Return a root graph as a model that lacks its initializers, and these by name. Nothing large is read.

    With `sources`, nodes carry the line and the module of the program that they come from. PassError where
    operations are left that are not ONNX.
    """
    _check_lowered(graph)
    writer = _GraphWriter(opset, sources, scopes(graph))
    model = ir.to_proto(writer.model(graph))
    stored = [*writer.initializers.items(), *writer.constant_outputs]
    return model, {str(value.name): tensor for tensor, value in stored}


def without_data(graph: Graph, opset: int) -> tuple[onnx.ModelProto, dict[str, Tensor]]:
    """Return a root graph as a model whose initializers have names and types alone, and these by name.

    It is good to look at; nothing large is read. PassError as `to_parts` raises it.
    """
    model, constants = to_parts(graph, opset)
    for name, tensor in constants.items():
        model.graph.initializer.append(initializer(name, tensor, data=False))
    return model, constants


def _check_lowered(graph: Graph) -> None:
    """PassError for a graph that has not been lowered to the end, which is good to look at alone."""
    tops = (*graph.functions.values(), graph)
    left = [node for top in tops for node in _not_onnx(top)]
    if not left:
        return
    first = left[0]
    prefix = f"{first.dialect}." if first.dialect else ""
    more = f" and {len(left) - 1} more operations are" if len(left) > 1 else " is"
    raise PassError(
        f"the model cannot be written or run: {prefix}{first.described}{more} not ONNX; "
        "its pipeline is without 'lower' or 'materialize', or a pass after them made it"
    )


def _not_onnx(graph: Graph) -> Iterator[Node]:
    """The nodes of a graph and its regions that have no form in ONNX."""
    if any(count and _is_inner(op) for op, count in graph.ops.items()):
        yield from (node for node in graph if _is_inner(node.op))
    for node in graph.holders:
        for region in node.graphs:
            yield from _not_onnx(region)


def _is_inner(op: str) -> bool:
    """Return True for an operation of the IR's own, which passes are to replace."""
    is_core = "." not in op and op not in ("const", "call", "return")
    return is_core or op.startswith("lax.")


def initializer(name: str, tensor: Tensor, data: bool = True) -> onnx.TensorProto:
    """Return a constant as a TensorProto; without `data`, only its name, dtype and shape."""
    import onnx

    made = onnx.TensorProto(
        name=name, data_type=int(ONNX_DTYPES[tensor.dtype]), dims=tensor.shape
    )
    if data and tensor.dtype is DType.STRING:
        made.string_data.extend(str(s).encode() for s in tensor.load().flat)
    elif data:
        made.raw_data = b"".join(raw_chunks(tensor))
    return made


def raw_chunks(tensor: Tensor) -> Iterator[memoryview]:
    """Yield the bytes of a constant as ONNX's `raw_data` has them.

    They are little-endian; elements of less than a byte are packed from the low bits on.
    """
    if tensor.dtype.bits < 8:
        yield memoryview(packed(tensor.load(), tensor.dtype.bits))
        return
    for chunk in tensor.chunks():
        if chunk.size:
            yield np.ascontiguousarray(chunk).reshape(-1).view(np.uint8).data


def packed(array: np.ndarray, bits: int) -> bytes:
    """Return elements of 2 or 4 bits as ONNX stores them, from the low bits of each byte on."""
    per_byte = 8 // bits
    elements = array.reshape(-1).view(np.uint8) & ((1 << bits) - 1)
    padding = np.zeros(-elements.size % per_byte, np.uint8)
    rows = np.concatenate([elements, padding]).reshape(-1, per_byte)
    shifts = (np.arange(per_byte) * bits).astype(np.uint8)
    made = np.bitwise_or.reduce(rows << shifts, axis=1)
    return made.astype(np.uint8).tobytes()


def unpacked(data: bytes, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    """Return what `packed` made as an array of that dtype and shape."""
    per_byte = 8 // dtype.bits
    shifts = (np.arange(per_byte) * dtype.bits).astype(np.uint8)
    mask = (1 << dtype.bits) - 1
    rows = np.frombuffer(data, np.uint8)[:, None] >> shifts & mask
    elements = rows.reshape(-1)[: math.prod(shape)]
    if dtype.is_signed:
        sign = 1 << (dtype.bits - 1)
        elements = (elements ^ sign).astype(np.int8) - sign
    if dtype.is_float:
        elements = elements.view(dtype.numpy)
    return elements.astype(dtype.numpy).reshape(shape)


class _GraphWriter:
    """Writes the graphs of one model, or with `in_function` those of one function."""

    def __init__(
        self,
        opset: int,
        sources: bool,
        scopes: Mapping[Node, Scope],
        in_function: bool = False,
    ) -> None:
        self.opset = opset
        self.sources = sources
        self.scopes = scopes
        self.in_function = in_function
        self.values: dict[Value, ir.Value] = {}
        self.initializers: dict[Tensor, ir.Value] = {}
        self.constant_outputs: list[tuple[Tensor, ir.Value]] = []
        self.domains: dict[str, int] = {"": opset}
        self.types: dict[Type, tuple[ir.TensorType, ir.Shape]] = {}
        self.names = Names()
        self.nodes = Names()
        self.written: list[ir.Node] = []

    def model(self, graph: Graph) -> ir.Model:
        """The whole model, without the contents of its initializers."""
        self.names = Names((*graph.input_names, *graph.output_names))
        functions = [self.function(key, f) for key, f in graph.functions.items()]
        if functions:
            self.domains[FUNCTION_DOMAIN] = 1
        constraints = "; ".join(graph.dims.constraints)
        needed = FUNCTIONS_WITH_SHAPES if functions else 0
        main = self.main(graph)
        self.tell_apart()
        return ir.Model(
            main,
            ir_version=max(ir_version(self.opset), needed),
            producer_name="j2o",
            functions=functions,
            metadata_props={CONSTRAINTS: constraints} if constraints else None,
        )

    def main(self, graph: Graph) -> ir.Graph:
        """The root graph; its inputs and outputs keep their names."""
        inputs = [
            self.make(value, input_name)
            for value, input_name in zip(graph.inputs, graph.input_names, strict=True)
        ]
        results = list(zip(graph.outputs, graph.output_names, strict=True))
        for value, output_name in results:
            if value not in self.values and _is_made_in(graph, value):
                self.make(value, output_name)
        nodes: list[ir.Node] = []
        self.body(graph, nodes)
        outputs = [self.output(value, n, nodes) for value, n in results]
        return ir.Graph(
            inputs, outputs, nodes=nodes, opset_imports=self.domains, name=graph.name
        )

    def output(self, value: Value, name: str, nodes: list[ir.Node]) -> ir.Value:
        """An output of the model under its name, copied where it is none of its own."""
        if value.const is not None and value.type.dtype in NOT_COPIED:
            made = self.new(value, name)
            self.constant_outputs.append((value.const, made))
            return made
        made = self.operand(value)
        return made if made.name == name else self.copy(value, name, nodes)

    # ------------------------------------------------------------------ values

    def type_of(self, type: Type) -> tuple[ir.TensorType, ir.Shape]:
        """A type as onnx-ir has it; sizes that are no numbers as text."""
        if type not in self.types:
            sizes = [d if isinstance(d, int) else dim_text(d) for d in type.shape]
            element = ir.TensorType(ONNX_DTYPES[type.dtype])
            self.types[type] = (element, ir.Shape(sizes))
        return self.types[type]

    def new(self, value: Value, name: str) -> ir.Value:
        """A value of this name and of the type of `value`."""
        type, shape = self.type_of(value.type)
        return ir.Value(name=name, type=type, shape=shape.copy())

    def make(self, value: Value, name: str) -> ir.Value:
        """The value that stands for `value` from here on."""
        made = self.values[value] = self.new(value, name)
        return made

    def named(self, value: Value, otherwise: str) -> ir.Value:
        """`make`, with a name from the value's hint."""
        return self.make(value, self.names.fresh(clean(value.hint) or otherwise))

    def copy(self, value: Value, name: str, nodes: list[ir.Node]) -> ir.Value:
        """A value of its own with the contents of another.

        An Identity makes it, or two casts where that has no kernel for the dtype.
        """
        out = self.new(value, name)
        source = self.operand(value)
        dtype = value.type.dtype
        if dtype not in NOT_COPIED:
            nodes.append(self.unary("Identity", source, out))
            return out
        wider = _wider(dtype)
        between = ir.Value(
            name=self.names.fresh(f"{name}_wide"),
            type=ir.TensorType(ONNX_DTYPES[wider]),
        )
        nodes.append(self.unary("Cast", source, between, _attribute("to", wider)))
        nodes.append(self.unary("Cast", between, out, _attribute("to", dtype)))
        return out

    def unary(self, kind: str, x: ir.Value, out: ir.Value, *attrs: ir.Attr) -> ir.Node:
        """A node of one operand and one result that the graph does not have."""
        name = self.nodes.fresh(kind)
        return ir.Node("", kind, [x], attrs, outputs=[out], name=name)

    def operand(self, value: Value) -> ir.Value:
        """The value that stands for `value`; a constant becomes an initializer."""
        if value in self.values:
            return self.values[value]
        tensor = value.const
        if tensor is None:
            maker = value.op or "a graph input"
            raise KeyError(
                f"%{value.hint}: {value.type} of {maker} is used before it is defined"
            )
        if self.in_function:
            raise AssertionError("constants of functions are written where they stand")
        if tensor not in self.initializers:
            name = self.names.fresh(tensor.name or clean(value.hint) or "const")
            self.initializers[tensor] = self.new(value, name)
        self.values[value] = self.initializers[tensor]
        return self.values[value]

    # ------------------------------------------------------------------- nodes

    def body(self, graph: Graph, nodes: list[ir.Node]) -> None:
        """Append the nodes of a graph.

        Constants of the main graph are initializers, made where they are used.
        """
        for node in graph:
            if node.op == "const":
                if self.in_function:
                    nodes.append(self.constant(node))
            elif node.op != "return":
                nodes.append(self.node(node))

    def constant(self, node: Node) -> ir.Node:
        """A constant of a function as a node."""
        out = self.named(node.out, "const")
        attr = _attribute("value", node.attrs["value"])
        name = self.name(node)
        return ir.Node("", "Constant", [], [attr], outputs=[out], name=name)

    def node(self, node: Node) -> ir.Node:
        """A node with its regions as attributes, and where it comes from in the metadata."""
        name = self.name(node)
        domain, kind = self.operator(node)
        attrs = [
            _attribute(key, value)
            for key, value in node.attrs.items()
            if key != LABEL and (key != "function" or node.op != "call")
        ]
        names = GRAPH_ATTRIBUTES.get(kind, ())
        for key, region in zip(names, node.graphs, strict=False):
            attrs.append(ir.AttrGraph(key, self.region(region, f"{name}_{key}")))
        inputs = [None if v is None else self.operand(v) for v in node.inputs]
        outputs = [
            self.values[v] if v in self.values else self.named(v, kind.lower())
            for v in node.outputs
        ]
        made = ir.Node(domain, kind, inputs, attrs, outputs=outputs, name=name)
        if self.sources:
            made.metadata_props.update(self.origin(node))
        self.written.append(made)
        return made

    def name(self, node: Node) -> str:
        """A name for a node: its module, and what its result is called, such as `blocks/0/up/dot_general`.

        A node of no module has the name of its operator: that of its result is the result's.
        """
        if LABEL in node.attrs:
            return self.nodes.fresh(node.str_attr(LABEL))
        scope = self.scopes.get(node)
        if not scope:
            return self.nodes.fresh(operator_name(node))
        return self.nodes.fresh("/".join((*scope, own_name(node))))

    def tell_apart(self) -> None:
        """Give nodes that have the name of a value another, once all values have theirs.

        onnxruntime derives names of new values from names of nodes, and takes them for those of a region.
        """
        self.nodes.taken |= self.names.taken
        for node in self.written:
            if node.name in self.names.taken:
                scope = str(node.name).rpartition("/")[0]
                steps = [scope, node.op_type] if scope else [node.op_type]
                node.name = self.nodes.fresh("/".join(steps))

    def origin(self, node: Node) -> dict[str, str]:
        """Where a node comes from: its source line, and its module as viewers of models group by it."""
        found: dict[str, str] = {}
        if node.loc is not None:
            found["source"] = f"{portable(node.loc.file)}:{node.loc.line}"
        scope = self.scopes.get(node)
        if scope:
            found[NAMESPACE] = "/".join(scope)
        return found

    def operator(self, node: Node) -> tuple[str, str]:
        """The domain and the name of a node's operator; its domain is imported."""
        if node.op == "call":
            return FUNCTION_DOMAIN, str(node.attrs["function"])
        dialect, kind = node.dialect, node.kind
        if dialect == "onnx":
            return "", kind
        domain = CONTRIB if dialect == "ort" else dialect
        self.domains.setdefault(domain, 1)
        return domain, kind

    def region(self, graph: Graph, name: str) -> ir.Graph:
        """A graph inside of a node, or the body of a function. Its outputs must be made in it, each once."""
        inputs = [self.named(value, "arg") for value in graph.inputs]
        nodes: list[ir.Node] = []
        self.body(graph, nodes)
        outputs: list[ir.Value] = []
        for value in graph.outputs:
            made = self.operand(value) if self.is_made(graph, value) else None
            if made is None or made in outputs:
                own_name = self.names.fresh(clean(value.hint) or "out")
                made = self.copy(value, own_name, nodes)
            outputs.append(made)
        return ir.Graph(inputs, outputs, nodes=nodes, name=self.nodes.fresh(name))

    def is_made(self, graph: Graph, value: Value) -> bool:
        """Return True where a node of the written graph makes the value."""
        is_a_node = self.in_function and value.op == "const"
        return is_a_node or _is_made_in(graph, value)

    def function(self, key: str, graph: Graph) -> ir.Function:
        """A function of the model; what it imports, the model imports too."""
        writer = _GraphWriter(self.opset, self.sources, self.scopes, in_function=True)
        inner = writer.region(graph, key)
        writer.tell_apart()
        inner.opset_imports.update(writer.domains)
        inner.opset_imports[FUNCTION_DOMAIN] = 1
        for domain, version in writer.domains.items():
            self.domains.setdefault(domain, version)
        return ir.Function(FUNCTION_DOMAIN, key, "", graph=inner, attributes=[])


def _wider(dtype: DType) -> DType:
    """A dtype of whole bytes that holds all values of one of less."""
    if dtype.is_float:
        return DType.F32
    return DType.I8 if dtype.is_signed else DType.U8


def _is_made_in(graph: Graph, value: Value) -> bool:
    """Return True for a result of a node that stands in this graph itself."""
    return value.graph is graph and value.node is not None and value.op != "const"


def _attribute(name: str, value: Attr) -> ir.Attr:
    """An attribute as onnx-ir has it; InvalidGraphError where it has no form there."""
    if isinstance(value, DType):
        return ir.AttrInt64(name, int(ONNX_DTYPES[value]))
    if isinstance(value, bool | int):
        return ir.AttrInt64(name, int(value))
    if isinstance(value, float):
        return ir.AttrFloat32(name, value)
    if isinstance(value, str):
        return ir.AttrString(name, value)
    if isinstance(value, Tensor):
        array = np.asarray(value.load())
        return ir.AttrTensor(name, ir.Tensor(array, dtype=ONNX_DTYPES[value.dtype]))
    if isinstance(value, tuple):
        return _list_attribute(name, value)
    raise InvalidGraphError(f"attribute {name}={shown(value)} has no ONNX form")


def _list_attribute(name: str, values: tuple[Any, ...]) -> ir.Attr:
    """A list of texts, of floats where one of them is a float, or of integers.

    An empty one is of integers.
    """
    if values and all(isinstance(value, str) for value in values):
        return ir.AttrStrings(name, values)
    if any(isinstance(value, float) for value in values):
        return ir.AttrFloat32s(name, [float(value) for value in values])
    return ir.AttrInt64s(name, [int(value) for value in values])
