"""Modules that a program may write to: it is traced with copies of them, and the caller's own stay as they are.

A trace must not touch nnx modules of the caller's. nnx refuses to write to variables from inside a trace, and `nnx.jit`
empties the modules that it is given before it finds that out. A state of equinox is used up by its first call. So what
holds such objects is copied inside the trace: modules with their variables, and the methods, partials, closures,
containers and objects of any class around them. What is shared stays shared in the copy. Arrays are not copied.
Uses of private JAX: none.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable
from typing import Any

import jax

from j2o.frontend.held import (
    Held,
    attributes,
    held_by,
    is_equinox_state,
    is_nnx,
    is_variable,
    is_wrapper,
    used_globals,
)

TRACE_STATE = "_pytree__state"
Copies = dict[int, Any]  # the copy of each object, by the object's id


def on_copies(fn: Callable[..., Any], held: Held | None = None) -> Callable[..., Any]:
    """A function that calls a fresh copy of `fn` each time, so that no call changes what it holds; `fn` where nothing can change."""
    held = held or held_by(fn)
    holders = holders_of_state(held)
    if not holders:
        return fn

    def call(*args: Any, **kwargs: Any) -> Any:
        return copied(fn, holders, {})(*args, **kwargs)

    return call


def holders_of_state(held: Held) -> set[int]:
    """The ids of the objects that a program may write to, and of all that has to be copied because it holds one."""
    waiting = [
        position
        for position, (_, x) in enumerate(held.objects)
        if is_nnx(x) or is_equinox_state(x)
    ]
    found: set[int] = set()
    while waiting:
        _, x = held.objects[waiting.pop()]
        if id(x) in found or is_wrapper(
            x
        ):  # what jax.jit returns has its function in a place that nobody can change
            continue
        found.add(id(x))
        waiting += [parent for parent in held.parents[id(x)] if parent >= 0]
    return found


def variables_in(held: Held) -> list[Any]:
    """The nnx variables among what a callable holds."""
    return [x for _, x in held.objects if is_variable(x)]


def is_written(variable: Any, its_copy: Any) -> bool:
    """Whether a program has put other arrays into the copy of a variable."""
    before, after = (jax.tree.leaves(v.get_raw_value()) for v in (variable, its_copy))
    return len(before) != len(after) or any(
        a is not b for a, b in zip(before, after, strict=True)
    )


def copied(x: Any, holders: set[int], copies: Copies) -> Any:
    """A copy of `x` and of all in it that is one of `holders`; `copies` is filled with the copies that are made."""
    if id(x) not in holders:
        return x
    if id(x) not in copies:
        _copy(x, functools.partial(copied, holders=holders, copies=copies), copies)
    return copies[id(x)]


def _copy(x: Any, again: Callable[[Any], Any], copies: Copies) -> None:
    """Put the copy of `x` into `copies`: before its parts are copied where they may lead back to it."""
    if is_variable(x):
        copies[id(x)] = x.copy()
    elif is_equinox_state(x):
        leaves, tree = jax.tree.flatten(x)
        copies[id(x)] = jax.tree.unflatten(tree, leaves)
    elif is_nnx(x):
        copies[id(x)] = object.__new__(type(x))
        for name, value in vars(x).items():
            # what nnx keeps of the trace that a module belongs to becomes that of this trace by its protocol for copying
            vars(copies[id(x)])[name] = (
                copy.deepcopy(value) if name == TRACE_STATE else again(value)
            )
    elif isinstance(x, types.MethodType):
        copies[id(x)] = types.MethodType(again(x.__func__), again(x.__self__))
    elif isinstance(x, functools.partial):
        keywords = {name: again(value) for name, value in x.keywords.items()}
        copies[id(x)] = type(x)(again(x.func), *map(again, x.args), **keywords)
    elif isinstance(x, types.CellType):
        copies[id(x)] = types.CellType()
        copies[id(x)].cell_contents = again(x.cell_contents)
    elif isinstance(x, types.FunctionType):
        _copy_function(x, again, copies)
    elif isinstance(x, tuple):
        items = [again(value) for value in x]
        copies[id(x)] = type(x)(*items) if hasattr(x, "_fields") else type(x)(items)
    elif isinstance(x, list):
        copies[id(x)] = copy.copy(x)
        copies[id(x)][:] = [again(value) for value in x]
    elif isinstance(x, dict):
        copies[id(x)] = copy.copy(x)
        for key, value in x.items():
            dict.__setitem__(copies[id(x)], key, again(value))
    else:
        _copy_object(x, again, copies)


def _copy_function(
    fn: types.FunctionType, again: Callable[[Any], Any], copies: Copies
) -> None:
    """A function of the same code with its own cells and defaults, and with its own globals where these hold nnx objects."""
    cells = tuple(again(cell) for cell in fn.__closure__ or ())
    changed = {name: again(value) for name, value in used_globals(fn)}
    changed = {
        name: value
        for name, value in changed.items()
        if value is not fn.__globals__[name]
    }
    scope = _globals_with(fn.__globals__, changed, copies)
    new = types.FunctionType(fn.__code__, scope, fn.__name__, None, cells)
    copies[id(fn)] = new
    new.__defaults__ = (
        None if fn.__defaults__ is None else tuple(map(again, fn.__defaults__))
    )
    new.__kwdefaults__ = {
        name: again(value) for name, value in (fn.__kwdefaults__ or {}).items()
    }
    new.__qualname__ = fn.__qualname__
    new.__dict__.update({name: again(value) for name, value in vars(fn).items()})


def _globals_with(
    scope: dict[str, Any], changed: dict[str, Any], copies: Copies
) -> dict[str, Any]:
    """The globals of a copied function; functions of one module share theirs, as they did before."""
    if not changed:
        return copies.get(id(scope), scope)
    new = copies.setdefault(id(scope), dict(scope))
    new.update(changed)
    return new


def _copy_object(x: Any, again: Callable[[Any], Any], copies: Copies) -> None:
    """A copy of an object of any class with copied attributes; the object itself where its class refuses to be copied."""
    try:
        new = copies[id(x)] = copy.copy(x)
    except (TypeError, ValueError, copy.Error, NotImplementedError):
        copies[id(x)] = x
        return
    for name, value in attributes(x):
        inner = again(value)
        if inner is not value:
            object.__setattr__(new, name, inner)
