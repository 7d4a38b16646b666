"""Frozen weights: trees whose leaves become initializers, read only while the model is written."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from j2o.errors import SpecError, shortened, shown
from j2o.ir.tensor import ArrayTensor, Box, LazyTensor, Reader, Tensor, whole
from j2o.ir.types import DType, Type, dtype_of
from j2o.readers import map_reader, native_reader, shard_reader


@dataclass(frozen=True)
class Weights:
    """A pytree that is frozen into the model; see `weights`."""

    tree: Any


def weights(tree: Any) -> Weights:
    """Mark a pytree as frozen: an argument of `compile`, or a part of one.

    Its leaves become initializers named after their tree path. True, False and functions among them, as
    modules of Equinox have them, are handed over as they are.

    Leaves may be numpy or JAX arrays (also sharded over devices), `np.memmap`, or what `lazy`,
    `open_safetensors` and `open_orbax` give. None is copied; those that are not in memory are read
    while saving, in pieces where that is possible. Their contents must not change between `compile` and
    the last use of the model.
    """
    return Weights(tree)


class LazyArray:
    """An array that is read when it is needed, through what `open()` gives; a leaf for JAX's trees."""

    __slots__ = ("dtype", "open", "shape")

    def __init__(
        self, shape: Iterable[int], dtype: Any, open: Callable[[], Reader]
    ) -> None:
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        self.open = open

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def load(self) -> np.ndarray:
        return self.open()(whole(self.shape))

    __array__ = None  # numpy must not read it by accident

    def __repr__(self) -> str:
        return f"lazy({self.dtype}{list(self.shape)})"


def lazy(shape: Sequence[int], dtype: Any, load: Callable[[], Any]) -> LazyArray:
    """A leaf for `weights` whose data `load()` gives.

    It is called while the model is saved: once, or twice to quantise.

    SpecError where shape and dtype are none; SpecError while saving where `load()` fails or gives
    something else.
    """
    if not callable(load):
        needed = "a function that returns the array is needed"
        raise SpecError(f"lazy: load is {shown(load)}; {needed}")
    try:
        made = LazyArray(map(operator.index, shape), dtype, lambda: _whole(made, load))
        _check_lazy(made, dtype)
    except (TypeError, ValueError) as error:
        what = f"not the shape and dtype of an array: {error}"
        raise SpecError(f"lazy({shown(shape)}, {shown(dtype)}): {what}") from None
    return made


def _check_lazy(array: LazyArray, dtype: Any) -> None:
    """TypeError or ValueError where there is no array of the shape and dtype."""
    if dtype is None:
        raise TypeError("None is no dtype")
    _dtype(array.dtype)
    if min(array.shape, default=0) < 0:
        raise ValueError("a size is negative")
    if math.prod(n or 1 for n in array.shape) >= 2**63:
        raise ValueError("more than 2**63 - 1 elements")


def _whole(array: LazyArray, load: Callable[[], Any]) -> Reader:
    """Reads boxes of what `load()` gives, called when the first is read."""
    loaded: list[np.ndarray] = []

    def read(box: Box) -> np.ndarray:
        if not loaded:
            found = _unmasked(load())
            if found.shape != array.shape or found.dtype != array.dtype:
                gave = f"{found.dtype}{list(found.shape)}"
                raise SpecError(f"load() gave {gave}, declared is {array!r}")
            loaded.append(found)
        return loaded[0][(*box, ...)]

    return read


def _unmasked(array: Any) -> np.ndarray:
    """As a plain array; TypeError for a masked one, whose mask no model keeps."""
    if isinstance(array, np.ma.MaskedArray):
        advice = "array.filled(value) is a plain one"
        raise TypeError(f"it is a masked array, a model has no masks; {advice}")
    return np.asarray(array)


def tensor_of(leaf: Any, key: str | None) -> Tensor:
    """A leaf as a constant of the IR, without copying or reading it; SpecError where it is no array.

    Without a key, the constant gets one of its content (small) or a number.
    """
    name = key or f"weights_{id(leaf)}"
    if _is_tracer(leaf):
        advice = "compile outside of jit, grad and vmap"
        what = f"{shown(leaf)} is a tracer, which has no values; {advice}"
        raise SpecError(f"weights {name!r}: {what}")
    try:
        tensor = _tensor(leaf, key, name)
    # a dtype that ONNX lacks, an array that was deleted
    except (TypeError, RuntimeError) as error:
        raise SpecError(f"weights {name!r}: {shortened(str(error), 200)}") from error
    if tensor is None:
        advice = "numpy and JAX arrays, np.memmap and j2o.lazy(…) are"
        what = f"is a {type(leaf).__name__}, not an array; {advice}"
        raise SpecError(f"weights {name!r}: {what}")
    return tensor


def _is_tracer(leaf: Any) -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(leaf, jax.core.Tracer)


def _tensor(leaf: Any, key: str | None, name: str) -> Tensor | None:
    """A leaf as a constant; None where it is no array, TypeError where the IR does not have its dtype."""
    if isinstance(leaf, LazyArray):
        return _lazy_tensor(leaf, name, leaf.open)
    if isinstance(leaf, np.memmap) and leaf._mmap is not None:  # type: ignore[attr-defined]
        return _lazy_tensor(leaf, name, lambda: map_reader(leaf))
    if isinstance(leaf, np.ndarray) and not leaf.dtype.isnative:
        return _lazy_tensor(leaf, name, lambda: native_reader(leaf))
    if isinstance(leaf, np.ndarray | np.generic | int | float | complex | bool):
        array = _unmasked(leaf)
        _dtype(array.dtype)
        return ArrayTensor(array, key)
    if hasattr(type(leaf), "addressable_shards"):  # of a leaf itself JAX makes a list
        return _jax_tensor(leaf, key, name)
    return None


def _lazy_tensor(leaf: Any, name: str, open: Callable[[], Reader]) -> LazyTensor:
    return LazyTensor(Type(_dtype(leaf.dtype), leaf.shape), name, open)


def _jax_tensor(leaf: Any, key: str | None, name: str) -> Tensor:
    """A JAX array: on one CPU its own memory, elsewhere what its shards are asked for.

    Typed PRNG keys are their data.
    """
    import jax

    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return ArrayTensor(np.asarray(jax.random.key_data(leaf)), key)
    if not leaf.is_fully_addressable:
        why = "a part of it lies on devices of other processes; gather it first"
        raise SpecError(f"weights {name!r}: {why}")
    devices = leaf.sharding.device_set
    if len(devices) == 1 and next(iter(devices)).platform == "cpu":
        return ArrayTensor(np.asarray(leaf), key)
    return _lazy_tensor(leaf, name, lambda: shard_reader(leaf))


def _dtype(given: Any) -> DType:
    """The dtype of a weight in the IR, in this machine's byte order; TypeError where it has none."""
    dtype = dtype_of(np.dtype(given).newbyteorder("="))
    if dtype == DType.STRING:
        raise TypeError("an array of objects has no numbers to store")
    return dtype


def own_key(path: str, leaf: Any, taken: dict[str, Any]) -> str:
    """`path`, numbered where another array has it already.

    `taken` learns it. Equal keys mean equal contents.
    """
    key, n = path, 0
    while taken.setdefault(key, leaf) is not leaf:
        n += 1
        key = f"{path}_{n}"
    return key


def loaded(leaf: Any) -> Any:
    """A weight as an array, read where it is lazy."""
    import jax

    return leaf.load() if isinstance(leaf, LazyArray) else jax.numpy.asarray(leaf)
