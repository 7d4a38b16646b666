"""The modules that nodes come from: `scopes(graph)[node]` is `("blocks", "3", "att", "query")`.

The frontend finds them (`frontend/sources.py`). A node carries its own in `node.loc.scope`, and what replaces
it takes that over. What carries none, such as a constant that a pass has made, belongs to what its users
have in common.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TypeAlias

from j2o.ir.graph import Graph, Loc, Node

Scope: TypeAlias = tuple[str, ...]


def scopes(graph: Graph) -> dict[Node, Scope]:
    """Return the path of the module that each node comes from, the outermost first; () where it is of none.

    Nodes of regions have their whole paths. Nodes of functions, which are there where `graph` is a root,
    have those inside of the function. Linear in the size of the graph.
    """
    found: dict[Node, Scope] = {}
    for top in (graph, *graph.own_functions.values()):
        # users stand behind what they use, in regions too
        for node in reversed(list(top.walk())):
            found[node] = _scope(node, found)
    return found


def _scope(node: Node, found: dict[Node, Scope]) -> Scope:
    """The scope of a node, its users having theirs."""
    if node.op == "return":
        holder = node.home.parent
        return () if holder is None else own_scope(holder.loc)
    if node.loc is not None:
        return own_scope(node.loc)
    users = [found[user] for value in node.outputs for user in value.users()]
    return common(users)


def own_scope(loc: Loc | None) -> Scope:
    """Return the steps of the scope that a location has: `blocks/3` as `("blocks", "3")`."""
    return tuple(loc.scope.split("/")) if loc is not None and loc.scope else ()


def common(paths: Sequence[Scope]) -> Scope:
    """Return the longest path that all of these start with; () where there are none."""
    return functools.reduce(_common_of_two, paths) if paths else ()


def _common_of_two(one: Scope, other: Scope) -> Scope:
    length = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        length += 1
    return one[:length]
