"""Repeated blocks become functions: runs of nodes that are equal but for their weights and inputs.

    Relu(MatMul(Relu(MatMul(x, w1)), w2))   becomes   @block(@block(x, w1), w2), for longer blocks

The nodes of the graph in their order are a sequence of tokens (operation, attributes, types). A repeat of
period p is a run in which every token equals the one p places on. It is cut into blocks where as few
values as possible cross. Blocks are compared node by node before one body replaces them.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict, deque
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from j2o.ir.copies import clone_node
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.scopes import equal_steps, own_scope, placed
from j2o.ir.types import exact_attrs
from j2o.passes.context import Context
from j2o.passes.pipeline import graph_pass
from j2o.passes.structure.functions import Outliner, call_of, role

LEAST = 4  # nodes in a block
GAIN = 16  # nodes that a function must save
RECENT = 4  # equal tokens before one that are looked at
PERIODS = 24  # distances between equal tokens that are tried, the most frequent first
RUNS = 8  # runs that are cut into blocks, the longest first
Block: TypeAlias = Sequence[Node]
# an operand: a value of the block itself, the number of one from outside, or None where it is left out
Operand: TypeAlias = "Value | int | None"


class Run(NamedTuple):
    """`length` tokens from `start` on equal the one `period` places on; `length` is a period or more."""

    start: int
    period: int
    length: int

    @property
    def saved(self) -> int:
        """Nodes that one function for all of its blocks saves, at most."""
        return self.period * (self.length // self.period)


@graph_pass("repeats", at="onnx", level=3, scope="root")
def repeats(graph: Graph, context: Context) -> int:
    """Find blocks of nodes that repeat, and call one function for all of them."""
    if context.target is not None and not context.target.functions:
        return 0
    count = 0
    functions = Outliner(graph)
    while blocks := _find(graph):
        _outline(graph, blocks, functions)
        count += len(blocks)
    return count


def _find(graph: Graph) -> list[Block]:
    """Equal blocks that save the most; none where nothing saves enough."""
    nodes = [n for n in graph if n.op not in ("const", "dims", "return")]
    tokens = [_token(n) for n in nodes]
    crossing = _crossing(graph, nodes)
    runs = sorted(_runs(tokens), key=lambda run: -run.saved)
    for run in runs[:RUNS]:
        cuts = _cuts(run, crossing)
        groups: dict[Hashable, list[Block]] = defaultdict(list)
        for start in cuts[:-1]:
            block = nodes[start : start + run.period]
            groups[_form(block)].append(block)
        best = max(groups.values(), key=len)
        if run.period * (len(best) - 1) >= GAIN:
            return best
    return []


# ---------------------------------------------------------------------------------------------- finding runs


def _token(node: Node) -> Hashable:
    """What two nodes must have in common to stand in for each other; the node itself where none can."""
    if node.graphs or not node.spec.pure or node.spec.random:
        return node
    operands = tuple(None if v is None else (_content(v), v.type) for v in node.inputs)
    results = tuple(v.type for v in node.outputs)
    return node.op, exact_attrs(node.attrs), operands, results


def _content(value: Value) -> Hashable:
    """What stays inside of a function: sizes, and numbers without a name; None for what becomes an input."""
    if value.op == "dims":
        return value.known
    tensor = value.const
    if tensor is None or tensor.name:
        return None
    is_number = not tensor.shape or tensor.dtype.is_int
    return tensor if is_number else None


def _runs(tokens: Sequence[Hashable]) -> Iterator[Run]:
    """The runs in which a token equals the one a period on, of at least one period."""
    for period in _periods(tokens):
        length = 0
        for i in range(period, len(tokens) + 1):
            if i < len(tokens) and tokens[i] == tokens[i - period]:
                length += 1
            else:
                if length >= period:
                    yield Run(i - period - length, period, length)
                length = 0


def _periods(tokens: Sequence[Hashable]) -> list[int]:
    """The most frequent distances between equal tokens."""
    recent: dict[Hashable, deque[int]] = defaultdict(lambda: deque(maxlen=RECENT))
    distances: Counter[int] = Counter()
    for i, token in enumerate(tokens):
        distances.update(i - before for before in recent[token])
        recent[token].append(i)
    frequent = distances.most_common(PERIODS)
    return [distance for distance, _ in frequent if distance >= LEAST]


# ------------------------------------------------------------------------------------- cutting them to blocks


def _crossing(graph: Graph, nodes: Sequence[Node]) -> list[int]:
    """For every place between nodes, how many values are made before it and used behind it."""
    number = {node: i for i, node in enumerate(nodes)}
    change = [0] * (len(nodes) + 2)
    for i, node in enumerate(nodes):
        for value in node.outputs:
            users = [_here(user, graph) for user in value.users()]
            places = [number.get(user, len(nodes)) for user in users]
            last = max(places, default=i)
            change[i + 1] += 1
            change[last + 1] -= 1
    return list(itertools.accumulate(change))


def _here(node: Node, graph: Graph) -> Node:
    """The node of `graph` in whose regions a user of one of its values stands."""
    while node.home is not graph:
        parent = node.home.parent
        assert parent is not None
        node = parent
    return node


def _cuts(run: Run, crossing: Sequence[int]) -> list[int]:
    """Where to cut a run: at the phase where the fewest values cross; one block less where that is better."""
    start, period, length = run
    end = start + length + period
    options: list[list[int]] = []
    for phase in range(period):
        cuts = list(range(start + phase, end + 1, period))
        if len(cuts) > 2:
            options.append(cuts)
    if not options:
        return [start, start + period, start + 2 * period]

    def cost(cuts: list[int]) -> tuple[float, int, list[int]]:
        """What crosses on average; of equal ones more blocks, and of these the first, are better."""
        mean = sum(crossing[cut] for cut in cuts) / len(cuts)
        return mean, -len(cuts), cuts

    return min(options, key=cost)


# ----------------------------------------------------------------------------- comparing and replacing blocks


class Wiring(NamedTuple):
    """The operands of each node of a block; numbers stand for values from outside, which are in order."""

    rows: list[list[Operand]]
    outside: list[Value]


def _wiring(block: Block) -> Wiring:
    """Where the operands of a block come from.

    A constant counts at each use: that a block uses one twice, such as a bias of zeros, is chance.
    """
    inside = {v for n in block for v in n.outputs}
    outside: list[Value] = []
    numbers: dict[Value, int] = {}

    def operand(value: Value | None) -> Operand:
        if value is None or value in inside or _content(value) is not None:
            return value
        if value not in numbers or value.const is not None:
            numbers[value] = len(outside)
            outside.append(value)
        return numbers[value]

    rows = [[operand(value) for value in node.inputs] for node in block]
    return Wiring(rows, outside)


def _form(block: Block) -> Hashable:
    """What a block is but for the values that come from outside.

    Tokens have the contents of sizes and numbers; what is left are the places that values come from.
    """
    made = [value for node in block for value in node.outputs]
    inside = {value: i for i, value in enumerate(made)}

    def place(operand: Operand) -> Hashable:
        if isinstance(operand, int):
            return operand, "outside"
        return None if operand is None else inside.get(operand)

    places = tuple(tuple(map(place, row)) for row in _wiring(block).rows)
    return tuple(map(_token, block)), places


class Result(NamedTuple):
    """A place in a block: one output of one node."""

    node: int
    output: int

    def of(self, block: Block) -> Value:
        return block[self.node].outputs[self.output]


def _outline(graph: Graph, blocks: Sequence[Block], functions: Outliner) -> None:
    """Replace blocks of one form by calls of one function."""
    results = sorted({result for block in blocks for result in _used_outside(block)})
    steps = _steps_of_block(*blocks[:2])
    function = functions.shared(_body(blocks[0], results, steps), "block")
    for block in blocks:
        old_values = [result.of(block) for result in results]
        operands = _wiring(block).outside
        first = block[0]
        loc = placed(first.loc, own_scope(first.loc)[: steps[0]])
        call = call_of(function, operands, old_values, loc)
        graph.insert(call, before=block[-1].next)
        for old, new in zip(old_values, call.outputs, strict=True):
            old.replace_by(new)
        for node in reversed(block):
            node.erase()


def _steps_of_block(block: Block, next_block: Block) -> list[int]:
    """For each node, how many steps of its scope tell blocks apart: those up to the first that differs.

    All of them, where none does.
    """
    found: list[int] = []
    for node, other in zip(block, next_block, strict=True):
        scope = own_scope(node.loc)
        equal = equal_steps(scope, own_scope(other.loc))
        found.append(min(equal + 1, len(scope)))
    return found


def _body(block: Block, results: Sequence[Result], steps: Sequence[int]) -> Graph:
    """A function of what comes from outside that does what a block does.

    Its nodes lose so many steps of their scopes: its calls stand in these.
    """
    body = Graph("block")
    rows, outside = _wiring(block)
    inputs = [body.add_input(value.type, role(value)) for value in outside]
    values: dict[Value, Value] = {}  # of the block → of the body

    def operand(place: Operand) -> Value | None:
        if isinstance(place, int):
            return inputs[place]
        return None if place is None else values[place]

    for node, row, own_steps in zip(block, rows, steps, strict=True):
        for value in row:
            # a size or number that is made before the block gets a copy of its own
            if isinstance(value, Value) and value not in values:
                body.insert(clone_node(value.producer, values))
        copy = body.insert(clone_node(node, values))
        copy.loc = placed(node.loc, own_scope(node.loc)[own_steps:])
        copy.set_inputs([operand(place) for place in row])
    body.set_outputs([values[result.of(block)] for result in results])
    return body


def _used_outside(block: Block) -> Iterator[Result]:
    """What nodes that are not of the block use of it."""
    own = set(block)
    for i, node in enumerate(block):
        for k, value in enumerate(node.outputs):
            if any(user not in own for user in value.users()):
                yield Result(i, k)
