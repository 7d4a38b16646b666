"""Nodes: one operation each, with its operands, attributes, results, regions and source line."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from j2o.ir.attributes import HasAttributes
from j2o.ir.ops import spec
from j2o.ir.types import Attr, Type
from j2o.ir.value import Value

if TYPE_CHECKING:
    from j2o.ir.graph import Graph
    from j2o.ir.ops import OpSpec


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
        """Where the node comes from, as messages end."""
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


@functools.cache
def _split(op: str) -> tuple[str, str, str]:
    """Return dialect, dot and kind.

    A domain of ONNX operators may have dots in its name, as may a primitive of JAX.
    """
    return op.partition(".") if op.startswith("lax.") else op.rpartition(".")


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
