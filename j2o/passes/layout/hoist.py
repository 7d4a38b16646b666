"""What a Scan does in each round that can be done once: `invariants`, `sink` and `hoist`.

`invariants` moves what is the same in each round in front of the Scan. `hoist` computes products of rows
with a matrix that does not change for all rows at once, in front of the Scan. `sink` computes such
products of what the Scan would only stack, behind it. What leads to such products goes with them, and so
does what follows them.

A Scan runs at least once, so nothing is computed that would not be, and nothing raises that would not.
Memory for all rows of a product may be much: a product that has many times the elements that a round
reads and carries stays. So does a Scan that carries nothing: programs map in a loop to save memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.ops import REDUCTIONS
from j2o.ir.types import Dim, Type
from j2o.passes.layout.perms import elements_to_move, perm_of
from j2o.passes.layout.scans import (
    Scan,
    ScannedRow,
    Stacked,
    read_scan,
    scans_along_first,
    write_scan,
)
from j2o.passes.pipeline import graph_pass

MOST = 8  # how many times the elements of a round a product may have

Stacks: TypeAlias = "dict[Value, Value]"  # for a value of the body that of all rounds


@graph_pass("invariants", at="onnx", level=2)
def invariants(graph: Graph) -> int:
    """Move what is the same in each round in front of a Scan."""
    count = 0
    for node in scans_along_first(graph):
        scan = read_scan(node)
        for inner in scan.body:
            if _is_invariant(scan, inner):
                _move_in_front(scan, inner)
                count += 1
    return count


@graph_pass("sink", at="onnx", level=2)
def sink(graph: Graph) -> int:
    """Products of what a Scan stacks, behind it."""
    return sum(_sink(read_scan(node)) for node in scans_along_first(graph))


@graph_pass("hoist", at="onnx", level=2)
def hoist(graph: Graph) -> int:
    """Products of what a Scan reads, in front of it."""
    return sum(_hoist(read_scan(node)) for node in scans_along_first(graph))


# --------------------------------------------------------------------------- invariants


def _is_invariant(scan: Scan, node: Node) -> bool:
    """Return True for a node that gives the same in each round, and no constant."""
    if node.op in ("const", "dims", "return") or node.graphs:
        return False
    if not node.spec.pure or node.spec.random:
        return False
    return all(map(scan.is_invariant, node.operands))


def _move_in_front(scan: Scan, node: Node) -> None:
    """Move a node of a body in front of the Scan, with the constants that it uses."""
    op = Builder(scan.node.home, scan.node, node.loc, node.outputs[0].hint)
    inputs = [
        None if value is None else _outside(op, scan, value) for value in node.inputs
    ]
    scan.body.unlink(node)
    scan.node.home.insert(node, before=scan.node)
    node.set_inputs(inputs)


def _outside(op: Builder, scan: Scan, value: Value) -> Value:
    """A value that is the same in each round, in front of the Scan."""
    if value.graph is not scan.body:
        return value
    if value.op == "dims":
        assert value.known is not None
        return op.dims(value.known)
    assert value.const is not None
    return op.const(value.const)


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
    for value in [one for node in chosen for one in node.outputs]:
        if any(user not in chosen for user in value.users()):
            row = scan.body.add_input(value.type, value.hint)
            value.replace_by(row, where=lambda user: user not in chosen)
            scan.rows.append(ScannedRow(stacks[value], row, scan.rows[0].is_backwards))
            scan.follow(value, row)
    write_scan(scan)
    return len(chosen)


def computable(scan: Scan, given: set[Value]) -> dict[Node, None]:
    """The nodes of a body that can be computed for all rounds at once of `given` alone, in order."""
    known = set(given)
    found: dict[Node, None] = {}
    for node in scan.body:
        if _is_batched(scan, node, known):
            found[node] = None
            known.update(node.outputs)
    return found


def _is_batched(scan: Scan, node: Node, known: set[Value]) -> bool:
    """Return True where a node has a rule, and what it uses is known for all rounds or does not change."""
    varying = [value for value in node.operands if not scan.is_invariant(value)]
    if not varying or not known.issuperset(varying):
        return False
    return _rule(node) is not None and (
        node.op != "onnx.MatMul" or _is_of_one(node, varying)
    )


def _is_of_one(node: Node, varying: Sequence[Value]) -> bool:
    """Return True for a MatMul of one tensor that changes, with an axis for rounds in front as without."""
    rank = max(value.type.rank for value in node.operands)
    return len(varying) == 1 and varying[0].type.rank == rank


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
        if node.op == "onnx.MatMul" and not _is_of_one(node, sources):
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
        if _rule(node) is None or carried & set(node.outputs):
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


# ------------------------------------------------------------- nodes for all rounds at once


def write_batched(
    scan: Scan, nodes: Iterable[Node], stacks: Stacks, before: Node
) -> None:
    """Compute nodes for all rounds at once; `stacks` has what they use, and learns what they give."""
    length = scan.rows[0].stack.type.shape[0]
    for node in nodes:
        op = Builder(scan.node.home, before, node.loc, node.outputs[0].hint)
        rule = _rule(node)
        assert rule is not None
        results = rule(_Batch(op, scan, node, stacks, length))
        stacks.update(zip(node.outputs, results, strict=True))


class _Batch:
    """One node that is computed for all rounds at once."""

    def __init__(
        self, op: Builder, scan: Scan, node: Node, stacks: Stacks, length: Dim
    ) -> None:
        self.op = op
        self.scan = scan
        self.node = node
        self.stacks = stacks
        self.length = length

    def operand(self, index: int) -> Value:
        """An operand, of all rounds if it changes."""
        return self._of(self.node.operand(index))

    def _of(self, value: Value) -> Value:
        if value in self.stacks:
            return self.stacks[value]
        return _outside(self.op, self.scan, value)

    def wide(self, value: Value | None) -> Value | None:
        """An operand of an elementwise node: the axes of a round stand where those of the result stand."""
        if value is None or value not in self.stacks:
            return None if value is None else self._of(value)
        missing = self.node.out.type.rank - value.type.rank
        shape = (self.length, *[1] * missing, *value.type.shape)
        return self.op.reshape(self.stacks[value], shape)

    def types(self) -> list[Type]:
        """The types of the results."""
        return [
            value.type.with_shape((self.length, *value.type.shape))
            for value in self.node.outputs
        ]


def _elementwise(batch: _Batch) -> tuple[Value, ...]:
    node = batch.node
    operands = [batch.wide(value) for value in node.inputs]
    return batch.op.node(node.op, operands, node.attrs, batch.types()).outputs


def _matmul(batch: _Batch) -> tuple[Value, ...]:
    """A matrix that does not change goes to the right: there it multiplies all rounds in one product."""
    op, first, second = batch.op, batch.operand(0), batch.operand(1)
    (type,) = batch.types()
    if first.type.rank > 2 or second.type.rank != 3:
        return op.node("onnx.MatMul", [first, second], {}, [type]).outputs
    product = op.MatMul(op.transpose(second, (0, 2, 1)), op.transpose(first, (1, 0)))
    return (op.transpose(product, (0, 2, 1)),)


def _transpose(batch: _Batch) -> tuple[Value, ...]:
    perm = perm_of(batch.node)
    assert perm is not None
    order = (0, *(axis + 1 for axis in perm))
    return (batch.op.transpose(batch.operand(0), order),)


def _reshape(batch: _Batch) -> tuple[Value, ...]:
    (type,) = batch.types()
    return (batch.op.reshape(batch.operand(0), type.shape),)


def _split(batch: _Batch) -> tuple[Value, ...]:
    """The axis of a Split, with that of the rounds in front."""
    node = batch.node
    axis = node.int_attr("axis", 0) % node.operand(0).type.rank + 1
    operands = [batch.operand(0), batch.operand(1)]
    attrs = {"axis": axis}
    return batch.op.node("onnx.Split", operands, attrs, batch.types()).outputs


def _slice(batch: _Batch) -> tuple[Value, ...]:
    """The axes count behind that of the rounds; `_rule` has seen that they are known."""
    node, op = batch.node, batch.op
    axes = node.operand(3).known_ints
    assert axes is not None
    rank = node.out.type.rank
    shifted = op.dims([axis % rank + 1 for axis in axes])
    operands = [batch.operand(0), batch.operand(1), batch.operand(2), shifted]
    if len(node.inputs) > 4:
        operands.append(batch.operand(4))
    return op.node("onnx.Slice", operands, {}, batch.types()).outputs


def _gather(batch: _Batch) -> tuple[Value, ...]:
    """The indices are constants; `_rule` has seen that."""
    node = batch.node
    axis = node.int_attr("axis", 0) % node.operand(0).type.rank + 1
    operands = [batch.operand(0), batch.operand(1)]
    return batch.op.node("onnx.Gather", operands, {"axis": axis}, batch.types()).outputs


def _softmax(batch: _Batch) -> tuple[Value, ...]:
    node = batch.node
    axis = node.int_attr("axis", -1) % node.out.type.rank + 1
    attrs = {**node.attrs, "axis": axis}
    return batch.op.node(node.op, [batch.operand(0)], attrs, batch.types()).outputs


def _reduction(batch: _Batch) -> tuple[Value, ...]:
    """The axes count behind that of the rounds; `_rule` has seen that they are known."""
    node = batch.node
    axes = node.operand(1).known_ints
    assert axes is not None
    rank = node.operand(0).type.rank
    shifted = batch.op.dims([axis % rank + 1 for axis in axes])
    operands = [batch.operand(0), shifted]
    return batch.op.node(node.op, operands, node.attrs, batch.types()).outputs


Rule: TypeAlias = Callable[[_Batch], "tuple[Value, ...]"]
RULES: dict[str, Rule] = {
    "onnx.LogSoftmax": _softmax,
    "onnx.MatMul": _matmul,
    "onnx.Reshape": _reshape,
    "onnx.Slice": _slice,
    "onnx.Softmax": _softmax,
    "onnx.Split": _split,
    "onnx.Squeeze": _reshape,
    "onnx.Transpose": _transpose,
    "onnx.Unsqueeze": _reshape,
}


def _rule(node: Node) -> Rule | None:
    """How a node is computed for all rounds at once; None where it is not."""
    if node.op == "onnx.Slice":
        return _slice if _knows_axes(node, 3) else None
    if node.op == "onnx.Gather":
        return None if node.operand(1).known_ints is None else _gather
    if node.op in REDUCTIONS:
        return _reduction if _knows_axes(node, 1) else None
    if node.op == "onnx.Split" and len(node.operands) < 2:
        return None
    if node.spec.elementwise:
        return _elementwise
    return RULES.get(node.op)


def _knows_axes(node: Node, index: int) -> bool:
    """Return True where an operand lists axes."""
    axes = node.optional(index)
    return axes is not None and bool(axes.known_ints)
