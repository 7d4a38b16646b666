"""Names, strings and constants as they stand in the text form, in both directions.

`printer.py` writes with what is here, `parser.py` reads with it. The head of `parser.py` has the grammar.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from j2o.ir.tensor import ArrayTensor
from j2o.ir.types import Attr, DType, Type

PLAIN = re.compile(r"[A-Za-z_][\w.]*")  # a name that needs no quotes behind its @
BYTES = "0x"  # what the bytes of an array begin with

# the words that stand for an attribute, so that no dimension can bear their names
CONSTANTS: dict[str, Attr] = {
    "none": None,
    "true": True,
    "false": False,
    **{dtype.value: dtype for dtype in DType},
}


def stem(name: str) -> str:
    """Return a name without the numbers behind it: `x` for `x_1_2`, nothing for `7`."""
    end = len(name)
    while True:
        start = end
        while start and name[start - 1].isdecimal():
            start -= 1
        has_number = start < end
        if start == 0:
            # digits alone are a number where they are all of the name
            return "" if has_number and end == len(name) else name[:end]
        if not has_number or name[start - 1] != "_":
            return name[:end]
        end = start - 1


def quoted(text: str) -> str:
    """Return the text in double quotes, with JSON's escapes."""
    return json.dumps(text, ensure_ascii=False)


# ------------------------------------------------------------------------------------- elements of a constant


def elements_text(tensor: ArrayTensor) -> str:
    """Return `1.5` for a scalar, `[1, 2]` in row-major order for others; `0x…` where numbers lose bits."""
    items = _items(tensor)
    if items is None or not _keeps_bits(items, tensor):
        return BYTES + np.ascontiguousarray(tensor.array).tobytes().hex()
    return f"[{', '.join(items)}]" if tensor.shape else items[0]


def _items(tensor: ArrayTensor) -> list[str] | None:
    """Return the elements, each as text; None for dtypes whose numbers have no text, such as complex ones."""
    array = tensor.array
    dtype = tensor.dtype
    if dtype is DType.STRING:
        return [quoted(v if isinstance(v, str) else v.decode()) for v in array.flat]
    if dtype is DType.BOOL:
        return ["true" if v else "false" for v in array.flat]
    if dtype is DType.F32:
        return [str(v) for v in array.flat]  # fewer digits than a Python float has
    if dtype is DType.F64:
        return [repr(v) for v in array.ravel().tolist()]
    if dtype.is_int:
        return [str(int(v)) for v in array.flat]
    if dtype.is_float:
        return [repr(float(v)) for v in array.flat]
    return None


def _keeps_bits(items: list[str], tensor: ArrayTensor) -> bool:
    """Return False where reading the elements would give other bits: NaN has many patterns of them."""
    if "nan" not in items:
        return True
    array = np.ascontiguousarray(tensor.array)
    return read_elements(items, tensor.type).tobytes() == array.tobytes()


def read_elements(items: list[str], type: Type) -> np.ndarray:
    """Return the array of a static type that elements in text stand for.

    ValueError, KeyError, OverflowError or TypeError where one does not fit.
    """
    shape = type.static_shape
    dtype = type.dtype.numpy
    if len(items) == 1 and items[0].startswith(BYTES):
        data = bytes.fromhex(items[0].removeprefix(BYTES))
        return np.frombuffer(data, dtype).reshape(shape)
    values = _values(items, type.dtype)
    if type.dtype.is_int and type.dtype.bits >= 8:
        return np.array(values, dtype).reshape(shape)  # an integer too large is refused
    array = np.array(values, object if type.dtype is DType.STRING else None)
    with np.errstate(over="ignore"):
        return array.astype(dtype).reshape(shape)


def _values(items: list[str], dtype: DType) -> list[Any]:
    """Return the elements as Python's own values."""
    if dtype is DType.STRING:
        strings = [json.loads(item) for item in items]
        if not all(isinstance(value, str) for value in strings):
            raise ValueError("a string in double quotes is needed")
        return strings
    if dtype is DType.BOOL:
        booleans = {"true": True, "false": False}
        return [booleans[item] for item in items]
    if dtype.is_int:
        return [int(item) for item in items]
    return [float(item) for item in items]
