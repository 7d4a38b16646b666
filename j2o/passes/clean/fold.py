"""`fold`: constants that are computed from constants.

    Add(const 2, const 3)                   becomes   const 5
    Transpose(const @"dense/kernel")        becomes   const @"dense/kernel", transposed while it is written

Small constants are computed with (`computed.py`). Of large ones it is recorded what becomes of them
(`recorded.py`), where the model does not grow by that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from j2o.ir import views
from j2o.ir.copies import splice
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.tensor import SMALL, ArrayTensor, Tensor
from j2o.passes.clean.computed import COMPUTED, Compute
from j2o.passes.clean.recorded import RECORDED, RECORDED_LARGE, bytes_of
from j2o.passes.context import Context
from j2o.passes.pipeline import graph_pass

# how many times its size a large constant may grow by being broadcast or padded
GROWTH = 4


@graph_pass("fold", at="onnx", level=1)
def fold(graph: Graph, context: Context) -> int:
    """Replace nodes whose operands are constants by constants, and then the nodes behind these."""
    count = 0
    nodes = context.fresh(graph, fold, 0)
    is_whole = nodes is graph  # the users of a node come behind it
    while nodes:
        users: list[Node] = []
        for node in nodes:
            if node.graph is not graph:
                continue
            if node.op == "onnx.If" and _fold_if(node):
                count += 1
                continue
            new = _constants_of(node) if _is_constant(node) else None
            if new is None:
                continue
            if not is_whole:
                for value in new:
                    users += value.users()
            count += 1
        nodes = users
    return count


def _constants_of(node: Node) -> list[Value] | None:
    """The constants that are put in the place of a node of constants; None where it stays."""
    tensors = _fold_node(node)
    if tensors is None:
        return None
    new = [
        _insert_constant(node, found, old.hint)
        for found, old in zip(tensors, node.outputs, strict=True)
    ]
    node.replace_by(*new)
    return new


def _insert_constant(node: Node, found: Tensor, hint: str) -> Value:
    """A constant in front of a node, with its location."""
    types, attrs = (found.type,), {"value": found}
    const = Node("const", (), types, attrs, (), node.loc, (hint,))
    return node.home.insert(const, before=node).out


def _fold_if(node: Node) -> bool:
    """Put the branch that a constant predicate chooses in place of the If."""
    cond = node.inputs[0].const if node.inputs[0] is not None else None
    if cond is None:
        return False
    branch = node.graphs[0 if cond.scalar else 1]
    node.replace_by(*splice(branch, (), node))
    return True


def _fold_node(node: Node) -> tuple[Tensor, ...] | None:
    """The constants that the results of a node of constants are; None where it stays."""
    if node.dialect != "onnx":
        return None
    kind = node.kind
    record = RECORDED.get(kind)
    if record is None and kind not in COMPUTED:
        return None
    constants = [None if v is None else v.const for v in node.inputs]
    is_large = any(c is not None and not c.is_small for c in constants)
    if is_large:
        record = record or RECORDED_LARGE.get(kind)
        if record is None or not _pays(node):
            return None
    elif not _stays_small(node):
        return None
    if record is None:
        return _compute(node, COMPUTED[kind], constants)
    recorded = record(node, *constants)
    return (recorded,) if isinstance(recorded, Tensor) else recorded


def _is_constant(node: Node) -> bool:
    """Return True where the operands are constants and the results have static shapes."""
    if not node.inputs:
        return False
    for value in node.inputs:  # most nodes end here, and a loop is faster than `any`
        if value is not None and (value.node is None or value.node.op != "const"):
            return False
    return all(v.type.is_static for v in node.outputs)


def _stays_small(node: Node) -> bool:
    """Return True where small operands give a small result, or only stand in another order in it."""
    size = sum(map(bytes_of, node.outputs))
    is_recorded = node.kind in RECORDED
    return size <= SMALL or (is_recorded and size <= sum(map(bytes_of, node.operands)))


def _pays(node: Node) -> bool:
    """Return True where folding a node of large constants leaves a model of about the same size."""
    operands = node.operands
    if sum(map(bytes_of, node.outputs)) > GROWTH * sum(map(bytes_of, operands)):
        return False
    return all(map(_may_go, operands))


def _may_go(value: Value) -> bool:
    """Return True where a constant is small, or will not be stored beside what is made of it."""
    if value.const is not None and value.const.is_small:
        return True
    return len(value.uses) == 1 or _used_in_parts(value)


def _used_in_parts(value: Value) -> bool:
    """Return True where what all uses of a large constant make of it is recorded too and no larger in all."""
    users = list(value.users())
    if not all(map(_is_recorded, users)):
        return False
    parts = [part for user in users for part in user.outputs]
    return sum(map(bytes_of, parts)) <= bytes_of(value)


def _is_recorded(node: Node) -> bool:
    """Return True for a node of constants that is recorded, whatever its size."""
    if node.dialect != "onnx":
        return False
    if node.kind not in RECORDED and node.kind not in RECORDED_LARGE:
        return False
    return _is_constant(node)


def _compute(
    node: Node, compute: Compute, constants: Sequence[Tensor | None]
) -> tuple[Tensor, ...] | None:
    """The result of a node in its dtype; None where `compute` declines."""
    arrays = [None if c is None else c.load() for c in constants]
    # the program's numbers may overflow, also where they are rounded to its dtype
    with np.errstate(all="ignore"):
        out = compute(node, *arrays)
        if out is None:
            return None
        array = np.asarray(out).astype(node.out.type.dtype.numpy, copy=False)
    if array.shape != node.out.type.shape:
        raise ValueError(
            f"folding {node.op} gave {array.shape} instead of {node.out.type}"
        )
    name = views.name_of_one([c for c in constants if c is not None])
    contiguous = np.ascontiguousarray(array).reshape(array.shape)
    return (ArrayTensor(contiguous, name=name),)
