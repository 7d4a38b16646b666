"""The pass `lower`: every `lax.*` node becomes `onnx.*` nodes, by the rules in the files beside.

A node with a lowering: its regions are lowered first, then its rule builds nodes in front of it. These take
its place. A node with a decomposition: the JAX code is traced, inserted in front of it, and lowered in turn.
All operations without a rule are reported together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from j2o.errors import J2OError, PassError, UnsupportedError, raised, shown
from j2o.ir import dims
from j2o.ir.copies import splice
from j2o.ir.dims_agree import agree_shapes
from j2o.ir.dims_settle import settling
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.types import Type
from j2o.passes.components.split import placeholders, split_components
from j2o.passes.components.tables import COMPLEX, KEYS
from j2o.passes.context import Context
from j2o.passes.lower import (  # noqa: F401  (importing fills the tables)
    casts,
    collective,
    control,
    conv,
    dot,
    elementary,
    elementwise,
    index,
    reduce,
    scatter,
    shape,
    sort,
    window,
    window_gradients,
)
from j2o.passes.lower.decompositions import (  # noqa: F401  (as above)
    eigen,
    fft,
    incomplete,
    linalg,
    random,
    schur,
    special,
    systems,
)
from j2o.passes.lower.once import LoweredOnce
from j2o.passes.lower.table import DECOMPOSITIONS, LOWERINGS, JaxCode, Lowering, Rule
from j2o.passes.pipeline import graph_pass
from j2o.passes.structure.inline import CALLS, SOLVE, inline

_VALUES = frozenset({Value})


def has_rule(primitive: str) -> bool:
    """Return True where j2o says what a primitive is, so that JAX's own code for it is not asked."""
    tables = (LOWERINGS, DECOMPOSITIONS, COMPLEX, KEYS)
    name = f"lax.{primitive}"
    is_inlined = name in CALLS or name == SOLVE
    return is_inlined or any(primitive in table for table in tables)


@graph_pass("lower", at="lax", level=0, scope="root", gives="onnx")
def lower_graph(graph: Graph, context: Context) -> int:
    """Lower the root graph and its functions; UnsupportedError lists everything that has no rule."""
    driver = Driver(context)
    for each in (graph, *graph.functions.values()):
        driver.once = LoweredOnce()  # a function sees nothing of the others
        driver.lower_graph(each)
    if driver.problems:
        raise UnsupportedError(list(dict.fromkeys(driver.problems)))
    return driver.count


class Driver:
    """Lowers nodes one by one; `problems` collects what has no rule, `count` the nodes that had one."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.problems: list[str] = []
        self.count = 0
        self.once = LoweredOnce()

    def lower_graph(self, graph: Graph) -> None:
        """Lower every node of a graph, and of the regions in it."""
        for node in graph:
            if node.op.startswith("lax."):
                self.lower_once(node)
            elif node.graphs:
                self.lower_regions(node)

    def lower_once(self, node: Node) -> None:
        """Lower a node, or give its users what an equal one was lowered to."""
        if node.graphs or self.context.opt_level == 0:
            self.lower_node(node)
            return
        values = self.once.values_of_twin(node)
        if values is not None:
            self.count += 1
            node.replace_by(*values)
            return
        front = node.prev
        behind = node.next
        values = self.lower_node(node)
        if values is not None and behind is not None:
            self.once.results[node] = values, front, behind.prev

    def lower_regions(self, node: Node) -> None:
        """Lower what is inside a node; nothing outside may use what was computed there."""
        size = self.once.size
        for region in node.graphs:
            self.lower_graph(region)
            self.once.shrink(size)

    def lower_node(self, node: Node) -> Sequence[Value] | None:
        """Put what lowering a node gives in its place, and return it.

        A node that cannot be lowered becomes placeholders, so that the others are still looked at: None.
        """
        try:
            values = self.lowered(node)
        except UnsupportedError as error:
            reasons = [f"{node.described}: {why}" for why in error.operations]
            return self.give_up(node, reasons)
        except dims.Inconclusive as error:
            return self.give_up(node, [_undecided(node, error)])
        except J2OError:
            raise
        except Exception as error:
            raise PassError(f"lowering {node.described}: {raised(error)}") from error
        node.replace_by(*values)
        return values

    def give_up(self, node: Node, reasons: list[str]) -> None:
        """Keep the reasons, and let values without a meaning stand for the results."""
        self.problems += reasons
        node.replace_by(*placeholders(node, [v.type for v in node.outputs]))

    # ------------------------------------------------------------------- one node

    def lowered(self, node: Node) -> Sequence[Value]:
        """The values that stand for a node's results, of exactly their types."""
        kind = node.kind
        code = DECOMPOSITIONS.get(kind)
        if code is not None:
            return self.by_decomposition(node, code)
        if node.graphs:
            self.lower_regions(node)
        rule = LOWERINGS.get(kind)
        if rule is None:
            raise UnsupportedError(
                ["no lowering for this primitive; @j2o.lower registers one"]
            )
        return self.by_lowering(node, rule)

    def by_lowering(self, node: Node, rule: Rule) -> Sequence[Value]:
        """What a rule that builds nodes gives."""
        self.count += 1
        result = rule(self.builder(node), *node.inputs, **node.attrs)
        values = (result,) if isinstance(result, Value) else result
        if values is result and not _are_values(values):
            raise _misfit("rule", node, values)
        _settle(values, node, "rule")
        return values

    def by_decomposition(self, node: Node, code: JaxCode) -> Sequence[Value]:
        """What a rule of plain JAX code gives."""
        values = self.expand(self.builder(node), code, node.inputs, node.attrs)
        _settle(values, node, "decomposition")
        return values

    def builder(self, node: Node) -> Lowering:
        """The builder for a node's rule."""
        hint = node.outputs[0].hint if node.outputs else ""
        op = Lowering(node.home, node, node.loc, hint)
        op.source = node
        op.target = self.context.target
        op.expand_with = self.expand
        op.checks = self.context.options.checks
        op.notes = self.context.notes
        return op

    def expand(
        self,
        op: Lowering,
        code: JaxCode,
        values: Sequence[Value | None],
        params: Mapping[str, Any],
    ) -> tuple[Value, ...]:
        """Trace JAX code at the types of `values`, insert it before `op.before`, and lower it."""
        operands = [v for v in values if v is not None]
        graph = self.context.retrace(code, [v.type for v in operands], dict(params))
        inline(graph)
        split_components([graph], self.context.retrace)
        body = [n for n in graph if n.op != "return"]
        end = op.before
        anchor = end if end is not None else op.graph.insert(Node("return", (), ()))
        # a node that uses the results follows them through their own lowering
        holder = Node("return", splice(graph, operands, anchor), ())
        op.graph.insert(holder, before=anchor)
        for node in body:
            node.loc = node.loc or op.loc
            if node.dialect == "lax":
                self.lower_node(node)
        results = holder.operands
        holder.erase()
        if end is None:
            anchor.erase()
        return results


def _undecided(node: Node, error: dims.Inconclusive) -> str:
    """What is not known of symbolic sizes at a node, and what would settle it."""
    question = str(error).partition("\n")[0]
    constraints = [f"constraints={list(c)}" for c in settling(question)]
    remedy = " or ".join(constraints) or "a number in the spec"
    return f"{node.described}: {question.rstrip('.')}; {remedy} would settle it"


def _settle(values: Sequence[Value], node: Node, what: str) -> None:
    """Give results the types that JAX has for them.

    PassError where these are others, not only written otherwise.
    """
    outputs = node.outputs
    if len(values) != len(outputs):
        raise _misfit(what, node, values)
    for value, output in zip(values, outputs, strict=True):
        have = value.type
        want = output.type
        if have is want:
            continue
        if have == want:
            value.type = want  # one object for equal types, which is soon compared
        elif _fits(have, want):
            value.retype(want)  # the same type, written otherwise
        else:
            raise _misfit(what, node, values)


def _are_values(values: Any) -> bool:
    """Return True for a list or tuple of values."""
    is_sequence = isinstance(values, (list, tuple))
    return is_sequence and _VALUES.issuperset(map(type, values))


def _fits(have: Type, want: Type) -> bool:
    """Return True for the same type, or one whose sizes agree wherever that is looked at."""
    return have == want or (
        have.dtype == want.dtype and agree_shapes(have.shape, want.shape)
    )


def _misfit(what: str, node: Node, values: Any) -> PassError:
    """The error of a rule that gives something else than JAX."""
    given = shown(values)
    if _are_values(values):
        given = _types(values)
    types = _types(node.outputs)
    return PassError(f"the {what} for {node.described} gave {given} instead of {types}")


def _types(values: Sequence[Value]) -> str:
    """Types as messages have them."""
    return ", ".join([str(value.type) for value in values]) or "nothing"
