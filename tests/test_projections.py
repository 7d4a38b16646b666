"""`projections` with whole programs."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.harness import agrees, normal, operators

HEADS, SIZE = 3, 4
MODEL = HEADS * SIZE


def test_a_layer_of_attention_is_what_one_would_draw():
    wq, wk, wv = normal(3, MODEL, HEADS, SIZE)
    bq, bk, bv = normal(3, HEADS, SIZE)
    wo, bo = normal(HEADS, SIZE, MODEL), normal(MODEL)

    def fn(x):
        q = jnp.einsum("btm,mhs->bths", x, wq) + bq
        k = jnp.einsum("btm,mhs->bths", x, wk) + bk
        v = jnp.einsum("btm,mhs->bths", x, wv) + bv
        scores = jnp.einsum("bqhs,bkhs->bhqk", q, k) / np.sqrt(np.float32(SIZE))
        mixed = jnp.einsum("bhqk,bkhs->bqhs", jax.nn.softmax(scores), v)
        return jnp.einsum("bths,hsm->btm", mixed, wo) + bo

    x = normal(2, 5, MODEL) / 4
    specs = [f"f32[B,T,{MODEL}]"]
    model = agrees(fn, [x], specs, rtol=1e-4, atol=1e-4, opset=23)
    assert operators(model) == [
        *["MatMul", "Add", "Split", "Attention", "MatMul", "Add"]
    ]
    model = agrees(fn, [x], specs, rtol=1e-4, atol=1e-4, opset=22)
    assert operators(model) == [
        # projections
        *["MatMul", "Add", "Reshape", "Split"],
        *["Transpose", "Transpose", "MatMul", "Softmax", "Transpose", "MatMul"],
        # the heads put together
        *["Transpose", "Reshape", "MatMul", "Add"],
    ]
