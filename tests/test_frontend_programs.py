"""What JAX replaces or leaves out on its way to XLA.

References, sparse arrays, printing, placements, custom transforms.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import checkify, sparse

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
    return jax.custom_derivatives.linear_call(
        lambda r, x: x * r, lambda r, t: t * r, 2.0, x
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def applied(fn, x):
    return fn(x)


@applied.defjvp
def _(fn, primals, tangents):
    return fn(*primals), 2 * tangents[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def repeated(x, fn, times):
    return fn(x) * times


repeated.defvjp(
    lambda x, fn, times: (repeated(x, fn, times), x),
    lambda fn, times, x, bar: (bar * times * x,),
)


def rooted(x):
    def solve(fn, guess):
        return lax.fori_loop(0, 30, lambda i, y: y - fn(y) / (3 * y * y), guess)

    return lax.custom_root(
        lambda y: y**3 - x.sum(), jnp.float32(2), solve, lambda fn, y: y / fn(1.0)
    )


def printed_in_loops(x):
    def step(carry, row):
        jax.debug.print("{}", row, ordered=True)
        return carry + row, row

    def going_on(carry):
        jax.debug.callback(print, carry)
        return carry.sum() < 100

    return lax.scan(step, jnp.ones(3), x), lax.while_loop(
        going_on, lambda carry: carry * 2, x
    )


def functionalised(x):
    """Division, NaN and the user's own checks as values; the program's result alone is given."""

    def body(i, carry):
        checkify.check(carry.sum() > 0, "negative")
        return carry / (carry + 1)

    return checkify.checkify(
        lambda x: lax.fori_loop(0, 3, body, x), errors=checkify.all_checks
    )(x)[1]


def for_the_platform(x):
    return lax.platform_dependent(
        x, cpu=lambda x: x + 1, tpu=lambda x: x + 2, default=lambda x: x + 3
    )


def saving(policy):
    return jax.grad(
        lambda x: jax.checkpoint(
            lambda y: jnp.sin(jnp.cos(y) @ y).sum(), policy=policy
        )(x)
    )


PROGRAMS = {
    "rematerialised": saving(None),
    "rematerialised_by_a_policy": saving(jax.checkpoint_policies.dots_saveable),
    "custom_jvp_of_a_function": lambda x: (
        applied(jnp.sin, x) + jax.grad(lambda y: applied(jnp.sin, y).sum())(x)
    ),
    "custom_vjp_of_a_function": lambda x: (
        repeated(x, jnp.cos, 3) + jax.grad(lambda y: repeated(y, jnp.cos, 3).sum())(x)
    ),
    "custom_root": rooted,
    "platform": for_the_platform,
    "platform_without_ours": lambda x: lax.platform_dependent(
        x, cuda=lambda x: x + 1, default=lambda x: x + 3
    ),
    "barrier": jax.grad(lambda x: lax.optimization_barrier(jnp.sin(x)).sum()),
    "named_call": jax.named_call(jnp.sin, name="sine"),
    "printing_in_loops": printed_in_loops,
    "functionalised_checks": functionalised,
    "sharding_looked_at": lambda x: (
        jax.debug.inspect_array_sharding(x, callback=lambda s: None),
        x + 1,
    )[1],
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
    got, want = model(X), PROGRAMS[name](jnp.asarray(X))
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("callback", [jax.pure_callback, jax.experimental.io_callback])
def test_calls_of_the_host_are_refused(callback):
    with pytest.raises(j2o.UnsupportedError, match="callback"):
        j2o.compile(
            lambda x: callback(
                lambda y: y, jax.ShapeDtypeStruct((3, 3), jnp.float32), x
            ),
            [X],
        )


def test_what_is_compiled_already_is_refused():
    exported = jax.export.export(jax.jit(jnp.sin))(
        jax.ShapeDtypeStruct(X.shape, X.dtype)
    )
    with pytest.raises(
        j2o.UnsupportedError, match="compiled already; give the function"
    ):
        j2o.compile(exported.call, [X])


def test_a_function_without_results_is_refused():
    with pytest.raises(j2o.SpecError, match="no arrays"):
        j2o.compile(lambda x: None, [X])
