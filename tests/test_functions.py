"""`@j2o.function`: one definition, many calls; nothing changes outside of j2o."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import j2o
from examples import zoo
from j2o.ir.parser import parse
from j2o.passes.structure.functions import functions
from tests.harness import normal


@j2o.function
class Mlp(nnx.Module):
    def __init__(self, rngs):
        self.up = nnx.Linear(8, 16, rngs=rngs)
        self.down = nnx.Linear(16, 8, rngs=rngs)

    def __call__(self, x):
        return self.down(nnx.gelu(self.up(x)))


@j2o.function
class Block(nnx.Module):
    """A block; its size of positions is no size of an input of its own."""

    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.mlp = Mlp(rngs)

    def __call__(self, x, twice=False):
        for _ in range(1 + twice):
            x = x + self.mlp(self.norm(x))
        return x


class Net(nnx.Module):
    def __init__(self, rngs, depth=3, last_twice=False):
        self.blocks = nnx.List([Block(rngs) for _ in range(depth)])
        self.last_twice = last_twice

    def __call__(self, x):
        for i, block in enumerate(self.blocks):
            x = block(x, twice=self.last_twice and i == len(self.blocks) - 1)
        return x


def check(fn, specs, *arguments, **options):
    model = j2o.compile(fn, specs, **options)
    for args in arguments:
        model.verify(*args, rtol=1e-5, atol=1e-6)
    return model


def definitions(model):
    return {f.name: [n.op_type for n in f.node] for f in model.to_proto().functions}


@pytest.mark.parametrize("opset", [18, 21, None])
def test_nested_functions_have_one_definition_whatever_the_depth(opset):
    model = check(
        Net(nnx.Rngs(0)),
        [("B", "T", 8)],
        (normal(1, 1, 8),),
        (normal(2, 5, 8),),
        opset=opset,
    )
    assert [n.op_type for n in model.to_proto().graph.node] == ["Block"] * 3
    assert definitions(model).keys() == {"Mlp", "Block"}
    assert definitions(model)["Block"].count("Mlp") == 1
    assert "blocks/2/mlp/up/kernel" in {
        i.name for i in model.to_proto().graph.initializer
    }


@pytest.mark.parametrize("level", [0, 1, 3])
def test_at_every_level(level):
    model = check(
        Net(nnx.Rngs(0)), [("B", "T", 8)], (normal(2, 5, 8),), opt_level=level
    )
    assert definitions(model).keys() == {"Mlp", "Block"}


def test_static_arguments_and_other_shapes_make_other_definitions():
    model = check(Net(nnx.Rngs(0), last_twice=True), [("B", 8)], (normal(3, 8),))
    assert definitions(model).keys() == {"Mlp", "Block", "Block_1"}

    @j2o.function
    def half(x):
        return x / 2

    model = check(
        lambda x, y: (half(x), half(y), half(x + 1)),
        [("B", 8), (3,)],
        (normal(2, 8), normal(3)),
    )
    assert definitions(model).keys() == {"half", "half_1"}


def test_sizes_that_the_inputs_do_not_tell_are_handed_in():
    @j2o.function
    def split(x, rows):
        return (
            x.reshape(rows.shape[0], -1, 4).sum(1) + jnp.arange(rows.shape[0])[:, None]
        )

    @j2o.function
    def flat(x, parts):
        return x.reshape(*parts, 4) * parts[0]  # sizes alone

    model = check(
        lambda x, y: (split(x.reshape(-1), y), flat(x.reshape(-1), x.shape[:2])),
        [("B", "T", 4), ("B",)],
        (normal(1, 1, 4), normal(1)),
        (normal(3, 2, 4), normal(3)),
    )
    assert definitions(model).keys() == {"split", "flat"}


def test_name_and_captured_values():
    scale = jnp.arange(1.0, 9.0)

    @j2o.function(name="Scaled")
    def scaled(x, factor):
        return {"out": x * scale * factor, "sum": x.sum()}

    model = check(
        lambda x: scaled(scaled(x, 2.0)["out"], 2.0), [("B", 8)], (normal(2, 8),)
    )
    assert definitions(model).keys() == {"Scaled"}
    assert model.output_names == ["out", "sum"] or tuple(model.output_names) == (
        "out",
        "sum",
    )


def test_values_of_an_outer_trace_are_inputs():
    @j2o.function
    def add(x):
        return lambda y: x + y

    @j2o.function
    def twice(x):
        return x * 2 + outer

    def program(x):
        nonlocal outer
        outer = x.sum()
        return twice(x)

    outer = None
    assert definitions(check(program, [("B", 4)], (normal(3, 4),))).keys() == {"twice"}


def test_training_writes_back():
    @j2o.function
    class Normed(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(8, rngs=rngs)
            self.dense = nnx.Linear(8, 8, rngs=rngs)

        def __call__(self, x):
            return self.dense(self.norm(x))

    net = Normed(nnx.Rngs(0))
    net.train()

    def step(x):
        fresh = nnx.clone(net)
        y = fresh(x)
        return y, fresh.norm.mean[...], fresh.norm.var[...]

    model = check(step, [("B", 8)], (normal(5, 8),), (normal(3, 8),))
    assert definitions(model).keys() == {"Normed"}
    assert not np.any(net.norm.mean[...])  # nothing of the caller's has changed
    with pytest.warns(j2o.J2OWarning, match="norm"):
        assert "Normed" in definitions(check(net, [("B", 8)], (normal(4, 8),)))


def test_derivatives_and_vmap():
    net = Net(nnx.Rngs(0), depth=1)
    check(jax.grad(lambda x: net(x).sum()), [(3, 8)], (normal(3, 8),))
    assert definitions(
        check(jax.vmap(net), [("B", 3, 8)], (normal(2, 3, 8),))
    ).keys() == {"Mlp", "Block"}


def test_inside_a_loop():
    net = Net(nnx.Rngs(0), depth=1)
    model = check(
        lambda x: jax.lax.fori_loop(0, 3, lambda i, c: net(c), x),
        [("B", 8)],
        (normal(2, 8),),
    )
    assert definitions(model).keys() == {"Mlp", "Block"}


def test_equinox_and_linen():
    @j2o.function
    class Dense(eqx.Module):
        linear: eqx.nn.Linear

        def __call__(self, x):
            return jax.nn.relu(jax.vmap(self.linear)(x))

    keys = jax.random.split(jax.random.key(0), 2)
    first, second = (Dense(eqx.nn.Linear(4, 4, key=k)) for k in keys)
    model = check(lambda x: second(first(x)), [("B", 4)], (normal(3, 4),))
    assert definitions(model).keys() == {"Dense"}

    @j2o.function
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.tanh(nn.Dense(4)(x))

    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Layer()(Layer()(x))

    net = Stack()
    params = net.init(jax.random.key(0), normal(2, 4))
    model = check(
        lambda p, x: net.apply(p, x), [j2o.weights(params), ("B", 4)], (normal(3, 4),)
    )
    assert definitions(model).keys() == {"Layer"}


def test_the_example():
    """The Vision Transformer with blocks, attentions and MLPs marked."""
    model = zoo.run("vit_functions")
    assert definitions(model).keys() == {"Attention", "FeedForward", "Block"}
    assert sum(n.op_type == "Block" for n in model.to_proto().graph.node) == 3


def test_outside_of_j2o_nothing_is_marked():
    @j2o.function
    def double(x):
        """Twice."""
        return x * 2

    assert double.__doc__ == "Twice."
    assert double.__name__ == "double"
    assert double("ab") == "abab"
    assert "j2o" not in str(jax.make_jaxpr(double)(1.0))


def test_what_cannot_be_called_is_refused():
    with pytest.raises(j2o.SpecError, match="function"):
        j2o.function(3)
    with pytest.raises(j2o.SpecError, match="no __call__"):
        j2o.function(type("Thing", (), {}))


def test_the_pass_on_text():
    graph = parse(
        """
        graph @main(%x: f32[2] as "x") -> ("y") {
          %a = const @"a" [1.0, 2.0] : f32[2]
          %b = const @"b" [2.0, 1.0] : f32[2]
          %y = lax.jit(%x) {name = "j2o.function:add"} : f32[2] {
            graph @one(%p: f32[2]) {
              %q = lax.add(%p, %a) : f32[2]
              return %q
            }
          }
          %z = lax.jit(%y) {name = "j2o.function:add"} : f32[2] {
            graph @two(%p: f32[2]) {
              %q = lax.add(%p, %b) : f32[2]
              return %q
            }
          }
          return %z
        }
        """
    )
    assert functions(graph) == 2
    assert list(graph.functions) == ["add"]
    assert [n.op for n in graph].count("call") == 2
