"""What JAX replaces or leaves out on its way to XLA: references, sparse arrays, printing, placements, custom transforms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import sparse

import j2o

X = np.array([[1, 0, 2], [0, 3, 0], [4, 5, 0]], np.float32)
DEVICE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def with_references(x):
    total = jax.new_ref(jnp.zeros(3))

    def step(i, _):
        total[...] += x[i]
        total[0] = total[0] * 2

    lax.fori_loop(0, 3, step, None)
    return jax.freeze(total)


@jax.custom_batching.custom_vmap
def mapped_otherwise(x):
    return jnp.sin(x)


@mapped_otherwise.def_vmap
def _(size, batched, x):
    return jnp.cos(x), True


def printed(x):
    jax.debug.print("{}", x)
    return lax.map(lambda row: (jax.debug.callback(lambda r: None, row), row + 1)[1], x)


def linear(x):
    return jax.custom_derivatives.linear_call(lambda r, x: x * r, lambda r, t: t * r, 2.0, x)


PROGRAMS = {
    "references": with_references,
    "references_in_jit": lambda x: jax.jit(with_references)(x) + 1,
    "references_mapped": lambda x: jax.vmap(with_references)(jnp.stack([x, -x])),
    "gradient_through_references": jax.grad(lambda x: jnp.sum(with_references(x) ** 2)),
    "sparse": lambda x: sparse.BCOO.fromdense(x, nse=5) @ x,
    "compressed_sparse_rows": lambda x: sparse.BCSR.fromdense(x, nse=5) @ x.T,
    "sparse_transposed": lambda x: sparse.BCOO.fromdense(x, nse=5).T.todense(),
    "custom_vmap": lambda x: mapped_otherwise(x) + jax.vmap(mapped_otherwise)(x),
    "printing": printed,
    "linear_call": lambda x: linear(x) + jax.grad(lambda y: linear(y).sum())(x),
    "sharding_constraint": lambda x: lax.with_sharding_constraint(x, DEVICE) * 2,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name):
    model = j2o.compile(PROGRAMS[name], [X])
    np.testing.assert_allclose(model(X), PROGRAMS[name](jnp.asarray(X)), rtol=1e-6)


@pytest.mark.parametrize("callback", [jax.pure_callback, jax.experimental.io_callback])
def test_calls_of_the_host_are_refused(callback):
    with pytest.raises(j2o.UnsupportedError, match="callback"):
        j2o.compile(lambda x: callback(lambda y: y, jax.ShapeDtypeStruct((3, 3), jnp.float32), x), [X])


def test_a_function_without_results_is_refused():
    with pytest.raises(j2o.SpecError, match="no arrays"):
        j2o.compile(lambda x: None, [X])
