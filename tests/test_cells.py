"""`cells` with whole programs: recurrent layers of libraries, and those that people write by hand."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.nn import sigmoid

import j2o
from tests.harness import agrees, normal, operators

ROWS, SIZE = 6, 4
X = normal(3, 7, ROWS)
SPECS = [f"f32[B,T,{ROWS}]"]
# what stands around a cell whose batch comes first: time in front, biases as weights of a 1, one direction
AROUND = ["Transpose", "Pad"]
LSTM = [*AROUND, "LSTM", "Squeeze", "Transpose"]


def scanned(step, state, x=None, **options):
    """All results of a scan over the second axis."""
    return lax.scan(step, state, x.swapaxes(0, 1), **options)


def zeros(x, size=SIZE):
    return jnp.zeros((x.shape[0], size))


def lstm(gates, c, order="ifgo"):
    """The new h and c of an LSTM of the sums of its gates, side by side."""
    named = dict(zip(order, jnp.split(gates, 4, -1), strict=True))
    kept = sigmoid(named["f"]) * c
    c = kept + sigmoid(named["i"]) * jnp.tanh(named["g"])
    return sigmoid(named["o"]) * jnp.tanh(c), c


W, R, BIAS = normal(ROWS, 4 * SIZE), normal(SIZE, 4 * SIZE) / 2, normal(4 * SIZE)


def step(state, x):
    """A step that hands on (h, c) and gives h."""
    h, c = lstm(x @ W + state[0] @ R + BIAS, state[1])
    return (h, c), h


# ---------------------------------------------------------------------------- libraries


def linen(cell, **options):
    """A layer of flax.linen with biases that are not 0."""
    layer = nn.RNN(cell, **options)
    variables = layer.init(jax.random.key(0), X)
    shift = lambda a: a + 0.1 * normal(*a.shape)  # noqa: E731
    variables = jax.tree.map(shift, variables)
    return lambda x: layer.apply(variables, x)


@pytest.mark.parametrize(
    ("cell", "wanted"),
    [
        (nn.LSTMCell(SIZE), LSTM),
        (nn.OptimizedLSTMCell(SIZE), LSTM),
        (nn.GRUCell(SIZE), ["Transpose", "GRU", "Squeeze", "Transpose"]),
    ],
)
def test_layers_of_flax_linen(cell, wanted):
    assert operators(agrees(linen(cell), [X], SPECS)) == wanted


def test_a_layer_of_flax_linen_from_the_end():
    for keep_order, behind in ((True, []), (False, ["Slice"])):
        layer = linen(nn.LSTMCell(SIZE), reverse=True, keep_order=keep_order)
        found = operators(agrees(layer, [X], SPECS))
        assert sorted(found) == sorted([*LSTM, *behind])


def test_both_directions_of_flax_linen():
    layer = nn.Bidirectional(nn.RNN(nn.LSTMCell(SIZE)), nn.RNN(nn.GRUCell(SIZE)))
    variables = layer.init(jax.random.key(0), X)
    found = operators(agrees(lambda x: layer.apply(variables, x), [X], SPECS))
    assert sorted(found) == sorted(
        ["Transpose", "LSTM", "GRU", "Squeeze", "Squeeze", "Concat", "Transpose"]
    )


@pytest.mark.parametrize("cell", [nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell])
def test_layers_of_flax_nnx(cell):
    layer = nnx.RNN(cell(ROWS, SIZE, rngs=nnx.Rngs(0)))
    found = operators(agrees(layer, [X], SPECS))
    assert {"LSTM", "GRU"} & set(found)
    assert "Scan" not in found


@pytest.mark.parametrize("cell", [eqx.nn.LSTMCell, eqx.nn.GRUCell])
def test_layers_of_equinox_with_and_without_a_batch(cell):
    layer = cell(ROWS, SIZE, key=jax.random.key(0))

    def run(rows):
        def one(state, x):
            return layer(x, state), None

        first = jnp.zeros(SIZE)
        is_lstm = cell is eqx.nn.LSTMCell
        return lax.scan(one, (first, first) if is_lstm else first, rows)[0]

    for fn, x, spec in (
        (run, X[0], f"f32[T,{ROWS}]"),
        (jax.vmap(run), X, SPECS[0]),
    ):
        found = operators(agrees(fn, [x], [spec]))
        assert {"LSTM", "GRU"} & set(found)
        assert "Scan" not in found


# ------------------------------------------------------------------------- written by hand


def test_gates_of_one_product_of_rows_and_state_side_by_side():
    weights = normal(ROWS + SIZE, 4 * SIZE)

    def haiku(state, x):
        gates = jnp.concatenate([x, state[0]], -1) @ weights + BIAS
        i, g, f, o = jnp.split(gates, 4, -1)
        c = sigmoid(f + 1) * state[1] + sigmoid(i) * jnp.tanh(g)
        h = sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    fn = lambda x: scanned(haiku, (zeros(x), zeros(x)), x)[1]  # noqa: E731
    assert operators(agrees(fn, [X], SPECS)) == [*AROUND, "LSTM", "Squeeze"]


def test_gates_by_reshape_and_index():
    def one(state, x):
        gates = (x @ W + state[0] @ R + BIAS).reshape(-1, 4, SIZE)
        c = sigmoid(gates[:, 0]) * state[1]
        c = c + sigmoid(gates[:, 2]) * jnp.tanh(gates[:, 3])
        h = sigmoid(gates[:, 1]) * jnp.tanh(c)
        return (h, c), h

    fn = lambda x: scanned(one, (zeros(x), zeros(x)), x)[1]  # noqa: E731
    assert operators(agrees(fn, [X], SPECS)) == [*AROUND, "LSTM", "Squeeze"]


def test_the_matrix_on_the_left_and_one_activation_for_three_gates():
    left = np.concatenate([W, R]).T.copy()

    def one(state, x):
        gates = left @ jnp.concatenate([x, state[0]]) + BIAS
        i, f, o = jnp.split(sigmoid(gates[: 3 * SIZE]), 3)
        c = f * state[1] + jnp.tanh(gates[3 * SIZE :]) * i
        h = jnp.tanh(c) * o
        return (h, c), h

    run = lambda rows: lax.scan(one, (jnp.zeros(SIZE),) * 2, rows)  # noqa: E731
    assert "LSTM" in operators(agrees(run, [X[0]], [f"f32[T,{ROWS}]"]))
    assert "LSTM" in operators(agrees(jax.vmap(run), [X], SPECS))


def test_products_of_rows_in_front_of_the_loop():
    def one(state, gates):
        h, c = lstm(gates + state[0] @ R, state[1])
        return (h, c), h

    fn = lambda x: scanned(one, (zeros(x), zeros(x)), x @ W + BIAS)[1]  # noqa: E731
    assert operators(agrees(fn, [X], SPECS)) == [*AROUND, "LSTM", "Squeeze"]


def test_any_first_state_both_directions_and_all_results():
    h, c = normal(3, SIZE), normal(3, SIZE) * 2
    specs = [*SPECS, f"f32[B,{SIZE}]", f"f32[B,{SIZE}]"]
    for reverse in (False, True):
        fn = lambda x, h, c, back=reverse: scanned(step, (h, c), x, reverse=back)  # noqa: E731
        found = operators(agrees(fn, [X, h, c], specs))
        assert found.count("LSTM") == 1
        assert "Scan" not in found


def test_the_last_state_of_all():
    last = lambda x: scanned(step, (zeros(x), zeros(x)), x)[1][-1]  # noqa: E731
    assert operators(agrees(last, [X], SPECS)) == [*AROUND, "LSTM", "Squeeze"]

    def behind(x):
        hs = scanned(step, (zeros(x), zeros(x)), x, reverse=True)[1]
        return hs.swapaxes(0, 1)[:, 0]

    assert operators(agrees(behind, [X], SPECS)) == [*AROUND, "LSTM", "Squeeze"]


def test_weights_that_are_inputs():
    def fn(x, w, r, b):
        def one(state, x):
            h, c = lstm(x @ w + state[0] @ r + b, state[1], "iofg")
            return (h, c), h

        return scanned(one, (zeros(x), zeros(x)), x)[1]

    model = agrees(fn, [X, W, R, BIAS])
    assert "LSTM" in operators(model)
    assert "Scan" not in operators(model)


def test_a_batch_of_two_axes_and_one_of_a_single_row():
    wide = normal(7, 2, 3, ROWS)
    fn = lambda x: lax.scan(step, (jnp.zeros((2, 3, SIZE)),) * 2, x)  # noqa: E731
    assert "LSTM" in operators(agrees(fn, [wide]))
    one = lambda x: lax.scan(step, (jnp.zeros((1, SIZE)),) * 2, x)  # noqa: E731
    assert "LSTM" in operators(agrees(one, [wide[:, 0, :1]]))


def test_an_empty_batch_stays_a_loop():
    fn = lambda x: lax.scan(step, (jnp.zeros((0, SIZE)),) * 2, x)[1]  # noqa: E731
    assert "LSTM" not in operators(agrees(fn, [normal(7, 0, ROWS)]))


def test_a_symbolic_length_that_may_be_nothing():
    fn = lambda x: scanned(step, (zeros(x), zeros(x)), x[:, 1:])  # noqa: E731
    for length in (1, 4):
        agrees(fn, [X[:, :length]], SPECS)


@pytest.mark.parametrize("is_before", [True, False])
def test_both_kinds_of_reset(is_before):
    w, r, b = normal(ROWS, 3 * SIZE), normal(SIZE, 3 * SIZE), normal(3 * SIZE)

    def haiku(h, x):
        rows = x @ w + b
        gates = sigmoid(rows[:, : 2 * SIZE] + h @ r[:, : 2 * SIZE])
        z, reset = jnp.split(gates, 2, -1)
        new = jnp.tanh(rows[:, 2 * SIZE :] + (reset * h) @ r[:, 2 * SIZE :])
        h = (1 - z) * h + z * new
        return h, h

    def keras(h, x):
        z, reset, new = jnp.split(x @ w + b, 3, -1)
        inner = jnp.split(h @ r + b[::-1], 3, -1)
        z, reset = sigmoid(z + inner[0]), sigmoid(reset + inner[1])
        new = jnp.tanh(new + reset * inner[2])
        h = z * h + (1 - z) * new
        return h, h

    cell = haiku if is_before else keras
    fn = lambda x: scanned(cell, zeros(x), x)  # noqa: E731
    (node,) = [n for n in agrees(fn, [X], SPECS).graph if n.op == "onnx.GRU"]
    assert node.int_attr("linear_before_reset") == int(not is_before)


def test_a_plain_network_is_an_rnn_where_that_is_faster():
    def one(h, x):
        h = jnp.tanh(x @ W[:, :SIZE] + h @ R[:, :SIZE] + BIAS[:SIZE])
        return h, h

    alone = lambda x: lax.scan(one, jnp.zeros(SIZE), x)[1]  # noqa: E731
    found = operators(agrees(alone, [X[0]], [f"f32[T,{ROWS}]"]))
    assert found == ["Pad", "Unsqueeze", "RNN", "Squeeze"]
    batched = lambda x: scanned(one, zeros(x), x)[1]  # noqa: E731
    assert "RNN" not in operators(agrees(batched, [X], SPECS))


@pytest.mark.parametrize("between", [jnp.tanh, jax.nn.relu, lambda h: h[:, ::-1]])
def test_layers_in_one_loop_with_something_between(between):
    w, r = normal(SIZE, 4 * SIZE), normal(SIZE, 4 * SIZE)

    def layers(state, x):
        lower, upper = state
        lower, h = step(lower, x)
        h, c = lstm(between(h + 1) @ w + upper[0] @ r, upper[1])
        return (lower, (h, c)), h

    fn = lambda x: scanned(layers, ((zeros(x),) * 2,) * 2, x, reverse=True)  # noqa: E731
    found = operators(agrees(fn, [X], SPECS))
    assert found.count("LSTM") == 2
    assert "Scan" not in found


def test_a_product_in_front_that_two_layers_read():
    w, r = normal(4 * SIZE, 4 * SIZE) / 4, normal(SIZE, 4 * SIZE)

    def layers(state, gates):
        lower, upper = state
        h, c = lstm(gates + lower[0] @ R, lower[1])
        k, d = lstm(jax.nn.relu(gates) @ w + upper[0] @ r, upper[1])
        return ((h, c), (k, d)), h + k

    fn = lambda x: scanned(layers, ((zeros(x),) * 2,) * 2, x @ W + BIAS)  # noqa: E731
    found = operators(agrees(fn, [X], SPECS))
    assert found.count("LSTM") == 2
    assert "Scan" not in found


def test_layers_in_one_loop_and_what_it_does_besides():
    w, r = normal(SIZE, 4 * SIZE), normal(SIZE, 4 * SIZE)

    def layers(state, x):
        count, lower, upper = state
        lower, h = step(lower, x)
        h, c = lstm(h @ w + upper[0] @ r, upper[1])
        return (count + 1, lower, (h, c)), jnp.sin(h) * count

    def fn(x):
        first = zeros(x)
        state = (jnp.float32(0), (first, first), (first, first))
        return scanned(layers, state, x)

    found = operators(agrees(fn, [X], SPECS))
    assert found.count("LSTM") == 2
    assert found.count("Scan") == 1


# ------------------------------------------------------------------------------- edges


def test_numbers_that_are_none_go_through_as_in_jax():
    fn = lambda x: scanned(step, (zeros(x), zeros(x)), x)  # noqa: E731
    model = j2o.compile(fn, SPECS)
    for edge in (np.nan, np.inf, -np.inf, 3e38):
        x = X.copy()
        x[0, 2, 1] = edge
        got, want = model(x), jax.jit(fn)(x)
        for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_cell_of_another_dtype_stays_a_loop():
    def fn(x):
        state = (zeros(x).astype(jnp.bfloat16),) * 2
        rows = x.astype(jnp.bfloat16)

        def one(state, x):
            h, c = lstm(x @ W.astype(x.dtype) + state[0] @ R.astype(x.dtype), state[1])
            return (h, c), h

        return scanned(one, state, rows)[1].astype(jnp.float32)

    model = agrees(fn, [X], SPECS, rtol=0.1, atol=0.1)
    assert "LSTM" not in operators(model)


def test_level_1_keeps_the_loop():
    fn = lambda x: scanned(step, (zeros(x), zeros(x)), x)[1]  # noqa: E731
    loop = j2o.compile(fn, SPECS, opt_level=1)
    assert "Scan" in operators(loop)


def test_two_directions_are_one_operator():
    layer = nn.Bidirectional(nn.RNN(nn.LSTMCell(SIZE)), nn.RNN(nn.LSTMCell(SIZE)))
    x = normal(2, 5, 3)
    params = layer.init(jax.random.key(0), x)
    model = agrees(lambda x: layer.apply(params, x), [x], ["f32[B,T,3]"])
    made = operators(model)
    assert made.count("LSTM") == 1
    assert "Concat" not in made


def test_a_masked_cell_of_equinox_transposes_nothing_in_its_loop():
    cell = eqx.nn.GRUCell(ROWS, SIZE, key=jax.random.key(0))

    def one(h, row):
        x, is_kept = row
        return jnp.where(is_kept, cell(x, h), h), None

    def last(xs, kept):
        return lax.scan(one, jnp.zeros(SIZE), (xs, kept))[0]

    kept = np.random.default_rng(0).random((3, 7)) > 0.3
    model = agrees(jax.vmap(last), [X, kept], [*SPECS, "bool[B,T]"])
    (loop,) = model.graph.nodes_of("onnx.Scan")
    assert not list(loop.graphs[0].nodes_of("onnx.Transpose"))
