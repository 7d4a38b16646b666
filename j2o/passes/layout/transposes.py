"""`transposes`: for each two layouts, a minimum cut decides which nodes run in which.

    y = Relu(Transpose(x));  Transpose⁻¹(y)        becomes   Relu(x)
    y = Transpose(x);  Add(Relu(y), Sigmoid(y))    becomes   Transpose(Add(Relu(x), Sigmoid(x)))

Local rules cannot do this: on a residual block, moving a transpose down through one addition and up through
the next each enable the other for ever. So all nodes that run in either layout are decided on at once
(`two_layouts.py` finds them). Where one layout meets the other stands a transpose, and its cost is paid once,
however many nodes use the result.
"""

from __future__ import annotations

import collections
from collections.abc import Hashable, Sequence

from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.ops import RESHAPES
from j2o.ir.types import is_one, same_dim
from j2o.passes.layout.free import absorbs, laid_out, moved, turned
from j2o.passes.layout.minimum_cut import SINK, SOURCE, Network
from j2o.passes.layout.perms import (
    NODE,
    Perm,
    elements_to_move,
    inverse,
    moves_only_ones,
    perm_of,
)
from j2o.passes.layout.two_layouts import (
    LaidTensor,
    Region,
    TwoLayouts,
    moving_operands,
    regions,
)
from j2o.passes.pipeline import graph_pass


@graph_pass("transposes", at="onnx", level=2)
def transposes(graph: Graph) -> int:
    """Run layout-free nodes in whichever layout makes the remaining transposes cheapest."""
    perms = map(perm_of, graph.nodes_of("onnx.Transpose"))
    count = collections.Counter(perm for perm in perms if perm is not None)
    if not count:
        return 0
    common = [perm for perm, _ in count.most_common()]
    _write_as_transposes(graph, common)
    changes = 0
    done: set[Perm] = set()
    for perm in common:
        if inverse(perm) not in done:
            done.add(perm)
            changes += _move_between(graph, TwoLayouts.of(perm))
    return changes


@graph_pass("transposes_in_bodies", at="onnx", level=2)
def transposes_in_bodies(graph: Graph) -> int:
    """Do the same in the bodies of loops alone, in front of `cells`, which reads them without transposes.

    `jax.vmap` of a product `w @ h` transposes h, and with it all that is computed of the product.
    """
    if graph.parent is None:
        return 0
    return transposes(graph)


def _move_between(graph: Graph, layouts: TwoLayouts) -> int:
    """Run nodes in the better one of two layouts; returns how many run in the other one than before."""
    count = 0
    found = [one for one in regions(graph, layouts) if one.gains() > 1]
    places = {node: place for place, node in enumerate(graph)} if found else {}
    for region in found:
        plan = _plan(region)
        if plan:
            ordered = sorted(plan, key=places.__getitem__)
            _Move(graph, {node: plan[node] for node in ordered}).run()
            count += len(plan)
    return count


def _write_as_transposes(graph: Graph, perms: Sequence[Perm]) -> None:
    """Write changes of shape that move axes of size 1 alone as transposes, so that they move with others.

    `shapes` made them of transposes, and makes them again of those that are left.
    """
    for node in graph.nodes_of(*RESHAPES):
        x = node.operand(0)
        for perm in perms:
            if _is_moved(x, node.out, perm):
                op = Builder(graph, node, node.loc, node.out.hint)
                node.replace_by(op.Transpose(x, perm=perm))
                break


def _is_moved(x: Value, out: Value, perm: Perm) -> bool:
    """Return True where a value has the shape of another transposed, with only axes of size 1 elsewhere."""
    if not x.type.rank == out.type.rank == len(perm):
        return False
    shape = [x.type.shape[axis] for axis in perm]
    return all(map(same_dim, shape, out.type.shape)) and moves_only_ones(out, perm)


# ------------------------------------------------------------------------------ the cut


def _plan(region: Region) -> dict[Node, Perm]:
    """The nodes of a region that should run in the other layout than now.

    Each has the order of the transposes in front of it that would go then. A cut has the nodes that should
    run in layout 0 on the side of SOURCE, and those of layout 1 on the side of SINK.
    """
    network = Network()
    for tensor in region.tensors.values():
        _enter_tensor(network, tensor, region)
    _enter_broadcasts(network, region)
    for node, layout in region.nodes.items():
        # weights stay on the right where nothing speaks against it
        if node.op == "onnx.MatMul":
            _enter_users(network, _end_of(layout), [node], node, 1.0)
    first = network.side_of_source()
    plan: dict[Node, Perm] = {}
    for node, layout in region.nodes.items():
        best = 0 if node in first else 1
        if best != layout:
            plan[node] = region.layouts.to(layout)
    return plan


def _end_of(layout: int) -> Hashable:
    """What stands for the nodes outside of a region, which run in their layout in any case."""
    return SINK if layout else SOURCE


def _enter_tensor(network: Network, tensor: LaidTensor, region: Region) -> None:
    """Enter what transposing a tensor costs: once, where it is made in one layout and used in the other."""
    root = tensor.root
    if root.const is not None:
        return  # it is transposed while compiling
    maker: Hashable = root.node
    if not region.has(root.node, tensor.layout):
        if _ones(root):
            return
        maker = _end_of(tensor.layout)
    cost = _cost(root, region.layouts.to(tensor.layout))
    _enter_users(network, maker, _users(tensor, region), root, cost)


def _users(tensor: LaidTensor, region: Region) -> list[Hashable]:
    """What uses a tensor: nodes of the region, and the two ends for nodes outside of it."""
    transposes = {value.node for value, _ in tensor.forms[1:]}
    users: dict[Hashable, None] = {}
    for value, layout in tensor.forms:
        for user in value.users():
            if region.has(user, layout):
                users[user] = None
            elif user not in transposes and not _absorbs(user, layout, region):
                users[_end_of(layout)] = None
    return list(users)


def _absorbs(user: Node, layout: int, region: Region) -> bool:
    """Return True for a reduction that gives the same in either layout."""
    return absorbs(user, region.layouts.to(layout))


def _enter_users(
    network: Network,
    maker: Hashable,
    users: Sequence[Hashable],
    thing: Hashable,
    cost: float,
) -> None:
    """Enter a cost that is paid, once, where any of the users is on another side than the maker."""
    inside = [user for user in users if user not in (SOURCE, SINK)]
    # one outside is on its side in any case, and decides for all
    in_first = [SOURCE] if SOURCE in users else inside
    in_second = [SINK] if SINK in users else inside
    if in_second and maker is not SINK:
        network.add_if_any_end(maker, in_second, thing, cost)
    if in_first and maker is not SOURCE:
        network.add_if_any_start(in_first, maker, thing, cost)


def _enter_broadcasts(network: Network, region: Region) -> None:
    """Enter what it costs to transpose values of fewer axes, which broadcast where nodes run now.

    They get leading axes of size 1 before that.
    """
    users: dict[tuple[Value, int], list[Node]] = {}
    for node, layout in region.nodes.items():
        for value in moving_operands(node):
            if 0 < value.type.rank < len(region.layouts.perm):
                users.setdefault((value, layout), []).append(node)
    for (value, layout), nodes in users.items():
        if value.const is None and not _ones(value):
            cost = elements_to_move(value)
            _enter_users(network, _end_of(layout), nodes, (value, layout), cost)


def _ones(value: Value) -> bool:
    """Return True where all sizes are 1, so that a transpose costs nothing."""
    return all(map(is_one, value.type.shape))


def _cost(value: Value, perm: Perm) -> float:
    """What transposing a value by `perm` costs, or back: the node alone where it is a change of shape."""
    return NODE if moves_only_ones(value, perm) else elements_to_move(value)


# ----------------------------------------------------------------------------- the move


class _Move:
    """Nodes made again on tensors in the other layout; transposes appear where the two layouts meet.

    `plan` has the nodes in their order, each with the order of the transposes that take tensors to the layout
    in which it ran. `moved` has the new value of each old one.
    """

    def __init__(self, graph: Graph, plan: dict[Node, Perm]) -> None:
        self.graph = graph
        self.plan = plan
        self.moved: dict[Value, Value] = {}

    def run(self) -> None:
        """Make all nodes again, in their order, and erase the old ones."""
        for node, perm in self.plan.items():
            self.remake(node, perm)
        for node in reversed(self.plan):
            node.erase()

    def remake(self, node: Node, perm: Perm) -> None:
        """Make one node again; the other nodes use what it makes."""
        op = Builder(self.graph, node, node.loc)
        operands = [self.operand(value, node, perm) for value in laid_out(node)]
        new = moved(op, node, operands, perm)
        for old, value in zip(node.outputs, new.outputs, strict=True):
            value.hint = old.hint
            self.moved[old] = value
            self.hand_on(op, old, value, perm)

    def hand_on(self, op: Builder, old: Value, value: Value, perm: Perm) -> None:
        """Give a new value to those that transposed the old one back, and transposed to those that stay."""
        back = inverse(perm)
        for user in list(old.users()):
            if perm_of(user) == back:
                user.replace_by(value)
        if any(map(self.stays, old.users())):
            op.hint = old.hint
            transposed = op.Transpose(value, perm=perm)
            old.replace_by(transposed, where=self.stays)

    def stays(self, node: Node) -> bool:
        """Return True for a node that runs on transposed tensors as before."""
        return node not in self.plan

    def operand(self, value: Value | None, node: Node, perm: Perm) -> Value | None:
        """What stands for an operand of a node that moves."""
        if value is None or value.type.rank == 0:
            return value
        if value in self.moved:
            return self.moved[value]
        if perm_of(value.node) == perm:
            return value.producer.operand(0)
        op = Builder(self.graph, node, node.loc, value.hint)
        missing = len(perm) - value.type.rank
        if missing:
            value = op.reshape(value, (1,) * missing + value.type.shape)
        back = inverse(perm)
        existing = self.transposed(value, back, node)
        return turned(op, value, back) if existing is None else existing

    def transposed(self, value: Value, perm: Perm, node: Node) -> Value | None:
        """The result of a transpose of `value` that stands before a node, None where there is none."""
        for user in value.users():
            if perm_of(user) != perm or user.graph is not self.graph:
                continue
            if _before(user, node):
                return user.out
        return None


def _before(first: Node, second: Node) -> bool:
    """Return True where `first` is known to stand before `second`.

    Looks at close neighbours only, so that it costs O(1).
    """
    node = second.prev
    for _ in range(8):
        if node is None:
            return False
        if node is first:
            return True
        node = node.prev
    return False
