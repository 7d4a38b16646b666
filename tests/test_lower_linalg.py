"""Linear algebra, compared with JAX's by values that do not depend on a choice of signs, orders or bases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import j2o

random = np.random.default_rng(0)
jl, ll = jnp.linalg, lax.linalg


def matrix(*shape, dtype="float32"):
    real = random.standard_normal(shape)
    return (
        real + 1j * random.standard_normal(shape) if "complex" in dtype else real
    ).astype(dtype)


def adjoint(a):
    return jnp.conj(a.mT)


def positive(a):
    return a @ adjoint(a) + a.shape[-1] * jnp.eye(a.shape[-1], dtype=a.dtype)


def joined_qr(a):
    q, r = jl.qr(a)
    return q @ r, adjoint(q) @ q


def joined_eigh(a):
    w, v = jl.eigh(a + adjoint(a))
    return w, (v * w[..., None, :].astype(v.dtype)) @ adjoint(v)


def joined_svd(a):
    u, s, v = jl.svd(a, full_matrices=False)
    return s, (u * s[..., None, :].astype(u.dtype)) @ v


def joined_eig(a):
    w, v = jl.eig(a)
    return jnp.sort(jnp.abs(w)), jnp.abs(a @ v - v * w[..., None, :])


def joined_schur(a):
    t, z = ll.schur(a)
    return z @ t @ adjoint(z), adjoint(z) @ z


def joined_hessenberg(a):
    packed, taus = ll.hessenberg(a)
    h = jnp.triu(packed, -1)
    return (
        jnp.trace(h, axis1=-2, axis2=-1),
        jnp.trace(h @ h, axis1=-2, axis2=-1),
        jnp.abs(taus),
    )


def joined_tridiagonal(a):
    _, d, e, _ = ll.tridiagonal(a + adjoint(a), lower=True)
    return d, jnp.abs(e)


def reflected(a):
    packed, taus = ll.hessenberg(a)
    packed = packed[..., 1:, :-1]
    return ll.householder_product(packed, taus), ll.ormqr(
        packed, taus, a[..., 1:, :], transpose=True
    )


def solved_lines(a):
    d = jnp.abs(a) + 4
    return ll.tridiagonal_solve(a[..., 0, :], d[..., 1, :], a[..., 2, :], a.mT)


def updated(a):
    r = ll.cholesky(positive(a)).mT
    return ll.cholesky_update(r, a[0]), ll.symmetric_product(
        a, positive(a), alpha=2.0, beta=-1.0
    )


SQUARE = {
    "cholesky": lambda a: ll.cholesky(positive(a)),
    "cholesky_of_an_indefinite_matrix": lambda a: jnp.isnan(
        ll.cholesky(a + adjoint(a), symmetrize_input=False)
    ),
    "lu": lambda a: ll.lu(a),
    "solve": lambda a: jl.solve(a, a.mT),
    "inverse": lambda a: jl.inv(a),
    "determinant": lambda a: (jl.det(a), jl.slogdet(a)),
    "triangular_solve": lambda a: ll.triangular_solve(
        positive(a), a, left_side=True, lower=True, transpose_a=True
    ),
    "qr": joined_qr,
    "eigh": joined_eigh,
    "svd": joined_svd,
    "eig": joined_eig,
    "schur": joined_schur,
    "hessenberg": joined_hessenberg,
    "tridiagonal": joined_tridiagonal,
}
REAL = {
    "qr_multiply": lambda a: jax.scipy.linalg.qr_multiply(a, a[:, ::-1], pivoting=True),
    "reflections": reflected,
    "tridiagonal_solve": solved_lines,
    "updates": updated,
    "expm": jax.scipy.linalg.expm,
}


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("name", SQUARE)
def test_square_matrices(name, dtype):
    a = matrix(2, 4, 4, dtype=dtype)
    j2o.compile(SQUARE[name], [a]).verify(a, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("name", REAL)
def test_real_matrices(name):
    a = matrix(5, 5)
    j2o.compile(REAL[name], [a]).verify(a, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [n for n in SQUARE if "indefinite" not in n])
def test_sizes_that_are_not_known(name):
    model = j2o.compile(SQUARE[name], [("N", "N")])
    for n in (1, 2, 5):
        a = matrix(n, n)
        model.verify(a, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("shape", [(40, 9), (9, 40)])
@pytest.mark.parametrize("name", ["qr", "svd", "lu"])
def test_sizes_of_more_than_one_block(name, shape):
    a = matrix(*shape)
    j2o.compile(SQUARE[name], [a]).verify(a, rtol=2e-3, atol=2e-4)


GRADIENTS = [
    "cholesky",
    "solve",
    "inverse",
    "determinant",
    "triangular_solve",
    "qr",
    "eigh",
    "svd",
]


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(name):
    a = matrix(4, 4) + 3 * np.diag(np.arange(4, dtype=np.float32))
    fn = jax.grad(
        lambda a: sum(
            jnp.sum(jnp.sin(x.real)) for x in jax.tree.leaves(SQUARE[name](a))
        )
    )
    j2o.compile(fn, [a]).verify(a, rtol=5e-3, atol=5e-4)


def test_ill_conditioned_cholesky_is_as_good_as_its_input():
    a = matrix(60, 60)
    a = a @ a.T
    factor = np.asarray(j2o.compile(ll.cholesky, [a])(a))
    np.testing.assert_allclose(
        factor, np.linalg.cholesky(a.astype(np.float64)), atol=1e-5
    )


def test_singular_values_where_no_side_is_known_to_be_longer():
    model = j2o.compile(joined_svd, [("M", "N")])
    for shape in ((3, 5), (5, 3), (4, 4)):
        a = matrix(*shape)
        model.verify(a, rtol=2e-3, atol=2e-4)


def test_matrices_of_low_rank():
    a = matrix(8, 2) @ matrix(2, 8)
    j2o.compile(joined_svd, [a]).verify(a, rtol=1e-3, atol=1e-4)
    j2o.compile(joined_eigh, [a]).verify(a, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_singular_tridiagonal_systems(n, dtype):
    dl, d, du = (matrix(3, n, dtype=dtype) for _ in range(3))
    d[0] = dl[1] = d[1] = du[1] = d[2, n // 2] = dl[:, 0] = du[:, -1] = 0
    fn = functools.partial(ll.tridiagonal_solve, perturb_singular=True)
    args = dl, d, du, matrix(3, n, 2, dtype=dtype)
    want = np.asarray(fn(*map(jnp.asarray, args)))
    np.testing.assert_allclose(j2o.compile(fn, list(args))(*args), want, rtol=1e-3)
    assert np.isfinite(want).all()


def test_strict_settings_of_the_caller_are_for_their_own_code():
    a = positive(matrix(3, 3))
    with (
        jax.numpy_rank_promotion("raise"),
        jax.numpy_dtype_promotion("strict"),
        jax.debug_nans(True),
    ):
        model = j2o.compile(jl.eigvalsh, [a])
    model.verify(a)


EMPTY = [(n, s) for n in ("qr", "svd", "lu") for s in ((2, 0), (0, 2))] + [
    (n, (3, 0, 0)) for n in SQUARE if "tridiagonal" not in n and "hessenberg" not in n
]


@pytest.mark.parametrize(("name", "shape"), EMPTY)
def test_empty_matrices(name, shape):
    a = matrix(*shape)
    got, want = (
        jax.tree.leaves(f(a)) for f in (j2o.compile(SQUARE[name], [a]), SQUARE[name])
    )
    assert [(x.shape, x.dtype) for x in got] == [(x.shape, x.dtype) for x in want]
