"""Linear forms: what values in the body of a loop are of its rows and of its states.

A gate of a recurrent cell is a function of a sum of products, such as `sigmoid(x @ w + h @ r + b)`. Programs
compute the gates one by one or side by side in one product, with the batch in front or behind, and divide
them by splits, slices and reshapes. A form says the same of all these: for each column of a value, the
columns of matrices that it is made with.

Axes of size 1 count as axes of columns, whatever they are: so they may come and go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from j2o.ir.graph import Graph, Node, Value
from j2o.ir.ops import RESHAPES, VIEWS
from j2o.ir.types import Dim, Shape, is_one, same_shape
from j2o.passes.layout.perms import perm_of

# of longer sums no form is read: each sum copies the terms of its operands
MOST_TERMS = 16
COLUMN = -1  # in a layout: an axis of columns
# no Relu: that of onnxruntime's RNN makes 0 of a NaN
ACTIVATIONS = {"onnx.Sigmoid": "Sigmoid", "onnx.Tanh": "Tanh"}

# for each axis of a value the axis of the batch that it is, or COLUMN
FormLayout: TypeAlias = "tuple[int, ...]"
Move: TypeAlias = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Term:
    """`source @ weight[rows]`: for each column of the form its column of the weight.

    With `is_left` the weight stands on the left, and `rows` and columns change places. Without a weight,
    the columns are those of the source itself.
    """

    source: Value
    columns: np.ndarray
    weight: Value | None = None
    is_left: bool = False
    rows: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Bias:
    """What is added: for each column of the form the place in the flattened value."""

    value: Value
    columns: np.ndarray


@dataclass(frozen=True)
class LinearForm:
    """`activation(sum of terms + sum of biases)`, column by column; no activation is "".

    Each array of columns has the sizes of the layout's axes of columns, in their order.
    """

    layout: FormLayout
    terms: tuple[Term, ...]
    biases: tuple[Bias, ...] = ()
    activation: str = ""

    @property
    def columns(self) -> np.ndarray:
        """The columns of the first term."""
        return self.terms[0].columns

    @property
    def batch(self) -> tuple[int, ...]:
        """The axes of the batch, in the order in which they stand."""
        return tuple(axis for axis in self.layout if axis != COLUMN)

    def moved(self, layout: FormLayout, move: Move) -> LinearForm:
        """The form with its columns moved in the same way everywhere."""
        terms = [replace(one, columns=move(one.columns)) for one in self.terms]
        biases = [replace(one, columns=move(one.columns)) for one in self.biases]
        return replace(self, layout=layout, terms=tuple(terms), biases=tuple(biases))

    def without(self, term: Term) -> LinearForm:
        """The form without one of its terms."""
        return replace(self, terms=tuple(one for one in self.terms if one is not term))

    def place(self, axis: int) -> int:
        """Which axis of the arrays of columns an axis of the value is."""
        return self.layout[:axis].count(COLUMN)


class FormReader:
    """Reads the forms of a body's values; `batch` are the sizes in front of the columns of a row."""

    def __init__(self, body: Graph, batch: Shape) -> None:
        self.body = body
        self.batch = batch
        self.layout = (*map(_tag, batch, range(len(batch))), COLUMN)  # of a source
        self.forms: dict[Value, LinearForm] = {}
        self.joined: dict[Value, tuple[Value, ...]] = {}  # sources side by side
        for value in body.inputs:
            self._enter_source(value)
        for node in body:
            self._read(node)

    def is_invariant(self, value: Value) -> bool:
        """Return True for what is the same in each round."""
        return value.graph is not self.body or value.const is not None

    def _enter_source(self, value: Value) -> None:
        """Enter a value that forms may be of."""
        form = self.source(value)
        if form is not None:
            self.forms[value] = form

    def source(self, value: Value) -> LinearForm | None:
        """A value that is no function of others here, if it has rows of the batch."""
        shape = value.type.shape
        if not shape or not same_shape(shape[:-1], self.batch):
            return None
        size = shape[-1]
        if type(size) is not int or not size:
            return None
        ones = [1] * (self.layout.count(COLUMN) - 1)
        columns = np.arange(size).reshape(*ones, size)
        return LinearForm(self.layout, (Term(value, columns),))

    def _read(self, node: Node) -> None:
        """Enter the form of what a node gives, or let it be a source of other forms."""
        if len(node.outputs) != 1:
            if node.op == "onnx.Split":
                self._read_split(node)
            return
        if self.is_invariant(node.out):
            return
        rule = RULES.get(node.op)
        form = None if rule is None else rule(self, node)
        if form is not None:
            self.forms[node.out] = form
        else:
            self._enter_source(node.out)

    def _read_split(self, node: Node) -> None:
        """Enter the forms of the parts of a Split of columns."""
        form = self.forms.get(node.operand(0))
        axis = node.int_attr("axis", 0) % node.operand(0).type.rank
        if form is None or form.layout[axis] != COLUMN:
            return
        start = 0
        for out in node.outputs:
            size = out.type.shape[axis]
            if type(size) is not int:
                return
            chosen = np.arange(start, start + size)
            self.forms[out] = _taken(form, axis, chosen)
            start += size


def _tag(size: Dim, axis: int) -> int:
    """What an axis in front of the columns of a source is in a layout."""
    return COLUMN if is_one(size) else axis


# ------------------------------------------------------------------- where columns stand


def _taken(form: LinearForm, axis: int, chosen: np.ndarray) -> LinearForm:
    """Some of the columns along an axis."""
    place = form.place(axis)
    return form.moved(form.layout, lambda columns: columns.take(chosen, place))


def _slice(reader: FormReader, node: Node) -> LinearForm | None:
    """The columns that a Slice takes; None where it cuts the batch."""
    form = reader.forms.get(node.operand(0))
    numbers = [value.known_ints for value in node.operands[1:]]
    if form is None or None in numbers:
        return None
    shape = node.operand(0).type.shape
    starts, ends, axes, steps = _slice_numbers(numbers, len(shape))
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = shape[axis]
        if form.layout[axis] != COLUMN or type(size) is not int:
            return None
        form = _taken(form, axis, np.arange(size)[start:end:step])
    return form


def _slice_numbers(
    numbers: Sequence[Sequence[int] | None], rank: int
) -> list[Sequence[int]]:
    """Starts, ends, axes and steps of a Slice."""
    starts, ends, *rest = [one or () for one in numbers]
    axes = rest[0] if rest else range(len(starts))
    steps = rest[1] if len(rest) > 1 else [1] * len(starts)
    return [starts, ends, [axis % rank for axis in axes], steps]


def _gather(reader: FormReader, node: Node) -> LinearForm | None:
    """Columns by constant indices: one of them, or several in a row."""
    form, index = reader.forms.get(node.operand(0)), node.operand(1).known_ints
    axis = node.int_attr("axis", 0) % node.operand(0).type.rank
    if form is None or index is None or form.layout[axis] != COLUMN:
        return None
    taken = _taken(form, axis, np.asarray(index))
    if node.operand(1).type.rank:
        return taken
    return _without_axis(taken, axis)


def _without_axis(form: LinearForm, axis: int) -> LinearForm:
    """A form without an axis of size 1."""
    layout = (*form.layout[:axis], *form.layout[axis + 1 :])
    place = form.place(axis)
    return form.moved(layout, lambda columns: columns.squeeze(place))


def _transpose(reader: FormReader, node: Node) -> LinearForm | None:
    """The same form with its axes in another order."""
    form, perm = reader.forms.get(node.operand(0)), perm_of(node)
    if form is None or perm is None:
        return None
    order = [form.place(axis) for axis in perm if form.layout[axis] == COLUMN]
    layout = tuple(form.layout[axis] for axis in perm)
    return form.moved(layout, lambda columns: columns.transpose(order))


def _reshape(reader: FormReader, node: Node) -> LinearForm | None:
    """Another shape of the columns; the axes of the batch stay together, in front or behind."""
    form = reader.forms.get(node.operand(0))
    if form is None:
        return None
    layout = _reshaped_layout(form, node.operand(0).type.shape, node.out.type.shape)
    if layout is None:
        return None
    pairs = zip(layout, node.out.type.shape, strict=True)
    sizes = [size for tag, size in pairs if tag == COLUMN]
    return form.moved(layout, lambda columns: columns.reshape(sizes))


def _reshaped_layout(form: LinearForm, old: Shape, new: Shape) -> FormLayout | None:
    """The layout of a reshape; None where an axis of the batch is divided or merged."""
    places = [axis for axis, tag in enumerate(form.layout) if tag != COLUMN]
    layout = [COLUMN] * len(new)
    if places:
        start, end = places[0], places[-1] + 1
        before, behind = old[:start], old[end:]
        if len(places) != end - start:
            return None
        first = _first_place(new, old[start:end], before, behind)
        if first is None:
            return None
        layout[first : first + len(places)] = form.batch
    rest = [size for size, tag in zip(new, layout, strict=True) if tag == COLUMN]
    is_complete = all(type(size) is int for size in rest)
    return tuple(layout) if is_complete else None


def _first_place(new: Shape, sizes: Shape, before: Shape, behind: Shape) -> int | None:
    """Where the sizes of the batch stand in a new shape.

    Columns stay on the side of the batch on which they are.
    """
    count = len(sizes)
    ends = range(len(new) - count + 1)
    if all(map(is_one, before)):
        for first in ends:
            if same_shape(new[first : first + count], sizes):
                return first if all(map(is_one, new[:first])) else None
    elif all(map(is_one, behind)):
        for first in reversed(ends):
            if same_shape(new[first : first + count], sizes):
                return first if all(map(is_one, new[first + count :])) else None
    return None


# ------------------------------------------------------------------ sums and products


def _matmul(reader: FormReader, node: Node) -> LinearForm | None:
    """A product with a matrix that does not change, on either side."""
    first, second = node.operand(0), node.operand(1)
    if _is_matrix(reader, second):
        return _product(reader, node, first, second, is_left=False)
    if _is_matrix(reader, first):
        return _product(reader, node, second, first, is_left=True)
    return None


def _is_matrix(reader: FormReader, value: Value) -> bool:
    """Return True for a matrix of known sizes that is the same in each round."""
    return value.type.rank == 2 and value.type.is_static and reader.is_invariant(value)


def _product(
    reader: FormReader, node: Node, x: Value, weight: Value, *, is_left: bool
) -> LinearForm | None:
    """`x @ weight`, or `weight @ x`, where x is a source or several side by side."""
    form = reader.forms.get(x)
    if form is None or not _is_whole_source(form):
        form = reader.source(x)  # such as the tanh of a sum
    axis = x.type.rank - (2 if is_left else 1)
    if form is None or axis < 0 or not _is_axis_of_columns(form, axis):
        return None
    source = form.terms[0].source
    size = weight.type.static_shape[0 if is_left else 1]
    sizes = [1] * form.columns.ndim
    sizes[form.place(axis)] = size
    columns = np.arange(size).reshape(sizes)
    terms: list[Term] = []
    start = 0
    for part in reader.joined.get(source, (source,)):
        end = start + _width(part)
        terms.append(Term(part, columns, weight, is_left, (start, end)))
        start = end
    return LinearForm(form.layout, tuple(terms))


def _width(source: Value) -> int:
    """The number of columns of a source."""
    size = source.type.shape[-1]
    assert type(size) is int
    return size


def _is_source(form: LinearForm) -> bool:
    """Return True for a source by itself."""
    is_one_term = len(form.terms) == 1 and form.terms[0].weight is None
    return is_one_term and not form.biases and not form.activation


def _is_whole_source(form: LinearForm) -> bool:
    """Return True for a source by itself with all its columns, in their order."""
    if not _is_source(form):
        return False
    every = np.arange(_width(form.terms[0].source))
    return np.array_equal(form.columns.reshape(-1), every)


def _is_axis_of_columns(form: LinearForm, axis: int) -> bool:
    """Return True where all columns lie along this axis."""
    if form.layout[axis] != COLUMN:
        return False
    return form.columns.shape[form.place(axis)] == form.columns.size


def _concat(reader: FormReader, node: Node) -> LinearForm | None:
    """Sources side by side are a source of their own, of which the parts are known."""
    rank = len(reader.layout)
    forms = [reader.forms.get(value) for value in node.operands]
    rows = [form for form in forms if form is not None and _is_row(reader, form)]
    is_last = node.int_attr("axis") in (-1, rank - 1)
    if is_last and len(rows) == len(forms):
        reader.joined[node.out] = tuple(form.terms[0].source for form in rows)
    return None


def _is_row(reader: FormReader, form: LinearForm) -> bool:
    """Return True for a whole source in its own layout."""
    return form.layout == reader.layout and _is_whole_source(form)


def _add(reader: FormReader, node: Node) -> LinearForm | None:
    """The sum of two forms, or of a form and of what does not change."""
    first, second = node.operand(0), node.operand(1)
    a, b = reader.forms.get(first), reader.forms.get(second)
    if a is not None and b is not None:
        return _sum(a, b)
    if a is not None and reader.is_invariant(second):
        return _shifted(a, second, node)
    if b is not None and reader.is_invariant(first):
        return _shifted(b, first, node)
    return None


def _sum(a: LinearForm, b: LinearForm) -> LinearForm | None:
    """The sum of two forms of the same columns."""
    if a.activation or b.activation or a.layout != b.layout:
        return None
    if a.columns.shape != b.columns.shape:
        return None
    terms = (*a.terms, *b.terms)
    if len(terms) > MOST_TERMS:
        return None
    return LinearForm(a.layout, terms, (*a.biases, *b.biases))


def _shifted(form: LinearForm, bias: Value, node: Node) -> LinearForm | None:
    """The sum of a form and of what is the same for all rows of the batch."""
    shape = bias.type.shape
    if len(form.biases) == MOST_TERMS:
        return None
    if form.activation or not bias.type.is_static or len(shape) > len(form.layout):
        return None
    if node.out.type.rank != len(form.layout):
        return None
    aligned = (*[1] * (len(form.layout) - len(shape)), *bias.type.static_shape)
    pairs = list(zip(aligned, form.layout, strict=True))
    if any(size != 1 for size, tag in pairs if tag != COLUMN):
        return None
    own = [size for size, tag in pairs if tag == COLUMN]
    places = np.arange(int(np.prod(own))).reshape(own)
    try:
        columns = np.broadcast_to(places, form.columns.shape)
    except ValueError:  # the bias is wider than the form
        return None
    if is_zero(bias):
        return form  # that it makes 0 of -0 matters to no gate
    return replace(form, biases=(*form.biases, Bias(bias, columns)))


def is_zero(value: Value) -> bool:
    """Return True for zeros in any shape."""
    tensor = value.origin(VIEWS).const
    if tensor is None or not tensor.is_small:
        return False
    return not np.any(tensor.load())


def _activation(reader: FormReader, node: Node) -> LinearForm | None:
    """The form of an operand without an activation, with this one."""
    form = reader.forms.get(node.operand(0))
    if form is None or form.activation:
        return None
    return replace(form, activation=ACTIVATIONS[node.op])


Rule: TypeAlias = Callable[[FormReader, Node], "LinearForm | None"]
RULES: dict[str, Rule] = {
    "onnx.Add": _add,
    "onnx.Concat": _concat,
    "onnx.Gather": _gather,
    "onnx.MatMul": _matmul,
    "onnx.Slice": _slice,
    "onnx.Transpose": _transpose,
    **dict.fromkeys(RESHAPES, _reshape),
    **dict.fromkeys(ACTIVATIONS, _activation),
}
