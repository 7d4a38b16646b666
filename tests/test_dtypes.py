"""Every dtype at a model's boundary and in it, at several levels and opsets.

It works to the bit, or is refused by name.
"""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import lax

import j2o
from j2o.backend.session import Session
from j2o.frontend.versions import enable_x64
from j2o.ir.types import KEY_NAMES, DType
from tests.harness import sized

SHAPES = [(), (0,), (1,), (3,), (2, 1), (0, 2)]
LARGE = (700,)  # more than what a text or a fold takes for small
# the first opset of a dtype; the others have always been there
SINCE = {
    "f8e4m3fn": 19,
    "f8e5m2": 19,
    "f8e4m3fnuz": 19,
    "f8e5m2fnuz": 19,
    "i4": 21,
    "u4": 21,
    "f4e2m1fn": 23,
    "f8e8m0fnu": 24,
    "i2": 25,
    "u2": 25,
    "f8e4m3b11fnuz": 1000,
    "f8e4m3": 1000,
    "f8e3m4": 1000,
}
NEWEST = 28
DTYPES = [d for d in DType if d is not DType.STRING]
FEW = [DType(d) for d in ("f32", "bf16", "bool", "u16", "c64", "key<fry>", *SINCE)]
CASES = [(d, None, level) for d in DTYPES for level in (0, 3)] + [
    (d, opset, level) for d in FEW for opset, level in ((18, 2), (21, 1))
]


def sample(dtype, shape, seed):
    rng = np.random.default_rng(seed)
    if dtype.is_key:
        key = jax.random.key(seed, impl=KEY_NAMES[dtype])
        return jax.random.split(key, shape) if shape else key
    small = rng.integers(0, 2, shape)
    if dtype.is_complex:
        return np.asarray(small + 1j * rng.integers(0, 3, shape), dtype.numpy)
    return np.asarray(
        2.0 ** rng.integers(-1, 2, shape) if dtype.is_float else small
    ).astype(dtype.numpy)


def spec(dtype, shape):
    kind = (
        jax.random.key(0, impl=KEY_NAMES[dtype]).dtype if dtype.is_key else dtype.numpy
    )
    return jax.ShapeDtypeStruct(shape, kind)


def computed(x, dtype):
    """Another array of the dtype, equal on all machines to the bit."""
    if dtype.is_key:
        return jax.random.wrap_key_data(
            jax.random.key_data(x) ^ jnp.uint32(5), impl=KEY_NAMES[dtype]
        )
    return ~x if dtype is DType.BOOL else x + x


def converted(x, dtype):
    """To the dtype's plain neighbour and back."""
    if dtype.is_key:
        return jax.random.wrap_key_data(jax.random.key_data(x), impl=KEY_NAMES[dtype])
    if dtype.is_complex:
        return jax.lax.complex(x.real, x.imag)
    return x.astype(jnp.float32), x.astype(jnp.float32).astype(dtype.numpy)


def plain(x, dtype):
    return x if dtype.is_key or dtype.is_complex else x.astype(jnp.float32)


def program(dtype):
    """A function of an array of each shape, and weights; it returns them in every way there is."""
    constants = [sample(dtype, s, 7) for s in SHAPES]
    constants = constants if dtype.is_key else [jnp.asarray(c) for c in constants]

    def fn(weights, *xs):
        chosen = jax.lax.cond(
            jnp.sum(jnp.ones(3)) > 2,
            lambda: (xs[0], constants[3]),
            lambda: (xs[0], xs[3]),
        )
        last, _ = jax.lax.scan(lambda carry, row: (row, carry), xs[0], xs[3])
        return {
            "through": xs,
            "twice": xs,
            "computed": [computed(x, dtype) for x in xs],
            "converted": [converted(x, dtype) for x in xs],
            "constant": constants,
            "chosen": chosen,
            "carried": last,
            "weights": weights,
            "plain weights": [plain(w, dtype) for w in weights],
        }

    return fn


def bits(x):
    x = jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return np.asarray(x).tobytes()


def check(dtype, opset, level):
    fn = program(dtype)
    weights = [sample(dtype, s, 5) for s in [*SHAPES, LARGE]]
    xs = [sample(dtype, s, 3) for s in SHAPES]
    specs = [j2o.weights(weights), *(spec(dtype, s) for s in SHAPES)]
    model = j2o.compile(fn, specs, opset=opset, opt_level=level)
    arrays = [x if dtype.is_key else jnp.asarray(x) for x in (*weights, *xs)]
    want = fn(arrays[: len(weights)], *arrays[len(weights) :])
    got = model(*xs)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for (path, w), g in zip(
        jax.tree_util.tree_leaves_with_path(want), jax.tree.leaves(got), strict=True
    ):
        place = jax.tree_util.keystr(path)
        assert (g.shape, g.dtype) == (w.shape, w.dtype), place
        assert bits(g) == bits(w), place


@pytest.mark.parametrize(
    ("dtype", "opset", "level"),
    CASES,
    ids=lambda c: c.value if isinstance(c, DType) else str(c),
)
def test_works_or_is_refused_by_name(dtype, opset, level):
    name = dtype.value
    with enable_x64(True):
        if SINCE.get(name, 0) > (opset or NEWEST):
            told = (
                f"ONNX has {name} from opset {SINCE[name]} on, not at {opset}"
                if SINCE[name] < 1000
                else f"ONNX has no {name}"
            )
            with pytest.raises(j2o.UnsupportedError, match=told) as caught:
                check(dtype, opset, level)
            assert all("\n" not in text for text in caught.value.operations)
            assert "input 'xs_0': " in str(caught.value)
        elif name == "f4e2m1fn":  # onnxruntime has no kernel that takes it
            with pytest.raises(
                j2o.UnsupportedError,
                match=r"onnxruntime-[0-9.]+ (cannot copy an input of f4e2m1fn|has)",
            ):
                check(dtype, opset, level)
        else:
            check(dtype, opset, level)


@pytest.mark.parametrize("name", ["f8e4m3", "f8e3m4", "f8e4m3b11fnuz", "f4e2m1fn"])
@pytest.mark.parametrize("level", [0, 2])
def test_weights_of_a_dtype_that_is_only_stored(name, level):
    weights = [sample(DType(name), s, 5) for s in (*SHAPES, LARGE)]
    model = j2o.compile(
        lambda ws, x: [w.astype(jnp.float32) * x for w in ws],
        [j2o.weights(weights), "f32[]"],
        opt_level=level,
    )
    for got, w in zip(model(3.0), weights, strict=True):
        np.testing.assert_array_equal(got, w.astype(np.float32) * 3)


@pytest.mark.parametrize(
    "name",
    [
        "i2",
        "i4",
        "u2",
        "u4",
        "f8e8m0fnu",
        "f8e4m3fn",
        "f8e5m2",
        "f8e4m3fnuz",
        "f8e5m2fnuz",
        "bf16",
    ],
)
def test_conversions_equal_those_of_jax(name):
    floats = np.float32(
        [
            0,
            1,
            -1,
            0.3,
            2.5,
            3.5,
            -2.5,
            7.6,
            9,
            17,
            300,
            1e5,
            -1e5,
            1e-3,
            1e-20,
            3e38,
            np.inf,
            -np.inf,
            np.nan,
        ]
    )
    wanted = DType(name).numpy
    model = j2o.compile(lambda x: x.astype(wanted), [floats])
    got, want = (
        np.asarray(model(floats)),
        np.asarray(jax.jit(lambda x: x.astype(wanted))(floats)),
    )
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got.astype(np.float32), want.astype(np.float32))


@pytest.mark.parametrize("name", ["int2", "uint2", "int4", "uint4"])
@pytest.mark.parametrize("size", range(6))
def test_packing_to_bytes_and_back(name, size):
    from j2o.backend.proto import packed, unpacked

    dtype = DType(name.replace("uint", "u").replace("int", "i"))
    info = ml_dtypes.iinfo(dtype.numpy)
    values = np.resize(np.arange(info.min, info.max + 1), size).astype(dtype.numpy)
    np.testing.assert_array_equal(
        unpacked(packed(values, dtype.bits), dtype, (size,)), values
    )


@pytest.mark.parametrize("external", [False, True])
def test_a_file_with_narrow_inputs_outputs_and_weights(tmp_path, external):
    four, eight = (
        np.resize(np.arange(-8, 8), 3000).astype("int4"),
        np.full(700, 0.5, "float8_e8m0fnu"),
    )
    model = j2o.compile(
        lambda x, y: (
            x,
            x,
            x + x,
            jnp.asarray(four),
            jnp.asarray(four),
            jnp.asarray(eight),
            y,
        ),
        ["i4[3]", "f8e8m0fnu[]"],
    )
    path = tmp_path / "model.onnx"
    model.save(path, external_data=external)
    x, y = np.array([1, -2, 3], "int4"), np.asarray(4, "float8_e8m0fnu")
    outputs = Session(path).run({"x": x, "y": y})
    for got, want in zip(
        outputs, (x, x, np.array([2, -4, 6], "int4"), four, four, eight, y), strict=True
    ):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        np.testing.assert_array_equal(got, want)


def test_narrow_dtypes_through_control_flow_and_functions():
    constant = np.array([3, 2, 1], "int4")

    @j2o.function
    def block(x):
        return x + x, x, jnp.asarray(constant)

    def fn(x):
        doubled = jax.lax.fori_loop(0, 2, lambda i, c: c + c, x)
        grown = jax.lax.while_loop(
            lambda c: c.astype(jnp.int32).sum() < 5, lambda c: c + c, x
        )
        return doubled, grown, block(x), block(doubled)

    j2o.compile(fn, ["i4[B]"]).verify(np.array([1, 0, 1], "int4"))


INTEGERS = [d for d in DType if d.is_int]


@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda d: d.value)
def test_arithmetic_at_the_ends_of_integers(dtype):
    """Divisors are inputs: XLA on the CPU traps where it folds a division by 0."""
    least, greatest = dtype.integers

    def program(x, y, minus_one):
        quotients = lax.div(x, y), lax.div(x, minus_one)
        rests = lax.rem(x, y), lax.rem(x, minus_one)
        bounded = lax.clamp(y, x, minus_one), jnp.max(x), jnp.min(x)
        ones = jnp.ones_like(x)
        folded = lax.div(jnp.full_like(x, least), ones), lax.rem(ones, ones)
        return *quotients, *rests, *bounded, *folded, x.astype(jnp.float32)

    with enable_x64(True):
        x = jnp.asarray([least, greatest, 0, 1, 1], dtype.numpy)
        y = jnp.asarray([greatest, least, 1, 0, 1], dtype.numpy)
        minus_one = jnp.asarray([-1 if least < 0 else 1] * 5, dtype.numpy)
        for level in (0, 2):
            model = j2o.compile(program, [x, y, minus_one], opt_level=level)
            model.verify(x, y, minus_one)


@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda d: d.value)
def test_floats_become_integers_that_saturate(dtype):
    numbers = [-np.inf, -1e30, -1.5, 0.5, 1.5, 300.7, 1e30, np.inf, np.nan]
    with enable_x64(True):
        x = jnp.asarray(numbers, np.float32)
        j2o.compile(lambda x: x.astype(dtype.numpy), [x]).verify(x)


@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda d: d.value)
def test_bits_of_integers(dtype):
    """Every pair of some values, among them the ends, and shifts by the width and beyond."""
    least, greatest = dtype.integers
    width = min(dtype.bits, greatest)
    values = sorted(
        {least, least + 1, 0, 1, greatest // 2 + 1, greatest - 1, greatest, width}
    )
    pairs = [(a, b) for a in values for b in values]
    firsts, seconds = zip(*pairs, strict=True)

    def program(x, y):
        shifts = lax.shift_left, lax.shift_right_logical, lax.shift_right_arithmetic
        binary = lax.bitwise_and, lax.bitwise_or, lax.bitwise_xor
        unary = [lax.bitwise_not, lax.clz]
        if dtype != DType.I4:  # where XLA also counts sign bits that it adds itself
            unary.append(lax.population_count)
        return *[f(x, y) for f in (*shifts, *binary)], *[f(x) for f in unary]

    with enable_x64(True):
        x = jnp.asarray(np.array(firsts, dtype.numpy))
        y = jnp.asarray(np.array(seconds, dtype.numpy))
        for level in (0, 2):
            j2o.compile(program, [x, y], opt_level=level).verify(x, y)


@pytest.mark.parametrize("level", [0, 1, 2, 3])
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_a_transposed_batch_of_16_bits_times_a_matrix(dtype, level):
    w = np.eye(6, 4, dtype=np.float32)
    fn = lambda x: (x.astype(dtype).swapaxes(0, 1) @ w.astype(dtype)).astype("float32")  # noqa: E731
    x = np.arange(36, dtype=np.float32).reshape(2, 3, 6)
    got = j2o.compile(fn, ["f32[B,T,6]"], opt_level=level)(x)
    np.testing.assert_array_equal(got, fn(x))


@pytest.mark.parametrize("to", ["int2", "uint2", "int4", "uint4", "int8", "bool"])
@pytest.mark.parametrize("source", ["int2", "uint2", "int4", "uint4", "float32"])
def test_constants_of_small_dtypes_are_converted_while_compiling(source, to):
    x = jnp.asarray(np.array([0, 1, 2, 3, 7, 12, -1, -8])).astype(source)

    def fn():
        return lax.convert_element_type(x, jnp.dtype(to))

    got = j2o.compile(fn, [])()
    assert got.astype(np.int8).tolist() == jax.jit(fn)().astype(np.int8).tolist()


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("result", [jnp.int8, jnp.int16, jnp.int32, jnp.uint32])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_bytes_are_multiplied_as_bytes(dtype, result, level):
    least, greatest = np.iinfo(dtype).min, np.iinfo(dtype).max
    rows = np.stack([np.full(300, least), np.full(300, greatest), np.arange(300) % 128])
    x, w = rows.astype(dtype), rows.T.astype(dtype)

    def fn(x):
        return jnp.matmul(x, w, preferred_element_type=result)

    model = j2o.compile(fn, [jax.ShapeDtypeStruct(x.shape, dtype)], opt_level=level)
    assert list(model.graph.nodes_of("onnx.MatMulInteger"))
    np.testing.assert_array_equal(model(x), fn(x))


@pytest.mark.parametrize("spec", ["i8[40,300]", "i8[B,300]", "i8[2,20,300]"])
def test_many_signed_bytes_are_multiplied_as_unsigned_ones(spec):
    """Weights in the model, and others; signed bytes are slow in onnxruntime."""
    random = np.random.default_rng(0)
    x = random.integers(-128, 128, sized(spec[3:-1], {"B": 40})).astype(np.int8)
    w = random.integers(-128, 128, (7, 300)).astype(np.int8)

    def fn(x, w2):
        def product(w):
            return jnp.einsum("...i,oi->...o", x, w, preferred_element_type=jnp.int32)

        return product(w), product(w2)

    model = j2o.compile(fn, [spec, "i8[7,300]"])
    for node in model.graph.nodes_of("onnx.MatMulInteger"):
        assert node.operand(0).type.dtype.value == "u8"
        assert [node.operand(i).number for i in (2, 3)] == [128, 128]
    for got, want in zip(model(x, w), fn(x, w), strict=True):
        np.testing.assert_array_equal(got, want)


def test_bytes_of_both_signs_are_multiplied_as_wider_integers():
    fn = lambda x, y: lax.dot(x, y, preferred_element_type=jnp.int32)  # noqa: E731
    x, y = np.full((2, 8), 255, np.uint8), np.full((8, 2), -128, np.int8)
    model = j2o.compile(fn, [x, y])
    assert not list(model.graph.nodes_of("onnx.MatMulInteger"))
    np.testing.assert_array_equal(model(x, y), np.full((2, 2), 8 * 255 * -128))
