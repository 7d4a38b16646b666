"""`contractions` with whole programs: how many transposes are left, and that the values stay JAX's."""

import jax
import jax.numpy as jnp
import pytest

from tests.harness import agrees, normal, operators

T, HEADS, GROUPS, SIZE = 5, 2, 3, 4


def attention(q, k, v):
    """Grouped-query attention, its tensors in the order [batch, time, heads, (groups,) size]."""
    scores = jnp.einsum("bqhgs,bkhs->ghbqk", q, k) * 0.5
    weights = jax.nn.softmax(scores, axis=-1)
    return jnp.einsum("ghbqk,bkhs->bqhgs", weights, v)


def test_scores_of_attention_are_not_transposed():
    q = normal(2, T, HEADS, GROUPS, SIZE)
    k, v = normal(2, T, HEADS, SIZE), normal(2, T, HEADS, SIZE)[::-1].copy()
    head = f"{HEADS},{SIZE}"
    specs = [
        f"f32[B,T,{HEADS},{GROUPS},{SIZE}]",
        f"f32[B,T,{head}]",
        f"f32[B,T,{head}]",
    ]
    model = agrees(attention, [q, k, v], specs, atol=1e-5, opset=22)
    moved = [node for node in model.graph if node.op == "onnx.Transpose"]
    # those of q, k, v and of the result; none of the scores, which are larger
    assert len(moved) == 4
    assert all(str(node.out.type).count("T") == 1 for node in moved)


def test_a_dense_layer_on_columns_is_one_on_rows():
    w = normal(3, 4)
    model = agrees(lambda x: (w @ x.T).T, [normal(2, 4)], ["f32[B,4]"])
    assert operators(model) == ["MatMul"]


def test_two_heads_of_one_layer_share_its_result():
    """As policies of Equinox have them: what a layer gives is not turned for each head, nor once for both."""
    w, mean, value = normal(8, 4), normal(2, 8), normal(1, 8)

    def policy(x):
        hidden = jax.nn.relu(w @ x)
        return mean @ hidden, value @ hidden

    model = agrees(jax.vmap(policy), [normal(2, 4)], ["f32[B,4]"], atol=1e-5)
    assert "Transpose" not in operators(model)


EQUATIONS = [
    "abij,abjk->abik",
    "aijb,bkja->kiab",
    "iab,jab->ij",
    "aij,kja->aki",
    "abcij,abkj->cikab",
    "aib,ajb->jia",
    "ijab,bak->kji",
    "a1ib,jab->1jai",
]


@pytest.mark.parametrize("equation", EQUATIONS)
@pytest.mark.parametrize("swapped", [False, True])
def test_products_of_any_order_of_axes(equation, swapped):
    operands, _, result = equation.replace("1", "z").partition("->")
    first, second = operands.split(",")
    sizes = dict(zip("abcijkz", (2, 3, 2, 4, 5, 3, 1), strict=True))
    if swapped:
        first, second = second, first
    x = normal(*[sizes[letter] for letter in first])
    y = normal(*[sizes[letter] for letter in second])

    def fn(x, y):
        out = jnp.einsum(f"{first},{second}->{result}", x, y)
        return jnp.tanh(jnp.moveaxis(out * 0.25, 0, -1))

    agrees(fn, [x, y], atol=1e-5)


def test_a_matrix_times_each_row_is_one_product():
    """As `vmap` of a layer that multiplies a row from the left: the stack is not transposed."""
    w, bias = normal(8, 4), normal(8)

    def layers(x):
        return jax.vmap(jax.vmap(lambda row: w @ row + bias))(x)

    model = agrees(layers, [normal(2, 3, 4)], ["f32[B,T,4]"])
    assert operators(model) == ["MatMul", "Add"]


def test_a_matrix_times_each_row_is_transposed_where_it_is_smaller():
    """Eight columns become two, or two eight: the axis of the matrix comes first, as the program has it."""
    for out, inner in ((2, 8), (8, 2)):
        w = normal(out, inner)
        model = agrees(
            lambda x, w=w: jnp.einsum("oi,bti->obt", w, x),
            [normal(5, 3, inner)],
            [f"f32[B,3,{inner}]"],
        )
        assert operators(model).count("Transpose") == 1


@pytest.mark.parametrize("opt_level", [0, 2, 3])
@pytest.mark.parametrize("again", [lambda s: s * 3, lambda s: s / -3, lambda s: s.T])
def test_factors_in_a_row_in_front_of_products_run(again, opt_level):
    # onnxruntime 1.32 fuses the factors into the products, and then refuses its own graph
    def fn(x, w):
        scaled = x * 2.5
        return scaled @ w, (again(scaled * 3)) @ w, again(scaled) @ w

    agrees(fn, [normal(4, 4), normal(4, 3)], opt_level=opt_level)
