"""Specs: what the arguments of a function look like, as JAX's abstract values.

`spec_forms` reads one entry; here stand the pytrees of them, the scope of their symbolic sizes, and
their names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from j2o.calls import Argument, Layout, Slot, Static, WeightsTree
from j2o.errors import DimensionError, SpecError, shortened, shown
from j2o.frozen import LazyArray, Weights, own_key, tensor_of
from j2o.ir.dims import (
    DimScope,
    constraints_of,
    is_contradictory,
    is_symbolic,
    parse_constraint,
    scope_of,
    symbols_in,
)
from j2o.ir.tensor import Tensor
from j2o.parameters import Given, given_arguments
from j2o.spec_forms import (
    as_told,
    is_array_like,
    is_key,
    is_pair,
    is_python_number,
    is_shape,
    shape_and_dtype,
)

# JAX loses count of Python's recursion in trees that are deeper than its limit
DEEPEST = 200


@dataclass(frozen=True)
class Leaf:
    """A leaf of the arguments: an input of the model, or a weight that is frozen into it.

    `name` is that of the graph's input, "" for a weight. `aval` is what JAX traces with. `array` is
    what the caller gave as the weight. `narrowed` says the leaf and its dtype where JAX takes numbers
    of 64 bits as numbers of 32.
    """

    name: str
    aval: jax.ShapeDtypeStruct
    weight: Tensor | None = None
    array: Any = None
    narrowed: str | None = None


@dataclass(frozen=True)
class Specs:
    """All arguments of a call: the leaves, and how the call is put together from them.

    `static` has the values that the function gets as they are, by name. `scope` has the symbolic sizes.
    """

    leaves: tuple[Leaf, ...]
    layout: Layout
    static: dict[str, Any]
    scope: DimScope

    @property
    def inputs(self) -> list[Leaf]:
        """The leaves that are inputs of the graph, in order."""
        return [leaf for leaf in self.leaves if leaf.weight is None]

    @property
    def narrowed(self) -> list[str]:
        """The leaves whose 64-bit numbers JAX takes as 32-bit ones, with their dtypes."""
        return [leaf.narrowed for leaf in self.leaves if leaf.narrowed is not None]


class _Entry(NamedTuple):
    """What describes one leaf: its place for messages, its name, and its path in the argument."""

    place: str
    name: str
    path: str
    value: Any
    is_weight: bool


def parse_specs(
    fn: Callable[..., Any],
    specs: Any,
    kwargs: Any = None,
    constraints: Sequence[str] = (),
    input_names: Sequence[str] | None = None,
    added: Mapping[str, Any] = MappingProxyType({}),
) -> Specs:
    """All specs of a call; SpecError names the argument and the entry that does not fit.

    `added` has entries of keywords that stand in no signature.
    """
    entries: list[_Entry] = []
    static: dict[str, Any] = {}
    arguments: list[Argument] = []
    for given in given_arguments(fn, specs, kwargs, added):
        arguments.append(_argument(given, entries, static))
    scope = _find_scope(entries, constraints)
    found = list(_leaves(entries, scope))
    _check_constraints(scope, constraints)
    return Specs(
        leaves=_named(found, input_names),
        layout=Layout(tuple(arguments)),
        static=static,
        scope=scope,
    )


# ------------------------------------------------------------------------------------ arguments


def _argument(given: Given, entries: list[_Entry], static: dict[str, Any]) -> Argument:
    """An argument; its leaves are added to `entries`, its values to `static`."""
    leaves, tree = _flattened(given, given.entry, _is_leaf)
    slots = []
    for path, value in leaves:
        name = given.name(path_name(path))
        if isinstance(value, Static):
            slots.append(Slot(static=own_key(name, value.value, static)))
        elif isinstance(value, Weights):
            tree_of_weights = _weights(given, path, value.tree, entries, static)
            slots.append(Slot(weights=tree_of_weights))
        else:
            slots.append(Slot())
            entries.append(_entry(given, path, value, is_weight=False))
    return Argument(given.parameter, given.is_keyword, tree, tuple(slots))


def _weights(
    given: Given,
    path: tuple[Any, ...],
    tree: Any,
    entries: list[_Entry],
    static: dict[str, Any],
) -> WeightsTree:
    """A tree of weights: its arrays are added to `entries`, its flags and functions to `static`.

    Modules of Equinox have such leaves: whether dropout is on, the activation.
    """
    leaves, structure = _flattened(given, tree, _is_list_of_sizes)
    names: list[str | None] = []
    for inner, value in leaves:
        entry = _entry(given, (*path, *inner), value, is_weight=True)
        if isinstance(value, bool) or callable(value):
            names.append(own_key(entry.name, value, static))
        else:
            names.append(None)
            entries.append(entry)
    return WeightsTree(structure, tuple(names))


def _entry(given: Given, path: tuple[Any, ...], value: Any, is_weight: bool) -> _Entry:
    where = path_name(path)
    place = given.place(path, where)
    return _Entry(place, given.name(where), where, value, is_weight)


def _flattened(given: Given, tree: Any, is_leaf: Callable[[Any], bool]) -> Any:
    """Paths and leaves of an entry, and its structure; SpecError where it is no pytree."""
    _check_depth(given, tree)
    try:
        return jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
    except (TypeError, ValueError) as error:  # keys that have no order
        what = shortened(f"{type(error).__name__}: {error}", 160)
        where = f"{given.place()}: {as_told(tree)}"
        raise SpecError(f"{where} is no pytree: {what}") from error


def _check_depth(given: Given, tree: Any) -> None:
    """SpecError where containers are nested too deep for JAX, as those are that contain themselves."""
    level = [tree]
    for _ in range(DEEPEST):
        inner = [child for node in level for child in _containers_in(node)]
        level = list({id(child): child for child in inner}.values())
        if not level:
            return
    what = f"is nested over {DEEPEST} deep, or contains itself"
    raise SpecError(f"{given.place()}: {shown(tree)} {what}")


def _containers_in(node: Any) -> list[Any]:
    if isinstance(node, dict):
        node = list(node.values())
    if not isinstance(node, list | tuple):
        return []
    return [child for child in node if isinstance(child, dict | list | tuple)]


def _is_leaf(spec: Any) -> bool:
    if isinstance(spec, str | Weights | LazyArray | Static):
        return True
    return spec is not None and (is_shape(spec) or is_pair(spec))


def _is_list_of_sizes(spec: Any) -> bool:
    """Return True where a leaf of weights is a list of numbers that should have been an array."""
    return is_shape(spec) and len(spec) > 0


# ------------------------------------------------------------------------------------ leaves


def _leaves(entries: Sequence[_Entry], scope: DimScope) -> Iterator[Leaf]:
    """The leaves of all arguments, in order."""
    taken: dict[str, Any] = {}
    for entry in entries:
        yield _weight(entry, taken) if entry.is_weight else _input(entry, scope)


def _weight(entry: _Entry, taken: dict[str, Any]) -> Leaf:
    """A leaf that is frozen, under a key that is not in `taken`."""
    array = entry.value
    key = own_key(entry.path or entry.name, array, taken)
    weight = tensor_of(array, key)
    given = weight.dtype.numpy
    if is_key(getattr(array, "dtype", None)):
        # the tensor of a typed PRNG key holds its data
        aval = jax.ShapeDtypeStruct(array.shape, array.dtype)
        return Leaf("", aval, weight, array)
    aval = jax.ShapeDtypeStruct(weight.shape, _canonical(given))
    # integers stay what they are in the model; other numbers lose digits
    loses_digits = given.kind in "fc" and not is_python_number(array)
    narrowed = _narrowed(entry.name, given, aval, loses_digits)
    return Leaf("", aval, weight, array, narrowed)


def _input(entry: _Entry, scope: DimScope) -> Leaf:
    """A leaf that the caller gives."""
    shape, given = shape_and_dtype(entry.place, entry.value, scope)
    aval = jax.ShapeDtypeStruct(shape, _canonical(given))
    has_dtype = not is_python_number(entry.value)
    narrowed = _narrowed(entry.name, given, aval, has_dtype)
    return Leaf(entry.name, aval, narrowed=narrowed)


def _narrowed(
    name: str, given: Any, aval: jax.ShapeDtypeStruct, matters: bool
) -> str | None:
    """`x (float64)` where JAX takes a leaf with fewer bits and that matters, else None."""
    return f"{name} ({given})" if matters and aval.dtype != given else None


def _canonical(dtype: Any) -> Any:
    """The dtype that JAX gives such an array: 64-bit ones are narrowed outside of 64-bit mode."""
    return dtype if is_key(dtype) else jax.dtypes.canonicalize_dtype(dtype)


# ------------------------------------------------------------------------------------ symbolic sizes


def _find_scope(entries: Sequence[_Entry], constraints: Sequence[str]) -> DimScope:
    """The scope of the caller's own dimension expressions where there are any, else a new one."""
    scopes = {id(scope): scope for scope in _scopes(entries)}
    if len(scopes) > 1:
        advice = "make them in one jax.export.SymbolicScope"
        what = "the symbolic dimensions come from different scopes"
        raise SpecError(f"specs: {what}; {advice}")
    for scope in scopes.values():
        if constraints:
            advice = "state the constraints when making that scope"
            what = "the specs bring a scope of their own"
            raise SpecError(f"constraints: {what}; {advice}")
        return DimScope.of_jax(scope, constraints_of(scope))
    try:
        return DimScope(constraints)
    except DimensionError as error:
        raise SpecError(str(error)) from None


def _scopes(entries: Sequence[_Entry]) -> Iterator[Any]:
    """JAX's scopes of all symbolic sizes that the caller gives as expressions."""
    for entry in entries:
        shape = entry.value.shape if is_array_like(entry.value) else ()
        if isinstance(shape, tuple):
            yield from (scope_of(d) for d in shape if is_symbolic(d))


def _check_constraints(scope: DimScope, constraints: Sequence[str]) -> None:
    """SpecError where a constraint names what no spec has, or no sizes fulfil all of them."""
    # not the names in the shapes: JAX has T in the place of S where S == T
    known = scope.names
    for text in constraints:
        left, _, right = parse_constraint(text)
        unknown = sorted((symbols_in(left) | symbols_in(right)) - known)
        if unknown:
            there = "all their sizes are numbers"
            if known:
                there = f"they have {', '.join(sorted(known))}"
            what = f"no spec has a size {shown(unknown[0])}; {there}"
            raise SpecError(f"constraints: {as_told(text)}: {what}")
    if not constraints:
        return
    told = f"constraints={as_told(list(constraints))}"
    try:
        impossible = is_contradictory(scope)
    except (ArithmeticError, DimensionError) as error:
        raise SpecError(f"{told}: {error}") from None
    if impossible:
        raise SpecError(f"{told}: no sizes fulfil them; a size is 1 or more")


# ------------------------------------------------------------------------------------ names


def _named(leaves: Sequence[Leaf], given: Sequence[str] | None) -> tuple[Leaf, ...]:
    """The leaves, the inputs with names that are unique, or with those given."""
    found = [leaf.name for leaf in leaves if leaf.weight is None]
    names = iter(_names(found, given, "input_names"))
    return tuple(
        leaf if leaf.weight is not None else dataclasses.replace(leaf, name=next(names))
        for leaf in leaves
    )


def _names(
    found: Sequence[str], given: Sequence[str] | None, argument: str
) -> tuple[str, ...]:
    """The names of inputs or outputs: those given, else those found.

    SpecError where there are not so many tensors.
    """
    if given is None:
        return tuple(_unique(found))
    if len(given) != len(found):
        there = shortened(", ".join(found), 120)
        count = f"{len(given)} names for {len(found)} tensors ({there})"
        raise SpecError(f"{argument}={as_told(list(given))}: {count}")
    return tuple(given)


def output_names(
    found: Sequence[str], given: Sequence[str] | None, inputs: Sequence[str]
) -> tuple[str, ...]:
    """The names of the outputs; none may be that of an input."""
    names = _names(found, given, "output_names")
    taken = set(inputs)
    if given is None:
        return tuple(f"{n}_out" if n in taken else n for n in names)
    clashing = [n for n in names if n in taken]
    if clashing:
        what = f"{clashing[0]!r} is the name of an input; choose another"
        raise SpecError(f"output_names: {what}")
    return names


def _unique(names: Sequence[str]) -> list[str]:
    """The names, numbered where one stands again: `x, x_1`."""
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, -1) + 1
        out.append(f"{name}_{seen[name]}" if seen[name] else name)
    return out


def path_name(path: Sequence[Any]) -> str:
    """A pytree path as text: `params/Dense_0/kernel`; what cannot stand in a name is `_`."""
    text = "/".join(filter(None, (str(_step(key)) for key in path)))
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "_" for c in text)


def _step(key: Any) -> Any:
    """What an entry of a pytree path says: a key, a field's name or an index."""
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return getattr(key, attribute)
    return key
