"""`@j2o.function`: what it marks becomes one ONNX function, called from every place that uses it.

While j2o traces a program, a marked call is a `jax.jit` whose name starts with `MARK`; the pass `functions` makes functions
of these. At any other time it is the plain call. Only classes of the user's own are changed, and only their `__call__`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar, overload

from j2o.errors import SpecError
from j2o.ir.marks import MARK, is_marking

T = TypeVar("T", bound=Callable[..., Any])


@overload
def function(fn: T, /) -> T: ...
@overload
def function(*, name: str) -> Callable[[T], T]: ...
def function(fn: Any = None, /, *, name: str | None = None) -> Any:
    """Decorator for a function, or for an nnx, linen or equinox module class: it becomes one ONNX function.

    Arrays among the arguments, and those that the function or module holds, are inputs of the ONNX function, so that
    blocks that differ in their weights alone share one definition; other arguments are part of the definition. `name` is
    the ONNX name, by default the function's or class's own. What a marked module writes to its nnx variables is written
    back. SpecError where `fn` cannot be called.
    """
    if fn is None:
        return functools.partial(_mark, name=name)
    return _mark(fn, None)


def _mark(fn: Any, name: str | None) -> Any:
    if not callable(fn):
        raise SpecError(f"function: given a {type(fn).__name__}; a function or a module class is needed")
    if not isinstance(fn, type):
        return _wrapped(fn, lambda args: name or _name_of(fn))
    call = getattr(fn, "__call__", None)  # noqa: B004  (the method is wanted)
    if "__call__" not in {key for base in fn.__mro__ for key in vars(base)}:
        raise SpecError(
            f"function: class {fn.__name__} has no __call__; mark a function or a class whose objects are called"
        )
    fn.__call__ = _wrapped(call, lambda args: name or type(args[0]).__name__)
    return fn


def _name_of(fn: Any) -> str:
    return getattr(fn, "__name__", type(fn).__name__)


def _wrapped(fn: Any, name: Callable[[tuple[Any, ...]], str]) -> Any:
    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        return _marked_call(fn, name(args), args, kwargs) if is_marking() else fn(*args, **kwargs)

    return call


def _marked_call(fn: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    linen, nnx = sys.modules.get("flax.linen"), sys.modules.get("flax.nnx")
    if linen is not None and args and isinstance(args[0], linen.Module):
        return linen.jit(_named(lambda self, *a, **k: fn(self, *a, **k), name))(*args, **kwargs)
    writes: Any = () if nnx is None else sys.modules["flax.errors"].TraceContextError
    try:
        return _jit(lambda call: call(), functools.partial(fn, *args, **kwargs), name)
    except writes:
        return _with_state(functools.partial(fn, *args, **kwargs), name, nnx)


def _named(fn: Any, name: str) -> Any:
    fn.__name__ = fn.__qualname__ = MARK + name
    return fn


def _jit(run: Callable[..., Any], call: functools.partial[Any], name: str, *extra: Any) -> Any:
    """`run(call, *extra)` as a jit of that name; the arrays among the arguments of `call`, and `extra`, are its operands."""
    import jax

    leaves, tree = jax.tree.flatten((call.args, call.keywords), is_leaf=_is_nnx)
    at = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array) or type(leaf).__module__ == "numpy"]

    def body(arrays: list[Any], *extra: Any) -> Any:
        inner = list(leaves)
        for i, array in zip(at, arrays, strict=True):
            inner[i] = array
        args, kwargs = jax.tree.unflatten(tree, inner)
        return run(functools.partial(call.func, *args, **kwargs), *extra)

    return jax.jit(_named(body, name))([leaves[i] for i in at], *extra)


def _is_nnx(x: Any) -> bool:
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(x, nnx.Module | nnx.Rngs | nnx.Variable | nnx.Optimizer)


def _with_state(call: functools.partial[Any], name: str, nnx: Any) -> Any:
    """A call that writes to nnx variables: these are operands, and what has changed comes back as results."""
    import jax

    from j2o.frontend.trace import nnx_objects, with_nnx_objects

    found = nnx_objects(call, nnx)
    graphdef, state = nnx.split(tuple(found))
    leaves, tree = jax.tree.flatten(state)
    changed: list[int] = []

    def run(inner: functools.partial[Any], before: list[Any]) -> Any:
        fresh = nnx.merge(graphdef, jax.tree.unflatten(tree, before), copy=True)
        out = with_nnx_objects(inner, nnx, found, fresh)()
        after, after_tree = jax.tree.flatten(nnx.split(fresh)[1])
        if after_tree != tree:
            raise SpecError(f"function: {name} adds or removes nnx variables; such a module cannot be marked")
        changed[:] = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a is not b]
        return out, [after[i] for i in changed]

    out, values = _jit(run, call, name, leaves)
    for i, value in zip(changed, values, strict=True):
        leaves[i] = value
    nnx.update(tuple(found), jax.tree.unflatten(tree, leaves))
    return out
