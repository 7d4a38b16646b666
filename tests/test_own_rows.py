"""Indices that count along an axis, as in `x[jnp.arange(n), i]`, and what is written at such places."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import j2o
from j2o.frontend.versions import enable_x64
from tests.harness import agrees, assert_same, operators

ROWS, SIZE = 8, 6
# of each row: inside, from the end, outside on both sides
PLACES = np.array([0, 5, -1, -6, 6, -7, 2, 100], np.int32)
X = np.arange(ROWS * SIZE, dtype=np.float32).reshape(ROWS, SIZE)
SEVERAL = np.stack([PLACES, PLACES[::-1], PLACES], axis=1)
WIDE = np.arange(ROWS * SIZE * 2, dtype=np.float32).reshape(ROWS, SIZE, 2)


def same_as_jax(fn, specs, *args):
    """What the model gives is equal to the bit; returns the names of its operators."""
    model = j2o.compile(fn, specs)
    assert_same(model(*args), fn(*map(jnp.asarray, args)))
    return operators(model)


@pytest.mark.parametrize("mode", ["fill", "clip", "promise_in_bounds"])
def test_one_element_of_each_row(mode):
    def fn(x, i):
        return x.at[jnp.arange(x.shape[0]), i].get(mode=mode)

    taken = same_as_jax(fn, ["f32[B,6]", "i32[B]"], X, PLACES)
    assert "Range" not in taken


def test_several_elements_of_each_row_by_constants_and_by_iotas():
    def by_constants(x, i):
        return x[np.arange(ROWS)[:, None], i]

    def by_iotas(x, i):
        return x[lax.broadcasted_iota(jnp.int32, i.shape, 0), i]

    for fn in (by_constants, by_iotas):
        taken = same_as_jax(fn, [X, SEVERAL], X, SEVERAL)
        assert "Concat" not in taken


def test_rows_of_both_first_axes():
    def fn(x, i):
        a, b, _ = x.shape
        return x[jnp.arange(a)[:, None], jnp.arange(b)[None], i]

    i = np.tile(PLACES[:SIZE], (ROWS, 1)) % 2
    taken = same_as_jax(fn, ["f32[A,B,2]", "i32[A,B]"], WIDE, i)
    assert taken == ["Clip", "Cast", "Unsqueeze", "GatherND"]


def test_the_axis_that_is_counted_may_be_a_later_one():
    def fn(x, i):
        return x[i, jnp.arange(x.shape[1])]

    same_as_jax(fn, ["f32[A,B]", "i32[B]"], X, PLACES[:SIZE])


def test_a_diagonal_is_a_batch_of_one_axis_alone():
    def fn(x):
        n = jnp.arange(x.shape[0])
        return x[n, n]

    same_as_jax(fn, ["f32[B,B]"], X[:SIZE])


WRITES = ["set", "add", "multiply", "min", "max"]


@pytest.mark.parametrize("mode", ["drop", "clip"])
@pytest.mark.parametrize("kind", WRITES)
def test_one_write_in_each_row(kind, mode):
    def fn(x, i, u):
        return getattr(x.at[jnp.arange(x.shape[0]), i], kind)(u, mode=mode)

    u = np.array([np.nan, -4, 1, 2, 3, np.nan, np.inf, 5], np.float32)
    x = X.copy()
    x[0, 0], x[1, 5], x[4, 5] = 7, -5, np.nan
    made = same_as_jax(fn, ["f32[B,6]", "i32[B]", "f32[B]"], x, PLACES, u)
    assert "Pad" not in made
    assert "ScatterElements" in made


@pytest.mark.parametrize("mode", ["drop", "clip"])
@pytest.mark.parametrize("kind", WRITES)
def test_several_writes_in_each_row(kind, mode):
    def fn(x, i, u):
        return getattr(x.at[jnp.arange(x.shape[0])[:, None], i], kind)(u, mode=mode)

    u = np.arange(ROWS * 3, dtype=np.float32).reshape(ROWS, 3)
    u[:, 2] = u[:, 0]  # the same places: either may be the last to be written
    same_as_jax(fn, ["f32[B,6]", "i32[B,T]", "f32[B,T]"], X, SEVERAL, u)


@pytest.mark.parametrize("mode", ["drop", "clip"])
@pytest.mark.parametrize("kind", WRITES)
def test_writes_of_wide_rows(kind, mode):
    def one(x, i, u):
        return getattr(x.at[jnp.arange(x.shape[0]), i], kind)(u, mode=mode)

    def several(x, i, u):
        return getattr(x.at[jnp.arange(x.shape[0])[:, None], i], kind)(u, mode=mode)

    u = np.arange(ROWS * 2, dtype=np.float32).reshape(ROWS, 2)
    same_as_jax(one, ["f32[B,6,2]", "i32[B]", "f32[B,2]"], WIDE, PLACES, u)
    us = np.stack([u, u + 1, u], axis=1)
    specs = ["f32[B,6,2]", "i32[B,T]", "f32[B,T,2]"]
    same_as_jax(several, specs, WIDE, SEVERAL, us)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "bfloat16", "float64"])
def test_writes_of_other_dtypes(dtype):
    x = (X % 3).astype(jnp.dtype(dtype))
    u = (PLACES % 2).astype(jnp.dtype(dtype))

    def fn(x, i, u):
        return x.at[jnp.arange(x.shape[0]), i].set(u, mode="drop")

    with enable_x64(True):
        same_as_jax(fn, [x, PLACES, u], x, PLACES, u)


def test_each_example_of_a_vmap_writes_at_its_own_place():
    def fn(x, i):
        return jax.vmap(lambda row, place: row.at[place].set(1.0))(x, i)

    made = same_as_jax(fn, ["f32[B,6]", "i32[B]"], X, PLACES)
    assert "ScatterND" not in made


def test_the_second_axis_counts_and_the_first_is_written():
    def fn(x, i, u):
        return x.at[i, jnp.arange(x.shape[1])].set(u, mode="drop")

    specs = ["f32[A,B]", "i32[B]", "f32[B]"]
    same_as_jax(fn, specs, X, PLACES[2:], X[0])


# ------------------------------------------------------------------ windows at known places


@pytest.mark.parametrize(
    ("window", "made"),
    [
        (np.s_[:, 1:4], ["Slice", "Slice", "Concat"]),
        (np.s_[:, :4], ["Slice", "Concat"]),
        (np.s_[:, -3:], ["Slice", "Concat"]),
        (np.s_[:, :], []),
    ],
)
def test_a_part_of_each_row_is_put_between_the_others(window, made):
    def fn(x, u):
        return x.at[window].set(u)

    u = -X[window]
    model = agrees(fn, [X, u], ["f32[B,6]", u.dtype.name + f"[B,{u.shape[1]}]"])
    assert operators(model) == made


def test_a_window_is_put_between_whatever_is_written_by_its_start():
    def fn(x, u):
        return lax.dynamic_update_slice(x, u, (0, 2))

    model = agrees(fn, [X, -X[:, :3]], ["f32[B,6]", "f32[B,3]"])
    assert operators(model) == ["Slice", "Slice", "Concat"]


def test_a_start_that_is_moved_inside_stays_an_update():
    def fn(x, u):
        return lax.dynamic_update_slice(x, u, (0, 9))

    agrees(fn, [X, -X[:, :3]], ["f32[B,6]", "f32[B,3]"])


def test_all_but_the_last_of_an_open_axis():
    def fn(x):
        return x.at[:, :-1].set(0.0)

    agrees(fn, [X], ["f32[B,T]"])
    agrees(fn, [X[:, :1]], ["f32[B,T]"])
