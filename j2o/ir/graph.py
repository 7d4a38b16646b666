"""The graph: values, nodes, and graphs of them in SSA form with use lists.

A region (the body of a scan, a branch of a cond) is a graph too and may use values of the graphs around it.
A function is a graph that may not. Results are the operands of a final `return` node, so replacing a value
needs no special case. Inserting, erasing and replacing cost O(1) for each node and use touched.

`docs/ir.md` has what a pass may rely on and what it must leave true.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import (
    Callable,
    Container,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import TYPE_CHECKING, Any, NamedTuple

from j2o.ir.attributes import HasAttributes
from j2o.ir.ops import spec
from j2o.ir.types import Attr, Dim, Type, are_integers

if TYPE_CHECKING:
    from j2o.ir.dims import DimScope
    from j2o.ir.ops import OpSpec
    from j2o.ir.tensor import Tensor


@functools.cache
def _split(op: str) -> tuple[str, str, str]:
    """Return dialect, dot and kind.

    A domain of ONNX operators may have dots in its name, as may a primitive of JAX.
    """
    return op.partition(".") if op.startswith("lax.") else op.rpartition(".")


class Loc(NamedTuple):
    """Where a node comes from: the user's frame, and the module that it belongs to.

    `scope` has the names of the modules around it, from the outside in, with `/` between them.
    """

    file: str
    line: int
    function: str = ""
    scope: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Value:
    """One tensor: the result of a node or an input of a graph. Compared by identity.

    `node` is the producer, None for an input of the graph `input_of`. `index` is the place among the outputs
    or inputs, `hint` the name that is proposed for the text and the model. `uses` are pairs
    of a node and the place of the operand, in the order in which they came.
    """

    __slots__ = ("hint", "index", "input_of", "node", "type", "uses")

    def __init__(
        self,
        type: Type,
        node: Node | None,
        index: int,
        hint: str = "",
        input_of: Graph | None = None,
    ) -> None:
        self.type = type
        self.node = node
        self.input_of = input_of
        self.index = index
        self.hint = hint
        self.uses: dict[tuple[Node, int], None] = {}

    @property
    def graph(self) -> Graph | None:
        """The graph in which the value is defined; None once its node is erased."""
        return self.node.graph if self.node is not None else self.input_of

    @property
    def op(self) -> str:
        """The producer's operation, "" for an input of a graph."""
        return self.node.op if self.node is not None else ""

    @property
    def const(self) -> Tensor | None:
        """The constant, when the value is one."""
        node = self.node
        if node is None or node.op != "const":
            return None
        return node.attrs["value"]  # type: ignore[return-value]  # a Tensor

    @property
    def number(self) -> Any:
        """The element of a constant that has one, as Python's own number; None of other values."""
        tensor = self.const
        return None if tensor is None or tensor.size != 1 else tensor.scalar

    @property
    def known(self) -> tuple[Dim, ...] | None:
        """The entries of a shape vector, or the one entry of an integer scalar.

        They are known of a `dims` node and of a small constant; None for other values.
        """
        node = self.node
        if node is None:
            return None
        if node.op == "dims":
            return node.attrs["dims"]  # type: ignore[return-value]  # sizes
        tensor = self.const
        return None if tensor is None else tensor.entries

    @property
    def known_ints(self) -> tuple[int, ...] | None:
        """The entries of a shape vector where all of them are numbers, else None."""
        entries = self.known
        return entries if entries is not None and are_integers(entries) else None

    @property
    def producer(self) -> Node:
        """The node that makes the value; ValueError for an input of a graph."""
        if self.node is None:
            raise ValueError(f"%{self.hint} is an input of a graph: no node makes it")
        return self.node

    def retype(self, type: Type) -> None:
        """Give the value another type in place, and let passes that run again look at its producer and users.

        The caller answers for the users: each must still be right for operands of the new type.
        """
        self.type = type
        for node in (self.node, *self.users()):
            if node is not None:
                node.touch()

    def origin(self, ops: Container[str]) -> Value:
        """What these operations alone make the value of, by their first operands; itself where none does."""
        value = self
        while (node := value.node) is not None and node.op in ops:
            value = node.operand(0)
        return value

    def users(self) -> Iterator[Node]:
        """The nodes that use the value, each once, in the order of their first use."""
        return iter(dict.fromkeys([node for node, _ in self.uses]))

    @property
    def only_user(self) -> Node | None:
        """The node of the one use of the value, where there is one and it is in the same graph."""
        if len(self.uses) != 1:
            return None
        user, _ = next(iter(self.uses))
        return user if user.graph is self.graph else None

    def replace_by(
        self, new: Value, *, where: Callable[[Node], bool] | None = None
    ) -> None:
        """Let every user (of those that `where` accepts) use `new` instead."""
        if new is self:
            return
        if self.hint and self.hint != new.hint:
            self._hand_hint_to(new)
        if where is None:
            moved = self.uses
            self.uses = {}
        else:
            moved = dict.fromkeys([use for use in self.uses if where(use[0])])
            for use in moved:
                del self.uses[use]
        # `set_input` of each, in line: this runs more often than all else here
        for node, index in moved:
            inputs = list(node.inputs)
            inputs[index] = new
            node.inputs = tuple(inputs)
            if node.graph is not None:
                node.graph.journal.append(node)
        new.uses.update(moved)

    def _hand_hint_to(self, new: Value) -> None:
        """Give `new` the hint where it has none, or only that of its operation."""
        is_of_operation = self.node is not None and new.hint == new.op
        if is_of_operation or not new.hint:
            new.hint = self.hint

    def __repr__(self) -> str:
        return f"<%{self.hint or '?'}: {self.type} of {self.op or 'graph input'}>"


class Node(HasAttributes):
    """One operation. Operands may be None where ONNX leaves an optional input out.

    `graphs` are its regions, `graph` is where it stands, between `prev` and `next`.
    """

    __slots__ = (
        "attrs",
        "graph",
        "graphs",
        "inputs",
        "loc",
        "next",
        "op",
        "outputs",
        "prev",
    )

    def __init__(
        self,
        op: str,
        inputs: Sequence[Value | None],
        types: Sequence[Type],
        attrs: Mapping[str, Attr] | None = None,
        graphs: Sequence[Graph] = (),
        loc: Loc | None = None,
        hints: Sequence[str] = (),
    ) -> None:
        self.op = op
        self.inputs: tuple[Value | None, ...] = tuple(inputs)
        self.attrs: dict[str, Attr] = dict(attrs) if attrs else {}
        self.graphs: tuple[Graph, ...] = tuple(graphs)
        self.loc = loc
        self.graph: Graph | None = None
        self.prev: Node | None = None
        self.next: Node | None = None
        self.outputs: tuple[Value, ...] = ()
        if types:
            self.make_outputs(types)
        if hints:
            for value, hint in zip(self.outputs, hints, strict=False):
                value.hint = hint
        for graph in self.graphs:
            graph.parent = self
        for i, value in enumerate(self.inputs):
            if value is not None:
                value.uses[self, i] = None

    def make_outputs(self, types: Sequence[Type], hint: str = "") -> None:
        """Give a node that was made without results those of these types."""
        outputs: list[Value] = []
        for index, type in enumerate(types):
            outputs.append(Value(type, self, index, hint))
        self.outputs = tuple(outputs)

    @property
    def out(self) -> Value:
        """The only output; ValueError where there are more or none."""
        try:
            (value,) = self.outputs
        except ValueError:
            count = len(self.outputs)
            raise ValueError(f"{self.op} has {count} outputs, not one") from None
        return value

    @property
    def spec(self) -> OpSpec:
        """What is known of the operation, such as whether it has effects."""
        return spec(self.op)

    @property
    def dialect(self) -> str:
        """`lax`, `onnx`, `ort`, a custom domain, or "" for the core's own operations."""
        return _split(self.op)[0]

    @property
    def kind(self) -> str:
        """The operation without its dialect."""
        return _split(self.op)[2]

    @property
    def described(self) -> str:
        """`exp(f32[B,3]) at model.py:12`, for messages."""
        types = [str(value.type) for value in self.operands]
        return f"{self.kind}({', '.join(types)}){self._at}"

    @property
    def _at(self) -> str:
        return f" at {self.loc}" if self.loc else ""

    # -------------------------------------------------------------- operands, attributes

    @property
    def home(self) -> Graph:
        """The graph that the node stands in; ValueError where it is not inserted yet, or erased."""
        if self.graph is None:
            raise ValueError(f"{self.op} is in no graph")
        return self.graph

    def operand(self, index: int) -> Value:
        """Return one operand; ValueError where it is left out."""
        try:
            value = self.inputs[index]
        except IndexError:
            value = None
        if value is None:
            raise ValueError(f"{self.op} has no operand {index}")
        return value

    def optional(self, index: int) -> Value | None:
        """Return one operand, None where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    @property
    def operands(self) -> tuple[Value, ...]:
        """The operands that are there, those left out skipped."""
        return tuple([value for value in self.inputs if value is not None])

    def used_values(self) -> Iterator[Value]:
        """Iterate over the operands that are there, and those of all nodes in the regions."""
        yield from self.operands
        for region in self.graphs:
            for inner in region.walk():
                yield from inner.operands

    def set_attr(self, name: str, value: Attr) -> None:
        """Change one attribute, and let passes that run again look at the node."""
        self.attrs[name] = value
        self.touch()

    def touch(self) -> None:
        """Enter the node into its graph's journal: something about it is another than before."""
        if self.graph is not None:
            self.graph.journal.append(self)

    def set_input(self, index: int, value: Value | None) -> None:
        """Replace one operand."""
        use = self, index
        inputs = list(self.inputs)
        old = inputs[index]
        if old is not None:
            del old.uses[use]
        inputs[index] = value
        self.inputs = tuple(inputs)
        if value is not None:
            value.uses[use] = None
        self.touch()

    def set_inputs(self, values: Sequence[Value | None]) -> None:
        """Replace all operands; their number may change."""
        for i, old in enumerate(self.inputs):
            if old is not None:
                del old.uses[self, i]
        self.inputs = tuple(values)
        for i, value in enumerate(self.inputs):
            if value is not None:
                value.uses[self, i] = None
        self.touch()

    @property
    def used(self) -> bool:
        """True where an output has a user."""
        for value in self.outputs:  # a loop is twice as fast as `any`
            if value.uses:
                return True
        return False

    def erase(self) -> None:
        """Remove the node and the regions that are still its own; ValueError while an output is used."""
        for value in self.outputs:
            if value.uses:
                user = next(value.users())
                raise ValueError(
                    f"cannot erase {self.op}: {user.op} still uses %{value.hint}"
                )
        if self.graph is not None:
            self.graph.unlink(self)
        for i, value in enumerate(self.inputs):
            if value is None:
                continue
            uses = value.uses
            del uses[self, i]
            # `touch`, in line: what makes the value has fewer users now
            maker = value.node
            if uses and maker is not None and maker.graph is not None:
                maker.graph.journal.append(maker)
        self.inputs = ()
        for value in self.outputs:
            value.node = None  # no cycle is left for the collector
        for graph in self.graphs:
            if graph.parent is self:
                graph.drop()

    def replace_by(self, *values: Value) -> None:
        """Let every user take `values` instead of the outputs, and erase the node."""
        for old, new in zip(self.outputs, values, strict=True):
            old.replace_by(new)
        self.erase()

    def __repr__(self) -> str:
        types = [str(value.type) for value in self.outputs]
        return f"<{self.op} : {', '.join(types)}{self._at}>"


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


def erase_dead(node: Node) -> None:
    """Erase a node without users, and what only it used."""
    stack = [node]
    while stack:
        one = stack.pop()
        if one.graph is None or one.op == "return" or one.used or not one.spec.pure:
            continue
        operands = one.inputs
        one.erase()
        for value in operands:
            if value is not None and value.node is not None and not value.uses:
                stack.append(value.node)
