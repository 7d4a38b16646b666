"""`attention` with whole programs: how they are spelled, and that the values stay JAX's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.harness import agrees, normal, operators

T, S, HEADS, SIZE = 5, 7, 4, 8
LOW = float(np.finfo(np.float32).min) * 0.7
LOWEST = np.finfo(np.float32).min


def tensors(shape_of_heads=(HEADS, HEADS)):
    query_heads, heads = shape_of_heads
    q = normal(2, T, query_heads, SIZE)
    k, v = normal(2, S, heads, SIZE), normal(2, S, heads, SIZE + 1)[..., 1:].copy()
    return q, k, v


def spelled_with_einsum(q, k, v, mask=None):
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.float32(np.sqrt(SIZE))
    if mask is not None:
        scores = jnp.where(mask, scores, LOW)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), v)


def spelled_by_jax(q, k, v, mask=None):
    return jax.nn.dot_product_attention(q, k, v, mask=mask)


def spelled_for_one_example(q, k, v):
    return jax.vmap(spelled_with_heads_first)(q, k, v)


def spelled_with_heads_first(q, k, v):
    q, k, v = (jnp.swapaxes(x, 0, 1) for x in (q, k, v))
    scores = q * SIZE**-0.5 @ jnp.swapaxes(k, 1, 2)
    return jnp.swapaxes(jax.nn.softmax(scores, axis=-1) @ v, 0, 1)


SPELLINGS = [spelled_with_einsum, spelled_for_one_example]
# onnxruntime has a kernel for the one, and inlines the function of the other
OPSETS = [24, 28]


@pytest.mark.parametrize("fn", SPELLINGS)
@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("opset", OPSETS)
def test_attention_is_one_node(fn, symbolic, opset):
    q, k, v = tensors()
    times = [f"f32[B,T,{HEADS},{SIZE}]", *2 * [f"f32[B,S,{HEADS},{SIZE}]"]]
    specs = times if symbolic else None
    model = agrees(fn, [q, k, v], specs, atol=1e-5, opset=opset)
    assert operators(model).count("Attention") == 1
    assert not {"MatMul", "Softmax"} & set(operators(model))


def spelled_with_keys_first(q, k, v):
    scores = jnp.einsum("bkhd,bqhd->bkhq", k, q) * SIZE**-0.5
    return jnp.einsum("bkhe,bkhq->bqhe", v, jax.nn.softmax(scores, axis=1))


@pytest.mark.parametrize("fn", [spelled_with_einsum, spelled_with_keys_first])
def test_products_may_be_taken_from_either_side(fn):
    model = agrees(fn, tensors(), atol=1e-5, opset=24)
    assert operators(model).count("Attention") == 1


def next_token(q, k, v, position):
    """Attention of one query to what a cache holds so far."""
    mask = jnp.arange(k.shape[1]) <= position
    return jax.nn.dot_product_attention(q, k, v, mask=mask[None, None, None])


@pytest.mark.parametrize("heads", [HEADS, HEADS // 2])
@pytest.mark.parametrize("symbolic", [False, True])
def test_a_single_query_transposes_nothing(heads, symbolic):
    q, k, v = (
        normal(2, 1, HEADS, SIZE),
        normal(2, S, heads, SIZE),
        normal(2, S, heads, SIZE),
    )
    cache = f"f32[B,S,{heads},{SIZE}]"
    specs = [f"f32[B,1,{HEADS},{SIZE}]", cache, cache, "i32[]"] if symbolic else None
    model = agrees(next_token, [q, k, v, np.int32(3)], specs, atol=1e-5, opset=24)
    assert operators(model).count("Attention") == 1
    assert "Transpose" not in operators(model)


MASKS = {
    "of times": np.arange(T)[:, None] + 2 >= np.arange(S),
    "of keys": (np.arange(S) < np.array([[3], [6]]))[:, None, None],
    "of heads": np.random.default_rng(0).random((1, HEADS, T, S)) < 0.5,
    "of all": np.random.default_rng(1).random((2, HEADS, T, S)) < 0.5,
    "with rows that see nothing": np.arange(T)[:, None] > np.arange(S) + 1,
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("fn", [spelled_with_einsum, spelled_by_jax])
@pytest.mark.parametrize("opset", OPSETS)
def test_masks_of_every_shape(fn, mask, opset):
    array = np.asarray(MASKS[mask])
    array = array.reshape((1,) * (4 - array.ndim) + array.shape)
    model = agrees(lambda *x: fn(*x, array), tensors(), atol=1e-5, opset=opset)
    assert operators(model).count("Attention") == 1


@pytest.mark.parametrize("heads", [(4, 2), (4, 1), (6, 3)])
@pytest.mark.parametrize("opset", OPSETS)
def test_query_heads_share_heads_of_keys_and_values(heads, opset):
    query_heads, shared = heads
    q, k, v = tensors(heads)

    def fn(q, k, v):
        return jax.nn.dot_product_attention(q, k, v, is_causal=True)

    specs = [f"f32[B,T,{query_heads},{SIZE}]", *2 * [f"f32[B,S,{shared},{SIZE}]"]]
    model = agrees(fn, [q, k, v], specs, atol=1e-5, opset=opset)
    assert operators(model).count("Attention") == 1


def hidden(scores, hides):
    return jnp.where(hides, LOWEST, scores)


def added(scores, hides):
    return scores + jnp.where(hides, LOWEST, 0)


def added_product(scores, hides):
    return scores + hides * LOWEST


@pytest.mark.parametrize("masked", [hidden, added, added_product])
def test_rows_of_the_lowest_float_weigh_all_values_alike(masked):
    hides = np.arange(T)[:, None] <= np.arange(S) + 1

    def fn(q, k, v, hides):
        scores = masked(jnp.einsum("bqhd,bkhd->bhqk", q, k), hides)
        return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), v)

    arrays = [*tensors(), np.stack([hides, ~hides])[:, None]]
    model = agrees(fn, arrays, atol=1e-5)
    assert operators(model).count("Attention") == 1


@pytest.mark.parametrize("heads", [(4, 2), (4, 1)])
@pytest.mark.parametrize("repeated", [jnp.repeat, jnp.tile])
def test_repeated_heads_are_taken_once(heads, repeated):
    query_heads, shared = heads
    q, k, v = tensors(heads)
    copies = query_heads // shared
    times = copies if repeated is jnp.repeat else (1, 1, copies, 1)
    axis = {"axis": 2} if repeated is jnp.repeat else {}

    def fn(q, k, v):
        k, v = repeated(k, times, **axis), repeated(v, times, **axis)
        return spelled_with_einsum(q, k, v)

    specs = [f"f32[B,T,{query_heads},{SIZE}]", *2 * [f"f32[B,S,{shared},{SIZE}]"]]
    model = agrees(fn, [q, k, v], specs, atol=1e-5)
    found = operators(model)
    assert found.count("Attention") == 1
    is_in_order = repeated is jnp.repeat or shared == 1
    assert ("Expand" in found or "Tile" in found) != is_in_order


def test_a_bias_is_added_to_the_scores():
    bias = normal(1, HEADS, T, S)
    model = agrees(
        lambda q, k, v, b: jax.nn.dot_product_attention(q, k, v, bias=b),
        [*tensors(), bias],
        atol=1e-5,
    )
    assert operators(model).count("Attention") == 1


def test_a_bias_and_a_mask_are_added_as_one():
    q, k, v = tensors()
    bias = normal(HEADS, T, S)
    counts = np.arange(S) < np.array([[S], [3]])

    def fn(q, k, v, bias, counts):
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) + bias
        scores = jnp.where(counts[:, None, None], scores, LOW)
        return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), v)

    specs = ["f32[B,T,4,8]", "f32[B,S,4,8]", "f32[B,S,4,8]", "f32[4,T,S]", "bool[B,S]"]
    model = agrees(fn, [q, k, v, bias, counts], specs, atol=1e-5, opset=23)
    found = operators(model)
    assert found.count("Attention") == 1
    assert found.count("Where") == 1
    assert "Add" not in found


@pytest.mark.parametrize("opset", [18, 22])
def test_opsets_without_attention_have_its_parts(opset):
    model = agrees(spelled_with_einsum, tensors(), atol=1e-5, opset=opset)
    assert "Attention" not in operators(model)


def test_gradients_use_the_weights_as_well():
    def fn(q, k, v):
        return jax.grad(lambda q: spelled_with_einsum(q, k, v).sum())(q)

    model = agrees(fn, tensors(), atol=1e-5)
    assert "Softmax" in operators(model) or "Exp" in operators(model)


def test_learnt_queries_are_projected_once_for_the_batch():
    learnt, weights = normal(3, HEADS * SIZE), normal(HEADS * SIZE, HEADS * SIZE)
    _, k, v = tensors()

    def fn(k, v):
        queries = jnp.broadcast_to(learnt, (k.shape[0], *learnt.shape)) @ weights
        q = queries.reshape(-1, 3, HEADS, SIZE)
        return spelled_with_einsum(q, k, v)

    specs = 2 * [f"f32[B,S,{HEADS},{SIZE}]"]
    model = agrees(fn, [k, v], specs, rtol=1e-4, atol=1e-4)
    found = operators(model)
    assert found.count("Attention") == 1
    assert "MatMul" not in found  # computed while compiling


def test_masks_of_flax_stay_booleans():
    attend = nn.MultiHeadDotProductAttention(HEADS)
    x, counts = normal(2, T, 8), np.arange(T) < np.array([[T], [3]])
    params = attend.init(jax.random.key(0), x, x)

    def fn(x, counts):
        padding = nn.make_attention_mask(jnp.ones(x.shape[:2]), counts)
        causal = nn.make_causal_mask(counts)
        mask = nn.combine_masks(padding, causal)
        return attend.apply(params, x, x, mask=mask)

    model = agrees(fn, [x, counts], ["f32[B,T,8]", "bool[B,T]"], atol=1e-5)
    found = operators(model)
    assert found.count("Attention") == 1
    assert "Equal" not in found
    assert "Not" not in found


def causal_by_where(scores, fill):
    times = jnp.arange(scores.shape[-1])
    return jnp.where(times[:, None] >= times, scores, fill)


def causal_by_triangle(scores, fill):
    hidden = jnp.tril(jnp.ones(scores.shape[-2:])) == 0
    return jnp.where(hidden, fill, scores)


def causal_by_adding(scores, fill):
    return scores + jnp.triu(jnp.full(scores.shape[-2:], fill), 1)


def attended(q, k, v, mask):
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * SIZE**-0.5
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(mask(scores), axis=-1), v)


FILLS = [-jnp.inf, -1e9, -1e30, float(LOWEST)]
CAUSAL = [causal_by_where, causal_by_triangle, causal_by_adding]
QUERIES = f"f32[B,T,{HEADS},{SIZE}]"


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("mask", CAUSAL)
@pytest.mark.parametrize("specs", [None, 3 * [QUERIES]])
@pytest.mark.parametrize("opset", OPSETS)
def test_a_causal_mask_is_an_attribute_where_its_opset_is_asked_for(
    mask, fill, specs, opset
):
    def fn(q, k, v):
        return attended(q, k, v, lambda scores: mask(scores, fill))

    q = normal(2, T, HEADS, SIZE)
    model = agrees(fn, [q, q + 1, q - 1], specs, atol=1e-5, opset=opset)
    assert operators(model).count("Attention") == 1
    assert not {"Where", "Slice", "Max", "Range"} & set(operators(model))
    model = agrees(fn, [q, q + 1, q - 1], specs, atol=1e-5)
    assert model.opset == 23
    assert operators(model).count("Attention") == 1
    assert "ReduceMax" not in operators(model)  # no row is hidden in whole


def behind(i, j):
    return i <= j


def strictly_before(i, j):
    return i > j


def also_next(i, j):
    return i >= j - 1


def in_window(i, j):
    return (i >= j) & (i - j < 3)


def in_steps(i, j):
    return i // 2 >= j // 2


@pytest.mark.parametrize(
    ("mask", "may_hide_rows"),
    [
        (behind, False),
        (strictly_before, True),
        (also_next, False),
        (in_window, False),
        (in_steps, False),
    ],
)
def test_other_masks_of_times_are_operands(mask, may_hide_rows):
    def masked(scores):
        times = jnp.arange(scores.shape[-1])
        return jnp.where(mask(times[:, None], times), scores, -jnp.inf)

    q = normal(2, T, HEADS, SIZE)
    args = [q, q + 1, q - 1]
    specs = 3 * [QUERIES]
    model = agrees(lambda *x: attended(*x, masked), args, specs, atol=1e-5, opset=24)
    assert operators(model).count("Attention") == 1
    assert "Where" in operators(model)
    assert ("ReduceMax" in operators(model)) == may_hide_rows


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("mask", MASKS)
def test_rows_hidden_in_whole_are_what_they_are_in_jax(mask, fill):
    given = np.asarray(MASKS[mask])
    given = given.reshape((1,) * (4 - given.ndim) + given.shape)

    def fn(q, k, v, mask):
        return attended(q, k, v, lambda scores: jnp.where(mask, scores, fill))

    model = agrees(fn, [*tensors(), given], atol=1e-5)
    assert operators(model).count("Attention") == 1


@pytest.mark.parametrize("fill", FILLS)
def test_a_cut_of_a_constant_mask_opens_each_row(fill):
    triangle = np.tri(40, dtype=bool)

    def fn(q, k, v):
        time = q.shape[1]
        mask = jnp.asarray(triangle)[:time, :time]
        return attended(q, k, v, lambda scores: jnp.where(mask, scores, fill))

    q = normal(2, T, HEADS, SIZE)
    options = {"atol": 1e-5, "constraints": ["T <= 40"], "opset": 24}
    model = agrees(fn, [q, q + 1, q - 1], 3 * [QUERIES], **options)
    assert operators(model).count("Attention") == 1
    assert not {"Where", "Slice", "Max", "Range"} & set(operators(model))


def test_packed_sequences_open_each_row():
    def fn(q, k, v, segment):
        same = segment[:, None, :, None] == segment[:, None, None, :]
        return attended(q, k, v, lambda scores: jnp.where(same, scores, -jnp.inf))

    q, segment = normal(2, T, HEADS, SIZE), np.int32([[0, 0, 1, 1, 1], [0, 1, 1, 2, 3]])
    specs = [*3 * [QUERIES], "i32[B,T]"]
    model = agrees(fn, [q, q + 1, q - 1, segment], specs, atol=1e-5)
    assert operators(model).count("Attention") == 1
    assert "ReduceMax" not in operators(model)


def test_a_bias_beside_a_mask_may_not_hide_what_that_shows():
    table, bias = normal(1, HEADS, 1, 1), normal(1, 1, T, S)

    def fn(q, k, v, bias):
        def mask(scores):
            return jnp.where(np.arange(S) < 4, scores + bias, -1e9)

        return attended(q, k, v, mask)

    learnt = agrees(lambda *x: fn(*x, table), tensors(), atol=1e-5)
    assert operators(learnt).count("Attention") == 1
    given = agrees(fn, [*tensors(), bias], atol=1e-5)
    assert "Attention" not in operators(given)


@pytest.mark.parametrize(
    ("of_queries", "of_keys"), [(-1, 1), (1, -2), (-1, -1), (1e-25, 1e-25), (1e30, 1e9)]
)
def test_numbers_that_can_be_no_scale_stay_in_front(of_queries, of_keys):
    def fn(q, k, v):
        return attended(q * of_queries, k * of_keys, v, lambda scores: scores)

    q = 1e-3 * normal(2, T, HEADS, SIZE)
    model = agrees(fn, [q, q + 1e-3, q - 1], atol=1e-5)
    assert operators(model).count("Attention") == 1


@pytest.mark.parametrize("fill", FILLS)
def test_a_large_bias_of_constants_may_hide_rows(fill):
    size = 140
    shown = np.tri(size, dtype=bool)
    shown[3] = False
    bias = np.where(shown, 0, fill).astype(np.float32)

    def fn(q, k, v):
        return attended(q, k, v, lambda scores: scores + bias)

    q = normal(1, size, 1, SIZE)
    model = agrees(fn, [q, q + 1, q - 1], atol=1e-5)
    assert operators(model).count("Attention") == 1


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_times_that_are_floats_are_compared_as_floats(dtype):
    def masked(scores):
        times = jnp.arange(scores.shape[-1], dtype=dtype)
        return jnp.where(times[:, None] + 1 >= times, scores, -jnp.inf)

    q = normal(2, T, HEADS, SIZE)
    args = [q, q + 1, q - 1]
    specs = 3 * [QUERIES]
    agrees(lambda *x: attended(*x, masked), args, specs, atol=1e-5, opset=24)


@pytest.mark.parametrize("shape", [(2,), (1, 2), (2, 1, 1, 1)])
def test_biases_along_other_axes_than_times_are_no_triangles(shape):
    bias = np.full(shape, -2e9, np.float32)
    bias[..., 0] = 0

    def fn(q, k, v):
        scores = jnp.einsum("bqhd,bkhd->khqb", q, k) + bias
        return jnp.einsum("khqb,bkhd->bqhd", jax.nn.softmax(scores, axis=0), v)

    q = normal(2, T, 2, SIZE)
    agrees(fn, [q, q[:, :2] + 1, q[:, :2] - 1], atol=1e-5, opset=24)


def hidden_alone():
    """A bias of constants that hides a key."""
    bias = np.zeros(T, np.float32)
    bias[0] = -np.inf
    return bias


@pytest.mark.parametrize("fill", FILLS)
def test_rows_that_a_mask_and_a_bias_hide_together_are_what_they_are_in_jax(fill):
    def fn(q, k, v):
        causal = np.tri(T, dtype=bool)
        return attended(q, k, v, lambda s: jnp.where(causal, s + hidden_alone(), fill))

    q = normal(2, T, HEADS, SIZE)
    agrees(fn, [q, q + 1, q - 1], atol=1e-5)


def test_rows_of_constants_near_the_lowest_number_are_what_they_are_in_jax():
    bias = np.where(np.arange(T)[:, None] < 2, LOWEST, np.arange(T)).astype(np.float32)

    def fn(q, k, v):
        return attended(q, k, v, lambda scores: scores + bias)

    q = normal(2, T, HEADS, SIZE)
    model = agrees(fn, [q, q + 1, q - 1], atol=1e-5)
    assert operators(model).count("Attention") == 1


def windows(q, k, v, bias):
    """Attention in windows of an image: [batch, windows, times, heads, size]."""
    scores = jnp.einsum("bwqhd,bwkhd->bwhqk", q, k) + bias
    return jnp.einsum("bwhqk,bwkhd->bwqhd", jax.nn.softmax(scores, axis=-1), v)


BIASES = {
    "of heads": ("f32[4,5,5]", normal(HEADS, T, T)),
    "of windows": ("f32[W,1,5,5]", normal(3, 1, T, T)),
    "of all": ("f32[B,W,4,5,5]", normal(2, 3, HEADS, T, T)),
}


@pytest.mark.parametrize("bias", BIASES)
def test_several_batch_axes_are_joined(bias):
    spec, array = BIASES[bias]
    q, k, v = (normal(2, 3, T, HEADS, SIZE) for _ in range(3))
    specs = [*3 * [f"f32[B,W,{T},{HEADS},{SIZE}]"], spec]
    model = agrees(windows, [q, k, v, array], specs, atol=1e-5)
    assert operators(model).count("Attention") == 1
    assert "Transpose" not in operators(model)


def test_several_batch_axes_stay_where_heads_come_first():
    def fn(q, k, v):
        scores = jnp.einsum("bwhqd,bwhkd->bwhqk", q, k)
        return jnp.einsum("bwhqk,bwhkd->bwhqd", jax.nn.softmax(scores, axis=-1), v)

    args = [normal(2, 3, HEADS, T, SIZE) for _ in range(3)]
    model = agrees(fn, args, 3 * [f"f32[B,W,{HEADS},{T},{SIZE}]"], atol=1e-5)
    assert "Attention" not in operators(model)


def test_biases_one_after_the_other_are_added_first():
    slopes = normal(HEADS, 1, 1)

    def mask(scores, shown):
        times = jnp.arange(scores.shape[-1])
        biased = scores + (times - times[:, None]) * slopes
        hidden = jnp.where(shown, 0, -jnp.inf)
        return causal_by_adding(biased, -1e9) + hidden[:, None, None]

    def fn(q, k, v, shown):
        return attended(q, k, v, lambda scores: mask(scores, shown))

    q, shown = normal(2, T, HEADS, SIZE), np.arange(T) < np.array([[T], [0]])
    specs = [*3 * [QUERIES], "bool[B,T]"]
    model = agrees(fn, [q, q + 1, q - 1, shown], specs, atol=1e-5)
    assert operators(model).count("Attention") == 1
    # a row that is hidden in whole is NaN
    assert operators(model).count("ReduceMax") == 1


def test_two_masks_behind_each_other_are_one():
    def mask(scores, shown):
        causal = causal_by_where(scores, -jnp.inf)
        return jnp.where(shown[:, None, None], causal, -jnp.inf)

    def fn(q, k, v, shown):
        return attended(q, k, v, lambda scores: mask(scores, shown))

    q, shown = normal(2, T, HEADS, SIZE), np.arange(T) < np.array([[T], [0]])
    specs = [*3 * [QUERIES], "bool[B,T]"]
    model = agrees(fn, [q, q + 1, q - 1, shown], specs, atol=1e-5)
    assert operators(model).count("Attention") == 1


@pytest.mark.parametrize("spec", ["f32[B,P,T,32]", "f32[2,3,5,32]"])
def test_patches_and_examples_are_one_batch(spec):
    def fn(x):
        return attend.apply(variables, x)

    attend = nn.MultiHeadDotProductAttention(HEADS)
    variables = attend.init(jax.random.key(0), jnp.ones((1, 1, 5, 32)))
    model = agrees(fn, [normal(2, 3, 5, HEADS * SIZE)], [spec], atol=1e-5)
    assert operators(model).count("Attention") == 1
    assert not {"Transpose", "Softmax"} & set(operators(model))


@pytest.mark.parametrize("specs", [None, 3 * [f"f32[B,T,{HEADS},{SIZE}]"]])
def test_attention_of_jax_is_one_node_for_inputs(specs):
    tensors = [normal(2, T, HEADS, SIZE) for _ in range(3)]
    model = agrees(jax.nn.dot_product_attention, tensors, specs, atol=1e-5)
    assert operators(model).count("Attention") == 1
    assert not {"MatMul", "Softmax"} & set(operators(model))


def test_latents_are_normalised_and_projected_once():
    """The same latents for each example: their copies are made for Attention alone."""
    latents, kernel = normal(3, 32), normal(32, 32) / 8

    def fn(x):
        batch, time, _ = x.shape
        copies = jnp.broadcast_to(latents, (batch, 3, 32))
        mean = copies.mean(-1, keepdims=True)
        normalised = (copies - mean) / jnp.sqrt(copies.var(-1, keepdims=True) + 1e-6)
        queries = (normalised @ kernel).reshape(batch, 3, HEADS, SIZE)
        keys = x.reshape(batch, time, HEADS, SIZE)
        return copies + jax.nn.dot_product_attention(queries, keys, keys).reshape(
            batch, 3, 32
        )

    model = agrees(fn, [normal(2, 5, 32)], ["f32[B,T,32]"], atol=1e-5)
    found = operators(model)
    assert found.count("Expand") == 1
    assert not {"ReduceMean", "Sqrt", "MatMul"} & set(found)
