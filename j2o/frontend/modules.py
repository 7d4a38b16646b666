"""Modules that a program may write to.

It is traced with copies of them, and the caller's own stay as they are.

A trace must not touch nnx modules of the caller's. nnx refuses to write to variables from inside a trace, and
`nnx.jit` empties the modules that it is given before it finds that out. A state of equinox is used up by its
first call. So what holds such objects is copied inside the trace: modules with their variables, and the
methods, partials, closures, containers and objects of any class around them. What is shared stays shared in
the copy. Arrays are not copied. Uses of private JAX: none.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax

from j2o.frontend.held import (
    ATOMS,
    Held,
    Program,
    attributes,
    is_equinox_state,
    is_nnx,
    is_variable,
    is_wrapper,
    used_globals,
)
from j2o.frontend.versions import raw_value

TRACE_STATE = "_pytree__state"
Copies = dict[int, Any]  # the copy of each object, by the object's id
Again = Callable[[Any], Any]  # the copy of a part, made now or before


def holders_of_state(held: Held) -> set[int]:
    """Return the ids of the objects that a program may write to, and of all that hold one of them.

    These have to be copied. What jax.jit returns has its function in a place that nobody can change.
    """
    waiting = [
        position
        for position, (_, x) in enumerate(held.objects)
        if is_nnx(x) or is_equinox_state(x)
    ]
    found: set[int] = set()
    while waiting:
        _, x = held.objects[waiting.pop()]
        if id(x) in found or is_wrapper(x):
            continue
        found.add(id(x))
        waiting += [parent for parent in held.parents[id(x)] if parent >= 0]
    return found


def variables_in(held: Held) -> list[Any]:
    """Return the nnx variables among what a callable holds."""
    return list(held.variables.values())


def is_written(variable: Any, its_copy: Any) -> bool:
    """Return True where a program has put other arrays into the copy of a variable."""
    before = jax.tree.leaves(raw_value(variable))
    after = jax.tree.leaves(raw_value(its_copy))
    if len(before) != len(after):
        return True
    return any(old is not new for old, new in zip(before, after, strict=True))


def copied(x: Any, holders: set[int], copies: Copies) -> Any:
    """Return a copy of `x` and of all in it that is one of `holders`.

    `copies` is filled with the copies that are made.
    """
    if id(x) not in holders:
        return x
    if id(x) not in copies:
        again = functools.partial(copied, holders=holders, copies=copies)
        _copy(x, again, copies)
    return copies[id(x)]


def _copy(x: Any, again: Again, copies: Copies) -> None:
    """Put the copy of `x` into `copies`: before its parts are copied where they may lead back to it."""
    if is_variable(x):
        copies[id(x)] = x.copy()
    elif is_equinox_state(x):
        leaves, tree = jax.tree.flatten(x)
        copies[id(x)] = jax.tree.unflatten(tree, leaves)
    elif is_nnx(x):
        _copy_module(x, again, copies)
    elif isinstance(x, types.FunctionType):
        _copy_function(x, again, copies)
    elif isinstance(x, types.CellType):
        cell = copies[id(x)] = types.CellType()
        cell.cell_contents = again(x.cell_contents)
    elif isinstance(x, list):
        made = copies[id(x)] = copy.copy(x)
        made[:] = [again(value) for value in x]
    elif isinstance(x, dict):
        made = copies[id(x)] = copy.copy(x)
        for key, value in x.items():
            dict.__setitem__(made, key, again(value))
    elif isinstance(x, types.MethodType | functools.partial | tuple | Program):
        copies[id(x)] = _rebuilt(x, again)
    else:
        _copy_object(x, again, copies)


def _rebuilt(x: Any, again: Again) -> Any:
    """A method, partial, tuple or program of the copies of its parts: nothing in them can lead back to it."""
    if isinstance(x, Program):
        return Program(again(x.fn), _all(again, x.static))
    if isinstance(x, types.MethodType):
        return types.MethodType(again(x.__func__), again(x.__self__))
    if isinstance(x, functools.partial):
        arguments = map(again, x.args)
        keywords = _all(again, x.keywords)
        return type(x)(again(x.func), *arguments, **keywords)
    items = [again(value) for value in x]
    return type(x)(*items) if hasattr(x, "_fields") else type(x)(items)


def _copy_module(x: Any, again: Again, copies: Copies) -> None:
    """A module of nnx with copied attributes."""
    made = copies[id(x)] = object.__new__(type(x))
    own = vars(made)
    for name, value in vars(x).items():
        if name == TRACE_STATE:
            own[name] = _of_this_trace(value)
        else:
            own[name] = value if type(value) in ATOMS else again(value)


def _of_this_trace(state: Any) -> Any:
    """What nnx keeps of the trace that a module belongs to, as that of the trace that runs now.

    It is a pytree, and nnx makes it so where it puts one together.
    """
    leaves, tree = jax.tree.flatten(state)
    return jax.tree.unflatten(tree, leaves)


def _copy_function(fn: types.FunctionType, again: Again, copies: Copies) -> None:
    """A function of the same code with its own cells and defaults.

    It has its own globals where these hold nnx objects.
    """
    cells = tuple(again(cell) for cell in fn.__closure__ or ())
    changed = {}
    for name, value in used_globals(fn):
        made = again(value)
        if made is not fn.__globals__[name]:
            changed[name] = made
    scope = _globals_with(fn.__globals__, changed, copies)
    new = types.FunctionType(fn.__code__, scope, fn.__name__, None, cells)
    copies[id(fn)] = new
    if fn.__defaults__ is not None:
        new.__defaults__ = tuple(map(again, fn.__defaults__))
    new.__kwdefaults__ = _all(again, fn.__kwdefaults__ or {})
    new.__qualname__ = fn.__qualname__
    new.__dict__.update(_all(again, vars(fn)))


def _all(again: Again, named: Mapping[str, Any]) -> dict[str, Any]:
    """Named values, each copied."""
    return {name: again(value) for name, value in named.items()}


def _globals_with(
    scope: dict[str, Any], changed: dict[str, Any], copies: Copies
) -> dict[str, Any]:
    """The globals of a copied function; functions of one module share theirs, as they did before."""
    if not changed:
        return copies.get(id(scope), scope)
    new = copies.setdefault(id(scope), dict(scope))
    new.update(changed)
    return new


def _copy_object(x: Any, again: Again, copies: Copies) -> None:
    """A copy of an object of any class with copied attributes.

    The object itself where its class refuses to be copied.
    """
    try:
        new = copies[id(x)] = copy.copy(x)
    except (TypeError, ValueError, copy.Error, NotImplementedError):
        copies[id(x)] = x
        return
    for name, value in attributes(x):
        inner = again(value)
        if inner is not value:
            object.__setattr__(new, name, inner)
