"""How a call of the function is put together: which arrays, weights and Python values stand where.

An argument is a pytree whose leaves are slots. A slot takes an array that the caller of the model gives, a
tree of weights, or a value that the function gets as it is. The caller of the model leaves out the arguments
that have no array of his, and gives None for other slots without one. In the place of an empty container
he may give that, as the function gets and returns it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import jax


@dataclass(frozen=True)
class Static:
    """A value that the function gets as it is; see `static`."""

    value: Any


def static(value: Any) -> Static:
    """Mark an entry of `specs` or `kwargs` as a Python value: the function gets it as it is.

    It is no input of the model, and the model's caller leaves it out. Any object will do: a flag, a text, a
    configuration, a function, a module. Arrays in it become constants of the model.
    """
    return Static(value)


class WeightsTree(NamedTuple):
    """The structure of a tree of weights; for each leaf the name of its Python value, None for an array."""

    structure: Any
    values: tuple[str | None, ...]


class Slot(NamedTuple):
    """What a place in an argument takes: an array where both are None.

    `weights` describes a tree of weights, `static` is the name of a value.
    """

    weights: WeightsTree | None = None
    static: str | None = None

    @property
    def is_given(self) -> bool:
        """True where the caller of the model gives an array."""
        return self.weights is None and self.static is None


class Argument(NamedTuple):
    """An argument for the parameter `name`, by place or by keyword; the leaves of `tree` are `slots`."""

    name: str
    is_keyword: bool
    tree: Any
    slots: tuple[Slot, ...]

    @property
    def is_left_out(self) -> bool:
        """True where it is as a whole what the model's caller does not give."""
        is_one_slot = len(self.slots) == 1
        is_leaf = is_one_slot and jax.tree_util.treedef_is_leaf(self.tree)
        return is_leaf and not self.slots[0].is_given


class Call(NamedTuple):
    """The arguments of one call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """The arguments of the function: those by place, then those by keyword in the order of their names."""

    arguments: tuple[Argument, ...]

    def call(self, leaves: Iterable[Any], static: Mapping[str, Any]) -> Call:
        """The function's arguments, of all arrays and weights in order and of the values by their names."""
        rest = iter(leaves)
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for argument in self.arguments:
            filled = [_filled(slot, rest, static) for slot in argument.slots]
            value = jax.tree.unflatten(argument.tree, filled)
            if argument.is_keyword:
                kwargs[argument.name] = value
            else:
                args.append(value)
        return Call(tuple(args), kwargs)

    @property
    def places(self) -> tuple[str, ...]:
        """The parameters of what the model's caller gives by place, in order."""
        given = [a for a in self.arguments if not a.is_left_out]
        return tuple(a.name for a in given if not a.is_keyword)

    @property
    def keywords(self) -> tuple[str, ...]:
        """The keywords that the model's caller gives, in order."""
        given = [a for a in self.arguments if not a.is_left_out]
        return tuple(a.name for a in given if a.is_keyword)

    @property
    def left_out(self) -> frozenset[str]:
        """The parameters of what the model's caller does not give."""
        return frozenset(a.name for a in self.arguments if a.is_left_out)

    def caller_tree(self, static: Mapping[str, Any] = MappingProxyType({})) -> Any:
        """The structure of what the model's caller gives: the tuple by place, and that by keyword.

        It has the containers among `static` that are empty, and None for other slots without an array.
        """
        by_place: list[Any] = []
        by_keyword: list[Any] = []
        for argument in self.arguments:
            if not argument.is_left_out:
                trees = by_keyword if argument.is_keyword else by_place
                trees.append(_caller_tree(argument, static))
        both = [tuple(by_place), tuple(by_keyword)]
        return jax.tree_util.treedef_tuple(map(jax.tree_util.treedef_tuple, both))


def _filled(slot: Slot, leaves: Iterator[Any], static: Mapping[str, Any]) -> Any:
    """What stands in a slot."""
    if slot.static is not None:
        return static[slot.static]
    if slot.weights is None:
        return next(leaves)
    filled = []
    for name in slot.weights.values:
        filled.append(next(leaves) if name is None else static[name])
    return jax.tree.unflatten(slot.weights.structure, filled)


def _caller_tree(argument: Argument, static: Mapping[str, Any]) -> Any:
    """The structure of an argument as the model's caller gives it."""
    if all(slot.is_given for slot in argument.slots):
        return argument.tree
    filled = [_given(slot, static) for slot in argument.slots]
    return jax.tree.structure(jax.tree.unflatten(argument.tree, filled))


def _given(slot: Slot, static: Mapping[str, Any]) -> Any:
    """What the model's caller gives in a slot: an array, a container without any, or None."""
    if slot.is_given:
        return jax.ShapeDtypeStruct((), "float32")
    value = None if slot.static is None else static.get(slot.static)
    is_empty = isinstance(value, tuple | list | dict) and not value
    return value if is_empty else None
