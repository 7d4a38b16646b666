"""Comparing what a model gives with what JAX gives.

Integers, bools and the data of keys are equal or not. Floats are close where `|model - JAX| <= atol + rtol * |JAX|`, complex
numbers by their moduli; NaN agrees with NaN alone, an infinity with itself alone, 0.0 with -0.0. An `rtol` finer than the distance
of neighbours in a float of 16 bits is taken for that distance, except 0, which asks for equal values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from j2o.errors import SpecError, VerificationError
from j2o.values import to_graph


@dataclass(frozen=True)
class Comparison:
    """What `Model.verify` found: for each output, the largest absolute and relative difference from JAX.

    `quantisation` has the weights that `weights_dtype` stores in another dtype, each with the root mean square of the error
    relative to that of the weight.
    """

    names: tuple[str, ...]
    absolute: tuple[float, ...]
    relative: tuple[float, ...]
    quantisation: tuple[tuple[str, float], ...] = ()

    def __str__(self) -> str:
        rows = zip(self.names, self.absolute, self.relative, strict=True)
        lines = [
            f"{n}: largest difference {a:.3g} absolute, {r:.3g} relative"
            for n, a, r in rows
        ]
        stored = [
            f"{n}: stored with an error of {e:.3g} relative to its root mean square"
            for n, e in self.quantisation
        ]
        return "\n".join(lines + stored)


def check_tolerance(name: str, value: Any) -> float:
    """A tolerance as a float; SpecError where it is no number of 0 or more."""
    is_number = isinstance(
        value, int | float | np.integer | np.floating
    ) and not isinstance(value, bool)
    if not is_number or not 0 <= value < np.inf:
        raise SpecError(f"{name}={value!r}: a finite number of 0 or more is needed")
    return float(value)


def difference(
    name: str, got: Any, want: Any, rtol: float, atol: float
) -> tuple[float, float]:
    """The largest absolute and relative difference of one output; VerificationError where that is too large."""
    if got.shape != want.shape or got.dtype != want.dtype:
        raise VerificationError(
            f"output {name!r}: {got.dtype}{list(got.shape)} instead of {want.dtype}{list(want.shape)}"
        )
    model, jax = _comparable(got), _comparable(want)
    inexact = model.dtype.kind in "fc"
    rtol = max(rtol, _resolution(got.dtype)) if rtol else 0.0
    with np.errstate(all="ignore"):
        same = _same(model, jax) if inexact else model == jax
        gap = np.where(same, 0.0, np.abs(model - jax) if inexact else 1.0)
        close = (
            same | (gap <= atol + rtol * np.abs(jax)) & np.isfinite(jax)
            if inexact
            else same
        )
        ratio = np.where(gap == 0, 0.0, gap / np.abs(jax)) if inexact else gap
    if not close.all():
        _raise(
            name,
            model,
            jax,
            close,
            f"rtol {rtol:g}, atol {atol:g}" if inexact else "all must be equal",
        )
    return float(gap.max(initial=0.0)), float(ratio.max(initial=0.0))


def _resolution(dtype: Any) -> float:
    """The relative distance of neighbours in a float dtype of 16 bits; 0 for any other."""
    if not jnp.issubdtype(dtype, jnp.floating) or dtype.itemsize != 2:
        return 0.0
    return float(jnp.finfo(dtype).eps)


def _comparable(array: Any) -> np.ndarray:
    """Numbers that numpy can subtract: floats as float64, complex numbers as complex128; integers, bools and keys as they are."""
    if getattr(array.dtype, "kind", "") == "c":  # keys have no kind
        return np.asarray(array).astype(np.complex128)
    plain = to_graph(array)
    if plain.dtype.kind in "biu":
        return plain
    is_narrow_integer = "int" in plain.dtype.name  # those of ml_dtypes
    return plain.astype(np.int64 if is_narrow_integer else np.float64)


def _same(a: Any, b: Any) -> np.ndarray:
    """Where two arrays of floats or complex numbers are the same, NaNs and infinities included."""
    if a.dtype.kind == "c":
        return _same(a.real, b.real) & _same(a.imag, b.imag)
    return (a == b) | (np.isnan(a) & np.isnan(b))


def _raise(
    name: str, model: np.ndarray, jax: np.ndarray, close: np.ndarray, how: str
) -> None:
    place = np.argwhere(~close)[0]
    where = tuple(int(i) for i in place)
    count = f"{int((~close).sum())} of {close.size} values differ"
    if model.dtype.kind in "fc":
        with np.errstate(all="ignore"):
            gap = np.abs(model - jax)[~close]
        gap = gap[np.isfinite(gap)]
        count += f" by up to {gap.max():.3g}" if gap.size else ""
    raise VerificationError(
        f"output {name!r}: {count}; at {where} the model gives {model[where]}, JAX {jax[where]} ({how})"
    )
