"""Random programs over symbolic sizes agree with JAX at three bindings; at the first, sizes are 0 and 1.

CI runs a few, of fixed seeds; `J2O_PROGRAMS=2000 pytest tests/test_random_programs.py -n 2` runs
more. A step makes a function of arrays alone, so that one program runs at symbolic sizes and at
numbers; steps that JAX refuses at symbolic sizes are left out, and so are bindings that it refuses,
such as the largest of no elements.
"""

from __future__ import annotations

import functools
import math
import operator
import os
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import j2o
from tests.harness import sized

SHARDS = 8
PROGRAMS = int(os.environ.get("J2O_PROGRAMS", "16"))
SPECS = [
    "f32[B,T]",
    "f32[2*B,3]",
    "f32[T+1]",
    "i32[B-1,T]",
    "i32[T]",
    "f32[B,4*T,6]",
    "f32[B-1]",
    "bool[B,T]",
    "i32[B]",
]
BINDINGS = ({"B": 1, "T": 1}, {"B": 2, "T": 5}, {"B": 6, "T": 4})
STEPS: dict[str, Callable[..., Any]] = {}


@dataclass
class Operand:
    """A value while the program is made. `bits` bounds those of its numbers, which are exact below 22."""

    aval: jax.ShapeDtypeStruct
    bits: int

    @property
    def rank(self) -> int:
        return len(self.aval.shape)

    @property
    def kind(self) -> str:
        return np.dtype(self.aval.dtype).kind

    @property
    def exact(self) -> bool:
        return self.kind != "f" or self.bits < 22


def step(
    *, bits: int | None = None, kinds: str = "fib", rank: int = 0, exact: bool = False
):
    """Register `make(r, *operands) -> function of arrays`.

    It is for operands of those kinds and at least that rank. `bits` is how many the result has beyond
    its operands; None where it is not exact. `exact` steps jump, so that they take exact operands
    alone.
    """

    def register(make):
        def fits(v: Operand) -> bool:
            return v.kind in kinds and v.rank >= rank and (v.exact or not exact)

        STEPS[make.__name__] = make
        make.fits, make.bits, make.arity = fits, bits, make.__code__.co_argcount - 1
        return make

    return register


def axis_of(r: Random, x: Operand) -> int:
    return r.randrange(x.rank)


def index(axis: int, entry: Any) -> tuple:
    return (*(slice(None),) * axis, entry)


# ---------------------------------------------------------------------- moving elements


@step(bits=0, rank=1)
def reshape(r, x):
    i = axis_of(r, x)
    forms = [
        lambda a: a.reshape(-1),
        lambda a: a.reshape(-1, *a.shape[i + 1 :]),
        lambda a: a.reshape(*a.shape[:i], 2, -1, *a.shape[i + 1 :]),
        lambda a: a.reshape(*a.shape[:i], a.shape[i] // 2, 2, *a.shape[i + 1 :]),
        lambda a: a.reshape(a.shape[::-1]),
        lambda a: a.reshape(a.shape[i], -1),
        lambda a: a.reshape(*a.shape[:i], a.shape[i] * math.prod(a.shape[i + 1 :])),
    ]
    return r.choice(forms)


@step(bits=0, rank=1)
def view(r, x):
    i, j = axis_of(r, x), axis_of(r, x)
    return r.choice(
        [
            lambda a: jnp.swapaxes(a, i, j),
            lambda a: jnp.flip(a, i),
            lambda a: jnp.expand_dims(a, i),
            lambda a: jnp.moveaxis(a, i, j),
            lambda a: a[index(i, None)],
            lambda a: a.T,
        ]
    )


@step(bits=0, rank=1)
def slices(r, x):
    i = axis_of(r, x)
    bounds = [
        lambda n: None,
        lambda n: 1,
        lambda n: 2,
        lambda n: -1,
        lambda n: -2,
        lambda n: n // 2,
        lambda n: n - 1,
        lambda n: -n + 1,
        lambda n: (n + 1) // 3,
        lambda n: 5,
        lambda n: -(n // 2),
    ]
    start, stop, stride = (
        r.choice(bounds),
        r.choice(bounds),
        r.choice([None, None, 1, 2, 3, -1, -2]),
    )
    return lambda a: a[index(i, slice(start(a.shape[i]), stop(a.shape[i]), stride))]


@step(bits=0, rank=1)
def element(r, x):
    i, at = axis_of(r, x), r.choice([0, -1, lambda n: n // 2, lambda n: n - 1])
    return lambda a: a[index(i, at(a.shape[i]) if callable(at) else at)]


@step(bits=0, rank=1)
def pad(r, x):
    amounts = [
        lambda n: 0,
        lambda n: 1,
        lambda n: 2,
        lambda n: -1,
        lambda n: n,
        lambda n: n % 2,
        lambda n: -n % 4,
    ]
    config = [
        (r.choice(amounts), r.choice(amounts), r.choice([0, 0, 1, 2]))
        for _ in range(x.rank)
    ]
    return lambda a: lax.pad(
        a,
        jnp.ones((), a.dtype),
        [(p(n), q(n), k) for (p, q, k), n in zip(config, a.shape, strict=True)],
    )


@step(bits=0, rank=1)
def pad_like(r, x):
    mode, width = (
        r.choice(["edge", "reflect", "wrap", "symmetric", "constant"]),
        r.choice([(0, 1), (1, 1), (2, 0)]),
    )
    return lambda a: jnp.pad(a, [width] * a.ndim, mode=mode)


@step(bits=0, rank=1)
def spread(r, x):
    i = axis_of(r, x)
    return r.choice(
        [
            lambda a: jnp.broadcast_to(a, (a.shape[i], *a.shape)),
            lambda a: jnp.tile(a, a.ndim * (2,)),
            lambda a: jnp.tile(a[None], (a.shape[i], *a.ndim * (1,))),
            lambda a: jnp.repeat(a, 3, i),
            lambda a: jnp.repeat(a, a.shape[i], i),
            lambda a: jnp.roll(a, 1, i),
            lambda a: jnp.roll(a, a.shape[i] // 2, i),
        ]
    )


@step(bits=0, rank=1)
def concat(r, x, y):
    i = axis_of(r, x)
    return lambda a, b: jnp.concatenate(
        [a, b.astype(a.dtype), a[index(i, slice(1, None))]], i
    )


@step(bits=0, rank=1)
def stacked(r, x, y):
    i = axis_of(r, x)
    return r.choice(
        [
            lambda a, b: jnp.stack([a, b.astype(a.dtype)], i),
            lambda a, b: jnp.stack(jnp.split(a, 2, i), 0),
        ]
    )


# ---------------------------------------------------------------------- made from sizes


@step(bits=8, rank=1)
def made(r, x):
    k = r.choice([-1, 0, 1])
    return r.choice(
        [
            lambda a: jnp.arange(a.shape[0]),
            lambda a: jnp.arange(1, a.size + 1, 2),
            lambda a: jnp.arange(a.shape[0], dtype=jnp.float32),
            lambda a: jnp.eye(a.shape[0], a.shape[-1], k),
            lambda a: jnp.tri(a.shape[-1], a.shape[0], k),
            lambda a: jnp.full((a.shape[-1], 2), a.shape[0]),
            lambda a: lax.broadcasted_iota(jnp.int32, a.shape, a.ndim - 1),
            lambda a: jnp.ones_like(a),
            lambda a: jnp.zeros((a.shape[0] // 2, a.shape[-1] + 1)),
            lambda a: jnp.diag(a[index(a.ndim - 1, None)].reshape(-1)[:3]),
        ]
    )


@step(rank=1)
def line(r, x):
    end = r.choice([True, False])
    return lambda a: jnp.linspace(0.0, a.shape[-1], a.shape[0] + 1, endpoint=end)


@step(bits=8, kinds="if", exact=True)
def with_size(r, x):
    n = (lambda a: a.shape[0]) if x.rank else (lambda a: 3)
    return r.choice(
        [
            lambda a: a * n(a),
            lambda a: a + n(a) % 3,
            lambda a: n(a) - a,
            lambda a: a - (n(a) + 1) // 2,
        ]
    )


@step(kinds="f", rank=1)
def divided(r, x):
    return r.choice(
        [
            lambda a: a / a.shape[0],
            lambda a: a / (a.size + 1),
            lambda a: a.shape[-1] / (1 + a * a),
        ]
    )


@step(bits=0, rank=2)
def triangle(r, x):
    k = r.choice([-1, 0, 2])
    return r.choice(
        [
            lambda a: jnp.tril(a, k),
            lambda a: jnp.triu(a, k),
            lambda a: jnp.diagonal(a, k),
            lambda a: jnp.rot90(a),
        ]
    )


@step(bits=0, kinds="i")
def classes(r, x):
    return lambda a: jax.nn.one_hot(a, a.shape[0] if a.ndim else 3)


@step(bits=0, rank=1)
def random_numbers(r, x):
    key = r.randrange(9)
    return r.choice(
        [
            lambda a: jax.random.bits(jax.random.key(key), a.shape) % 64,
            lambda a: jax.random.bernoulli(jax.random.key(key), 0.5, a.shape),
            lambda a: jax.random.randint(jax.random.key(key), (a.shape[-1], 2), 0, 9),
            lambda a: jax.random.permutation(jax.random.key(key), a.shape[0]),
            lambda a: (
                jax.random.key_data(jax.random.split(jax.random.key(key), a.shape[0]))
                % 32
            ),
        ]
    )


# ------------------------------------------------------------------- element by element


@step(kinds="f")
def smooth(r, x):
    return r.choice(
        [
            jnp.tanh,
            jnp.sin,
            jax.nn.sigmoid,
            lambda a: jnp.sqrt(jnp.abs(a) + 1),
            lambda a: jnp.log1p(jnp.abs(a)),
            lambda a: jnp.exp(-a * a),
            jax.nn.gelu,
            lambda a: a / (1 + a * a),
        ]
    )


@step(bits=1)
def exact_unary(r, x):
    return r.choice(
        [
            jnp.abs,
            jnp.negative if x.kind != "b" else jnp.logical_not,
            lambda a: jnp.clip(a, 0, 2),
            lambda a: a == a,
            lambda a: a,
        ]
    )


@step(bits=0, exact=True)
def jumps(r, x):
    return r.choice(
        [
            jnp.sign if x.kind != "b" else jnp.logical_not,
            lambda a: a > 0,
            lambda a: a.astype(jnp.int32),
            lambda a: a != a[..., ::-1] if a.ndim else a,
            lambda a: a.astype(jnp.int8),
            lambda a: a.astype(jnp.uint8),
            lambda a: a.astype(bool),
            lambda a: a.astype(jnp.float32),
        ]
    )


@step(bits=1, exact=True)
def pairs(r, x, y):
    op = r.choice(
        [jnp.add, jnp.maximum, jnp.minimum, jnp.less, jnp.equal, jnp.greater_equal]
    )
    return lambda a, b: op(a, b)


@step()
def arithmetic(r, x, y):
    op = (
        r.choice([jnp.add, jnp.multiply, jnp.subtract, jnp.arctan2])
        if x.kind != "b" and y.kind != "b"
        else jnp.logical_xor
    )
    return lambda a, b: op(a, b)


@step(bits=0, kinds="i")
def integers(r, x, y):
    op = r.choice(
        [
            jnp.floor_divide,
            jnp.remainder,
            jnp.bitwise_and,
            jnp.bitwise_xor,
            lax.rem,
            jnp.left_shift,
            jnp.right_shift,
        ]
    )
    return lambda a, b: op(a, (b % 5 + 1).astype(a.dtype))


@step(bits=0)
def where(r, x, y):
    return lambda a, b: jnp.where(
        b > 0 if y.exact else b == b, a, a[..., ::-1] if a.ndim else -a
    )


# -------------------------------------------------------- reductions, sorting, indexing


@step(bits=8, rank=1)
def reduction(r, x):
    axis, keep = r.choice([None, *range(x.rank)]), r.random() < 0.4
    names = ["sum", "max", "min", "any", "all"] if x.exact else ["sum", "max", "min"]
    op = getattr(jnp, r.choice(names))
    return lambda a: op(a, axis=axis, keepdims=keep)


@step(kinds="if", rank=1)
def statistics(r, x):
    axis, keep = r.choice([None, *range(x.rank)]), r.random() < 0.4
    op = (
        r.choice([jnp.mean, jnp.var, jax.nn.logsumexp, jnp.std])
        if x.kind == "f"
        else jnp.mean
    )
    return lambda a: op(a, axis=axis, keepdims=keep)


@step(kinds="f", rank=1)
def normalised(r, x):
    i = axis_of(r, x)
    return r.choice(
        [
            lambda a: jax.nn.softmax(a, i),
            lambda a: jax.nn.standardize(a, i),
            lambda a: jax.nn.log_softmax(a, i),
        ]
    )


@step(bits=8, kinds="if", rank=1)
def cumulative(r, x):
    i, reverse = axis_of(r, x), r.random() < 0.3
    op = r.choice([lax.cumsum, lax.cummax, lax.cummin])
    return lambda a: op(a, i, reverse=reverse)


@step(kinds="f", rank=1)
def cumulative_smooth(r, x):
    i, op = axis_of(r, x), r.choice([lax.cumprod, lax.cumlogsumexp])
    return lambda a: op(jnp.tanh(a), i)


@step(bits=0, rank=1, exact=True)
def ordered(r, x):
    i = axis_of(r, x)
    return r.choice(
        [
            lambda a: jnp.sort(a, i),
            lambda a: jnp.argsort(a, i),
            lambda a: jnp.argmax(a, i),
            lambda a: jnp.argmin(a, i),
            lambda a: lax.top_k(a, 1)[1],
            lambda a: lax.top_k(a[..., :3], 1)[0],
            lambda a: jnp.median(a, i) if a.dtype == jnp.float32 else -jnp.sort(-a, i),
        ]
    )


@step(bits=0, rank=1)
def taken(r, x, y):
    i, mode = axis_of(r, x), r.choice(["fill", "clip", "wrap"])
    return r.choice(
        [
            lambda a, b: jnp.take(a, b.astype(jnp.int32), i, mode=mode),
            lambda a, b: a[b.astype(jnp.int32) % 3],
            lambda a, b: jnp.take_along_axis(a, b.astype(jnp.int32), i, mode=mode),
        ]
    )


taken.fits_second = lambda v: v.exact and v.rank  # type: ignore[attr-defined]


@step(bits=2, rank=1)
def scattered(r, x, y):
    how = r.choice(["set", "add", "max", "min"] if x.kind != "b" else ["set"])
    mode = r.choice([None, "drop", "clip"])
    return lambda a, b: getattr(
        a.at[b.astype(jnp.int32) * (1 if how != "set" else 0)], how
    )(jnp.ones((), a.dtype), mode=mode)


scattered.fits_second = lambda v: v.exact  # type: ignore[attr-defined]


@step(bits=0, rank=1)
def window_of(r, x):
    i, k = axis_of(r, x), r.randrange(4)
    return r.choice(
        [
            lambda a: lax.dynamic_slice_in_dim(
                a, jnp.int32(k), (a.shape[i] + 1) // 2, i
            ),
            lambda a: lax.dynamic_update_slice_in_dim(
                a, a[index(i, slice(0, 1))], jnp.int32(k), i
            ),
            lambda a: lax.dynamic_index_in_dim(a, jnp.int32(k), i),
        ]
    )


@step(bits=0, kinds="i", rank=1)
def searched(r, x):
    return lambda a: jnp.searchsorted(jnp.arange(a.shape[0]), a)


# ------------------------------------------------------ contractions, windows, matrices


@step(kinds="fi", rank=1)
def product(r, x, y):
    forms = [
        "...i,...i->...",
        "i...,i...->...",
        "...i,...j->...ij",
        "ij,kj->ik",
        "ij,jk->ik",
        "bij,bkj->bik",
    ]
    form = r.choice(forms)
    return lambda a, b: jnp.einsum(form, a, b)


@step(kinds="fi", rank=2)
def gram(r, x):
    return r.choice(
        [
            lambda a: a @ jnp.swapaxes(a, -1, -2),
            lambda a: jnp.einsum("...ij,...ik->...jk", a, a),
            lambda a: jnp.tensordot(a, a, a.ndim),
        ]
    )


def _image(a):
    """`a` as one image or sequence with two channels."""
    flat = a.reshape(a.shape[0], -1) if a.ndim > 2 else a
    return jnp.stack([flat, 2 - flat], -1)[None]


@step(kinds="f", rank=2)
def convolved(r, x):
    stride, padding, dilation = (
        r.choice([(1, 1), (2, 1), (2, 3)]),
        r.choice(["SAME", "SAME", "VALID", [(1, 2), (0, 1)]]),
        r.choice([1, 1, 2]),
    )
    kernel = jnp.arange(2.0 * 2 * 3 * 3).reshape(2, 3, 2, 3) / 9 - 1
    return lambda a: lax.conv_general_dilated(
        _image(a),
        kernel,
        stride,
        padding,
        rhs_dilation=(dilation, 1),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@step(kinds="f", rank=2)
def pooled(r, x):
    size, stride, padding = (
        r.choice([2, 3]),
        r.choice([1, 2]),
        r.choice(["SAME", "VALID"]),
    )
    start, op = r.choice([(0.0, lax.add), (-jnp.inf, lax.max), (jnp.inf, lax.min)])
    return lambda a: lax.reduce_window(
        a, start, op, (size,) * a.ndim, (stride,) * a.ndim, padding
    )


@step(kinds="f", rank=2)
def matrix(r, x):
    def positive(a):
        a = jnp.tanh(a.reshape(a.shape[0], -1))
        return a @ a.T + a.shape[1] * jnp.eye(a.shape[0])

    return r.choice(
        [
            lambda a: jnp.linalg.cholesky(positive(a)),
            lambda a: jnp.linalg.inv(positive(a)),
            lambda a: jnp.linalg.det(positive(a)),
            lambda a: jnp.linalg.solve(positive(a), a.reshape(a.shape[0], -1)),
            lambda a: jnp.linalg.norm(a),
        ]
    )


@step(kinds="f", rank=2)
def resized(r, x):
    method = r.choice(["linear", "nearest"])
    return lambda a: jax.image.resize(
        a, (2 * a.shape[0], *a.shape[1:-1], a.shape[-1] + 1), method
    )


# ----------------------------------------------------- control flow and transformations


def simple(r: Random, x: Operand) -> Callable[..., Any]:
    """A step with one operand that gives a smooth or exact value."""
    names = [
        n
        for n, s in STEPS.items()
        if s.arity == 1
        and s.fits(x)
        and n not in ("vectorised", "scanned", "gradient", "looped", "branched")
    ]
    return STEPS[r.choice(names)](r, x)


def row(x: Operand) -> Operand:
    return Operand(jax.ShapeDtypeStruct(x.aval.shape[1:], x.aval.dtype), 22)


@step(rank=1)
def vectorised(r, x):
    return r.choice([jax.vmap, lambda f: functools.partial(lax.map, f)])(
        simple(r, row(x))
    )


@step(rank=1)
def scanned(r, x):
    inner, reverse = simple(r, row(x)), r.random() < 0.3

    def body(carry, a):
        y = inner(a)
        return carry + y.astype(jnp.float32).mean() if y.ndim else carry + 1, (y, carry)

    return lambda a: lax.scan(body, jnp.float32(a.shape[0]), a, reverse=reverse)[1][0]


@step(rank=1, kinds="f")
def looped(r, x):
    if r.random() < 0.5:
        return lambda a: lax.fori_loop(
            0,
            a.shape[0],
            lambda i, s: jnp.tanh(s + a[i] / a.shape[0]),
            jnp.zeros(a.shape[1:]),
        )
    return lambda a: lax.while_loop(
        lambda s: s[0] < a.shape[0], lambda s: (2 * s[0] + 1, jnp.cos(s[1])), (0, a)
    )[1]


@step(rank=1)
def branched(r, x):
    inner = simple(r, Operand(x.aval, 22))
    return lambda a: lax.cond(
        jnp.int32(a.shape[0]) % 2 == 0, inner, lambda b: jnp.zeros_like(inner(b)), a
    )


@step(kinds="f", rank=1)
def gradient(r, x):
    inner = simple(r, Operand(x.aval, 22))
    return jax.grad(
        lambda a: (jnp.tanh(inner(a).astype(jnp.float32)) * jnp.float32(0.5)).sum()
    )


# ----------------------------------------------------------------------------- programs


@dataclass(eq=False)
class Program:
    """Steps `(name, function, operands)` over the inputs and the results before.

    `outputs` are numbers of values.
    """

    specs: list[str]
    steps: list[tuple[str, Callable[..., Any], tuple[int, ...]]]
    outputs: list[int]

    def __call__(self, *inputs):
        values = list(inputs)
        for _, fn, operands in self.steps:
            values.append(fn(*(values[i] for i in operands)))
        return [values[i] for i in self.outputs]

    def __str__(self) -> str:
        return f"{self.specs} {[(n, o) for n, _, o in self.steps]} -> {self.outputs}"


def value(spec: str, sizes: dict[str, int], seed: int) -> np.ndarray:
    dtype, _, shape = spec.rstrip("]").partition("[")
    random = np.random.default_rng(seed)
    numbers = random.integers(-6, 7, sized(shape, sizes))
    if dtype == "f32":
        return (numbers / 4).astype(np.float32)
    return numbers.astype(np.int32) if dtype == "i32" else numbers > 0


def program(r: Random) -> Program:
    """A program that JAX traces at symbolic sizes; steps that it refuses are left out."""
    specs = [*r.sample(SPECS, r.randrange(1, 4)), "f32[B,T]"]
    scope = jax.export.SymbolicScope()
    values = []
    for spec in specs:
        dtype, _, shape = spec.rstrip("]").partition("[")
        aval = jax.ShapeDtypeStruct(
            jax.export.symbolic_shape(shape, scope=scope),
            {"f32": np.float32, "i32": np.int32, "bool": np.bool_}[dtype],
        )
        values.append(Operand(aval, 5))
    steps = []
    wanted = r.randrange(3, 9)
    for _ in range(40):
        if len(steps) == wanted:
            break
        name = r.choice(list(STEPS))
        make = STEPS[name]
        near = values[-3:] if r.random() < 0.7 else values
        operands = [r.choice(near), *(r.choice(values) for _ in range(make.arity - 1))]
        second = getattr(make, "fits_second", make.fits)
        if not make.fits(operands[0]) or not all(map(second, operands[1:])):
            continue
        fn = make(r, *operands)
        try:
            aval = jax.eval_shape(fn, *(v.aval for v in operands))
        except Exception:
            continue
        if len(aval.shape) > 5:
            continue
        steps.append(
            (
                name,
                fn,
                tuple(
                    next(i for i, v in enumerate(values) if v is o) for o in operands
                ),
            )
        )
        bits = (
            99
            if make.bits is None
            else make.bits
            + functools.reduce(
                operator.add, [v.bits if v.exact else 99 for v in operands], 0
            )
        )
        values.append(Operand(aval, bits))
    first = len(specs)
    outputs = (
        sorted(
            {len(values) - 1, *r.sample(range(first, len(values)), min(2, len(steps)))}
        )
        if steps
        else [0]
    )
    return Program(specs, steps, outputs)


def close(got, want, case: str) -> None:
    got, want = np.asarray(got), np.asarray(want)
    assert (got.shape, got.dtype) == (want.shape, want.dtype), case
    if want.dtype.kind != "f":
        np.testing.assert_array_equal(got, want, case)
    else:
        finite = np.abs(want[np.isfinite(want)])
        np.testing.assert_allclose(
            got,
            want,
            rtol=2e-3,
            atol=2e-4 * max(1.0, finite.max(initial=0)),
            err_msg=case,
        )


def check(seed: int) -> int:
    """Compile the program of that seed and compare; the number of bindings that JAX can run."""
    made = program(Random(seed))
    case = f"seed {seed}: {made}"
    model, refusal, ran = None, None, 0
    try:
        model = j2o.compile(
            made, made.specs, opt_level=2 if seed % 4 else 0, checks=seed % 5 == 0
        )
    except j2o.DimensionError as error:  # right for what JAX runs at no sizes
        refusal = error
    for sizes in BINDINGS:
        args = [value(s, sizes, seed + i) for i, s in enumerate(made.specs)]
        try:
            want = jax.jit(made.__call__)(*args)
        except (TypeError, ValueError, ZeroDivisionError, NotImplementedError):
            continue  # such as the largest of no elements
        assert model is not None, f"{case}: {refusal}"
        for got, w in zip(model(*args), want, strict=True):
            close(got, w, f"{case} at {sizes}")
        ran += 1
    return ran


@pytest.mark.parametrize("shard", range(SHARDS))
def test_random_programs_agree_with_jax(shard):
    ran = sum(check(seed) for seed in range(shard, PROGRAMS, SHARDS))
    assert ran >= PROGRAMS // SHARDS
