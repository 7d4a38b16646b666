"""What `cells` has found, as nodes: LSTM, GRU or RNN in front of a Scan, and what is left of the Scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from j2o.ir import dims
from j2o.ir.build import Builder
from j2o.ir.graph import Node, Value
from j2o.ir.ops import TO_THE_FRONT
from j2o.ir.types import Attr, Dim, DType, Type
from j2o.passes.layout.all_rounds import write_batched
from j2o.passes.layout.hoist import compute_at_once
from j2o.passes.layout.scans import Scan, ScannedRow, Stacked, write_scan
from j2o.passes.recover.cell_loop import Cell, Input, Loop, without_unit_axes
from j2o.passes.recover.cell_operands import OperandBuilder
from j2o.passes.recover.linear_forms import is_zero


@dataclass
class _CellWriter:
    """Writes the cells of one loop; `stacks` has for each h' all of them, `results` what the Scan gives."""

    loop: Loop
    directions: dict[Value, int]
    stacks: dict[Value, Value]
    results: dict[int, Value] = field(default_factory=dict)

    def write(self, cell: Cell) -> None:
        """Make the node of a cell, and what the Scan gives of it."""
        loop, node = self.loop, self.loop.node
        op = Builder(node.home, node, cell.new.producer.loc, cell.new.hint)
        *outer, size = loop.states[cell.state].type.shape
        assert type(size) is int
        batch = dims.prod(outer)
        one_state = (1, batch, size)
        operands = self._operands(op, cell, batch, size)
        types = [Type(DType.F32, (loop.length, *one_state))]
        types += [Type(DType.F32, one_state) for _ in cell.places]
        attrs = self._attributes(cell, size)
        all_states, *last = op.node(cell.op, operands, attrs, types).outputs
        shape = (loop.length, *cell.new.type.shape)
        self.stacks[cell.new] = op.reshape(all_states, shape)
        for place, value in zip(cell.places, last, strict=True):
            old = loop.states[place]
            self.results[place] = op.reshape(value, old.type.shape)

    def _operands(
        self, op: Builder, cell: Cell, batch: Dim, size: int
    ) -> list[Value | None]:
        """X, W, R, B, no lengths, and the first states; what is left out at the end is not there."""
        stacks: dict[Input, Value] = {}
        for gate in cell.gates:
            for read in gate.inputs:
                if read.input not in stacks:
                    stacks[read.input] = self.stack(op, read.input)
        made = OperandBuilder(op, cell.gates, size).operands(stacks)
        x = op.reshape(made.x, (self.loop.length, batch, made.x.type.shape[-1]))
        operands = [x, made.w, made.r, made.b, None]
        for place in cell.places:
            operands.append(self._first(op, place, (1, batch, size)))
        while operands[-1] is None:
            operands.pop()
        return operands

    def _attributes(self, cell: Cell, size: int) -> dict[str, Attr]:
        """Those of the cell, its size, and its direction where that is not the usual one."""
        attrs: dict[str, Attr] = {"hidden_size": size, **cell.attrs}
        if self.directions[cell.new]:
            attrs["direction"] = "reverse"
        return attrs

    def _first(self, op: Builder, place: int, shape: tuple[Dim, ...]) -> Value | None:
        """The state that a loop begins with; None for zeros."""
        value = self.loop.node.operand(place)
        return None if is_zero(value) else op.reshape(value, shape)

    def written(self, stacked: Stacked) -> Value:
        """What the Scan stacked of an h', in its direction."""
        node, new = self.loop.node, without_unit_axes(stacked.row)
        stack = self.stacks[new]
        op = Builder(node.home, node, node.loc, stack.hint)
        if stacked.is_backwards != self.directions[new]:
            bounds = [(-1,), (TO_THE_FRONT,), (0,), (-1,)]
            stack = op.Slice(stack, *map(op.dims, bounds))
        return op.reshape(stack, stacked.out.type.shape)

    def rest(self, cells: Sequence[Cell]) -> Scan:
        """What is left of the Scan: it reads every h' as a row, where it needs it."""
        needed = self.loop.needed(cells)
        rest = self.loop.rest_without(cells)
        for new in [cell.new for cell in cells if cell.new in needed]:
            row = self.loop.body.add_input(new.type, new.hint)
            new.replace_by(row)
            rest.rows.append(ScannedRow(self.stacks[new], row, self.directions[new]))
            rest.follow(new, row)
        rest.drop_unused()
        return rest

    def stack(self, op: Builder, input: Input) -> Value:
        """The rows of an input, one behind the other."""
        value = input.value
        if value.graph is self.loop.body and value not in self.stacks:
            missing = self.loop.path(value).keys() - self.stacks.keys()
            nodes: list[Node] = []
            for node in self.loop.computable:
                if not missing.isdisjoint(node.outputs):
                    nodes.append(node)
            write_batched(self.loop.scan, nodes, self.stacks, self.loop.node)
        value = self.stacks.get(value, value)
        return value if input.perm is None else op.transpose(value, input.perm)


def write_cells(loop: Loop, cells: Sequence[Cell]) -> None:
    """Write cells in front of a loop, and what is left of the loop behind them."""
    rows = {one.row: one.stack for one in loop.scan.rows}
    writer = _CellWriter(loop, loop.directions(cells), rows)
    for cell in cells:
        writer.write(cell)
    for place, final in writer.results.items():
        loop.node.outputs[place].replace_by(final)
    news = {cell.new for cell in cells}
    for stacked in loop.scan.stacked:
        if without_unit_axes(stacked.row) in news:
            stacked.out.replace_by(writer.written(stacked))
    if not loop.node.used:
        loop.node.erase()
        return
    rest = writer.rest(cells)
    if not compute_at_once(rest):
        write_scan(rest)
