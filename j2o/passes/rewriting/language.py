"""The language of patterns: what a pattern function may build, and what is wrong with it.

A pattern is traced once, when its rule is made. It is a tree of operations (`Apply`), alternatives
(`Either`), parameters (`Wild`), Python numbers, None for an operand that is left out, and `...` for
any further operands. All that can be known of it then is checked then: a pattern that no graph fits
would only be silent later.
"""

from __future__ import annotations

import functools
import inspect
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from j2o.errors import PassError, meant, raised, shown
from j2o.ir.build import Dialect, attribute
from j2o.ir.onnx_ops import Schema, operators, schema
from j2o.ir.ops import LABEL, spec
from j2o.passes.context import Level


class Const:
    """Annotation of a pattern's parameter that binds only constants."""


@dataclass(frozen=True, eq=False)
class Wild:
    """A parameter of the pattern. With `const` it binds only constants."""

    name: str
    const: bool


@dataclass(frozen=True, eq=False)
class Apply:
    """An operation in a pattern: its full name, operands and attributes."""

    op: str
    inputs: tuple[Pattern, ...]
    attrs: Mapping[str, Any]

    @functools.cached_property
    def operands(self) -> tuple[Pattern, ...]:
        """The operands without the `...` at the end."""
        operands = self.inputs
        if operands and operands[-1] is ...:
            return operands[:-1]
        return operands

    @functools.cached_property
    def last_first(self) -> tuple[tuple[Pattern, str | None], ...]:
        """The operands from the last to the first, each with the operation that makes it; None for any."""
        return tuple([(part, _maker(part)) for part in self.operands[::-1]])

    @functools.cached_property
    def in_any_order(self) -> bool:
        """Whether there are two operands, which may be exchanged."""
        return len(self.operands) == 2 and spec(self.op).commutative


@dataclass(frozen=True, eq=False)
class Either:
    """Alternatives in a pattern."""

    options: tuple[Pattern, ...]

    @functools.cached_property
    def last_first(self) -> tuple[tuple[Pattern, str | None], ...]:
        """The options from the last to the first, each with the operation that makes it; None for any."""
        return tuple([(option, _maker(option)) for option in self.options[::-1]])


Number: TypeAlias = bool | int | float | complex
Pattern: TypeAlias = Apply | Either | Wild | Number | EllipsisType | None


def _maker(part: Pattern) -> str | None:
    """The operation that makes what fits a part of a pattern; None where any may."""
    return part.op if isinstance(part, Apply) else None


def _apply(op: str, *inputs: Any, **attrs: Any) -> Apply:
    """An operation of a pattern, numpy's numbers as Python's."""
    operands = [x.item() if isinstance(x, np.generic) else x for x in inputs]
    attributes = {name: attribute(value) for name, value in attrs.items()}
    return Apply(op, tuple(operands), attributes)


class PatternBuilder(Dialect):
    """What a pattern function is handed for `op`: `op.Relu(x)`, `op.lax.exp(x)`, `op.ort.QuickGelu(x)`."""

    def __init__(self) -> None:
        super().__init__(_apply, "onnx")
        self.lax = Dialect(_apply, "lax")
        self.ort = Dialect(_apply, "ort")

    def apply(self, op: str, *inputs: Any, **attrs: Any) -> Apply:
        """An operation by its full name, of any domain: `op.apply("kernels.Twice", x)`."""
        return _apply(op, *inputs, **attrs)

    def either(self, *options: Any) -> Either:
        """Whichever of the options fits."""
        return Either(options)

    def maybe(self, kind: str, x: Any, **attrs: Any) -> Either:
        """The ONNX operation on `x`, or `x` itself."""
        return Either((_apply(f"onnx.{kind}", x, **attrs), x))


# ------------------------------------------------------------------------------ tracing


class TracedPattern(NamedTuple):
    """What a pattern function builds, and the names of its parameters."""

    pattern: Pattern
    parameters: tuple[str, ...]


def trace_pattern(name: str, at: Level, function: Callable[..., Any]) -> TracedPattern:
    """Call a pattern function once; PassError where no graph can have what it builds."""
    parameters = parameters_of(f"rule {name}: the pattern", function)
    wilds = [Wild(p.name, _is_const(p.annotation)) for p in parameters]
    try:
        pattern = function(PatternBuilder(), *wilds)
    except Exception as error:
        what = f"rule {name}: the pattern raised {raised(error)}"
        raise PassError(f"{what}; it can only build operations") from error
    for root in roots(pattern):
        if not isinstance(root, Apply):
            what = f"rule {name}: the pattern must be an operation"
            raise PassError(f"{what}, not {_kind(root)}")
    _check_parts(name, at, pattern)
    _check_parameters(name, wilds, pattern)
    return TracedPattern(pattern, tuple(wild.name for wild in wilds))


def _check_parts(name: str, at: Level, pattern: Pattern) -> None:
    """PassError for an operation or an operand that there cannot be."""
    for part in parts(pattern):
        if isinstance(part, Apply):
            _check_operation(name, at, part)
        elif problem := _problem_of_operand(part):
            raise PassError(f"rule {name}: {problem}")


def _check_parameters(name: str, wilds: Sequence[Wild], pattern: Pattern) -> None:
    """PassError for a parameter that does not occur, or in two roles."""
    as_operand: set[str] = set()
    as_attribute: set[str] = set()
    for part in parts(pattern):
        if isinstance(part, Wild):
            as_operand.add(part.name)
        elif isinstance(part, Apply):
            bound = [a for a in part.attrs.values() if isinstance(a, Wild)]
            as_attribute.update(wild.name for wild in bound)
    for wild in wilds:
        what = f"rule {name}: the parameter {wild.name!r}"
        if wild.name not in as_operand | as_attribute:
            raise PassError(f"{what} does not occur in the pattern {text(pattern)}")
        if wild.name in as_operand & as_attribute:
            raise PassError(f"{what} is both an operand and an attribute")


def parameters_of(what: str, fn: Any) -> list[inspect.Parameter]:
    """The parameters after the first, `op`, that a pattern or a replacement takes.

    `what` names it in the PassError for a function that takes others.
    """
    if not callable(fn):
        raise PassError(
            f"{what}: a function (op, *parameters) is needed, given {shown(fn)}"
        )
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        raise PassError(
            f"{what}: {shown(fn)} does not tell its parameters; wrap it in a function"
        ) from None
    by_position = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    plain = [p for p in parameters if p.kind in by_position]
    if not plain or len(plain) != len(parameters):
        taken = ", ".join(str(p).partition(":")[0] for p in parameters)
        raise PassError(
            f"{what} takes ({taken}); it must take op and plain parameters, (op, x, y)"
        )
    return plain[1:]


def _is_const(annotation: Any) -> bool:
    """Return True where a parameter is annotated `Const`.

    Annotations that are not evaluated are strings; the last part of the name counts.
    """
    if isinstance(annotation, str):
        return annotation.rpartition(".")[2] == "Const"
    return annotation is Const


def parts(pattern: Pattern) -> Iterator[Pattern]:
    """Everything in a pattern, each operation before its operands.

    Attributes are not entered, and a final `...` is left out.
    """
    yield pattern
    if isinstance(pattern, Apply):
        for operand in pattern.operands:
            yield from parts(operand)
    elif isinstance(pattern, Either):
        for option in pattern.options:
            yield from parts(option)


def _problem_of_operand(part: object) -> str | None:
    """What is wrong with what stands for an operand, None for nothing."""
    if isinstance(part, Either):
        return None if part.options else "either() needs options"
    if part is None or isinstance(part, Wild | numbers.Number):
        return None
    if part is ...:
        return "... stands for all further operands, so it must be the last"
    allowed = "parameters, operations, numbers and None are"
    advice = (
        "a constant tensor is bound by a parameter, and looked at in the replacement"
    )
    return f"{shown(part)} is no operand: {allowed}; {advice}"


def _kind(root: object) -> str:
    """What stands where a pattern must have an operation, in words."""
    if isinstance(root, Wild):
        return f"the parameter {root.name!r} alone"
    return shown(root)


# ------------------------------------------------------------------------------- checks


def _check_operation(name: str, at: Level, part: Apply) -> None:
    """PassError for an operation that no graph at that level has."""
    is_lax = part.op.startswith("lax.")
    split = str.partition if is_lax else str.rpartition
    dialect, _, kind = split(part.op, ".")
    if is_lax != (at == "lax"):
        what = f"rule {name} works at {at!r}, where there is no {part.op}"
        advice = "op.lax.exp(x) is for at='lax', op.Exp(x) for 'onnx'"
        raise PassError(f"{what}: {advice}")
    if dialect == "onnx":
        _check_operator(name, kind, part)
    for attr, value in part.attrs.items():
        if isinstance(value, Apply | Either):
            what = f"rule {name}: the attribute {attr} of {kind}"
            raise PassError(f"{what} cannot be an operation; a parameter binds it")


def _check_operator(name: str, kind: str, part: Apply) -> None:
    """PassError for an ONNX operation that the operator's schema does not allow."""
    try:
        known = schema(kind)
    except KeyError:
        similar = meant(kind, operators())
        what = f"there is no ONNX operator {kind!r}{similar}"
        raise PassError(f"rule {name}: {what}") from None
    if problem := _problem_of_operator(kind, known, part):
        raise PassError(f"rule {name}: {problem}")


def _problem_of_operator(kind: str, known: Schema, part: Apply) -> str | None:
    """What ONNX's schema of an operator says against its use in a pattern."""
    for attr in part.attrs:
        if attr not in known.attributes and attr != LABEL:
            similar = meant(attr, known.attributes)
            has = ", ".join(sorted(known.attributes)) or "none"
            return f"{kind} has no attribute {attr!r}{similar}; it has {has}"
    given = len(part.inputs)
    rest = given > 0 and part.inputs[-1] is ...
    least = given - 1 if rest else given
    if least > known.max_inputs or (not rest and given < known.min_inputs):
        takes = f"{kind} takes {known.operand_counts} operands"
        return f"{takes}, the pattern gives it {least}"
    if known.min_outputs > 1:
        results = f"{kind} has {known.min_outputs} results"
        return f"{results}; a pattern is of operations that have one"
    return None


# ----------------------------------------------------------------------- about patterns


def roots(pattern: Pattern) -> list[Pattern]:
    """What a match can end in: the pattern, or its options."""
    if isinstance(pattern, Either):
        return [root for option in pattern.options for root in roots(option)]
    return [pattern]


def required(pattern: Pattern) -> frozenset[str]:
    """The operations without which nothing matches."""
    if isinstance(pattern, Apply):
        own = frozenset([pattern.op])
        return own.union(*map(required, pattern.inputs))
    if isinstance(pattern, Either):
        first, *rest = map(required, pattern.options)
        return first.intersection(*rest)
    return frozenset()


def depth_of(pattern: Pattern) -> int:
    """How many operations a pattern has above one another."""
    if isinstance(pattern, Apply):
        return 1 + max(map(depth_of, pattern.inputs), default=0)
    if isinstance(pattern, Either):
        return max(map(depth_of, pattern.options))
    return 0


def text(pattern: object) -> str:
    """A pattern as it is written: `Min(Max(x, 0.0), 6.0)`."""
    if isinstance(pattern, Wild):
        return pattern.name
    if isinstance(pattern, Either):
        return f"either({', '.join(map(text, pattern.options))})"
    if isinstance(pattern, Apply):
        kind = pattern.op.removeprefix("onnx.")
        arguments = list(map(text, pattern.inputs))
        for name, value in pattern.attrs.items():
            arguments.append(f"{name}={text(value)}")
        return f"{kind}({', '.join(arguments)})"
    return "..." if pattern is ... else repr(pattern)
