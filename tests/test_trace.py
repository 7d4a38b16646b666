"""Tracing: names of what is captured, state that stays as it is, weights of now."""

import functools
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import j2o
from j2o.frontend.versions import known_params


def initializers(model):
    return {i.name for i in model.to_proto().graph.initializer}


class Net(nnx.Module):
    def __init__(self, rngs):
        self.blocks = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(2)])
        self.extra = nnx.Dict(scale=nnx.Param(jnp.arange(4.0)))
        self.calls = nnx.Variable(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return jnp.tanh(x) * self.extra["scale"][...]


class Counting(Net):
    def __call__(self, x):
        self.calls[...] = self.calls[...] + 1
        return super().__call__(x) + self.calls[...]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda f: f,
        lambda f: f.__call__,
        jax.jit,
        functools.partial,
        lambda f: lambda x: f(x),
    ],
)
@pytest.mark.parametrize("kind", [Net, Counting])
def test_weights_are_named_after_where_they_live(kind, wrap):
    net = kind(nnx.Rngs(0))
    if kind is Counting and wrap is jax.jit:
        pytest.skip("nnx refuses to write to variables in a jit of JAX's own")
    model = j2o.compile(wrap(net), [("B", 4)])
    assert {"blocks/0/kernel", "blocks/1/kernel", "extra/scale"} <= initializers(model)
    x = np.ones((3, 4), np.float32)
    want = kind(nnx.Rngs(0))(x)
    np.testing.assert_allclose(model(x), want, rtol=1e-5)


def test_nothing_of_the_callers_changes():
    net = Counting(nnx.Rngs(0))
    j2o.compile(net, [("B", 4)])
    assert net.calls[...] == 0
    assert not any(
        isinstance(v, jax.core.Tracer) for v in jax.tree.leaves(nnx.state(net))
    )


def test_a_program_run_by_exec_is_as_one_of_a_file():
    """Its classes have no module of their own: they say that they are of builtins."""
    source = """
class Net(nnx.Module):
    def __init__(self):
        self.calls = nnx.Variable(jnp.arange(4.0))

    def __call__(self, x):
        self.calls[...] = self.calls[...] + x
        return self.calls[...]
"""
    names: dict[str, Any] = {"nnx": nnx, "jnp": jnp}
    exec(source, names)
    net = names["Net"]()
    assert type(net).__module__ == "builtins"
    model = j2o.compile(net, [(4,)])
    assert initializers(model) == {"calls"}
    model.verify(np.ones(4, np.float32))
    np.testing.assert_array_equal(net.calls[...], np.arange(4))


class Lazy:
    """A package that is imported at the first look into it, as Keras has TensorFlow."""

    def __getattr__(self, name):
        raise ImportError("this needs a package that is not installed")


optional = Lazy()


def test_a_package_that_is_not_installed_is_not_asked_for():
    def fn(x):
        return optional.run(x) if x.ndim > 2 else jnp.tanh(x)

    model = j2o.compile(fn, [("B", 4)])
    model.verify(np.ones((2, 4), np.float32))


def test_a_second_export_has_the_weights_of_then():
    net = Net(nnx.Rngs(0))
    x = np.ones((2, 4), np.float32)
    before = j2o.compile(net, [("B", 4)])(x)
    net.blocks[0].kernel[...] = net.blocks[0].kernel[...] * 2
    after = j2o.compile(net, [("B", 4)])
    after.verify(x)
    assert not np.allclose(before, after(x))


def test_the_collector_is_on_again_after_an_error():
    import gc

    with pytest.raises(j2o.TraceError):
        j2o.compile(lambda x: x / (1 // 0), [(2,)])
    assert gc.isenabled()


def test_a_scan_of_newer_versions_has_the_counts_of_its_operands():
    """JAX from 0.11 on groups them in a tree of constants, carried values and rows."""
    tree = SimpleNamespace(unpack=lambda: [[None], [None, None], [None]])
    params = known_params({"length": 3, "ft_in": tree, "ft_out": tree})
    assert params == {"length": 3, "num_consts": 1, "num_carry": 2}
