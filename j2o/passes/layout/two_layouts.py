"""Nodes that run in either of two layouts, connected through the transposes between these.

A Transpose by `perm` takes a tensor from layout 0 to layout 1, one by the inverse takes it back. Each node
and each value of a region lies in one of the two now:

    u: f32[B,8,T]            layout 0
    t = Transpose(u)         to layout 1, perm = [0, 2, 1]
    y = Relu(t)              runs in layout 1, and could run in layout 0
    z = Transpose(y)         back to layout 0

A *tensor* here is what transposes make of one value: u and t are the same tensor, and so are y and z.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from j2o.ir.graph import Graph, Node, Value
from j2o.passes.layout.free import absorbs, is_free, laid_out
from j2o.passes.layout.perms import Perm, inverse, moves_only_ones, perm_of


@dataclass(frozen=True)
class TwoLayouts:
    """The orders of axes that take a value from each of the layouts to the other."""

    perm: Perm  # from layout 0 to layout 1
    back: Perm

    @staticmethod
    def of(perm: Perm) -> TwoLayouts:
        return TwoLayouts(perm, inverse(perm))

    def to(self, layout: int) -> Perm:
        """The order of a Transpose whose result is in a layout."""
        return self.perm if layout else self.back

    def leaves(self, node: Node | None, layout: int) -> bool:
        """Return True for a Transpose that takes values of this layout to the other."""
        if node is None or node.op != "onnx.Transpose":
            return False
        return perm_of(node) == self.to(1 - layout)


@dataclass
class LaidTensor:
    """What transposes make of one value, the root.

    `forms` has all these values with their layouts, the root first.
    """

    root: Value
    layout: int  # of the root
    forms: list[tuple[Value, int]]


@dataclass
class Region:
    """Nodes that may run in either layout, with the one in which they run now; their tensors by root."""

    layouts: TwoLayouts
    nodes: dict[Node, int] = field(default_factory=dict)
    tensors: dict[Value, LaidTensor] = field(default_factory=dict)

    def has(self, node: Node | None, layout: int) -> bool:
        """Return True for a node of the region that runs in a layout."""
        return node is not None and self.nodes.get(node) == layout

    def gains(self) -> int:
        """How many transposes may go; one alone would only change its place."""
        return sum(map(self._gains, self.tensors.values()))

    def _gains(self, tensor: LaidTensor) -> int:
        transposes = len(tensor.forms) - 1
        if self.has(tensor.root.node, tensor.layout):
            perm = self.layouts.to(tensor.layout)
            is_view = moves_only_ones(tensor.root, perm)
            is_absorbed = any(absorbs(user, perm) for user in tensor.root.users())
            transposes += is_view or is_absorbed
        return transposes


def regions(graph: Graph, layouts: TwoLayouts) -> Iterator[Region]:
    """The regions around the transposes of a graph from one layout to the other."""
    seen: set[Node] = set()
    for transpose in graph.nodes_of("onnx.Transpose"):
        layout = _layout_behind(transpose, layouts)
        if layout is None:
            continue
        for node, side in _beside(transpose, layout):
            search = _Search(graph, Region(layouts), seen)
            search.meet(node, side)
            if search.todo:
                search.run()
                yield search.region


def _beside(transpose: Node, layout: int) -> Iterator[tuple[Node, int]]:
    """The nodes in front of a Transpose to a layout and behind it, each with the layout it has there."""
    before = transpose.operand(0).node
    if before is not None:
        yield before, 1 - layout
    for user in transpose.out.users():
        yield user, layout


def _layout_behind(transpose: Node, layouts: TwoLayouts) -> int | None:
    """The layout to which a Transpose takes its operand; None for other orders of axes."""
    perm = perm_of(transpose)
    if perm == layouts.perm:
        return 1
    return 0 if perm == layouts.back else None


class _Search:
    """A search for all nodes that one of them is connected with.

    `seen` are those of all regions up to now. `torn` are those that have operands or results in both layouts,
    as the sum of a tensor and its transpose. They have to stay as they are.
    """

    def __init__(self, graph: Graph, region: Region, seen: set[Node]) -> None:
        self.graph = graph
        self.region = region
        self.seen = seen
        self.torn: set[Node] = set()
        self.todo: list[Node] = []

    def run(self) -> None:
        """Look around each node that is met."""
        while self.todo:
            self.look_around(self.todo.pop())
        for node in self.torn:
            del self.region.nodes[node]

    def look_around(self, node: Node) -> None:
        """Meet the nodes that share a tensor with a node."""
        layouts = self.region.layouts
        layout = self.region.nodes[node]
        for value in (*moving_operands(node), *node.outputs):
            if value.type.rank != len(layouts.perm):
                continue
            root, side = _root(value, layout, layouts)
            known = self.region.tensors.get(root)
            if known is None:
                self.enter(_tensor_of(root, side, layouts))
            elif known.layout != side:
                self.torn.add(node)

    def enter(self, tensor: LaidTensor) -> None:
        """Take a tensor into the region, and meet the nodes that make it and use it."""
        self.region.tensors[tensor.root] = tensor
        for node, layout in _ends(tensor):
            self.meet(node, layout)

    def meet(self, node: Node, layout: int) -> None:
        """Take a node that has a tensor in a layout into the region, where it may run in the other too."""
        known = self.region.nodes.get(node)
        if known is not None:
            if known != layout:
                self.torn.add(node)
        elif node not in self.seen and self.may_move(node, layout):
            self.seen.add(node)
            self.region.nodes[node] = layout
            self.todo.append(node)

    def may_move(self, node: Node, layout: int) -> bool:
        """Return True for a node that may run in the other layout too."""
        perm = self.region.layouts.to(layout)
        return node.graph is self.graph and is_free(node, perm)


def moving_operands(node: Node) -> list[Value]:
    """The operands of a free node that are transposed where it moves."""
    return [value for value in laid_out(node) if value is not None]


def _root(value: Value, layout: int, layouts: TwoLayouts) -> tuple[Value, int]:
    """The value in front of all transposes that lead to one in a layout, and the layout of that."""
    while layouts.leaves(value.node, 1 - layout):
        value = value.producer.operand(0)
        layout = 1 - layout
    return value, layout


def _tensor_of(root: Value, layout: int, layouts: TwoLayouts) -> LaidTensor:
    """The tensor that a root, which lies in a layout, and its transposes are."""
    forms = [(root, layout)]
    for form, side in forms:  # it grows meanwhile
        for user in form.users():
            if layouts.leaves(user, side):
                forms.append((user.out, 1 - side))
    return LaidTensor(root, layout, forms)


def _ends(tensor: LaidTensor) -> Iterator[tuple[Node, int]]:
    """The nodes that make a tensor or use it, but for the transposes, each with the layout it has it in."""
    root = tensor.root
    if root.node is not None:
        yield root.node, tensor.layout
    if root.const is not None:
        return
    made = {value.node for value, _ in tensor.forms[1:]}
    for value, layout in tensor.forms:
        for user in value.users():
            if user not in made:
                yield user, layout
