"""`cells`: recurrent cells in the body of a Scan become LSTM, GRU and RNN in front of it.

    LSTM  i, o, f = σ(x Wₖ + h Rₖ + bₖ)   g = tanh(x W + h R + b)   c' = f c + i g   h' = o tanh(c')
    GRU   z, r = σ(x Wₖ + h Rₖ + bₖ)      h' = (1 - z) n + z h
          n = tanh(x W + b + r (h R + d)), or tanh(x W + (r h) R + b)
    RNN   h' = tanh(x W + h R + b), or with another activation

A cell is found by what it computes: its gates are linear forms (see `linear_forms`) of rows and states. What
else the body computes, from the rows and from the h' of each step, stays in the Scan, which then reads
these as rows; a Scan that has nothing left goes. So layers on top of each other are found one by one.

A cell stays where the body uses a c' or an old state for something else, and where its weights change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from j2o.ir import dims
from j2o.ir.graph import Graph, Value
from j2o.ir.target import Target
from j2o.ir.types import DType, Shape, differ_by_ones, is_one, same_shape
from j2o.passes.context import Context
from j2o.passes.layout.scans import scans_along_first
from j2o.passes.pipeline import graph_pass
from j2o.passes.recover.cell_loop import (
    Cell,
    Gate,
    Loop,
    Read,
    without_unit_axes,
)
from j2o.passes.recover.cell_writing import write_cells
from j2o.passes.recover.linear_forms import (
    ACTIVATIONS,
    COLUMN,
    FormReader,
    LinearForm,
    Term,
)

Pair: TypeAlias = "tuple[Value, Value]"
# what an h' is the result of: of an LSTM, of a GRU, and of an RNN
MAKE_STATE = {"onnx.Mul", "onnx.Add", *ACTIVATIONS}
# the largest state for which onnxruntime's kernel is faster than a loop: for a batch of one, and for any.
# Its LSTM has no such end. Measured with 2 threads, 24 steps, batches of 1 to 32: GRU of size 512 takes
# 0.6 of the loop's time for a batch of 1, and 1.3 for 8; RNN of size 64 takes 0.4 and 1.8
LARGEST = {"onnx.GRU": (2**30, 256), "onnx.RNN": (128, 0)}


@graph_pass("cells", at="onnx", level=2)
def cells(graph: Graph, context: Context) -> int:
    """Recurrent cells to LSTM, GRU and RNN."""
    count = 0
    for node in scans_along_first(graph):
        loop = Loop(node)
        found = _used_alone(loop, _found(loop, context))
        if found:
            write_cells(loop, found)
            count += len(found)
    return count


def _found(loop: Loop, context: Context) -> list[Cell]:
    """The cells of a body, each behind those whose h' it reads."""
    readers: list[FormReader] = []
    cells: list[Cell] = []
    for index, state in enumerate(loop.states):
        if not _is_vector(state) or loop.new_states[index].op not in MAKE_STATE:
            continue
        reader = _reader_of(readers, loop, state.type.shape[:-1])
        cell = _Matcher(loop, reader, index).cell()
        if cell is not None and _is_worth(cell, state, context.target):
            cells.append(cell)
    order = {node: place for place, node in enumerate(loop.body)}
    return sorted(cells, key=lambda cell: order[cell.new.producer])


def _reader_of(readers: list[FormReader], loop: Loop, batch: Shape) -> FormReader:
    """The reader for states of this batch, made where there is none yet."""
    for reader in readers:
        if same_shape(reader.batch, batch):
            return reader
    reader = FormReader(loop.body, batch)
    readers.append(reader)
    return reader


def _is_vector(state: Value) -> bool:
    """Return True for vectors of f32, in a batch that has rows: onnxruntime's kernels abort for none."""
    if state.type.dtype != DType.F32 or not state.type.shape:
        return False
    return all(dims.known_ge(size, 1) for size in state.type.shape)


def _is_worth(cell: Cell, state: Value, target: Target | None) -> bool:
    """Return True where the operator runs, and runs faster than the loop with its input products in front."""
    if target is not None and not target.supports(cell.op, DType.F32):
        return False
    *batch, size = state.type.shape
    largest = LARGEST.get(cell.op)
    if largest is None:
        return True
    of_one, of_any = largest
    return size <= (of_one if all(map(is_one, batch)) else of_any)


# ------------------------------------------------------------------ what a cell looks like


class _Matcher:
    """Looks whether one carried value is the h of a cell."""

    def __init__(self, loop: Loop, reader: FormReader, index: int) -> None:
        self.loop = loop
        self.reader = reader
        self.index = index
        self.state = loop.states[index]
        self.new = without_unit_axes(loop.body.outputs[index])

    def cell(self) -> Cell | None:
        """The cell whose h the value is; None where it is none."""
        node = self.new.node
        if node is None or node.graph is not self.loop.body:
            return None
        return self._lstm() or self._gru() or self._rnn()

    # ---- LSTM

    def _lstm(self) -> Cell | None:
        """h' = o · tanh(c'), c' = f · c + i · g: an LSTM; None where it is none."""
        for output, activated in self._pairs(self.new, "onnx.Mul"):
            if activated.op != "onnx.Tanh":
                continue
            memory = without_unit_axes(activated.producer.operand(0))
            index = self.loop.places.get(memory)
            if index is None:
                continue
            for forgotten, written in self._pairs(memory, "onnx.Add"):
                gates = self._lstm_gates(output, forgotten, written, index)
                if gates is not None:
                    return Cell("onnx.LSTM", self.index, index, self.new, gates, {})
        return None

    def _lstm_gates(
        self, output: Value, forgotten: Value, written: Value, index: int
    ) -> tuple[Gate, ...] | None:
        """The gates i, o, f and g, where the new c is `f c + i g`."""
        old = self.loop.states[index]
        for forget, memory in self._pairs(forgotten, "onnx.Mul"):
            if memory is not old:
                continue
            for entry, candidate in self._pairs(written, "onnx.Mul"):
                gates = (
                    self._gate(entry, "Sigmoid"),
                    self._gate(output, "Sigmoid"),
                    self._gate(forget, "Sigmoid"),
                    self._gate(candidate, "Tanh"),
                )
                if None not in gates:
                    return tuple(gate for gate in gates if gate is not None)
        return None

    # ---- GRU

    def _gru(self) -> Cell | None:
        """h' = (1 - z) · n + z · h: a GRU; None where it is none."""
        for update, candidate, is_negated in self._mixtures():
            gate = self._gate(update, "Sigmoid")
            if gate is None:
                continue
            found = self._candidate(candidate)
            if found is not None:
                gates = (gate._replace(is_negated=is_negated), *found.gates)
                attrs = {"linear_before_reset": int(found.is_linear_before_reset)}
                return Cell("onnx.GRU", self.index, None, self.new, gates, attrs)
        return None

    def _mixtures(self) -> Iterator[tuple[Value, Value, bool]]:
        """The ways in which h' may be a mixture of a candidate n and of h, as z, n, and whether z weighs n.

        They are (1 - z) n + z h, n + z (h - n) and these with n and h changed.
        """
        for first, second in self._pairs(self.new, "onnx.Add"):
            yield from self._weighed(first, second)
            for weight, difference in self._pairs(second, "onnx.Mul"):
                if difference.op != "onnx.Sub":
                    continue
                plus, minus = map(without_unit_axes, difference.producer.operands)
                if minus is first and plus is self.state:
                    yield weight, first, False
                elif minus is first and first is self.state:
                    yield weight, plus, True

    def _weighed(
        self, first: Value, second: Value
    ) -> Iterator[tuple[Value, Value, bool]]:
        """`(1 - z) n + z h`, or `(1 - z) h + z n`."""
        for rest, one in self._pairs(first, "onnx.Mul"):
            weight = _subtracted_from_one(rest)
            if weight is None:
                continue
            for same, other in self._pairs(second, "onnx.Mul"):
                if same is not weight:
                    continue
                if other is self.state:
                    yield weight, one, False
                elif one is self.state:
                    yield weight, other, True

    def _candidate(self, value: Value) -> _Candidate | None:
        """The gates r and n of a GRU."""
        form = self._form(value, "Tanh")
        if form is None:
            return None
        others = [one for one in form.terms if self._is_product(one.source)]
        if len(others) != 1:
            return None
        (other,) = others
        rest = form.without(other)
        for reset, inner in self._pairs(other.source, "onnx.Mul"):
            gate = self._gate(reset, "Sigmoid")
            if gate is None:
                continue
            last = self._last_gate(rest, other, inner)
            if last is not None:
                return _Candidate((gate, last), other.weight is None)
        return None

    def _last_gate(self, rest: LinearForm, other: Term, inner: Value) -> Gate | None:
        """The gate n, where `other` is its term of `r inner`, and `rest` has the others."""
        outer = self._split(rest)
        if outer is None or outer.recurrent:
            return None
        if other.weight is not None:
            is_state = inner is self.state
            return outer._replace(recurrent=(other,)) if is_state else None
        form = self._form(inner, "")
        product = None if form is None else self._split(form)
        if product is None or product.inputs or not product.recurrent:
            return None
        if not np.array_equal(other.columns.reshape(-1), np.arange(other.columns.size)):
            return None
        return outer._replace(recurrent=product.recurrent, inner_biases=product.biases)

    def _is_product(self, source: Value) -> bool:
        """Return True for a product of the body, as `r h` and `r (h R + d)` are."""
        return source.op == "onnx.Mul" and source.graph is self.loop.body

    # ---- RNN

    def _rnn(self) -> Cell | None:
        """h' = f(x W + h R + b): a plain cell; None where it is none."""
        form = self.reader.forms.get(self.new)
        if form is None or not form.activation:
            return None
        gate = self._gate(self.new, form.activation)
        if gate is None:
            return None
        attrs = {"activations": (form.activation,)}
        return Cell("onnx.RNN", self.index, None, self.new, (gate,), attrs)

    # ---- parts

    def _pairs(self, value: Value, op: str) -> Iterator[Pair]:
        """The operands of an Add or Mul in both orders, if the result has the size of the state."""
        value = without_unit_axes(value)
        node = value.node
        if node is None or node.op != op or node.graph is not self.loop.body:
            return
        if not differ_by_ones(value.type.shape, self.state.type.shape):
            return
        first, second = map(without_unit_axes, node.operands)
        yield first, second
        yield second, first

    def _form(self, value: Value, activation: str) -> LinearForm | None:
        """The form of a value, if it has a column for each of the state's, in the same layout."""
        form = self.reader.forms.get(value)
        if form is None or form.activation != activation:
            return None
        if form.columns.size != self.state.type.shape[-1]:
            return None
        return form if _is_in_order(form, self.reader.layout) else None

    def _gate(self, value: Value, activation: str) -> Gate | None:
        """The gate that a value with this activation is; None where it is none."""
        form = self._form(value, activation)
        return None if form is None else self._split(form)

    def _split(self, form: LinearForm) -> Gate | None:
        """A form's terms as those of rows and those of h; None where there are others."""
        inputs: list[Read] = []
        recurrent: list[Term] = []
        for term in form.terms:
            if term.source is self.state and term.weight is not None:
                recurrent.append(term)
                continue
            read = self.loop.reads(term)
            if read is None:
                return None
            inputs.append(read)
        return Gate(tuple(inputs), tuple(recurrent), form.biases)


class _Candidate(NamedTuple):
    """The gates r and n of a GRU, and whether r multiplies a product."""

    gates: tuple[Gate, Gate]
    is_linear_before_reset: bool


def _is_in_order(form: LinearForm, layout: tuple[int, ...]) -> bool:
    """Return True where the axes stand in the order of a source: those of the batch, then columns."""
    sizes = iter(form.columns.shape)
    tags = [tag for tag in form.layout if tag != COLUMN or next(sizes) != 1]
    batch = [tag for tag in layout if tag != COLUMN]
    return tags in (batch, [*batch, COLUMN])


def _subtracted_from_one(value: Value) -> Value | None:
    """The z of `1 - z`."""
    if value.op != "onnx.Sub":
        return None
    one, z = value.producer.operands
    return without_unit_axes(z) if one.number == 1 else None


# ---------------------------------------------------------------- what else the body does


def _used_alone(loop: Loop, found: Sequence[Cell]) -> list[Cell]:
    """The cells of which the rest of the body uses nothing but h'."""
    cells = list(found)
    while True:
        kept = [cell for cell in cells if loop.can_write(cell, cells)]
        needed = loop.needed(kept)
        alone = [cell for cell in kept if not needed & loop.inner_values(cell)]
        if len(alone) == len(cells):
            return alone
        cells = alone
