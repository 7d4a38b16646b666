"""Scans for OpenVINO, whose Scan writes `row + state` over the next row: they are Loops."""

import jax.numpy as jnp
import pytest
from jax import lax

import j2o
from tests.harness import normal


def running(xs, reverse):
    """Two rows, two states and two stacks."""

    def body(carry, rows):
        (total, product), (x, y) = carry, rows
        return (x + total, product * y), (y + total, x.T)

    return lax.scan(body, (xs[0], xs[1]), (xs, xs * 2), reverse=reverse)


def second_axis(xs, reverse):
    """`scan_axes` lets a Scan read and write along another axis."""

    def body(total, x):
        return x + total, jnp.sin(total)

    _, sums = lax.scan(body, xs[:, 0], jnp.swapaxes(xs, 0, 1), reverse=reverse)
    return jnp.swapaxes(sums, 0, 1)


def nested(xs, reverse):
    def inner(total, x):
        return x + total, x * total

    def outer(total, row):
        total, _ = lax.scan(inner, total, row, reverse=reverse)
        return total, total

    return lax.scan(outer, xs[0, 0], xs)


@pytest.mark.parametrize("opt_level", [0, 2])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("fn", [running, second_axis, nested])
def test_a_scan_is_a_loop_where_the_target_has_none(fn, reverse, opt_level):
    specs = ["f32[3,4,B]", j2o.static(reverse)]
    model = j2o.compile(fn, specs, target="openvino", opt_level=opt_level)
    model.verify(normal(3, 4, 2))
    kinds = {node.op for node in model.graph.walk()}
    assert "onnx.Loop" in kinds
    assert "onnx.Scan" not in kinds


def test_a_scan_stays_where_the_target_has_it():
    specs = ["f32[3,4,B]", j2o.static(False)]
    model = j2o.compile(running, specs, target="onnxruntime-1.20")
    assert model.graph.nodes_of("onnx.Scan")
