"""What a callable holds.

The arrays, modules and functions that it is, is bound to, closes over or is applied to.

One walk gives the names of its weights, what has to be copied before it is traced, and what must be left as
it was. Uses of private JAX: none.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from j2o.frontend.failures import is_machinery
from j2o.frontend.versions import raw_value
from j2o.ir.places import is_installed

# classes of objects that hold nothing
ATOMS = frozenset(
    [
        # Python's own values
        bool,
        bytes,
        complex,
        float,
        int,
        str,
        type(None),
        # code
        type,
        types.BuiltinFunctionType,
        types.ModuleType,
    ]
)
# functions, and what they consist of
CODE = (types.MethodType, functools.partial, types.FunctionType, types.CellType)
# packages whose objects are not looked into
WITHOUT_PARTS = frozenset(["jaxlib", "numpy", "typing", "inspect"])
MADE_BY_A_PROGRAM = 1 << 9  # the flag Py_TPFLAGS_HEAPTYPE of a class


@dataclasses.dataclass(frozen=True)
class Program:
    """A callable, and the values that its calls hand over as they are, by the names of their arguments."""

    fn: Callable[..., Any]
    static: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Held:
    """What is reachable from a callable, in the order of a walk from the outside in.

    `objects` has (path, object); paths read as `blocks/3/attn/query/kernel`. `parents` has the places in
    `objects` of those that hold an object, by its id. No id is used twice, as all the objects are kept alive.
    """

    objects: list[tuple[str, Any]]
    parents: dict[int, list[int]]

    @property
    def root(self) -> Any:
        """What the walk started at."""
        return self.objects[0][1]

    @functools.cached_property
    def variables(self) -> dict[int, Any]:
        """The nnx variables, by their places in `objects`: asking whether something is one is slow."""
        places = enumerate(self.objects)
        return {place: x for place, (_, x) in places if is_variable(x)}

    def names(self) -> dict[int, str]:
        """The name of each array, by its id: the first path that leads to it."""
        found: dict[int, str] = {}
        for path, x in self.objects:
            if is_array(x):
                found.setdefault(id(x), path or "array")
        return found


def is_array(x: Any) -> bool:
    """Return True for an array of numpy or JAX."""
    return isinstance(x, np.ndarray | jax.Array)


def held_by(fn: Any) -> Held:
    """Return everything that `fn` holds, itself first."""
    objects: list[tuple[str, Any]] = []
    parents: dict[int, list[int]] = {}
    waiting: list[tuple[str, Any, int]] = [("", fn, -1)]
    while waiting:
        path, x, parent = waiting.pop()
        is_known = id(x) in parents
        parents.setdefault(id(x), []).append(parent)
        if is_known:
            continue
        if is_keras_variable(x):
            # where it belongs in its model; how that is held says nothing
            path = x.path
        position = len(objects)
        objects.append((path, x))
        if is_array(x):
            continue
        inside = [
            (_joined(path, name), part, position)
            for name, part in parts(x)
            if not _is_plain(part)
        ]
        waiting += reversed(inside)
    return Held(objects, parents)


def _joined(path: str, name: str) -> str:
    """A path with one more name, where both are there."""
    return f"{path}/{name}" if path and name else path or name


def _is_plain(x: Any) -> bool:
    """Return True for an object that surely holds nothing: a number, text, a class, or a tuple of such."""
    if type(x) is tuple:
        return all(type(value) in ATOMS for value in x)
    return type(x) in ATOMS or isinstance(x, type)


def parts(x: Any) -> Iterator[tuple[str, Any]]:
    """Yield the named parts of an object that may hold arrays.

    A name is "" where the path should not show the step.
    """
    if isinstance(x, Program):
        yield "", x.fn
        yield from x.static.items()
    elif isinstance(x, CODE):
        yield from _code_parts(x)
    elif isinstance(x, dict | list | tuple):
        yield from _elements(x)
    elif is_variable(x):
        yield "", raw_value(x)
    elif is_keras_variable(x):
        yield "", x.value
    elif is_wrapper(x):
        yield "", x.__wrapped__
    elif _is_bound_linen(x):
        yield from _linen_parts(x)
    elif not _is_without_parts(type(x)):
        yield from _object_parts(x)


def _is_without_parts(kind: type) -> bool:
    """Return True for classes whose objects are not looked into.

    A class of a program that `exec` runs without a `__name__` says that its module is builtins; it is none of
    Python's own.
    """
    package = kind.__module__.partition(".")[0]
    if package == "builtins":
        return not kind.__flags__ & MADE_BY_A_PROGRAM
    return package in WITHOUT_PARTS


def _code_parts(x: Any) -> Iterator[tuple[str, Any]]:
    """What a function or method of Python's own holds, with arguments bound to it or not."""
    if isinstance(x, types.MethodType):
        yield "", x.__self__
        yield "", x.__func__
    elif isinstance(x, functools.partial):
        yield "", x.func
        yield from ((str(i), argument) for i, argument in enumerate(x.args))
        yield from x.keywords.items()
    elif isinstance(x, types.CellType):
        yield "", content_of(x)
    else:
        yield from _function_parts(x)


def _elements(x: Any) -> Iterator[tuple[str, Any]]:
    """The elements of a dictionary, list or tuple by their key, place or field."""
    if isinstance(x, dict):
        named = x.items()
    else:
        named = zip(getattr(x, "_fields", range(len(x))), x, strict=False)
    yield from ((str(name), part) for name, part in named if type(part) not in ATOMS)


def _linen_parts(x: Any) -> Iterator[tuple[str, Any]]:
    """The variables of a bound linen module, and its attributes."""
    yield "", x.scope.root.variables()
    for name, value in attributes(x):
        if name not in ("scope", "parent"):
            yield name, value


def _object_parts(x: Any) -> Iterator[tuple[str, Any]]:
    """The attributes of an object of any class."""
    is_mapping = isinstance(x, Mapping)
    for name, value in attributes(x):
        # the private dictionary of a mapping is no step of a path
        is_hidden = is_mapping and name.startswith("_")
        if not name.startswith("_pytree__"):
            yield "" if is_hidden else name, value


def attributes(x: Any) -> list[tuple[str, Any]]:
    """Return the attributes that an object has of its own, in its `__dict__` and in its slots."""
    own = vars(x) if hasattr(x, "__dict__") else {}
    # a list of flax 0.12.0 has its places there, as numbers
    found = [(str(name), value) for name, value in own.items()]
    for base in type(x).__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            try:
                found.append((name, base.__dict__[name].__get__(x)))
            except (KeyError, AttributeError):
                # `__dict__`, `__weakref__`, a private name; a slot that is not set
                continue
    return found


def _function_parts(fn: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function closes over, its defaults, the globals that it names and its attributes."""
    cells = dict(zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True))
    called = [name for name, cell in cells.items() if callable(content_of(cell))]
    for name, cell in cells.items():
        # the weights of the one module that is called are named as in the module
        yield "" if called == [name] else name, cell
    for value in fn.__defaults__ or ():
        yield "", value
    yield from (fn.__kwdefaults__ or {}).items()
    for name, value in used_globals(fn):
        yield "" if isinstance(value, types.FunctionType) else name, value
    for name, value in vars(fn).items():
        yield "" if name == "__wrapped__" else name, value


def content_of(cell: types.CellType) -> Any:
    """Return what a closure's cell holds, None where it is empty."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def used_globals(fn: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield the objects among the globals that a function's code names.

    Those of installed packages hold nothing.
    """
    if is_of_a_package(fn):
        return
    for name in dict.fromkeys(_global_names(fn.__code__)):
        value = fn.__globals__.get(name)
        is_an_atom = type(value) in ATOMS or isinstance(value, type)
        if not is_an_atom and not is_of_a_package(value):
            yield name, value


def is_of_a_package(x: Any) -> bool:
    """Return True for a function of an installed package or of Python's own library, as it is or wrapped."""
    if not callable(x) or is_nnx(x):
        return False
    code = getattr(inspect.unwrap(x), "__code__", None)
    return code is not None and (
        is_installed(code.co_filename) or is_machinery(code.co_filename)
    )


def _global_names(code: types.CodeType) -> Iterator[str]:
    """The names that code looks up outside of itself, and those of the functions in it."""
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _global_names(const)


def is_wrapper(x: Any) -> bool:
    """Return True for an object, no function, that says what it wraps.

    What `jax.jit` and `nnx.jit` return.
    """
    if isinstance(x, types.FunctionType):
        return False
    try:
        return getattr(x, "__wrapped__", None) is not None
    except ImportError:
        # it loads an optional package at the first look into it, and there is none
        return False


def is_variable(x: Any) -> bool:
    """Return True for a variable of flax nnx, which j2o never imports itself."""
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(x, nnx.Variable)


def is_nnx(x: Any) -> bool:
    """Return True for an object of nnx that a program may write to.

    It is a module, variable, stream, optimizer or list.
    """
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(x, nnx.Pytree | nnx.Variable)


def is_equinox_state(x: Any) -> bool:
    """Return True for a state of equinox, which a program uses up.

    Its first call leaves none for a second.
    """
    equinox = sys.modules.get("equinox")
    return equinox is not None and isinstance(x, equinox.nn.State)


def _is_bound_linen(x: Any) -> bool:
    """Return True for a linen module that is bound to its variables."""
    linen = sys.modules.get("flax.linen")
    if linen is None or not isinstance(x, linen.Module):
        return False
    return getattr(x, "scope", None) is not None


def is_keras_variable(x: Any) -> bool:
    """Return True for a variable of keras, which j2o never imports itself."""
    variable = getattr(sys.modules.get("keras"), "Variable", None)
    return variable is not None and isinstance(x, variable)


def unbuilt_keras(held: Held) -> str | None:
    """The class of a keras model that has no weights yet, or of such a layer that is the program itself.

    A trace would make them, out of values that are gone afterwards.
    """
    keras = sys.modules.get("keras")
    layer_kind = getattr(keras, "Layer", None)
    if layer_kind is None:
        return None
    for _, x in held.objects:
        if isinstance(x, layer_kind) and not x.built and _makes_weights(x, held):
            return type(x).__name__
    return None


def _makes_weights(layer: Any, held: Held) -> bool:
    """Return True where the first call of a layer surely builds it; layers of a model may never be called."""
    keras: Any = sys.modules["keras"]
    if isinstance(layer, keras.Model):
        return True
    is_root = layer is held.root.fn
    has_own_build = not getattr(layer.build, "_is_default", False)
    return is_root and has_own_build
