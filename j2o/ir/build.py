"""The builder: `op.Add(x, 1.0)` makes one node, infers its type, and inserts it.

Attribute access gives operations: `op.Relu` is `onnx.Relu`, `op.lax.exp` is `lax.exp`,
`op.ort.FusedMatMul` a contrib operator. Operands may be values, None (an optional input left out),
Python scalars and numpy arrays. The latter two become constants: arrays of their own dtype, scalars
of that of the first value among the operands.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from j2o.ir.graph import Graph, Node, Value
from j2o.ir.node import Loc
from j2o.ir.ops import spec
from j2o.ir.tensor import ArrayTensor, Tensor, tensor
from j2o.ir.types import (
    Attr,
    Dim,
    DType,
    Shape,
    Type,
    are_integers,
    dtype_of,
    is_one,
    same_dim,
    same_shape,
)

if TYPE_CHECKING:
    from j2o.ir.target import Target

# the dtypes of Python's scalars, and of numpy's kinds where these hold sequences of them
_SCALARS = {bool: DType.BOOL, int: DType.I64, float: DType.F32}
_OF_KIND = {"b": DType.BOOL, "i": DType.I64, "u": DType.I64, "f": DType.F32}
POOLED = 64  # bytes; constants up to this size are looked up before they are made
# what most attributes are, which is plain already
_PLAIN = frozenset({bool, int, float, str, DType})
_VALUES = frozenset({Value})
_NUMPY_INTEGERS = frozenset(np.dtype(code).type for code in np.typecodes["AllInteger"])


class Dialect:
    """Operations of one domain as methods: `op.lax.exp(x)`."""

    def __init__(self, apply: Callable[..., Any], name: str) -> None:
        self._apply = apply
        self._name = name

    def __getattr__(self, kind: str) -> Callable[..., Any]:
        return functools.partial(self._apply, f"{self._name}.{kind}")


class Builder:
    """Inserts nodes into `graph`, in front of `before` or at the end; `loc` and `hint` go to what it makes.

    `made` lists its nodes in the order in which they were made. `target` is what must be able to
    run them, where whoever made the builder has set it.
    """

    def __init__(
        self,
        graph: Graph,
        before: Node | None = None,
        loc: Loc | None = None,
        hint: str = "",
    ) -> None:
        self.graph = graph
        self.before = before
        self.loc = loc
        self.hint = hint
        self.made: list[Node] = []
        self.target: Target | None = None

    @property
    def lax(self) -> Dialect:
        """`op.lax.exp(x)`."""
        return Dialect(self.apply, "lax")

    @property
    def ort(self) -> Dialect:
        """`op.ort.FusedMatMul(x, y)`, contrib operators of onnxruntime."""
        return Dialect(self.apply, "ort")

    # ------------------------------------------------------------------ the target

    @property
    def opset(self) -> int:
        """The opset of the target; 18, the oldest, where there is none."""
        return 18 if self.target is None else self.target.opset

    def prefers(self, kind: str, x: Value) -> bool:
        """Return True where the target runs ONNX's `kind` with the dtype of `x`, no slower than its parts."""
        if self.target is None:
            return False
        return self.target.prefers(f"onnx.{kind}", x.type.dtype)

    @property
    def orders_nan(self) -> bool:
        """Whether the target's TopK takes NaN for greater than all numbers."""
        return self.target is not None and self.target.orders_nan

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
        node = Node(op, inputs, (), attrs, graphs, self.loc)
        if types is None:
            try:
                types = spec(op).infer(node)
            except Exception:
                node.set_inputs(())
                raise
        node.make_outputs(types, self.hint)
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

        Attributes that are None are left out. `types` are the types of the outputs, where inference
        cannot know them.
        """
        values: Sequence[Value | None] = operands
        if not _VALUES.issuperset(map(type, operands)):
            like = next((v.type.dtype for v in operands if isinstance(v, Value)), None)
            values = [self.value(v, like) for v in operands]
        if types is not None:
            types = [t.with_shape(plain_shape(t.shape)) for t in types]
        if attrs:
            attrs = {k: attribute(v) for k, v in attrs.items() if v is not None}
        outputs = self.node(op, values, attrs, types, graphs).outputs
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
        if isinstance(v, Tensor) or _is_numpy(v):
            return self.const(v)
        return self.const(v, like)

    def const(self, value: Any, dtype: DType | None = None) -> Value:
        """A constant of a scalar, a sequence, an array or a `Tensor`, converted where `dtype` is given.

        Without it Python's integers are i64 and its floats f32. A graph holds a small constant
        once, at its front.
        """
        if type(value) in _SCALARS:
            return self._scalar(value, dtype or _SCALARS[type(value)])
        made = value if isinstance(value, Tensor) else _array(value, dtype)
        array = made.array if isinstance(made, ArrayTensor) else made
        if not isinstance(array, np.ndarray) or array.nbytes > POOLED:
            return self.node("const", (), {"value": tensor(made)}).out
        key = (dtype_of(array.dtype), array.shape, array.tobytes())
        return self.pooled(key, "const", lambda: {"value": tensor(made)})

    def _scalar(self, value: bool | int | float, dtype: DType) -> Value:
        """The constant of a Python scalar."""
        key = (dtype, repr(value))
        return self.pooled(key, "const", lambda: {"value": tensor(value, dtype)})

    def pooled(
        self, key: Hashable, op: str, attrs: Callable[[], Mapping[str, Attr]]
    ) -> Value:
        """The node without operands that `key` stands for, made where the graph does not have it yet.

        `op` and `attrs()` are what it is made of.
        """

        def make() -> Node:
            node = Node(op, (), (), attrs(), (), self.loc)
            node.make_outputs(spec(op).infer(node), self.hint)
            self.made.append(node)
            return node

        return self.graph.pooled(key, make)

    def full(self, shape: Shape, value: Any, dtype: DType) -> Value:
        """A tensor of one value, of any (also symbolic) shape: a scalar constant expanded."""
        return self.expand(self.const(value, dtype), shape)

    def dims(self, dims: Sequence[Dim]) -> Value:
        """A shape vector: `i64[n]`, a constant where it is static."""
        dims = plain_shape(dims)
        if are_integers(dims):

            def numbers() -> Mapping[str, Attr]:
                return {"value": tensor(dims, DType.I64)}

            return self.pooled(dims, "const", numbers)

        return self.pooled(dims, "dims", lambda: {"dims": dims})

    def dim(self, dim: Dim, dtype: DType = DType.I64) -> Value:
        """A size as a scalar of `dtype`."""
        (dim,) = plain_shape((dim,))
        if type(dim) is int:
            return self.const(dim, dtype)
        return self.cast(self.Reshape(self.dims((dim,)), self.dims(())), dtype)

    # ---------------------- the few that every rule needs, no node where none is needed

    def cast(self, x: Value, dtype: DType) -> Value:
        """`x` itself where it has the dtype, else ONNX Cast.

        It gives infinity where a float of 8 bits is too small, and rounds to the nearest.
        """
        if x.type.dtype == dtype:
            return x
        saturate = 0 if dtype.is_float and dtype.bits == 8 else None
        round_mode = "nearest" if dtype is DType.F8E8M0FNU else None  # "up" by default
        return self.Cast(x, to=dtype, saturate=saturate, round_mode=round_mode)

    def reshape(self, x: Value, shape: Shape) -> Value:
        """`x` in another static or symbolic shape."""
        view = self.view(x, shape)
        if view is not None:
            return view
        return self.Reshape(x, self.dims(shape), allowzero=1)

    def view(self, x: Value, shape: Shape) -> Value | None:
        """`x` in a shape that differs by axes of size 1 alone; None for other shapes.

        Unsqueeze or Squeeze gives it.
        """
        have = x.type.shape
        want = plain_shape(shape)
        if same_shape(have, want):
            return x
        if len(want) > len(have):
            axes = ones_added(have, want)
            op = "onnx.Unsqueeze"
        else:
            axes = ones_added(want, have)
            op = "onnx.Squeeze"
        if axes is None:
            return None
        types = [x.type.with_shape(want)]
        return self.node(op, (x, self.dims(axes)), types=types).outputs[0]

    def expand(self, x: Value, shape: Shape) -> Value:
        """`x` broadcast to `shape` (numpy's rules)."""
        shape = plain_shape(shape)
        if are_integers(shape) and 0 in shape:
            # an empty constant: onnxruntime drops an Expand of ones to nothing
            return self.const(np.zeros(shape, x.type.dtype.numpy))
        if same_shape(x.type.shape, shape):
            return x
        return self.Expand(x, self.dims(shape))

    def transpose(self, x: Value, perm: Sequence[int]) -> Value:
        """`x` with its axes in the order `perm`."""
        perm = tuple(map(int, perm))
        if perm == tuple(range(len(perm))):
            return x
        return self.Transpose(x, perm=perm)

    def unsqueeze(self, x: Value, axes: Sequence[int]) -> Value:
        """`x` with axes of size 1 at these places of the result."""
        return self.Unsqueeze(x, self.dims(axes)) if len(axes) else x

    def squeeze(self, x: Value, axes: Sequence[int]) -> Value:
        """`x` without these axes, all of size 1."""
        return self.Squeeze(x, self.dims(axes)) if len(axes) else x

    def slice(self, x: Value, axis: int, start: Dim, end: Dim, step: int = 1) -> Value:
        """`x[start:end:step]` along one axis; bounds may be symbolic and lie inside the axis."""
        start, end = plain_shape((start, end))
        at_front = type(start) is int and start == 0
        if at_front and step == 1 and end == x.type.shape[axis]:
            return x
        bounds = [self.dims((number,)) for number in (start, end, axis, step)]
        return self.Slice(x, *bounds)

    def region(
        self,
        name: str,
        types: Sequence[Type],
        body: Callable[..., Any],
        hints: Sequence[str] = (),
    ) -> Graph:
        """A region with inputs of these types: `body(op, *inputs)` builds it and returns its value or values.

        `hints` name the first inputs.
        """
        graph = Graph(name)
        inputs = [graph.add_input(type) for type in types]
        for value, hint in zip(inputs, hints, strict=False):
            value.hint = hint
        inner = copy.copy(self)
        inner.graph = graph
        inner.before = None
        inner.made = []
        results = body(inner, *inputs)
        graph.set_outputs([results] if isinstance(results, Value) else list(results))
        return graph


def _array(value: Any, dtype: DType | None) -> np.ndarray:
    """A sequence, or an array, as an array of `dtype`; else Python's numbers have the dtypes of scalars."""
    array = np.asarray(value)
    if _is_numpy(value):
        return array if dtype is None else array.astype(dtype.numpy)
    dtype = dtype or _OF_KIND[array.dtype.kind]
    return np.asarray(value, dtype.numpy)


def _is_numpy(value: object) -> bool:
    """Return True for numpy's arrays and scalars."""
    return isinstance(value, (np.ndarray, np.generic))


def attribute(value: Any) -> Attr:
    """An attribute as plain immutable data: numpy's numbers and lists of them become Python's."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if type(value) in (list, tuple):  # a named tuple stays one
        if _PLAIN.issuperset(map(type, value)):
            return tuple(value)
        return tuple([attribute(v) for v in value])
    if isinstance(value, (np.integer, np.floating, np.bool_)):
        return cast("bool | int | float", value.item())
    return value


def plain_shape(shape: Iterable[Dim]) -> Shape:
    """A shape of any sequence, numpy's integers as Python's."""
    sizes = tuple(shape)
    if _NUMPY_INTEGERS.isdisjoint(map(type, sizes)):
        return sizes
    return tuple([d.item() if isinstance(d, np.integer) else d for d in sizes])


def ones_added(short: Shape, long: Shape) -> list[int] | None:
    """The axes of `long`, all of size 1, that `short` lacks; None where that is not the difference."""
    added: list[int] = []
    left = len(short)  # axes of `short` that are not found yet
    # from the end: of several ones in a row the first are those added
    for axis in reversed(range(len(long))):
        if left and same_dim(short[left - 1], long[axis]):
            left -= 1
        elif is_one(long[axis]):
            added.append(axis)
        else:
            return None
    return None if left else added[::-1]
