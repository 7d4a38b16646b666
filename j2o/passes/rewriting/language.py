"""The language of patterns: what a pattern function may build, and what is wrong with one that can never match.

A pattern is traced once, when its rule is made. It is a tree of operations (`Apply`), alternatives (`Either`), parameters
(`Wild`), Python numbers, None for an operand that is left out, and `...` for any further operands. All that can be known
of it then is checked then: a pattern that no graph fits would only be silent later.
"""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from j2o.errors import PassError, meant, raised, shown
from j2o.ir.build import Dialect, attribute
from j2o.ir.onnx_ops import Schema, operators, schema
from j2o.ir.ops import LABEL
from j2o.passes.context import Level


class Const:
    """Annotation of a pattern's parameter that binds only constants."""


@dataclass(frozen=True, eq=False)
class Wild:
    """A parameter of the pattern."""

    name: str
    const: bool


@dataclass(frozen=True, eq=False)
class Apply:
    """An operation in a pattern."""

    op: str
    inputs: tuple[Any, ...]
    attrs: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Either:
    options: tuple[Any, ...]


def _apply(op: str, *inputs: Any, **attrs: Any) -> Apply:
    operands = tuple([x.item() if isinstance(x, np.generic) else x for x in inputs])
    return Apply(
        op, operands, {name: attribute(value) for name, value in attrs.items()}
    )


class PatternBuilder(Dialect):
    """What a pattern function is handed for `op`: `op.Relu(x)`, `op.lax.exp(x)`, `op.ort.QuickGelu(x)`."""

    def __init__(self) -> None:
        super().__init__(_apply, "onnx")
        self.lax, self.ort = Dialect(_apply, "lax"), Dialect(_apply, "ort")

    def apply(self, op: str, *inputs: Any, **attrs: Any) -> Apply:
        """An operation by its full name, of any domain: `op.apply("kernels.Twice", x)`."""
        return _apply(op, *inputs, **attrs)

    def either(self, *options: Any) -> Either:
        return Either(options)

    def maybe(self, kind: str, x: Any, **attrs: Any) -> Either:
        return Either((_apply(f"onnx.{kind}", x, **attrs), x))


# ----------------------------------------------------------------------------------------------- tracing


def trace_pattern(
    name: str, at: Level, pattern: Callable[..., Any]
) -> tuple[Any, tuple[str, ...]]:
    """What a pattern function builds, and the names of its parameters; PassError where no graph can have it."""
    wilds = [
        Wild(p.name, _is_const(p.annotation))
        for p in parameters_of(f"rule {name}: the pattern", pattern)
    ]
    try:
        traced = pattern(PatternBuilder(), *wilds)
    except Exception as error:
        raise PassError(
            f"rule {name}: the pattern raised {raised(error)}; it can only build operations"
        ) from error
    for root in roots(traced):
        if not isinstance(root, Apply):
            raise PassError(
                f"rule {name}: the pattern must be an operation, not {_kind(root)}"
            )
    as_operand: set[str] = set()
    as_attribute: set[str] = set()
    for part in parts(traced):
        if isinstance(part, Wild):
            as_operand.add(part.name)
        elif isinstance(part, Apply):
            _check_operation(name, at, part)
            as_attribute.update(
                a.name for a in part.attrs.values() if isinstance(a, Wild)
            )
        elif problem := _problem_of_operand(part):
            raise PassError(f"rule {name}: {problem}")
    for wild in wilds:
        if wild.name not in as_operand | as_attribute:
            raise PassError(
                f"rule {name}: the parameter {wild.name!r} does not occur in the pattern {text(traced)}"
            )
        if wild.name in as_operand & as_attribute:
            raise PassError(
                f"rule {name}: the parameter {wild.name!r} is both an operand and an attribute"
            )
    return traced, tuple(w.name for w in wilds)


def parameters_of(what: str, fn: Any) -> list[inspect.Parameter]:
    """The parameters after the first, `op`, that a pattern or a replacement takes; PassError where there are others."""
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
    plain = [
        p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if not plain or len(plain) != len(parameters):
        taken = ", ".join(str(p).partition(":")[0] for p in parameters)
        raise PassError(
            f"{what} takes ({taken}); it must take op and plain parameters, (op, x, y)"
        )
    return plain[1:]


def _is_const(annotation: Any) -> bool:
    """Whether a parameter is annotated `Const`; where annotations are not evaluated, by the last part of its name."""
    return annotation is Const or (
        isinstance(annotation, str) and annotation.rpartition(".")[2] == "Const"
    )


def parts(pattern: Any) -> Iterator[Any]:
    """Everything in a pattern, each operation before its operands; attributes and a final `...` are not entered."""
    yield pattern
    if isinstance(pattern, Apply):
        last = len(pattern.inputs) - 1
        for i, operand in enumerate(pattern.inputs):
            if operand is not ... or i < last:
                yield from parts(operand)
    elif isinstance(pattern, Either):
        for option in pattern.options:
            yield from parts(option)


def _problem_of_operand(part: Any) -> str | None:
    """What is wrong with what stands for an operand."""
    if isinstance(part, Either):
        return None if part.options else "either() needs options"
    if part is None or isinstance(part, numbers.Number):
        return None
    if part is ...:
        return "... stands for all further operands, so it must be the last"
    what = "a constant tensor is bound by a parameter, and looked at in the replacement"
    return f"{shown(part)} is no operand: parameters, operations, numbers and None are; {what}"


def _kind(root: Any) -> str:
    return (
        f"the parameter {root.name!r} alone" if isinstance(root, Wild) else shown(root)
    )


# ------------------------------------------------------------------------------------------------ checks


def _check_operation(name: str, at: Level, part: Apply) -> None:
    """PassError for an operation that no graph at that level has."""
    dialect, _, kind = (
        part.op.rpartition(".")
        if not part.op.startswith("lax.")
        else part.op.partition(".")
    )
    if (dialect == "lax") != (at == "lax"):
        raise PassError(
            f"rule {name} works at {at!r}, where there is no {part.op}: op.lax.exp(x) is for at='lax', op.Exp(x) for 'onnx'"
        )
    if dialect == "onnx":
        try:
            known = schema(kind)
        except KeyError:
            raise PassError(
                f"rule {name}: there is no ONNX operator {kind!r}{meant(kind, operators())}"
            ) from None
        if problem := _problem_of_operator(kind, known, part):
            raise PassError(f"rule {name}: {problem}")
    for attr, value in part.attrs.items():
        if isinstance(value, Apply | Either):
            raise PassError(
                f"rule {name}: the attribute {attr} of {kind} cannot be an operation; a parameter binds it"
            )


def _problem_of_operator(kind: str, known: Schema, part: Apply) -> str | None:
    """What ONNX's schema of an operator says against its use in a pattern."""
    for attr in part.attrs:
        if attr not in known.attributes and attr != LABEL:
            has = ", ".join(sorted(known.attributes)) or "none"
            return f"{kind} has no attribute {attr!r}{meant(attr, known.attributes)}; it has {has}"
    given = len(part.inputs)
    rest = given > 0 and part.inputs[-1] is ...
    least = given - 1 if rest else given
    if least > known.max_inputs or (not rest and given < known.min_inputs):
        return f"{kind} takes {known.operand_counts} operands, the pattern gives it {least}"
    if known.min_outputs > 1:
        return f"{kind} has {known.min_outputs} results; a pattern is of operations that have one"
    return None


# ----------------------------------------------------------------------------------------- about patterns


def roots(pattern: Any) -> list[Any]:
    """The operations that a match can end in."""
    return (
        [r for option in pattern.options for r in roots(option)]
        if isinstance(pattern, Either)
        else [pattern]
    )


def required(pattern: Any) -> frozenset[str]:
    """The operations without which nothing matches."""
    if isinstance(pattern, Apply):
        return frozenset([pattern.op]).union(*map(required, pattern.inputs))
    if isinstance(pattern, Either):
        first, *rest = map(required, pattern.options)
        return first.intersection(*rest)
    return frozenset()


def depth_of(pattern: Any) -> int:
    """How many operations a pattern has above one another."""
    if isinstance(pattern, Apply):
        return 1 + max(map(depth_of, pattern.inputs), default=0)
    return max(map(depth_of, pattern.options)) if isinstance(pattern, Either) else 0


def text(pattern: Any) -> str:
    """A pattern as it is written: `Min(Max(x, 0.0), 6.0)`."""
    if isinstance(pattern, Wild):
        return pattern.name
    if isinstance(pattern, Either):
        return f"either({', '.join(map(text, pattern.options))})"
    if isinstance(pattern, Apply):
        attrs = [f"{name}={text(value)}" for name, value in pattern.attrs.items()]
        return f"{pattern.op.removeprefix('onnx.')}({', '.join([*map(text, pattern.inputs), *attrs])})"
    return "..." if pattern is ... else repr(pattern)
