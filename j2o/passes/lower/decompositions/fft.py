"""Fourier transforms of complex values in parts (re, im), as the `components` pass hands them on.

    length 200     a product with a constant matrix of roots of 1, made in double precision
    length 1000    as 25 · 40: products along both axes of a grid, with a twist in between (Cooley and Tukey)
    length 1009    a prime: a convolution of length 2048 (Bluestein), by transforms of that length
    length B       ONNX's DFT

The inverse transform differs in the sign of the exponents, and is divided by the length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from j2o.ir import dims
from j2o.ir.graph import Value
from j2o.ir.types import Dim
from j2o.passes.lower.table import Lowering, lower

Complex: TypeAlias = NDArray[np.complex128]  # a constant, made while compiling
DIRECT = 256  # up to this length one matrix is best
DIRECT_OF_REAL = 400  # up to this one where half of the frequencies will do


class Parts(NamedTuple):
    """The real and the imaginary parts of an array; `im` is None where all numbers are real."""

    re: Array
    im: Array | None

    def of_each(self, change: Callable[[Array], Array]) -> Parts:
        """The same change of layout of both parts."""
        im = None if self.im is None else change(self.im)
        return Parts(change(self.re), im)


@lower("fft")
def fft(
    op: Lowering,
    re: Value,
    im: Value | None = None,
    *,
    fft_type: str,
    fft_lengths: Sequence[Dim],
) -> Value | Sequence[Value]:
    """On parts: two operands but for rfft, two results but for irfft."""
    operands = [re] if im is None else [re, im]
    lengths = tuple(fft_lengths)
    if dims.is_static(lengths):
        return op.jax(_of_parts, *operands, kind=fft_type, lengths=lengths)
    return _dft_nodes(op, operands, fft_type, lengths)


# ----------------------------------------------------------------------- static lengths


def _of_parts(
    re: Array, im: Array | None = None, *, kind: str, lengths: tuple[int, ...]
) -> tuple[Array, ...]:
    """`kind` (fft, ifft, rfft or irfft) over the last axes, of these lengths."""
    *outer_lengths, last_length = lengths
    inverse = kind in ("ifft", "irfft")
    x = Parts(re, im)
    if kind == "rfft":
        x = _transform_of_real(x, last_length)
    elif kind != "irfft":
        x = _transform(x, last_length, inverse)
    axis = re.ndim - 2
    for length in reversed(outer_lengths):
        x = _transform_axis(x, axis, length, inverse)
        axis -= 1
    if kind == "irfft":
        return (_transform_to_real(x, last_length),)
    return tuple(part for part in x if part is not None)


def _transform_axis(x: Parts, axis: int, length: int, inverse: bool) -> Parts:
    """Over any axis: it is moved to the end and back."""
    moved = x.of_each(lambda part: jnp.moveaxis(part, axis, -1))
    done = _transform(moved, length, inverse)
    return done.of_each(lambda part: jnp.moveaxis(part, -1, axis))


def _first(x: Parts, count: int) -> Parts:
    """The first elements along the last axis."""
    return x.of_each(lambda part: part[..., :count])


def _roots(exponents: np.ndarray, n: int, inverse: bool) -> Complex:
    """exp(∓2πi e / n)."""
    sign = 2j if inverse else -2j
    turns = exponents % n  # small angles are exact
    return np.exp(sign * np.pi * turns / n)


def _root_matrix(rows: int, columns: int, n: int, inverse: bool) -> Complex:
    """exp(∓2πi j k / n) for j < rows, k < columns."""
    exponents = np.outer(np.arange(rows), np.arange(columns))
    return _roots(exponents, n, inverse)


def _transform(x: Parts, n: int, inverse: bool) -> Parts:
    """Over the last axis, of length `n`; the inverse is divided by `n`."""
    scale = 1 / n if inverse else 1.0
    return _transform_scaled(x, n, inverse, scale)


def _transform_scaled(x: Parts, n: int, inverse: bool, scale: float) -> Parts:
    """Over the last axis, times `scale`, in the way that is best for the length."""
    if n <= DIRECT:
        return _product(x, scale * _root_matrix(n, n, n, inverse))
    first = _factor(n)
    if first == 1:
        return _bluestein(x, n, inverse, scale)
    return _cooley_tukey(x, first, n // first, inverse, scale)


def _factor(n: int) -> int:
    """The largest divisor of `n` up to its square root."""
    factor = math.isqrt(n)
    while n % factor:
        factor -= 1
    return factor


def _cooley_tukey(
    x: Parts, first: int, second: int, inverse: bool, scale: float
) -> Parts:
    """The transform of length first · second: along both axes of a grid, with a twist in between."""
    shape = x.re.shape
    grid = (*shape[:-1], first, second)
    twist = _root_matrix(second, first, first * second, inverse)
    # element a · second + b stands in row a and column b; each transform is along the last axis
    x = x.of_each(lambda part: part.reshape(grid).mT)
    x = _transform_scaled(x, first, inverse, 1.0)
    x = _times(x, twist)
    x = x.of_each(lambda part: part.mT)
    x = _transform_scaled(x, second, inverse, scale)
    return x.of_each(lambda part: part.mT.reshape(shape))


def _product(x: Parts, matrix: Complex) -> Parts:
    """Rows times a complex matrix: one real product for each part."""
    columns = matrix.shape[1]
    of_real = np.concatenate([matrix.real, matrix.imag], 1)
    out = x.re @ of_real.astype(x.re.dtype)
    if x.im is not None:
        of_imaginary = np.concatenate([-matrix.imag, matrix.real], 1)
        out = out + x.im @ of_imaginary.astype(x.re.dtype)
    return Parts(out[..., :columns], out[..., columns:])


def _times(x: Parts, factors: Complex) -> Parts:
    """Element by element."""
    a = factors.real.astype(x.re.dtype)
    b = factors.imag.astype(x.re.dtype)
    if x.im is None:
        return Parts(x.re * a, x.re * b)
    re = x.re * a - x.im * b
    im = x.re * b + x.im * a
    return Parts(re, im)


def _bluestein(x: Parts, n: int, inverse: bool, scale: float) -> Parts:
    """The transform as a convolution with a chirp: n k = (n² + k² - (k - n)²) / 2."""
    size = 1 << (2 * n - 1).bit_length()
    k = np.arange(n)
    chirp = _roots(k * k, 2 * n, inverse)
    conjugate = chirp.conj()
    kernel = np.zeros(size, np.complex128)
    kernel[:n] = conjugate
    kernel[size - n + 1 :] = conjugate[:0:-1]
    unpadded = [(0, 0)] * (x.re.ndim - 1)
    pads = [*unpadded, (0, size - n)]
    x = _times(x, chirp)
    x = x.of_each(lambda part: jnp.pad(part, pads))
    x = _transform(x, size, inverse=False)
    x = _times(x, np.fft.fft(kernel))
    x = _transform(x, size, inverse=True)
    return _times(_first(x, n), scale * chirp)


def _transform_of_real(x: Parts, n: int) -> Parts:
    """rfft over the last axis: the first n // 2 + 1 frequencies, since these stand for all."""
    count = n // 2 + 1
    if n <= DIRECT_OF_REAL:
        return _product(x, _root_matrix(n, count, n, inverse=False))
    return _first(_transform(x, n, inverse=False), count)


def _transform_to_real(x: Parts, n: int) -> Array:
    """irfft over the last axis: the first n // 2 + 1 frequencies stand for all."""
    assert x.im is not None
    if n > DIRECT_OF_REAL:
        all_frequencies = Parts(*_mirrored(x.re, x.im, n=n))
        return _transform(all_frequencies, n, inverse=True).re
    k = np.arange(n // 2 + 1)
    stands_alone = (k == 0) | (2 * k == n)
    weight = np.where(stands_alone, 1, 2) / n
    roots = _root_matrix(len(k), n, n, inverse=True)
    matrix = weight[:, None] * roots
    real = matrix.real.astype(x.re.dtype)
    imaginary = matrix.imag.astype(x.re.dtype)
    return x.re @ real - x.im @ imaginary


def _mirrored(re: Array, im: Array, *, n: Dim) -> tuple[Array, Array]:
    """All `n` frequencies of a real signal from the first half: the others are their conjugates."""
    end = dims.floordiv(dims.add(n, 1), 2)
    rest_re = jnp.flip(re[..., 1:end], -1)
    rest_im = jnp.flip(im[..., 1:end], -1)
    all_re = jnp.concatenate([re, rest_re], -1)
    all_im = jnp.concatenate([im, -rest_im], -1)
    return all_re, all_im


# --------------------------------------------------------------------- symbolic lengths


def _dft_nodes(
    op: Lowering, parts: Sequence[Value], kind: str, lengths: Sequence[Dim]
) -> Sequence[Value]:
    """One DFT an axis, on parts stacked on a last axis."""
    rank = parts[0].type.rank
    last = rank - 1
    axes = list(range(rank - len(lengths), rank))
    x = _stacked(op, parts)
    if kind == "irfft":
        for axis in axes[:-1]:
            x = _dft(op, x, axis, inverse=True)
        re, im = _unstacked(op, x)
        frequencies = op.jax(_mirrored, re, im, n=lengths[-1])
        x = _dft(op, _stacked(op, frequencies), last, inverse=True)
        re, _ = _unstacked(op, x)
        return [re]
    for axis in reversed(axes):
        is_onesided = kind == "rfft" and axis == last
        x = _dft(op, x, axis, inverse=kind == "ifft", onesided=is_onesided)
    return _unstacked(op, x)


def _stacked(op: Lowering, parts: Sequence[Value]) -> Value:
    """The parts along a new last axis."""
    columns = [op.unsqueeze(p, [-1]) for p in parts]
    if len(columns) == 1:
        return columns[0]
    return op.Concat(*columns, axis=-1)


def _unstacked(op: Lowering, x: Value) -> tuple[Value, Value]:
    """The two parts of the last axis."""
    axis = x.type.rank - 1
    re = op.Gather(x, np.array(0), axis=axis)
    im = op.Gather(x, np.array(1), axis=axis)
    return re, im


def _dft(
    op: Lowering, x: Value, axis: int, inverse: bool, onesided: bool = False
) -> Value:
    """ONNX DFT; its axis is an attribute before opset 20 and an input from there on."""
    shape = [*x.type.shape[:-1], 2]
    if onesided:
        half = dims.floordiv(shape[axis], 2)
        shape[axis] = dims.add(half, 1)
    attrs: dict[str, Any] = {"inverse": int(inverse), "onesided": int(onesided)}
    types = [x.type.with_shape(tuple(shape))]
    if op.opset >= 20:
        return op.apply("onnx.DFT", x, None, np.array(axis), types=types, **attrs)
    return op.apply("onnx.DFT", x, None, types=types, axis=axis, **attrs)
