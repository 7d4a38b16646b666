"""`compile`: specs → trace → lift → passes → `Model`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import jax

from j2o import nchw
from j2o.arguments import (
    choice,
    flag,
    graph_name,
    identifier,
    name_of,
    strings,
    tensor_names,
    whole_number,
)
from j2o.collector import CollectorPaused
from j2o.compiled import Compiled, Recipe
from j2o.errors import SpecError, TraceError, shown
from j2o.frontend.frames import Calls
from j2o.frontend.held import Program, held_by
from j2o.frontend.lift import lift, type_of
from j2o.frontend.modules import copied
from j2o.frontend.naming import name_modules
from j2o.frontend.retrace import Retracer
from j2o.frontend.state import KEYWORD, state_in, values_of, with_state
from j2o.frontend.trace import Traced, trace
from j2o.frontend.versions import enable_x64
from j2o.frozen import loaded, own_key, tensor_of
from j2o.ir.dims import is_idle_bound
from j2o.ir.graph import Graph, Node
from j2o.ir.target import Target
from j2o.ir.tensor import Tensor
from j2o.ir.types import Type
from j2o.model import Boundary, Model
from j2o.parameters import names_taken_for_sizes
from j2o.passes.context import Context, Options
from j2o.passes.lower import has_rule
from j2o.passes.pipeline import Observer, PassPipeline
from j2o.passes.runner import PassRecord, run
from j2o.passes.target.opset import Opset, lowest_opset
from j2o.passes.target.weights_dtype import DTYPES
from j2o.report import Report, count_ops
from j2o.request import (
    CompileOptions,
    Request,
    checked_callable,
    installed_target,
    pipeline_for,
    target_for,
    tensors,
)
from j2o.specs import Specs, output_names, parse_specs, path_name

LEVELS = "0, 1, 2 or 3 is needed"
CONSTRAINTS = "['T <= 512', 'mod(T, 16) == 0']"  # what they may look like


def compile(
    fn: Callable[..., Any],
    specs: Sequence[Any],
    *,
    kwargs: Mapping[str, Any] | None = None,
    state: Any = None,
    opt_level: int = 2,
    opset: int | None = None,
    target: str | Target | None = None,
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

    Parameters:
        fn: what to compile, a function, a method or a module that can be called.
        specs: one entry a positional argument: a shape such as `("B", 784)`, a text `"i32[B,T]"`, a
            ShapeDtypeStruct, an example array, `j2o.weights(tree)`, `j2o.static(value)` for a Python
            value, or a pytree of such.
        kwargs: the same by keyword; a bool, None or a text that is no spec is a Python value.
        state: a filter such as `nnx.Cache`; the nnx variables that it picks become inputs and outputs.
        opt_level: 0 lowers only, 1 cleans up, 2 recovers operators and places transposes, 3 makes
            functions of repeated blocks and takes operators that onnxruntime alone has.
        opset: the ONNX opset; by default the lowest from 18 on that the graph needs.
        target: what must run the model, a name that `j2o targets` lists or a `j2o.Target`; by default
            the installed onnxruntime.
        passes: a pipeline, or a function that makes one of the default pipeline.
        input_names: one name an input; by default the paths of the arrays in the arguments.
        output_names: one name an output; by default the paths of the arrays in the result.
        constraints: what holds of symbolic sizes, such as `"T <= 512"` or `"mod(T, 16) == 0"`.
        checks: True lets the model refuse sizes and values for which the program raises.
        inputs_as_nchw: names or positions of inputs that the model takes as NCHW, JAX as NHWC.
        outputs_as_nchw: names or positions of outputs that the model gives as NCHW.
        weights_dtype: "bfloat16", "float16" or "int8" stores large float weights so.
        name: the name of the graph; by default that of the function.

    Raises SpecError for arguments that do not fit, TraceError where JAX cannot trace the function,
    UnsupportedError with what has no ONNX form.
    """
    given = locals()  # every argument by its name
    options = {option: given[option] for option in CompileOptions.__annotations__}
    return _compiled(request_for(fn, specs, cast("CompileOptions", options)))


def request_for(
    fn: Callable[..., Any], specs: Sequence[Any], options: CompileOptions
) -> Request:
    """The arguments of `compile`, looked at; what is not in `options` has its default."""
    opt_level = options.get("opt_level", 2)
    opt_level = whole_number("opt_level", opt_level, range(4), LEVELS)
    weights_dtype = choice("weights_dtype", options.get("weights_dtype"), DTYPES)
    input_names = options.get("input_names")
    output_names = options.get("output_names")
    constraints = options.get("constraints", ())
    inputs_as_nchw = options.get("inputs_as_nchw", ())
    outputs_as_nchw = options.get("outputs_as_nchw", ())
    name = options.get("name")
    passes = options.get("passes")
    return Request(
        fn=checked_callable(fn),
        specs=specs,
        kwargs=options.get("kwargs"),
        state=options.get("state"),
        input_names=tensor_names("input_names", input_names),
        output_names=tensor_names("output_names", output_names),
        constraints=strings("constraints", constraints, CONSTRAINTS),
        checks=flag("checks", options.get("checks", False)),
        inputs_as_nchw=tensors("inputs_as_nchw", inputs_as_nchw),
        outputs_as_nchw=tensors("outputs_as_nchw", outputs_as_nchw),
        weights_dtype=weights_dtype,
        name=graph_name("name", name) or identifier(name_of(fn)),
        opt_level=opt_level,
        target=target_for(options.get("target"), options.get("opset"), weights_dtype),
        pipeline=pipeline_for(opt_level, passes),
        verify=passes is not None,
    )


def _compiled(request: Request) -> Model:
    """The stages one after the other."""
    report = Report()
    with _timed(report, "trace"):
        program = traced_program(request, report)
    with CollectorPaused():
        return compiled_program(program, request, report)


def compiled_program(program: TracedProgram, request: Request, report: Report) -> Model:
    """The stages after tracing; a program can go through them several times."""
    with _timed(report, "lift"):
        graph, boundary = lifted(program, request, report)
    report.ops_before = count_ops(graph)
    with _timed(report, "passes"):
        optimise(graph, boundary, request, report)
    opset = lowest_opset(graph, request.target)
    _describe_result(graph, opset, report)
    fn = _for_callers(program.specs, program.traced)
    recipe = _recipe(request, program)
    report.compiled = Compiled(graph, boundary, opset.number, recipe)
    return Model(fn, graph, boundary, opset.number, report, graph.name, program.state)


def _recipe(request: Request, program: TracedProgram) -> Recipe:
    """What it takes to compile again."""
    config: Any = jax.config
    pipeline = request.pipeline.unobserved()  # an observer may hold anything
    return Recipe(
        request=dataclasses.replace(request, specs=(), kwargs=None, pipeline=pipeline),
        fn=program.fn,
        specs=program.specs,
        x64=config.jax_enable_x64,
    )


def compile_again(recipe: Recipe, observer: Observer) -> tuple[Graph, list[PassRecord]]:
    """The optimised graph of a program that was compiled before, and what the passes did this time.

    `observer` is called with the graph as it was lifted, under the name "", and after each pass. Others
    that the pipeline has are not called, and nothing is warned of again. Raises as `compile` does.
    """
    pipeline = recipe.request.pipeline.observing(observer)
    request = dataclasses.replace(recipe.request, pipeline=pipeline)
    report = Report()
    with enable_x64(recipe.x64):
        traced = _traced_at(recipe.specs, recipe.fn)
        program = TracedProgram(recipe.specs, traced, recipe.fn, {})
        with CollectorPaused():
            graph, boundary = lifted(program, request, report)
            observer("", graph)
            optimise(graph, boundary, request, report)
    return graph, report.passes


@contextmanager
def _timed(report: Report, stage: str) -> Iterator[None]:
    """The report takes how many seconds a stage has taken."""
    started = time.perf_counter()
    yield
    report.seconds[stage] = time.perf_counter() - started


# ------------------------------------------------------------------------------------ tracing


class TracedProgram(NamedTuple):
    """A program as JAX traces it at its specs, and the arrays in its state."""

    specs: Specs
    traced: Traced
    fn: Callable[..., Any]
    state: dict[str, Any]


def traced_program(request: Request, report: Report) -> TracedProgram:
    """The program as JAX traces it at the specs, and the arrays in its state."""
    fn, state = _with_state(request)
    specs = parse_specs(
        request.fn,
        request.specs,
        request.kwargs,
        request.constraints,
        request.input_names,
        added={} if request.state is None else {KEYWORD: state},
    )
    _inputs_as_nchw(specs, request)  # refused before anything is traced
    _warn_of_narrowing(specs.narrowed, report)
    _warn_of_idle_constraints(request.constraints, report)
    try:
        traced = _traced_at(specs, fn)
    except TraceError as error:
        hint = names_taken_for_sizes(request.kwargs)
        if not hint:
            raise
        raise TraceError(str(error).rstrip(".") + hint) from error.__cause__
    for text in traced.warnings:
        report.warn(text)
    if not traced.out_paths:
        raise SpecError("fn: it gives no arrays, and a model needs at least one output")
    return TracedProgram(specs, traced, fn, state)


def _traced_at(specs: Specs, fn: Callable[..., Any]) -> Traced:
    """The function as JAX traces it at parsed specs."""
    avals = [leaf.aval for leaf in specs.leaves]
    return trace(Program(fn, specs.static), avals, specs.layout.call)


def _with_state(request: Request) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function that takes and gives its state where that is asked for, and the arrays in it."""
    if request.state is None:
        return request.fn, {}
    parsed = parse_specs(request.fn, request.specs, request.kwargs, request.constraints)
    held = held_by(Program(request.fn, parsed.static))
    variables = state_in(held, request.state)
    return with_state(request.fn, variables), values_of(variables)


def _inputs_as_nchw(specs: Specs, request: Request) -> tuple[int, ...]:
    """The positions of the inputs that are NCHW."""
    names = [leaf.name for leaf in specs.inputs]
    types = _input_types(specs)
    return nchw.positions("inputs_as_nchw", request.inputs_as_nchw, names, types)


def _input_types(specs: Specs) -> tuple[Type, ...]:
    """The types of the leaves that are inputs, as JAX has them."""
    return tuple(type_of(leaf.aval) for leaf in specs.inputs)


def _warn_of_narrowing(narrowed: Sequence[str], report: Report) -> None:
    """One warning for all 64-bit arrays that JAX takes as 32-bit ones."""
    if not narrowed:
        return
    more = f" and {len(narrowed) - 3} more" if len(narrowed) > 3 else ""
    told = f"{', '.join(narrowed[:3])}{more}"
    keeping = "jax.config.update('jax_enable_x64', True) keeps them"
    meaning = "a 32-bit dtype in their place says that this is meant"
    report.warn(
        f"64-bit mode is off, so these are taken with 32 bits: {told}; {keeping}, {meaning}"
    )


def _warn_of_idle_constraints(constraints: Sequence[str], report: Report) -> None:
    """A warning for each bound that holds of all sizes: `B >= 0` does not allow a size of 0."""
    for i, text in enumerate(constraints):
        if is_idle_bound(text):
            report.warn(
                f"constraints[{i}]: {shown(text)} always holds: a size is at least 1"
            )


# ------------------------------------------------------------------------------------ lifting


def lifted(
    program: TracedProgram,
    request: Request,
    report: Report,
    equations: dict[Node, Any] | None = None,
) -> tuple[Graph, Boundary]:
    """The root graph with weights as constants, and how it belongs to the caller's pytrees.

    `equations` takes the equation of JAX that each node stands for.
    """
    specs, traced = program.specs, program.traced
    calls = Calls()
    graph = lift(
        traced.jaxpr,
        dims=specs.scope,
        name=request.name,
        const=_captured(specs, traced),
        hints=[leaf.name for leaf in specs.leaves],
        has_rule=has_rule,
        notes=report.notes,
        equations=equations,
        calls=calls,
    )
    _bind_weights(graph, [leaf.weight for leaf in specs.leaves])
    name_modules(graph, calls)
    graph.input_names = [leaf.name for leaf in specs.inputs]
    graph.output_names = _output_names(traced, graph.input_names, request)
    out_types = tuple(map(type_of, traced.jaxpr.out_avals))
    outputs_as_nchw = nchw.positions(
        "outputs_as_nchw", request.outputs_as_nchw, graph.output_names, out_types
    )
    return graph, Boundary(
        types=_input_types(specs),
        out_types=out_types,
        in_tree=specs.layout.caller_tree(),
        tree_with_empty=specs.layout.caller_tree(specs.static),
        out_tree=traced.out_tree,
        places=specs.layout.places,
        keywords=specs.layout.keywords,
        left_out=specs.layout.left_out,
        inputs_as_nchw=_inputs_as_nchw(specs, request),
        outputs_as_nchw=outputs_as_nchw,
    )


def _captured(specs: Specs, traced: Traced) -> Callable[[Any], Tensor]:
    """What makes constants of the arrays that the program closes over, under keys that no weight has."""
    weights = [leaf.weight for leaf in specs.leaves if leaf.weight is not None]
    taken: dict[str, Any] = {weight.key: weight for weight in weights}
    paths = traced.held.names()

    def const(array: Any) -> Tensor:
        path = paths.get(id(array))
        return tensor_of(array, path and own_key(path, array, taken))

    return const


def _bind_weights(graph: Graph, weights: Sequence[Tensor | None]) -> None:
    """Put constants in the place of the inputs that are weights."""
    # from the last on, so that the positions stay right and the constants stand in order
    for position in reversed(range(len(weights))):
        weight = weights[position]
        if weight is not None:
            _bind_weight(graph, position, weight)


def _bind_weight(graph: Graph, position: int, weight: Tensor) -> None:
    """Put a constant in the place of an input, converted to the type of it."""
    name = weight.key.rpartition("/")[2]
    attrs: dict[str, Any] = {"value": weight}
    node = Node("const", (), (weight.type,), attrs, (), None, (name,))
    value = graph.insert(node, before=graph.first).out
    wanted = graph.inputs[position].type
    if wanted.dtype.is_key:
        wrap = Node("lax.random_wrap", (value,), (wanted,))
        value = graph.insert(wrap, before=node.next).out
    elif wanted != value.type:  # 64-bit weights while 64-bit mode is off
        # as JAX says it: a complex number has no Cast of ONNX
        attrs = {"new_dtype": wanted.dtype}
        convert = Node("lax.convert_element_type", (value,), (wanted,), attrs)
        value = graph.insert(convert, before=node.next).out
    graph.inputs[position].replace_by(value)
    graph.remove_input(position)


def _output_names(traced: Traced, inputs: Sequence[str], request: Request) -> list[str]:
    """The names of the outputs: those given, else their paths in what the function returns."""
    found = []
    for path in traced.out_paths:
        name = path_name(path)
        if request.state is not None:
            name = _beside_state(path)
        if not name:
            name = "output"
        elif name[0].isdigit():
            name = f"output_{name}"
        found.append(name)
    return list(output_names(found, request.output_names, inputs))


def _beside_state(path: Sequence[Any]) -> str:
    """The name of an output where the function's result stands first and its state second."""
    inner = path_name(path[1:])
    is_state = path[0].idx == 1
    return f"{KEYWORD}/{inner}" if is_state else inner


# ------------------------------------------------------------------------------------ passes


def optimise(
    graph: Graph, boundary: Boundary, request: Request, report: Report
) -> None:
    """Run the pipeline on the graph."""
    nchw.take_inputs(graph, boundary.inputs_as_nchw)
    nchw.give_outputs(graph, boundary.outputs_as_nchw)
    retracer = Retracer(has_rule)
    context = Context(
        target=request.target,
        retrace=retracer,
        opt_level=request.opt_level,
        options=_options(request),
        errors=report.quantisation,
        notes=report.notes,
        widened=report.widened,
    )
    pipeline = request.pipeline
    if pipeline.check == "numeric":
        from j2o.numeric_check import NumericCheck

        runs_here = installed_target(request.target)
        check = NumericCheck(graph, runs_here, context.retrace)
        pipeline = pipeline.observing(check)
    report.passes = run(pipeline, graph, context, verify=request.verify)
    retracer.forget()


def _options(request: Request) -> Options:
    """What the passes have to know of the request."""
    name = request.weights_dtype
    stored = None if name is None else DTYPES[name]
    return Options(checks=request.checks, weights_dtype=stored)


# ------------------------------------------------------------------------------------ the result


def _describe_result(graph: Graph, opset: Opset, report: Report) -> None:
    """Enter into the report what the graph has become."""
    report.opset = opset.number
    report.opset_reasons = list(opset.reasons)
    report.ops_after = count_ops(graph)
    report.not_portable = sorted(op for op in report.ops_after if op.startswith("ort."))
    constants = {node.out.const for node in graph.walk() if node.op == "const"}
    report.weights_bytes = sum(one.nbytes for one in constants if one is not None)


def _for_callers(specs: Specs, traced: Traced) -> Callable[..., Any]:
    """The function of what the model's caller gives, for comparing with JAX.

    Each call has a fresh copy of what the function may write to.
    """
    program = traced.held.root
    holders = traced.holders

    def call(*args: Any, **kwargs: Any) -> Any:
        named = [kwargs[keyword] for keyword in specs.layout.keywords]
        given = iter(jax.tree.leaves((args, named)))
        every = [
            next(given) if leaf.weight is None else loaded(leaf.array)
            for leaf in specs.leaves
        ]
        inside = copied(program, holders, {})
        of_fn = specs.layout.call(every, inside.static)
        return inside.fn(*of_fn.args, **of_fn.kwargs)

    return call
