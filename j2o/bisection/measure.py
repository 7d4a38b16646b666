"""How far two arrays are from each other, and whether that is more than rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from j2o.compare import comparable, gaps_between


class Tolerance(NamedTuple):
    """Floats may differ by `atol + rtol * |JAX's|`; integers, bools and the data of keys are equal."""

    rtol: float
    atol: float


@dataclass(frozen=True)
class Difference:
    """How two arrays differ: the worst element, and the largest differences.

    `index` is where the worst element stands, `expected` and `actual` are its values. `absolute` and
    `relative` are the largest differences of all elements; of values that are not numbers alone, they
    are infinite. `differing` of `size` elements are too far apart. Where not even dtype and shape are
    the same, `expected` and `actual` are these, as text.
    """

    index: tuple[int, ...]
    expected: Any
    actual: Any
    absolute: float
    relative: float
    differing: int
    size: int

    def __str__(self) -> str:
        if isinstance(self.expected, str):
            return f"{self.actual} instead of {self.expected}"
        where = f" at {self.index}" if self.index else ""
        lines = f"{_shown(self.actual)} instead of {_shown(self.expected)}{where}"
        largest = (
            f"largest difference {self.absolute:.3g}, relative {self.relative:.3g}"
        )
        return f"{lines}; {self.differing} of {self.size} differ, {largest}"


def _shown(value: Any) -> str:
    return f"{value:.7g}" if isinstance(value, float) else str(value)


class Measured(NamedTuple):
    """Whether two arrays are close, and how they differ."""

    close: bool
    difference: Difference


def measured(
    actual: Any, expected: Any, tolerance: Tolerance, *, inside: bool = False
) -> Measured:
    """Compare two arrays as the graph has them.

    `inside` is for values that are no outputs. Where large terms cancel, little is left of a sum, and
    its rounding is that of the terms: so each element may differ as one of the usual size may.
    """
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return Measured(False, _unlike(actual, expected))
    atol = tolerance.atol
    if inside:
        atol += tolerance.rtol * usual_size(comparable(expected))
    gaps = gaps_between(actual, expected, tolerance.rtol, atol)
    close = bool(gaps.close.all())
    absolute = _worse_than_all(gaps.absolute, ~gaps.close)
    relative = _worse_than_all(gaps.relative, ~gaps.close)
    index: tuple[int, ...] = ()
    values: tuple[Any, Any] = (None, None)
    if absolute.size:
        worst = np.where(gaps.close & (not close), -1.0, absolute)
        index = tuple(map(int, np.unravel_index(int(worst.argmax()), worst.shape)))
        values = (_plain(expected[index]), _plain(actual[index]))
    found = Difference(
        index,
        *values,
        float(absolute.max(initial=0.0)),
        float(relative.max(initial=0.0)),
        int((~gaps.close).sum()),
        int(gaps.close.size),
    )
    return Measured(close, found)


def _worse_than_all(gaps: np.ndarray, differs: np.ndarray) -> np.ndarray:
    """Differences; infinite where one of two values that differ is no number."""
    return np.where(differs & ~np.isfinite(gaps), np.inf, np.nan_to_num(gaps))


def usual_size(numbers: np.ndarray) -> float:
    """The magnitude that three quarters of the numbers other than 0 have at least; 0 for none.

    So a few numbers of another size, such as those that fill a mask, have no say. `numbers` are as
    `comparable` gives them. Of integers it is 0: they are exact.
    """
    if numbers.dtype.kind not in "fc":
        return 0.0
    sizes = np.abs(numbers)
    counted = sizes[np.isfinite(sizes) & (sizes > 0)]
    return float(np.quantile(counted, 0.25)) if counted.size else 0.0


def _plain(value: Any) -> Any:
    """An element as Python has it."""
    item = np.asarray(value).item()
    return item if isinstance(item, bool | int | float) else float(item)


def _unlike(actual: Any, expected: Any) -> Difference:
    """The difference of arrays of other dtypes or shapes."""
    wanted = f"{expected.dtype}{list(expected.shape)}"
    given = f"{actual.dtype}{list(actual.shape)}"
    sizes = (int(actual.size), int(actual.size))
    return Difference((), wanted, given, np.inf, np.inf, *sizes)
