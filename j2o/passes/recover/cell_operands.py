"""The operands X, W, R and B of a cell, made of the terms and biases of its gates.

A gate such as `sigmoid(x @ w + y @ v + h @ r + b)` of a state of 8 elements, with x of 3 and y of 4, becomes

    X    x and y side by side, and a 1: f32[T,batch,8]
    W    for each gate eight rows, of wᵀ, vᵀ and b side by side: f32[1,gates·8,8]
    R    for each gate rᵀ: f32[1,gates·8,8]

onnxruntime's LSTM and GRU take a NaN for a large number where they have an operand B. So biases go into W,
as the weights of an input that is 1. A GRU with a bias behind its r has no other way than B.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from j2o.ir.build import Builder
from j2o.ir.graph import Value
from j2o.passes.recover.cell_loop import Gate, Input
from j2o.passes.recover.linear_forms import Bias, Term

MOST_RUNS = 16  # parts of a weight that are put together; more are gathered


class Operands(NamedTuple):
    """X, W, R and B; B is None where biases are weights."""

    x: Value
    w: Value
    r: Value
    b: Value | None


class OperandBuilder:
    """Makes the operands of one cell whose state has `size` elements."""

    def __init__(self, op: Builder, gates: Sequence[Gate], size: int) -> None:
        self.op = op
        self.gates = gates
        self.size = size

    def operands(self, stacks: dict[Input, Value]) -> Operands:
        """All operands; `stacks` has the rows of each input."""
        x = self._joined([*stacks.values()], -1)
        blocks = [self._input_weights(input, rows) for input, rows in stacks.items()]
        biases = [self._bias(gate) for gate in self.gates]
        inner = [self._sum_of(gate.inner_biases, gate) for gate in self.gates]
        b = None
        if any(bias is not None for bias in inner):
            b = self._with_direction(self._row([*biases, *inner]))
        elif any(bias is not None for bias in biases):
            x = self._with_ones(x)
            blocks.append(self.op.unsqueeze(self._row(biases), [1]))
        w = self._with_direction(self._joined(blocks, 1))
        recurrent = [gate.recurrent for gate in self.gates]
        r = self._with_direction(self._weights(recurrent, self.size))
        return Operands(x, w, r, b)

    def _with_direction(self, value: Value) -> Value:
        """A value with a first axis for the directions, of which there is one."""
        return self.op.unsqueeze(value, [0])

    def _with_ones(self, x: Value) -> Value:
        """Rows with a 1 behind them, whose weight is the bias.

        onnxruntime's kernels limit sums to which they add a bias operand, and make numbers of NaN there.
        """
        # of all axes first how much in front, then how much behind: one, behind the last
        widths = [0] * (2 * x.type.rank)
        widths[-1] = 1
        return self.op.Pad(x, np.array(widths), 1.0)

    def _joined(self, parts: Sequence[Value], axis: int) -> Value:
        """Values side by side."""
        if len(parts) == 1:
            return parts[0]
        return self.op.Concat(*parts, axis=axis % parts[0].type.rank)

    # ------------------------------------------------------------------------- weights

    def _input_weights(self, input: Input, stack: Value) -> Value:
        """The weights of one input, for all gates."""
        terms: list[list[Term]] = []
        for gate in self.gates:
            terms.append([read.term for read in gate.inputs if read.input == input])
        size = stack.type.shape[-1]
        assert type(size) is int
        return self._weights(terms, size)

    def _weights(self, terms: Sequence[Sequence[Term]], size: int) -> Value:
        """`[gates · h, size]`: for each gate the sum of its terms' weights, transposed."""
        if self._is_of_one_matrix(terms):
            # together: columns that are in order need no nodes
            columns = [term.columns.reshape(-1) for (term,) in terms]
            return self._matrix(terms[0][0], np.concatenate(columns))
        parts: list[Value] = []
        for gate, own in zip(self.gates, terms, strict=True):
            part = self._sum([self._matrix(term, term.columns) for term in own])
            if part is None:
                part = self.op.const(np.zeros((self.size, size), np.float32))
            parts.append(self.op.Neg(part) if gate.is_negated else part)
        return self._joined(parts, 0)

    def _is_of_one_matrix(self, terms: Sequence[Sequence[Term]]) -> bool:
        """Return True where the weights of all gates are columns of one matrix."""
        if any(gate.is_negated for gate in self.gates):
            return False
        if any(len(own) != 1 for own in terms):
            return False
        matrices = {(term.weight, term.is_left, term.rows) for (term,) in terms}
        return len(matrices) == 1

    def _matrix(self, term: Term, columns: np.ndarray) -> Value:
        """The weight of a term, a row for each of these columns."""
        assert term.weight is not None
        weight = self._outside(term.weight)
        matrix = weight if term.is_left else self.op.transpose(weight, (1, 0))
        chosen = self._taken(matrix, columns.reshape(-1))
        return self.op.slice(chosen, 1, *term.rows)

    def _outside(self, value: Value) -> Value:
        """A value that does not change, in front of the Scan."""
        is_inside = value.graph is not None and value.graph.parent is not None
        if value.const is not None and is_inside:
            return self.op.const(value.const)
        return value

    def _taken(self, value: Value, index: np.ndarray) -> Value:
        """Entries along the first axis: slices of it side by side, where they are few."""
        breaks = np.flatnonzero(np.diff(index) != 1) + 1
        # of [4, 5, 6, 0, 1] these are [4, 5, 6] and [0, 1]
        runs = np.split(index, breaks)
        if len(runs) > MOST_RUNS:
            return self.op.Gather(value, index.astype(np.int64), axis=0)
        parts: list[Value] = []
        for run in runs:
            start, end = int(run[0]), int(run[-1]) + 1
            parts.append(self.op.slice(value, 0, start, end))
        return self._joined(parts, 0)

    # -------------------------------------------------------------------------- biases

    def _bias(self, gate: Gate) -> Value | None:
        """The biases of a gate, those in front of the Scan too."""
        biases = [bias for read in gate.inputs for bias in read.biases]
        return self._sum_of([*gate.biases, *biases], gate)

    def _sum_of(self, biases: Sequence[Bias], gate: Gate) -> Value | None:
        """The sum of biases, a vector; None for none."""
        total = self._sum([self._vector(bias) for bias in biases])
        if total is not None and gate.is_negated:
            return self.op.Neg(total)
        return total

    def _vector(self, bias: Bias) -> Value:
        """A bias with an entry for each element of the state."""
        value = self._outside(bias.value)
        count = int(np.prod(value.type.static_shape))
        flat = self.op.reshape(value, (count,))
        columns = bias.columns.reshape(-1)
        if columns.any():
            return self._taken(flat, columns)
        first = self.op.slice(flat, 0, 0, 1)  # one number for all
        return self.op.expand(first, (len(columns),))

    def _sum(self, values: Sequence[Value]) -> Value | None:
        """The sum of values; None for none."""
        total: Value | None = None
        for value in values:
            total = value if total is None else self.op.Add(total, value)
        return total

    def _row(self, biases: Sequence[Value | None]) -> Value:
        """Biases side by side, zeros where there is none."""
        zeros = np.zeros(self.size, np.float32)
        parts = [self.op.const(zeros) if one is None else one for one in biases]
        return self._joined(parts, 0)
