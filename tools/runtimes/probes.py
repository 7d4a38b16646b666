"""Models of one node each: every operator that j2o knows, at every version and with all dtypes.

`probes(newest)` gives them. What runs one of them, and gives the reference's values, has that kernel.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx.defs
import onnx.parser

from j2o.backend.proto import ONNX_DTYPES, ir_version
from j2o.ir.inference.table import INFERENCES
from j2o.ir.onnx_ops import ONNX_NAMES, schema
from j2o.ir.types import DType, is_in_onnx

OLDEST = 18
RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomUniform")
RANDOM_LIKE = ("RandomNormalLike", "RandomUniformLike")
SEQUENCES = ("SequenceMap", "CastLike")  # nothing makes them
NOT_PROBED = frozenset([*RANDOM, *RANDOM_LIKE, *SEQUENCES, "Constant"])
# dtypes of numpy's own go in and out; others are cast in the model, where float32 goes in
PLAIN = frozenset(
    DType(name) for name in "bool i8 i16 i32 i64 u8 u16 u32 u64 f16 f32 f64".split()
)


INDICES = (DType.I32, DType.I64)


class Ints(NamedTuple):
    """A constant operand of integers, one number for a scalar."""

    values: Any


class Floats(NamedTuple):
    """A constant operand of float32."""

    values: Any


class Of(NamedTuple):
    """A constant operand of the dtype of its constraint."""

    values: Any


class Index(NamedTuple):
    """An operand of this shape that is zero: an index that is right everywhere."""

    shape: tuple[int, ...]


class Large(NamedTuple):
    """An operand of this shape with the largest numbers that its dtype has."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class Recipe:
    """How a node is made: a shape or constant an operand, its attributes, how many results."""

    operands: tuple[Any, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    results: int = 1


def _recipe(*operands: Any, results: int = 1, **attrs: Any) -> Recipe:
    return Recipe(operands, attrs, results)


MATRIX = (2, 3)
IMAGE = (1, 2, 4, 4)
HEADS = (1, 2, 3, 4)
_REDUCED = _recipe(MATRIX, Ints([1]))
_POOLED = _recipe(IMAGE, kernel_shape=[2, 2])
_CONVOLVED = _recipe((1, 2, 5, 5), (3, 2, 3, 3))
# of the operators that take more than matrices
RECIPES: dict[str, Recipe] = {
    "Attention": _recipe(HEADS, HEADS, HEADS),
    "AveragePool": _POOLED,
    "BatchNormalization": _recipe(MATRIX, (3,), (3,), (3,), (3,)),
    "BitShift": _recipe(Large(MATRIX), MATRIX, direction="RIGHT"),
    "Clip": _recipe(MATRIX, Of(0), Of(1)),
    "Compress": _recipe(MATRIX, (2,), axis=0),
    "Concat": _recipe(MATRIX, MATRIX, axis=0),
    "ConstantOfShape": _recipe(Ints([2, 3])),
    "Conv": _CONVOLVED,
    "ConvInteger": _CONVOLVED,
    "ConvTranspose": _recipe((1, 2, 5, 5), (2, 3, 3, 3)),
    "CumProd": _recipe(MATRIX, Ints(1)),
    "CumSum": _recipe(MATRIX, Ints(1)),
    "DepthToSpace": _recipe((1, 4, 2, 2), blocksize=2),
    "DequantizeLinear": _recipe(MATRIX, Of(0.5)),
    "Det": _recipe((2, 3, 3)),
    "Einsum": _recipe((2, 3), (3, 2), equation="ij,jk->ik"),
    "Expand": _recipe((1, 3), Ints([2, 3])),
    "Gather": _recipe(MATRIX, Index((2,))),
    "GatherElements": _recipe(MATRIX, Index((2, 3))),
    "GatherND": _recipe(MATRIX, Index((2, 1))),
    "GRU": _recipe((3, 1, 2), (1, 12, 2), (1, 12, 4), hidden_size=4, results=2),
    "Gemm": _recipe((2, 3), (3, 2), (2,)),
    "GlobalAveragePool": _recipe(IMAGE),
    "GlobalMaxPool": _recipe(IMAGE),
    "GridSample": _recipe((1, 1, 4, 4), (1, 2, 2, 2)),
    "GroupNormalization": _recipe((1, 4, 3), (4,), (4,), num_groups=4),
    "InstanceNormalization": _recipe((1, 2, 4), (2,), (2,)),
    "LSTM": _recipe((3, 1, 2), (1, 16, 2), (1, 16, 4), hidden_size=4, results=3),
    "LayerNormalization": _recipe(MATRIX, (3,)),
    "LpPool": _POOLED,
    "MatMul": _recipe((2, 3), (3, 2)),
    "MatMulInteger": _recipe((2, 3), (3, 2)),
    "MaxPool": _POOLED,
    "MeanVarianceNormalization": _recipe(IMAGE),
    "OneHot": _recipe(Index((2,)), Ints(3), (2,)),
    "PRelu": _recipe(MATRIX, (3,)),
    "Pad": _recipe(MATRIX, Ints([0, 1, 0, 1])),
    "QuantizeLinear": _recipe(MATRIX, Of(0.5), Of(0)),
    "RMSNormalization": _recipe(MATRIX, (3,)),
    "RNN": _recipe((3, 1, 2), (1, 4, 2), (1, 4, 4), hidden_size=4, results=2),
    "Range": _recipe(Of(0), Of(3), Of(1)),
    "ReduceL1": _REDUCED,
    "ReduceL2": _REDUCED,
    "ReduceLogSum": _REDUCED,
    "ReduceLogSumExp": _REDUCED,
    "ReduceMax": _REDUCED,
    "ReduceMean": _REDUCED,
    "ReduceMin": _REDUCED,
    "ReduceProd": _REDUCED,
    "ReduceSum": _REDUCED,
    "ReduceSumSquare": _REDUCED,
    "Reshape": _recipe(MATRIX, Ints([3, 2])),
    "Resize": _recipe((1, 1, 2, 2), None, Floats([1, 1, 2, 2])),
    "ReverseSequence": _recipe((4, 4), Ints([1, 2, 3, 4])),
    "RotaryEmbedding": _recipe(HEADS, (1, 3, 2), (1, 3, 2)),
    "ScatterElements": _recipe(MATRIX, Index((1, 3)), (1, 3)),
    "ScatterND": _recipe(MATRIX, Index((1, 1)), (1, 3)),
    "Slice": _recipe(MATRIX, Ints([0]), Ints([1]), Ints([0])),
    "SpaceToDepth": _recipe((1, 1, 4, 4), blocksize=2),
    "Split": _recipe((4, 3), Ints([1, 3]), results=2),
    "Squeeze": _recipe((1, 3), Ints([0])),
    "TensorScatter": _recipe((1, 4, 2), (1, 2, 2), Ints([1]), axis=1),
    "Tile": _recipe(MATRIX, Ints([1, 2])),
    "TopK": _recipe(MATRIX, Ints([1]), results=2),
    "Trilu": _recipe((3, 3)),
    "Unsqueeze": _recipe(MATRIX, Ints([0])),
}
VARIADIC = 2  # operands of an operator that takes any number
CONTROL = ("If", "Loop", "Scan")
KINDS = sorted({*INFERENCES, *RECIPES, *CONTROL} - NOT_PROBED)


class Probe(NamedTuple):
    """A model of one node, what it is fed with, and the row of a table that it stands for."""

    op: str
    first: int
    last: int | None
    dtypes: dict[str, DType]
    model: bytes
    feeds: dict[str, np.ndarray]


def probes(newest: int, kinds: Sequence[str] | None = None) -> Iterator[Probe]:
    """A probe for each operator, version up to an opset, and choice of dtypes that ONNX allows."""
    for kind in kinds or KINDS:
        for first, last in _versions(kind, newest):
            opset = max(first, OLDEST)
            for dtypes in _choices(kind, opset):
                made = _probe(kind, opset, dtypes)
                if made is not None:
                    yield Probe(kind, first, last, dtypes, *made)


def _versions(kind: str, newest: int) -> Iterator[tuple[int, int | None]]:
    """The first and last opset of each version of an operator, from the one at 18 on."""
    since = []
    for opset in range(OLDEST, newest + 1):
        try:
            since.append(schema(kind, opset).since)
        except KeyError:
            continue
    firsts = sorted(set(since))
    for first, following in itertools.zip_longest(firsts, firsts[1:]):
        yield first, following and following - 1


@functools.cache
def _recipe_of(kind: str, opset: int) -> Recipe:
    """The recipe of an operator; by default it takes matrices."""
    if kind == "DFT":
        if opset < 20:
            return _recipe((1, 8, 1), axis=1)
        return _recipe((1, 8, 1), None, Ints(1))
    if kind in RECIPES:
        return RECIPES[kind]
    known = schema(kind, opset)
    count = VARIADIC if known.variadic else known.min_inputs
    return Recipe((MATRIX,) * count)


def _constraint(names: Sequence[str], index: int) -> str:
    return names[min(index, len(names) - 1)]


def _choices(kind: str, opset: int) -> Iterator[dict[str, DType]]:
    """Every choice of a dtype for each type constraint of the node that the recipe makes."""
    known = schema(kind, opset)
    recipe = _recipe_of(kind, opset)
    used: dict[str, list[DType]] = {}
    for i, operand in enumerate(recipe.operands):
        name = _constraint(known.inputs, i)
        if operand is not None and name in known.types:
            every = _allowed(known.types[name], opset)
            if isinstance(operand, Index):
                every = [dtype for dtype in every if dtype in INDICES]
            used.setdefault(name, [DType.I64] if isinstance(operand, Ints) else every)
    for i in range(recipe.results):
        name = _constraint(known.outputs, i)
        if name in known.types:
            used.setdefault(name, _allowed(known.types[name], opset))
    for picks in itertools.product(*used.values()):
        yield dict(zip(used, picks, strict=True))


def _allowed(types: frozenset[str], opset: int) -> list[DType]:
    """The dtypes among the types of a constraint."""
    found = []
    for name, dtype in ONNX_NAMES.items():
        if f"tensor({name})" in types and is_in_onnx(dtype, opset):
            found.append(dtype)
    return [dtype for dtype in found if dtype is not DType.STRING]


# ------------------------------------------------------------------------------ the models


class _Maker:
    """Makes the model of one node."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.graph = onnx.GraphProto(name="probe")
        self.feeds: dict[str, np.ndarray] = {}
        self.random = np.random.default_rng(0)

    def node(self, kind: str, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
        return self.graph.node.add(
            op_type=kind, input=list(inputs), output=list(outputs)
        )

    def fed(self, shape: tuple[int, ...], dtype: DType, zero: bool) -> str:
        """The name of an operand that comes from outside."""
        inner = dtype if dtype in PLAIN else DType.F32
        name = self.input(self.values(shape, inner, zero), inner)
        return name if inner is dtype else self.cast(name, dtype)

    def input(self, array: np.ndarray, dtype: DType) -> str:
        """The name of an input of the model that is fed with an array."""
        name = f"x{len(self.feeds)}"
        self.feeds[name] = array
        self.graph.input.append(_value(name, dtype, array.shape))
        return name

    def values(self, shape: tuple[int, ...], dtype: DType, zero: bool) -> np.ndarray:
        if zero:
            return np.zeros(shape, dtype.numpy)
        if dtype.is_float:
            return np.asarray(self.random.uniform(0.1, 0.9, shape), dtype.numpy)
        high = 2 if dtype is DType.BOOL else 4
        return self.random.integers(1, high, shape).astype(dtype.numpy)

    def cast(self, name: str, dtype: DType) -> str:
        node = self.node("Cast", [name], [f"{name}_cast"])
        _set(node, "to", int(ONNX_DTYPES[dtype]))
        return node.output[0]

    def constant(self, array: np.ndarray, dtype: DType) -> str:
        name = f"c{len(self.graph.initializer)}"
        made = self.graph.initializer.add(name=name, dims=array.shape)
        made.data_type = int(ONNX_DTYPES[dtype])
        made.raw_data = array.astype(dtype.numpy).tobytes()
        return name

    def operand(self, given: Any, dtype: DType) -> str:
        """The name of an operand of a recipe."""
        if isinstance(given, Ints):
            return self.constant(np.array(given.values), DType.I64)
        if isinstance(given, Floats):
            return self.constant(np.array(given.values), DType.F32)
        if isinstance(given, Of):
            if dtype.bits < 8:
                scalar = self.constant(np.array(given.values), DType.F32)
                return self.cast(scalar, dtype)
            return self.constant(np.array(given.values), dtype)
        if isinstance(given, Index):
            return self.fed(given.shape, dtype, zero=True)
        if isinstance(given, Large):
            _, most = dtype.integers
            below = np.arange(np.prod(given.shape), dtype=dtype.numpy)
            return self.input((most - below).reshape(given.shape), dtype)
        return self.fed(given, dtype, zero=False)

    def result(self, name: str, dtype: DType) -> None:
        """Give a result, cast where it cannot leave the model as it is."""
        outer = dtype if dtype in PLAIN else DType.F32
        if outer is not dtype:
            name = self.cast(name, outer)
        self.graph.output.append(_value(name, outer))

    def model(self) -> bytes:
        made = onnx.ModelProto(ir_version=ir_version(self.opset), graph=self.graph)
        made.opset_import.add(domain="", version=self.opset)
        return made.SerializeToString()


def _value(name: str, dtype: DType, shape: Sequence[int] | None = None) -> Any:
    made = onnx.ValueInfoProto(name=name)
    made.type.tensor_type.elem_type = int(ONNX_DTYPES[dtype])
    if shape is not None:
        made.type.tensor_type.shape.SetInParent()
        for size in shape:
            made.type.tensor_type.shape.dim.add(dim_value=size)
    return made


def _set(node: Any, name: str, value: Any) -> None:
    """Give a node an attribute of one of the few kinds that recipes have."""
    kinds = onnx.AttributeProto.AttributeType
    made = node.attribute.add(name=name)
    if isinstance(value, str):
        made.type, made.s = kinds.STRING, value.encode()
    elif isinstance(value, list):
        made.type = kinds.INTS
        made.ints.extend(value)
    elif isinstance(value, onnx.TensorProto):
        made.type = kinds.TENSOR
        made.t.CopyFrom(value)
    elif isinstance(value, onnx.GraphProto):
        made.type = kinds.GRAPH
        made.g.CopyFrom(value)
    else:
        made.type, made.i = kinds.INT, value


def _probe(
    kind: str, opset: int, dtypes: Mapping[str, DType]
) -> tuple[bytes, dict[str, np.ndarray]] | None:
    """The model of a node and what it is fed with; None where its dtypes do not go together."""
    maker = _Maker(opset)
    if kind in _CONTROL:
        _CONTROL[kind](maker, dtypes["V"])
        return maker.model(), maker.feeds
    known = schema(kind, opset)
    recipe = _recipe_of(kind, opset)
    results = []
    for i in range(recipe.results):
        results.append(_dtype(_constraint(known.outputs, i), dtypes))
    attrs = dict(recipe.attrs)
    if not _add_dtype(kind, attrs, dtypes, results[0]):
        return None
    names = []
    for i, operand in enumerate(recipe.operands):
        if operand is None:
            names.append("")
            continue
        dtype = _dtype(_constraint(known.inputs, i), dtypes)
        names.append(maker.operand(operand, dtype))
    node = maker.node(kind, names, [f"y{i}" for i in range(recipe.results)])
    for name, value in attrs.items():
        _set(node, name, value)
    for name, dtype in zip(node.output, results, strict=True):
        maker.result(name, dtype)
    return maker.model(), maker.feeds


def _dtype(constraint: str, dtypes: Mapping[str, DType]) -> DType:
    """The dtype of a constraint, or of a concrete type."""
    if constraint in dtypes:
        return dtypes[constraint]
    return ONNX_NAMES[constraint.removeprefix("tensor(").removesuffix(")")]


def _add_dtype(
    kind: str, attrs: dict[str, Any], dtypes: Mapping[str, DType], to: DType
) -> bool:
    """Add the attributes that depend on dtypes; False where there is none that fits."""
    if kind in ("Cast", "BitCast"):
        attrs["to"] = int(ONNX_DTYPES[to])
        return kind == "Cast" or to.bits == dtypes["T1"].bits
    if kind == "EyeLike":
        attrs["dtype"] = int(ONNX_DTYPES[to])
    if kind == "Mod":
        attrs["fmod"] = int(to.is_float)
    if kind == "ConstantOfShape":
        one = np.ones(1, to.numpy).view(np.uint8)
        attrs["value"] = onnx.TensorProto(
            data_type=int(ONNX_DTYPES[to]), dims=[1], raw_data=one.tobytes()
        )
    if kind == "DequantizeLinear":
        return "T2" not in dtypes or "T3" not in dtypes or dtypes["T2"] is dtypes["T3"]
    return True


# -------------------------------------------------------------------------------- accuracy

NORMS = {
    "GroupNormalization": "x, scale, bias",
    "InstanceNormalization": "x, scale, bias",
    "LayerNormalization": "x, wide",
}


def far_from_zero(kind: str) -> tuple[bytes, dict[str, np.ndarray], np.ndarray]:
    """A normalisation of numbers whose mean is 1000 times their deviation: a model, its feeds, its output.

    A kernel that takes the variance as the mean of squares less the square of the mean loses all digits.
    """
    random = np.random.default_rng(0)
    x = (100 + 0.1 * random.standard_normal((1, 8, 256))).astype(np.float32)
    feeds = {"x": x}
    for name, size in (("scale", 8), ("wide", 256)):
        feeds[name] = np.ones(size, np.float32)
    feeds["bias"] = np.zeros(8, np.float32)
    used = {name: feeds[name] for name in NORMS[kind].split(", ")}
    inputs = ", ".join(f"float[{_sizes(array)}] {name}" for name, array in used.items())
    groups = "num_groups = 8, " if kind == "GroupNormalization" else ""
    text = f"""<ir_version: 8, opset_import: ["": {OLDEST}]>
    norm ({inputs}) => (float[1, 8, 256] y)
    {{ y = {kind} <{groups}epsilon = 1e-6> ({NORMS[kind]}) }}"""
    wide = x.astype(np.float64)
    centred = wide - wide.mean(-1, keepdims=True)
    wanted = centred / np.sqrt(wide.var(-1, keepdims=True) + 1e-6)
    return onnx.parser.parse_model(text).SerializeToString(), used, wanted


def _sizes(array: np.ndarray) -> str:
    return ", ".join(map(str, array.shape))


# ---------------------------------------------------------------------------- control flow


def _make_if(maker: _Maker, dtype: DType) -> None:
    x = maker.fed(MATRIX, dtype, zero=False)
    condition = maker.fed((), DType.BOOL, zero=False)
    node = maker.node("If", [condition], ["y"])
    for name in ("then_branch", "else_branch"):
        _set(node, name, _body(name, [], [(x, f"{name}_y", dtype)]))
    maker.result("y", dtype)


def _make_loop(maker: _Maker, dtype: DType) -> None:
    x = maker.fed(MATRIX, dtype, zero=False)
    count = maker.constant(np.array(2), DType.I64)
    node = maker.node("Loop", [count, "", x], ["y"])
    inputs = [("i", DType.I64, ()), ("c", DType.BOOL, ()), ("a", dtype, MATRIX)]
    outputs = [("c", "go_on", DType.BOOL), ("a", "b", dtype)]
    _set(node, "body", _body("body", inputs, outputs))
    maker.result("y", dtype)


def _make_scan(maker: _Maker, dtype: DType) -> None:
    """Rows of a dtype that are handed on, and the sum of others: OpenVINO writes it over the rows."""
    row = MATRIX[1:]
    sums = maker.fed(row, DType.I32, zero=True)
    terms = maker.fed(MATRIX, DType.I32, zero=False)
    x = maker.fed(MATRIX, dtype, zero=False)
    node = maker.node("Scan", [sums, terms, x], ["total", "y"])
    inputs = [("sum", DType.I32, row), ("term", DType.I32, row), ("a", dtype, row)]
    body = _body("body", inputs, [("a", "b", dtype)])
    body.node.add(op_type="Add", input=["term", "sum"], output=["more"])
    body.output.insert(0, _value("more", DType.I32))
    _set(node, "body", body)
    _set(node, "num_scan_inputs", 2)
    maker.result("total", DType.I32)
    maker.result("y", dtype)


def _body(
    name: str,
    inputs: Sequence[tuple[str, DType, tuple[int, ...]]],
    outputs: Sequence[tuple[str, str, DType]],
) -> onnx.GraphProto:
    """A graph that hands values on."""
    made = onnx.GraphProto(name=name)
    for one, dtype, shape in inputs:
        made.input.append(_value(one, dtype, shape))
    for source, out, dtype in outputs:
        made.node.add(op_type="Identity", input=[source], output=[out])
        made.output.append(_value(out, dtype))
    return made


_CONTROL = {"If": _make_if, "Loop": _make_loop, "Scan": _make_scan}
