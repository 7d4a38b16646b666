"""`j2o.bisect`: from the outputs backwards, stage by stage, to the first wrong value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from j2o.api import compiled_program, request_for, traced_program
from j2o.arguments import whole_number
from j2o.backend.session import Session
from j2o.bisection.case import Case, case_of
from j2o.bisection.changes import wrong_change
from j2o.bisection.measure import Tolerance
from j2o.bisection.noise import TIMES, with_noise
from j2o.bisection.result import Bisection, Fault, OutputGap
from j2o.bisection.rules import wrong_rule
from j2o.bisection.stages import first_wrong
from j2o.bisection.written import optimiser_fault, writing_fault
from j2o.compare import check_tolerance
from j2o.errors import J2OError, SpecError, shown
from j2o.model import Model
from j2o.report import Report
from j2o.request import CompileOptions
from j2o.trial import given_leaves, random_leaves, sizes_for, sizes_of, told

SEEDS = range(2**31)  # that numpy and JAX take
# passes up to `lower`: what a rule does wrong shows after one of them
BY_RULES = frozenset(["inline", "components", "functions", "lower"])


def bisect(
    fn: Callable[..., Any],
    specs: Sequence[Any],
    inputs: Any = None,
    *,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    rtol: float = 1e-4,
    atol: float = 1e-5,
    **options: Unpack[CompileOptions],
) -> Bisection:
    """Compile a function, compare it with JAX, and find the first value that differs, its pass and line.

    Parameters:
        fn: as for `compile`, likewise `specs` and all further options.
        inputs: what to compare at: the function's arguments in a tuple (frozen weights left out), or a
            mapping from names of inputs to arrays; by default random ones.
        sizes: symbolic sizes of random inputs; by default the smallest from 3 up that fit.
        seed: of random inputs.
        rtol: floats may differ by `atol + rtol * |JAX's|`, as for `Model.verify`.
        atol: see `rtol`.

    Nothing is raised where the model differs: the result says so. Raises what `compile` raises, and
    SpecError for arguments that do not fit.
    """
    tolerance = Tolerance(check_tolerance("rtol", rtol), check_tolerance("atol", atol))
    request = request_for(fn, specs, options)
    report = Report()
    program = traced_program(request, report)
    model = compiled_program(program, request, report)
    leaves, words = _inputs(model, inputs, sizes or {}, seed)
    with model._as_compiled():
        at = sizes_of(model, leaves)
        case = case_of(request, program, model, leaves, at, tolerance)
        return _bisected(case, words + (f", {told(at)}" if at else ""))


def _inputs(
    model: Model, inputs: Any, sizes: Mapping[str, int], seed: int
) -> tuple[list[Any], str]:
    """The inputs as JAX has them, and what they are in words."""
    if inputs is None:
        needed = f"a whole number from 0 to {SEEDS.stop - 1} is needed"
        number = whole_number("seed", seed, SEEDS, needed)
        found = sizes_for(model, sizes, "size")
        return random_leaves(model, found, number), f"random inputs, seed {number}"
    if sizes:
        what = "the sizes are those of the inputs"
        raise SpecError(f"sizes={shown(dict(sizes))}: {what}; leave one of both out")
    return given_leaves(model, inputs), "the inputs given"


def _bisected(case: Case, words: str) -> Bisection:
    """The result for one case."""
    gaps: list[OutputGap] = []
    outputs = None
    error = ""
    try:
        outputs = case.run(case.model.session)
        gaps = case.gaps(outputs)
    except J2OError as problem:
        error = str(problem)
    if not error and all(gap.close for gap in gaps):
        return Bisection(tuple(gaps), words, case.tolerance)
    fault = _fault(case, outputs)
    notes = [
        f"JAX cannot run {operation} by itself, so its lowering is not compared: {why}"
        for operation, why in case.operations.unknown.items()
    ]
    if case.request.weights_dtype is not None:
        notes.append(f"weights_dtype={case.request.weights_dtype!r} changes weights")
    return Bisection(tuple(gaps), words, case.tolerance, fault, error, tuple(notes))


def _fault(case: Case, outputs: Sequence[np.ndarray] | None) -> Fault:
    """Where the difference comes from, the last stages first: each is right where the one before is.

    `outputs` are those of the model; None where it cannot be run.
    """
    program = case.lift()
    traced = case.outputs(program.graph, program.equations)
    case = with_noise(case, traced)
    if not case.agrees(traced):
        return _traced_otherwise(case, traced)
    if outputs is not None and case.agrees(outputs):
        return wrong_rule(case) or _rounded(case)
    if _agrees(case, _without_optimiser):
        return optimiser_fault(case)
    if _agrees(case, _node_by_node):
        return writing_fault(case)
    right, wrong = first_wrong(case)
    if wrong.pass_name in BY_RULES:
        found = wrong_rule(case)
        if found is not None:
            return found
    return wrong_change(case, right, wrong)


def _rounded(case: Case) -> Fault:
    """The outputs differ by no more than they would where JAX rounds otherwise."""
    effect = max(case.rounding, default=0.0) / TIMES
    what = "no operation differs from JAX by more than rounding, at the same operands"
    moves = (
        f"moving the last digits of JAX's own values moves its outputs by {effect:.2g}"
    )
    return Fault("rounding", hint=f"{what}; {moves}")


def _agrees(case: Case, outputs: Callable[[Case], Sequence[Any]]) -> bool:
    """Return True where some way to run the final graph gives what JAX gives."""
    try:
        return case.agrees(outputs(case))
    except J2OError:
        return False


def _without_optimiser(case: Case) -> Sequence[Any]:
    session = Session(case.model.to_proto(sources=False), optimise=False)
    return case.run(session)


def _node_by_node(case: Case) -> Sequence[Any]:
    return case.outputs(case.model.graph, {})


def _traced_otherwise(case: Case, outputs: Sequence[Any]) -> Fault:
    """The traced program, run by JAX, is not what the function is."""
    gaps = [gap for gap in case.gaps(outputs) if not gap.close]
    guesses = "does it draw random numbers, or keep state? does it depend on rounding?"
    hint = f"the function's own value and that of its trace differ in {gaps[0].name!r}: {guesses}"
    return Fault("tracing", difference=gaps[0].difference, hint=hint)
