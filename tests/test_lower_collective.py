"""Collectives on the one device that there is, and choices between platforms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

import j2o

X = np.arange(6, dtype=np.float32).reshape(2, 3)
ON_ONE = {
    "psum": lambda x: lax.psum(x, "i"),
    "pmean_pmax_pmin": lambda x: (
        lax.pmean(x, "i") + lax.pmax(x, "i") * lax.pmin(x, "i")
    ),
    "all_gather": lambda x: (
        lax.all_gather(x, "i", axis=1)[:, 0] + lax.all_gather(x, "i", tiled=True)
    ),
    "psum_scatter": lambda x: lax.psum_scatter(x, "i", tiled=True),
    "all_to_all": lambda x: lax.all_to_all(x, "i", 0, 1, tiled=True),
    "ppermute": lambda x: lax.ppermute(x, "i", [(0, 0)]) + lax.ppermute(x, "i", []),
    "axis_index": lambda x: x + lax.axis_index("i"),
    "gradient": lambda x: jax.grad(lambda y: lax.psum(jnp.sum(y * y), "i"))(x),
    "complex": lambda x: lax.psum(x * (1 + 2j), "i").imag,
}


@pytest.mark.parametrize("name", ON_ONE)
def test_shards_on_one_device(name):
    mesh = jax.make_mesh((1,), ("i",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("i")
    fn = jax.shard_map(
        ON_ONE[name],
        mesh=mesh,
        in_specs=spec,
        out_specs=spec,
        check_vma=name == "gradient",
    )
    j2o.compile(fn, [X]).verify(X)


def test_collectives_of_a_mapped_loop():
    def step(s, y):
        return lax.psum(s, "i") * y + lax.axis_index("i"), lax.pmax(
            s, "i"
        ) + lax.all_gather(s, "i").sum()

    fn = jax.vmap(lambda row: lax.scan(step, row[0], row), axis_name="i")
    j2o.compile(fn, [X]).verify(X)


def test_mapped_choices_between_platforms():
    def choose(x):
        return lax.platform_dependent(x, cpu=jnp.sin, default=jnp.cos)

    def step(s, x):
        return lax.cond(x > 2, choose, jnp.tan, s), s

    fn = jax.vmap(lambda row: lax.scan(step, row[0], row))
    j2o.compile(fn, [X]).verify(X)
