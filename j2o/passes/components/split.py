"""`components`: complex numbers become pairs of reals, typed PRNG keys their words of 32 bits.

ONNX has neither. A value splits into parts of its own
shape: `c64[B,3]` into two `f32[B,3]`, `key<fry>[B]` into two
`u32[B]`. Operations that only move elements, and linear ones, are applied to each part. Bilinear
ones are applied to each pair of parts. For the rest there are formulas in plain JAX. `tables.py`
says which operation is which. At the boundary of the model the parts are stacked on a last axis.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from j2o.errors import UnsupportedError
from j2o.ir.build import Builder
from j2o.ir.copies import splice
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.tensor import Tensor
from j2o.ir.types import Attr, DType, Type
from j2o.ir.views import mapped
from j2o.passes.components import complex_arrays  # noqa: F401  (it fills COMPLEX)
from j2o.passes.components.complex import Pair
from j2o.passes.components.keys import words
from j2o.passes.components.tables import (
    BILINEAR,
    COMPLEX,
    COUNTS,
    EACH,
    FLATTENED,
    KEYS,
    PARTS,
    Formula,
)
from j2o.passes.context import Context, Retrace
from j2o.passes.pipeline import graph_pass
from j2o.passes.structure.inline import inline


@graph_pass("components", at="lax", level=0, scope="root")
def components(graph: Graph, context: Context) -> int:
    """Split all complex and key values; UnsupportedError lists what has no rule for them."""
    return split_components((graph, *graph.functions.values()), context.retrace)


def split_components(graphs: Sequence[Graph], retrace: Retrace) -> int:
    """Split the values in graphs; their inputs and outputs have the parts stacked on a last axis.

    Returns how many nodes were split. UnsupportedError lists those that have no rule.
    """
    splitter = Splitter(retrace)
    for graph in graphs:
        splitter.split_whole(graph)
    if splitter.problems:
        raise UnsupportedError(splitter.problems)
    return splitter.count


# ----------------------------------------------------------------------- what has parts


def is_split(value: Value | None) -> bool:
    """Return True for a complex value or one of keys."""
    return value is not None and value.type.dtype in PARTS


def part_types(type: Type) -> list[Type]:
    """`c64[3]` -> `f32[3], f32[3]`; a plain type as it is."""
    split = PARTS.get(type.dtype)
    if split is None:
        return [type]
    return [type.with_dtype(split.dtype)] * split.count


def result_types(node: Node) -> list[Type]:
    """The types of the parts of a node's results, one after the other."""
    return [part for value in node.outputs for part in part_types(value.type)]


def touches(node: Node) -> bool:
    """Return True where a node takes or gives values that have parts."""
    return any(map(is_split, (*node.inputs, *node.outputs)))


def is_concerned(graph: Graph) -> bool:
    """Return True where any value in a graph or its regions has parts."""
    if any(map(is_split, graph.inputs)):
        return True
    dtypes = {value.type.dtype for node in graph.walk() for value in node.outputs}
    return not dtypes.isdisjoint(PARTS)


def computes(node: Node) -> bool:
    """Return True for `lax.scatter_apply`: a scatter whose region does more than to give the update."""
    regions = node.graphs if node.kind == "scatter" else ()
    for region in regions:
        update = region.inputs[len(region.inputs) // 2]
        if region.outputs[0] is not update:
            return True
    return False


class Splitter:
    """`parts` has what stands for each split value."""

    def __init__(self, retrace: Retrace) -> None:
        self.retrace = retrace
        self.parts: dict[Value, tuple[Value, ...]] = {}
        self.problems: list[str] = []
        self.count = 0

    def of(self, value: Value) -> tuple[Value, ...]:
        """The parts of a value; a plain value alone."""
        return self.parts[value] if is_split(value) else (value,)

    def flat(self, values: Iterable[Value]) -> list[Value]:
        """The parts of values, one after the other."""
        return [part for value in values for part in self.of(value)]

    # ------------------------------------------------------------------ graphs

    def split_whole(self, graph: Graph) -> None:
        """Split a root or function graph: parts are stacked on a last axis where they come in and go out."""
        if not is_concerned(graph):
            return
        first = graph.start
        assert first is not None
        for i, old in enumerate(list(graph.inputs)):
            if is_split(old):
                split = PARTS[old.type.dtype]
                stacked = Type(split.dtype, (*old.type.shape, split.count))
                new = Value(stacked, None, i, old.hint, graph)
                graph.inputs[i] = new
                self.parts[old] = self.insert(Builder(graph, first), words, [new])
        self.split_nodes(graph)
        op = Builder(graph, graph.ret)
        graph.set_outputs([self.stacked(op, v) for v in graph.outputs])
        self.erase_split(graph)

    def stacked(self, op: Builder, value: Value) -> Value:
        """An output of a whole graph, its parts on a last axis."""
        if not is_split(value):
            return value
        (joint,) = self.insert(op, stack_parts, self.parts[value])
        return joint

    def split_region(self, region: Graph) -> None:
        """Split a region, which takes and gives the parts one by one."""
        old = list(region.inputs)
        region.inputs.clear()
        for value in old:
            if is_split(value):
                types = part_types(value.type)
                parts = [region.add_input(type, value.hint) for type in types]
                self.parts[value] = tuple(parts)
            else:
                value.index = len(region.inputs)
                region.inputs.append(value)
        self.split_nodes(region)
        region.set_outputs(self.flat(region.outputs))
        self.erase_split(region)

    def erase_split(self, graph: Graph) -> None:
        """Erase what has been replaced: split values have no other users left."""
        for node in reversed(graph):
            if node.op != "return" and touches(node):
                node.erase()

    # ------------------------------------------------------------------- nodes

    def split_nodes(self, graph: Graph) -> None:
        """Split the nodes of a graph that take, give or hold values with parts."""
        for node in list(graph):
            if node.op == "return":
                continue
            if touches(node) or any(map(is_concerned, node.graphs)):
                self.split_node(node)

    def split_node(self, node: Node) -> None:
        """Put the parts of the results in front of a node, which goes where nothing that is split uses it."""
        self.count += 1
        try:
            results = self.results(node)
        except UnsupportedError as error:
            self.problems += error.operations
            results = placeholders(node, result_types(node))
        rest = iter(results)
        for old in node.outputs:
            count = len(part_types(old.type))
            parts = tuple(itertools.islice(rest, count))
            if is_split(old):
                for part in parts:
                    part.hint = part.hint or old.hint
                self.parts[old] = parts
            else:
                old.replace_by(parts[0])
        if not touches(node):
            node.erase()

    def results(self, node: Node) -> Sequence[Value]:
        """The parts of a node's results, one after the other."""
        hint = node.outputs[0].hint if node.outputs else ""
        op = Builder(node.home, node, node.loc, hint)
        if node.op == "const":
            return self.constant(op, node)
        if node.kind in EACH and not computes(node):
            return self.each(op, node)
        if is_flattened(node):
            return self.flattened(op, node)
        if node.kind in BILINEAR and not node.attrs.get("out_dtype"):
            if all(map(is_split, node.inputs[:2])):
                return self.bilinear(op, node)
            return self.each(op, node)
        return self.by_formula(op, node)

    def constant(self, op: Builder, node: Node) -> Sequence[Value]:
        """The real and the imaginary part of a complex constant, made while they are read."""
        tensor = node.out.const
        assert tensor is not None
        real = Type(PARTS[tensor.dtype].dtype, tensor.shape)
        return [op.const(mapped(fn, fn.__name__, real, tensor)) for fn in PART_OF]

    def each(self, op: Builder, node: Node) -> Sequence[Value]:
        """The same node for the first parts, for the second ones, …; plain operands go to each."""
        values = (*node.operands, *node.outputs)
        count = max(len(part_types(value.type)) for value in values)
        made = []
        for i in range(count):
            operands = [self.of(v)[i] if is_split(v) else v for v in node.operands]
            types = [part_types(v.type)[i] for v in node.outputs]
            attrs = _of_part(node, i)
            made.append(op.node(node.op, operands, attrs, types).outputs)
        return [part for parts in zip(*made, strict=True) for part in parts]

    def bilinear(self, op: Builder, node: Node) -> Sequence[Value]:
        """(a + ib)(c + id) = (ac - bd) + i(ad + bc)."""
        first, second, *rest = node.operands
        a, b = self.parts[first]
        c, d = self.parts[second]
        types = part_types(node.out.type)[:1]

        def product(x: Value, y: Value) -> Value:
            return op.node(node.op, [x, y, *rest], _plain(node.attrs), types).out

        def combine(kind: str, x: Value, y: Value) -> Value:
            return op.node(f"lax.{kind}", [x, y], {}, types).out

        re = combine("sub", product(a, c), product(b, d))
        im = combine("add", product(a, d), product(b, c))
        return [re, im]

    def flattened(self, op: Builder, node: Node) -> Sequence[Value]:
        """The same node with parts for operands and results, of its regions too."""
        attrs = dict(node.attrs)
        start = 0
        for name in COUNTS:
            if name in attrs:
                end = start + node.int_attr(name)
                attrs[name] = len(self.flat(node.operands[start:end]))
                start = end
        for region in node.graphs:
            self.split_region(region)
        operands = self.flat(node.operands)
        new = op.node(node.op, operands, attrs, result_types(node), node.graphs)
        node.graphs = ()
        return new.outputs

    def by_formula(self, op: Builder, node: Node) -> Sequence[Value]:
        """The formula for keys or complex numbers, traced; UnsupportedError where there is none."""
        operands = self.flat(node.operands)
        # as many parts in a row as make one operand; 0 for one that has no parts
        form = tuple(len(self.of(v)) if is_split(v) else 0 for v in node.operands)
        keys = _key_dtype(node)
        if keys is not None and node.kind in KEYS:
            code = _on_flat(KEYS[node.kind], stack_parts, form)
            return self.insert(op, code, operands, {**node.attrs, "impl": keys})
        if node.kind in COMPLEX:
            code = _on_flat(COMPLEX[node.kind], Pair, form)
            return self.insert(op, code, operands, node.attrs)
        why = "no rule for complex numbers or PRNG keys"
        raise UnsupportedError([f"{node.described}: {why}"])

    def insert(
        self,
        op: Builder,
        code: Callable[..., Any],
        values: Sequence[Value],
        params: Mapping[str, Attr] | None = None,
    ) -> tuple[Value, ...]:
        """Plain JAX code, traced at the types of `values`, in front of `op.before`."""
        graph = self.retrace(code, [v.type for v in values], dict(params or {}))
        inline(graph)
        for node in graph.walk():
            node.loc = node.loc or op.loc
        split_components([graph], self.retrace)
        assert op.before is not None
        return splice(graph, values, op.before)


PART_OF = (np.real, np.imag)
FILLING = frozenset({"fill", "fill_or_drop"})  # modes of a gather


def is_flattened(node: Node) -> bool:
    """Return True for a node that takes and gives parts itself: with regions that JAX runs, or a call."""
    if node.op == "call" or node.kind in FLATTENED:
        return True
    # the region of a reduction or scatter says only how to combine: there is a formula
    return bool(node.graphs) and node.kind not in COMPLEX


def placeholders(node: Node, types: Sequence[Type]) -> tuple[Value, ...]:
    """Values of the right types in front of a node without a rule, so that others are still looked at."""
    stand_in = Node("unsupported", (), types)
    return node.home.insert(stand_in, before=node).outputs


def _key_dtype(node: Node) -> DType | None:
    """Which keys a node takes or gives; None where there are none."""
    for value in (*node.operands, *node.outputs):
        if value.type.dtype.is_key:
            return value.type.dtype
    return None


def _plain(attrs: Mapping[str, Attr]) -> dict[str, Attr]:
    """Attributes with the dtype of the parts where they name one that has parts."""
    plain = dict(attrs)
    for name, value in attrs.items():
        if isinstance(value, DType) and value in PARTS:
            plain[name] = PARTS[value].dtype
    return plain


def _of_part(node: Node, part: int) -> dict[str, Attr]:
    """The attributes of a node for one of its parts: what a gather fills in may be a complex number."""
    attrs = _plain(node.attrs)
    fills = node.kind == "gather" and attrs["mode"] in FILLING
    if fills and node.out.type.dtype.is_complex:
        attrs["fill_value"] = _part_of_fill(attrs.get("fill_value"), part)
    return attrs


def _part_of_fill(fill_value: Attr, part: int) -> Attr:
    """One part of the complex number that a gather fills in; by default it is NaN + 0j."""
    if isinstance(fill_value, Tensor):
        return PART_OF[part](fill_value.load()).item()
    return fill_value if part == 0 else 0


def stack_parts(*parts: jax.Array) -> jax.Array:
    """Parts on a last axis: the form of a value at the boundary of a model."""
    return jnp.stack(parts, axis=-1)


@functools.cache
def _on_flat(
    formula: Formula, whole: Callable[..., Any], form: tuple[int, ...]
) -> Formula:
    """`formula`, on flat operands: `whole` of as many in a row as `form` says, 0 for what has no parts.

    One object for the same arguments, so that what it was traced to is found again.
    """

    @functools.wraps(formula)
    def on_flat(*operands: jax.Array, **params: Any) -> Any:
        rest = iter(operands)
        arguments = []
        for count in form:
            if count:
                arguments.append(whole(*itertools.islice(rest, count)))
            else:
                arguments.append(next(rest))
        return formula(*arguments, **params)

    return on_flat
