"""`check="numeric"` names the pass, the value and the line that go wrong, and nothing where all is right."""

import jax
import jax.numpy as jnp
import pytest

import j2o
from examples import zoo
from j2o.passes import graph_pass, rewrite


@rewrite("wrong", at="onnx", level=1)
def wrong(op, x, y):
    return op.Mul(x, y)


@wrong.becomes
def _(op, x, y):
    return op.Add(x, y)


@graph_pass("dropped", at="lax", level=0)
def dropped(graph):
    for node in graph:
        if node.op == "lax.sin":
            node.replace_by(node.inputs[0])
            return 1
    return 0


def program(x):
    y = jnp.sin(x) + 1
    return jnp.exp(y) * y


@pytest.mark.parametrize(
    ("name", "broken", "after", "value"),
    [("wrong", wrong, "fold", "%mul"), ("dropped", dropped, "inline", "%add")],
)
def test_the_first_wrong_pass_is_named(name, broken, after, value):
    pipeline = j2o.default_pipeline(2).after(after, broken).checking("numeric")
    with pytest.raises(
        j2o.InvalidGraphError,
        match=rf"pass {name} .*output 'output', first in {value}.*test_check.py:\d+",
    ):
        j2o.compile(program, [("B", 3)], passes=pipeline)


def keys(words):
    return jax.random.uniform(jax.random.wrap_key_data(words), (3,)), jax.lax.complex(
        1.0, 2.0
    )


@pytest.mark.parametrize(
    ("fn", "specs", "constraints"),
    [
        (program, [("B", 3)], ()),
        (keys, ["u32[2]"], ()),
        (
            lambda x: jax.lax.fori_loop(0, 3, lambda i, c: c * 2, x).reshape(
                x.shape[0] // 8, 8
            ),
            [("T",)],
            ["mod(T, 8) == 0", "T >= 8"],
        ),
        (
            zoo.EXAMPLES["vit_functions"].build(),
            zoo.EXAMPLES["vit_functions"].specs,
            (),
        ),
    ],
)
def test_the_default_passes_keep_the_values(fn, specs, constraints):
    j2o.compile(
        fn, specs, passes=lambda p: p.checking("numeric"), constraints=constraints
    )


def test_an_unknown_check_is_refused():
    with pytest.raises(j2o.J2OError, match="numeric"):
        j2o.default_pipeline().checking("symbolic")
