"""Cells and the loop that they are found in: what `cells` reads, and `cell_writing` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from j2o.ir.graph import Node, Value
from j2o.ir.ops import RESHAPES
from j2o.ir.types import Attr, Dim, differ_by_ones
from j2o.passes.layout.all_rounds import computable
from j2o.passes.layout.perms import perm_of
from j2o.passes.layout.scans import Scan, read_scan
from j2o.passes.recover.linear_forms import Bias, Term


class Input(NamedTuple):
    """A stack of rows in front of the Scan, in another order of axes where `perm` is there."""

    value: Value
    perm: tuple[int, ...] | None = None


class Read(NamedTuple):
    """A term of rows as what is computed in front of the Scan: `input @ weight + biases`."""

    input: Input
    term: Term
    biases: tuple[Bias, ...] = ()


class Gate(NamedTuple):
    """One gate: what it reads of rows, terms of h, biases, and those that a GRU adds before it takes r.

    With `is_negated`, the gate is the function of the opposite of their sum.
    """

    inputs: tuple[Read, ...]
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
    def places(self) -> tuple[int, ...]:
        """The places of its states among what is carried: h, and c where it has one."""
        return (self.state,) if self.memory is None else (self.state, self.memory)


def without_unit_axes(value: Value) -> Value:
    """What a value is but for axes of size 1."""
    while (node := value.node) is not None and node.op in RESHAPES:
        source = node.operand(0)
        if not differ_by_ones(value.type.shape, source.type.shape):
            break
        value = source
    return value


# ------------------------------------------------------------------------------ the loop


class Loop:
    """A Scan, and what its body reads, carries and gives."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.body = node.graphs[0]
        self.scan = read_scan(node)
        self.states = [one.old for one in self.scan.carried]
        self.rows = {one.row: one for one in self.scan.rows}
        self.new_states = [without_unit_axes(one.new) for one in self.scan.carried]
        self.places = {value: place for place, value in enumerate(self.new_states)}
        # what is known for all rounds before the loop runs, if its cells are
        known = {*self.rows, *self.new_states}
        self.computable = computable(self.scan, known)

    @property
    def length(self) -> Dim:
        """The number of steps."""
        return self.scan.rows[0].stack.type.shape[0]

    def reads(self, term: Term) -> Read | None:
        """A term as what is computed in front of the Scan; None where it is none of rows.

        An h' counts as a row: its cell may stand in front of the Scan, too. So does what is made of these.
        """
        source = term.source
        if source in self.places or source.node in self.computable:
            return Read(Input(source), term) if term.weight is not None else None
        if source not in self.rows:
            return None
        stack = self.rows[source].stack
        if term.weight is not None:
            return Read(Input(stack), term)
        return _product_in_front(stack, term)

    def direction(self, cell: Cell, others: Mapping[Value, int]) -> int | None:
        """1 for a cell that runs from the end, 0 from the start; None where its inputs do not agree.

        `others` has the directions of cells in front of it, by their h'.
        """
        reads = [read for gate in cell.gates for read in gate.inputs]
        found: set[int | None] = set()
        for value in {one for read in reads for one in self.origins(read.term.source)}:
            row = self.rows.get(value)
            found.add(others.get(value) if row is None else row.is_backwards)
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
        """Return True for an h', and for what cannot be computed of all rounds at once, as a row."""
        return value in self.places or value.node not in self.computable

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
        rest = self.rest_without(cells)
        stack = [one.new for one in rest.carried] + [one.row for one in rest.stacked]
        found: set[Value] = set()
        while stack:
            value = stack.pop()
            if value in found:
                continue
            found.add(value)
            is_inside = value.node is not None and value.graph is self.body
            if is_inside and value not in news:
                stack += value.producer.used_values()
        return found

    def rest_without(self, cells: Sequence[Cell]) -> Scan:
        """The Scan without what cells carry and without stacks of their h'."""
        gone = {self.states[place] for cell in cells for place in cell.places}
        news = {cell.new for cell in cells}
        rest = read_scan(self.node)
        rest.carried = [one for one in rest.carried if one.old not in gone]
        rest.stacked = [
            one for one in rest.stacked if without_unit_axes(one.row) not in news
        ]
        return rest

    def directions(self, cells: Sequence[Cell]) -> dict[Value, int]:
        """For the h' of each cell the direction in which it runs."""
        found: dict[Value, int] = {}
        for cell in cells:
            direction = self.direction(cell, found)
            if direction is not None:
                found[cell.new] = direction
        return found


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
        if node.op == "onnx.MatMul":
            return _factors(node, Input(node.operand(0), perm), term, biases)
        added = _added_row(node)
        if added is None:
            return None
        value, bias = added
        columns = term.columns if bias.type.size != 1 else np.zeros_like(term.columns)
        biases.append(Bias(bias, columns))
    return None


def _factors(
    product: Node, input: Input, term: Term, biases: Sequence[Bias]
) -> Read | None:
    """A product of rows and a matrix in front of the Scan."""
    weight = product.operand(1)
    is_matrix = weight.type.rank == 2 and weight.type.is_static
    if not is_matrix or input.value.type.rank != product.out.type.rank:
        return None
    rows = (0, weight.type.static_shape[0])
    return Read(input, replace(term, weight=weight, rows=rows), tuple(biases))


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
