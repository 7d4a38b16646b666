"""f64 for versions of onnxruntime whose own fusions make operators of it that they cannot run."""

import jax
import jax.numpy as jnp
import pytest

import j2o
from j2o.frontend.versions import enable_x64
from tests.harness import normal, operators


def product(x):
    return jnp.einsum("bij,bkj->bik", x, x)


def gate(x):
    return x * jax.nn.sigmoid(1.7 * x)


ALONE = {product: ["Transpose", "MatMul"], gate: ["Mul", "Sigmoid", "Mul"]}
APART = {
    product: ["Transpose", "Max", "MatMul"],
    gate: ["Mul", "Sigmoid", "Max", "Mul"],
}
CASES = [
    # (program, dtype, target, its operators)
    (product, "f64", "onnxruntime-1.20", APART),
    (product, "f64", "onnxruntime-1.25", APART),
    (product, "f64", "onnxruntime-1.26", ALONE),
    (product, "f32", "onnxruntime-1.20", ALONE),
    (gate, "f64", "onnxruntime-1.20", APART),
    (gate, "f64", "onnxruntime-1.30", APART),
    (gate, "f64", "onnxruntime-1.31", ALONE),
    (gate, "f32", "onnxruntime-1.20", ALONE),
]


@pytest.mark.parametrize(("fn", "dtype", "target", "wanted"), CASES)
def test_a_copy_where_the_runtime_would_fuse(fn, dtype, target, wanted):
    with enable_x64(True):
        model = j2o.compile(fn, [f"{dtype}[B,4,5]"], target=target)
        assert operators(model) == wanted[fn]
        x = normal(2, 4, 5).astype({"f32": "float32", "f64": "float64"}[dtype])
        model.verify(x)


def test_a_product_with_the_gate_of_another_is_no_fusion():
    with enable_x64(True):
        specs = ["f64[B,4]", "f64[B,4]"]
        model = j2o.compile(
            lambda x, y: x * jax.nn.sigmoid(y), specs, target="onnxruntime-1.20"
        )
    assert operators(model) == ["Sigmoid", "Mul"]
