"""The builder: `op.Add(x, 1.0)` makes one node, infers its type, and inserts it.

Attribute access gives operations: `op.Relu` is `onnx.Relu`, `op.lax.exp` is `lax.exp`, `op.ort.FusedMatMul` a contrib
operator. Operands may be values, None (an optional input left out), Python scalars and numpy arrays; the latter become
constants, scalars of the dtype of the first value among the operands.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from j2o.ir.graph import Graph, Loc, Node, Value
from j2o.ir.ops import spec
from j2o.ir.tensor import ArrayTensor, Tensor, tensor
from j2o.ir.types import Attr, Dim, DType, Shape, Type, is_one, same_dim, same_shape

_SCALARS = {bool: DType.BOOL, int: DType.I64, float: DType.F32}
POOLED = 64  # bytes; constants up to this size are looked up before they are made


class Dialect:
    """Operations of one domain as methods: `op.lax.exp(x)`."""

    def __init__(self, apply: Callable[..., Any], name: str) -> None:
        self._apply, self._name = apply, name

    def __getattr__(self, kind: str) -> Callable[..., Any]:
        return functools.partial(self._apply, f"{self._name}.{kind}")


class Builder:
    """Inserts nodes into `graph`, before `before` or at the end; `loc` and `hint` go to what it makes.

    The lowering driver sets `node` (the node being lowered), `types` (the types its rule must produce) and `target`.
    """

    def __init__(
        self,
        graph: Graph,
        before: Node | None = None,
        loc: Loc | None = None,
        hint: str = "",
    ) -> None:
        self.graph, self.before, self.loc, self.hint = graph, before, loc, hint
        self.made: list[Node] = []
        self.target: Any = None

    @property
    def lax(self) -> Dialect:
        """`op.lax.exp(x)`."""
        return Dialect(self.apply, "lax")

    @property
    def ort(self) -> Dialect:
        """`op.ort.FusedMatMul(x, y)`, contrib operators of onnxruntime."""
        return Dialect(self.apply, "ort")

    def at(self, node: Node) -> Builder:
        """A builder that inserts before `node`, with its location and hint."""
        assert node.graph is not None
        other = Builder(
            node.graph, node, node.loc, node.outputs[0].hint if node.outputs else ""
        )
        other.target = self.target
        return other

    # ------------------------------------------------------------------- nodes

    def node(
        self,
        op: str,
        inputs: Sequence[Value | None],
        attrs: Mapping[str, Attr] | None = None,
        types: Sequence[Type] | None = None,
        graphs: Sequence[Graph] = (),
    ) -> Node:
        """Make and insert one node; its types are inferred where they are not given."""
        node = Node(op, inputs, types or (), attrs, graphs, self.loc)
        if types is None:
            try:
                inferred = spec(op).infer(node)
            except Exception:
                node.set_inputs(())
                raise
            node.outputs = tuple(
                [Value(t, node, i, self.hint) for i, t in enumerate(inferred)]
            )
        else:
            for value in node.outputs:
                value.hint = self.hint
        self.graph.insert(node, before=self.before)
        self.made.append(node)
        return node

    def apply(
        self,
        op: str,
        *operands: Any,
        types: Sequence[Type] | None = None,
        graphs: Sequence[Graph] = (),
        **attrs: Any,
    ) -> Any:
        """One node; returns its value, or the tuple of its values where there are several.

        Attributes that are None are left out. `types` gives the output types where inference cannot know them.
        """
        values: Sequence[Value | None] = operands
        if any([type(v) is not Value for v in operands]):
            like = next((v.type.dtype for v in operands if isinstance(v, Value)), None)
            values = [self.value(v, like) for v in operands]
        if types is not None:
            types = [t.with_shape(plain_shape(t.shape)) for t in types]
        plain = (
            {k: attribute(v) for k, v in attrs.items() if v is not None}
            if attrs
            else None
        )
        outputs = self.node(op, values, plain, types, graphs).outputs
        return outputs[0] if len(outputs) == 1 else outputs

    def __getattr__(self, kind: str) -> Callable[..., Any]:
        if not kind[:1].isupper():
            raise AttributeError(kind)
        return functools.partial(self.apply, f"onnx.{kind}")

    # --------------------------------------------------------------- constants

    def value(self, v: Any, like: DType | None = None) -> Value | None:
        """`v` as an operand: scalars become constants of dtype `like`, arrays keep theirs."""
        if v is None or isinstance(v, Value):
            return v
        if isinstance(v, Tensor | np.ndarray | np.generic):
            return self.const(v)
        return self.const(v, like)

    def const(self, value: Any, dtype: DType | None = None) -> Value:
        """A constant of a scalar, a sequence, an array or a `Tensor`; Python ints are i64 and floats f32 without `dtype`.

        A graph holds a small constant once, at its front.
        """
        if type(value) in _SCALARS:
            dtype = dtype or _SCALARS[type(value)]
            return self.pooled(
                (dtype, repr(value)), "const", lambda: {"value": tensor(value, dtype)}
            )
        if dtype is None and not isinstance(value, Tensor | np.ndarray | np.generic):
            kind = np.asarray(value).dtype.kind
            dtype = {"b": DType.BOOL, "i": DType.I64, "u": DType.I64, "f": DType.F32}[
                kind
            ]
        if dtype is not None and isinstance(value, np.ndarray | np.generic):
            value = np.asarray(value).astype(dtype.numpy)
        made = tensor(value, dtype)
        if isinstance(made, ArrayTensor) and made.array.nbytes <= POOLED:
            key = (made.dtype, made.shape, made.array.tobytes())
            return self.pooled(key, "const", lambda: {"value": made})
        return self.node("const", (), {"value": made}).out

    def pooled(
        self, key: Hashable, op: str, attrs: Callable[[], Mapping[str, Attr]]
    ) -> Value:
        """The node without operands that `key` stands for; made where the graph does not have it yet."""

        def make() -> Node:
            node = Node(op, (), (), attrs(), (), self.loc)
            node.outputs = (Value(spec(op).infer(node)[0], node, 0, self.hint),)
            self.made.append(node)
            return node

        return self.graph.pooled(key, make)

    def full(self, shape: Shape, value: Any, dtype: DType) -> Value:
        """A tensor of one value, of any (also symbolic) shape: a scalar constant expanded."""
        return self.expand(self.const(value, dtype), shape)

    def dims(self, dims: Sequence[Dim]) -> Value:
        """A shape vector: `i64[n]`, a constant where it is static."""
        dims = plain_shape(dims)
        if all(type(d) is int for d in dims):
            return self.pooled(
                dims, "const", lambda: {"value": tensor(dims, DType.I64)}
            )
        return self.pooled(dims, "dims", lambda: {"dims": dims})

    def dim(self, dim: Dim, dtype: DType = DType.I64) -> Value:
        """A size as a scalar of `dtype`."""
        (dim,) = plain_shape((dim,))
        if type(dim) is int:
            return self.const(dim, dtype)
        return self.cast(self.Reshape(self.dims((dim,)), self.dims(())), dtype)

    # -------------------------------------- the few that every rule needs, no node where none is needed

    def cast(self, x: Value, dtype: DType) -> Value:
        """ONNX Cast, which saturates no float and rounds to the nearest; `x` itself where it has the dtype."""
        if x.type.dtype == dtype:
            return x
        saturate = 0 if dtype.is_float and dtype.bits == 8 else None
        round_mode = "nearest" if dtype is DType.F8E8M0FNU else None  # "up" by default
        return self.Cast(x, to=dtype, saturate=saturate, round_mode=round_mode)

    def reshape(self, x: Value, shape: Shape) -> Value:
        """`x` in another static or symbolic shape."""
        view = self.view(x, shape)
        return (
            view if view is not None else self.Reshape(x, self.dims(shape), allowzero=1)
        )

    def view(self, x: Value, shape: Shape) -> Value | None:
        """`x` in a shape that differs by axes of size 1 alone, by Unsqueeze or Squeeze; None for another shape."""
        have, want = x.type.shape, plain_shape(shape)
        if same_shape(have, want):
            return x
        if len(want) > len(have) and (axes := ones_added(have, want)) is not None:
            return self.Unsqueeze(x, self.dims(axes))
        if len(want) < len(have) and (axes := ones_added(want, have)) is not None:
            return self.Squeeze(x, self.dims(axes))
        return None

    def expand(self, x: Value, shape: Shape) -> Value:
        """`x` broadcast to `shape` (numpy's rules)."""
        shape = plain_shape(shape)
        if 0 in shape and all(
            type(d) is int for d in shape
        ):  # onnxruntime drops an Expand of ones to nothing
            return self.const(np.zeros(shape, x.type.dtype.numpy))
        return (
            x if same_shape(x.type.shape, shape) else self.Expand(x, self.dims(shape))
        )

    def transpose(self, x: Value, perm: Sequence[int]) -> Value:
        perm = tuple(int(p) for p in perm)
        return x if perm == tuple(range(len(perm))) else self.Transpose(x, perm=perm)

    def unsqueeze(self, x: Value, axes: Sequence[int]) -> Value:
        return self.Unsqueeze(x, self.dims(axes)) if len(axes) else x

    def squeeze(self, x: Value, axes: Sequence[int]) -> Value:
        return self.Squeeze(x, self.dims(axes)) if len(axes) else x

    def slice(self, x: Value, axis: int, start: Dim, end: Dim, step: int = 1) -> Value:
        """`x[start:end:step]` along one axis; bounds may be symbolic and lie inside the axis."""
        start, end = plain_shape((start, end))
        if (
            type(start) is int
            and start == 0
            and step == 1
            and end == x.type.shape[axis]
        ):
            return x
        return self.Slice(
            x,
            self.dims((start,)),
            self.dims((end,)),
            self.dims((axis,)),
            self.dims((step,)),
        )

    def region(
        self,
        name: str,
        types: Sequence[Type],
        body: Callable[..., Any],
        hints: Sequence[str] = (),
    ) -> Graph:
        """A region graph: `body(op, *inputs)` builds it and returns its value or values."""
        graph = Graph(name)
        inputs = [
            graph.add_input(t, hints[i] if i < len(hints) else "")
            for i, t in enumerate(types)
        ]
        inner = copy.copy(self)
        inner.graph, inner.before, inner.made = graph, None, []
        results = body(inner, *inputs)
        graph.set_outputs([results] if isinstance(results, Value) else list(results))
        return graph


def attribute(value: Any) -> Attr:
    """An attribute as plain immutable data: numpy's numbers and lists of them become Python's."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if type(value) in (list, tuple):  # a named tuple stays one
        return tuple([attribute(v) for v in value])
    return (
        value.item()
        if isinstance(value, np.integer | np.floating | np.bool_)
        else value
    )


def plain_shape(shape: Iterable[Dim]) -> Shape:
    """A shape of any sequence, numpy's integers as Python's."""
    return tuple([d.item() if isinstance(d, np.integer) else d for d in shape])


def ones_added(short: Shape, long: Shape) -> list[int] | None:
    """Which axes of `long`, all of size 1, `short` lacks; None where that is not the difference."""
    axes, rest = [], list(short)
    for k in reversed(
        range(len(long))
    ):  # from the end: of several in a row the first are those added
        if rest and same_dim(rest[-1], long[k]):
            rest.pop()
        elif is_one(long[k]):
            axes.append(k)
        else:
            return None
    return None if rest else axes[::-1]
