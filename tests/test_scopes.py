"""The modules that nodes come from: known from the program's scopes, and told by `scopes`."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import j2o
from j2o.ir.graph import Loc
from j2o.ir.parser import parse
from j2o.ir.scopes import common, scopes

LEVELS = pytest.mark.parametrize("level", [0, 1, 2, 3])


def told(graph):
    """The operations of a graph, its regions and functions by their scope, in the order of the graph."""
    return [
        f"{'/'.join(scope)}: {node.kind}"
        for node, scope in reversed(scopes(graph).items())
        if node.op not in ("const", "return")
    ]


def two_steps(x):
    with jax.named_scope("encoder"):
        x = jnp.tanh(x)
        with jax.named_scope("norm"):
            x = x - x.mean()
    return jnp.exp(x)


@LEVELS
def test_named_scopes(level):
    graph = j2o.compile(two_steps, [("B", 3)], opt_level=level).graph
    lines = told(graph)
    assert "encoder: Tanh" in lines
    assert "encoder/norm: Sub" in lines
    assert ": Exp" in lines


def test_derivatives_and_maps_are_no_scopes():
    def fn(x):
        return jax.vmap(jax.grad(lambda row: two_steps(row).sum()))(x)

    found = set(scopes(j2o.compile(fn, [(4, 3)]).graph).values())
    assert found == {(), ("encoder",), ("encoder", "norm")}


def test_what_is_inside_of_a_loop_or_a_call():
    @jax.jit
    def step(x):
        with jax.named_scope("inner"):
            return jnp.sin(x) + jax.nn.relu(x)

    def fn(x):
        with jax.named_scope("outer"):
            return lax.scan(lambda c, _: (step(c), c.sum()), x, None, length=3)

    lines = told(j2o.compile(fn, [(3,)], opt_level=0).graph)
    assert "outer/inner: Sin" in lines
    assert "outer/inner: Max" in lines
    assert "outer: ReduceSum" in lines


def test_names_that_name_no_part_of_a_program():
    def fn(x):
        with jax.named_scope("att"):
            y = jnp.einsum("ij,kj->ik", x, x)
            with jax.named_scope("~"), jax.named_scope("eqx.nn.Linear"):
                return y * 2

    assert set(scopes(j2o.compile(fn, [(4, 3)]).graph).values()) == {(), ("att",)}


def test_a_node_of_no_place_belongs_to_its_users():
    graph = parse("""
graph @main(%x: f32[4]) {
  %two = const 2.0 : f32[]
  %y = onnx.Mul(%x, %two) : f32[4] loc("m.py", 1, "f", "blocks/0")
  %z = onnx.Mul(%y, %two) : f32[4] loc("m.py", 1, "f", "blocks/1")
  %end = onnx.Relu(%z) : f32[4]
  return %end
}
""")
    assert told(graph) == ["blocks/0: Mul", "blocks/1: Mul", ": Relu"]
    assert scopes(graph)[graph.first] == ("blocks",)
    assert graph.last.prev.loc is None
    assert graph.first.next.loc == Loc("m.py", 1, "f", "blocks/0")


def test_common():
    assert common([("a", "b", "c"), ("a", "b"), ("a", "b", "d")]) == ("a", "b")
    assert common([("a",), ("b",)]) == ()
    assert common([]) == ()
