"""`@j2o.function`: what it marks becomes one ONNX function, called from every place that uses it.

While j2o traces a program, a marked call is a `jax.jit` whose name starts with `MARK`; the pass
`functions` makes functions of these. At any other time it is the plain call. Only classes of the
user's own are changed, and only their `__call__`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar, overload

from j2o.arguments import graph_name, identifier, name_of
from j2o.errors import SpecError, shown
from j2o.frontend.versions import raw_value, set_raw_value
from j2o.ir.marks import MARK, is_marking

T = TypeVar("T", bound=Callable[..., Any])
# `@function()` has no function; `function(None)` has one that cannot be called
_NOTHING: Any = object()


@overload
def function(fn: T, /) -> T: ...
@overload
def function(*, name: str) -> Callable[[T], T]: ...
def function(fn: Any = _NOTHING, /, *, name: str | None = None) -> Any:
    """Decorator for a function, or for an nnx, linen or equinox module class: it becomes one ONNX function.

    Arrays among the arguments, and those that the function or module holds, are inputs of the ONNX
    function, so that blocks that differ in their weights alone share one definition; other
    arguments are part of the definition. `name` is the ONNX name, by default the function's or
    class's own. What a marked module writes to its nnx variables is written back. SpecError where
    `fn` cannot be called, or `name` cannot stand in a model.
    """
    given = graph_name("function: name", name)
    return functools.partial(_mark, name=given) if fn is _NOTHING else _mark(fn, given)


def _mark(fn: Any, name: str | None) -> Any:
    if not callable(fn):
        needed = "a function or a module class is needed"
        raise SpecError(f"function: given {shown(fn)}; {needed}")
    if not isinstance(fn, type):
        own = name or identifier(name_of(fn))
        return _wrapped(fn, lambda args: own)
    _mark_class(fn, name)
    return fn


def _mark_class(cls: type, name: str | None) -> None:
    """Let calls of the class's objects be marked."""
    if not any("__call__" in vars(base) for base in cls.__mro__):
        advice = "mark a function or a class whose objects are called"
        raise SpecError(f"function: class {cls.__name__} has no __call__; {advice}")
    call = getattr(cls, "__call__")  # noqa: B004, B009  (the method is wanted)
    marked = _wrapped(call, lambda args: name or type(args[0]).__name__)
    setattr(cls, "__call__", marked)  # noqa: B010  (pyright knows no such attribute)


def _wrapped(fn: Any, name: Callable[[tuple[Any, ...]], str]) -> Any:
    """`fn`, whose calls are marked while j2o traces; `name` of the arguments is that of the ONNX function."""

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        if is_marking():
            return _marked_call(fn, name(args), args, kwargs)
        return fn(*args, **kwargs)

    return call


def _marked_call(
    fn: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """`fn(*args, **kwargs)` as a jit whose name has the mark."""
    if args and _is_linen_module(args[0]):
        return _linen_call(fn, name, args, kwargs)
    call = functools.partial(fn, *args, **kwargs)
    if _holds_state(call):
        return _with_state(call, name)
    return _jit(lambda call: call(), call, name)


def _is_linen_module(value: Any) -> bool:
    linen = sys.modules.get("flax.linen")
    return linen is not None and isinstance(value, linen.Module)


def _linen_call(
    fn: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """A call of a linen module: linen's own jit knows of its variables."""

    def run(module: Any, *rest: Any, **keywords: Any) -> Any:
        return fn(module, *rest, **keywords)

    linen = sys.modules["flax.linen"]
    return linen.jit(_named(run, name))(*args, **kwargs)


def _named(fn: Any, name: str) -> Any:
    """`fn` under a name with the mark."""
    fn.__name__ = MARK + name
    fn.__qualname__ = MARK + name
    return fn


def _jit(
    run: Callable[[functools.partial[Any]], Any],
    call: functools.partial[Any],
    name: str,
) -> Any:
    """`run(call)` as a jit of that name; the arrays among the arguments of `call` are its operands."""
    import jax

    from j2o.frontend.held import is_nnx

    leaves, tree = jax.tree.flatten((call.args, call.keywords), is_leaf=is_nnx)
    at = [i for i, leaf in enumerate(leaves) if _is_array(leaf)]

    def body(arrays: list[Any]) -> Any:
        inner = list(leaves)
        for i, array in zip(at, arrays, strict=True):
            inner[i] = array
        args, kwargs = jax.tree.unflatten(tree, inner)
        return run(functools.partial(call.func, *args, **kwargs))

    return jax.jit(_named(body, name))([leaves[i] for i in at])


def _is_array(leaf: Any) -> bool:
    import jax

    return isinstance(leaf, jax.Array) or type(leaf).__module__ == "numpy"


def _holds_state(call: functools.partial[Any]) -> bool:
    """Return True where a call may write to nnx variables."""
    if "flax.nnx" not in sys.modules:
        return False
    from j2o.frontend.held import held_by
    from j2o.frontend.modules import holders_of_state

    return bool(holders_of_state(held_by(call)))


def _with_state(call: functools.partial[Any], name: str) -> Any:
    """A call that may write to nnx variables.

    It writes to copies of them, and what has changed comes back as results.
    """
    from j2o.frontend.held import held_by
    from j2o.frontend.modules import copied, holders_of_state, is_written, variables_in

    written: list[Any] = []

    def run(inner: functools.partial[Any]) -> Any:
        held = held_by(inner)
        copies: dict[int, Any] = {}
        inside = copied(inner, holders_of_state(held), copies)
        out = inside()
        variables = variables_in(held)
        after = {id(copies[id(v)]) for v in variables}
        if after != {id(v) for v in variables_in(held_by(inside))}:
            what = "adds or removes nnx variables; such a module cannot be marked"
            raise SpecError(f"function: {name} {what}")
        written[:] = [v for v in variables if is_written(v, copies[id(v)])]
        return out, [raw_value(copies[id(v)]) for v in written]

    out, values = _jit(run, call, name)
    for variable, value in zip(written, values, strict=True):
        set_raw_value(variable, value)
    return out
