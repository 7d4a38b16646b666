"""What a callable holds: the arrays, modules and functions that it is, is bound to, closes over or is applied to.

One walk gives the names of its weights, what has to be copied before it is traced, and what must be left as it was.
Uses of private JAX: none.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from j2o.frontend.failures import is_machinery
from j2o.ir.places import is_installed

ATOMS = frozenset(
    [
        type(None),
        bool,
        str,
        bytes,
        int,
        float,
        complex,
        type,
        types.ModuleType,
        types.BuiltinFunctionType,
    ]
)
WITHOUT_PARTS = frozenset(["builtins", "jaxlib", "numpy", "typing", "inspect"])


@dataclasses.dataclass(frozen=True)
class Held:
    """What is reachable from a callable, in the order of a walk from the outside in.

    `objects` has (path, object); paths read as `blocks/3/attn/query/kernel`. `parents` has the places in `objects` of
    those that hold an object, by its id. No id is used twice, as all the objects are kept alive.
    """

    objects: list[tuple[str, Any]]
    parents: dict[int, list[int]]

    def names(self) -> dict[int, str]:
        """The name of each array, by its id: the first path that leads to it."""
        found: dict[int, str] = {}
        for path, x in self.objects:
            if is_array(x):
                found.setdefault(id(x), path or "array")
        return found


def is_array(x: Any) -> bool:
    return isinstance(x, np.ndarray | jax.Array)


def held_by(fn: Any) -> Held:
    """Everything that `fn` holds, itself first."""
    objects: list[tuple[str, Any]] = []
    parents: dict[int, list[int]] = {}
    waiting: list[tuple[str, Any, int]] = [("", fn, -1)]
    while waiting:
        path, x, parent = waiting.pop()
        known = id(x) in parents
        parents.setdefault(id(x), []).append(parent)
        if known:
            continue
        if is_keras_variable(x):
            path = (
                x.path
            )  # where it belongs in its model; how that is held says nothing
        position = len(objects)
        objects.append((path, x))
        if is_array(x):
            continue
        inside = [
            (f"{path}/{name}" if path and name else path or name, part, position)
            for name, part in parts(x)
            if not _is_plain(part)
        ]
        waiting += reversed(inside)
    return Held(objects, parents)


def _is_plain(x: Any) -> bool:
    """Whether an object surely holds nothing: a number, text, a class, or a tuple of such."""
    if type(x) is tuple:
        return all(type(value) in ATOMS for value in x)
    return type(x) in ATOMS or isinstance(x, type)


def parts(x: Any) -> Iterator[tuple[str, Any]]:
    """The named parts of an object that may hold arrays; a name is "" where the path should not show the step."""
    if isinstance(x, types.MethodType):
        yield "", x.__self__
        yield "", x.__func__
    elif isinstance(x, functools.partial):
        yield "", x.func
        yield from ((str(i), a) for i, a in enumerate(x.args))
        yield from x.keywords.items()
    elif isinstance(x, types.FunctionType):
        yield from _function_parts(x)
    elif isinstance(x, types.CellType):
        yield "", content_of(x)
    elif isinstance(x, dict):
        yield from ((str(k), v) for k, v in x.items() if type(v) not in ATOMS)
    elif isinstance(x, list | tuple):
        names = getattr(x, "_fields", range(len(x)))
        yield from (
            (str(k), v) for k, v in zip(names, x, strict=False) if type(v) not in ATOMS
        )
    elif is_variable(x):
        yield "", x.get_raw_value()
    elif is_keras_variable(x):
        yield "", x.value
    elif is_wrapper(x):
        yield "", x.__wrapped__
    elif _is_bound_linen(x):
        yield "", x.scope.root.variables()
        yield from (
            (name, value)
            for name, value in attributes(x)
            if name not in ("scope", "parent")
        )
    elif type(x).__module__.partition(".")[0] not in WITHOUT_PARTS:
        is_mapping = isinstance(
            x, Mapping
        )  # its private dictionary is no step of a path
        for name, value in attributes(x):
            if not name.startswith("_pytree__"):
                yield "" if is_mapping and name.startswith("_") else name, value


def attributes(x: Any) -> list[tuple[str, Any]]:
    """The attributes that an object has of its own, in its `__dict__` and in its slots."""
    found = list(vars(x).items()) if hasattr(x, "__dict__") else []
    for base in type(x).__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            try:
                found.append((name, base.__dict__[name].__get__(x)))
            except (
                KeyError,
                AttributeError,
            ):  # `__dict__`, `__weakref__`, a private name; a slot that is not set
                continue
    return found


def _function_parts(fn: types.FunctionType) -> Iterator[tuple[str, Any]]:
    cells = dict(zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True))
    called = [name for name, cell in cells.items() if callable(content_of(cell))]
    for (
        name,
        cell,
    ) in (
        cells.items()
    ):  # the weights of the one module that is called are named as in the module
        yield "" if [name] == called else name, cell
    for value in fn.__defaults__ or ():
        yield "", value
    yield from (fn.__kwdefaults__ or {}).items()
    for name, value in used_globals(fn):
        yield "" if isinstance(value, types.FunctionType) else name, value
    for name, value in vars(fn).items():
        yield "" if name == "__wrapped__" else name, value


def content_of(cell: types.CellType) -> Any:
    """What a closure's cell holds, None where it is empty."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def used_globals(fn: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The objects among the globals that a function's code names; those of installed packages hold nothing."""
    if is_of_a_package(fn):
        return
    for name in dict.fromkeys(_global_names(fn.__code__)):
        value = fn.__globals__.get(name)
        is_an_atom = type(value) in ATOMS or isinstance(value, type)
        if not is_an_atom and not is_of_a_package(value):
            yield name, value


def is_of_a_package(x: Any) -> bool:
    """Whether an object is a function, as it is or wrapped, of an installed package or of Python's own library."""
    if not callable(x) or is_nnx(x):
        return False
    code = getattr(inspect.unwrap(x), "__code__", None)
    return code is not None and (
        is_installed(code.co_filename) or is_machinery(code.co_filename)
    )


def _global_names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _global_names(const)


def is_wrapper(x: Any) -> bool:
    """Whether an object, no function, says what it wraps: what `jax.jit` and `nnx.jit` return."""
    return (
        not isinstance(x, types.FunctionType)
        and getattr(x, "__wrapped__", None) is not None
    )


def is_variable(x: Any) -> bool:
    """Whether an object is a variable of flax nnx, which j2o never imports itself."""
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(x, nnx.Variable)


def is_nnx(x: Any) -> bool:
    """Whether an object is one of nnx that a program may write to: a module, variable, stream, optimizer or list."""
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(x, nnx.Pytree | nnx.Variable)


def is_equinox_state(x: Any) -> bool:
    """Whether an object is a state of equinox, which a program uses up: its first call leaves none for a second."""
    equinox = sys.modules.get("equinox")
    return equinox is not None and isinstance(x, equinox.nn.State)


def _is_bound_linen(x: Any) -> bool:
    linen = sys.modules.get("flax.linen")
    return (
        linen is not None
        and isinstance(x, linen.Module)
        and getattr(x, "scope", None) is not None
    )


def is_keras_variable(x: Any) -> bool:
    """Whether an object is a variable of keras, which j2o never imports itself."""
    variable = getattr(sys.modules.get("keras"), "Variable", None)
    return variable is not None and isinstance(x, variable)
