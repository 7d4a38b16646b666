"""What `cells` has found, as nodes: LSTM, GRU or RNN in front of a Scan, and what is left of the Scan.

onnxruntime's LSTM and GRU take a NaN for a large number where they have an operand B. So biases go into W,
as the weights of an input that is 1. A GRU with a bias behind its r has no other way than B.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from j2o.ir import dims
from j2o.ir.build import Builder
from j2o.ir.graph import Node, Value
from j2o.ir.types import Attr, Dim, DType, Type, is_one, same_shape
from j2o.passes.clean.shapes import RESHAPES
from j2o.passes.layout.hoist import (
    computable,
    compute_at_once,
    write_batched,
)
from j2o.passes.layout.scans import Row, read_scan, write_scan
from j2o.passes.layout.transposes import perm_of
from j2o.passes.recover.linear_forms import Bias, Term, is_zero

LAST = 2**63 - 1  # as the end of a Slice that runs backwards: behind the first element
MOST_RUNS = 16  # parts of a weight that are put together; more are gathered


class Gate(NamedTuple):
    """One gate: terms of rows, terms of h, biases, and those that a GRU adds before it multiplies by r.

    With `is_negated`, the gate is the function of the opposite of their sum.
    """

    inputs: tuple[Term, ...]
    recurrent: tuple[Term, ...]
    biases: tuple[Bias, ...]
    inner_biases: tuple[Bias, ...] = ()
    is_negated: bool = False


class Cell(NamedTuple):
    """A cell of the body: its operator, the places of h and c among what is carried, h', and its gates."""

    op: str
    state: int
    memory: int | None
    new: Value
    gates: tuple[Gate, ...]
    attrs: Mapping[str, Attr]

    @property
    def places(self) -> set[int]:
        """The places of its states among what is carried."""
        return {self.state} if self.memory is None else {self.state, self.memory}


class Input(NamedTuple):
    """A stack of rows in front of the Scan, in another order of axes where `perm` is there."""

    value: Value
    perm: tuple[int, ...] | None = None


class Read(NamedTuple):
    """A term of rows as what is computed in front of the Scan: `input @ weight + biases`."""

    input: Input
    term: Term
    biases: tuple[Bias, ...] = ()


def plain(value: Value) -> Value:
    """What a value is but for axes of size 1."""
    while (node := value.node) is not None and node.op in RESHAPES:
        source = node.operand(0)
        if not same_sizes(value.type, source.type):
            break
        value = source
    return value


def same_sizes(one: Type, other: Type) -> bool:
    """Return True for the same shape but for axes of size 1."""
    first = [size for size in one.shape if not is_one(size)]
    second = [size for size in other.shape if not is_one(size)]
    return same_shape(tuple(first), tuple(second))


# ------------------------------------------------------------------------------ the loop


class Loop:
    """A Scan, and what its body reads, carries and gives."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.body = node.graphs[0]
        self.row_count = node.int_attr("num_scan_inputs")
        self.state_count = len(self.body.inputs) - self.row_count
        self.states = self.body.inputs[: self.state_count]
        self.rows = self.body.inputs[self.state_count :]
        self.new_states = [plain(v) for v in self.body.outputs[: self.state_count]]
        self.scan = read_scan(node)
        # what is known for all rounds before the loop runs, if its cells are
        known = {*self.rows, *self.new_states}
        self.computable = computable(self.scan, known)
        stacked = len(self.body.outputs) - self.state_count
        self.read_backwards = node.ints_attr(
            "scan_input_directions", (0,) * self.row_count
        )
        self.written_backwards = node.ints_attr(
            "scan_output_directions", (0,) * stacked
        )

    @property
    def length(self) -> Dim:
        """The number of steps."""
        return self.node.operand(self.state_count).type.shape[0]

    def carry_of(self, value: Value) -> int | None:
        """The place at which the body carries a value on."""
        if value not in self.new_states:
            return None
        return self.new_states.index(value)

    def is_backwards(self, row: Value) -> int:
        """1 where rows are read from the end."""
        return self.read_backwards[row.index - self.state_count]

    def reads(self, term: Term) -> Read | None:
        """A term as what is computed in front of the Scan; None where it is none of rows.

        An h' counts as a row: its cell may stand in front of the Scan, too. So does what is made of these.
        """
        source = term.source
        if source in self.new_states or source.node in self.computable:
            return Read(Input(source), term) if term.weight is not None else None
        if source not in self.rows:
            return None
        stacked = self.node.operand(source.index)
        if term.weight is not None:
            return Read(Input(stacked), term)
        return _product_in_front(stacked, term)

    def direction(self, cell: Cell, others: Mapping[Value, int]) -> int | None:
        """1 for a cell that runs from the end, 0 from the start; None where its inputs do not agree.

        `others` has the directions of cells in front of it, by their h'.
        """
        found: set[int | None] = set()
        for gate in cell.gates:
            for term in gate.inputs:
                for value in self.origins(term.source):
                    is_row = value in self.rows
                    found.add(self.is_backwards(value) if is_row else others.get(value))
        return found.pop() if len(found) == 1 else None

    def origins(self, value: Value) -> list[Value]:
        """The rows and h' that a value is computed of."""
        return [one for one in self.path(value) if self._is_origin(one)]

    def path(self, value: Value) -> dict[Value, None]:
        """A value, and what it is computed of, back to rows and h'."""
        found: dict[Value, None] = {}
        stack = [value]
        while stack:
            one = stack.pop()
            if one in found or self.scan.is_invariant(one):
                continue
            found[one] = None
            if not self._is_origin(one):
                stack += one.producer.operands
        return found

    def _is_origin(self, value: Value) -> bool:
        return value in self.new_states or value.node not in self.computable

    def can_write(self, cell: Cell, cells: Sequence[Cell]) -> bool:
        """Return True where all that a cell reads is there, and it multiplies its state by something."""
        is_recurrent = any(gate.recurrent for gate in cell.gates)
        return is_recurrent and cell.new in self.directions(cells)

    def inner_values(self, cell: Cell) -> set[Value]:
        """The values that nothing else may use: the old h and c, and the new c."""
        values = {self.states[place] for place in cell.places}
        if cell.memory is not None:
            values.add(self.new_states[cell.memory])
        return values

    def needed(self, cells: Sequence[Cell]) -> set[Value]:
        """The values of the body that what is left of it needs when cells go, h' at the end of the search."""
        news = {cell.new for cell in cells}
        stack = [value for _, value in self.left(cells)]
        found: set[Value] = set()
        while stack:
            value = stack.pop()
            if value in found:
                continue
            found.add(value)
            is_inside = value.node is not None and value.graph is self.body
            if is_inside and value not in news:
                stack += _used_by(value.producer)
        return found

    def left(self, cells: Sequence[Cell]) -> list[tuple[int, Value]]:
        """The results of the body, with their places, that cells do not give by themselves."""
        gone = {place for cell in cells for place in cell.places}
        news = {cell.new for cell in cells}
        left: list[tuple[int, Value]] = []
        for place, value in enumerate(self.body.outputs):
            new = plain(value)
            if place < self.state_count:
                is_left = place not in gone
            else:
                is_left = new not in news
            if is_left:
                left.append((place, value))
        return left

    def directions(self, cells: Sequence[Cell]) -> dict[Value, int]:
        """For the h' of each cell the direction in which it runs."""
        found: dict[Value, int] = {}
        for cell in cells:
            direction = self.direction(cell, found)
            if direction is not None:
                found[cell.new] = direction
        return found


def _used_by(node: Node) -> Iterable[Value]:
    """The values that a node uses, in its regions too."""
    yield from node.operands
    for region in node.graphs:
        for inner in region.walk():
            yield from inner.operands


def _product_in_front(stacked: Value, term: Term) -> Read | None:
    """Rows that are a product computed in front of the Scan, as their factors; `term` has its columns."""
    perm = None
    biases: list[Bias] = []
    value = stacked
    while (node := value.node) is not None and len(value.uses) == 1:
        order = perm_of(node)
        if order is not None and perm is None and order[-1] == len(order) - 1:
            perm, value = order, node.operand(0)
            continue
        if node.op == "onnx.MatMul" and node.operand(1).type.rank == 2:
            weight = node.operand(1)
            if not weight.type.is_static or node.operand(0).type.rank != len(
                stacked.type.shape
            ):
                return None
            rows = (0, weight.type.static_shape[0])
            whole = replace(term, weight=weight, rows=rows)
            return Read(Input(node.operand(0), perm), whole, tuple(biases))
        added = _added_row(node)
        if added is None:
            return None
        value, bias = added
        columns = term.columns if bias.type.size != 1 else np.zeros_like(term.columns)
        biases.append(Bias(bias, columns))
    return None


def _added_row(node: Node) -> tuple[Value, Value] | None:
    """Of a sum with one constant number or vector, the other operand and the constant."""
    if node.op != "onnx.Add":
        return None
    first, second = node.operands
    value, bias = (second, first) if second.const is None else (first, second)
    tensor = bias.const
    if tensor is None or value.type != node.out.type:
        return None
    is_row = tensor.size == 1 or tensor.size == tensor.shape[-1]
    return (value, bias) if is_row else None


# ------------------------------------------------------------------------------- writing


@dataclass
class _Writer:
    """Writes the cells of one loop; `stacks` has for each h' all of them, `results` what the Scan gives."""

    loop: Loop
    directions: dict[Value, int]
    stacks: dict[Value, Value]
    results: dict[int, Value] = field(default_factory=dict)

    def write(self, cell: Cell) -> None:
        loop, node = self.loop, self.loop.node
        state = loop.states[cell.state]
        op = Builder(node.home, node, cell.new.producer.loc, cell.new.hint)
        batch = dims.prod(state.type.shape[:-1])
        size = state.type.shape[-1]
        length = loop.length
        assert type(size) is int
        parameters = _Parameters(op, self, cell, size)
        x = op.reshape(parameters.x, (length, batch, parameters.x.type.shape[-1]))
        rows, final = (length, 1, batch, size), (1, batch, size)
        operands = [x, parameters.w, parameters.r, parameters.b, None]
        for place in (cell.state, cell.memory):
            if place is not None:
                operands.append(self._first(op, place, final))
        while operands[-1] is None:
            operands.pop()
        attrs: dict[str, Attr] = {"hidden_size": size, **cell.attrs}
        if self.directions[cell.new]:
            attrs["direction"] = "reverse"
        shapes = (rows, final, final)[: 2 if cell.memory is None else 3]
        types = [Type(DType.F32, shape) for shape in shapes]
        every, *last = op.node(cell.op, operands, attrs, types).outputs
        shape = (length, *cell.new.type.shape)
        self.stacks[cell.new] = op.reshape(every, shape)
        places = (cell.state, cell.memory)
        for place, value in zip(places, last, strict=False):
            assert place is not None
            type_ = loop.states[place].type
            self.results[place] = op.reshape(value, type_.shape)

    def _first(self, op: Builder, place: int, shape: tuple[Dim, ...]) -> Value | None:
        """The state that a loop begins with; None for zeros."""
        value = self.loop.node.operand(place)
        return None if is_zero(value) else op.reshape(value, shape)

    def written(self, place: int) -> Value:
        """What the Scan stacked of an h', in its direction."""
        loop, old = self.loop, self.loop.node.outputs[place]
        new = plain(loop.body.outputs[place])
        stack = self.stacks[new]
        op = Builder(loop.node.home, loop.node, loop.node.loc, stack.hint)
        if loop.written_backwards[place - loop.state_count] != self.directions[new]:
            stack = op.Slice(stack, *map(op.dims, ((-1,), (-LAST,), (0,), (-1,))))
        return op.reshape(stack, old.type.shape)

    def stack(self, op: Builder, input: Input) -> Value:
        """The rows of an input, one behind the other."""
        value, body = input.value, self.loop.body
        if value.graph is body and value not in self.stacks:
            path = self.loop.path(value)
            nodes = [
                node
                for node in self.loop.computable
                if any(one in path and one not in self.stacks for one in node.outputs)
            ]
            write_batched(self.loop.scan, nodes, self.stacks, self.loop.node)
        value = self.stacks.get(value, value)
        return value if input.perm is None else op.transpose(value, input.perm)


class _Parameters:
    """The operands of a cell that are made of its gates."""

    def __init__(self, op: Builder, writer: _Writer, cell: Cell, size: int) -> None:
        self.op = op
        self.size = size
        self.gates = cell.gates
        loop = writer.loop
        self.reads = [
            [read for term in gate.inputs if (read := loop.reads(term)) is not None]
            for gate in cell.gates
        ]
        inputs = dict.fromkeys(read.input for reads in self.reads for read in reads)
        stacks = [writer.stack(op, one) for one in inputs]
        x = (
            stacks[0]
            if len(stacks) == 1
            else op.Concat(*stacks, axis=stacks[0].type.rank - 1)
        )
        blocks = [
            self._input_weights(one, stack)
            for one, stack in zip(inputs, stacks, strict=True)
        ]
        biases = [self._bias(i) for i in range(len(self.gates))]
        has_bias = any(bias is not None for bias in biases)
        inner = [self._sum_of(gate.inner_biases, gate) for gate in self.gates]
        self.b: Value | None = None
        if any(one is not None for one in inner):
            parts = [self._or_zeros(one) for one in (*biases, *inner)]
            self.b = op.unsqueeze(op.Concat(*parts, axis=0), [0])
        elif has_bias:
            x = self._with_ones(x)
            parts = [self._or_zeros(one) for one in biases]
            whole = parts[0] if len(parts) == 1 else op.Concat(*parts, axis=0)
            blocks.append(op.unsqueeze(whole, [1]))
        w = blocks[0] if len(blocks) == 1 else op.Concat(*blocks, axis=1)
        self.x = x
        self.w = op.unsqueeze(w, [0])
        r = self._weights([list(gate.recurrent) for gate in self.gates], size)
        self.r = op.unsqueeze(r, [0])

    def _with_ones(self, x: Value) -> Value:
        """Rows with a 1 behind them."""
        rank = x.type.rank
        widths = [0] * (2 * rank - 1) + [1]
        return self.op.Pad(x, np.array(widths), 1.0)

    # ---- weights

    def _input_weights(self, input: Input, stack: Value) -> Value:
        """The weights of one input, for all gates."""
        terms = [
            [read.term for read in reads if read.input == input] for reads in self.reads
        ]
        size = stack.type.shape[-1]
        assert type(size) is int
        return self._weights(terms, size)

    def _weights(self, terms: Sequence[Sequence[Term]], size: int) -> Value:
        """`[gates · h, size]`: for each gate the sum of its terms' weights, transposed."""
        op = self.op
        whole = self._one_weight(terms)
        if whole is not None:
            return whole
        parts: list[Value] = []
        for gate, own in zip(self.gates, terms, strict=True):
            part: Value | None = None
            for term in own:
                matrix = self._matrix(term, term.columns)
                part = matrix if part is None else op.Add(part, matrix)
            if part is None:
                part = op.const(np.zeros((self.size, size), np.float32))
            parts.append(op.Neg(part) if gate.is_negated else part)
        return parts[0] if len(parts) == 1 else op.Concat(*parts, axis=0)

    def _one_weight(self, terms: Sequence[Sequence[Term]]) -> Value | None:
        """The weights of all gates, where they are columns of one matrix."""
        if any(gate.is_negated for gate in self.gates) or any(
            len(own) != 1 for own in terms
        ):
            return None
        first = terms[0][0]
        for (term,) in terms:
            key = (term.weight, term.is_left, term.rows)
            if key != (first.weight, first.is_left, first.rows):
                return None
        columns = [term.columns.reshape(-1) for (term,) in terms]
        return self._matrix(first, np.concatenate(columns))

    def _matrix(self, term: Term, columns: np.ndarray) -> Value:
        """The weight of a term, a row for each of these columns."""
        assert term.weight is not None
        op, weight = self.op, self._outside(term.weight)
        matrix = weight if term.is_left else op.transpose(weight, (1, 0))
        chosen = self._taken(matrix, columns.reshape(-1))
        return op.slice(chosen, 1, *term.rows)

    def _outside(self, value: Value) -> Value:
        """A value that does not change, in front of the Scan."""
        is_inside = value.graph is not None and value.graph.parent is not None
        if value.const is not None and is_inside:
            return self.op.const(value.const)
        return value

    def _taken(self, value: Value, index: np.ndarray) -> Value:
        """Entries along the first axis."""
        op = self.op
        ends = np.flatnonzero(np.diff(index) != 1) + 1
        runs = np.split(index, ends)
        if len(runs) > MOST_RUNS:
            return op.Gather(value, index.astype(np.int64), axis=0)
        parts = [op.slice(value, 0, int(run[0]), int(run[-1]) + 1) for run in runs]
        return parts[0] if len(parts) == 1 else op.Concat(*parts, axis=0)

    # ---- biases

    def _bias(self, gate: int) -> Value | None:
        """The biases of a gate, those in front of the Scan too."""
        biases = [bias for read in self.reads[gate] for bias in read.biases]
        return self._sum_of((*self.gates[gate].biases, *biases), self.gates[gate])

    def _sum_of(self, biases: Sequence[Bias], gate: Gate) -> Value | None:
        """The sum of biases, a vector; None for none."""
        op = self.op
        total: Value | None = None
        for bias in biases:
            value = self._outside(bias.value)
            count = value.type.static_shape
            flat = op.reshape(value, (int(np.prod(count)),))
            one = self._spread(flat, bias.columns.reshape(-1))
            total = one if total is None else op.Add(total, one)
        if total is not None and gate.is_negated:
            return op.Neg(total)
        return total

    def _spread(self, flat: Value, columns: np.ndarray) -> Value:
        if not columns.any():
            return self.op.expand(self.op.slice(flat, 0, 0, 1), (len(columns),))
        return self._taken(flat, columns)

    def _or_zeros(self, bias: Value | None) -> Value:
        if bias is not None:
            return bias
        return self.op.const(np.zeros(self.size, np.float32))


def write_cells(loop: Loop, cells: Sequence[Cell]) -> None:
    """Write cells in front of a loop, and what is left of the loop behind them."""
    rows = {one.row: one.stack for one in loop.scan.rows}
    writer = _Writer(loop, loop.directions(cells), rows)
    for cell in cells:
        writer.write(cell)
    left = loop.left(cells)
    for place, old in enumerate(loop.node.outputs):
        if place in writer.results:
            old.replace_by(writer.results[place])
        elif place not in [one for one, _ in left]:
            old.replace_by(writer.written(place))
    if any(loop.node.outputs[place].uses for place, _ in left):
        _write_rest(loop, cells, writer, left)
    else:
        loop.node.erase()


def _write_rest(
    loop: Loop,
    cells: Sequence[Cell],
    writer: _Writer,
    left: Sequence[tuple[int, Value]],
) -> None:
    """What is left of a loop: it reads every h' as a row, where it needs it."""
    needed = loop.needed(cells)
    scan = read_scan(loop.node)
    places = [place for place, _ in left]
    count = loop.state_count
    scan.carried = [one for i, one in enumerate(scan.carried) if i in places]
    scan.stacked = [one for i, one in enumerate(scan.stacked) if i + count in places]
    for cell in cells:
        if cell.new in needed:
            row = loop.body.add_input(cell.new.type, cell.new.hint)
            cell.new.replace_by(row)
            stack, direction = writer.stacks[cell.new], writer.directions[cell.new]
            scan.rows.append(Row(stack, row, direction))
            scan.follow(cell.new, row)
    scan.drop_unused()
    if not compute_at_once(scan):
        write_scan(scan)
