"""What `compile` is asked for: its arguments, looked at before anything happens.

A refusal is one line, and names the argument.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from j2o.arguments import name_of, sequence, whole_number
from j2o.errors import J2OError, SpecError, raised, shown
from j2o.ir.target import Target
from j2o.passes.default import default_pipeline
from j2o.passes.pipeline import Pass, PassPipeline


class CompileOptions(TypedDict, total=False):
    """The arguments of `compile` by keyword; what is left out has its default."""

    kwargs: Mapping[str, Any] | None
    state: Any
    opt_level: int
    opset: int | None
    target: str | Target | None
    passes: PassPipeline | Callable[[PassPipeline], PassPipeline] | None
    input_names: Sequence[str] | None
    output_names: Sequence[str] | None
    constraints: Sequence[str]
    checks: bool
    inputs_as_nchw: Sequence[str | int]
    outputs_as_nchw: Sequence[str | int]
    weights_dtype: str | None
    name: str | None


@dataclass(frozen=True)
class Request:
    """The arguments of `compile`, checked, each as the rest of j2o takes it.

    `specs`, `kwargs`, `state` and what depends on the traced program are looked at later. `verify`
    asks for a check of the graph after each pass.
    """

    fn: Callable[..., Any]
    specs: Sequence[Any]
    kwargs: Mapping[str, Any] | None
    state: Any
    name: str
    input_names: tuple[str, ...] | None
    output_names: tuple[str, ...] | None
    constraints: tuple[str, ...]
    inputs_as_nchw: tuple[str | int, ...]
    outputs_as_nchw: tuple[str | int, ...]
    opt_level: int
    checks: bool
    weights_dtype: str | None
    target: Target
    pipeline: PassPipeline
    verify: bool


def checked_callable(fn: Any) -> Callable[..., Any]:
    """Return `fn`; SpecError where it is nothing that can be called with arrays."""
    if not callable(fn):
        is_transformed = callable(getattr(fn, "apply", None))  # by haiku
        advice = "; its .apply is one" if is_transformed else ""
        raise SpecError(f"fn: given {shown(fn)}, a callable is needed{advice}")
    if isinstance(fn, type) and any("__call__" in vars(base) for base in fn.__mro__):
        advice = f"an instance of it, {fn.__name__}(…), can be compiled"
        raise SpecError(f"fn: {fn.__name__} is a class; {advice}")
    if inspect.iscoroutinefunction(fn):
        advice = "a plain function that returns arrays is needed"
        raise SpecError(f"fn: {name_of(fn)} is a coroutine; {advice}")
    _check_linen(fn)
    return fn


def _check_linen(fn: Any) -> None:
    """SpecError for a linen module, or its `__call__`, that has no variables."""
    linen = sys.modules.get("flax.linen")
    if linen is None:
        return
    is_method = getattr(fn, "__name__", None) == "__call__" and hasattr(fn, "__self__")
    module = fn.__self__ if is_method else fn
    if isinstance(module, linen.Module) and module.scope is None:
        kind = type(module).__name__
        one = "compile(module.apply, [j2o.weights(variables), …])"
        other = "compile(module.bind(variables), […])"
        what = f"{kind} is a linen module without variables"
        raise SpecError(f"fn: {what}; {one} or {other} would do")


def tensors(argument: str, given: Any) -> tuple[str | int, ...]:
    """Names and flat indices of tensors."""
    needed = "names and flat indices are needed, as in ['x', 0]"
    return tuple(
        one if isinstance(one, str) else whole_number(argument, one, None, needed)
        for one in sequence(argument, given, "['x', 0]")
    )


def target_for(target: Any, opset: Any, weights_dtype: str | None) -> Target:
    """The target of a name, by default the installed onnxruntime; or the one given, at an opset."""
    from j2o.backend.kernels import INSTALLED
    from j2o.backend.kernels import target as named

    if opset is not None:
        needed = "a number is needed, or None for the lowest that the model needs"
        opset = whole_number("opset", opset, None, needed)
    if target is None or isinstance(target, str):
        needs = "DequantizeLinear" if weights_dtype == "int8" else None
        return named(opset, needs, target or INSTALLED)
    if not isinstance(target, Target):
        needed = "a name is needed ('j2o targets' lists them), or a j2o.Target"
        raise SpecError(f"target={shown(target)}: {needed}")
    if opset in (None, target.opset):
        return target if opset is None else replace(target, others=None)
    if target.others is None:
        raise SpecError(f"opset={opset}: the target {target.name} is at {target.opset}")
    return target.others(opset)


def installed_target(target: Target) -> Target:
    """The installed onnxruntime at the opset of a target, or at its newest: what runs on this machine."""
    from j2o.backend.kernels import INSTALLED, installed, table
    from j2o.backend.kernels import target as named

    if target.name == installed():
        return target
    return named(min(target.opset, table(INSTALLED).newest))


def pipeline_for(opt_level: int, passes: Any) -> PassPipeline:
    """The pipeline to run. One that was made for a level runs at that, and `opt_level` may not say another.

    (That somebody wrote `opt_level=2`, the default, cannot be seen.)
    """
    if isinstance(passes, Pass):
        advice = f"passes=lambda p: p.after('fold', {passes.name}) adds it"
        raise SpecError(f"passes: given the pass {passes.name!r} alone; {advice}")
    chosen = _chosen_pipeline(passes, default_pipeline(opt_level))
    if not isinstance(chosen, PassPipeline):
        which = "the function returned" if callable(passes) else "given"
        needed = "a PassPipeline, or a function that returns one, is needed"
        raise SpecError(f"passes: {which} {shown(chosen)}; {needed}")
    if opt_level != 2 and chosen.level not in (None, opt_level):
        what = f"the pipeline in passes is of level {chosen.level}"
        advice = f"leave opt_level out, or give default_pipeline({opt_level!r})"
        raise SpecError(f"opt_level={opt_level!r}: {what}; {advice}")
    return chosen


def _chosen_pipeline(passes: Any, default: PassPipeline) -> Any:
    """What `passes` stands for: the default, what a function makes of it, or itself."""
    if passes is None:
        return default
    if not callable(passes):
        return passes
    try:
        return passes(default)
    except J2OError:
        raise
    except Exception as error:
        raise SpecError(f"passes: the function raised {raised(error)}") from error
