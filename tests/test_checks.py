"""Sizes that do not fit are refused.

By `model(*args)` always, and by the exported graph itself with `checks=True`. So are, with
`checks=True`, values for which the program raises.
"""

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime as ort
import pytest
from jax import lax
from jax.experimental import checkify, io_callback

import j2o

# function, specs, constraints, shapes that fit, [(shapes that do not, words of the graph's refusal,
# of the model's)]
CASES = {
    "constraints": (
        lambda x: jnp.exp(x),
        [("B", "T")],
        ["T <= 512", "mod(T, 16) == 0"],
        [(1, 16), (2, 512)],
        [
            (
                (2, 17),
                "input x axis 1: mod(T, 16) == 0",
                "'x', axis 1: 'mod(T, 16) == 0' does not hold, 1 == 0",
            ),
            (
                (2, 528),
                "input x axis 1: T <= 512",
                "'x', axis 1: 'T <= 512' does not hold, 528 <= 512",
            ),
            (
                (0, 16),
                "input x axis 0: B >= 1",
                "a symbolic size is at least 1, a spec for no elements has a 0",
            ),
        ],
    ),
    "percent": (
        lambda x: x,
        [("T",)],
        ["T % 4 == 0"],
        [(4,)],
        [((6,), "axis 0: T % 4 == 0", "2 == 0")],
    ),
    "multiple": (
        lambda x: x.reshape(-1, 2).sum(1),
        [("2*B",)],
        [],
        [(2,), (6,)],
        [((5,), "input x axis 0: size == 2*B", "the size is 5, which no B makes 2*B")],
    ),
    "offset": (
        lambda x: x,
        [("T+1",)],
        [],
        [(2,), (7,)],
        [((1,), "axis 0: T >= 1", "'T >= 1' does not hold, 0 >= 1")],
    ),
    "values unused": (
        lambda x: jnp.ones(3),
        [("2*B",)],
        [],
        [(2,)],
        [((3,), "size == 2*B", "no B makes 2*B")],
    ),
    "only sizes": (
        lambda x: x.shape[0] * jnp.ones(3),
        [("B",)],
        ["B <= 4"],
        [(4,)],
        [((5,), "B <= 4", "5 <= 4")],
    ),
}
PAIRS = {
    "shared": (
        lambda x, y: x.sum() + y,
        [("2*B", 3), ("B",)],
        [],
        [(4, 3), (2,)],
        [(4, 3), (3,)],
        "input x axis 0: size == 2*B",
        "'x', axis 0: the size is 4, the model takes 2*B (B = 3)",
    ),
    "same name": (
        lambda x, y: x[None] * y[:, None],
        [("B",), ("B",)],
        [],
        [(3,), (3,)],
        [(3,), (4,)],
        "input y axis 0: size == B",
        "'y', axis 0: the size is 4, the model takes B (B = 3)",
    ),
    "product": (
        lambda x, z: x[0] + z,
        [("B",), ("B*T",)],
        [],
        [(2,), (6,)],
        [(2,), (5,)],
        "input z axis 0: size == B*T",
        "'z', axis 0: the size is 5, which no T makes B*T",
    ),
    "maximum": (
        lambda x, z: x[0] + z,
        [("T",), ("max(T, 4)",)],
        [],
        [(3,), (4,)],
        [(5,), (4,)],
        "input z axis 0: size == max(T, 4)",
        "the size is 4, the model takes max(T, 4) (T = 5)",
    ),
    "quotients": (
        lambda x, z: x[0] + z,
        [("T",), ("T%3+T//2",)],
        [],
        [(7,), (4,)],
        [(7,), (5,)],
        "size == mod(T, 3) + floordiv(T, 2)",
        "'z', axis 0: the size is 5",
    ),
    "not to be solved": (
        lambda x, y: x + y,
        [("T//2",), ("T//2",)],
        [],
        [(2,), (2,)],
        [(2,), (3,)],
        "input y axis 0: size == floordiv(T, 2)",
        "the size is 3, the model takes floordiv(T, 2), which is 2",
    ),
    "two symbols": (
        lambda x, y: x[: y.shape[0]] + y,
        [("T",), ("S",)],
        ["T >= S"],
        [(5,), (3,)],
        [(5,), (6,)],
        "input y axis 0: T >= S",
        "'T >= S' does not hold, 5 >= 6 is false (T = 5, S = 6)",
    ),
    "scalar": (
        lambda x, k: x * k,
        [("B",), ()],
        [],
        [(2,), ()],
        [(2,), (2,)],
        "input k: a scalar",
        "given float32[2]",
    ),
}


def run_raw(model, shapes):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.to_proto().SerializeToString(), options)
    return session.run(
        None,
        dict(
            zip(
                model.input_names, (np.ones(s, np.float32) for s in shapes), strict=True
            )
        ),
    )


def refused(model, shapes, by_graph, by_model):
    with pytest.raises(Exception, match="check: ") as failure:
        run_raw(model, shapes)
    assert by_graph in str(failure.value)
    with pytest.raises(j2o.J2OError) as error:
        model(*(np.ones(s, np.float32) for s in shapes))
    assert by_model in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("case", CASES)
def test_one_input(case, level):
    fn, specs, constraints, good, bad = CASES[case]
    model = j2o.compile(
        fn, specs, constraints=constraints, checks=True, opt_level=level
    )
    for shape in good:
        model.verify(np.ones(shape, np.float32))
        run_raw(model, [shape])
    for shape, by_graph, by_model in bad:
        refused(model, [shape], by_graph, by_model)


@pytest.mark.parametrize("case", PAIRS)
def test_two_inputs(case):
    fn, specs, constraints, good, bad, by_graph, by_model = PAIRS[case]
    model = j2o.compile(fn, specs, constraints=constraints, checks=True)
    model.verify(*(np.ones(s, np.float32) for s in good))
    refused(model, bad, by_graph, by_model)


def test_the_first_that_does_not_hold_is_named_even_where_the_program_would_fail_too():
    model = j2o.compile(
        lambda x: x.reshape(x.shape[0] // 16, 16).sum(),
        [("T",)],
        constraints=["mod(T, 16) == 0"],
        checks=True,
    )
    with pytest.raises(Exception, match="check: input x axis 0"):
        run_raw(model, [(17,)])


def test_without_checks_the_model_alone_refuses():
    model = j2o.compile(lambda x: x + 1, [("T",)], constraints=["T <= 3"])
    assert run_raw(model, [(4,)])[0].shape == (4,)
    with pytest.raises(j2o.DimensionError, match="'x', axis 0"):
        model(np.ones(4, np.float32))


def test_checks_cost_nothing_in_the_data_path():
    """The large input passes by a Reshape, which is done in place, and the checks see sizes alone."""
    model = j2o.compile(
        lambda x: jnp.tanh(x), [("B", 8)], constraints=["B <= 64"], checks=True
    )
    on_data = [n.op for n in model.graph if n.outputs and n.out.type.rank == 2]
    assert on_data == ["onnx.Reshape", "onnx.Tanh"]
    assert j2o.ir.parse(str(model.graph)) is not None


# -------------------------------------------------- values for which the program raises


def raises_always(x):
    raise ValueError(f"negative: {x}")


def raises_sometimes(x):
    if np.any(x < 0):
        raise ValueError("negative")
    return x


def raised_by_a_callback(x):
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return lax.cond(
        jnp.any(x < 0),
        lambda: jax.pure_callback(raises_always, shape, x),
        lambda: x * 2,
    )


def raised_while_printing(x):
    lax.cond(jnp.any(x < 0), lambda: jax.debug.callback(raises_always, x), lambda: None)
    return x * 2


def raised_in_the_middle(x):
    """The middle branch of three raises; the index is clamped."""
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    index = jnp.min(x).astype(jnp.int32) + 2
    branches = [
        lambda: x * 2,
        lambda: jax.pure_callback(raises_always, shape, x),
        lambda: x * 2,
    ]
    return lax.switch(index, branches)


def raised_in_a_loop(x):
    return lax.fori_loop(0, 2, lambda i, carry: raised_by_a_callback(carry) / 2, x) * 2


def raised_for_rows(x):
    return jax.vmap(lambda row: (checkify.check(row >= 0, "negative"), row * 2)[1])(x)


@j2o.function
def marked(x):
    return raised_by_a_callback(x)


def raised_in_a_function(x):
    return marked(x) / 2 + marked(x) / 2


def checked(x):
    checkify.check(jnp.all(x >= 0), "negative: {}", x[0])
    return x * 2


def checked_by_equinox(x):
    equinox = pytest.importorskip("equinox")
    return equinox.error_if(x, x < 0, "negative") * 2


RAISING = [
    raised_by_a_callback,
    raised_while_printing,
    raised_in_the_middle,
    raised_in_a_loop,
    raised_in_a_function,
    checked,
    raised_for_rows,
    checked_by_equinox,
]
GOOD, BAD = np.array([1, 2, 3], np.float32), np.array([1, -1, 3], np.float32)


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("fn", RAISING, ids=lambda fn: fn.__name__)
def test_errors_of_the_program(fn, level):
    """Without `checks` they are left out, and the report says so.

    With them the model fails where JAX raises.
    """
    for spec in (GOOD, ("B",)):
        if spec is not GOOD and fn is raised_for_rows:
            continue
        model = j2o.compile(fn, [spec], opt_level=level)
        np.testing.assert_array_equal(model(GOOD), 2 * GOOD)
        assert any("negative" in note for note in model.report.notes)
        assert "negative" in str(model.report)
        model = j2o.compile(fn, [spec], opt_level=level, checks=True)
        np.testing.assert_array_equal(model(GOOD), 2 * GOOD)
        assert not model.report.notes
        with pytest.raises(j2o.CheckError, match="negative") as error:
            model(BAD)
        assert "\n" not in str(error.value)


def test_an_error_whose_result_is_unused_is_none():
    """As in JAX, where the check hangs on what it is asked for."""

    def unused(x):
        raised_by_a_callback(x)
        return x + 1

    model = j2o.compile(unused, [GOOD], checks=True)
    np.testing.assert_array_equal(model(BAD), BAD + 1)


def test_a_function_that_may_return_is_refused():
    def calls(x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return lax.cond(
            jnp.any(x < 0),
            lambda: jax.pure_callback(raises_sometimes, shape, x),
            lambda: x,
        )

    with pytest.raises(j2o.UnsupportedError, match="'raises_sometimes'") as error:
        j2o.compile(calls, [GOOD])
    assert "0x" not in str(error.value)


def test_a_program_that_always_raises_is_refused():
    shape = jax.ShapeDtypeStruct(GOOD.shape, GOOD.dtype)
    with pytest.raises(j2o.UnsupportedError, match="'raises_always'"):
        j2o.compile(lambda x: jax.pure_callback(raises_always, shape, x), [GOOD])


def test_a_call_of_the_host_that_nobody_needs_is_left_out():
    def unused(x):
        jax.pure_callback(raises_sometimes, jax.ShapeDtypeStruct(x.shape, x.dtype), x)
        return x + 1

    np.testing.assert_array_equal(j2o.compile(unused, [GOOD])(GOOD), GOOD + 1)


def test_a_call_of_the_host_with_an_effect_is_refused_in_a_loop_that_gives_nothing_needed_too():
    def unused(x):
        def body(i, carry):
            io_callback(raises_sometimes, jax.ShapeDtypeStruct(x.shape, x.dtype), x)
            return carry + 1

        lax.fori_loop(0, 3, body, x)
        return x + 1

    with pytest.raises(j2o.UnsupportedError, match="'raises_sometimes'"):
        j2o.compile(unused, [GOOD])


def test_what_prints_is_noted():
    def prints(x):
        jax.debug.print("{}", x)
        jax.debug.callback(raises_sometimes, x)
        return x + 1

    notes = j2o.compile(prints, [GOOD]).report.notes
    assert [note.partition(" at ")[0] for note in notes] == [
        "debug_print",
        "debug_callback",
    ]


def test_functionalised_checks_need_no_host():
    def predicates(x):
        error, y = checkify.checkify(checked, errors=checkify.all_checks)(x)
        return list(error._pred.values()), y

    for x in (GOOD, BAD[1:]):
        model = j2o.compile(predicates, [x])
        flags, y = model(x)
        want, _ = predicates(jnp.asarray(x))
        assert [bool(f) for f in flags] == [bool(f) for f in want]
        np.testing.assert_array_equal(y, 2 * x)
        assert not model.report.notes
