"""Graph → ONNX protobuf, by way of onnx-ir.

Constants become initializers of the main graph, wherever they stand (in functions: Constant nodes). Every value gets a unique
readable name from its hint, and every value its type with symbolic sizes, as `value_info`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from j2o.errors import InvalidGraphError, PassError, SaveError, shown
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.onnx_ops import CONTRIB, GRAPH_ATTRIBUTES
from j2o.ir.ops import LABEL
from j2o.ir.places import portable
from j2o.ir.tensor import Tensor
from j2o.ir.types import NOT_COPIED, Attr, DType, Type, dim_text

if TYPE_CHECKING:
    import onnx

FUNCTION_DOMAIN = "j2o"
CONSTRAINTS = (
    "constraints"  # key in the model's metadata: what the symbolic sizes must fulfil
)
LIMIT = 2**31 - 2**20  # protobuf refuses messages of 2 GiB
_ONNX_DTYPES = {
    DType.F32: "FLOAT", DType.F64: "DOUBLE", DType.F16: "FLOAT16", DType.BF16: "BFLOAT16", DType.BOOL: "BOOL",
    DType.STRING: "STRING", DType.C64: "COMPLEX64", DType.C128: "COMPLEX128",
    **{DType(f"i{n}"): f"INT{n}" for n in (2, 4, 8, 16, 32, 64)},
    **{DType(f"u{n}"): f"UINT{n}" for n in (2, 4, 8, 16, 32, 64)},
    DType.F8E4M3FN: "FLOAT8E4M3FN", DType.F8E5M2: "FLOAT8E5M2", DType.F8E4M3FNUZ: "FLOAT8E4M3FNUZ",
    DType.F8E5M2FNUZ: "FLOAT8E5M2FNUZ", DType.F8E8M0FNU: "FLOAT8E8M0", DType.F4E2M1FN: "FLOAT4E2M1",
}  # fmt: skip
ONNX_DTYPES: dict[DType, ir.DataType] = {
    d: ir.DataType[name]
    for d, name in _ONNX_DTYPES.items()
    if name in ir.DataType.__members__
}
# the IR version that came with an opset; a runtime that knows the opset knows the version
_IR_VERSIONS = ((25, 13), (24, 12), (23, 11), (21, 10), (19, 9), (0, 8))


def ir_version(opset: int) -> int:
    """The oldest IR version that may be used with an opset."""
    return next(version for first, version in _IR_VERSIONS if opset >= first)


def to_proto(
    graph: Graph, opset: int, name: str = "main", sources: bool = True
) -> onnx.ModelProto:
    """The whole model as one message, weights inside; SaveError above protobuf's 2 GiB."""
    model, constants = to_parts(graph, opset, name, sources)
    total = sum(t.nbytes for t in constants.values())
    if total > LIMIT:
        raise SaveError(
            f"the model has {total / 2**30:.1f} GiB of weights, a protobuf message holds 2 GiB: save it with external_data=True"
        )
    model.graph.initializer.extend(
        initializer(key, tensor) for key, tensor in constants.items()
    )
    return model


def to_parts(
    graph: Graph, opset: int, name: str = "main", sources: bool = True
) -> tuple[onnx.ModelProto, dict[str, Tensor]]:
    """A root graph as a model that lacks its initializers, and these by name; nothing large is read.

    With `sources`, nodes carry the line of the program that they come from.

    PassError where operations are left that are not ONNX.
    """
    _check_lowered(graph)
    writer = _Writer(opset, sources)
    model = ir.to_proto(writer.model(graph, name))
    stored = [*writer.initializers.items(), *writer.constant_outputs]
    return model, {str(value.name): tensor for tensor, value in stored}


def _check_lowered(graph: Graph) -> None:
    """PassError for a graph that has not been lowered to the end, which is good to look at alone."""
    left = [
        node for top in (*graph.functions.values(), graph) for node in _not_onnx(top)
    ]
    if left:
        more = f" and {len(left) - 1} more operations are" if len(left) > 1 else " is"
        prefix = f"{left[0].dialect}." if left[0].dialect else ""
        raise PassError(
            f"the model cannot be written or run: {prefix}{left[0].described}{more} not ONNX; "
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
    """Whether an operation is one of the IR's own, that passes are to replace."""
    return op.startswith("lax.") or (
        "." not in op and op not in ("const", "call", "return")
    )


def initializer(name: str, tensor: Tensor, data: bool = True) -> onnx.TensorProto:
    """A constant as ONNX stores it; without `data`, only its name, dtype and shape."""
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
    """The bytes of a constant as ONNX stores them: little-endian, sub-byte elements packed from the low bits."""
    if tensor.dtype.bits < 8:
        yield memoryview(packed(tensor.load(), tensor.dtype.bits))
        return
    for chunk in tensor.chunks():
        if chunk.size:
            yield np.ascontiguousarray(chunk).reshape(-1).view(np.uint8).data


def packed(array: np.ndarray, bits: int) -> bytes:
    """Elements of 2 or 4 bits as ONNX stores them, from the low bits of each byte on."""
    per = 8 // bits
    flat = array.reshape(-1).view(np.uint8) & ((1 << bits) - 1)
    flat = np.concatenate([flat, np.zeros(-flat.size % per, np.uint8)]).reshape(-1, per)
    shifts = (np.arange(per) * bits).astype(np.uint8)
    return np.bitwise_or.reduce(flat << shifts, axis=1).astype(np.uint8).tobytes()


def unpacked(data: bytes, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    """What `packed` made, as an array of that dtype."""
    per = 8 // dtype.bits
    shifts = (np.arange(per) * dtype.bits).astype(np.uint8)
    parts = np.frombuffer(data, np.uint8)[:, None] >> shifts & ((1 << dtype.bits) - 1)
    flat = parts.reshape(-1)[: math.prod(shape)]
    if dtype.is_signed:
        sign = 1 << (dtype.bits - 1)
        return ((flat ^ sign).astype(np.int8) - sign).astype(dtype.numpy).reshape(shape)
    return (
        flat.view(dtype.numpy) if dtype.is_float else flat.astype(dtype.numpy)
    ).reshape(shape)


class Names:
    """Unique names: one counter a stem, so that giving a name costs O(1)."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.counters: dict[str, int] = {}
        self.taken = set(taken)

    def fresh(self, stem: str) -> str:
        stem = stem or "v"
        n = self.counters.get(stem, 0)
        name = stem if n == 0 else f"{stem}_{n}"
        while name in self.taken:
            n += 1
            name = f"{stem}_{n}"
        self.counters[stem] = n + 1
        self.taken.add(name)
        return name


def clean(hint: str) -> str:
    """A hint without the number that an earlier naming gave it."""
    return re.sub(r"_\d+$", "", hint)


class _Writer:
    def __init__(self, opset: int, sources: bool) -> None:
        self.opset, self.sources = opset, sources
        self.values: dict[Value, ir.Value] = {}
        self.initializers: dict[Tensor, ir.Value] = {}
        self.constant_outputs: list[tuple[Tensor, ir.Value]] = []
        self.domains: dict[str, int] = {"": opset}
        self.types: dict[Type, tuple[ir.TensorType, ir.Shape]] = {}
        self.nodes = Names()

    def model(self, graph: Graph, name: str) -> ir.Model:
        self.names = Names((*graph.input_names, *graph.output_names))
        functions = [self.function(key, f, graph) for key, f in graph.functions.items()]
        if functions:
            self.domains[FUNCTION_DOMAIN] = 1
        inputs = [
            self.make(v, n)
            for v, n in zip(graph.inputs, graph.input_names, strict=True)
        ]
        nodes: list[ir.Node] = []
        named = list(zip(graph.outputs, graph.output_names, strict=True))
        for value, output in named:
            if value not in self.values and _is_made_in(graph, value):
                self.make(value, output)
        self.body(graph, nodes)
        outputs = [self.output(v, n, nodes) for v, n in named]
        made = ir.Graph(
            inputs, outputs, nodes=nodes, opset_imports=self.domains, name=name
        )
        constraints = "; ".join(graph.dims.constraints)
        return ir.Model(
            made,
            ir_version=ir_version(self.opset),
            producer_name="j2o",
            functions=functions,
            metadata_props={CONSTRAINTS: constraints} if constraints else None,
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
        if type not in self.types:
            shape = ir.Shape(
                [d if isinstance(d, int) else dim_text(d) for d in type.shape]
            )
            self.types[type] = (ir.TensorType(ONNX_DTYPES[type.dtype]), shape)
        return self.types[type]

    def new(self, value: Value, name: str) -> ir.Value:
        """A value of this name and of the type of `value`."""
        type, shape = self.type_of(value.type)
        return ir.Value(name=name, type=type, shape=shape.copy())

    def make(self, value: Value, name: str) -> ir.Value:
        made = self.values[value] = self.new(value, name)
        return made

    def copy(self, value: Value, name: str, nodes: list[ir.Node]) -> ir.Value:
        """A value of its own with the contents of another: an Identity, or two casts where the dtype has none."""
        out, source, dtype = (
            self.new(value, name),
            self.operand(value),
            value.type.dtype,
        )
        if dtype not in NOT_COPIED:
            nodes.append(
                ir.Node(
                    "",
                    "Identity",
                    [source],
                    outputs=[out],
                    name=self.nodes.fresh("Identity"),
                )
            )
            return out
        wider = (
            DType.F32 if dtype.is_float else DType.I8 if dtype.is_signed else DType.U8
        )
        between = ir.Value(
            name=self.names.fresh(f"{name}_wide"),
            type=ir.TensorType(ONNX_DTYPES[wider]),
        )
        for x, to, y in ((source, wider, between), (between, dtype, out)):
            nodes.append(
                ir.Node(
                    "",
                    "Cast",
                    [x],
                    [_attribute("to", to)],
                    outputs=[y],
                    name=self.nodes.fresh("Cast"),
                )
            )
        return out

    def operand(self, value: Value) -> ir.Value:
        if value in self.values:
            return self.values[value]
        tensor = value.const
        if tensor is None:
            raise KeyError(
                f"%{value.hint}: {value.type} of {value.op or 'a graph input'} is used before it is defined"
            )
        if self.in_function:
            raise AssertionError("constants of functions are written where they stand")
        if tensor not in self.initializers:
            name = self.names.fresh(tensor.name or clean(value.hint) or "const")
            self.initializers[tensor] = self.new(value, name)
        self.values[value] = self.initializers[tensor]
        return self.values[value]

    # ------------------------------------------------------------------- nodes

    in_function = False

    def body(self, graph: Graph, nodes: list[ir.Node]) -> None:
        for node in graph:
            if node.op == "const":
                if self.in_function:
                    nodes.append(self.constant(node))
            elif node.op != "return":
                nodes.append(self.node(node))

    def constant(self, node: Node) -> ir.Node:
        value: Any = node.attrs["value"]
        out = self.make(node.out, self.names.fresh(clean(node.out.hint) or "const"))
        attr = ir.AttrTensor(
            "value", ir.Tensor(value.load(), dtype=ONNX_DTYPES[value.dtype])
        )
        return ir.Node(
            "", "Constant", [], [attr], outputs=[out], name=self.nodes.fresh("Constant")
        )

    def node(self, node: Node) -> ir.Node:
        domain, kind = self.operator(node)
        attrs = [
            _attribute(k, v)
            for k, v in node.attrs.items()
            if k != LABEL and (k != "function" or node.op != "call")
        ]
        for key, region in zip(
            GRAPH_ATTRIBUTES.get(kind, ()), node.graphs, strict=False
        ):
            attrs.append(ir.AttrGraph(key, self.region(region, f"{kind}_{key}")))
        inputs = [None if v is None else self.operand(v) for v in node.inputs]
        outputs = [
            self.values[v]
            if v in self.values
            else self.make(v, self.names.fresh(clean(v.hint) or kind.lower()))
            for v in node.outputs
        ]
        name = self.nodes.fresh(str(node.attrs.get(LABEL, kind)))
        made = ir.Node(domain, kind, inputs, attrs, outputs=outputs, name=name)
        if node.loc is not None and self.sources:
            made.metadata_props["source"] = f"{portable(node.loc.file)}:{node.loc.line}"
        return made

    def operator(self, node: Node) -> tuple[str, str]:
        if node.op == "call":
            return FUNCTION_DOMAIN, str(node.attrs["function"])
        dialect, kind = node.dialect, node.kind
        if dialect == "onnx":
            return "", kind
        domain = CONTRIB if dialect == "ort" else dialect
        self.domains.setdefault(domain, 1)
        return domain, kind

    def region(self, graph: Graph, name: str) -> ir.Graph:
        inputs = [
            self.make(v, self.names.fresh(clean(v.hint) or "arg")) for v in graph.inputs
        ]
        nodes: list[ir.Node] = []
        self.body(graph, nodes)
        outputs: list[ir.Value] = []
        for value in graph.outputs:
            is_made = _is_made_in(graph, value) or (
                self.in_function and value.op == "const"
            )
            made = self.operand(value) if is_made else None
            if (
                made is None or made in outputs
            ):  # a subgraph's outputs must be made in it
                made = self.copy(
                    value, self.names.fresh(clean(value.hint) or "out"), nodes
                )
            outputs.append(made)
        return ir.Graph(inputs, outputs, nodes=nodes, name=self.nodes.fresh(name))

    def function(self, key: str, graph: Graph, root: Graph) -> ir.Function:
        writer = _Writer(self.opset, self.sources)
        writer.names, writer.in_function = Names(), True
        inner = writer.region(graph, key)
        inner.opset_imports.update(writer.domains)
        inner.opset_imports[FUNCTION_DOMAIN] = 1
        for domain, version in writer.domains.items():
            self.domains.setdefault(domain, version)
        return ir.Function(FUNCTION_DOMAIN, key, "", graph=inner, attributes=[])


def _is_made_in(graph: Graph, value: Value) -> bool:
    """Whether a value is a result of a node that stands in this graph itself."""
    return value.graph is graph and value.node is not None and value.op != "const"


def _attribute(name: str, value: Attr) -> ir.Attr:
    if isinstance(value, DType):
        return ir.AttrInt64(name, int(ONNX_DTYPES[value]))
    if isinstance(value, bool | int):
        return ir.AttrInt64(name, int(value))
    if isinstance(value, float):
        return ir.AttrFloat32(name, value)
    if isinstance(value, str):
        return ir.AttrString(name, value)
    if isinstance(value, Tensor):
        return ir.AttrTensor(
            name, ir.Tensor(np.asarray(value.load()), dtype=ONNX_DTYPES[value.dtype])
        )
    if isinstance(value, tuple):
        if value and all(isinstance(v, str) for v in value):
            return ir.AttrStrings(name, value)  # type: ignore[arg-type]
        if value and any(isinstance(v, float) for v in value):
            return ir.AttrFloat32s(name, [float(v) for v in value])  # type: ignore[arg-type]
        return ir.AttrInt64s(name, [int(v) for v in value])  # type: ignore[arg-type]
    raise InvalidGraphError(f"attribute {name}={shown(value)} has no ONNX form")
