"""Bad input gives one readable line, and leaves the disk alone."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import j2o


def identity(x):
    return x + 1


BAD_SPECS = [
    ([("B",), ("B",)], "2 given"),
    ([], "0 given"),
    (["f33[2]"], "f33"),
    (["f32[B+]"], "B+"),
    ([(-1, 2)], "negative"),
    ([object()], "object"),
    ([(None, 2)], "None is no size"),
    ("f32[2]", "sequence"),
]


@pytest.mark.parametrize(("specs", "words"), BAD_SPECS)
def test_specs(specs, words):
    with pytest.raises(j2o.SpecError) as error:
        j2o.compile(identity, specs)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        {"opset": 3},
        {"opset": 99},
        {"opt_level": 7},
        {"input_names": ["a", "b"]},
        {"output_names": [""]},
        {"weights_dtype": "int3"},
        {"target": "gpu"},
        {"passes": 3},
        {"constraints": ["T <= 4"]},
    ],
)
def test_options(options):
    with pytest.raises(j2o.SpecError):
        j2o.compile(identity, [("B",)], **options)


def test_branch_on_value():
    with pytest.raises(j2o.TraceError):
        j2o.compile(lambda x: x if x.sum() > 0 else -x, [("B",)])


def test_leaked_tracer():
    leaked = []
    jax.make_jaxpr(lambda x: leaked.append(x) or x)(1.0)
    with pytest.raises(j2o.TraceError, match="leaked"):
        j2o.compile(lambda x: x + leaked[0], [("B",)])


def test_result_that_is_no_array():
    with pytest.raises(j2o.TraceError, match="str"):
        j2o.compile(lambda x: "text", [("B",)])


def test_inconclusive_size():
    with pytest.raises(j2o.DimensionError):
        j2o.compile(lambda x: x[:5] if x.shape[0] > 5 else x, [("B",)])


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (lambda x: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda x: x.nothing, "AttributeError"),
        (lambda x: x @ np.ones((5, 5)), "TypeError: dot_general"),
        (lambda x: [][3], "IndexError"),
        (lambda x: np.asarray(x), "use jax.numpy"),
        (lambda x: np.array(object()), "returns a numpy.ndarray"),
        (lambda x: x if x[0, 0] > 0 else -x, "lax.cond"),
        (
            lambda x: jax.lax.scan(
                lambda c, i: (c.astype(int), None), x, None, length=3
            ),
            "int32[2,3]",
        ),
    ],
)
def test_what_stops_a_trace_is_one_line_with_the_users_place(program, words):
    with pytest.raises(j2o.TraceError) as error:
        j2o.compile(program, [(2, 3)])
    message = str(error.value)
    assert words in message
    assert "\n" not in message
    assert (
        f"{__file__}:{program.__code__.co_firstlineno}: " in message
        or "returns" in message
    )
    assert error.value.__cause__ is not None


class Counting(nnx.Module):
    """A module that writes to itself."""

    def __init__(self):
        self.count = nnx.Variable(jnp.zeros(()))

    def __call__(self, x):
        self.count[...] += 1
        return x


def scanned(x):
    module = Counting()
    return jax.lax.scan(lambda _, row: (None, module(row)), None, x)[1]


DENSE = linen.Dense(3)
TABLE = jnp.ones((5, 3))
# what beginners write, and the words that tell them what would work
USUAL_MISTAKES = [
    (DENSE.apply, [(2, 4)], "j2o.weights(tree)"),
    (DENSE.apply, [{"weights": {"kernel": (4, 3)}}, (2, 4)], "a dict of collections"),
    (lambda caches, x: [x, *caches], [[], (2,)], "j2o.static([]) is the empty list"),
    (nnx.Embed(5, 3, rngs=nnx.Rngs(0)), [("B",)], "'i32[B,T]' is a spec"),
    (lambda tokens: TABLE[tokens], [("B",)], "'i32[B,T]' is a spec"),
    (lambda tokens: jnp.take(TABLE, tokens, axis=0), [("B",)], "'i32[B,T]' is a spec"),
    (scanned, [("B",)], "nnx.scan"),
]


@pytest.mark.parametrize(("fn", "specs", "words"), USUAL_MISTAKES)
def test_usual_mistakes_are_told_what_would_work(fn, specs, words):
    with pytest.raises(j2o.TraceError) as error:
        j2o.compile(fn, specs)
    assert words in str(error.value)


def test_an_exception_of_the_users_own_is_the_cause():
    class MineError(Exception):
        pass

    def broken(x):
        raise MineError("two\nlines " + "and many words " * 100)

    with pytest.raises(j2o.TraceError, match="MineError: two lines and many") as error:
        j2o.compile(broken, [("B",)])
    assert isinstance(error.value.__cause__, MineError)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_stops_the_process_comes_through(kind):
    def stopped(x):
        raise kind

    with pytest.raises(kind):
        j2o.compile(stopped, [("B",)])


def test_errors_of_j2o_come_through():
    error = j2o.SpecError("mine")

    def refuses(x):
        raise error

    with pytest.raises(j2o.SpecError) as raised:
        j2o.compile(refuses, [("B",)])
    assert raised.value is error


def test_missing_folder(tmp_path):
    model = j2o.compile(identity, [("B",)])
    with pytest.raises(j2o.SaveError, match="no folder"):
        model.save(tmp_path / "missing" / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_wrong_sizes():
    model = j2o.compile(
        lambda x, y: x + y, [("B", 2), ("B", 2)], constraints=["B <= 4"]
    )
    assert np.allclose(
        model(np.ones((3, 2), np.float32), np.ones((3, 2), np.float32)), 2
    )
    with pytest.raises(j2o.DimensionError, match="B <= 4"):
        model(np.ones((5, 2), np.float32), np.ones((5, 2), np.float32))
    with pytest.raises(j2o.DimensionError, match="axis 0"):
        model(np.ones((3, 2), np.float32), np.ones((2, 2), np.float32))


def test_all_unsupported_operations_at_once():
    def unknown(name):
        primitive = jax.extend.core.Primitive(name)
        primitive.def_abstract_eval(lambda x: x)
        return lambda x: primitive.bind(x)

    one, two = unknown("one_of_a_kind"), unknown("another")
    with pytest.raises(j2o.UnsupportedError) as error:
        j2o.compile(lambda x: jax.lax.cond(x.sum() > 0, one, two, x), [(3, 3)])
    assert len(error.value.operations) == 2
    for word in ("one_of_a_kind(f32[3,3])", "another(f32[3,3])", "test_errors.py"):
        assert word in str(error.value)


def test_the_oldest_jax_is_that_of_the_package():
    from pathlib import Path

    from j2o.frontend.versions import OLDEST, check_version

    text = Path(__file__).parents[1].joinpath("pyproject.toml").read_text()
    assert f'"jax>={".".join(map(str, OLDEST))}"' in text
    check_version(OLDEST)
    with pytest.raises(j2o.J2OError, match=r"j2o needs 0\.7\.2 or newer"):
        check_version((0, 7, 1))


def test_a_jax_that_nobody_has_tried_is_a_warning():
    from j2o.frontend.versions import check_version

    with pytest.warns(
        j2o.J2OWarning, match=r"JAX 0\.11\.0 is installed; j2o was tried"
    ):
        check_version((0, 11, 0))


class Dense(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(4)(x)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        return self.hidden(x)


class Tower(eqx.Module):
    weight: jax.Array

    def __call__(self, x):
        return self.weight * x


class Transformed(NamedTuple):
    init: object
    apply: object


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (Net, "Net is a class"),
        (Tower, "Tower is a class"),
        (Dense, "Dense is a class"),
        (Dense(), "module.bind(variables)"),
        (Dense().__call__, "j2o.weights(variables)"),
        (Transformed(identity, identity), "its .apply is one"),
        (5, "a callable is needed"),
    ],
)
def test_what_is_no_function_of_arrays(fn, words):
    with pytest.raises(j2o.SpecError) as error:
        j2o.compile(fn, [("B", 4)])
    assert str(error.value).startswith("fn: ")
    assert words in str(error.value)


def test_unsupported_operations_have_a_line_each_without_internals():
    def host(x):
        return np.sin(x)

    def program(x):
        for _ in range(3):
            x = jax.pure_callback(host, jax.ShapeDtypeStruct(x.shape, x.dtype), x)
        return jax.pure_callback(
            lambda tree: tree["a"],
            jax.ShapeDtypeStruct((3,), x.dtype),
            {"a": x, "b": [x]},
        )

    with pytest.raises(j2o.UnsupportedError) as error:
        j2o.compile(program, [(3,)])
    head, *lines = str(error.value).splitlines()
    assert head == "2 unsupported operations:"
    assert [line.strip().rstrip(";") for line in lines] == error.value.operations
    for line in error.value.operations:
        assert line.startswith("pure_callback(f32[3]")
        assert "test_errors.py:" in line
        assert len(line) < 250
        assert "PyTreeDef" not in line
        assert "0x" not in line


def test_compiling_inside_of_a_trace():
    def captures(x):
        j2o.compile(lambda y: y + x, [(3,)])

    def freezes(x):
        j2o.compile(lambda w, y: y + w, [j2o.weights({"w": x}), (3,)])

    def stands_alone(x):
        made.append(
            j2o.compile(
                lambda y: jnp.sin(y) @ np.ones((3, 3), np.float32) + jnp.arange(3.0),
                [x],
            )
        )

    made = []
    with pytest.raises(j2o.TraceError, match=r"another trace.*outside of jit"):
        jax.jit(captures)(jnp.ones(3))
    with pytest.raises(j2o.SpecError, match=r"'w'.*tracer.*outside of jit"):
        jax.jit(freezes)(jnp.ones(3))
    jax.jit(stands_alone)(jnp.ones(3))
    made[0].verify(np.ones(3, np.float32))
