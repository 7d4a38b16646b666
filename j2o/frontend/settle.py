"""Constraints that would settle what JAX asks about symbolic sizes: JAX itself is asked, by another trace with them.

What its message names may not help: JAX decides `N >= 3` of the operands that it looks at, and not of `mod(2, N)`.
Uses of private JAX: none.
"""

from __future__ import annotations

import enum
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import jax

from j2o.errors import DimensionError
from j2o.ir import dims

Attempt: TypeAlias = Callable[[Sequence[Any]], Any]
Question: TypeAlias = Callable[[Exception], object]
Constraints: TypeAlias = tuple[str, ...]
BOUNDS = (
    64,
    16,
    4,
)  # tried first; smaller ones where the caller's own constraints do not allow the larger
PATIENCE = 3.0  # seconds: a trace that took longer is not repeated


class Outcome(enum.IntEnum):
    """How far a trace comes with further constraints."""

    STOPPED = 0  # by the same question, or for good
    ASKED = 1  # something else about sizes
    THROUGH = 2


def verified(
    attempt: Attempt, avals: Sequence[Any], question: Question, error: Exception, told: Sequence[Constraints], seconds: float
) -> list[Constraints]:  # fmt: skip
    """The lists of constraints with which `attempt(avals)` gets past `error`: of those that its message tells, else a lower bound.

    `question` says what an error asks; two that ask the same are one. `seconds` is how long the attempt has taken.
    """
    symbolic = any(dims.is_symbolic(d) for aval in avals for d in aval.shape)
    if not symbolic or seconds > PATIENCE:
        return list(told)

    def outcome(constraints: Sequence[str]) -> Outcome:
        return _outcome(attempt, avals, constraints, question, question(error))

    def bound_settles(constraints: Sequence[str]) -> bool:
        return bool(
            _outcome(
                attempt,
                avals,
                constraints,
                lambda e: _kind(question(e)),
                _kind(question(error)),
            )
        )

    started = time.perf_counter()
    outcomes = {option: outcome(option) for option in told}
    best = max(outcomes.values(), default=Outcome.STOPPED)
    found = [option for option, reached in outcomes.items() if reached == best and best]
    if found and not any(
        "(" in constraint for option in found for constraint in option
    ):
        return found
    bounds: list[Constraints] = []
    for symbol in sorted(
        {s for aval in avals for d in aval.shape for s in dims.symbols(d)}
    ):
        if time.perf_counter() - started < PATIENCE:
            bounds += [(bound,) for bound in _lower_bound(symbol, bound_settles)]
    return bounds or found


def _kind(question: object) -> str:
    """A question without the sizes in it, which a bound only writes otherwise."""
    return re.sub(r"\(.*\)|'.*?'", "", str(question))


def _lower_bound(
    symbol: str, settles: Callable[[Sequence[str]], bool]
) -> Iterator[str]:
    """`N >= k` for the least k that settles it, where one does."""
    high = next((bound for bound in BOUNDS if settles([f"{symbol} >= {bound}"])), 0)
    low = 1
    while high - low > 1:
        middle = (low + high) // 2
        if settles([f"{symbol} >= {middle}"]):
            high = middle
        else:
            low = middle
    if high:
        yield f"{symbol} >= {high}"


def _outcome(
    attempt: Attempt,
    avals: Sequence[Any],
    constraints: Sequence[str],
    question: Question,
    asked: object,
) -> Outcome:
    try:
        shapes = dims.constrained([aval.shape for aval in avals], constraints)
    except DimensionError:
        return Outcome.STOPPED
    try:
        attempt(
            [
                jax.ShapeDtypeStruct(shape, aval.dtype)
                for shape, aval in zip(shapes, avals, strict=True)
            ]
        )
    except Exception as error:  # whatever comes next
        about_sizes = isinstance(error, dims.Inconclusive) or bool(
            dims.settling(str(error))
        )
        return (
            Outcome.ASKED
            if about_sizes and question(error) != asked
            else Outcome.STOPPED
        )
    return Outcome.THROUGH
