"""The modules that nodes come from: `scopes(graph)[node]` is `("blocks", "3", "att", "query")`.

The frontend finds them (`frontend/sources.py`). A node carries its own in `node.loc.scope`, and what replaces
it takes that over. What carries none, such as a constant that a pass has made, belongs to what its users
have in common.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TypeAlias

from j2o.ir.graph import Graph, Node
from j2o.ir.node import Loc

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
    # constants and sizes are made once for all that use them
    if node.loc is not None and node.op not in ("const", "dims"):
        return own_scope(node.loc)
    users = [found[user] for value in node.outputs for user in value.users()]
    return common(users)


def own_scope(loc: Loc | None) -> Scope:
    """Return the steps of the scope that a location has: `blocks/3` as `("blocks", "3")`."""
    return () if loc is None else _steps(loc.scope)


def _steps(scope: str) -> Scope:
    """The steps of a scope as it is written."""
    return tuple(scope.split("/")) if scope else ()


def placed(loc: Loc | None, scope: Scope) -> Loc | None:
    """Return a location in another module; None where there is none."""
    if loc is None:
        return None
    return Loc(loc.file, loc.line, loc.function, "/".join(scope))


def take_out_common(body: Graph) -> Scope:
    """Take the module that the nodes of a function have in common out of their scopes, and return it.

    Calls of the function stand in it: one body serves several modules.
    """
    paths = {node: own_scope(node.loc) for node in body.walk() if node.loc is not None}
    around = common(list(paths.values()))
    for node, path in paths.items():
        node.loc = placed(node.loc, path[len(around) :])
    return around


def shared_loc(one: Loc | None, other: Loc | None) -> Loc | None:
    """Return the location of what stands for two nodes: the line of the first, and the module around both."""
    if one is None or other is None or one.scope == other.scope:
        return one
    return one._replace(scope=_scope_around(one.scope, other.scope))


@functools.lru_cache(maxsize=4096)
def _scope_around(one: str, other: str) -> str:
    """The innermost module around two, as the text in a location."""
    return "/".join(common([_steps(one), _steps(other)]))


def common(paths: Sequence[Scope]) -> Scope:
    """Return the innermost module around all of these; () where there are none.

    A list of modules, such as the `blocks` around `blocks/0` and `blocks/1`, is no module itself.
    """
    return functools.reduce(_around_both, paths) if paths else ()


def _around_both(one: Scope, other: Scope) -> Scope:
    """The innermost module around two."""
    if one == other:
        return one
    length = equal_steps(one, other)
    both = one[:length]
    beyond = (*one[length : length + 1], *other[length : length + 1])
    are_elements = len(beyond) == 2 and all(step.isdigit() for step in beyond)
    is_list = are_elements and length > 0 and not both[-1].isdigit()
    return both[:-1] if is_list else both


def equal_steps(one: Scope, other: Scope) -> int:
    """Return how many steps two paths have in common from the start."""
    length = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        length += 1
    return length
