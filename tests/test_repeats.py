"""Level 3: repeated blocks become calls of one function."""

import jax
import jax.numpy as jnp
import numpy as np

import j2o

RNG = np.random.default_rng(0)


def layer(p, x):
    h = (x - x.mean(-1, keepdims=True)) * p["scale"]
    h = jnp.tanh(h @ p["up"] + p["bias"]) * jax.nn.sigmoid(h @ p["gate"] + p["shift"])
    return x + h @ p["down"]


def layers(count):
    shapes = {
        "scale": (8,),
        "up": (8, 16),
        "bias": (16,),
        "gate": (8, 16),
        "shift": (16,),
        "down": (16, 8),
    }
    return [
        {k: (RNG.normal(size=s) / 4).astype(np.float32) for k, s in shapes.items()}
        for _ in range(count)
    ]


def compiled(params, level=3):
    def net(x):
        for p in params:
            x = layer(p, x)
        return x.sum(-1)

    return j2o.compile(net, [("B", "T", 8)], opt_level=level)


def test_layers_with_weights_of_their_own_share_one_function():
    model = compiled(layers(4))
    assert list(model.graph.functions) == ["block"]
    assert [n.op for n in model.graph].count("call") == 4
    for shape in ((1, 1, 8), (3, 5, 8)):
        model.verify(RNG.normal(size=shape).astype(np.float32))


def test_other_levels_have_no_functions():
    assert not compiled(layers(4), level=2).graph.functions


def test_weights_that_happen_to_be_equal_in_one_layer_do_not_matter():
    params = layers(4)
    params[1]["bias"] = params[1]["shift"] = np.zeros(16, np.float32) + 1
    model = compiled(params)
    assert [n.op for n in model.graph].count("call") == 4
    model.verify(RNG.normal(size=(2, 3, 8)).astype(np.float32))


def test_layers_that_differ_are_left_out():
    params = layers(7)
    wide = {
        "up": (8, 24),
        "bias": (24,),
        "gate": (8, 24),
        "shift": (24,),
        "down": (24, 8),
    }
    params[3] |= {
        k: (RNG.normal(size=s) / 4).astype(np.float32) for k, s in wide.items()
    }
    model = compiled(params)
    assert list(model.graph.functions) == ["block"]
    assert [n.op for n in model.graph].count("call") == 6
    model.verify(RNG.normal(size=(2, 3, 8)).astype(np.float32))
