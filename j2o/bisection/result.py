"""What a bisection has found, for people as text and for programs as plain data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from j2o.bisection.measure import Difference, Tolerance
from j2o.ir.graph import Node, Value
from j2o.ir.places import portable

Stage: TypeAlias = Literal["tracing", "pass", "writing", "onnxruntime", "rounding"]
STAGES: dict[str, str] = {
    "tracing": "tracing: JAX itself gives other values for the traced program than for the function",
    "pass": "the pass {pass_name}",
    "writing": "the writing of the model, or the kernels of onnxruntime",
    "onnxruntime": "the optimiser of onnxruntime",
    "rounding": "rounding, which grows on its way through the program",
}


@dataclass(frozen=True)
class OutputGap:
    """How far one output of the model is from JAX's; None where the model could not be run."""

    name: str
    close: bool
    difference: Difference | None


@dataclass(frozen=True)
class Place:
    """Where in the program something stands.

    `source` is the line, `net.py:12`, in `function`; `module` the path of the module that it is of,
    `blocks/3/attention`. "" where that is not known.
    """

    source: str = ""
    function: str = ""
    module: str = ""

    def __str__(self) -> str:
        return f"{self.source}, in {self.function}" if self.function else self.source


NOWHERE = Place()


@dataclass(frozen=True)
class Made:
    """A value and what makes it: its name, the operation, the type, and where that stands."""

    name: str
    operation: str
    type: str
    place: Place = NOWHERE

    def __str__(self) -> str:
        return f"%{self.name or '…'} = {self.operation} : {self.type}"


def made(value: Value, holder: Node | None = None) -> Made:
    """What is told of a value; an input of a region stands where the region's `holder` does."""
    node = value.node or holder
    loc = None if node is None else node.loc
    place = NOWHERE
    if loc is not None:
        source = f"{portable(loc.file)}:{loc.line}"
        place = Place(source, loc.function, loc.scope)
    return Made(value.hint, value.op or "an input", str(value.type), place)


def place_of(*values: Made | None) -> Place:
    """The place of the first value that has one."""
    for one in values:
        if one is not None and one.place.source:
            return one.place
    return NOWHERE


@dataclass(frozen=True)
class Fault:
    """The first value that is another than JAX's, and where that comes from.

    `stage` is "tracing", "pass", "writing", "onnxruntime" or "rounding"; of a pass, `pass_name` is its
    name, and `rule` that of its rule where it is one rule's work. `value` is the value, `instead_of` the one
    before the pass that it stands for, `in_jax` the value of the program that has these contents.
    `inside` tells regions and functions from the outside in, such as `round 3 of scan at net.py:12`.
    `difference` compares the value with what it should be; `error` is the message where it cannot be
    computed. `hint` says what else is known. `place` is where in the
    program it stands.
    """

    stage: Stage
    value: Made | None = None
    pass_name: str = ""
    rule: str = ""
    instead_of: Made | None = None
    in_jax: Made | None = None
    inside: tuple[str, ...] = ()
    difference: Difference | None = None
    error: str = ""
    hint: str = ""
    place: Place = NOWHERE

    def rows(self) -> list[tuple[str, str]]:
        """Labels and texts, for people."""
        where = STAGES[self.stage].format(pass_name=self.pass_name)
        rows = [
            ("comes from", where),
            ("by the rule", self.rule),
            ("value", str(self.value) if self.value else ""),
            ("in place of", str(self.instead_of) if self.instead_of else ""),
            ("in JAX", str(self.in_jax) if self.in_jax else ""),
            ("source", str(self.place)),
            ("module", self.place.module),
            *[("inside", step) for step in self.inside],
            ("it is", str(self.difference) if self.difference else ""),
            ("error", self.error),
            ("note", self.hint),
        ]
        return [(label, text) for label, text in rows if text]


@dataclass(frozen=True)
class Bisection:
    """What `j2o.bisect` has found; `str` of it is for people, `to_json()` plain data.

    `differs` tells whether an output of the model is too far from JAX's; then `fault` says where that
    comes from. `outputs` has the largest differences. `inputs` says in words what was compared at.
    """

    outputs: tuple[OutputGap, ...]
    inputs: str
    tolerance: Tolerance
    fault: Fault | None = None
    error: str = ""
    notes: tuple[str, ...] = ()

    @property
    def differs(self) -> bool:
        """True where the model gives other values than JAX, or cannot be run."""
        return bool(self.error) or not all(one.close for one in self.outputs)

    @property
    def summary(self) -> str:
        """The result in one line."""
        if not self.differs or self.fault is None:
            return self._verdict()
        what = "the model cannot be run" if self.error else "the model differs from JAX"
        where = STAGES[self.fault.stage].format(pass_name=self.fault.pass_name)
        line = self.fault.place.source
        return f"{what}: by {where}{line and f', at {line}'}"

    def __str__(self) -> str:
        lines = [self._verdict()]
        rows = [("at", self.inputs)]
        if self.fault is not None:
            rows += self.fault.rows()
        rows += [("note", note) for note in self.notes]
        lines += [f"  {label:12} {text}" for label, text in rows]
        return "\n".join(lines)

    def _verdict(self) -> str:
        """Whether the model differs from JAX, where, and by how much, in one line."""
        rtol, atol = self.tolerance
        allowed = f"rtol {rtol:g}, atol {atol:g}"
        if self.error:
            return f"the model cannot be run: {self.error}"
        if not self.differs:
            return f"no difference: the model gives what JAX gives ({allowed}){self._largest()}"
        wrong = [one for one in self.outputs if not one.close]
        names = ", ".join([repr(one.name) for one in wrong[:4]])
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        what = f"the model differs from JAX ({allowed}) in {names}{more}"
        return f"{what}: {wrong[0].difference}"

    def _largest(self) -> str:
        """The largest difference of all outputs, in words."""
        gaps = [one.difference for one in self.outputs if one.difference is not None]
        if not gaps:
            return ""
        absolute = max(gap.absolute for gap in gaps)
        relative = max(gap.relative for gap in gaps)
        return f"; largest difference {absolute:.3g}, relative {relative:.3g}"

    def to_json(self) -> dict[str, Any]:
        """The same as dicts, lists, texts and numbers."""
        found = dataclasses.asdict(self)
        found["differs"] = self.differs
        found["tolerance"] = self.tolerance._asdict()
        return found
