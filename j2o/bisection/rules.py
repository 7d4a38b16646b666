"""The lowering of single operations: each is compared with JAX at the operands that JAX itself has there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from j2o.bisection.case import Case
from j2o.bisection.evaluate import Array, Evaluator
from j2o.bisection.measure import Difference, measured
from j2o.bisection.result import Fault, made, place_of
from j2o.errors import J2OError
from j2o.ir.graph import Node, Value
from j2o.passes.lower.table import DECOMPOSITIONS, LOWERINGS, OneOperator
from j2o.passes.structure.inline import CALLS, KEPT
from j2o.values import to_graph


class _Found(Exception):
    """The first operation that is lowered wrongly; it ends the walk."""

    def __init__(self, fault: Fault) -> None:
        super().__init__()
        self.fault = fault


class _Comparing(Evaluator):
    """Walks the lifted graph by JAX, and compares what each operation is lowered to."""

    case: Case

    def node(self, node: Node, operands: list[Array]) -> Sequence[Array]:
        """The results by JAX, which the lowered operation is compared with."""
        results = super().node(node, operands)
        if node.op.startswith("lax.") and node.outputs and self.is_lowered(node):
            self.compare(node, operands, results)
        return results

    def is_lowered(self, node: Node) -> bool:
        """Return True for what has a rule, and of which JAX knows the results."""
        is_inlined = node.op in CALLS and node.kind not in KEPT
        has_equation = node in self.equations
        is_unknown = node.described in self.operations.unknown
        return has_equation and not is_inlined and not is_unknown

    def compare(
        self, node: Node, operands: Sequence[Array], results: Sequence[Array]
    ) -> None:
        """Raise what is found where a result of the lowered operation is not JAX's."""
        try:
            lowered = self.operations.lowered(node, operands)
        except J2OError as error:
            raise _Found(self.fault(node.outputs[0], None, str(error))) from error
        tolerance = self.case.tolerance
        for value, actual, expected in zip(node.outputs, lowered, results, strict=True):
            wanted = to_graph(expected)
            close, difference = measured(actual, wanted, tolerance, inside=True)
            if not close:
                raise _Found(self.fault(value, difference, ""))

    def fault(self, value: Value, difference: Difference | None, error: str) -> Fault:
        """What is told of an operation that is lowered wrongly."""
        told = made(value)
        return Fault(
            "pass",
            told,
            pass_name="lower",
            rule=name_of_rule(value.producer.kind),
            inside=tuple(map(str, self.path)),
            difference=difference,
            error=error,
            place=place_of(told),
        )


def name_of_rule(kind: str) -> str:
    """The rule for a primitive: the operator that it becomes, or its function."""
    rule: Any = LOWERINGS.get(kind) or DECOMPOSITIONS.get(kind)
    if isinstance(rule, OneOperator):
        return f"{kind} is {rule.operator}"
    module = getattr(rule, "__module__", "")
    name = getattr(rule, "__qualname__", type(rule).__name__)
    return f"{module}.{name}" if module else name


def wrong_rule(case: Case) -> Fault | None:
    """The first operation of the program, in the order of its execution, that is lowered wrongly."""
    program = case.lift()
    walk = _Comparing(case.operations, program.equations)
    walk.case = case
    try:
        walk.run(program.graph, case.operands(program.graph))
    except _Found as found:
        return found.fault
    return None
