"""Which module each node of a lifted graph comes from: the scope in its location.

JAX's name stack tells it where a framework writes its modules there, as Flax linen, Haiku and Keras do.
Elsewhere (Flax nnx, Equinox, plain pytrees) the paths of the weights do, such as `blocks/3/att/query/kernel`:

1. A call of a Python function is of the module that all weights have in common that are used in it, there
   or in what it calls. Without any, it is of the module of the call around it.
2. A node that uses a weight is of the weight's module.
3. Another is of the module of its call; or of the one inside of that which the weights used last before it
   and first behind it have in common, where a program calls the parts of a module one by one.
4. A scope that the user has named stands below the module that all that is in it has in common.

The time is linear in the size of the graph.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from j2o.frontend.frames import Calls, TracedCall, around_both
from j2o.frontend.sources import steps
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.scopes import Scope, common, equal_steps, placed

# their regions do not take the operands in their order
OTHER_ORDER = frozenset(["lax.custom_linear_solve"])


class Weight(NamedTuple):
    """An array with a name, and the path of the module that it is of."""

    name: str
    module: Scope


Used: TypeAlias = dict[Node, list[Weight]]


def name_modules(graph: Graph, calls: Calls) -> None:
    """Give each node that has a location the module that it comes from.

    `calls` are those that the nodes were traced in.
    """
    nodes = list(graph.walk())
    used = used_weights(graph, nodes)
    of_calls = modules_of_calls(used, calls)
    located = [node for node in nodes if node.loc is not None]
    modules = {node: of_calls[calls.of(node)] for node in located}
    for node, weights in used.items():
        if node in modules:
            module = common([weight.module for weight in weights])
            modules[node] = _inner(module, modules[node])
    if are_in_the_stack(used, modules):
        _write({node: _stack(node) for node in located})
    else:
        _fill_between(modules, used)
        _write(_with_scopes(modules))


def _inner(module: Scope, around: Scope) -> Scope:
    """A module that is found inside of another; that other where it is not inside of it."""
    return module if module[: len(around)] == around else around


def _fill_between(modules: dict[Node, Scope], used: Used) -> None:
    """Let what stands between two uses of weights be of the module around both."""
    nodes = list(modules)
    places = [i for i, node in enumerate(nodes) if node in used]
    for start, end in itertools.pairwise(places):
        both = common([modules[nodes[start]], modules[nodes[end]]])
        for node in nodes[start + 1 : end] if both else ():
            modules[node] = _inner(both, modules[node])


def _write(modules: Mapping[Node, Scope]) -> None:
    """Let the locations of nodes say their modules."""
    for node, module in modules.items():
        if module or _stack(node):
            node.loc = placed(node.loc, module)


# ------------------------------------------------------------------------------------ weights


def used_weights(graph: Graph, nodes: Sequence[Node]) -> Used:
    """The nodes that use weights, and these: constants with a name, inputs where there are none.

    What is made of a weight alone, such as its transpose, still is that weight.
    """
    known = _weights(graph, nodes)
    used: Used = {}
    for node in nodes:
        if node.op == "const":
            continue
        if known.keys().isdisjoint(node.inputs):
            continue
        found = [known[v] for v in node.inputs if v is not None and v in known]
        if node.graphs:
            _hand_over(node, known)
            continue
        used[node] = found
        if len(node.operands) == 1:
            known.update((value, found[0]) for value in node.outputs)
    return used


def _weights(graph: Graph, nodes: Sequence[Node]) -> dict[Value, Weight]:
    """The weights of a program, by their values.

    An input may be one where its argument is a tree of modules: the name of the argument is that of none.
    """
    known: dict[Value, Weight] = {}
    for node in nodes:
        if node.op != "const":
            continue
        tensor = node.out.const
        if tensor is not None and tensor.name:
            known[node.out] = _weight(tensor.name)
    if known:
        return known
    for value in graph.inputs:
        _, _, path = value.hint.partition("/")
        if "/" in path:
            known[value] = _weight(path)
    return known


def _weight(name: str) -> Weight:
    """The weight of a name; names of torch have dots between their steps."""
    path = steps(name.replace(".", "/"))
    return Weight(name, tuple(path[:-1]))


def _hand_over(node: Node, known: dict[Value, Weight]) -> None:
    """Let the inputs of regions be the weights that the node hands over to them: its last operands."""
    if node.op in OTHER_ORDER:
        return
    # the condition of a loop takes others than its body, which is the last
    regions = node.graphs[-1:] if node.op == "lax.while" else node.graphs
    for region in regions:
        operands = node.inputs[len(node.inputs) - len(region.inputs) :]
        for inside, value in zip(region.inputs, operands, strict=False):
            if value is not None and value in known:
                known[inside] = known[value]


# ------------------------------------------------------------------------------------ calls


def modules_of_calls(used: Used, calls: Calls) -> dict[TracedCall, Scope]:
    """The module of each call.

    A weight tells it for the calls that all uses of it stand in. In others, such as each of the blocks that
    read one table, it tells only where no other weight does, and not against the call around.
    """
    whole: dict[TracedCall, Scope] = {}
    partly: dict[TracedCall, Scope] = {}
    for weight, callers in _users(used, calls):
        _add(whole, functools.reduce(around_both, callers), weight.module)
        for call in callers:
            _add(partly, call, weight.module)
    for call in reversed(calls.made):
        for table in (whole, partly):
            if call in table and call.parent is not None:
                _add(table, call.parent, table[call])
    found: dict[TracedCall, Scope] = {}
    for call in calls.made:
        around = () if call.parent is None else found[call.parent]
        module = whole.get(call, partly.get(call, around))
        found[call] = _inner(module, around)
    return found


def _users(used: Used, calls: Calls) -> Iterator[tuple[Weight, list[TracedCall]]]:
    """Each weight with the calls in which it meets another value; those of a derivative by themselves."""
    users: dict[tuple[Weight, bool], dict[TracedCall, None]] = {}
    for node, weights in used.items():
        place = calls.places.get(node)
        if place is None or len(node.operands) == 1:
            continue
        for weight in weights:
            callers = users.setdefault((weight, place.is_backwards), {})
            callers[place.call] = None
    for (weight, _), callers in users.items():
        yield weight, list(callers)


def _add(table: dict[TracedCall, Scope], call: TracedCall, module: Scope) -> None:
    """Let a call be of what its module and another have in common."""
    table[call] = common([table[call], module]) if call in table else module


# ------------------------------------------------------------------------------------ name stacks


def are_in_the_stack(used: Used, modules: Mapping[Node, Scope]) -> bool:
    """Return True where the name stack of what uses weights mostly names their innermost module."""
    by_stack: dict[Scope, list[Scope]] = {}
    for node in used:
        if node in modules:
            by_stack.setdefault(_stack(node), []).append(modules[node])
    told = 0
    untold = 0
    for stack, found in by_stack.items():
        module = common(found)
        if module and module[-1] in stack:
            told += 1
        elif module or not stack:
            untold += 1
    return told > untold


def _stack(node: Node) -> Scope:
    """What the name stack says of a node that has a location."""
    return _steps_of_stack("" if node.loc is None else node.loc.scope)


@functools.lru_cache(maxsize=4096)
def _steps_of_stack(scope: str) -> Scope:
    """The steps of a scope; what calls itself, such as a method that calls that of its base, is one step.

    Linen writes `Cell_0.scan/Cell_0` for a module that one of its other methods calls.
    """
    path: list[str] = []
    for step in scope.split("/") if scope else ():
        if path and path[-1].partition(".")[0] == step:
            path.pop()
        path.append(step)
    return tuple(path)


class _Part:
    """A scope of the user's, from where the program enters it to where it leaves it."""

    def __init__(self, name: str, module: Scope) -> None:
        self.name = name
        self.module = module  # what all that is in it has in common


def _with_scopes(modules: Mapping[Node, Scope]) -> Mapping[Node, Scope]:
    """The modules with the scopes that the user has named in their places."""
    if not any(map(_stack, modules)):
        return modules
    parts: dict[Node, list[_Part]] = {}
    opened: list[_Part] = []
    for node, module in modules.items():
        stack = _stack(node)
        kept = equal_steps(stack, tuple(part.name for part in opened))
        for part in opened[:kept]:
            part.module = common([part.module, module])
        added = [_Part(name, module) for name in stack[kept:]]
        opened = opened[:kept] + added
        parts[node] = opened
    return {node: _joined(module, parts[node]) for node, module in modules.items()}


def _joined(module: Scope, parts: Iterable[_Part]) -> Scope:
    """The path of a module, with each part behind what it has in common; what both name is said once."""
    path: list[str] = []
    place = 0
    for part in parts:
        if part.name not in module:
            path += [*module[place : len(part.module)], part.name]
            place = max(place, len(part.module))
    return (*path, *module[place:])
