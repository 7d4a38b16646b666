"""The graph: nodes in an order, in SSA form; `node.py` has a node, `value.py` a value and its uses.

A region (the body of a scan, a branch of a cond) is a graph too and may use values of the graphs around it.
A function is a graph that may not. Results are the operands of a final `return` node, so replacing a value
needs no special case. Inserting, erasing and replacing cost O(1) for each node and use touched.

`docs/ir.md` has what a pass may rely on and what it must leave true.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from j2o.ir.node import Node
from j2o.ir.types import Type
from j2o.ir.value import Value

if TYPE_CHECKING:
    from j2o.ir.dims import DimScope


class Graph:
    """Inputs, nodes in an order in which every value is defined before its uses, and a final `return`.

    `functions`, `dims`, `input_names` and `output_names` belong to the root alone; `own_functions`
    and `own_dims` are those of this graph, whether it is one or not. `journal` lists the nodes that
    were inserted, changed or lost users, in the order in which that happened: a pass that runs
    again looks at these. `ops` counts the nodes of each operation, `holders` are those with
    regions, in the order of their insertion.
    """

    __slots__ = (
        "_pool",
        "first",
        "holders",
        "input_names",
        "inputs",
        "journal",
        "last",
        "length",
        "name",
        "ops",
        "output_names",
        "own_dims",
        "own_functions",
        "parent",
        "parent_graph",
    )

    def __init__(self, name: str = "main", dims: DimScope | None = None) -> None:
        self.name = name
        self.inputs: list[Value] = []
        self.parent: Node | None = None  # the node whose region this is
        self.parent_graph: Graph | None = None  # for a function: the root that holds it
        self.first: Node | None = None
        self.last: Node | None = None
        self.length = 0
        self.ops: defaultdict[str, int] = defaultdict(int)
        self.holders: dict[Node, None] = {}
        self.journal: list[Node] = []
        self._pool: dict[Hashable, Value] = {}
        self.own_dims = dims
        self.own_functions: dict[str, Graph] = {}
        self.input_names: list[str] = []
        self.output_names: list[str] = []

    # ---------------------------------------------------------------- structure

    @property
    def outer(self) -> Graph | None:
        """The graph around a region."""
        return self.parent.graph if self.parent is not None else None

    @property
    def top(self) -> Graph:
        """The function or root graph that a region lies in."""
        graph = self
        while (outer := graph.outer) is not None:
            graph = outer
        return graph

    @property
    def root(self) -> Graph:
        """The outermost graph, which holds the functions too."""
        top = self.top
        return top.parent_graph.root if top.parent_graph is not None else top

    @property
    def functions(self) -> dict[str, Graph]:
        """The functions of the root, by name."""
        return self.root.own_functions

    def add_function(self, graph: Graph) -> Graph:
        """Add a function to the root under its name, which must be free."""
        root = self.root
        if graph.name in root.own_functions:
            raise ValueError(f"there is a function @{graph.name} already")
        root.own_functions[graph.name] = graph
        graph.parent_graph = root
        return graph

    @property
    def dims(self) -> DimScope:
        """The scope of all symbolic dimensions."""
        from j2o.ir.dims import DimScope

        root = self.root
        if root.own_dims is None:
            root.own_dims = DimScope()
        return root.own_dims

    def add_input(self, type: Type, hint: str = "") -> Value:
        """Append an input."""
        value = Value(type, None, len(self.inputs), hint, self)
        self.inputs.append(value)
        return value

    def remove_input(self, index: int) -> None:
        """Remove an unused input."""
        if self.inputs[index].uses:
            raise ValueError(
                f"cannot remove input %{self.inputs[index].hint}: it is used"
            )
        del self.inputs[index]
        for i, value in enumerate(self.inputs):
            value.index = i

    # -------------------------------------------------------------------- nodes

    def __iter__(self) -> Iterator[Node]:
        """The nodes in order, `return` last. Nodes may be inserted and erased meanwhile."""
        node = self.first
        while node is not None:
            following = node.next
            yield node
            if node.graph is self:
                node = node.next  # one that was inserted right after is visited
                continue
            # the caller has erased it, and perhaps what followed it: each leaves its old successor
            node = following
            while node is not None and node.graph is not self:
                node = node.next

    def __reversed__(self) -> Iterator[Node]:
        """Iterate over the nodes from `return` on backwards; the caller may erase the node that it has."""
        node = self.last
        while node is not None:
            previous = node.prev
            yield node
            node = node.prev if node.graph is self else previous

    def __len__(self) -> int:
        return self.length

    def has(self, ops: Iterable[str]) -> bool:
        """Return True where there is a node of one of these operations. No node is looked at."""
        return any(map(self.ops.get, ops))

    def nodes_of(self, *ops: str) -> list[Node]:
        """The nodes of some operations, in order; a graph that has none is not walked through."""
        return [node for node in self if node.op in ops] if self.has(ops) else []

    def walk(self) -> Iterator[Node]:
        """Iterate over the nodes of this graph and of the regions in it, each before its regions.

        Functions are not entered.
        """
        return self._walk_regions() if self.holders else iter(self)

    def _walk_regions(self) -> Iterator[Node]:
        """`walk` of a graph that has regions."""
        for node in self:
            yield node
            for graph in node.graphs:
                yield from graph.walk()

    def insert(self, node: Node, *, before: Node | None = None) -> Node:
        """Insert a node before another, by default at the end (before `return`, where there is one)."""
        if node.graph is not None:
            raise ValueError(f"{node.op} is in a graph already")
        previous = self.last
        if before is None and previous is not None and previous.op == "return":
            before = previous
        if before is None:
            self.last = node
        elif before.graph is self:
            previous = before.prev
            before.prev = node
        else:
            raise ValueError(f"{before.op} is not in @{self.name}")
        if previous is None:
            self.first = node
        else:
            previous.next = node
        node.graph = self
        node.prev = previous
        node.next = before
        self.length += 1
        self.ops[node.op] += 1
        if node.graphs:
            self.holders[node] = None
        self.journal.append(node)
        return node

    def pooled(self, key: Hashable, make: Callable[[], Node]) -> Value:
        """Return the output of a node without operands that is there once, at the front of the graph.

        It is the node that `make()` gives the first time. `key` tells nodes apart.
        """
        value = self._pool.get(key)
        if value is None or value.graph is not self:
            value = self._pool[key] = self.insert(make(), before=self.first).out
        return value

    @property
    def start(self) -> Node | None:
        """The first node with operands or effects.

        In front of it stand the constants: what is put here may use all of them.
        """
        node = self.first
        while node is not None and node.op in ("const", "dims"):
            node = node.next
        return node

    def unlink(self, node: Node) -> None:
        """Take a node out of the order, operands and uses untouched, to insert it elsewhere."""
        previous = node.prev
        following = node.next
        if previous is None:
            self.first = following
        else:
            previous.next = following
        if following is None:
            self.last = previous
        else:
            following.prev = previous
        node.graph = None
        node.prev = None  # `next` stays, for whoever is iterating
        self.length -= 1
        self.ops[node.op] -= 1
        if self.holders:
            self.holders.pop(node, None)

    def drop(self) -> None:
        """Release everything in the graph: outer values lose the uses in here, no cycle is left in it."""
        for node in self:
            node.graph = None
            node.prev = None
            node.set_inputs(())
            for value in node.outputs:
                value.node = None
            for graph in node.graphs:
                graph.drop()
        for value in self.inputs:
            value.input_of = None
        self.parent = None
        self.first = self.last = None
        self.length = 0
        self.ops.clear()
        self.holders.clear()
        self.journal.clear()
        self._pool.clear()

    # ------------------------------------------------------------------ results

    @property
    def ret(self) -> Node:
        """The final `return`."""
        if self.last is None or self.last.op != "return":
            raise ValueError(f"@{self.name} has no return yet")
        return self.last

    @property
    def outputs(self) -> tuple[Value, ...]:
        """The results: the operands of the final `return`."""
        return self.ret.operands

    def set_outputs(self, values: Sequence[Value]) -> None:
        """Make or change the final `return`."""
        if self.last is not None and self.last.op == "return":
            self.last.set_inputs(values)
        else:
            self.insert(Node("return", values, ()))

    def clone(self, values: dict[Value, Value] | None = None) -> Graph:
        """Return a copy with regions and functions.

        Values of graphs around it are kept, or taken from `values`, which learns what each value became.
        """
        from j2o.ir.copies import clone_graph

        return clone_graph(self, {} if values is None else values)

    # ----------------------------------------------------------------- checks, text

    def verify(self) -> None:
        """Raise `InvalidGraphError` where the graph breaks a rule of the IR.

        The error names the offending node and its source line.
        """
        from j2o.ir.verify import verify

        verify(self)

    def __str__(self) -> str:
        from j2o.ir.printer import to_text

        return to_text(self)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from j2o.ir.notebook import graph_html

        return graph_html(self)

    def __repr__(self) -> str:
        return f"<graph @{self.name}: {len(self.inputs)} inputs, {self.length} nodes>"
