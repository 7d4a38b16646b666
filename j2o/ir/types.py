"""Element types, tensor types and the plain values that attributes are made of."""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, cast

import ml_dtypes  # numpy knows its dtypes by name from here on
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from j2o.ir.dims import SymDim
    from j2o.ir.tensor import Tensor

Dim: TypeAlias = "int | SymDim"
Shape: TypeAlias = "tuple[Dim, ...]"
_INTEGERS = frozenset({int})


class DType(enum.Enum):
    """An element type; the value is its name in the text form.

    `KEY_*` are JAX's typed PRNG keys, `C64` and `C128` complex numbers. These live in the `lax`
    dialect alone, until the passes in `components` have turned each into arrays of plain numbers.
    """

    BOOL = "bool"
    # integers with a sign
    I2 = "i2"
    I4 = "i4"
    I8 = "i8"
    I16 = "i16"
    I32 = "i32"
    I64 = "i64"
    # integers without
    U2 = "u2"
    U4 = "u4"
    U8 = "u8"
    U16 = "u16"
    U32 = "u32"
    U64 = "u64"
    # floats
    F16 = "f16"
    BF16 = "bf16"
    F32 = "f32"
    F64 = "f64"
    # floats of 8 and 4 bits, named by the bits of exponent and mantissa
    F8E4M3FN = "f8e4m3fn"
    F8E5M2 = "f8e5m2"
    F8E4M3FNUZ = "f8e4m3fnuz"
    F8E5M2FNUZ = "f8e5m2fnuz"
    F8E4M3B11FNUZ = "f8e4m3b11fnuz"
    F8E4M3 = "f8e4m3"
    F8E3M4 = "f8e3m4"
    F8E8M0FNU = "f8e8m0fnu"
    F4E2M1FN = "f4e2m1fn"
    # complex numbers
    C64 = "c64"
    C128 = "c128"
    STRING = "string"
    # keys
    KEY_FRY = "key<fry>"
    KEY_RBG = "key<rbg>"
    KEY_UNSAFE_RBG = "key<urbg>"

    if TYPE_CHECKING:
        is_float: bool
        is_signed: bool
        is_unsigned: bool
        is_int: bool
        is_complex: bool
        is_key: bool
        bits: int

    @functools.cached_property
    def numpy(self) -> np.dtype:
        """The numpy (or ml_dtypes) dtype that holds such elements; keys have none."""
        try:
            return _NUMPY[self]
        except KeyError:
            raise TypeError(f"{self.value} has no numpy dtype") from None

    @functools.cached_property
    def integers(self) -> tuple[int, int]:
        """The least and the greatest value of an integer dtype; TypeError for others."""
        if not self.is_int:
            raise TypeError(f"{self.value} is no integer dtype")
        info = ml_dtypes.iinfo(self.numpy)  # numpy's knows no dtype of 2 or 4 bits
        return int(info.min), int(info.max)

    def __repr__(self) -> str:
        return f"DType.{self.name}"

    # members are single objects, and Enum's own hash is ten times slower
    __hash__ = object.__hash__


_WITH_BITS = re.compile(r"(bf|[fiuc])(\d+)")  # kind and number of bits


def _describe(dtype: DType) -> None:
    """Give a dtype the attributes that its name tells."""
    name = dtype.value
    match = _WITH_BITS.match(name)
    kind = match[1] if match else ""
    dtype.is_key = name.startswith("key<")
    dtype.is_complex = kind == "c"
    dtype.is_float = kind in ("f", "bf")
    dtype.is_signed = kind == "i"
    dtype.is_unsigned = kind == "u"
    dtype.is_int = dtype.is_signed or dtype.is_unsigned
    dtype.bits = int(match[2]) if match else 0
    if name == "bool":
        dtype.bits = 8


for _dtype in DType:
    _describe(_dtype)

_NAMES = {  # in numpy and ml_dtypes; keys have none
    DType.BOOL: "bool",
    DType.I2: "int2",
    DType.I4: "int4",
    DType.I8: "int8",
    DType.I16: "int16",
    DType.I32: "int32",
    DType.I64: "int64",
    DType.U2: "uint2",
    DType.U4: "uint4",
    DType.U8: "uint8",
    DType.U16: "uint16",
    DType.U32: "uint32",
    DType.U64: "uint64",
    DType.F16: "float16",
    DType.BF16: "bfloat16",
    DType.F32: "float32",
    DType.F64: "float64",
    DType.F8E4M3FN: "float8_e4m3fn",
    DType.F8E5M2: "float8_e5m2",
    DType.F8E4M3FNUZ: "float8_e4m3fnuz",
    DType.F8E5M2FNUZ: "float8_e5m2fnuz",
    DType.F8E4M3B11FNUZ: "float8_e4m3b11fnuz",
    DType.F8E4M3: "float8_e4m3",
    DType.F8E3M4: "float8_e3m4",
    DType.F8E8M0FNU: "float8_e8m0fnu",
    DType.F4E2M1FN: "float4_e2m1fn",
    DType.C64: "complex64",
    DType.C128: "complex128",
    DType.STRING: "object",
}
_NUMPY = {dtype: np.dtype(name) for dtype, name in _NAMES.items()}
_FROM_NUMPY = {known: dtype for dtype, known in _NUMPY.items()}
NUMPY_NAMES = {
    name: dtype for dtype, name in _NAMES.items() if dtype is not DType.STRING
}
# the opset that brought a dtype to ONNX, where it is not one of the first; None where none has
OPSET_OF: dict[DType, int | None] = {
    DType.F8E4M3FN: 19,
    DType.F8E5M2: 19,
    DType.F8E4M3FNUZ: 19,
    DType.F8E5M2FNUZ: 19,
    DType.I4: 21,
    DType.U4: 21,
    DType.F4E2M1FN: 23,
    DType.F8E8M0FNU: 24,
    DType.I2: 25,
    DType.U2: 25,
    DType.F8E4M3B11FNUZ: None,
    DType.F8E4M3: None,
    DType.F8E3M4: None,
}
# dtypes that onnxruntime cannot copy: it has no Identity for them
NOT_COPIED = frozenset(
    {
        DType.I2,
        DType.U2,
        DType.I4,
        DType.U4,
        DType.F8E8M0FNU,
        DType.F4E2M1FN,
    }
)
# what JAX calls the generator of typed keys
KEY_NAMES = {
    DType.KEY_FRY: "threefry2x32",
    DType.KEY_RBG: "rbg",
    DType.KEY_UNSAFE_RBG: "unsafe_rbg",
}


def dtype_of(numpy_dtype: DTypeLike) -> DType:
    """The DType of a numpy dtype (ml_dtypes included); TypeError where there is none."""
    try:
        return _FROM_NUMPY[np.dtype(numpy_dtype)]
    except KeyError:
        raise TypeError(f"no j2o dtype for numpy's {numpy_dtype}") from None


def exact_attrs(attrs: Mapping[str, Attr]) -> Hashable:
    """Attributes as a key, which is the same for those that ONNX does not tell apart.

    0.0 and -0.0 have two keys, as have 1 and 1.0; 1 and True have one.
    """
    if not attrs:
        return ()
    return tuple([(name, _exact(value)) for name, value in sorted(attrs.items())])


def _exact(value: object) -> Hashable:
    """One attribute in such a key, or a part of one: a float by its bits."""
    if isinstance(value, float):
        return float, value.hex()
    if not isinstance(value, tuple):
        return value
    parts = cast("tuple[object, ...]", value)
    if _INTEGERS.issuperset(map(type, parts)):
        return parts
    return tuple(map(_exact, parts))


def is_in_onnx(dtype: DType, opset: int) -> bool:
    """Return True where ONNX has a dtype at an opset."""
    since = OPSET_OF.get(dtype, 0)
    return since is not None and since <= opset


def is_one(d: Dim) -> bool:
    """Return True where a size is the number 1."""
    return type(d) is int and d == 1


def long_axes(shape: Shape) -> list[int]:
    """The axes that are not of size 1."""
    return [axis for axis, size in enumerate(shape) if not is_one(size)]


def are_integers(values: tuple[object, ...]) -> TypeGuard[tuple[int, ...]]:
    """Return True where all are Python's integers, as the sizes of a static shape are."""
    return _INTEGERS.issuperset(map(type, values))  # faster than a loop


def same_dim(a: Dim, b: Dim) -> bool:
    """`a == b`, faster.

    JAX subtracts expressions to compare them. Where they differ, their hashes save that.
    """
    if a is b:
        return True
    if type(a) is int and type(b) is int:
        return a == b
    return hash(a) == hash(b) and a == b


def same_shape(a: Shape, b: Shape) -> bool:
    """`a == b`, by `same_dim`."""
    if a is b:
        return True
    if len(a) != len(b):
        return False
    for x, y in zip(a, b):  # noqa: B905  (lengths are equal; a loop is twice as fast as `all`)
        if x is not y and not same_dim(x, y):
            return False
    return True


def differ_by_ones(one: Shape, other: Shape) -> bool:
    """Return True where two shapes are the same but for axes of size 1."""
    first = tuple([size for size in one if not is_one(size)])
    second = tuple([size for size in other if not is_one(size)])
    return same_shape(first, second)


def dim_text(dim: Dim) -> str:
    """A size as text: `-floordiv(B, -2)`, where JAX prints a space behind each sign."""
    text = str(dim)
    return text if type(dim) is int else re.sub(r"(^|[(,] ?)- ", r"\1-", text)


def from_zero(axes: Sequence[Dim], rank: int) -> tuple[int, ...]:
    """Axes, sorted, each once, none counted from the end."""
    return tuple(sorted({int(axis) % rank for axis in axes}))


@dataclass(frozen=True, slots=True, eq=False)
class Type:
    """The type of a value: `f32[B,128]`."""

    dtype: DType
    shape: Shape

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Type) or self.dtype is not other.dtype:
            return False
        return same_shape(self.shape, other.shape)

    def __hash__(self) -> int:
        return hash((self.dtype, self.shape))

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def is_static(self) -> bool:
        return are_integers(self.shape)

    @property
    def static_shape(self) -> tuple[int, ...]:
        """The shape as numbers; ValueError where a size is symbolic."""
        if not are_integers(self.shape):
            raise ValueError(f"{self} has symbolic sizes")
        return self.shape

    @property
    def size(self) -> Dim:
        """The number of elements."""
        from j2o.ir.dims import prod

        return prod(self.shape)

    def with_shape(self, shape: Shape) -> Type:
        return Type(self.dtype, tuple(shape))

    def with_dtype(self, dtype: DType) -> Type:
        return Type(dtype, self.shape)

    def __str__(self) -> str:
        sizes = ",".join(map(dim_text, self.shape))
        return f"{self.dtype.value}[{sizes}]"


class Struct:
    """An immutable record inside an attribute: a name and named fields.

    JAX's GatherDimensionNumbers becomes one.
    """

    __slots__ = ("fields", "name")

    def __init__(self, name: str, /, **fields: Attr) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "fields", fields)

    name: str
    fields: dict[str, Attr]

    def __getattr__(self, key: str) -> Any:
        try:
            return self.fields[key]
        except KeyError:
            raise AttributeError(f"{self.name} has no field {key!r}") from None

    def __setattr__(self, key: str, value: object) -> None:
        raise AttributeError("Struct is immutable")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Struct):
            return False
        return self.name == other.name and self.fields == other.fields

    def __hash__(self) -> int:
        return hash((self.name, tuple(self.fields.items())))

    def __repr__(self) -> str:
        fields = ", ".join(f"{key}={value!r}" for key, value in self.fields.items())
        return f"{self.name}({fields})"


# a value that an attribute may have
Attr: TypeAlias = "bool | int | float | str | DType | Tensor | SymDim | Struct | tuple[Attr, ...] | None"
