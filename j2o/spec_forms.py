"""The forms of a spec: each says the shape and the dtype of one array.

| form | example |
| --- | --- |
| a text | `"f32[B,28,28,1]"` |
| sizes, of float32 | `("B", 784)` |
| a Python number | `0.5` |
| an array, or what has a shape and a dtype | `jax.ShapeDtypeStruct((3,), "int8")` |

`shape_and_dtype` takes any of them. What is no spec, though it looks like one, has a message of its own.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from j2o.errors import DimensionError, SpecError, shortened, shown
from j2o.frozen import LazyArray
from j2o.ir.dims import DimScope, is_symbolic, largest_number, normal
from j2o.ir.types import KEY_NAMES, NUMPY_NAMES, DType, dtype_of

LARGEST = 2**63 - 1  # sizes and numbers of elements are int64 in ONNX
DTYPE_NAMES = frozenset(d.value for d in DType if d is not DType.STRING)
SYMBOLIC_ADVICE = "a name such as 'B' makes a size symbolic"
TEXT = re.compile(r"\s*([\w<>]+)\s*(?:\[(.*)\])?\s*", re.DOTALL)


class ShapeAndDtype(NamedTuple):
    """What one spec says. The dtype is numpy's or one of JAX's keys; one of 64 bits stays as it is."""

    shape: tuple[Any, ...]
    dtype: Any


def shape_and_dtype(place: str, entry: Any, scope: DimScope) -> ShapeAndDtype:
    """What a spec says; SpecError, which starts with its `place`, where `entry` is in no form of a spec."""
    _refuse_lazy(place, entry)
    if isinstance(entry, str):
        return _of_text(place, entry, scope)
    if is_shape(entry):
        return _of_sizes(place, entry, scope)
    if is_pair(entry):
        raise _pair_refused(place, entry)
    if isinstance(entry, bool):
        raise _bool_refused(place, entry)
    if is_python_number(entry):
        return ShapeAndDtype((), np.result_type(entry))
    if is_array_like(entry):
        return _of_array(place, entry)
    advice = "a shape, 'f32[B,3]', an array or a ShapeDtypeStruct would do"
    raise _refused(place, entry, f" is no spec; {advice}{_other_advice(entry)}")


# ------------------------------------------------------------------------------------ which form it is


def is_shape(spec: Any) -> bool:
    """Return True where an entry is a shape.

    One with None, True or 2.5 among the sizes is meant as one, though it is not a good one.
    """
    if type(spec) not in (tuple, list):
        return False
    if all(map(is_size, spec)):
        return True
    if not all(is_size(d) or _is_no_size(d) for d in spec):
        return False
    return any(d is not None for d in spec)


def is_pair(spec: Any) -> bool:
    """Return True where an entry is a shape and a dtype side by side, which is no form of a spec."""
    if type(spec) not in (tuple, list) or len(spec) != 2:
        return False
    shape, dtype = spec
    if not is_shape(shape):
        return False
    if isinstance(dtype, str):
        return is_dtype_name(dtype)
    return isinstance(dtype, type | np.dtype)


def is_size(d: Any) -> bool:
    """Return True for an integer, and for the text of one size."""
    if isinstance(d, str):
        return "[" not in d
    return isinstance(d, int | np.integer) and not isinstance(d, bool)


def _is_no_size(d: Any) -> bool:
    """Return True for a Python value that stands where only a size can."""
    if d is None:
        return True
    return isinstance(d, bool | float | complex) and not isinstance(d, np.generic)


def is_dtype_name(text: str) -> bool:
    """Return True for j2o's and numpy's names of dtypes: `f32`, `float32`."""
    return text in NUMPY_NAMES or text in DTYPE_NAMES


def is_array_like(entry: Any) -> bool:
    """Return True for an array, and for what describes one by a shape and a dtype."""
    if isinstance(entry, type):
        return False
    return hasattr(entry, "shape") and hasattr(entry, "dtype")


def is_python_number(entry: Any) -> bool:
    """Return True for Python's own numbers, which have no dtype."""
    is_number = isinstance(entry, int | float | complex)
    return is_number and not isinstance(entry, np.generic)


def is_key(dtype: Any) -> bool:
    """Return True for the dtypes of JAX's typed PRNG keys."""
    return dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.extended)


# ------------------------------------------------------------------------------------ a text


def _of_text(place: str, entry: str, scope: DimScope) -> ShapeAndDtype:
    """`'f32[B,28,28,1]'`."""
    match = TEXT.fullmatch(entry)
    if match is None:
        raise _refused(place, entry, " is not of the form 'f32[B,28,28,1]'")
    dtype, sizes = match.groups()
    shape = _parsed_shape(place, entry, sizes or "", scope)
    return ShapeAndDtype(shape, _named_dtype(place, entry, dtype))


def _named_dtype(place: str, entry: str, text: str) -> Any:
    """The dtype that a text names, numpy's or JAX's."""
    if not is_dtype_name(text):
        advice = "f32, bf16, i32, u8, bool, … are"
        if "[" not in entry:
            handing = f"j2o.static({as_told(entry)})"
            advice += f"; if it is a Python value, {handing} hands it over"
        raise _refused(place, entry, f": there is no dtype {as_told(text)}; {advice}")
    dtype = NUMPY_NAMES.get(text) or DType(text)
    if dtype.is_key:
        return jax.random.key(0, impl=KEY_NAMES[dtype]).dtype
    return dtype.numpy


# ------------------------------------------------------------------------------------ sizes


def _of_sizes(place: str, entry: Sequence[Any], scope: DimScope) -> ShapeAndDtype:
    """`("B", 784)`, which is of float32."""
    for d in entry:
        if _is_no_size(d):
            raise _refused(place, entry, f": {d} is no size; {SYMBOLIC_ADVICE}")
        if not isinstance(d, str):
            _check_number(place, entry, int(d))
    shape = _parsed_shape(place, entry, ",".join(map(str, entry)), scope)
    if len(shape) != len(entry):
        texts = [d for d in entry if isinstance(d, str)]
        wrong = next((d for d in texts if not d.strip() or "," in d), "")
        raise _refused(place, entry, f": {shown(wrong)} is not one size")
    return ShapeAndDtype(shape, np.dtype(np.float32))


# ------------------------------------------------------------------------------------ an array


def _of_array(place: str, entry: Any) -> ShapeAndDtype:
    """An example array or a ShapeDtypeStruct."""
    return ShapeAndDtype(_sizes_of_array(place, entry), _dtype_of_array(place, entry))


def _sizes_of_array(place: str, entry: Any) -> tuple[Any, ...]:
    try:
        shape = tuple(entry.shape)
    except TypeError:
        what = f" has no shape of sizes: {shown(entry.shape)}"
        raise _refused(place, entry, what) from None
    for d in shape:
        is_number = is_size(d) and not isinstance(d, str)
        if not is_number and not is_symbolic(d):
            advice = "a number, or a size of jax.export.symbolic_shape, is"
            raise _refused(place, entry, f": {shown(d)} is no size; {advice}")
    return _checked_shape(place, entry, tuple(map(normal, shape)))


def _dtype_of_array(place: str, entry: Any) -> Any:
    try:
        if is_key(entry.dtype):
            return entry.dtype
        dtype = np.dtype(entry.dtype).newbyteorder("=")
        known = dtype_of(dtype) is not DType.STRING
    except TypeError:
        known = False
    if not known:
        what = f" has the dtype {shown(entry.dtype)}; numbers or bools are needed"
        raise _refused(place, entry, what)
    return dtype


# ------------------------------------------------------------------------------------ what fits no form


def _refuse_lazy(place: str, entry: Any) -> None:
    if isinstance(entry, LazyArray):
        why = "a lazy array is a weight; wrap the argument in j2o.weights(…)"
        raise SpecError(f"{place}: {why}")


def _other_advice(entry: Any) -> str:
    """What else would work for an object that may have been meant as something else."""
    if dataclasses.is_dataclass(entry) and not isinstance(entry, type):
        return "; jax.tree_util.register_dataclass makes its class one of pytrees"
    return "; j2o.static(…) hands over any Python value"


def _pair_refused(place: str, entry: Sequence[Any]) -> SpecError:
    right = _text_of_pair(*entry)
    return _refused(place, entry, f" is a shape beside a dtype; {right!r} says both")


def _bool_refused(place: str, entry: bool) -> SpecError:
    advice = f"j2o.static({entry}) hands it over, 'bool[]' makes it an input"
    return SpecError(f"{place}: {entry} is a Python value; {advice}")


def _text_of_pair(shape: Sequence[Any], dtype: Any) -> str:
    """The text of a spec for a shape and a dtype: `'f32[B,784]'`."""
    name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", str(dtype))
    short = NUMPY_NAMES[name].value if name in NUMPY_NAMES else name
    return f"{short}[{','.join(map(str, shape))}]"


# ------------------------------------------------------------------------------------ what an array can have


def _parsed_shape(
    place: str, entry: Any, text: str, scope: DimScope
) -> tuple[Any, ...]:
    try:
        shape = scope.shape(text)
    except DimensionError as error:
        why = str(error).removeprefix(f"dimensions {text!r}: ")
        raise _refused(place, entry, f": {shortened(why, 160)}") from None
    return _checked_shape(place, entry, shape)


def _checked_shape(place: str, entry: Any, shape: tuple[Any, ...]) -> tuple[Any, ...]:
    """`shape`; SpecError where a size, or the number of elements, is none that an array can have."""
    elements = 1
    for d in shape:
        if type(d) is int:
            _check_number(place, entry, d)
            elements *= d or 1
        else:
            _check_number(place, entry, largest_number(d))
    _check_number(place, entry, elements, "number of elements")
    return shape


def _check_number(place: str, entry: Any, number: int, what: str = "size") -> None:
    if number < 0:
        why = f": the size {number} is negative; {SYMBOLIC_ADVICE}"
        raise _refused(place, entry, why)
    if number > LARGEST:
        why = f": the {what} is above 2**63 - 1, the largest that ONNX can say"
        raise _refused(place, entry, why)


# ------------------------------------------------------------------------------------ messages


def _refused(place: str, entry: Any, why: str) -> SpecError:
    return SpecError(f"{place}: {as_told(entry)}{why}")


def as_told(entry: Any) -> str:
    """An entry as it stands in a message."""
    if isinstance(entry, str | tuple | list):
        return shortened(repr(entry), 80)
    return shown(entry)
