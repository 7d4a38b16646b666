"""`pads`: zeros around the places of a convolution's input become its attribute `pads`."""

from __future__ import annotations

from collections.abc import Sequence

from j2o.ir.graph import Value
from j2o.passes.rewriting.rule import RuleSet, rewrite


@rewrite("conv_pads")
def conv_pads(op, x, widths, filled, perm):
    """A convolution of a tensor with zeros around it, in the layout of the convolution or another."""
    around = op.Pad(x, widths, filled)
    operand = op.either(op.Transpose(around, perm=perm), around)
    any_attribute = dict.fromkeys(
        ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"), ...
    )
    return op.Conv(operand, ..., **any_attribute)


@conv_pads.becomes
def _(op, x, widths, filled, perm):
    conv = op.root
    order = range(x.type.rank) if perm is None else perm
    around = _around_places(widths, order)
    if around is None or filled.number != 0:
        return None
    if conv.str_attr("auto_pad", "NOTSET") != "NOTSET":
        return op.decline("the convolution pads by itself")
    own = conv.ints_attr("pads", [0] * len(around))
    pads = tuple(one + other for one, other in zip(own, around, strict=True))
    inputs = [op.transpose(x, order), *conv.inputs[1:]]
    return op.node(conv.op, inputs, {**conv.attrs, "pads": pads}).out


def _around_places(widths: Value, order: Sequence[int]) -> Sequence[int] | None:
    """How much is put before each place axis, then behind each, in another order of the axes.

    None where it is not known, where something is cut off, or something is put around examples or channels.
    """
    known = widths.known_ints
    rank = len(order)
    if known is None or len(known) != 2 * rank or min(known) < 0:
        return None
    before = [known[axis] for axis in order]
    behind = [known[rank + axis] for axis in order]
    if any((*before[:2], *behind[:2])):
        return None
    return (*before[2:], *behind[2:])


pads = RuleSet("pads", (conv_pads,), doc="Pad with zeros into Conv.")
