"""What a loop does in each round that can be done once: `invariants`, `sink` and `hoist`.

`invariants` moves what is the same in each round in front of a Scan or Loop. `hoist` computes products of
rows with a matrix that does not change for all rows at once, in front of the Scan. `sink` computes such
products of what the Scan would only stack, behind it. What leads to such products goes with them, and so
does what follows them.

A Scan runs at least once, so nothing is computed that would not be, and nothing raises that would not. Of
Loops, `invariants` takes those that are known to.
Memory for all rows of a product may be much: a product that has many times the elements that a round
reads and carries stays. So does a Scan that carries nothing: programs map in a loop to save memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from j2o.ir import dims
from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.passes.layout.all_rounds import (
    computable,
    has_rule,
    multiplies_one,
    outside,
    write_batched,
)
from j2o.passes.layout.perms import elements_to_move
from j2o.passes.layout.scans import (
    Scan,
    ScannedRow,
    Stacked,
    is_the_same,
    read_scan,
    scans_along_first,
    write_scan,
)
from j2o.passes.pipeline import graph_pass

MOST = 8  # how many times the elements of a round a product may have


@graph_pass("invariants", at="onnx", level=2)
def invariants(graph: Graph) -> int:
    """Move what is the same in each round in front of a Scan, or of a Loop that runs at least once."""
    count = 0
    for loop in list(graph.holders):
        if loop.op != "onnx.Scan" and not _is_loop_that_runs(loop):
            continue
        for inner in loop.graphs[0]:
            if _is_invariant(loop.graphs[0], inner):
                _move_in_front(loop, inner)
                count += 1
    return count


@graph_pass("sink", at="onnx", level=2)
def sink(graph: Graph) -> int:
    """Products of what a Scan stacks, behind it."""
    scans = map(read_scan, scans_along_first(graph))
    return sum(map(_sink, scans))


@graph_pass("hoist", at="onnx", level=2)
def hoist(graph: Graph) -> int:
    """Products of what a Scan reads, in front of it."""
    scans = map(read_scan, scans_along_first(graph))
    return sum(map(_hoist, scans))


# --------------------------------------------------------------------------- invariants


def _is_loop_that_runs(node: Node) -> bool:
    """Return True for a Loop with a first round: it has a limit of at least 1, and no condition yet."""
    if node.op != "onnx.Loop":
        return False
    limit, go_on = node.inputs[:2]
    rounds = None if limit is None else limit.known
    if limit is not None and (rounds is None or not dims.known_ge(rounds[0], 1)):
        return False
    return go_on is None or go_on.number is True


def _is_invariant(body: Graph, node: Node) -> bool:
    """Return True for a node that gives the same in each round, and no constant."""
    if node.op in ("const", "dims", "return") or node.graphs:
        return False
    if not node.spec.pure or node.spec.random:
        return False
    return all(is_the_same(body, value) for value in node.operands)


def _move_in_front(loop: Node, node: Node) -> None:
    """Move a node of a body in front of its loop, with the constants that it uses."""
    body = loop.graphs[0]
    op = Builder(loop.home, loop, node.loc, node.outputs[0].hint)
    inputs = [
        None if value is None else outside(op, body, value) for value in node.inputs
    ]
    body.unlink(node)
    loop.home.insert(node, before=loop)
    node.set_inputs(inputs)


# ------------------------------------------------------------------------------ products


def _is_product(scan: Scan, node: Node) -> bool:
    """Return True for a product with a matrix that does not change, of no more elements than is sensible."""
    if node.op != "onnx.MatMul":
        return False
    matrices = [
        value
        for value in node.operands
        if value.type.rank == 2 and scan.is_invariant(value)
    ]
    return len(matrices) == 1 and _is_small(scan, node.outputs)


def _is_small(scan: Scan, values: Iterable[Value]) -> bool:
    """Return True where values have no more elements than is sensible, compared with what a round reads."""
    return sum(map(elements_to_move, values)) <= MOST * scan.elements


def _hoist(scan: Scan) -> int:
    """Compute products of rows in front of a Scan; returns how many nodes went there."""
    if not scan.carried or len({one.is_backwards for one in scan.rows}) != 1:
        return 0
    rows = {one.row for one in scan.rows}
    known = computable(scan, rows)
    chosen = _with_products(scan, known)
    if not chosen:
        return 0
    stacks = {one.row: one.stack for one in scan.rows}
    write_batched(scan, chosen, stacks, scan.node)

    def stays(user: Node) -> bool:
        return user not in chosen

    direction = scan.rows[0].is_backwards
    for value in [one for node in chosen for one in node.outputs]:
        if any(map(stays, value.users())):
            row = scan.body.add_input(value.type, value.hint)
            value.replace_by(row, where=stays)
            scan.rows.append(ScannedRow(stacks[value], row, direction))
            scan.follow(value, row)
    write_scan(scan)
    return len(chosen)


def _with_products(scan: Scan, nodes: Mapping[Node, None]) -> dict[Node, None]:
    """Of nodes those that products need, the products, and those that need nothing else but these."""
    needed: set[Node] = set()
    for node in reversed(list(nodes)):
        if _is_product(scan, node) or any(u in needed for u in _users(node)):
            needed.add(node)
    chosen: dict[Node, None] = {}
    for node in nodes:
        sources = {
            value.node for value in node.operands if not scan.is_invariant(value)
        }
        if node in needed or sources <= chosen.keys():
            chosen[node] = None
    return chosen


def _users(node: Node) -> Iterable[Node]:
    """The nodes that use a result of a node."""
    for value in node.outputs:
        yield from value.users()


def _sink(scan: Scan) -> int:
    """Compute products of what a Scan stacks behind it; returns how many nodes went there."""
    directions = {one.is_backwards for one in (*scan.rows, *scan.stacked)}
    if not scan.carried or not scan.stacked or len(directions) != 1:
        return 0
    chosen = _behind(scan)
    if not chosen:
        return 0
    direction = directions.pop()
    stacks = {one.row: one.stack for one in scan.rows}
    op = Builder(scan.node.home, scan.node, scan.node.loc)
    for node in chosen:
        for value in node.operands:
            is_given = value in stacks or scan.is_invariant(value)
            if not is_given and value.node not in chosen:
                stacks[value] = _stack_of(scan, op, value, direction)
    # the new stacks stand for results that the Scan does not have yet
    ends = [one for one in scan.stacked if one.row.node in chosen]
    after = scan.node.next
    assert after is not None
    write_batched(scan, chosen, stacks, after)
    for one in ends:
        one.out.replace_by(stacks[one.row])
    scan.stacked = [one for one in scan.stacked if one.row.node not in chosen]
    write_scan(scan)
    return len(chosen)


def _stack_of(scan: Scan, op: Builder, value: Value, direction: int) -> Value:
    """What the Scan stacks of a value of its body, from now on if not before."""
    for one in scan.stacked:
        if one.row is value:
            return one.out
    length = scan.rows[0].stack.type.shape[0]
    type = value.type.with_shape((length, *value.type.shape))
    out = Value(type, scan.node, len(scan.stacked), value.hint)
    scan.stacked.append(Stacked(value, out, direction))
    return out


def _behind(scan: Scan) -> dict[Node, None]:
    """Products of which a body only stacks results, what follows them, and what they need of rows."""
    free = _only_stacked(scan)
    chosen: dict[Node, None] = {}
    for node in free:
        sources = [value for value in node.operands if not scan.is_invariant(value)]
        if node.op == "onnx.MatMul" and not multiplies_one(node, sources):
            continue
        follows = any(value.node in chosen for value in sources)
        if follows or _is_product(scan, node):
            chosen[node] = None
    for node in reversed(list(chosen)):
        if not _is_used_by(scan, node, chosen):
            del chosen[node]
    of_rows = computable(scan, {one.row for one in scan.rows})
    for node in reversed(free):
        users = set(_users(node))
        if node in of_rows and users and users <= chosen.keys():
            chosen[node] = None
    return {node: None for node in free if node in chosen}


def _only_stacked(scan: Scan) -> list[Node]:
    """The nodes with a rule that nothing but results that are stacked depends on, in order."""
    carried = {one.new for one in scan.carried}
    free: dict[Node, None] = {}
    for node in reversed(scan.body):
        if not has_rule(node) or carried & set(node.outputs):
            continue
        if _is_small(scan, node.outputs) and _is_used_by(scan, node, free):
            free[node] = None
    return [*reversed(free)]


def _is_used_by(scan: Scan, node: Node, nodes: Mapping[Node, None]) -> bool:
    """Return True where nothing but these nodes and the body's results use a node."""
    return all(user in nodes or user is scan.body.ret for user in _users(node))


def compute_at_once(scan: Scan) -> bool:
    """Compute all rounds of a Scan that carries nothing at once; returns False where that cannot be."""
    directions = {one.is_backwards for one in (*scan.rows, *scan.stacked)}
    if scan.carried or len(directions) != 1:
        return False
    stacks = {one.row: one.stack for one in scan.rows}
    needed = [node for node in scan.body if node.op not in ("const", "dims", "return")]
    known = computable(scan, set(stacks))
    if not all(node in known and _is_small(scan, node.outputs) for node in needed):
        return False
    if any(scan.is_invariant(one.row) for one in scan.stacked):
        return False
    write_batched(scan, needed, stacks, scan.node)
    for one in scan.stacked:
        one.out.replace_by(stacks[one.row])
    scan.node.erase()
    return True
