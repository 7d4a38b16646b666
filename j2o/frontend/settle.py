"""Constraints that would settle what JAX asks about symbolic sizes.

JAX itself is asked, by another trace with them.

What its message names may not help: JAX decides `N >= 3` of the operands that it looks at, and not of `mod(2,
N)`. Uses of private JAX: none.
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
from j2o.ir.dims_settle import settling

Attempt: TypeAlias = Callable[[Sequence[Any]], Any]
Question: TypeAlias = Callable[[Exception], object]
Constraints: TypeAlias = tuple[str, ...]
# tried first; smaller ones where the caller's own constraints do not allow the larger
BOUNDS = (64, 16, 4)
PATIENCE = 3.0  # seconds: a trace that took longer is not repeated


class Outcome(enum.IntEnum):
    """How far a trace comes with further constraints."""

    STOPPED = 0  # by the same question, or for good
    ASKED = 1  # something else about sizes
    THROUGH = 2


def verified(
    attempt: Attempt,
    avals: Sequence[Any],
    question: Question,
    error: Exception,
    told: Sequence[Constraints],
    seconds: float,
) -> list[Constraints]:
    """Return the lists of constraints with which `attempt(avals)` gets past `error`.

    They are those that its message tells (`told`), else a lower bound of a symbol. `question` says what an
    error asks; two that ask the same are one. `seconds` is how long the attempt has taken.
    """
    symbols = {s for aval in avals for size in aval.shape for s in dims.symbols(size)}
    is_symbolic = any(dims.is_symbolic(d) for aval in avals for d in aval.shape)
    if not is_symbolic or seconds > PATIENCE:
        return list(told)
    started = time.perf_counter()
    found = _furthest(
        told, lambda option: _outcome(attempt, avals, option, question, question(error))
    )
    is_plain = not any("(" in constraint for option in found for constraint in option)
    if found and is_plain:
        return found

    # a bound only writes the sizes in a question otherwise: without them, it is the same question
    def kind(error: Exception) -> str:
        return _without_sizes(question(error))

    def settles(option: Sequence[str]) -> bool:
        return bool(_outcome(attempt, avals, option, kind, kind(error)))

    bounds: list[Constraints] = []
    for symbol in sorted(symbols):
        if time.perf_counter() - started < PATIENCE:
            bounds += [(bound,) for bound in _lower_bound(symbol, settles)]
    return bounds or found


def _furthest(
    options: Sequence[Constraints], outcome: Callable[[Constraints], Outcome]
) -> list[Constraints]:
    """The options with which a trace comes furthest; none where all of them stop it."""
    outcomes = {option: outcome(option) for option in options}
    best = max(outcomes.values(), default=Outcome.STOPPED)
    if best is Outcome.STOPPED:
        return []
    return [option for option, reached in outcomes.items() if reached == best]


def _without_sizes(question: object) -> str:
    """The text of a question without the sizes in it."""
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
    """How far a trace comes with these constraints, where it stopped before at the question `asked`."""
    try:
        shapes = dims.constrained([aval.shape for aval in avals], constraints)
    except DimensionError:
        return Outcome.STOPPED
    narrowed = [
        jax.ShapeDtypeStruct(shape, aval.dtype)
        for shape, aval in zip(shapes, avals, strict=True)
    ]
    try:
        attempt(narrowed)
    except Exception as error:  # whatever comes next
        if _is_about_sizes(error) and question(error) != asked:
            return Outcome.ASKED
        return Outcome.STOPPED
    return Outcome.THROUGH


def _is_about_sizes(error: Exception) -> bool:
    """Return True for a question about sizes that constraints may settle."""
    return isinstance(error, dims.Inconclusive) or bool(settling(str(error)))
