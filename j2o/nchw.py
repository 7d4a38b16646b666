"""NCHW at the boundary: some inputs and outputs of a model have their channels in front.

The program has them last: it is written for NHWC. `take_inputs` and `give_outputs` put one transpose at
each chosen tensor of the graph; `to_nchw` and `to_nhwc` do the same to the arrays when the model is
called as the program would be.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from j2o.errors import SpecError, shortened, shown
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.types import Type

# where each axis of the result was before
TO_NHWC = (0, 2, 3, 1)
TO_NCHW = (0, 3, 1, 2)


def positions(
    argument: str,
    chosen: Sequence[str | int],
    names: Sequence[str],
    types: Sequence[Type],
) -> tuple[int, ...]:
    """Flat indices of tensors given by name or index, each once.

    SpecError where there is no such 4-D tensor.
    """
    found: dict[int, None] = {}
    for one in chosen:
        index = _index(one, names)
        if index is None:
            there = shortened(", ".join(names), 120)
            raise SpecError(f"{argument}: there is no {shown(one)}; there are {there}")
        if types[index].rank != 4:
            what = f"{names[index]!r} is {types[index]}, 4 axes are needed"
            raise SpecError(f"{argument}: {what}")
        found[index] = None
    return tuple(found)


def _index(one: str | int, names: Sequence[str]) -> int | None:
    """The index of a tensor that is given by its name or its index; None where there is none."""
    if isinstance(one, str):
        return names.index(one) if one in names else None
    return one if 0 <= one < len(names) else None


def take_inputs(graph: Graph, chosen: Sequence[int]) -> None:
    """Let the graph take these 4-D inputs as NCHW; what follows goes on in NHWC."""
    for i in chosen:
        value = graph.inputs[i]
        nhwc = value.type
        n, h, w, c = nhwc.shape
        value.retype(nhwc.with_shape((n, c, h, w)))
        inner = graph.insert(_transpose(value, TO_NHWC, nhwc), before=graph.start)
        value.replace_by(inner.out, where=lambda user, inner=inner: user is not inner)


def give_outputs(graph: Graph, chosen: Sequence[int]) -> None:
    """Let the graph give these 4-D outputs as NCHW."""
    outputs = list(graph.outputs)
    for i in chosen:
        nhwc = outputs[i].type
        n, h, w, c = nhwc.shape
        nchw = nhwc.with_shape((n, c, h, w))
        outputs[i] = graph.insert(_transpose(outputs[i], TO_NCHW, nchw)).out
    graph.set_outputs(outputs)


def _transpose(value: Value, axes: tuple[int, ...], result: Type) -> Node:
    attrs = {"permutation": axes}
    return Node("lax.transpose", [value], [result], attrs, (), None, [value.hint])


def to_nchw(array: np.ndarray) -> np.ndarray:
    """An array of NHWC in NCHW; an axis for the parts of complex numbers or keys stays the last."""
    return _permuted(array, TO_NCHW)


def to_nhwc(array: np.ndarray) -> np.ndarray:
    """An array of NCHW in NHWC; an axis for the parts of complex numbers or keys stays the last."""
    return _permuted(array, TO_NHWC)


def _permuted(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    rest = range(len(axes), array.ndim)
    return array.transpose((*axes, *rest))
