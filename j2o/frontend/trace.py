"""Any callable → ClosedJaxpr, with the structure of its result and names for the arrays that it captures.

Nothing of the caller's is changed. A program that writes to variables of flax nnx modules, which nnx refuses inside of a
trace before anything is written, is traced again with modules that are split outside of it and merged inside.
Uses of private JAX: none.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import core as jcore

from j2o.errors import J2OError, TraceError
from j2o.frontend.failures import explained
from j2o.ir.marks import marking

MAX_DEPTH = 64


@dataclass(frozen=True)
class Traced:
    """`jaxpr` is closed; `out_paths` are the pytree paths of its results; `names` maps `id(array)` to a captured array's name."""

    jaxpr: Any
    out_tree: Any
    out_paths: tuple[Any, ...]
    names: dict[int, str]


def trace(fn: Callable[..., Any], avals: Sequence[Any], tree: Any) -> Traced:
    """Trace `fn` at flat `avals` that `tree` (the structure of its tuple of arguments) puts together.

    Raises TraceError where the function does not come to its end, in JAX's code or in the user's own, with that exception
    as its cause; DimensionError where it asks for a decision about a symbolic size that cannot be taken. What stops a
    program from outside (KeyboardInterrupt, SystemExit) comes through.
    """
    names: dict[int, str] = {}
    for path, array in arrays_in(fn):
        names.setdefault(id(array), path)
    try:
        closed, shapes = _jaxpr(fn, avals, tree)
    except J2OError:
        raise
    except Exception as error:
        raise explained(error) from error
    if any(isinstance(const, jcore.Tracer) for const in closed.consts):
        raise TraceError("the function uses a value that has leaked from an earlier trace; pass it as an argument")
    paths, out_tree = jax.tree_util.tree_flatten_with_path(shapes)
    return Traced(closed, out_tree, tuple(p for p, _ in paths), names)


def _jaxpr(fn: Callable[..., Any], avals: Sequence[Any], tree: Any) -> tuple[Any, Any]:
    """The jaxpr and the shapes of the results."""

    def once(call: Callable[..., Any]) -> tuple[Any, Any]:
        # a new function: JAX keeps the jaxprs of those it knows, with the weights of then
        def flat(*leaves: Any) -> Any:
            return call(*jax.tree.unflatten(tree, leaves))

        with marking():
            return jax.make_jaxpr(flat, return_shape=True)(*avals)

    nnx = _nnx()
    writes: Any = () if nnx is None else sys.modules["flax.errors"].TraceContextError
    try:
        return once(fn)
    except writes:
        copied = _without_nnx_state(fn, nnx)
        if copied is None:
            raise
        return once(copied)


# ------------------------------------------------------------------------------------ nnx and captures


def _nnx() -> Any:
    """flax's nnx where the program has loaded it; j2o never imports it itself."""
    return sys.modules.get("flax.nnx")


def nnx_objects(fn: Callable[..., Any], nnx: Any) -> list[Any]:
    """The nnx objects that `fn` is, is bound to, closes over or is applied to."""
    found: list[Any] = []

    def collect(x: Any) -> Any:
        if all(x is not f for f in found):
            found.append(x)
        return x

    _rebuild(fn, nnx, collect)
    return found


def with_nnx_objects(fn: Callable[..., Any], nnx: Any, old: Sequence[Any], new: Sequence[Any]) -> Callable[..., Any]:
    """`fn` with other nnx objects in the place of those."""
    swap = {id(a): b for a, b in zip(old, new, strict=True)}
    return _rebuild(fn, nnx, lambda x: swap[id(x)])


def _without_nnx_state(fn: Callable[..., Any], nnx: Any) -> Callable[..., Any] | None:
    """`fn` with every nnx object in it made anew inside the trace; None where there is none."""
    found = nnx_objects(fn, nnx)
    if not found:
        return None
    graphdef, state = nnx.split(tuple(found))

    @functools.wraps(fn, updated=())
    def call(*args: Any) -> Any:
        return with_nnx_objects(fn, nnx, found, nnx.merge(graphdef, state, copy=True))(*args)

    return call


def _rebuild(x: Any, nnx: Any, swap: Callable[[Any], Any], depth: int = 0) -> Any:
    """`x` with the nnx objects that it is, is bound to, closes over or is applied to replaced by `swap` of them."""
    if isinstance(x, nnx.Module | nnx.Rngs | nnx.Variable | nnx.Optimizer):
        return swap(x)
    if depth > 8:
        return x
    again = functools.partial(_rebuild, nnx=nnx, swap=swap, depth=depth + 1)
    if isinstance(x, types.MethodType):
        owner = again(x.__self__)
        return x if owner is x.__self__ else types.MethodType(x.__func__, owner)
    if isinstance(x, functools.partial):
        func, args, keywords = again(x.func), again(x.args), again(x.keywords)
        same = func is x.func and args is x.args and keywords is x.keywords
        return x if same else functools.partial(func, *args, **keywords)
    if isinstance(x, types.FunctionType):
        return _rebuild_function(x, again, nnx)
    if type(x) in (list, tuple):
        new = [again(v) for v in x]
        return x if all(a is b for a, b in zip(new, x, strict=True)) else type(x)(new)
    if type(x) is dict:
        changed = {k: again(v) for k, v in x.items()}
        return x if all(changed[k] is v for k, v in x.items()) else changed
    return x


def _rebuild_function(fn: types.FunctionType, again: Callable[[Any], Any], nnx: Any) -> Any:
    """A copy of a function with its own closure cells, defaults and globals, where one of them holds an nnx object."""
    contents = []
    for cell in fn.__closure__ or ():
        try:
            contents.append(cell.cell_contents)
        except ValueError:  # an empty cell
            return fn
    new = [c if c is fn else again(c) for c in contents]
    defaults = again(fn.__defaults__)
    names = _global_names(fn.__code__)
    own = {n: fn.__globals__[n] for n in names if isinstance(fn.__globals__.get(n), nnx.Module | nnx.Rngs)}
    globals_new = again(own)
    same = all(a is b for a, b in zip(new, contents, strict=True)) and defaults is fn.__defaults__
    if same and globals_new is own:
        return fn
    scope = {**fn.__globals__, **globals_new} if own else fn.__globals__
    copy = types.FunctionType(fn.__code__, scope, fn.__name__, defaults, tuple(types.CellType(c) for c in new))
    copy.__kwdefaults__ = fn.__kwdefaults__
    return copy


def _global_names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _global_names(const)


def arrays_in(fn: Any) -> Iterator[tuple[str, Any]]:
    """(path, array) of what `fn` is, is bound to, closes over or is applied to: `blocks/3/attn/query/kernel`."""
    seen: set[int] = set()
    yield from _walk(fn, "", seen, 0)


_ATOMS = frozenset(
    [type(None), bool, str, bytes, int, float, complex, type, types.ModuleType, types.BuiltinFunctionType]
)


def _walk(x: Any, path: str, seen: set[int], depth: int) -> Iterator[tuple[str, Any]]:
    if type(x) in _ATOMS or depth > MAX_DEPTH:
        return
    if isinstance(x, np.ndarray | jax.Array):
        yield path or "array", x
        return
    if isinstance(x, type) or id(x) in seen:
        return
    seen.add(id(x))
    for name, value in _parts(x):
        yield from _walk(value, f"{path}/{name}" if path and name else path or name, seen, depth + 1)


def _parts(x: Any) -> Iterator[tuple[str, Any]]:
    """The named parts of an object that may hold arrays; a name is "" where the path should not show the step."""
    if isinstance(x, types.MethodType):
        yield "", x.__self__
    elif isinstance(x, functools.partial):
        yield "", x.func
        yield from ((str(i), a) for i, a in enumerate(x.args))
        yield from x.keywords.items()
    elif isinstance(x, types.FunctionType):
        yield from _function_parts(x)
    elif isinstance(x, dict):
        yield from ((str(k), v) for k, v in x.items())
    elif isinstance(x, list | tuple):
        yield from ((str(k), v) for k, v in zip(getattr(x, "_fields", range(len(x))), x, strict=False))
    elif inner := getattr(x, "__wrapped__", None):
        yield "", inner
    elif _is_variable(x):
        yield "", x.get_value() if hasattr(x, "get_value") else x.value
    elif type(x).__module__.partition(".")[0] in ("builtins", "jaxlib", "numpy", "typing", "inspect"):
        return
    elif hasattr(x, "__dict__"):
        yield from ((name, value) for name, value in list(vars(x).items()) if not name.startswith("_pytree__"))
    elif dataclasses.is_dataclass(x):
        yield from ((f.name, getattr(x, f.name, None)) for f in dataclasses.fields(x))


def _function_parts(fn: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            content = cell.cell_contents
        except ValueError:  # an empty cell
            continue
        yield ("" if callable(content) and not isinstance(content, types.FunctionType) else name), content
    for value in fn.__defaults__ or ():
        yield "", value
    for name in _global_names(fn.__code__):
        value = fn.__globals__.get(name)
        if isinstance(value, np.ndarray | jax.Array | dict | list) or (value is not None and _holds_arrays(value)):
            yield name, value
    if inner := inspect.unwrap(fn) is not fn and fn.__wrapped__:
        yield "", inner


def _holds_arrays(x: Any) -> bool:
    nnx = _nnx()
    return (nnx is not None and isinstance(x, nnx.Module)) or (dataclasses.is_dataclass(x) and not isinstance(x, type))


def _is_variable(x: Any) -> bool:
    nnx = _nnx()
    return nnx is not None and isinstance(x, nnx.Variable)
