"""Gather and scatter at the edges.

Indices out of bounds, repeated ones, NaN and signed zeros among updates.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import j2o
from j2o.frontend.versions import enable_x64
from j2o.ir.types import DType
from tests.harness import assert_same, normal, operators, sized

INDEX = np.array([0, 1, 2, 2, 9, -7, 4, -1], np.int32)
DTYPES = ["float32", "float16", "bfloat16", "float64", "int8", "int32", "uint64"]


def same_as_jax(fn, *args):
    """What the model gives and what JAX gives are equal to the bit."""
    first, *rest = args
    got = j2o.compile(fn, list(args))(*args)
    assert_same(got, fn(jnp.asarray(first), *rest))


def operand_and_updates(dtype):
    """Integers; for floats with signed zeros, NaN and infinities among them."""
    operand = [1, -1, -0.0, np.nan, 3, 2]
    updates = [2, np.nan, -0.5, -0.5, 5, 5, np.inf, -np.inf]
    if "int" in dtype:
        operand = [1, 0, 3, 4, 3, 2]
        updates = [2, 3, 1, 0, 1, 1, 0, 1]
    kind = jnp.dtype(dtype)
    return np.array(operand).astype(kind), np.array(updates).astype(kind)


@pytest.mark.parametrize("mode", ["drop", "clip", "promise_in_bounds"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["set", "add", "multiply", "max", "min"])
def test_scatter_at_edges(kind, dtype, mode):
    x, u = operand_and_updates(dtype)

    def fn(x, i, u):
        return getattr(x.at[i], kind)(u, mode=mode)

    with enable_x64(True):
        same_as_jax(fn, x, INDEX, u)


@pytest.mark.parametrize("mode", ["fill", "clip", "promise_in_bounds"])
@pytest.mark.parametrize("dtype", [*DTYPES, "bool", "complex64"])
def test_gather_out_of_bounds(dtype, mode):
    x = np.array([1, 0, 3, 4, 3, 2]).astype(jnp.dtype(dtype))

    def fn(x, i):
        return x.at[i].get(mode=mode)

    with enable_x64(True):
        same_as_jax(fn, x, INDEX)


# By the dtype of the operand: numbers that it does not hold are among them.
FILLS = {
    "float32": (2, 0.1, -np.inf, True),
    "float16": (1e30, -3),
    "int32": (-1, 2.7, np.nan, 2**31),
    "uint8": (300, -1, np.inf),
    "bool": (2, 0.0, np.nan, 0j),
    "complex64": (None, 2, 2 - 1j, np.complex64(1j), np.nan, np.inf),
}


@pytest.mark.filterwarnings("ignore:.*encountered in cast")
@pytest.mark.parametrize(
    ("dtype", "value"), [(d, value) for d in FILLS for value in FILLS[d]]
)
def test_what_is_filled_in_has_the_operands_dtype(dtype, value):
    x = np.array([1, 0, 3, 4, 3, 2]).astype(dtype)

    def fn(x, i):
        found = x.at[i].get(mode="fill", fill_value=value)
        return found.real, found.imag  # numpy takes NaN + 0j and NaN + NaN j for equal

    same_as_jax(fn, x, INDEX)


@pytest.mark.parametrize("dtype", ["f32", "i8", "c64"])
def test_a_size_is_filled_in(dtype):
    def fn(x, i):
        return x.at[i].get(mode="fill", fill_value=2 * x.shape[0] - 20)

    model = j2o.compile(fn, [f"{dtype}[N]", "i32[M]"])
    for size in (1, 6):
        model.verify(np.ones(size, DType(dtype).numpy), INDEX)


@pytest.mark.parametrize("kind", ["add", "max"])
def test_large_accumulations_at_repeated_indices_lose_nothing(kind):
    """onnxruntime's ScatterND lets its threads overwrite each other."""
    n = 2_000_000
    updates = np.arange(n, dtype=np.float64) % 7

    def fn(i, u):
        place = jnp.zeros((3, 2)).at[i, 1]
        return getattr(place, kind)(u)

    specs = ["i32[N]", "f32[N]"]
    model = j2o.compile(fn, specs)
    got = model(np.full(n, 2, np.int32), updates.astype(np.float32))
    assert got[2, 1] == (updates.sum() if kind == "add" else 6)


@pytest.mark.parametrize("kind", ["add", "multiply", "max", "min"])
@pytest.mark.parametrize("rows", [1638, 1639, 9000])
def test_rows_are_accumulated_in_parts_of_what_one_thread_takes(rows, kind):
    random = np.random.default_rng(0)
    x = random.choice([-1, 1, 2], (50, 40)).astype(np.float32)
    i = random.integers(-60, 60, rows).astype(np.int32)  # some lie outside
    u = random.choice([-1, 1], (rows, 40)).astype(np.float32)

    def fn(x, i, u):
        return getattr(x.at[i], kind)(u)

    model = j2o.compile(fn, [x, i, u])
    parts = -(-rows * 40 // 2**16)
    assert operators(model).count("ScatterND") >= parts
    assert_same(model(x, i, u), fn(jnp.asarray(x), i, u))


@pytest.mark.parametrize("row", ["", ",40"])
def test_numbers_and_more_parts_than_are_sensible_are_one_scatter_of_elements(row):
    def fn(x, i, u):
        return x.at[i].add(u)

    specs = [f"f32[50{row}]", "i32[70000]", f"f32[70000{row}]"]
    found = operators(j2o.compile(fn, specs))
    assert found.count("ScatterElements") == 1
    assert "ScatterND" not in found


@pytest.mark.parametrize("rows", [9, 200])
@pytest.mark.parametrize("start", [0.0, 3.0, None])
def test_rows_that_are_dropped_change_nothing(start, rows):
    """What is dropped goes to a row of its own where there are many of them."""

    def fn(x, i, j, u):
        base = x if start is None else jnp.full_like(x, start)
        return base.at[i].add(u), base.at[i, j].min(u[:, 0])

    random = np.random.default_rng(0)
    x, u = normal(7, 30, 32), normal(rows, 30, 32)
    i = random.permutation(np.arange(rows) - 4).astype(np.int32)
    j = random.integers(-40, 40, rows).astype(np.int32)
    assert_same(j2o.compile(fn, [x, i, j, u])(x, i, j, u), fn(jnp.asarray(x), i, j, u))


def test_an_operand_of_size_zero_or_unknown_drops_updates_past_it():
    model = j2o.compile(lambda x, i: x.at[i].add(1.0), ["f32[B]", "i32[3]"])
    for size in (1, 4):
        model.verify(np.ones(size, np.float32), np.array([0, 2, 5], np.int32))
    model = j2o.compile(lambda x, i: x.at[i].max(1.0), ["f32[0]", "i32[3]"])
    model.verify(np.ones(0, np.float32), np.array([0, 2, 5], np.int32))


@pytest.mark.parametrize("mode", ["drop", "clip"])
@pytest.mark.parametrize("kind", ["multiply", "max", "min", "add", "set"])
def test_scatter_of_complex_numbers(kind, mode):
    random = np.random.default_rng(0)

    def numbers(*shape):
        real = random.standard_normal(shape)
        return (real + 1j * random.standard_normal(shape)).astype(np.complex64)

    x = numbers(5, 2, 3)
    u = numbers(5, 2, 6)
    i = random.integers(0, 4, (5, 6))
    if kind == "set":  # which of several comes last is left open
        i = np.tile(np.array([0, 2, 3, 5, 1, -9]), (5, 1))
    i = i.astype(np.int32)

    def scatter(x, i, u):
        return getattr(x.at[:, i], kind)(u, mode=mode)

    j2o.compile(jax.vmap(scatter), [x, i, u]).verify(x, i, u)


WHOLE = {"f32[B,4]": (3, 4), "f32[]": (), "bf16[3,2]": (3, 2), "bool[N]": (5,)}


@pytest.mark.parametrize("spec", WHOLE)
def test_what_is_written_over_the_whole_array_takes_its_place(spec):
    def assign(x, y):
        return x.at[...].set(y)

    model = j2o.compile(assign, [spec, spec])
    assert "ScatterND" not in operators(model)
    x, y = normal(*WHOLE[spec]), -normal(*WHOLE[spec])
    dtype = model.graph.inputs[0].type.dtype.numpy
    model.verify(x.astype(dtype), y.astype(dtype))


@pytest.mark.parametrize("window", ["part", "one row", "every row"])
def test_what_is_written_over_a_part_is_a_scatter(window):
    """Looks like a write over the whole array, and leaves something of it."""

    def assign(x, y):
        if window == "part":
            rows = lax.ScatterDimensionNumbers((0, 1), (), (0,))
            return lax.scatter(x, np.array([1], np.int32), y[:2], rows)
        if window == "one row":
            return x.at[1].set(y[0])
        rows = lax.ScatterDimensionNumbers((1,), (0,), (0,))
        return lax.scatter(x, np.array([[2], [0], [0]], np.int32), y, rows)

    x, y = normal(3, 4), normal(3, 4)
    y[2] = y[1]  # which of the two comes last is left open
    model = j2o.compile(assign, [x, y])
    assert "ScatterND" in operators(model)
    model.verify(x, -y)


@pytest.mark.parametrize("dtype", ["float32", "int8", "bool", "complex64"])
@pytest.mark.parametrize("options", [{}, {"mode": "clip"}, {"unique_indices": True}])
def test_a_function_applied_at_indices(options, dtype):
    x = np.arange(30).reshape(2, 5, 3).astype(dtype)
    i = np.array([1, 3, 0] if options.get("unique_indices") else [1, 3, 1, 7, -1, -9])

    def changed(v):
        return ~v if dtype == "bool" else v * v + 1

    fn = jax.vmap(lambda x: x.at[i, 1:].apply(changed, **options))
    same_as_jax(fn, x)
    shape = jax.export.symbolic_shape("B, 5, 3")
    model = j2o.compile(fn, [jax.ShapeDtypeStruct(shape, dtype)])
    assert_same(model(x[:1]), fn(jnp.asarray(x[:1])))


@pytest.mark.parametrize("opset", [18, 23, 24, None])
@pytest.mark.parametrize("count", [1, 2, 9])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "bool", "complex64"])
def test_a_window_is_written_along_an_inner_axis(dtype, count, opset):
    random = np.random.default_rng(0)
    x = jnp.asarray(9 * random.normal(size=(3, 40, 2))).astype(dtype)
    update = jnp.asarray(9 * random.normal(size=(3, count, 2))).astype(dtype)

    def fn(x, update, start):
        return lax.dynamic_update_slice(x, update, (0, start, 0))

    model = j2o.compile(fn, [x, update, "i32[]"], opset=opset)
    for start in (-50, -1, 0, 7, 39, 100):
        assert_same(model(x, update, np.int32(start)), fn(x, update, start))


@pytest.mark.parametrize("opset", [18, None])
def test_the_operand_of_a_window_that_is_written_keeps_its_layout(opset):
    def fn(cache, update, start):
        return lax.dynamic_update_slice(cache, update, (0, start, 0, 0))

    specs = ["f32[B,T,2,4]", "f32[B,1,2,4]", "i32[]"]
    model = j2o.compile(fn, specs, opset=opset)
    assert "Transpose" not in operators(model)
    cache, update = normal(3, 5, 2, 4), normal(3, 1, 2, 4)
    assert_same(model(cache, update, np.int32(2)), fn(cache, update, 2))


ALONG = {
    "elements of rows": (
        lambda x, i: jnp.take_along_axis(x, i, 1),
        [(3, 9), (3, 4)],
        ["Clip", "GatherElements", "Equal", "Where"],
    ),
    "elements along a middle axis": (
        lambda x, i: jnp.take_along_axis(x, i, 1, mode="clip"),
        [(3, 9, 5), (3, 4, 5)],
        ["Clip", "GatherElements"],
    ),
    "rows of each batch": (
        jax.vmap(lambda x, i: x[i]),
        [(3, 9, 5), (3, 4)],
        ["Clip", "Cast", "Unsqueeze", "GatherND"],
    ),
    "one row of each batch": (
        jax.vmap(lambda x, i: x[i]),
        [(3, 9, 5), (3,)],
        ["Clip", "Cast", "Unsqueeze", "GatherND"],
    ),
    "one column of each batch": (
        jax.vmap(lambda x, i: x[:, i]),
        [(3, 5, 9), (3,)],
        ["Transpose", "Clip", "Cast", "Unsqueeze", "GatherND"],
    ),
    "batches along the last axes": (
        jax.vmap(lambda x, i: x[i], in_axes=(2, 1), out_axes=1),
        [(9, 5, 3), (4, 3)],
        None,
    ),
    "windows": (
        jax.vmap(lambda x, i: lax.dynamic_slice(x, (0, i), (5, 4)), in_axes=(None, 0)),
        [(5, 9), (7,)],
        None,
    ),
    "pixels of each image": (
        jax.vmap(lambda image, i: image[i, i[::-1]]),
        [(3, 9, 9, 2), (3, 4)],
        None,
    ),
}


@pytest.mark.parametrize("name", ALONG)
def test_indices_of_batches(name):
    fn, (shape, index_shape), expected = ALONG[name]
    x = normal(*shape)
    index = np.random.default_rng(0).integers(-12, 13, index_shape).astype(np.int32)
    model = j2o.compile(fn, [x, index])
    assert_same(model(x, index), fn(jnp.asarray(x), jnp.asarray(index)))
    assert "Range" not in operators(model)
    if expected is not None:
        assert operators(model) == expected


@pytest.mark.parametrize("mode", ["clip", "fill"])
@pytest.mark.parametrize("spec", ["f32[5,4]", "f32[A,B]"])
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("behind", [False, True])
def test_several_indices_are_one_in_a_table(spec, before, behind, mode):
    """Out of bounds, negative, of other widths, with axes in front and behind."""
    spec = spec.replace("[", "[2," if before else "[")
    spec = spec.replace("]", ",3]" if behind else "]")
    x = normal(*sized(spec[4:-1], {"A": 5, "B": 4}))
    i = np.array([[0, 4, -5, -6], [5, 7, -1, 2]], np.int32)
    j = np.array([3, -4, 0, -9], np.int8)

    def fn(x, i, j):
        at = x.at[:, i, j] if before else x.at[i, j]
        return at.get(mode=mode)

    model = j2o.compile(fn, [spec, "i32[2,4]", "i8[4]"])
    assert "GatherND" not in operators(model)
    assert_same(model(x, i, j), fn(jnp.asarray(x), i, j))


@pytest.mark.parametrize("indices", [jnp.triu_indices, jnp.tril_indices])
def test_indices_of_a_triangle_are_known_while_compiling(indices):
    x = normal(5, 5)
    fn = lambda x: x[indices(5, 1)]  # noqa: E731
    model = j2o.compile(fn, [x])
    assert operators(model) == ["Reshape", "Gather"]
    assert_same(model(x), fn(jnp.asarray(x)))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "bool"])
def test_one_place_is_written_or_none(dtype, known):
    with np.errstate(invalid="ignore"):
        x = np.array([[1, 2, 3], [4, 0, np.inf]]).astype(dtype)
        y = np.array([[7, 0, 9], [np.nan, 1, 2]]).astype(dtype)

    def fn(x, y, i):
        return x.at[i].set(y[0]), x.at[:, i].set(y[:, 0]), x.at[i, 1 - i].set(y[0, 0])

    model = j2o.compile(fn, [x, y, np.int32(0)])
    for i in (0, 1, 2, 3, -1, -3, -4, 100, 2**31 - 1, -(2**31) + 2):
        wanted = fn(jnp.asarray(x), y, jnp.int32(i))
        if known:
            got = j2o.compile(lambda x, y, i=i: fn(x, y, i), [x, y])(x, y)
        else:
            got = model(x, y, np.int32(i))
        assert_same(got, wanted)


def test_a_column_is_written_where_it_stands():
    fn = lambda x, y: x.at[:, -1].set(y)  # noqa: E731
    x = normal(3, 4)
    model = j2o.compile(fn, [x, x[:, 0]])
    assert operators(model) == ["Unsqueeze", "ScatterElements"]
    assert_same(model(x, x[:, 0]), fn(jnp.asarray(x), x[:, 0]))


def test_a_row_that_may_lie_outside_is_written_as_it_was():
    model = j2o.compile(lambda x, i, y: x.at[i].set(y), ["f32[4,3]", "i32[]", "f32[3]"])
    assert "Pad" not in operators(model)
    x, y = normal(4, 3), normal(3)
    np.testing.assert_array_equal(model(x, np.int32(4), y), x)
