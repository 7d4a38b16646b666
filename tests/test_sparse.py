"""Arrays of `jax.experimental.sparse`.

Made inside of a function, given to it, returned by it, closed over.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse

import j2o
from tests import harness

agrees = functools.partial(harness.agrees, rtol=1e-6, atol=0)
X = np.array([[1, 0, 2, 0], [0, 3, 0, 0], [4, 5, 0, 0]], np.float32)
NONZERO = 5
VECTOR = np.arange(4, dtype=np.float32) + 1
MATRIX = np.arange(8, dtype=np.float32).reshape(4, 2)
ROWS = np.arange(6, dtype=np.float32).reshape(3, 2)
KINDS = [sparse.BCOO, sparse.BCSR, sparse.COO, sparse.CSR, sparse.CSC]
# JAX has no transpose of BCSR
TRANSPOSED = [kind for kind in KINDS if kind is not sparse.BCSR]

# what is done with a sparse matrix, and the dense operand
USES = {
    "todense": (lambda matrix, y: matrix.todense() + y[:, 0], MATRIX),
    "vector": (lambda matrix, y: matrix @ y, VECTOR),
    "matrix": (lambda matrix, y: matrix @ y, MATRIX),
    "gradient": (
        lambda matrix, y: jax.grad(lambda y: jnp.sum((matrix @ y) ** 2))(y),
        VECTOR,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("use", USES)
def test_made_inside(kind, use):
    fn, operand = USES[use]

    def made(x, y):
        return fn(kind.fromdense(x, nse=NONZERO), y)

    agrees(made, [X, operand])
    sizes = {3: "N", 4: "M", 2: "K"}
    symbolic = [tuple(sizes[n] for n in array.shape) for array in (X, operand)]
    agrees(made, [X, operand], symbolic)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("use", USES)
def test_given_and_closed_over(kind, use):
    fn, operand = USES[use]
    matrix = kind.fromdense(X, nse=NONZERO)
    agrees(fn, [matrix, operand])
    agrees(lambda y: fn(matrix, y), [operand])


@pytest.mark.parametrize("kind", TRANSPOSED)
def test_transposed(kind):
    def transposed(x, y):
        turned = kind.fromdense(x, nse=NONZERO).T
        return turned.todense(), turned @ y, turned @ y[:, 0]

    agrees(transposed, [X, ROWS])


@pytest.mark.parametrize("kind", KINDS)
def test_returned(kind):
    agrees(lambda x: kind.fromdense(x, nse=NONZERO), [X])


def sparse_of(x):
    return sparse.BCOO.fromdense(x, nse=NONZERO)


OPERATIONS = {
    "sum": lambda x: (sparse_of(x) * 2 + sparse_of(x)).sum_duplicates(nse=8).todense(),
    "sorted": lambda x: sparse_of(x).sort_indices().todense(),
    "product": lambda x: (sparse_of(x) @ sparse_of(x).T).todense(),
    "sliced": lambda x: sparse_of(x)[1:].todense(),
    "reshaped": lambda x: sparse_of(x).reshape(2, 6).todense(),
    "reduced": lambda x: sparse_of(x).sum(1).todense(),
    "extracted": lambda x: sparse.bcoo_extract(sparse_of(x), x + 1).todense(),
    "batched": lambda x: sparse.bcoo_fromdense(
        jnp.stack([x, -x]), n_batch=1, nse=NONZERO
    ).todense(),
    "mapped": lambda x: jax.vmap(
        lambda row: sparse.BCOO.fromdense(row, nse=2).todense()
    )(x),
    "sparsified": lambda x: sparse.sparsify(lambda a, v: (jnp.sin(a) * 2) @ v)(
        sparse_of(x), VECTOR
    ),
    "identity": lambda x: sparse.eye(3) @ x,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name):
    agrees(OPERATIONS[name], [X])


def test_what_calls_the_host_is_refused():
    """JAX solves sparse systems on the CPU by a call of scipy."""
    from jax.experimental.sparse.linalg import spsolve

    data, columns, starts = (
        np.ones(3, np.float32),
        np.arange(3, dtype=np.int32),
        np.arange(4, dtype=np.int32),
    )
    with pytest.raises(j2o.UnsupportedError, match="spsolve"):
        j2o.compile(lambda b: spsolve(data, columns, starts, b), ["f32[3]"])
