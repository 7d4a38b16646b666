"""Values: what nodes make and use, with the list of their uses."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from typing import TYPE_CHECKING, Any

from j2o.ir.types import Dim, Type, are_integers

if TYPE_CHECKING:
    from j2o.ir.graph import Graph
    from j2o.ir.node import Node
    from j2o.ir.tensor import Tensor


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
    def known_int(self) -> int | None:
        """The number in a shape vector of one, or in a scalar; None for more, and where it is not known."""
        numbers = self.known_ints
        return numbers[0] if numbers is not None and len(numbers) == 1 else None

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
