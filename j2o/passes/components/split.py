"""`components`: complex numbers become pairs of reals, typed PRNG keys their 32-bit words. ONNX has neither.

A value splits into parts of its own shape: `c64[B,3]` into two `f32[B,3]`, `key<fry>[B]` into two `u32[B]`. Operations
that only move elements, and linear ones, are applied to each part; bilinear ones to products of parts; for the rest
`passes/components/complex.py` and `passes/components/keys.py` have formulas in plain JAX. At the boundary of the model the parts are stacked on
a last axis.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from j2o.errors import UnsupportedError
from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value, splice
from j2o.ir.types import Attr, DType, Type
from j2o.ir.views import mapped
from j2o.passes.components.complex import COMPLEX, Z
from j2o.passes.components.keys import KEYS, words
from j2o.passes.context import Context, Retrace
from j2o.passes.pipeline import graph_pass
from j2o.passes.structure.inline import inline

PARTS = {
    DType.C64: (DType.F32, 2),
    DType.C128: (DType.F64, 2),
    DType.KEY_FRY: (DType.U32, 2),
    DType.KEY_RBG: (DType.U32, 4),
    DType.KEY_UNSAFE_RBG: (DType.U32, 4),
}
# applied to each part: what moves elements, and what is linear
EACH = frozenset(
    "add add_any all_gather all_to_all bitcast_convert_type broadcast broadcast_in_dim concatenate copy copy_p cumsum device_put dynamic_slice dynamic_update_slice empty empty2 expand_dims "
    "gather neg optimization_barrier pad ppermute psum psum_invariant random_clone reduce_sum reduce_window_sum reshape rev scatter scatter-add "
    "scatter-sub select_and_scatter_add select_n slice split squeeze stack sub tie tile transpose unstack "
    "reduce_precision reduce_scatter stop_gradient".split()
)
BILINEAR = frozenset(
    ["mul", "dot_general", "conv_general_dilated", "ragged_dot", "ragged_dot_general"]
)
# operands are flattened; these attributes count operands, in this order
COUNTS = ("num_consts", "num_carry", "cond_nconsts", "body_nconsts", "num_keys")
FLATTENED = frozenset(
    ["sort", "fft", "check", "pure_callback", "io_callback"]
)  # the lowering rules of these take parts


@graph_pass("components", at="lax", level=0, scope="root")
def components(graph: Graph, context: Context) -> int:
    """Split all complex and key values; UnsupportedError lists what has no rule for them."""
    return split_components((graph, *graph.functions.values()), context.retrace)


def split_components(graphs: Sequence[Graph], retrace: Retrace) -> int:
    """Split the values in graphs; a traced decomposition has inputs and outputs of plain dtypes."""
    splitter = Splitter(retrace)
    for graph in graphs:
        splitter.whole(graph)
    if splitter.problems:
        raise UnsupportedError(splitter.problems)
    return splitter.count


def is_split(value: Value | None) -> bool:
    return value is not None and value.type.dtype in PARTS


def part_types(type: Type) -> list[Type]:
    """`c64[3]` -> `f32[3], f32[3]`; a plain type as it is."""
    dtype, count = PARTS.get(type.dtype, (type.dtype, 1))
    return [type.with_dtype(dtype)] * count


def touches(node: Node) -> bool:
    """Whether a node takes or gives values that have parts."""
    return any(map(is_split, (*node.inputs, *node.outputs)))


def concerned(graph: Graph) -> bool:
    """Whether any value in a graph or its regions has parts."""
    return any(map(is_split, graph.inputs)) or any(
        any(map(is_split, node.outputs)) for node in graph.walk()
    )


class Splitter:
    """`parts` has what stands for each split value."""

    def __init__(self, retrace: Retrace) -> None:
        self.retrace = retrace
        self.parts: dict[Value, tuple[Value, ...]] = {}
        self.problems: list[str] = []
        self.count = 0

    def of(self, value: Value | None) -> tuple[Value | None, ...]:
        return self.parts[value] if is_split(value) else (value,)  # type: ignore[index]

    def flat(self, values: Sequence[Value | None]) -> list[Any]:
        return [p for v in values for p in self.of(v)]

    # ------------------------------------------------------------------ graphs

    def whole(self, graph: Graph) -> None:
        """A root or function graph: parts are stacked on a last axis where they come in and go out."""
        if not concerned(graph):
            return
        first = graph.start
        assert first is not None
        for i, old in enumerate(list(graph.inputs)):
            if is_split(old):
                (dtype, count), shape = PARTS[old.type.dtype], old.type.shape
                new = graph.inputs[i] = Value(
                    Type(dtype, (*shape, count)), graph, i, old.hint
                )
                self.parts[old] = self.insert(Builder(graph, first), words, [new])
        self.nodes(graph)
        op = Builder(graph, graph.ret)
        graph.set_outputs(
            [
                self.insert(op, joined, self.parts[v])[0] if is_split(v) else v
                for v in graph.outputs
            ]
        )
        self.erase(graph)

    def region(self, region: Graph) -> None:
        """A region takes and gives the parts one by one."""
        old = list(region.inputs)
        region.inputs.clear()
        for value in old:
            if is_split(value):
                self.parts[value] = tuple(
                    region.add_input(t, value.hint) for t in part_types(value.type)
                )
            else:
                value.index = len(region.inputs)
                region.inputs.append(value)
        self.nodes(region)
        region.set_outputs(self.flat(region.outputs))
        self.erase(region)

    def erase(self, graph: Graph) -> None:
        """Erase what has been replaced: split values have no other users left."""
        for node in reversed(graph):
            if node.op != "return" and touches(node):
                node.erase()

    # ------------------------------------------------------------------- nodes

    def nodes(self, graph: Graph) -> None:
        for node in list(graph):
            if node.op == "return" or not (
                touches(node) or any(map(concerned, node.graphs))
            ):
                continue
            self.count += 1
            try:
                results = self.results(node)
            except UnsupportedError as error:
                self.problems += error.operations
                results = placeholders(
                    node, [t for v in node.outputs for t in part_types(v.type)]
                )
            rest = iter(results)
            for old in node.outputs:
                new = tuple(itertools.islice(rest, len(part_types(old.type))))
                if is_split(old):
                    for part in new:
                        part.hint = part.hint or old.hint
                    self.parts[old] = new
                else:
                    old.replace_by(new[0])
            if not touches(node):
                node.erase()

    def results(self, node: Node) -> Sequence[Value]:
        """The parts of a node's results, one after the other."""
        assert node.graph is not None
        op = Builder(
            node.graph, node, node.loc, node.outputs[0].hint if node.outputs else ""
        )
        kind = node.kind
        if node.op == "const":
            return self.constant(op, node)
        if kind in EACH and not computes(node):
            return self.each(op, node)
        if (
            (node.graphs and kind not in COMPLEX)
            or kind in FLATTENED
            or node.op == "call"
        ):
            return self.flattened(op, node)
        if kind in BILINEAR and not node.attrs.get("out_dtype"):
            return (
                self.bilinear(op, node)
                if all(map(is_split, node.inputs[:2]))
                else self.each(op, node)
            )
        rule = KEYS.get(kind)
        keys = [
            v.type.dtype
            for v in (*node.inputs, *node.outputs)
            if v is not None and v.type.dtype.is_key
        ]
        form = tuple(len(self.of(v)) if is_split(v) else 0 for v in node.inputs)
        if rule and keys:
            attrs = {**node.attrs, "impl": keys[0]}
            return self.insert(
                op, _on_parts(rule, joined, form), self.flat(node.inputs), attrs
            )
        if kind in COMPLEX:
            return self.insert(
                op,
                _on_parts(COMPLEX[kind], Z, form),
                self.flat(node.inputs),
                node.attrs,
            )
        raise UnsupportedError(
            [f"{node.described}: no rule for complex numbers or PRNG keys"]
        )

    def constant(self, op: Builder, node: Node) -> Sequence[Value]:
        value: Any = node.attrs["value"]
        real = Type(PARTS[value.dtype][0], value.shape)
        return [
            op.const(mapped(fn, fn.__name__, real, value)) for fn in (np.real, np.imag)
        ]

    def flattened(self, op: Builder, node: Node) -> Sequence[Value]:
        """The same node with parts for operands and results."""
        attrs, start = dict(node.attrs), 0
        for name in COUNTS:
            if name in attrs:
                count: Any = attrs[name]
                attrs[name] = len(self.flat(node.inputs[start : start + count]))
                start += count
        for region in node.graphs:
            self.region(region)
        types = [t for v in node.outputs for t in part_types(v.type)]
        new = op.node(node.op, self.flat(node.inputs), attrs, types, node.graphs)
        node.graphs = ()
        return new.outputs

    def each(self, op: Builder, node: Node) -> Sequence[Value]:
        count = max(
            len(part_types(v.type))
            for v in (*node.inputs, *node.outputs)
            if v is not None
        )
        made = []
        for i in range(count):
            operands = [self.of(v)[i] if is_split(v) else v for v in node.inputs]
            types = [part_types(v.type)[i] for v in node.outputs]
            made.append(op.node(node.op, operands, _plain(node.attrs), types).outputs)
        return [part for parts in zip(*made, strict=True) for part in parts]

    def bilinear(self, op: Builder, node: Node) -> Sequence[Value]:
        (ar, ai), (br, bi) = self.of(node.inputs[0]), self.of(node.inputs[1])
        types = part_types(node.out.type)[:1]

        def product(a: Value | None, b: Value | None) -> Value:
            return op.node(
                node.op, [a, b, *node.inputs[2:]], _plain(node.attrs), types
            ).out

        def combine(kind: str, x: Value, y: Value) -> Value:
            return op.node(f"lax.{kind}", [x, y], {}, types).out

        real = combine("sub", product(ar, br), product(ai, bi))
        return [real, combine("add", product(ar, bi), product(ai, br))]

    def insert(
        self,
        op: Builder,
        fn: Callable[..., Any],
        values: Sequence[Value],
        params: dict[str, Attr] | None = None,
    ) -> tuple[Value, ...]:
        """Plain JAX code, traced at the types of `values`, in front of `op.before`."""
        graph = self.retrace(fn, [v.type for v in values], params or {})
        inline(graph)
        for node in graph.walk():
            node.loc = node.loc or op.loc
        split_components([graph], self.retrace)
        assert op.before is not None
        return splice(graph, values, op.before)


def placeholders(node: Node, types: Sequence[Type]) -> tuple[Value, ...]:
    """Values of the right types in front of a node without a rule, so that the rest can be checked as well."""
    assert node.graph is not None
    return node.graph.insert(Node("unsupported", (), types), before=node).outputs


def computes(node: Node) -> bool:
    """Whether a node is `lax.scatter_apply`: a scatter whose region does more than to give the update."""
    regions = node.graphs if node.kind == "scatter" else ()
    return any(g.outputs[0] is not g.inputs[len(g.inputs) // 2] for g in regions)


def _plain(attrs: dict[str, Attr]) -> dict[str, Attr]:
    """Attributes with the dtype of the parts where they name one that has parts."""
    return {
        k: PARTS[v][0] if isinstance(v, DType) and v in PARTS else v
        for k, v in attrs.items()
    }


def joined(*parts: Any) -> Any:
    return jnp.stack(parts, axis=-1)


@functools.cache
def _on_parts(
    rule: Callable[..., Any], whole: Callable[..., Any], form: tuple[int, ...]
) -> Callable[..., Any]:
    """`rule`, on flat operands: `whole` of as many in a row as `form` says, 0 for what has no parts."""

    @functools.wraps(rule)
    def flat(*operands: Any, **params: Any) -> Any:
        rest = iter(operands)
        return rule(
            *(whole(*itertools.islice(rest, n)) if n else next(rest) for n in form),
            **params,
        )

    return flat
