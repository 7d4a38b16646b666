"""Specs: what the arguments of a function look like, in every form that `compile` takes, as JAX's abstract values."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from j2o.errors import DimensionError, SpecError
from j2o.frozen import LazyArray, Weights, own_key, tensor_of
from j2o.ir.dims import DimScope, constraints_of, is_symbolic, parse_constraint, scope_of, symbols_in
from j2o.ir.tensor import Tensor
from j2o.ir.types import KEY_NAMES, NUMPY_NAMES, DType


@dataclass(frozen=True)
class Specs:
    """`avals` are the flat leaves of all arguments, in order; `frozen` has the constant of each leaf that is a weight.

    `names` are those of the leaves that are graph inputs; `tree` is the structure of the tuple of arguments.
    """

    avals: tuple[jax.ShapeDtypeStruct, ...]
    frozen: tuple[Tensor | None, ...]
    names: tuple[str, ...]
    tree: Any
    caller_tree: Any  # without the frozen arguments
    frozen_arguments: frozenset[int]
    scope: DimScope


def parse_specs(
    fn: Callable[..., Any],
    specs: Sequence[Any],
    constraints: Sequence[str] = (),
    input_names: Sequence[str] | None = None,
) -> Specs:
    """All specs of a call; SpecError names the argument and the entry that does not fit."""
    if isinstance(specs, str) or not isinstance(specs, Sequence):
        raise SpecError(f"specs: given {specs!r}, a sequence with one entry for each positional argument is needed")
    parameters = _parameters(fn, len(specs))
    scope = _find_scope(specs, constraints)
    avals, frozen, names, trees, caller, frozen_arguments = [], [], [], [], [], set()
    taken: dict[str, Any] = {}
    for i, (parameter, spec) in enumerate(zip(parameters, specs, strict=True)):
        is_frozen = isinstance(spec, Weights)
        paths, tree = jax.tree_util.tree_flatten_with_path(spec.tree if is_frozen else spec, is_leaf=_is_leaf)
        trees.append(tree)
        if is_frozen:
            frozen_arguments.add(i)
        else:
            caller.append(tree)
        for path, leaf in paths:
            where = path_name(path)
            if is_frozen:
                tensor = tensor_of(leaf, own_key(where or parameter, leaf, taken))
                avals.append(_aval_of_weights(leaf, tensor))
                frozen.append(tensor)
            else:
                name = f"{parameter}/{where}" if where else parameter
                avals.append(_aval(name, leaf, scope))
                frozen.append(None)
                names.append(name)
    _check_symbols(scope, constraints)
    tree, caller_tree = (jax.tree_util.treedef_tuple(tuple(t)) for t in (trees, caller))
    final = _names(names, input_names, "input_names")
    return Specs(tuple(avals), tuple(frozen), final, tree, caller_tree, frozenset(frozen_arguments), scope)


def _aval_of_weights(leaf: Any, tensor: Tensor) -> jax.ShapeDtypeStruct:
    """What a frozen leaf is to JAX; the tensor of a typed PRNG key holds its data."""
    if _is_key(getattr(leaf, "dtype", None)):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    return jax.ShapeDtypeStruct(tensor.shape, _canonical(tensor.dtype.numpy))


def _check_symbols(scope: DimScope, constraints: Sequence[str]) -> None:
    """SpecError where a constraint names what no spec has."""
    known = scope.names  # not those in the shapes: JAX has T in the place of S where S == T
    for text in constraints:
        left, _, right = parse_constraint(text)
        if unknown := sorted((symbols_in(left) | symbols_in(right)) - known):
            raise SpecError(
                f"constraints: {text!r}: no spec has a size {unknown[0]!r}; they have {', '.join(sorted(known))}"
            )


def _names(found: Sequence[str], given: Sequence[str] | None, argument: str) -> tuple[str, ...]:
    """The names of inputs or outputs: those given, else those found; SpecError where they are not fit for use."""
    if given is None:
        return tuple(_unique(found))
    if isinstance(given, str) or not all(isinstance(n, str) for n in given):
        raise SpecError(f"{argument}={given!r}: a sequence of strings is needed")
    if len(given) != len(found):
        raise SpecError(f"{argument}={list(given)!r}: {len(given)} names for {len(found)} tensors ({', '.join(found)})")
    for i, name in enumerate(given):
        if not name:
            raise SpecError(f"{argument}: entry {i} is empty")
        if name in given[:i]:
            raise SpecError(f"{argument}: {name!r} stands twice; names must be unique")
    return tuple(given)


def output_names(found: Sequence[str], given: Sequence[str] | None, inputs: Sequence[str]) -> tuple[str, ...]:
    """The names of the outputs; none may be that of an input."""
    names, taken = _names(found, given, "output_names"), set(inputs)
    if given is None:
        return tuple(f"{n}_out" if n in taken else n for n in names)
    if clashing := [n for n in names if n in taken]:
        raise SpecError(f"output_names: {clashing[0]!r} is the name of an input; choose another")
    return names


def _unique(names: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, -1) + 1
        out.append(f"{name}_{seen[name]}" if seen[name] else name)
    return out


def _parameters(fn: Callable[..., Any], count: int) -> list[str]:
    """Names for `count` positional arguments; SpecError where the function cannot take so many."""
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):
        return [f"arg_{i}" for i in range(count)]
    positional, required, rest = [], 0, None
    for p in signature.parameters.values():
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
            positional.append(p.name)
            required += p.default is p.empty
        elif p.kind == p.VAR_POSITIONAL:
            rest = p.name
    if count < required or (count > len(positional) and rest is None):
        takes = f"{required}" if required == len(positional) else f"{required} to {len(positional)}"
        missing = f"; no spec for {positional[count]!r}" if count < required else ""
        raise SpecError(
            f"specs: {count} given, {getattr(fn, '__name__', type(fn).__name__)} takes {takes} positional arguments{missing}"
        )
    names = positional[:count]
    return names + [f"{rest}_{i}" for i in range(count - len(names))]


def _is_size(d: Any) -> bool:
    return "[" not in d if isinstance(d, str) else isinstance(d, int | np.integer) and not isinstance(d, bool)


def _is_shape(spec: Any) -> bool:
    """Whether an entry is a shape; one with None among the sizes is meant as one, though not a good one."""
    return type(spec) in (tuple, list) and (
        all(map(_is_size, spec))
        or (any(d is None for d in spec) and all(d is None or _is_size(d) for d in spec) and any(spec))
    )


def _is_leaf(spec: Any) -> bool:
    return spec is not None and (_is_shape(spec) or isinstance(spec, str | Weights | LazyArray))


def _find_scope(specs: Sequence[Any], constraints: Sequence[str]) -> DimScope:
    """The scope of the caller's own dimension expressions where there are any, else a new one."""
    if isinstance(constraints, str):
        raise SpecError(f"constraints={constraints!r}: a sequence of strings is needed")
    scopes = []
    for leaf in jax.tree.leaves([s.tree if isinstance(s, Weights) else s for s in specs], is_leaf=_is_leaf):
        for d in getattr(leaf, "shape", ()) if not isinstance(leaf, str) else ():
            if is_symbolic(d) and all(scope_of(d) is not s for s in scopes):
                scopes.append(scope_of(d))
    if len(scopes) > 1:
        raise SpecError(
            "specs: the symbolic dimensions come from different scopes; make them in one jax.export.SymbolicScope"
        )
    if scopes:
        if constraints:
            raise SpecError(
                "constraints: the specs bring a scope of their own; state the constraints when making that scope"
            )
        return DimScope.of_jax(scopes[0], constraints_of(scopes[0]))
    return DimScope(constraints)


def _aval(name: str, leaf: Any, scope: DimScope) -> jax.ShapeDtypeStruct:
    """The abstract value of one entry."""
    if isinstance(leaf, Weights):
        raise SpecError(f"spec of {name!r}: j2o.weights marks a whole argument, not a part of one")
    if isinstance(leaf, str):
        match = re.fullmatch(r"\s*([\w<>]+)\s*(?:\[(.*)\])?\s*", leaf, re.S)
        if match is None:
            raise SpecError(f"spec of {name!r}: {leaf!r} is not of the form 'f32[B,28,28,1]'")
        dtype, text = match.groups()
        return jax.ShapeDtypeStruct(_shape(name, leaf, text or "", scope), _dtype(name, leaf, dtype))
    if _is_shape(leaf):
        if None in leaf:
            raise SpecError(f"spec of {name!r}: {leaf!r}: None is no size; a name such as 'B' makes a size symbolic")
        return jax.ShapeDtypeStruct(_shape(name, leaf, ",".join(map(str, leaf)), scope), np.float32)
    if isinstance(leaf, LazyArray):
        raise SpecError(f"spec of {name!r}: a lazy array is a weight; wrap the argument in j2o.weights(…)")
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype if _is_key(leaf.dtype) else _canonical(leaf.dtype))
    if isinstance(leaf, bool | int | float | complex):
        return jax.ShapeDtypeStruct((), _canonical(np.result_type(leaf)))
    raise SpecError(
        f"spec of {name!r}: {leaf!r} is a {type(leaf).__name__}; a shape, 'f32[B,3]', an array or a ShapeDtypeStruct would do"
    )


def _shape(name: str, entry: Any, text: str, scope: DimScope) -> tuple[Any, ...]:
    try:
        shape = scope.shape(text)
    except DimensionError as error:
        raise SpecError(f"spec of {name!r}: {entry!r}: {error}") from None
    if negative := [d for d in shape if type(d) is int and d < 0]:
        advice = "a name such as 'B' makes a size symbolic"
        raise SpecError(f"spec of {name!r}: {entry!r}: the size {negative[0]} is negative; {advice}")
    return shape


def _dtype(name: str, entry: str, text: str) -> Any:
    try:
        dtype = NUMPY_NAMES.get(text) or DType(text)
    except ValueError:
        raise SpecError(
            f"spec of {name!r}: {entry!r}: there is no dtype {text!r}; f32, bf16, i32, u8, bool, … are"
        ) from None
    if dtype.is_key:
        return jax.random.key(0, impl=KEY_NAMES[dtype]).dtype
    return _canonical(dtype.numpy)


def _canonical(dtype: Any) -> Any:
    """The dtype that JAX gives such an array: 64-bit ones are narrowed unless the caller has turned 64-bit mode on."""
    return dtype if _is_key(dtype) else jax.dtypes.canonicalize_dtype(dtype)


def _is_key(dtype: Any) -> bool:
    return dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.extended)


def path_name(path: Sequence[Any]) -> str:
    """A pytree path as text: `params/Dense_0/kernel`."""
    steps = (next((getattr(key, a) for a in ("key", "name", "idx") if hasattr(key, a)), key) for key in path)
    return "/".join(filter(None, map(str, steps)))
