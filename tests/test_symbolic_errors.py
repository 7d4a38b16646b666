"""Where a program asks what a symbolic size leaves open: which line asked, and what would settle it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import j2o


def branch(x):
    return x[:3] if x.shape[0] > 4 else x  # asks


def half(x):
    return x.reshape(2, -1)  # asks


def added(x, y):
    return x + y  # asks


def counted(x):
    return sum(x[i] for i in range(x.shape[0]))  # asks


def window(x):
    return lax.dynamic_slice_in_dim(x, 0, 5)  # asks


def copied(x):
    return np.ones(x.shape[0]) + x  # asks


def joined(x, y):
    return jnp.concatenate([x, y], 1)  # asks


def fixed(x):
    return x.reshape(3, x.shape[1])  # asks


def mirrored(x):
    return jnp.pad(x, 2, mode="reflect")  # asks


def thrice(x):
    return jnp.diff(x, n=3)  # asks


def shorter(x):
    return jnp.zeros(x.shape[0] - 3)  # asks


def longer(x):
    return x[:3] if 8 - x.shape[0] < 0 else x  # asks


def wrapped(x):
    return jnp.pad(x, 2, mode="wrap")  # asks


def growth(x):
    return jax.grad(lambda y: jnp.cumprod(y).sum())(x)  # asks


def highest(x):
    return jax.grad(lambda y: lax.cummax(y).sum())(x)  # asks


def summed(x, y):
    return x + y  # asks


# function, specs, words of the message, constraints of which each settles it
ASKED = {
    "comparison": (branch, [("T",)], "T", ["T >= 5", "T <= 4"]),
    "reshape": (half, [("T",)], "T", ["mod(T, 2) == 0"]),
    "unequal": (added, [("T",), ("S",)], "S", ["T == S"]),
    "slice": (window, [("T",)], "5", ["T >= 5"]),
    "bound_that_no_message_names": (mirrored, [("N",)], "N", ["N >= 3"]),
    "bound_of_a_difference": (thrice, [("N",)], "N", ["N >= 3"]),
    "the_way_that_leads_on": (shorter, [("N",)], "N", ["N >= 3"]),
    "solved_for_the_symbol": (longer, [("N",)], "N", ["N >= 9", "N <= 8"]),
    "fixed": (fixed, [("T", "S")], "3", ["S*T == 3*S"]),
    "concatenate": (joined, [("T", 3), ("S", 3)], "S", ["T == S"]),
}
NEEDED = {
    "range": (counted, [("T",)]),
    "numpy": (copied, [("T",)]),
    "nothing_that_constraints_say": (wrapped, [("T",)]),
    "gradient_of_cumprod": (growth, [("T",)]),
    "gradient_of_cummax": (highest, [("T",)]),
}


def line_of(fn) -> str:
    import inspect

    lines, first = inspect.getsourcelines(fn)
    return f"{__file__}:{first + next(i for i, line in enumerate(lines) if '# asks' in line)}"


@pytest.mark.parametrize("name", ASKED)
def test_what_would_settle_it(name):
    fn, specs, word, constraints = ASKED[name]
    with pytest.raises(j2o.DimensionError) as error:
        j2o.compile(fn, specs)
    message = str(error.value)
    assert line_of(fn) in message
    assert word in message
    assert "\n" not in message
    assert message.count("constraints=") == len(constraints)
    for constraint in constraints:
        assert f"constraints=['{constraint}']" in message
        j2o.compile(fn, specs, constraints=[constraint])


def test_two_sizes_need_two_constraints():
    specs = [("N", "M"), ("K", "L")]
    with pytest.raises(j2o.DimensionError) as error:
        j2o.compile(summed, specs)
    assert "constraints=['N == K', 'M == L']" in str(error.value)
    j2o.compile(summed, specs, constraints=["N == K", "M == L"])


def test_constraints_of_the_users_own_are_kept():
    with pytest.raises(j2o.DimensionError) as error:
        j2o.compile(mirrored, [("N",)], constraints=["N <= 40"])
    assert "constraints=['N >= 3'] would settle it" in str(error.value)


@pytest.mark.parametrize("name", NEEDED)
def test_numbers_are_needed(name):
    fn, specs = NEEDED[name]
    with pytest.raises(j2o.TraceError) as error:
        j2o.compile(fn, specs)
    assert line_of(fn) in str(error.value)
    assert "\n" not in str(error.value)
    assert "spec" in str(error.value)
    assert "constraints=" not in str(error.value)


def test_errors_of_the_users_own_are_not_taken_for_jax_s():
    def refuses(x):
        if "T" in str(x.shape[0]):
            raise ValueError("sizes (3, 4) and (3, 5) do not fit me")
        return x

    with pytest.raises(j2o.TraceError, match="do not fit me"):
        j2o.compile(refuses, [("T",)])


def test_an_associative_scan_takes_an_axis_of_known_size():
    def fn(x):
        return jax.lax.associative_scan(jnp.maximum, x, axis=1)

    with pytest.raises(
        j2o.TraceError, match=r"associative_scan.* take an axis of known"
    ):
        j2o.compile(fn, ["f32[B,T]"])
    j2o.compile(fn, ["f32[B,4]"]).verify(np.float32([[1, 3, 2, 4]]))
