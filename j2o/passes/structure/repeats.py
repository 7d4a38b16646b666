"""Repeated blocks become functions: runs of nodes that follow one another, equal but for their weights and inputs.

The nodes of the graph in their order are a sequence of tokens (operation, attributes, types). A repeat of period p is a
run in which every token equals the one p places on; where it is cut into blocks, as few values as possible cross. Blocks
are compared node by node before one body replaces them.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict, deque
from collections.abc import Hashable, Iterator, Sequence
from typing import TypeAlias

from j2o.ir.graph import Graph, Node, Value, clone_node
from j2o.ir.types import exact_attrs
from j2o.passes.pipeline import graph_pass
from j2o.passes.structure.functions import Outliner, role

LEAST = 4  # nodes in a block
GAIN = 16  # nodes that a function must save
Block: TypeAlias = Sequence[Node]


@graph_pass("repeats", at="onnx", level=3, scope="root")
def repeats(graph: Graph) -> int:
    """Find blocks of nodes that repeat, and call one function for all of them."""
    count, functions = 0, Outliner(graph)
    while blocks := _find(graph):
        _outline(graph, blocks, functions)
        count += len(blocks)
    return count


def _find(graph: Graph) -> list[Block]:
    """Equal blocks that save the most; none where nothing saves enough."""
    nodes = [n for n in graph if n.op not in ("const", "dims", "return")]
    tokens = [_token(n) for n in nodes]
    crossing = _crossing(graph, nodes)
    runs = sorted(_runs(tokens), key=lambda run: -run[1] * (run[2] // run[1]))
    for start, period, length in runs[:8]:
        cuts = _cuts(start, period, length, crossing)
        groups: dict[Hashable, list[Block]] = defaultdict(list)
        for a in cuts[:-1]:
            block = nodes[a : a + period]
            groups[_shape(block)].append(block)
        best = max(groups.values(), key=len)
        if period * (len(best) - 1) >= GAIN:
            return best
    return []


def _token(node: Node) -> Hashable:
    if node.graphs or not node.spec.pure or node.spec.random:
        return node  # equal to nothing else
    operands = tuple(None if v is None else (_content(v), v.type) for v in node.inputs)
    return (
        node.op,
        exact_attrs(node.attrs),
        operands,
        tuple(v.type for v in node.outputs),
    )


def _content(value: Value) -> Hashable:
    """What stays inside of a function: sizes, and numbers without a name; None for what becomes an input."""
    if value.op == "dims":
        return value.known
    tensor = value.const
    return (
        None
        if tensor is None or tensor.name or (tensor.shape and not tensor.dtype.is_int)
        else tensor
    )


def _runs(tokens: Sequence[Hashable]) -> Iterator[tuple[int, int, int]]:
    """(start, period, length) of the runs in which a token equals the one a period on, of at least one period."""
    recent: dict[Hashable, deque[int]] = defaultdict(lambda: deque(maxlen=4))
    distances: Counter[int] = Counter()
    for i, token in enumerate(tokens):
        distances.update(i - k for k in recent[token])
        recent[token].append(i)
    for period in [d for d, _ in distances.most_common(24) if d >= LEAST]:
        length = 0
        for i in range(period, len(tokens) + 1):
            if i < len(tokens) and tokens[i] == tokens[i - period]:
                length += 1
            else:
                if length >= period:
                    yield i - period - length, period, length
                length = 0


def _crossing(graph: Graph, nodes: Sequence[Node]) -> list[int]:
    """For every place between nodes, how many values are made before it and used behind it."""
    number = {n: i for i, n in enumerate(nodes)}
    change = [0] * (len(nodes) + 2)
    for i, node in enumerate(nodes):
        for value in node.outputs:
            last = max(
                (number.get(_here(u, graph), len(nodes)) for u in value.users()),
                default=i,
            )
            change[i + 1] += 1
            change[last + 1] -= 1
    return list(itertools.accumulate(change))


def _here(node: Node, graph: Graph) -> Node:
    """The node of `graph` in whose regions a user of one of its values stands."""
    while node.graph is not graph:
        node = node.graph.parent  # type: ignore[union-attr, assignment]
    return node


def _cuts(start: int, period: int, length: int, crossing: Sequence[int]) -> list[int]:
    """Where to cut a run: at the phase at which the fewest values cross; one block less where that is better."""
    end = start + length + period
    options = []
    for phase in range(period):
        cuts = list(range(start + phase, end + 1, period))
        if len(cuts) > 2:
            options.append(
                (sum(crossing[c] for c in cuts) / len(cuts), -len(cuts), cuts)
            )
    return min(options)[2] if options else [start, start + period, start + 2 * period]


def _operands(block: Block) -> tuple[list[list[Value | int | None]], list[Value]]:
    """The operands of every node, numbers standing for values from outside; and these values in their order.

    A constant counts at each use: that a block uses one twice, such as a bias of zeros, is chance.
    """
    inside = {v for n in block for v in n.outputs}
    outside: list[Value] = []
    numbers: dict[Value, int] = {}

    def operand(value: Value | None) -> Value | int | None:
        if value is None or value in inside or _content(value) is not None:
            return value
        if value not in numbers or value.const is not None:
            numbers[value] = len(outside)
            outside.append(value)
        return numbers[value]

    return [[operand(v) for v in n.inputs] for n in block], outside


def _shape(block: Block) -> Hashable:
    """What a block is but for the values that come from outside."""
    inside = {v: i for i, v in enumerate(v for n in block for v in n.outputs)}
    rows = _operands(block)[0]
    # a token has the contents of sizes and numbers; what is left are the places that values come from

    def place(operand: Value | int | None) -> Hashable:
        if isinstance(operand, int):
            return operand, "outside"
        return None if operand is None else inside.get(operand)

    places = tuple(tuple(map(place, row)) for row in rows)
    return tuple(map(_token, block)), places


def _outline(graph: Graph, blocks: Sequence[Block], functions: Outliner) -> None:
    """Replace blocks of one shape by calls of one function."""
    results = sorted({r for block in blocks for r in _used_outside(block)})
    first, body = blocks[0], Graph("block")
    rows, outside = _operands(first)
    inputs = [body.add_input(v.type, role(v)) for v in outside]
    values: dict[Value, Value] = {}
    for node, row in zip(first, rows, strict=True):
        for v in row:
            if isinstance(v, Value) and v not in values:
                body.insert(clone_node(v.node, values))  # type: ignore[arg-type]  # a size or number of its own
        copy = body.insert(clone_node(node, values))
        copy.set_inputs([inputs[v] if type(v) is int else v and values[v] for v in row])  # type: ignore[index]
    body.set_outputs([values[first[i].outputs[k]] for i, k in results])
    function = functions.shared(body, "block")
    for block in blocks:
        outs = [block[i].outputs[k] for i, k in results]
        types, hints = [v.type for v in outs], [v.hint for v in outs]
        call = Node(
            "call",
            _operands(block)[1],
            types,
            {"function": function.name},
            (),
            block[0].loc,
            hints,
        )
        graph.insert(call, before=block[-1].next)
        for old, new in zip(outs, call.outputs, strict=True):
            old.replace_by(new)
        for node in reversed(block):
            node.erase()


def _used_outside(block: Block) -> Iterator[tuple[int, int]]:
    own = set(block)
    for i, node in enumerate(block):
        for k, value in enumerate(node.outputs):
            if any(user not in own for user in value.users()):
                yield i, k
