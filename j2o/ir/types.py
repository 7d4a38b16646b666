"""Element types, tensor types and the plain values that attributes are made of."""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import ml_dtypes  # numpy knows its dtypes by name from here on
import numpy as np

if TYPE_CHECKING:
    from j2o.ir.dims import SymDim
    from j2o.ir.tensor import Tensor

Dim: TypeAlias = "int | SymDim"
Shape: TypeAlias = "tuple[Dim, ...]"


class DType(enum.Enum):
    """An element type; the value is its name in the text form.

    `KEY_*` are JAX's typed PRNG keys and `C64`/`C128` complex numbers: they live in the `lax` dialect alone, until
    the `components` pass has turned each into arrays of plain numbers.
    """

    BOOL = "bool"
    I2, I4, I8, I16, I32, I64 = "i2", "i4", "i8", "i16", "i32", "i64"
    U2, U4, U8, U16, U32, U64 = "u2", "u4", "u8", "u16", "u32", "u64"
    F16, BF16, F32, F64 = "f16", "bf16", "f32", "f64"
    F8E4M3FN, F8E5M2 = "f8e4m3fn", "f8e5m2"
    F8E4M3FNUZ, F8E5M2FNUZ = "f8e4m3fnuz", "f8e5m2fnuz"
    F8E4M3B11FNUZ, F8E4M3, F8E3M4, F8E8M0FNU = (
        "f8e4m3b11fnuz",
        "f8e4m3",
        "f8e3m4",
        "f8e8m0fnu",
    )
    F4E2M1FN = "f4e2m1fn"
    C64, C128 = "c64", "c128"
    STRING = "string"
    KEY_FRY, KEY_RBG, KEY_UNSAFE_RBG = "key<fry>", "key<rbg>", "key<urbg>"

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

    __hash__ = (
        object.__hash__
    )  # members are single objects; Enum's own hash is ten times slower


def _describe(dtype: DType) -> None:
    name = dtype.value
    dtype.is_key = name.startswith("key<")
    dtype.is_complex = name in ("c64", "c128")
    dtype.is_float = name.startswith(("f", "bf"))
    dtype.is_unsigned = name[0] == "u" and name[1].isdigit()
    dtype.is_signed = name[0] == "i"
    dtype.is_int = dtype.is_signed or dtype.is_unsigned
    digits = "".join(
        c
        for c in name.removeprefix("bf")[1 if name[0] != "b" else 0 :].split("e")[0]
        if c.isdigit()
    )
    dtype.bits = {"bool": 8, "string": 0}.get(name) or int(digits or 0)


for _dtype in DType:
    _describe(_dtype)

_NAMES = {  # those that numpy and ml_dtypes have
    **{f"i{n}": f"int{n}" for n in (2, 4, 8, 16, 32, 64)},
    **{f"u{n}": f"uint{n}" for n in (2, 4, 8, 16, 32, 64)},
    **{f"f{n}": f"float{n}" for n in (16, 32, 64)},
    **{
        d.value: d.value.replace("f", "float", 1).replace("e", "_e", 1)
        for d in DType
        if d.value.startswith(("f8", "f4"))
    },
    **{
        "bool": "bool",
        "bf16": "bfloat16",
        "c64": "complex64",
        "c128": "complex128",
        "string": "object",
    },
}
_NUMPY = {DType(k): np.dtype(v) for k, v in _NAMES.items()}
_FROM_NUMPY = {v: k for k, v in _NUMPY.items()}
NUMPY_NAMES = {v: DType(k) for k, v in _NAMES.items() if k != "string"}
# the opset that brought a dtype to ONNX, where it is not one of the first; the last three have never come
OPSET_OF = {
    **dict.fromkeys(
        (DType.F8E4M3FN, DType.F8E5M2, DType.F8E4M3FNUZ, DType.F8E5M2FNUZ), 19
    ),
    **dict.fromkeys((DType.I4, DType.U4), 21),
    DType.F4E2M1FN: 23,
    DType.F8E8M0FNU: 24,
    **dict.fromkeys((DType.I2, DType.U2), 25),
    **dict.fromkeys((DType.F8E4M3B11FNUZ, DType.F8E4M3, DType.F8E3M4)),
}
# dtypes that onnxruntime cannot copy: it has no Identity for them
NOT_COPIED = frozenset(map(DType, "i2 u2 i4 u4 f8e8m0fnu f4e2m1fn".split()))
# what JAX calls the generator of typed keys
KEY_NAMES = {
    DType.KEY_FRY: "threefry2x32",
    DType.KEY_RBG: "rbg",
    DType.KEY_UNSAFE_RBG: "unsafe_rbg",
}


def dtype_of(numpy_dtype: object) -> DType:
    """The DType of a numpy dtype (ml_dtypes included), or TypeError."""
    try:
        return _FROM_NUMPY[np.dtype(numpy_dtype)]  # type: ignore[arg-type]
    except KeyError:
        raise TypeError(f"no j2o dtype for numpy's {numpy_dtype}") from None


def exact_attrs(attrs: Mapping[str, Attr]) -> Hashable:
    """Attributes as a key that is the same for what ONNX does not tell apart: 0.0 and -0.0, 1 and 1.0 differ, 1 and True do not."""
    return (
        tuple([(name, _exact(value)) for name, value in sorted(attrs.items())])
        if attrs
        else ()
    )


def _exact(value: Attr) -> Hashable:
    if type(value) is float:
        return float, value.hex()
    if type(value) is tuple:
        return tuple(map(_exact, value))
    return value


def is_in_onnx(dtype: DType, opset: int) -> bool:
    """Whether ONNX has a dtype at an opset."""
    since = OPSET_OF.get(dtype, 0)
    return since is not None and since <= opset


def is_one(d: Dim) -> bool:
    """Whether a size is the number 1."""
    return type(d) is int and d == 1


def same_dim(a: Dim, b: Dim) -> bool:
    """`a == b`, faster: JAX subtracts expressions to compare them, which their hashes save where they differ."""
    return a is b or (hash(a) == hash(b) and a == b)


def same_shape(a: Shape, b: Shape) -> bool:
    """`a == b`, by `same_dim`."""
    if a is b:
        return True
    if len(a) != len(b):
        return False
    for x, y in zip(a, b):  # noqa: B905, SIM110  (lengths are equal; a loop is twice as fast as `all`)
        if x is not y and not same_dim(x, y):
            return False
    return True


def dim_text(dim: Dim) -> str:
    """A size as text: `-floordiv(B, -2)`, where JAX prints a space behind each sign."""
    return str(dim) if type(dim) is int else re.sub(r"(^|[(,] ?)- ", r"\1-", str(dim))


def from_zero(axes: Sequence[Dim], rank: int) -> tuple[int, ...]:
    """Axes, sorted, each once, none counted from the end."""
    return tuple(sorted({int(a) % rank for a in axes}))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, eq=False)
class Type:
    """The type of a value: `f32[B,128]`."""

    dtype: DType
    shape: Shape

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Type)
            and self.dtype is other.dtype
            and same_shape(self.shape, other.shape)
        )

    def __hash__(self) -> int:
        return hash((self.dtype, self.shape))

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def is_static(self) -> bool:
        return all(type(d) is int for d in self.shape)

    @property
    def static_shape(self) -> tuple[int, ...]:
        """The shape as numbers; ValueError where a size is symbolic."""
        sizes = tuple(d for d in self.shape if type(d) is int)
        if len(sizes) != len(self.shape):
            raise ValueError(f"{self} has symbolic sizes")
        return sizes

    @property
    def size(self) -> Dim:
        """The number of elements."""
        from j2o.ir import dims

        return dims.prod(self.shape)

    def with_shape(self, shape: Shape) -> Type:
        return Type(self.dtype, tuple(shape))

    def with_dtype(self, dtype: DType) -> Type:
        return Type(dtype, self.shape)

    def __str__(self) -> str:
        return f"{self.dtype.value}[{','.join(map(dim_text, self.shape))}]"


class Struct:
    """An immutable record inside an attribute, such as JAX's GatherDimensionNumbers: a name and named fields."""

    __slots__ = ("fields", "name")

    def __init__(self, name: str, /, **fields: Attr) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "fields", fields)

    name: str
    fields: dict[str, Attr]

    def __getattr__(self, key: str):
        try:
            return self.fields[key]
        except KeyError:
            raise AttributeError(f"{self.name} has no field {key!r}") from None

    def __setattr__(self, key: str, value: object) -> None:
        raise AttributeError("Struct is immutable")

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Struct)
            and self.name == other.name
            and self.fields == other.fields
        )

    def __hash__(self) -> int:
        return hash((self.name, tuple(self.fields.items())))

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{k}={v!r}' for k, v in self.fields.items())})"


Attr: TypeAlias = "bool | int | float | str | DType | Tensor | SymDim | Struct | tuple[Attr, ...] | None"
