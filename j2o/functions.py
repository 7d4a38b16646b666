"""`@j2o.function`: what it marks becomes one ONNX function, called from every place that uses it.

While j2o traces a program, a marked call is a `jax.jit` whose name starts with `MARK`; the pass `functions` makes functions
of these. At any other time it is the plain call. Only classes of the user's own are changed, and only their `__call__`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar, overload

from j2o.arguments import graph_name, identifier, name_of
from j2o.errors import SpecError, shown
from j2o.ir.marks import MARK, is_marking

T = TypeVar("T", bound=Callable[..., Any])
_NOTHING: Any = (
    object()
)  # `@function()` has no function; `function(None)` has one that cannot be called


@overload
def function(fn: T, /) -> T: ...
@overload
def function(*, name: str) -> Callable[[T], T]: ...
def function(fn: Any = _NOTHING, /, *, name: str | None = None) -> Any:
    """Decorator for a function, or for an nnx, linen or equinox module class: it becomes one ONNX function.

    Arrays among the arguments, and those that the function or module holds, are inputs of the ONNX function, so that
    blocks that differ in their weights alone share one definition; other arguments are part of the definition. `name` is
    the ONNX name, by default the function's or class's own. What a marked module writes to its nnx variables is written
    back. SpecError where `fn` cannot be called, or `name` cannot stand in a model.
    """
    given = graph_name("function: name", name)
    return functools.partial(_mark, name=given) if fn is _NOTHING else _mark(fn, given)


def _mark(fn: Any, name: str | None) -> Any:
    if not callable(fn):
        raise SpecError(
            f"function: given {shown(fn)}; a function or a module class is needed"
        )
    if not isinstance(fn, type):
        own = name or identifier(name_of(fn))
        return _wrapped(fn, lambda args: own)
    call = getattr(fn, "__call__", None)  # noqa: B004  (the method is wanted)
    if "__call__" not in {key for base in fn.__mro__ for key in vars(base)}:
        raise SpecError(
            f"function: class {fn.__name__} has no __call__; mark a function or a class whose objects are called"
        )
    fn.__call__ = _wrapped(call, lambda args: name or type(args[0]).__name__)
    return fn


def _wrapped(fn: Any, name: Callable[[tuple[Any, ...]], str]) -> Any:
    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (
            _marked_call(fn, name(args), args, kwargs)
            if is_marking()
            else fn(*args, **kwargs)
        )

    return call


def _marked_call(
    fn: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    linen = sys.modules.get("flax.linen")
    if linen is not None and args and isinstance(args[0], linen.Module):
        return linen.jit(_named(lambda self, *a, **k: fn(self, *a, **k), name))(
            *args, **kwargs
        )
    call = functools.partial(fn, *args, **kwargs)
    return (
        _with_state(call, name)
        if _holds_state(call)
        else _jit(lambda call: call(), call, name)
    )


def _named(fn: Any, name: str) -> Any:
    fn.__name__ = fn.__qualname__ = MARK + name
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
    at = [
        i
        for i, leaf in enumerate(leaves)
        if isinstance(leaf, jax.Array) or type(leaf).__module__ == "numpy"
    ]

    def body(arrays: list[Any]) -> Any:
        inner = list(leaves)
        for i, array in zip(at, arrays, strict=True):
            inner[i] = array
        args, kwargs = jax.tree.unflatten(tree, inner)
        return run(functools.partial(call.func, *args, **kwargs))

    return jax.jit(_named(body, name))([leaves[i] for i in at])


def _holds_state(call: functools.partial[Any]) -> bool:
    if "flax.nnx" not in sys.modules:
        return False
    from j2o.frontend.held import held_by
    from j2o.frontend.modules import holders_of_state

    return bool(holders_of_state(held_by(call)))


def _with_state(call: functools.partial[Any], name: str) -> Any:
    """A call that may write to nnx variables: it writes to copies of them, and what has changed comes back as results."""
    from j2o.frontend.held import held_by
    from j2o.frontend.modules import copied, holders_of_state, is_written, variables_in

    written: list[Any] = []

    def run(inner: functools.partial[Any]) -> Any:
        held, copies = held_by(inner), {}
        inside = copied(inner, holders_of_state(held), copies)
        out = inside()
        variables = variables_in(held)
        after = {id(copies[id(v)]) for v in variables}
        if after != {id(v) for v in variables_in(held_by(inside))}:
            raise SpecError(
                f"function: {name} adds or removes nnx variables; such a module cannot be marked"
            )
        written[:] = [v for v in variables if is_written(v, copies[id(v)])]
        return out, [copies[id(v)].get_raw_value() for v in written]

    out, values = _jit(run, call, name)
    for variable, value in zip(written, values, strict=True):
        variable.set_raw_value(value)
    return out
