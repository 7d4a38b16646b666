"""Fourier transforms of values in parts (re, im), which is how the `components` pass hands complex numbers on.

A static length is a product with a constant matrix, made in double precision; a long one is factored (Cooley and Tukey)
or, where it is prime, becomes a convolution of a power of two (Bluestein). A symbolic length is ONNX's DFT.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from j2o.ir import dims
from j2o.ir.graph import Value
from j2o.ir.types import Dim
from j2o.passes.lower.table import Lowering, lower

Array = jax.Array
DIRECT = 256  # up to this length one matrix is best


@lower("fft")
def fft(
    op: Lowering, re: Value, im: Value | None = None, *, fft_type: str, fft_lengths: Sequence[Dim]
) -> Value | Sequence[Value]:
    """On parts: two operands but for rfft, two results but for irfft."""
    parts = [re] if im is None else [re, im]
    if dims.is_static(tuple(fft_lengths)):
        return op.jax(_of_parts, *parts, kind=fft_type, lengths=tuple(fft_lengths))
    return _dft_nodes(op, parts, fft_type, fft_lengths)


def _of_parts(re: Array, im: Array | None = None, *, kind: str, lengths: tuple[int, ...]) -> tuple[Array, ...]:
    """`kind` (fft, ifft, rfft or irfft) over the last axes, of these static lengths; `im` is None where numbers are real."""
    n, inverse, keep = lengths[-1], kind in ("ifft", "irfft"), lengths[-1] // 2 + 1
    if kind != "irfft":
        re, im = _transform(re, im, n, inverse)
    if kind == "rfft":
        re, im = re[..., :keep], im[..., :keep]  # type: ignore[index]
    for i, size in enumerate(lengths[-2::-1]):
        axis = re.ndim - 2 - i
        parts = _transform(jnp.moveaxis(re, axis, -1), jnp.moveaxis(im, axis, -1), size, inverse)  # type: ignore[arg-type]
        re, im = jnp.moveaxis(parts[0], -1, axis), jnp.moveaxis(parts[1], -1, axis)
    return (_transform_to_real(re, im, n),) if kind == "irfft" else (re, im)  # type: ignore[arg-type]


def _roots(exponents: np.ndarray, n: int, inverse: bool) -> Any:
    """exp(∓2πi e / n)."""
    return np.exp((2j if inverse else -2j) * np.pi * (exponents % n) / n)


def _transform(re: Array, im: Array | None, n: int, inverse: bool, scale: float | None = None) -> tuple[Array, Array]:
    """Over the last axis, of length `n`."""
    scale = scale or (1 / n if inverse else 1.0)
    if n <= DIRECT:
        return _product(re, im, scale * _roots(np.outer(np.arange(n), np.arange(n)), n, inverse))
    first = next(k for k in range(math.isqrt(n), 0, -1) if n % k == 0)
    if first == 1:
        return _bluestein(re, im, n, inverse, scale)
    second = n // first
    grid, back = (*re.shape[:-1], first, second), re.shape
    parts = [None if p is None else p.reshape(grid).mT for p in (re, im)]
    re, im = _transform(*parts, first, inverse, 1.0)  # type: ignore[arg-type]
    re, im = _times(re, im, _roots(np.outer(np.arange(second), np.arange(first)), n, inverse))
    re, im = _transform(re.mT, im.mT, second, inverse, scale)
    return re.mT.reshape(back), im.mT.reshape(back)


def _product(re: Array, im: Array | None, w: Any) -> tuple[Array, Array]:
    """Rows times a complex matrix: one real product for each part."""
    out = re @ np.concatenate([w.real, w.imag], 1).astype(re.dtype)
    if im is not None:
        out = out + im @ np.concatenate([-w.imag, w.real], 1).astype(re.dtype)
    return out[..., : w.shape[1]], out[..., w.shape[1] :]


def _times(re: Array, im: Array | None, w: Any) -> tuple[Array, Array]:
    a, b = w.real.astype(re.dtype), w.imag.astype(re.dtype)
    return (re * a, re * b) if im is None else (re * a - im * b, re * b + im * a)


def _bluestein(re: Array, im: Array | None, n: int, inverse: bool, scale: float) -> tuple[Array, Array]:
    """The transform as a convolution with a chirp: n k = (n² + k² - (k - n)²) / 2."""
    size = 1 << (2 * n - 1).bit_length()
    k = np.arange(n)
    chirp = _roots(k * k, 2 * n, inverse)
    kernel = np.zeros(size, np.complex128)
    kernel[:n] = chirp.conj()
    kernel[size - n + 1 :] = chirp.conj()[:0:-1]
    pads = [(0, 0)] * (re.ndim - 1) + [(0, size - n)]
    re, im = (jnp.pad(p, pads) for p in _times(re, im, chirp))
    re, im = _times(*_transform(re, im, size, False), np.fft.fft(kernel))
    re, im = _transform(re, im, size, True)
    return _times(re[..., :n], im[..., :n], scale * chirp)


def _transform_to_real(re: Array, im: Array, n: int) -> Array:
    """irfft over the last axis: the first n // 2 + 1 frequencies stand for all."""
    if n > DIRECT:
        return _transform(*_mirrored(re, im, n=n), n, True)[0]
    k = np.arange(n // 2 + 1)
    count = np.where((k == 0) | (2 * k == n), 1, 2) / n
    w = count[:, None] * _roots(np.outer(k, np.arange(n)), n, True)
    return re @ w.real.astype(re.dtype) - im @ w.imag.astype(re.dtype)


def _mirrored(re: Array, im: Array, *, n: Dim) -> tuple[Array, Array]:
    """All `n` frequencies of a real signal from the first half."""
    rest = slice(1, dims.floordiv(dims.add(n, 1), 2))
    return (
        jnp.concatenate([re, jnp.flip(re[..., rest], -1)], -1),
        jnp.concatenate([im, -jnp.flip(im[..., rest], -1)], -1),
    )


# --------------------------------------------------------------------------------------- symbolic lengths


def _dft_nodes(op: Lowering, parts: Sequence[Value], kind: str, lengths: Sequence[Dim]) -> Sequence[Value]:
    """One DFT an axis, on parts stacked on a last axis."""
    rank = parts[0].type.rank
    axes = list(range(rank - len(lengths), rank))
    inverse = kind in ("ifft", "irfft")
    order = axes if kind == "irfft" else axes[::-1]
    x = _stacked(op, parts)
    for axis in order:
        if kind == "irfft" and axis == rank - 1:
            x = _stacked(op, op.jax(_mirrored, *_unstacked(op, x), n=lengths[-1]))
        x = _dft(op, x, axis, inverse, onesided=kind == "rfft" and axis == rank - 1)
    out = _unstacked(op, x)
    return out[:1] if kind == "irfft" else out


def _stacked(op: Lowering, parts: Sequence[Value]) -> Value:
    columns = [op.unsqueeze(p, [-1]) for p in parts]
    return op.Concat(*columns, axis=-1) if len(columns) > 1 else columns[0]


def _unstacked(op: Lowering, x: Value) -> list[Value]:
    return [op.Gather(x, np.array(i), axis=x.type.rank - 1) for i in range(2)]


def _dft(op: Lowering, x: Value, axis: int, inverse: bool, onesided: bool) -> Value:
    """ONNX DFT; its axis is an attribute before opset 20 and an input from there on."""
    shape = [*x.type.shape[:-1], 2]
    if onesided:
        shape[axis] = dims.add(dims.floordiv(shape[axis], 2), 1)
    attrs: dict[str, Any] = {"inverse": int(inverse), "onesided": int(onesided)}
    types = [x.type.with_shape(tuple(shape))]
    if op.opset >= 20:
        return op.apply("onnx.DFT", x, None, np.array(axis), types=types, **attrs)
    return op.apply("onnx.DFT", x, None, types=types, axis=axis, **attrs)
