"""Inlining: calls of nested jaxprs (jit, custom derivatives, remat, …) give way to what they call."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

from j2o.ir.copies import splice
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.marks import MARK
from j2o.passes.pipeline import graph_pass

# primitives that run their (first) region on their operands; for custom_jvp/vjp that is the function itself
CALLS = frozenset(
    [
        # compiled or called as they stand
        "lax.call",
        "lax.closed_call",
        "lax.composite",
        "lax.core_call",
        "lax.core_closed_call",
        "lax.jit",
        "lax.named_call",
        "lax.pjit",
        "lax.run_state",
        "lax.shard_map",
        "lax.xla_call",
        # with derivatives of their own
        "lax.custom_gradient",
        "lax.custom_jvp_call",
        "lax.custom_lin",
        "lax.custom_vjp_call",
        "lax.custom_vjp_call_jaxpr",
        "lax.custom_vmap_call",
        "lax.jvp_call",
        "lax.linear_call",
        # computed again for a derivative, or in another precision
        "lax.checkpoint",
        "lax.reduced_precision_call",
        "lax.remat",
        "lax.remat2",
    ]
)
SOLVE = "lax.custom_linear_solve"
CALLBACKS = frozenset(["lax.pure_callback", "lax.io_callback", "lax.debug_callback"])
# names of such primitives that have a rule of their own, which `lower` calls
KEPT: set[str] = set()


def keep(primitive: str) -> None:
    """Leave what this primitive calls to its rule; a primitive that is never inlined stays as it is."""
    if f"lax.{primitive}" in (*CALLS, SOLVE):
        KEPT.add(primitive)


@graph_pass("inline", at="lax", level=0, scope="root")
def inline(graph: Graph) -> int:
    """Put the bodies of calls in place of the calls; what `@j2o.function` or a user's rule keeps stays."""
    count = 0
    for node in list(graph.holders):  # a call holds what it calls
        for region in node.graphs:
            count += inline(region)
        if node.kind in KEPT and node.dialect == "lax":
            continue
        count += _inline_node(node)
    return count


def _inline_node(node: Node) -> bool:
    """Inline one node where it is a call or a choice that is made now; returns whether it was."""
    if node.op == SOLVE:
        inline_solve(node)
        return True
    if node.op == "lax.cond":
        if node.attrs.get("branches_platforms"):
            inline_platform(node)
            return True
        return any(map(error_in, node.graphs)) and inline_error(node)
    if node.op in CALLS and node.graphs and not is_marked(node):
        inline_call(node)
        return True
    return False


def inline_call(node: Node) -> None:
    """Replace one call by its body."""
    body = node.graphs[0]
    _replace(node, body, node.inputs[len(node.inputs) - len(body.inputs) :])


def inline_solve(node: Node) -> None:
    """Replace custom_linear_solve by its solver.

    That is the second of the regions (matvec, solve), or the third of (matvec, vecmat, solve,
    transpose_solve).
    Operands are what the regions capture, in this order, and the right-hand side.
    """
    counts: Any = node.attrs["const_lengths"]
    first = counts.matvec + counts.vecmat
    side = first + counts.solve + counts.transpose_solve
    solver = node.graphs[len(node.graphs) // 2]
    captured = node.inputs[first : first + counts.solve]
    _replace(node, solver, [*captured, *node.inputs[side:]])


def inline_platform(node: Node) -> None:
    """Replace a choice between platforms by its branch for ours."""
    platforms: Any = node.attrs["branches_platforms"]
    index = node.inputs[0]
    _replace(node, node.graphs[our_platform(platforms)], node.inputs[1:])
    if index is not None and index.node is not None and not index.uses:
        index.node.erase()


def error_in(branch: Graph) -> str:
    """The error that a branch raises whenever it runs, in words; "" where it may come to its end."""
    for node in branch:
        if node.op in CALLBACKS and node.attrs.get("raises"):
            return str(node.attrs["raises"])
    return ""


def inline_error(node: Node) -> bool:
    """Replace a choice, some branches of which end in an error, by the others and a check of the index.

    The results go through the check: where nobody uses them, JAX does not look for the error either. Returns
    False, with nothing changed, where all branches end in an error.
    """
    errors = [error_in(branch) for branch in node.graphs]
    failing = tuple(i for i, error in enumerate(errors) if error)
    running = [i for i, error in enumerate(errors) if not error]
    if not running:
        return False
    _check_index(node, errors, failing)
    for i in failing:
        node.graphs[i].drop()
    if len(running) == 1:
        _replace(node, node.graphs[running[0]], node.inputs[1:])
        return True
    # the index keeps its meaning: another branch stands where one failed
    branches = list(node.graphs)
    for i in failing:
        branches[i] = branches[running[0]].clone()
    node.graphs = tuple(branches)
    for branch in node.graphs:
        branch.parent = node
    return True


def _check_index(node: Node, errors: Sequence[str], failing: tuple[int, ...]) -> None:
    """Let the results of a choice go through a check that its index is of no failing branch."""
    words = " or ".join(dict.fromkeys(errors[i] for i in failing))
    attrs = {"raises": words, "failing": failing, "branches": len(errors)}
    operands = [node.operand(0), *node.outputs]
    types = [v.type for v in node.outputs]
    hints = [v.hint for v in node.outputs]
    check = Node("lax.check", operands, types, attrs, (), node.loc, hints)
    node.home.insert(check, before=node.next)
    for old, new in zip(node.outputs, check.outputs, strict=True):
        old.replace_by(new, where=functools.partial(operator.is_not, check))


def our_platform(platforms: Sequence[Any]) -> int:
    """The place of the entry for the CPU, where JAX's values to compare with come from; None is for all."""
    fits = [names is None or "cpu" in names for names in platforms]
    return fits.index(True)


def _replace(node: Node, body: Graph, args: Sequence[Value | None]) -> None:
    """Put a body in place of a node; nodes without a source line of their own get the node's."""
    for inner in body.walk():
        inner.loc = inner.loc or node.loc
    outputs = splice(body, args, node)  # type: ignore[arg-type]
    node.replace_by(*outputs)


def is_marked(node: Node) -> bool:
    """Return True for a call that the user asked to keep as a function."""
    return bool(node.graphs) and str(node.attrs.get("name", "")).startswith(MARK)
