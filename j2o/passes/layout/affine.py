"""`affine`: scales and shifts of channels go into the weights and the bias of a linear operator beside them.

    Conv(x, w, b) · scale + shift   becomes   Conv(x, w · scale, b · scale + shift)
    Conv(x · scale, w)              becomes   Conv(x, w · scale)

So a batch norm in evaluation disappears, the scale of attention becomes part of a projection's
weights, and a bias that is added behind a change of shape is added in front of it. First comes what a
linear operator is (`Linear`), then what stands behind it (`ChannelMap`), then what stands in front
(`ScaledInput`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

import numpy as np

from j2o.ir import views
from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.tensor import ArrayTensor, Tensor
from j2o.passes.layout.channels import NOWHERE, Channels, channels_behind, numbers_of
from j2o.passes.pipeline import graph_pass

Factor = TypeVar("Factor", float, np.ndarray)  # one number, or one a channel
# these are no linear operators, but have a scale and a bias for each channel
NORMS = frozenset(["onnx.InstanceNormalization"])
AFFINE = frozenset(["onnx.Add", "onnx.Div", "onnx.Mul", "onnx.Neg", "onnx.Sub"])


@graph_pass("affine", at="onnx", level=2)
def affine(graph: Graph) -> int:
    """Fold scales and shifts into the weights and biases of operators with a number for each channel."""
    count = 0
    for node in graph:
        linear = _linear(node)
        if linear is not None:
            count += _fold_input(linear)
            count += _fold_output(linear)
    return count


def factor_of(
    node: Node, read: Callable[[Value], Factor | None]
) -> tuple[Value, Factor] | None:
    """What a product or a quotient is of, and by which constant that is multiplied; None for others.

    `read` gives the number, or numbers, that a value is; None where it does not know.
    """
    if node.op not in ("onnx.Mul", "onnx.Div"):
        return None
    left, right = node.operands
    number = read(right)
    if node.op == "onnx.Div":
        if number is None or not np.all(number):
            return None
        return left, 1.0 / number
    if number is not None:
        return left, number
    number = read(left)
    return None if number is None else (right, number)


# --------------------------------------------------------------------- linear operators


class Linear(NamedTuple):
    """A linear operator: where its weights are, and which of their axes count what.

    Both the weights and the result have an axis for the channels of the result. Both the weights and the
    source have an axis for the inputs, which are multiplied by the weights and summed.
    """

    node: Node
    weight_at: int  # which operand the weights are
    weight_channel_axis: int
    result_channel_axis: int
    # None where a factor of an input has no place in the weights
    weight_input_axis: int | None
    source_input_axis: int

    @property
    def weight(self) -> Value:
        return self.node.operand(self.weight_at)

    @property
    def source(self) -> Value:
        """The operand that is multiplied by the weights."""
        return self.node.operand(1 - self.weight_at)

    @property
    def takes_bias(self) -> bool:
        """Return True where the operator has an operand for a bias."""
        return self.node.op != "onnx.MatMul"

    @property
    def bias(self) -> Value | None:
        return self.node.optional(2)

    @property
    def can_scale(self) -> bool:
        """Return True where the weights are its own, and wide enough to be rounded once more."""
        is_own = len(self.weight.uses) == 1 or self.node.op in NORMS
        is_wide = self.node.out.type.dtype.bits >= 32
        is_grouped = self.node.int_attr("group", 1) != 1
        is_mixed = is_grouped and self.node.op == "onnx.ConvTranspose"
        return is_own and is_wide and not is_mixed


def _linear(node: Node) -> Linear | None:
    """The description of a node that is a linear operator of floats with constant weights.

    None for others.
    """
    described = DESCRIBED.get(node.op)
    if described is None or not node.out.type.dtype.is_float:
        return None
    linear = described(node)
    if linear is None:
        return None
    is_known = linear.weight.const is not None
    return linear if is_known and _bias_is_known(linear) else None


def _linear_conv(node: Node) -> Linear:
    """The weights are (channels, inputs, places…); with groups each meets the inputs of its own group."""
    is_grouped = node.int_attr("group", 1) != 1
    return Linear(
        node,
        weight_at=1,
        weight_channel_axis=0,
        result_channel_axis=1,
        weight_input_axis=None if is_grouped else 1,
        source_input_axis=1,
    )


def _linear_conv_transpose(node: Node) -> Linear:
    """The weights are (inputs, channels, places…)."""
    return Linear(
        node,
        weight_at=1,
        weight_channel_axis=1,
        result_channel_axis=1,
        weight_input_axis=0,
        source_input_axis=1,
    )


def _linear_norm(node: Node) -> Linear:
    """The weights are (channels): they scale what is normalised already, whatever the factor of the input."""
    return Linear(
        node,
        weight_at=1,
        weight_channel_axis=0,
        result_channel_axis=1,
        weight_input_axis=None,
        source_input_axis=1,
    )


def _linear_gemm(node: Node) -> Linear | None:
    """The weights are (inputs, channels), with `transB` (channels, inputs)."""
    if node.attrs.get("beta", 1.0) != 1.0 or node.attrs.get("transA"):
        return None
    is_transposed = bool(node.attrs.get("transB"))
    return Linear(
        node,
        weight_at=1,
        weight_channel_axis=0 if is_transposed else 1,
        result_channel_axis=1,
        weight_input_axis=1 if is_transposed else 0,
        source_input_axis=1,
    )


def _linear_matmul(node: Node) -> Linear | None:
    """A product with one constant matrix, on either side."""
    left = node.operand(0)
    right = node.operand(1)
    rank = node.out.type.rank
    if right.const is not None and right.type.rank == 2:
        return Linear(
            node,
            weight_at=1,
            weight_channel_axis=1,
            result_channel_axis=rank - 1,
            weight_input_axis=0,
            source_input_axis=left.type.rank - 1,
        )
    if left.const is not None and left.type.rank == 2 and right.type.rank >= 2:
        return Linear(
            node,
            weight_at=0,
            weight_channel_axis=0,
            result_channel_axis=rank - 2,
            weight_input_axis=1,
            source_input_axis=right.type.rank - 2,
        )
    return None


DESCRIBED: dict[str, Callable[[Node], Linear | None]] = {
    "onnx.Conv": _linear_conv,
    "onnx.ConvTranspose": _linear_conv_transpose,
    "onnx.Gemm": _linear_gemm,
    "onnx.InstanceNormalization": _linear_norm,
    "onnx.MatMul": _linear_matmul,
}


def _bias_is_known(linear: Linear) -> bool:
    """Return True where there is no bias, or one with a constant number a channel."""
    if not linear.takes_bias or linear.bias is None:
        return True
    return _bias_numbers(linear, linear.bias) is not None


def _bias_numbers(linear: Linear, bias: Value) -> np.ndarray | None:
    """The bias as one number a channel. A bias of rank 1 has its one axis for the channels."""
    rank = max(bias.type.rank, 1)
    last = Channels((rank - 1,), (_channel_count(linear),))
    return numbers_of(bias, rank, last)


def _channel_count(linear: Linear) -> int:
    return linear.weight.type.static_shape[linear.weight_channel_axis] * _groups(linear)


def _groups(linear: Linear) -> int:
    """How often the weights' channels are there: ConvTranspose has them once for each group."""
    if linear.node.op != "onnx.ConvTranspose":
        return 1
    return linear.node.int_attr("group", 1)


# ----------------------------------------------------------------------------- the maps


@dataclass
class ChannelMap:
    """y ↦ scale · y + shift with one number a channel, in double precision.

    `nodes` are those that it stands for. Where `channels` are nowhere, each element depends on all
    channels, and only a common factor can be taken.
    """

    scale: np.ndarray
    shift: np.ndarray
    channels: Channels
    can_scale: bool
    name: str = ""  # where the user has the shift, or the first of several
    nodes: list[Node] = field(default_factory=list)

    def follow(self, out: Value) -> None:
        """Compose with the nodes behind `out`, one user after the other, as far as they are such maps."""
        while (user := out.only_user) is not None:
            if user.op in AFFINE:
                if not self._then(user, out):
                    return
                self.nodes.append(user)
                if user.op in ("onnx.Add", "onnx.Sub"):
                    self._take_name(user)
            elif user.op == "onnx.MatMul":  # linear in each operand
                self.channels = NOWHERE
            else:
                moved = channels_behind(user, self.channels)
                if moved is None:
                    return
                self.channels = moved
            out = user.out

    def _then(self, user: Node, value: Value) -> bool:
        """Compose with what a node makes of `value`; False, and no change, where that is no such map."""
        if user.out.type != value.type:
            return False
        if user.op == "onnx.Neg":
            return self._multiply(-1.0)
        is_left = user.operand(0) is value
        other = user.operand(1 if is_left else 0)
        number = numbers_of(other, value.type.rank, self.channels)
        if number is None:
            return False
        match user.op:
            case "onnx.Mul":
                return self._multiply(number)
            case "onnx.Div":
                # something divided by the value, or a channel divided by zero
                if not is_left or not number.all():
                    return False
                return self._multiply(1.0 / number)
            case "onnx.Sub" if is_left:
                return self._add(-number)
            case "onnx.Sub":
                return self._can_add() and self._multiply(-1.0) and self._add(number)
            case _:
                return self._add(number)

    def _take_name(self, user: Node) -> None:
        """Name the shift after a constant that is added, where it has no name yet."""
        names = [v.const.name for v in user.operands if v.const is not None]
        self.name = self.name or "".join(names)

    def _multiply(self, factor: np.ndarray | float) -> bool:
        if not self.can_scale:
            return False
        self.scale = self.scale * factor
        self.shift = self.shift * factor
        return True

    def _can_add(self) -> bool:
        return bool(self.channels.axes)

    def _add(self, number: np.ndarray) -> bool:
        if not self._can_add():
            return False
        self.shift = self.shift + number
        return True

    @property
    def scales(self) -> bool:
        return not (self.scale == 1).all()

    @property
    def shifts(self) -> bool:
        return bool(self.shift.any())


def _are_finite(found: ChannelMap | ScaledInput, dtype: np.dtype) -> bool:
    """Return True where the numbers of a scale and a shift are finite in a float dtype."""
    largest = np.finfo(dtype).max
    numbers = (found.scale, found.shift)
    return all((np.abs(each) <= largest).all() for each in numbers)


# ------------------------------------------------------------------- behind an operator


@np.errstate(all="ignore")  # what is not finite in the end is left alone
def _fold_output(linear: Linear) -> int:
    """linear(x, w) · scale + shift → linear(x, w · scale) + shift; returns how many nodes went."""
    count = _channel_count(linear)
    bias = linear.bias if linear.takes_bias else None
    known = None if bias is None else _bias_numbers(linear, bias)
    found = ChannelMap(
        scale=np.ones(count),
        shift=np.zeros(count) if known is None else known,
        channels=Channels((linear.result_channel_axis,), (count,)),
        can_scale=linear.can_scale,
        name=bias.const.name if bias is not None and bias.const is not None else "",
    )
    found.follow(linear.node.out)
    dtype = linear.node.out.type.dtype
    if dtype.bits < 32 and (linear.takes_bias or len(found.nodes) > 1):
        return 0  # each step of the program rounds, which only one addition keeps
    if not _is_worth(linear, found) or not _are_finite(found, dtype.numpy):
        return 0
    _rebuild(linear, found)
    return len(found.nodes)


def _is_worth(linear: Linear, found: ChannelMap) -> bool:
    """Return True where nodes go, or where the one addition moves in front of changes of shape."""
    if not found.nodes:
        return False
    added = 0 if linear.takes_bias or not found.shifts else 1
    if added < len(found.nodes):
        return True
    return linear.node.out not in found.nodes[0].inputs


def _rebuild(linear: Linear, found: ChannelMap) -> None:
    """Make the operator with other weights and bias, and let the nodes go that it stands for."""
    node = linear.node
    op = Builder(node.home, node, node.loc, node.out.hint)
    inputs = list(node.inputs[:2])
    if found.scales:
        inputs[linear.weight_at] = _scaled(
            op, linear, linear.weight_channel_axis, found.scale
        )
    shift = ArrayTensor(found.shift.astype(node.out.type.dtype.numpy), name=found.name)
    if linear.takes_bias and (found.shifts or linear.bias is not None):
        inputs.append(op.const(shift))
    new = op.node(node.op, inputs, node.attrs).out
    if not linear.takes_bias and found.shifts:
        behind = node.out.type.rank - 1 - linear.result_channel_axis
        new = op.Add(new, op.const(views.reshaped(shift, (shift.size, *[1] * behind))))
    value = node.out
    node.replace_by(new)
    for folded in found.nodes:
        value = next(v for v in folded.operands if v.const is None)
        folded.replace_by(value)


def _scaled(op: Builder, linear: Linear, axis: int, scale: np.ndarray) -> Value:
    """The weights times one factor for each slice along `axis`."""
    weight = linear.weight.const
    assert weight is not None
    shape = [1] * len(weight.shape)
    shape[axis] = -1
    factor = ArrayTensor(scale.astype(weight.dtype.numpy).reshape(shape))
    return op.const(views.mapped(np.multiply, "scaled", weight.type, weight, factor))


# -------------------------------------------------------------- in front of an operator

# (x - mean) · w is exact where x is near its mean, x · w - mean · w is not: a shift goes behind an operator
# only where it is at most this in the unit that the scale beside it gives
FARTHEST = 4.0
READ_AT_ONCE = 2**22  # elements of weights that are added up for a shift


@dataclass
class ScaledInput:
    """What an operator reads is scale · `value` + shift, one number for each of its inputs.

    The inputs lie along `axis` of `value`. `nodes` are those that scale and shift, the last first. Where it
    `is_padded`, zeros are added around the result.
    """

    value: Value
    axis: int
    scale: np.ndarray
    shift: np.ndarray
    nodes: tuple[Node, ...] = ()
    is_padded: bool = False

    @property
    def shifts(self) -> bool:
        return bool(self.shift.any())

    @property
    def in_front(self) -> np.ndarray:
        """The shift in the unit of `value`: scale · (`value` + this) is the same."""
        return self.shift / self.scale

    @property
    def is_normalised(self) -> bool:
        """Return True where the scale gives the unit, and the shift is small in it."""
        scales = any(node.op in ("onnx.Mul", "onnx.Div") for node in self.nodes)
        return scales and bool((np.abs(self.shift) <= FARTHEST).all())


@np.errstate(all="ignore")  # what is not finite is left alone
def _fold_input(linear: Linear) -> int:
    """linear(x · scale + shift, w) → linear(x, w · scale) + shift · w; returns how many nodes went.

    Where the shift cannot go behind, it stays in front, in the unit of x:
    linear(x + shift / scale, w · scale).
    """
    if linear.weight_input_axis is None or linear.source.only_user is None:
        return 0
    if not linear.can_scale:
        return 0
    best: ScaledInput | None = None
    most = 0
    for scaled in _scaled_inputs(linear, linear.weight_input_axis):
        saved = _saved(linear, scaled)
        if saved > most:
            best = scaled
            most = saved
    if best is not None:
        _rebuild_input(linear, linear.weight_input_axis, best)
    return most


def _saved(linear: Linear, scaled: ScaledInput) -> int:
    """How many nodes go with what scales and shifts; 0 where it has to stay."""
    if not _are_finite(scaled, linear.node.out.type.dtype.numpy):
        return 0
    if not scaled.shifts or _goes_behind(linear, scaled):
        return len(scaled.nodes)
    return len(scaled.nodes) - 1 if _goes_in_front(linear, scaled) else 0


def _goes_behind(linear: Linear, scaled: ScaledInput) -> bool:
    """Return True where a shift may be added to the result: shift · w."""
    return scaled.is_normalised and not scaled.is_padded and _can_shift(linear)


def _goes_in_front(linear: Linear, scaled: ScaledInput) -> bool:
    """Return True where a shift may be added before the scale: x + shift / scale.

    This rounds as the program does: a rounding of the sum, and one of the constant. The bound is for x near
    the end of its range, where such a sum rounds to x.
    """
    bound = math.sqrt(np.finfo(linear.node.out.type.dtype.numpy).max)
    return bool(scaled.scale.all() and (np.abs(scaled.in_front) <= bound).all())


def _can_shift(linear: Linear) -> bool:
    """Return True where each result adds all inputs, and a constant is added behind it anyway.

    A padded convolution does not see all inputs at the border.
    """
    node = linear.node
    if linear.weight.type.dtype.bits < 32 or linear.weight.const is None:
        return False
    if linear.weight.const.size > READ_AT_ONCE:
        return False
    if node.op == "onnx.Gemm":
        return node.attrs.get("alpha", 1.0) == 1.0
    if node.op == "onnx.Conv":
        pads = node.ints_attr("pads", ())
        return not any(pads) and node.str_attr("auto_pad", "NOTSET") == "NOTSET"
    user = node.out.only_user
    return node.op == "onnx.MatMul" and user is not None and _adds_numbers(linear, user)


def _adds_numbers(linear: Linear, user: Node) -> bool:
    """Return True where a node adds a constant number a channel to what an operator gives."""
    if user.op != "onnx.Add":
        return False
    rank = linear.node.out.type.rank
    channels = Channels((linear.result_channel_axis,), (_channel_count(linear),))
    return any(numbers_of(value, rank, channels) is not None for value in user.operands)


def _scaled_inputs(linear: Linear, input_axis: int) -> Iterator[ScaledInput]:
    """What the operator reads, in terms of what comes before one, two, … scales and shifts."""
    count = linear.weight.type.static_shape[input_axis]
    zeros = np.zeros(count)
    scaled = ScaledInput(linear.source, linear.source_input_axis, np.ones(count), zeros)
    while scaled.value.node is not None and scaled.value.only_user is not None:
        node = scaled.value.node
        if node.op == "onnx.Transpose":
            axis = node.ints_attr("perm")[scaled.axis]
            scaled = replace(scaled, value=node.operand(0), axis=axis)
        elif _pads_with_zeros(node, scaled.axis):
            if scaled.shifts:
                return  # zeros are added to what is shifted behind them
            scaled = replace(scaled, value=node.operand(0), is_padded=True)
        else:
            before = _before(node, scaled)
            if before is None or before.value.type != scaled.value.type:
                return
            yield before
            scaled = before


def _pads_with_zeros(node: Node, axis: int) -> bool:
    """Return True for a Pad of zeros, and of known amounts, on other axes than this one."""
    if node.op != "onnx.Pad" or node.str_attr("mode", "constant") != "constant":
        return False
    filled = node.optional(2)
    is_zero = filled is None or filled.number == 0
    pads = node.operand(1).known_ints
    if not is_zero or pads is None or node.optional(3) is not None:
        return False
    rank = node.out.type.rank
    return pads[axis] == 0 == pads[axis + rank]


def _before(node: Node, scaled: ScaledInput) -> ScaledInput | None:
    """`scaled` in terms of what a node scales or shifts; None where it does neither."""
    channels = Channels((scaled.axis,), scaled.scale.shape)
    read = functools.partial(numbers_of, rank=scaled.value.type.rank, channels=channels)
    nodes = (*scaled.nodes, node)
    product = factor_of(node, read)
    if product is not None:
        value, factor = product
        return replace(scaled, value=value, scale=scaled.scale * factor, nodes=nodes)
    if node.op not in ("onnx.Add", "onnx.Sub"):
        return None
    left, right = node.operands
    number = read(right)
    if number is None and node.op == "onnx.Add":
        left, right = right, left
        number = read(right)
    if number is None:
        return None
    added = number if node.op == "onnx.Add" else -number
    shift = scaled.shift + scaled.scale * added
    return replace(scaled, value=left, shift=shift, nodes=nodes)


def _rebuild_input(linear: Linear, input_axis: int, scaled: ScaledInput) -> None:
    """Give the operator other weights, add the shift where it may stand, and let the nodes go."""
    if scaled.shifts:
        if _goes_behind(linear, scaled):
            _add_behind(linear, input_axis, scaled)
        else:
            _add_in_front(scaled)
    node = linear.node
    op = Builder(node.home, node, node.loc, node.out.hint)
    node.set_input(linear.weight_at, _scaled(op, linear, input_axis, scaled.scale))
    for each in scaled.nodes:
        kept = next(v for v in each.operands if v.const is None)
        each.replace_by(kept)


def _add_behind(linear: Linear, input_axis: int, scaled: ScaledInput) -> None:
    """Add what the shift gives, times the weights, to the result."""
    node = linear.node
    weight = linear.weight.const
    assert weight is not None
    op = Builder(node.home, node.next, node.loc, node.out.hint)
    shift = _through_weights(weight, linear, input_axis, scaled.shift)
    added = op.Add(node.out, op.const(shift)).producer
    node.out.replace_by(added.out, where=lambda user: user is not added)


def _add_in_front(scaled: ScaledInput) -> None:
    """Add the shift, in the unit of what is read, where the first of the nodes stands."""
    first = scaled.nodes[-1]
    op = Builder(first.home, first.next, first.loc, first.out.hint)
    behind = first.out.type.rank - 1 - scaled.axis
    numbers = scaled.in_front.astype(first.out.type.dtype.numpy)
    shift = ArrayTensor(numbers.reshape(-1, *[1] * behind))
    added = op.Add(first.out, op.const(shift)).producer
    first.out.replace_by(added.out, where=lambda user: user is not added)


def _through_weights(
    weight: Tensor, linear: Linear, input_axis: int, shift: np.ndarray
) -> ArrayTensor:
    """What a constant input gives, a number a channel, in the shape in which it is added to the result."""
    numbers = weight.load().astype(np.float64)
    by_input = np.moveaxis(numbers, input_axis, -1) @ shift
    channel_axis = linear.weight_channel_axis
    if input_axis < channel_axis:
        channel_axis -= 1  # the axis of the inputs is gone
    others = [axis for axis in range(by_input.ndim) if axis != channel_axis]
    result = by_input.sum(axis=tuple(others)).astype(weight.dtype.numpy)
    behind = linear.node.out.type.rank - 1 - linear.result_channel_axis
    return ArrayTensor(result.reshape(-1, *[1] * behind))
