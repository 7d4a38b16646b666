"""Inlining: calls of nested jaxprs (jit, custom derivatives, remat, …) give way to what they call."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

from j2o.ir.graph import Graph, Node, Value, splice
from j2o.ir.marks import MARK
from j2o.passes.pipeline import graph_pass

# primitives that run their (first) region on their operands; for custom_jvp/vjp that is the function itself
CALLS = frozenset(
    "lax.jit lax.pjit lax.closed_call lax.core_call lax.call lax.remat lax.remat2 lax.checkpoint "
    "lax.custom_jvp_call lax.custom_vjp_call lax.custom_vjp_call_jaxpr lax.custom_lin lax.named_call "
    "lax.composite lax.shard_map lax.core_closed_call lax.xla_call lax.custom_gradient lax.run_state "
    "lax.jvp_call lax.reduced_precision_call lax.linear_call lax.custom_vmap_call".split()
)
SOLVE = "lax.custom_linear_solve"
CALLBACKS = frozenset(["lax.pure_callback", "lax.io_callback", "lax.debug_callback"])
KEPT: set[str] = (
    set()
)  # names of such primitives that have a rule of their own, which `lower` calls


def keep(primitive: str) -> None:
    """Leave what this primitive calls to the rule that there is for it; nothing for a primitive that is never inlined."""
    if f"lax.{primitive}" in (*CALLS, SOLVE):
        KEPT.add(primitive)


@graph_pass("inline", at="lax", level=0, scope="root")
def inline(graph: Graph) -> int:
    """Put the bodies of calls in place of the calls, but for what `@j2o.function` or a rule of the user's own keeps."""
    count = 0
    for node in graph:
        for region in node.graphs:
            count += inline(region)
        if node.kind in KEPT and node.dialect == "lax":
            continue
        if node.op == SOLVE:
            inline_solve(node)
            count += 1
        elif node.op == "lax.cond" and node.attrs.get("branches_platforms"):
            inline_platform(node)
            count += 1
        elif node.op == "lax.cond" and any(map(error_in, node.graphs)):
            count += inline_error(node)
        elif node.op in CALLS and node.graphs and not is_marked(node):
            inline_call(node)
            count += 1
    return count


def inline_call(node: Node) -> None:
    """Replace one call by its body."""
    body = node.graphs[0]
    _replace(node, body, node.inputs[len(node.inputs) - len(body.inputs) :])


def inline_solve(node: Node) -> None:
    """Replace custom_linear_solve by its solver: the second of (matvec, solve), the third of (matvec, vecmat, solve, …).

    Operands are what the functions capture, in the order of their names in `const_lengths`, and the right-hand side.
    """
    counts: Any = node.attrs["const_lengths"]
    first = counts.matvec + counts.vecmat
    side = first + counts.solve + counts.transpose_solve
    solver = node.graphs[len(node.graphs) // 2]
    _replace(
        node, solver, [*node.inputs[first : first + counts.solve], *node.inputs[side:]]
    )


def inline_platform(node: Node) -> None:
    """Replace a choice between platforms by its branch for ours."""
    platforms: Any = node.attrs["branches_platforms"]
    index = node.inputs[0]
    _replace(node, node.graphs[our_platform(platforms)], node.inputs[1:])
    if index is not None and index.node is not None and not index.uses:
        index.node.erase()


def error_in(branch: Graph) -> str:
    """What a branch raises whenever it runs, in words; "" where it may come to its end."""
    return next(
        (
            str(n.attrs["raises"])
            for n in branch
            if n.op in CALLBACKS and n.attrs.get("raises")
        ),
        "",
    )


def inline_error(node: Node) -> int:
    """Replace a choice that ends in an error for some of its branches by the others, and a check of the index.

    The results go through the check: where nobody uses them, JAX does not look for the error either.
    """
    errors = [error_in(branch) for branch in node.graphs]
    failing = tuple(i for i, error in enumerate(errors) if error)
    running = [i for i, error in enumerate(errors) if not error]
    if not running:
        return 0
    words = " or ".join(dict.fromkeys(errors[i] for i in failing))
    attrs = {"raises": words, "failing": failing, "branches": len(errors)}
    types = [v.type for v in node.outputs]
    hints = [v.hint for v in node.outputs]
    check = node.home.insert(
        Node(
            "lax.check",
            [node.inputs[0], *node.outputs],
            types,
            attrs,
            (),
            node.loc,
            hints,
        ),
        before=node.next,
    )
    for old, new in zip(node.outputs, check.outputs, strict=True):
        old.replace_by(new, where=functools.partial(operator.is_not, check))
    for i in failing:
        _forget(node.graphs[i])
    if len(running) == 1:
        _replace(node, node.graphs[running[0]], node.inputs[1:])
        return 1
    first = node.graphs[running[0]]
    node.graphs = tuple(
        branch if i in running else first.clone()
        for i, branch in enumerate(node.graphs)
    )
    for branch in node.graphs:
        branch.parent = node
    return 1


def _forget(branch: Graph) -> None:
    """Let nothing in a branch that goes use a value."""
    for inner in branch.walk():
        inner.set_inputs(())


def our_platform(platforms: Sequence[Any]) -> int:
    """Which entry is for the CPU, where JAX's values to compare with come from."""
    return next(
        i for i, names in enumerate(platforms) if names is None or "cpu" in names
    )


def _replace(node: Node, body: Graph, args: Sequence[Value | None]) -> None:
    """Put a body in place of a node; nodes without a source line of their own get the node's."""
    for inner in body.walk():
        inner.loc = inner.loc or node.loc
    outputs = splice(body, args, node)  # type: ignore[arg-type]
    node.replace_by(*outputs)


def is_marked(node: Node) -> bool:
    """Whether a node is a call that the user asked to keep as a function."""
    return bool(node.graphs) and str(node.attrs.get("name", "")).startswith(MARK)
