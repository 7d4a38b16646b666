"""`flips`: a Scan reads and writes from the end what a program turns round before and behind it."""

from __future__ import annotations

from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.passes.layout.perms import perm_of
from j2o.passes.layout.scans import (
    Scan,
    Stacked,
    read_scan,
    scans_along_first,
    write_scan,
)
from j2o.passes.pipeline import graph_pass


@graph_pass("flips", at="onnx", level=2)
def flips(graph: Graph) -> int:
    """Change the direction of a Scan in place of turning its rows round."""
    count = 0
    for node in scans_along_first(graph):
        scan = read_scan(node)
        changes = _read_turned(scan) + sum(map(_write_turned, scan.stacked))
        if changes:
            write_scan(scan)
            count += changes
    return count


def _is_flip(node: Node, axis: int) -> bool:
    """Return True for a Slice that turns an axis round."""
    if node.op != "onnx.Slice" or len(node.operands) != 5:
        return False
    rank = node.out.type.rank
    starts, _, axes, steps = [value.known_ints for value in node.operands[1:]]
    if starts != (-1,) or steps != (-1,) or axes not in ((axis,), (axis - rank,)):
        return False
    return node.out.type == node.operand(0).type


def _read_turned(scan: Scan) -> int:
    """Read rows from the other end, where all rows are then read from the same; returns how many are."""
    turned = {i: _turned(scan, one.stack) for i, one in enumerate(scan.rows)}
    sources = {i: value for i, value in turned.items() if value is not None}
    directions = [one.is_backwards ^ (i in sources) for i, one in enumerate(scan.rows)]
    if not sources or len(set(directions)) != 1:
        return 0
    for i, source in sources.items():
        scan.rows[i].stack = source
        scan.rows[i].is_backwards ^= 1
    return len(sources)


def _turned(scan: Scan, stack: Value) -> Value | None:
    """What a stack is the other way round, where it is made from that."""
    node = stack.node
    perm = perm_of(node)
    if node is not None and perm is not None:
        inner = node.operand(0).node
        if inner is None or not _is_flip(inner, perm[0]):
            return None
        op = Builder(scan.node.home, scan.node, node.loc, stack.hint)
        return op.transpose(inner.operand(0), perm)
    return node.operand(0) if node is not None and _is_flip(node, 0) else None


def _write_turned(stacked: Stacked) -> int:
    """Write from the other end what all who use it turn round, as often as they do; returns how often."""
    count = 0
    while found := _flips_of(stacked.out):
        for node in found:
            node.replace_by(node.operand(0))
        stacked.is_backwards ^= 1
        count += 1
    return count


def _flips_of(rows: Value) -> list[Node]:
    """The nodes that turn rows round, transposed or not, where these are all that use them."""
    found: list[Node] = []
    for user in rows.users():
        perm = perm_of(user)
        takers = [user] if perm is None else list(user.out.users())
        axis = 0 if perm is None else perm.index(0)
        if not all(_is_flip(taker, axis) for taker in takers):
            return []
        found += takers
    return found
