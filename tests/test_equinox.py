"""Modules of equinox as people have them.

With state, with an axis that vmap names, for training and for inference.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.harness import agrees, operators

eqx = pytest.importorskip("equinox")

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(3, 4)).astype(np.float32)
IMAGES = RANDOM.normal(size=(2, 3, 8, 8)).astype(np.float32)


BATCH_NORMS = [
    functools.partial(eqx.nn.BatchNorm, 4, "batch", mode=mode)
    for mode in ("batch", "ema")
]


def fresh(state):
    """A copy of a state: equinox lets nobody use one twice."""
    return jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(state))


@pytest.mark.parametrize("make", BATCH_NORMS)
@pytest.mark.filterwarnings("ignore:in training mode")
def test_batch_norm_gives_its_new_state(make):
    norm, state = eqx.nn.make_with_state(make)()
    training = jax.vmap(norm, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    agrees(lambda x, state: jax.tree.leaves(training(x, fresh(state))), [ROWS, state])


@pytest.mark.parametrize("make", BATCH_NORMS)
def test_batch_norm_for_inference(make):
    norm, state = eqx.nn.make_with_state(make)()
    inference = eqx.nn.inference_mode(norm)

    def fn(x):
        return jax.vmap(lambda row: inference(row, fresh(state))[0], axis_name="batch")(
            x
        )

    agrees(fn, [ROWS], [("B", 4)])


ATTENTION = eqx.nn.MultiheadAttention(2, 4, key=KEY)
LSTM, GRU = eqx.nn.LSTMCell(4, 5, key=KEY), eqx.nn.GRUCell(4, 5, key=KEY)


def masked(x):
    return ATTENTION(x, x, x, mask=jnp.tril(jnp.ones((x.shape[0], x.shape[0]), bool)))


def long_memory(x):
    return jax.lax.scan(
        lambda carry, row: (LSTM(row, carry), None), (jnp.zeros(5), jnp.zeros(5)), x
    )[0]


def memory(x):
    return jax.lax.scan(lambda carry, row: (GRU(row, carry),) * 2, jnp.zeros(5), x)[1]


SEQUENTIAL = eqx.nn.Sequential(
    [
        eqx.nn.Linear(4, 3, key=KEY),
        eqx.nn.Lambda(jax.nn.relu),
        eqx.nn.Dropout(0.3),
        eqx.nn.Linear(3, 2, key=KEY),
    ]
)
ON_ROWS = {
    "attention": masked,
    "lstm": long_memory,
    "gru": memory,
    "sequential": jax.vmap(eqx.nn.inference_mode(SEQUENTIAL)),
    "weight_norm": jax.vmap(eqx.nn.WeightNorm(eqx.nn.Linear(4, 3, key=KEY))),
    "checkpointed": jax.grad(lambda x: eqx.filter_checkpoint(jnp.sin)(x).sum()),
}
ON_IMAGES = {
    "conv": eqx.nn.Conv2d(3, 4, 3, key=KEY),
    "conv_in_groups": eqx.nn.Conv2d(3, 6, 3, padding="SAME", groups=3, key=KEY),
    "conv_transposed": eqx.nn.ConvTranspose2d(3, 4, 3, stride=2, key=KEY),
    "max_pool": eqx.nn.MaxPool2d(2, 2),
    "group_norm": eqx.nn.GroupNorm(3, 3),
}


@pytest.mark.parametrize("name", ON_ROWS)
def test_modules_of_rows(name):
    agrees(ON_ROWS[name], [ROWS])
    agrees(ON_ROWS[name], [ROWS], [("T", 4)])


@pytest.mark.parametrize("name", ON_IMAGES)
def test_modules_of_images(name):
    agrees(jax.vmap(ON_IMAGES[name]), [IMAGES], [("B", 3, 8, 8)])


def test_spectral_norm():
    make = functools.partial(
        eqx.nn.SpectralNorm, eqx.nn.Linear(4, 3, key=KEY), "weight", key=KEY
    )
    norm, state = eqx.nn.make_with_state(make)()
    agrees(
        lambda row, state: jax.tree.leaves(norm(row, fresh(state))), [ROWS[0], state]
    )


def counted(kind):
    def fn(x):
        def body(carry):
            count, value = carry
            return count + 1, jnp.sin(value)

        _, value = eqx.internal.while_loop(
            lambda carry: carry[0] < 5, body, (0, x), max_steps=8, kind=kind
        )
        return value

    return fn


@pytest.mark.parametrize("kind", ["lax", "bounded", "checkpointed"])
def test_loops(kind):
    agrees(counted(kind), [ROWS], [("B", 4)])
    if kind != "lax":
        agrees(jax.grad(lambda x: counted(kind)(x).sum()), [ROWS])


def test_a_norm_of_one_vector_is_one_operator():
    norm = eqx.nn.RMSNorm(4, use_bias=False)
    model = agrees(norm, [ROWS[0]])
    assert operators(model) == ["RMSNormalization"]


def test_layers_of_one_example_change_no_shape_in_between():
    mlp = eqx.nn.MLP(8, 4, 16, 2, key=KEY)
    model = agrees(mlp, [RANDOM.normal(size=8).astype(np.float32)])
    wanted = ["Unsqueeze", "Gemm", "Relu", "Gemm", "Relu", "Gemm", "Squeeze"]
    assert operators(model) == wanted


def test_a_cell_mapped_over_a_batch_has_no_transposes():
    """`jax.vmap` of `weight @ hidden` transposes some of the gates, and others back."""
    cell = eqx.nn.GRUCell(4, 6, key=KEY)
    state = RANDOM.normal(size=(3, 6)).astype(np.float32)
    model = agrees(jax.vmap(cell), [ROWS, state], ["f32[B,4]", "f32[B,6]"])
    assert "Transpose" not in operators(model)


@pytest.mark.parametrize("bias", [True, False])
def test_cells_mapped_over_a_batch_are_one_operator(bias):
    cell = eqx.nn.GRUCell(3, 6, use_bias=bias, key=KEY)

    def layer(xs):
        def step(hidden, x):
            hidden = cell(x, hidden)
            return hidden, hidden

        return jax.lax.scan(step, jnp.zeros(6), xs)[1]

    xs = RANDOM.normal(size=(2, 5, 3)).astype(np.float32)
    model = agrees(jax.vmap(layer), [xs], ["f32[B,5,3]"])
    assert operators(model).count("GRU") == 1
