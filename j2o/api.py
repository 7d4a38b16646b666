"""`compile`: specs → trace → lift → passes → `Model`."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from j2o.errors import J2OError, SpecError, raised, shown
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
from j2o.passes.default import default_pipeline
from j2o.passes.lower import has_rule
from j2o.passes.pipeline import Context, PassPipeline, run
from j2o.passes.quantise import DTYPES
from j2o.report import Report, count_ops
from j2o.specs import Specs, output_names, parse_specs, path_name


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Compiling makes many objects that live to its end: looking for cycles among them would cost a quarter more time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_collector_paused()
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
    from j2o.backend.kernels import target as kernels

    if not callable(fn):
        raise SpecError(f"fn: given a {type(fn).__name__}, a callable is needed")
    if weights_dtype not in (None, *DTYPES):
        raise SpecError(f"weights_dtype={weights_dtype!r}: {', '.join(map(repr, DTYPES))}, or None for their own")
    if target is not None and not isinstance(target, Target):
        raise SpecError(f"target={target!r}: a j2o.ir.target.Target is needed; by default onnxruntime's CPU kernels")
    needs = "DequantizeLinear" if weights_dtype == "int8" else None
    runtime = target if target is not None else kernels(opset, needs)
    pipeline = _pipeline(opt_level, passes)
    report = Report()
    clock = [time.perf_counter()]
    parsed = parse_specs(fn, specs, constraints, input_names)
    traced = trace(fn, parsed.avals, parsed.tree)
    for text in traced.warnings:
        report.warn(text)
    if not traced.out_paths:
        raise SpecError("fn: it gives no arrays, and a model needs at least one output")
    clock.append(time.perf_counter())
    report = Report()
    graph, boundary = _lift(parsed, traced, name or _name_of(fn), output_names, report.notes)
    ins = _positions("inputs_as_nchw", inputs_as_nchw, graph.input_names, boundary.types)
    outs = _positions("outputs_as_nchw", outputs_as_nchw, graph.output_names, boundary.out_types)
    clock.append(time.perf_counter())
    report.ops_before = count_ops(graph)
    boundary = dataclasses.replace(boundary, inputs_as_nchw=frozenset(ins), outputs_as_nchw=frozenset(outs))
    options = {"weights_dtype": weights_dtype, "checks": checks, "nchw": (ins, outs)}
    context = Context(runtime, Retracer(has_rule), opt_level, options, report.quantisation, report.notes)
    nchw_inputs(graph, ins)
    nchw_outputs(graph, outs)
    if pipeline.check == "numeric":
        from j2o.check import NumericCheck

        pipeline = pipeline.observing(NumericCheck(graph, runtime, context.retrace))
    report.passes = run(pipeline, graph, context, verify=passes is not None)
    clock.append(time.perf_counter())
    report.seconds = dict(zip(("trace", "lift", "passes"), (b - a for a, b in itertools.pairwise(clock)), strict=True))
    _describe_result(report, graph)
    return Model(_with_weights(on_copies(fn, traced.held), specs), graph, boundary, runtime.opset, report, graph.name)


def _describe_result(report: Report, graph: Graph) -> None:
    report.ops_after = count_ops(graph)
    report.not_portable = sorted(op for op in report.ops_after if op.startswith("ort."))
    consts = {n.attrs["value"] for n in graph.walk() if n.op == "const"}
    report.weights_bytes = sum(t.nbytes for t in consts)  # type: ignore[union-attr]


def _pipeline(opt_level: int, passes: Any) -> PassPipeline:
    """The pipeline to run. One that was made for a level runs at that, and `opt_level` may not say another.

    (That somebody wrote `opt_level=2`, the default, cannot be seen.)
    """
    default = default_pipeline(opt_level)
    chosen = default if passes is None else _own_pipeline(passes, default) if callable(passes) else passes
    if not isinstance(chosen, PassPipeline):
        which = "the function returned" if callable(passes) else "given"
        raise SpecError(f"passes: {which} {shown(chosen)}; a PassPipeline, or a function that returns one, is needed")
    if opt_level != 2 and chosen.level not in (None, opt_level):
        raise SpecError(
            f"opt_level={opt_level!r}: the pipeline in passes is of level {chosen.level}; "
            f"leave opt_level out, or give default_pipeline({opt_level!r})"
        )
    return chosen


def _own_pipeline(passes: Callable[[PassPipeline], Any], default: PassPipeline) -> Any:
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
        return fn(*(loaded(frozen[i]) if i in frozen else next(rest) for i in range(len(specs))))

    return call


def _name_of(fn: Any) -> str:
    name = getattr(fn, "__name__", type(fn).__name__)
    return "".join(c if c.isalnum() or c == "_" else "_" for c in name).strip("_") or "main"


def _lift(
    parsed: Specs, traced: Traced, name: str, given: Sequence[str] | None, notes: list[str]
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
        traced.jaxpr, dims=parsed.scope, name=name, const=const, hints=given_hints, has_rule=has_rule, notes=notes
    )
    for i in reversed(range(len(parsed.frozen))):
        tensor = parsed.frozen[i]
        if tensor is not None:
            node = Node("const", (), (tensor.type,), {"value": tensor}, (), None, (tensor.key.rpartition("/")[2],))
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
    found = ["output" if not p else f"output_{p}" if p[0].isdigit() else p for p in paths]
    graph.output_names = list(output_names(found, given, parsed.names))
    types = tuple(type_of(a) for a, f in zip(parsed.avals, parsed.frozen, strict=True) if f is None)
    outs = tuple(type_of(a) for a in traced.jaxpr.out_avals)
    return graph, Boundary(types, outs, parsed.caller_tree, traced.out_tree, parsed.frozen_arguments)


def _positions(
    argument: str, chosen: Sequence[str | int], names: Sequence[str], types: Sequence[Type]
) -> tuple[int, ...]:
    """Flat indices of tensors given by name or index; SpecError where there is no such 4-D tensor."""
    found = []
    for one in chosen:
        index = one if isinstance(one, int) else names.index(one) if one in names else None
        if index is None or not 0 <= index < len(names):
            raise SpecError(f"{argument}: there is no {one!r}; there are {', '.join(names)}")
        if types[index].rank != 4:
            raise SpecError(f"{argument}: {names[index]!r} is {types[index]}, 4 axes are needed")
        found.append(index)
    return tuple(found)
