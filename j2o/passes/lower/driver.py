"""`lower`: every `lax.*` node becomes `onnx.*` nodes, by the tables of rules. The driver; rules are in the files beside.

Regions are lowered before the node that holds them. All operations without a rule are reported together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from j2o.errors import J2OError, PassError, UnsupportedError, raised, shown
from j2o.ir import dims
from j2o.ir.graph import Graph, Node, Value, splice
from j2o.ir.types import Type
from j2o.passes.components.complex import COMPLEX
from j2o.passes.components.keys import KEYS
from j2o.passes.components.split import placeholders, split_components
from j2o.passes.context import Context
from j2o.passes.lower import (  # noqa: F401  (importing fills the tables)
    casts,
    collective,
    control,
    conv,
    dot,
    elementwise,
    index,
    reduce,
    shape,
    sort,
    window,
)
from j2o.passes.lower.decompositions import (  # noqa: F401  (as above)
    eigen,
    fft,
    linalg,
    random,
    schur,
    special,
)
from j2o.passes.lower.table import DECOMPOSITIONS, RULES, Lowering
from j2o.passes.pipeline import graph_pass
from j2o.passes.structure.inline import CALLS, SOLVE, inline


def has_rule(primitive: str) -> bool:
    """Whether j2o says what a primitive is, so that JAX's own code for it is not asked."""
    name = f"lax.{primitive}"
    by_table = (
        primitive in RULES
        or primitive in DECOMPOSITIONS
        or primitive in COMPLEX
        or primitive in KEYS
    )
    return by_table or name in CALLS or name == SOLVE


@graph_pass("lower", at="lax", level=0, scope="root", gives="onnx")
def lower(graph: Graph, context: Context) -> int:
    """Lower the root graph and its functions; UnsupportedError lists everything that has no rule."""
    driver = Driver(context)
    for each in (graph, *graph.functions.values()):
        driver.graph(each)
    if driver.problems:
        raise UnsupportedError(list(dict.fromkeys(driver.problems)))
    return driver.count


class Driver:
    """Lowers nodes one by one; `problems` collects what has no rule."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.problems: list[str] = []
        self.count = 0

    def graph(self, graph: Graph) -> None:
        for node in graph:
            if node.dialect == "lax":
                self.node(node)
            else:
                for region in node.graphs:
                    self.graph(region)

    def node(self, node: Node) -> None:
        """Lower one node and the regions in it, and erase it."""
        decomposed = node.kind in DECOMPOSITIONS
        if not decomposed:
            for region in node.graphs:
                self.graph(region)
            self.count += 1
        try:
            values = self.decompose(node) if decomposed else self.values(node)
        except UnsupportedError as error:
            self.problems += [
                f"{node.described}: {reason}" for reason in error.operations
            ]
            values = placeholders(node, [v.type for v in node.outputs])
        except dims.Inconclusive as error:
            text = str(error).partition("\n")[0]
            options = (
                " or ".join(f"constraints={list(c)}" for c in dims.settling(text))
                or "a number in the spec"
            )
            self.problems.append(
                f"{node.described}: {text.rstrip('.')}; {options} would settle it"
            )
            values = placeholders(node, [v.type for v in node.outputs])
        except J2OError:
            raise
        except Exception as error:
            raise PassError(f"lowering {node.described}: {raised(error)}") from error
        node.replace_by(*values)

    def values(self, node: Node) -> Sequence[Value]:
        rule = RULES.get(node.kind)
        if rule is None:
            raise UnsupportedError(
                ["no lowering for this primitive; @j2o.lower registers one"]
            )
        op = self.builder(node)
        result = rule(op, *node.inputs, **node.attrs)
        values = (result,) if isinstance(result, Value) else result
        _settle(values, node, "rule")
        return values

    def builder(self, node: Node) -> Lowering:
        assert node.graph is not None
        op = Lowering(
            node.graph, node, node.loc, node.outputs[0].hint if node.outputs else ""
        )
        op.source, op.target, op.expand_with = node, self.context.target, self.expand
        op.checks, op.notes = (
            bool(self.context.options.get("checks")),
            self.context.notes,
        )
        return op

    def decompose(self, node: Node) -> Sequence[Value]:
        """The results of a node's decomposition, lowered."""
        values = self.expand(
            self.builder(node), DECOMPOSITIONS[node.kind], node.inputs, node.attrs
        )  # type: ignore[arg-type]
        _settle(values, node, "decomposition")
        return values

    def expand(
        self,
        op: Lowering,
        fn: Callable[..., Any],
        values: Sequence[Value],
        params: dict[str, Any],
    ) -> tuple[Value, ...]:
        """`fn`, traced at the types of `values`, inserted before `op.before` and lowered."""
        graph = self.context.retrace(fn, [v.type for v in values], params)
        inline(graph)
        split_components([graph], self.context.retrace)
        body = [n for n in graph if n.op != "return"]
        end = op.before
        anchor = end if end is not None else op.graph.insert(Node("return", (), ()))
        outputs = splice(graph, values, anchor)
        keep = op.graph.insert(
            Node("return", outputs, ()), before=anchor
        )  # holds the results while they are lowered
        for node in body:
            node.loc = node.loc or op.loc
            if node.dialect == "lax":
                self.node(node)
        results = keep.inputs
        keep.erase()
        if end is None:
            anchor.erase()
        return results  # type: ignore[return-value]


def _settle(values: Any, node: Node, what: str) -> None:
    """Give results the types that JAX has for them; PassError where these are others, not only written otherwise."""
    wanted = [v.type for v in node.outputs]
    are_values = isinstance(values, list | tuple) and all(
        isinstance(v, Value) for v in values
    )
    if not are_values:
        raise PassError(
            f"the {what} for {node.described} gave {shown(values)} instead of {_types(wanted)}"
        )
    if len(values) != len(wanted) or not all(map(_fits, values, wanted)):
        got = _types([v.type for v in values])
        raise PassError(
            f"the {what} for {node.described} gave {got} instead of {_types(wanted)}"
        )
    for value, want in zip(values, wanted, strict=True):
        value.type = want


def _fits(value: Value, want: Type) -> bool:
    have = value.type
    return have == want or (
        have.dtype == want.dtype and dims.agree_shapes(have.shape, want.shape)
    )


def _types(types: Sequence[Type]) -> str:
    return ", ".join(map(str, types)) or "nothing"
