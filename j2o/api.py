"""`compile`: specs → trace → lift → passes → `Model`."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from j2o.arguments import (
    choice,
    flag,
    graph_name,
    identifier,
    name_of,
    sequence,
    strings,
    tensor_names,
    whole_number,
)
from j2o.collector import CollectorPaused
from j2o.errors import J2OError, SpecError, raised, shortened, shown
from j2o.frontend.lift import lift, type_of
from j2o.frontend.modules import on_copies
from j2o.frontend.retrace import Retracer
from j2o.frontend.trace import Traced, trace
from j2o.frozen import Weights, loaded, own_key, tensor_of
from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node
from j2o.ir.target import Target
from j2o.ir.tensor import Tensor
from j2o.ir.types import Type
from j2o.model import Boundary, Model
from j2o.passes.boundary import nchw_inputs, nchw_outputs
from j2o.passes.context import Context
from j2o.passes.default import default_pipeline
from j2o.passes.lower import has_rule
from j2o.passes.pipeline import Pass, PassPipeline
from j2o.passes.runner import run
from j2o.passes.target.weights_dtype import DTYPES
from j2o.report import Report, count_ops
from j2o.specs import Specs, output_names, parse_specs, path_name


def compile(
    fn: Callable[..., Any],
    specs: Sequence[Any],
    *,
    opt_level: int = 2,
    opset: int | None = None,
    target: Any = None,
    passes: PassPipeline | Callable[[PassPipeline], PassPipeline] | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    constraints: Sequence[str] = (),
    checks: bool = False,
    inputs_as_nchw: Sequence[str | int] = (),
    outputs_as_nchw: Sequence[str | int] = (),
    weights_dtype: str | None = None,
    name: str | None = None,
) -> Model:
    """Compile any callable that JAX can trace to an ONNX model.

    `specs` has one entry a positional argument: a shape tuple such as `("B", 784)` (float32), a string `"i32[B,T]"`, a
    ShapeDtypeStruct, an example array, `j2o.weights(tree)`, or a pytree of such. Raises SpecError for arguments that do
    not fit, TraceError where JAX cannot trace the function, UnsupportedError with everything that has no ONNX form.
    """
    _check_callable(fn)
    options = Options(
        opt_level=whole_number(
            "opt_level", opt_level, range(4), "0, 1, 2 or 3 is needed"
        ),
        input_names=tensor_names("input_names", input_names),
        output_names=tensor_names("output_names", output_names),
        constraints=strings(
            "constraints", constraints, "['T <= 512', 'mod(T, 16) == 0']"
        ),
        checks=flag("checks", checks),
        inputs_as_nchw=_tensors("inputs_as_nchw", inputs_as_nchw),
        outputs_as_nchw=_tensors("outputs_as_nchw", outputs_as_nchw),
        weights_dtype=choice("weights_dtype", weights_dtype, DTYPES),
        name=graph_name("name", name) or identifier(name_of(fn)),
    )
    runtime = _runtime(target, opset, options.weights_dtype)
    pipeline = _pipeline(options.opt_level, passes)
    with CollectorPaused():
        return _compiled(
            fn, specs, options, runtime, pipeline, verify=passes is not None
        )


@dataclass(frozen=True)
class Options:
    """The arguments of `compile`, checked, each as the rest of j2o takes it."""

    opt_level: int
    input_names: tuple[str, ...] | None
    output_names: tuple[str, ...] | None
    constraints: tuple[str, ...]
    checks: bool
    inputs_as_nchw: tuple[str | int, ...]
    outputs_as_nchw: tuple[str | int, ...]
    weights_dtype: str | None
    name: str


def _compiled(
    fn: Callable[..., Any],
    specs: Sequence[Any],
    options: Options,
    runtime: Target,
    pipeline: PassPipeline,
    *,
    verify: bool,
) -> Model:
    """The stages one after the other; `verify` checks the graph after every pass."""
    report = Report()
    clock = [time.perf_counter()]
    parsed = parse_specs(fn, specs, options.constraints, options.input_names)
    ins = _positions(
        "inputs_as_nchw", options.inputs_as_nchw, parsed.names, _input_types(parsed)
    )
    _warn_of_narrowing(parsed.narrowed, report)
    traced = trace(fn, parsed.avals, parsed.tree)
    for text in traced.warnings:
        report.warn(text)
    if not traced.out_paths:
        raise SpecError("fn: it gives no arrays, and a model needs at least one output")
    clock.append(time.perf_counter())
    graph, boundary = _lift(
        parsed, traced, options.name, options.output_names, report.notes
    )
    outs = _positions(
        "outputs_as_nchw",
        options.outputs_as_nchw,
        graph.output_names,
        boundary.out_types,
    )
    clock.append(time.perf_counter())
    report.ops_before = count_ops(graph)
    boundary = dataclasses.replace(
        boundary, inputs_as_nchw=frozenset(ins), outputs_as_nchw=frozenset(outs)
    )
    for_passes = {
        "weights_dtype": options.weights_dtype,
        "checks": options.checks,
        "nchw": (ins, outs),
    }
    context = Context(
        runtime,
        Retracer(has_rule),
        options.opt_level,
        for_passes,
        report.quantisation,
        report.notes,
    )
    nchw_inputs(graph, ins)
    nchw_outputs(graph, outs)
    if pipeline.check == "numeric":
        from j2o.numeric_check import NumericCheck

        pipeline = pipeline.observing(NumericCheck(graph, runtime, context.retrace))
    report.passes = run(pipeline, graph, context, verify=verify)
    clock.append(time.perf_counter())
    report.seconds = dict(
        zip(
            ("trace", "lift", "passes"),
            (b - a for a, b in itertools.pairwise(clock)),
            strict=True,
        )
    )
    _describe_result(report, graph)
    return Model(
        _with_weights(on_copies(fn, traced.held), specs),
        graph,
        boundary,
        runtime.opset,
        report,
        graph.name,
    )


def _check_callable(fn: Any) -> None:
    """SpecError where `fn` is nothing that can be called with arrays."""
    if not callable(fn):
        is_transformed = callable(getattr(fn, "apply", None))  # by haiku
        advice = "; its .apply is one" if is_transformed else ""
        raise SpecError(f"fn: given {shown(fn)}, a callable is needed{advice}")
    if isinstance(fn, type) and any("__call__" in vars(base) for base in fn.__mro__):
        raise SpecError(
            f"fn: {fn.__name__} is a class; an instance of it, {fn.__name__}(…), can be compiled"
        )
    if inspect.iscoroutinefunction(fn):
        raise SpecError(
            f"fn: {name_of(fn)} is a coroutine; a plain function that returns arrays is needed"
        )
    linen = sys.modules.get("flax.linen")
    module = (
        fn.__self__
        if getattr(fn, "__name__", None) == "__call__" and hasattr(fn, "__self__")
        else fn
    )
    if linen is not None and isinstance(module, linen.Module) and module.scope is None:
        kind = type(module).__name__
        raise SpecError(
            f"fn: {kind} is a linen module without variables; compile(module.apply, [j2o.weights(variables), …]) or "
            f"compile(module.bind(variables), […]) would do"
        )


def _runtime(target: Any, opset: Any, weights_dtype: str | None) -> Target:
    """The target, by default onnxruntime's CPU kernels at an opset."""
    from j2o.backend.kernels import target as kernels

    number = (
        None
        if opset is None
        else whole_number(
            "opset", opset, None, "a number is needed, or None for the newest"
        )
    )
    if target is None:
        return kernels(number, "DequantizeLinear" if weights_dtype == "int8" else None)
    if not isinstance(target, Target):
        raise SpecError(
            f"target={shown(target)}: a j2o.ir.target.Target is needed; by default onnxruntime's CPU kernels"
        )
    return target


def _tensors(argument: str, given: Any) -> tuple[str | int, ...]:
    """Names and flat indices of tensors."""
    found = sequence(argument, given, "['x', 0]")
    needed = "names and flat indices are needed, as in ['x', 0]"
    return tuple(
        one if isinstance(one, str) else whole_number(argument, one, None, needed)
        for one in found
    )


def _warn_of_narrowing(narrowed: Sequence[str], report: Report) -> None:
    """One warning for all 64-bit arrays that JAX takes as 32-bit ones."""
    if not narrowed:
        return
    more = f" and {len(narrowed) - 3} more" if len(narrowed) > 3 else ""
    report.warn(
        f"64-bit mode is off, so these are taken with 32 bits: {', '.join(narrowed[:3])}{more}; "
        "jax.config.update('jax_enable_x64', True) keeps them, a 32-bit dtype in their place says that this is meant"
    )


def _describe_result(report: Report, graph: Graph) -> None:
    report.ops_after = count_ops(graph)
    report.not_portable = sorted(op for op in report.ops_after if op.startswith("ort."))
    consts = {n.attrs["value"] for n in graph.walk() if n.op == "const"}
    report.weights_bytes = sum(t.nbytes for t in consts)  # type: ignore[union-attr]


def _pipeline(opt_level: int, passes: Any) -> PassPipeline:
    """The pipeline to run. One that was made for a level runs at that, and `opt_level` may not say another.

    (That somebody wrote `opt_level=2`, the default, cannot be seen.)
    """
    if isinstance(passes, Pass):
        raise SpecError(
            f"passes: given the pass {passes.name!r} alone; passes=lambda p: p.after('fold', {passes.name}) adds it"
        )
    default = default_pipeline(opt_level)
    chosen = (
        default
        if passes is None
        else _own_pipeline(passes, default)
        if callable(passes)
        else passes
    )
    if not isinstance(chosen, PassPipeline):
        which = "the function returned" if callable(passes) else "given"
        raise SpecError(
            f"passes: {which} {shown(chosen)}; a PassPipeline, or a function that returns one, is needed"
        )
    if opt_level != 2 and chosen.level not in (None, opt_level):
        raise SpecError(
            f"opt_level={opt_level!r}: the pipeline in passes is of level {chosen.level}; "
            f"leave opt_level out, or give default_pipeline({opt_level!r})"
        )
    return chosen


def _own_pipeline(passes: Any, default: PassPipeline) -> Any:
    try:
        return passes(default)
    except J2OError:
        raise
    except Exception as error:
        raise SpecError(f"passes: the function raised {raised(error)}") from error


def _with_weights(fn: Callable[..., Any], specs: Sequence[Any]) -> Callable[..., Any]:
    """`fn` of the arguments that are not frozen, for comparing with JAX."""
    frozen = {i: s.tree for i, s in enumerate(specs) if isinstance(s, Weights)}
    if not frozen:
        return fn

    def call(*args: Any) -> Any:
        rest = iter(args)
        return fn(
            *(
                loaded(frozen[i]) if i in frozen else next(rest)
                for i in range(len(specs))
            )
        )

    return call


def _lift(
    parsed: Specs,
    traced: Traced,
    name: str,
    given: Sequence[str] | None,
    notes: list[str],
) -> tuple[Graph, Boundary]:
    """The root graph with frozen leaves bound to constants, and how it belongs to the caller's pytrees."""

    taken: dict[str, Any] = {t.key: t for t in parsed.frozen if t is not None}
    names = traced.held.names()

    def const(array: Any) -> Tensor:
        path = names.get(id(array))
        return tensor_of(array, path and own_key(path, array, taken))

    hints = iter(parsed.names)
    given_hints = [next(hints) if f is None else "" for f in parsed.frozen]
    graph = lift(
        traced.jaxpr,
        dims=parsed.scope,
        name=name,
        const=const,
        hints=given_hints,
        has_rule=has_rule,
        notes=notes,
    )
    for i in reversed(range(len(parsed.frozen))):
        tensor = parsed.frozen[i]
        if tensor is not None:
            node = Node(
                "const",
                (),
                (tensor.type,),
                {"value": tensor},
                (),
                None,
                (tensor.key.rpartition("/")[2],),
            )
            graph.insert(node, before=graph.first)
            value = node.out
            wanted = graph.inputs[i].type
            if wanted.dtype.is_key:
                wrap = Node("lax.random_wrap", (value,), (wanted,))
                value = graph.insert(wrap, before=node.next).out
            elif wanted != value.type:  # 64-bit weights while 64-bit mode is off
                value = Builder(graph, node.next).Cast(value, to=wanted.dtype)
            graph.inputs[i].replace_by(value)
            graph.remove_input(i)
    graph.input_names = list(parsed.names)
    paths = [path_name(p) for p in traced.out_paths]
    found = [
        "output" if not p else f"output_{p}" if p[0].isdigit() else p for p in paths
    ]
    graph.output_names = list(output_names(found, given, parsed.names))
    outs = tuple(type_of(a) for a in traced.jaxpr.out_avals)
    return graph, Boundary(
        _input_types(parsed),
        outs,
        parsed.caller_tree,
        traced.out_tree,
        parsed.frozen_arguments,
    )


def _input_types(parsed: Specs) -> tuple[Type, ...]:
    """The types of the leaves that are inputs, as JAX has them."""
    return tuple(
        type_of(a)
        for a, f in zip(parsed.avals, parsed.frozen, strict=True)
        if f is None
    )


def _positions(
    argument: str,
    chosen: Sequence[str | int],
    names: Sequence[str],
    types: Sequence[Type],
) -> tuple[int, ...]:
    """Flat indices of tensors given by name or index, each once; SpecError where there is no such 4-D tensor."""
    found: list[int] = []
    for one in chosen:
        index = (
            one if isinstance(one, int) else names.index(one) if one in names else None
        )
        if index is None or not 0 <= index < len(names):
            raise SpecError(
                f"{argument}: there is no {shown(one)}; there are {shortened(', '.join(names), 120)}"
            )
        if types[index].rank != 4:
            raise SpecError(
                f"{argument}: {names[index]!r} is {types[index]}, 4 axes are needed"
            )
        if index not in found:
            found.append(index)
    return tuple(found)
