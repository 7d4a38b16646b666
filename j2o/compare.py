"""Comparing what a model gives with what JAX gives.

Integers, bools and the data of keys are equal or not. Floats are close where `|model - JAX| <= atol
+ rtol * |JAX|`, complex numbers by their moduli; NaN agrees with NaN alone, an infinity with itself
alone, 0.0 with -0.0. An `rtol` finer than the distance of neighbours in a float of 16 bits is taken
for that distance, except 0, which asks for equal values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from j2o.errors import SpecError, VerificationError
from j2o.values import to_graph


@dataclass(frozen=True)
class Comparison:
    """What `Model.verify` found: for each output, the largest absolute and relative difference from JAX.

    `quantisation` has the weights that `weights_dtype` stores in another dtype, each with the root
    mean square of the error relative to that of the weight.
    """

    names: tuple[str, ...]
    absolute: tuple[float, ...]
    relative: tuple[float, ...]
    quantisation: tuple[tuple[str, float], ...] = ()

    def __str__(self) -> str:
        rows = zip(self.names, self.absolute, self.relative, strict=True)
        lines = []
        for name, absolute, relative in rows:
            gaps = f"{absolute:.3g} absolute, {relative:.3g} relative"
            lines.append(f"{name}: largest difference {gaps}")
        for name, error in self.quantisation:
            told = f"an error of {error:.3g} relative to its root mean square"
            lines.append(f"{name}: stored with {told}")
        return "\n".join(lines)


def check_tolerance(name: str, value: Any) -> float:
    """A tolerance as a float; SpecError where it is no number of 0 or more."""
    numbers = (int, float, np.integer, np.floating)
    is_number = isinstance(value, numbers) and not isinstance(value, bool)
    if not is_number or not 0 <= value < np.inf:
        raise SpecError(f"{name}={value!r}: a finite number of 0 or more is needed")
    return float(value)


def difference(
    name: str, got: Any, want: Any, rtol: float, atol: float
) -> tuple[float, float]:
    """The largest absolute and relative difference of one output.

    VerificationError where that is too large.
    """
    if got.shape != want.shape or got.dtype != want.dtype:
        one = f"{got.dtype}{list(got.shape)}"
        other = f"{want.dtype}{list(want.shape)}"
        raise VerificationError(f"output {name!r}: {one} instead of {other}")
    gaps = gaps_between(got, want, rtol, atol)
    if not gaps.close.all():
        rtol = tolerance_for(got.dtype, rtol)
        needed = (
            f"rtol {rtol:g}, atol {atol:g}" if gaps.inexact else "all must be equal"
        )
        _raise(name, comparable(got), comparable(want), gaps.close, needed)
    largest = float(gaps.absolute.max(initial=0.0))
    return largest, float(gaps.relative.max(initial=0.0))


class Gaps(NamedTuple):
    """How far each value is from JAX's, and where that is close enough; `inexact` for floats."""

    absolute: np.ndarray
    relative: np.ndarray
    close: np.ndarray
    inexact: bool


def gaps_between(got: Any, want: Any, rtol: float, atol: float) -> Gaps:
    """How far the values of two arrays of one shape and dtype are from each other."""
    model = comparable(got)
    jax = comparable(want)
    if model.dtype.kind in "fc":
        return _gaps(model, jax, tolerance_for(got.dtype, rtol), atol)
    return _unequal(model, jax)


def tolerance_for(dtype: Any, rtol: float) -> float:
    """The relative tolerance for a dtype: not finer than it can be, but where equal values are asked for."""
    return max(rtol, _resolution(dtype)) if rtol else 0.0


def _unequal(model: np.ndarray, jax: np.ndarray) -> Gaps:
    """Integers, bools and the data of keys are equal, or differ by 1."""
    same = np.asarray(model == jax)
    gap = np.where(same, 0.0, 1.0)
    return Gaps(gap, gap, same, False)


def _gaps(model: np.ndarray, jax: np.ndarray, rtol: float, atol: float) -> Gaps:
    """Floats and complex numbers are close where `|model - JAX| <= atol + rtol * |JAX|`."""
    with np.errstate(all="ignore"):
        same = _same(model, jax)
        size = np.abs(jax)
        gap = np.where(same, 0.0, np.abs(model - jax))
        within = (gap <= atol + rtol * size) & np.isfinite(jax)
        ratio = np.where(gap == 0, 0.0, gap / size)
    return Gaps(gap, ratio, same | within, True)


def _resolution(dtype: Any) -> float:
    """The relative distance of neighbours in a float dtype of 16 bits; 0 for any other."""
    if not jnp.issubdtype(dtype, jnp.floating) or dtype.itemsize != 2:
        return 0.0
    return float(jnp.finfo(dtype).eps)


def comparable(array: Any) -> np.ndarray:
    """Numbers that numpy can subtract: floats as float64, complex numbers as complex128.

    Integers, bools and keys as they are.
    """
    if getattr(array.dtype, "kind", "") == "c":  # keys have no kind
        return np.asarray(array).astype(np.complex128)
    plain = to_graph(array)
    if plain.dtype.kind in "biu":
        return plain
    if "int" in plain.dtype.name:  # the narrow ones of ml_dtypes
        return plain.astype(np.int64)
    return plain.astype(np.float64)


def _same(a: Any, b: Any) -> np.ndarray:
    """Where two arrays of floats or complex numbers are the same, NaNs and infinities included."""
    if a.dtype.kind == "c":
        return _same(a.real, b.real) & _same(a.imag, b.imag)
    return (a == b) | (np.isnan(a) & np.isnan(b))


def _raise(
    name: str, model: np.ndarray, jax: np.ndarray, close: np.ndarray, how: str
) -> None:
    """VerificationError with how many values differ, by how much, and the first of them."""
    differs = ~close
    what = f"{int(differs.sum())} of {close.size} values differ"
    if model.dtype.kind in "fc":
        what += _by_how_much(model[differs], jax[differs])
    first = np.argwhere(differs)[0]
    at = tuple(map(int, first))
    values = f"the model gives {model[at]}, JAX {jax[at]}"
    raise VerificationError(f"output {name!r}: {what}; at {at} {values} ({how})")


def _by_how_much(model: np.ndarray, jax: np.ndarray) -> str:
    """The largest finite difference, in words; nothing where none is finite."""
    with np.errstate(all="ignore"):
        gaps = np.abs(model - jax)
    finite = gaps[np.isfinite(gaps)]
    return f" by up to {finite.max():.3g}" if finite.size else ""
