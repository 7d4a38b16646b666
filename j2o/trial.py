"""Arguments at which a model is compared with its function: random ones, or arrays by name."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from j2o.arguments import whole_number
from j2o.errors import DimensionError, SpecError, meant, shown
from j2o.ir import dims
from j2o.ir.sizes import fit
from j2o.ir.types import Type
from j2o.model import Model
from j2o.numeric_check import random_array, sizes_that_fit, symbols_of
from j2o.values import KEY_NAMES, accept, to_jax

AT_LEAST_1 = "a whole number of at least 1 is needed"


def _check_symbols(model: Model, given: Mapping[str, int], option: str) -> None:
    """SpecError where one is no size, or of no symbol of the model; `option` is how they were given."""
    if not isinstance(given, Mapping):
        needed = "a mapping from symbolic sizes to numbers is needed"
        raise SpecError(f"{option}s={shown(given)}: {needed}")
    names = symbols_of(model.graph)
    for name, size in given.items():
        if name not in names:
            there = ", ".join(names) or "none"
            what = f"there is no such symbolic size; there are {there}"
            raise SpecError(f"{option} {name}={size}: {what}")
        whole_number(f"{option} {name}", size, range(1, sys.maxsize), AT_LEAST_1)


def sizes_for(model: Model, given: Mapping[str, int], option: str) -> dict[str, int]:
    """Sizes of all symbols: those given, for the others the smallest from 3 up.

    SpecError where one is given that there is not, or none that were tried fit the constraints;
    `option` is how sizes are given.
    """
    _check_symbols(model, given, option)
    try:
        return sizes_that_fit(model.graph, given)
    except DimensionError:
        asked = " ".join([f"{option} {name}={size}" for name, size in given.items()])
        constraints = ", ".join(model.graph.dims.constraints)
        what = f"found no sizes that fit the constraints {constraints}"
        raise SpecError(
            f"{asked or 'random inputs'}: {what}; {option} gives them"
        ) from None


def random_leaves(model: Model, sizes: Mapping[str, int], seed: int = 0) -> list[Any]:
    """Random arrays for the inputs of a model as JAX has them, the same for the same seed."""
    types = model._boundary.types
    return [_random(type, sizes, seed + i) for i, type in enumerate(types)]


def _random(type: Type, sizes: Mapping[str, int], seed: int) -> Any:
    """A random array as JAX has it."""
    if type.dtype.is_key:
        key = jax.random.key(seed, impl=KEY_NAMES[type.dtype])
        shape = tuple([dims.evaluate(d, sizes) for d in type.shape])
        return jax.random.split(key, shape)
    return random_array(type, sizes, seed)


def given_leaves(model: Model, inputs: Any) -> list[Any]:
    """The inputs of a model from what somebody gives.

    Arguments as the function takes them, in a tuple or list; or arrays by the names of the inputs, in
    a mapping, where `arr_0` is the first input. SpecError names what does not fit, DimensionError a
    size.
    """
    if isinstance(inputs, Mapping):
        return _named(model, inputs)
    if isinstance(inputs, tuple | list):
        return model._accept(inputs, {})
    needed = "a tuple of arguments, or a mapping from names of inputs to arrays"
    raise SpecError(f"inputs: given {shown(inputs)}; needed is {needed}")


def _named(model: Model, inputs: Mapping[str, Any]) -> list[Any]:
    """The inputs by their names."""
    names = model.input_names
    places = {f"arr_{i}": name for i, name in enumerate(names)}
    found: dict[str, Any] = {}
    for name, array in inputs.items():
        own = name if name in names else places.get(name, "")
        if not own:
            there = ", ".join(names) or "none"
            what = f"there is no such input; there are {there}"
            raise SpecError(f"inputs[{shown(name)}]: {what}{meant(name, names)}")
        if own in found:
            what = f"it gives {own!r} a second time"
            raise SpecError(f"inputs[{shown(name)}]: {what}; leave one of both out")
        found[own] = array
    missing = [name for name in names if name not in found]
    if missing:
        raise SpecError(f"inputs: {missing[0]!r} is missing; all inputs are needed")
    types = zip(names, model._boundary.types, strict=True)
    leaves = [accept(_as_jax(found[n], t), t, n) for n, t in types]
    model._check_sizes(tuple([leaf.shape for leaf in leaves]))
    return leaves


def _as_jax(array: Any, type: Type) -> Any:
    """An array of a file as JAX has it: a file has the words of keys, and the bits of other dtypes."""
    if type.dtype.is_key and getattr(array, "dtype", None) == np.uint32:
        return to_jax(array, type)
    if isinstance(array, np.ndarray) and array.dtype.kind == "V":
        wanted = type.dtype.numpy
        is_raw = array.dtype.names is None and array.dtype.itemsize == wanted.itemsize
        return array.view(wanted) if is_raw else array
    return array


def sizes_of(model: Model, leaves: Sequence[Any]) -> dict[str, int]:
    """The sizes of the symbols that these inputs have."""
    axes: list[Any] = []
    actual: list[int] = []
    for type, leaf in zip(model._boundary.types, leaves, strict=True):
        axes += type.shape
        actual += leaf.shape
    return fit([""] * len(axes), axes, actual, model.graph.dims.constraints)


def told(sizes: Mapping[str, int]) -> str:
    """Sizes in words: `B = 3, T = 4`."""
    return ", ".join([f"{name} = {size}" for name, size in sizes.items()])
