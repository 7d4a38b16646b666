"""Calling a model: which values it takes, what it says of others, threads."""

import copy
import threading
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import j2o
from j2o.frontend.versions import enable_x64
from tests.harness import stable_id


class Pair(NamedTuple):
    left: object
    right: object


def identity(spec):
    return j2o.compile(lambda x: x, [spec])


@pytest.fixture(scope="module")
def models():
    """Models of one scalar, by dtype."""
    return {
        name: identity(f"{name}[]")
        for name in ("bool", "i8", "i32", "u8", "f16", "bf16", "f32", "c64", "f8e4m3fn")
    }


TAKEN = [
    ("bool", True),
    ("bool", np.bool_(False)),
    ("i32", 7),
    ("i32", True),
    ("i32", np.int32(7)),
    ("i32", np.int64(7)),
    ("i32", -(2**31)),
    ("i32", np.array(2**31 - 1)),
    ("i8", -128),
    ("u8", 255),
    ("f32", 3),
    ("f32", True),
    ("f32", 2.7),
    ("f32", np.float64(2.7)),
    ("f32", float("inf")),
    ("f32", np.array(-np.inf)),
    ("f32", 2**24),
    ("f32", 1e-60),
    ("f32", np.array(1.5, ">f4")),
    ("f32", np.array(1.5, ">f8")),
    ("f16", 65504.0),
    ("bf16", 1e38),
    ("bf16", ml_dtypes.bfloat16(2)),
    ("f8e4m3fn", 448),
    ("c64", 1j),
    ("c64", 2.5),
    ("c64", 3),
    ("c64", np.complex128(1 + 2j)),
]


@pytest.mark.parametrize(("dtype", "value"), TAKEN, ids=stable_id)
def test_a_value_that_the_dtype_holds_is_taken(models, dtype, value):
    got = models[dtype](value)
    assert got.shape == ()
    assert got.dtype == j2o.ir.DType(dtype).numpy
    want = np.asarray(value)
    want = want.astype(want.dtype.newbyteorder("="))
    np.testing.assert_array_equal(np.asarray(got), want.astype(got.dtype))


def test_a_weakly_typed_array_is_one_of_its_dtype(models):
    assert models["f32"](jax.jit(lambda: 2.0)()) == 2
    with pytest.raises(j2o.SpecError, match=r"given int32\[\], the model takes f32"):
        models["f32"](jax.jit(lambda: 2)())


def test_nan_is_taken_where_the_dtype_has_it(models):
    assert np.isnan(models["f32"](float("nan")))
    assert np.isnan(np.asarray(models["f8e4m3fn"](float("nan")), np.float32))


REFUSED = [
    ("bool", 2, "given 2, the model takes bool[]"),
    ("bool", 0, "given 0"),
    ("bool", "a", "given 'a'"),
    ("bool", 1.0, "given 1.0"),
    ("bool", np.int32(1), "given int32 1"),
    ("i32", 2.7, "given 2.7, the model takes i32[]"),
    ("i32", 2.0, "given 2.0"),
    ("i32", float("nan"), "given nan"),
    (
        "i32",
        2**31,
        "given 2147483648, the model takes i32[]: i32 holds -2147483648 to 2147483647",
    ),
    (
        "i32",
        np.int64(2**40),
        "given int64 1099511627776, the model takes i32[]: it is beyond what i32 holds",
    ),
    (
        "i32",
        np.array(2**40),
        "given int64[], the model takes i32[]: it is beyond what i32 holds",
    ),
    ("i32", np.float32(2), "given float32 2.0"),
    ("i32", np.uint32(2), "given uint32 2"),
    ("i32", "3", "given '3'"),
    ("i32", 1j, "given 1j"),
    ("i8", 128, "i8 holds -128 to 127"),
    ("u8", -1, "u8 holds 0 to 255"),
    ("f32", 10**400, "beyond what f32 holds"),
    ("f32", 10**5000, "a number of 16610 bits"),
    ("f32", 1e300, "beyond what f32"),
    (
        "f32",
        np.float64(1e300),
        "given float64 1e+300, the model takes f32[]: it is beyond what f32 holds",
    ),
    ("f32", 2**24 + 1, "f32 has no such integer"),
    ("f32", 1j, "given 1j"),
    ("f32", np.float16(1), "given float16 1.0"),
    ("f16", 65536.0, "beyond what f16 holds"),
    ("f8e4m3fn", float("inf"), "beyond what f8e4m3fn holds"),
    ("f32", None, "given None, the model takes an array f32[]"),
    ("f32", object(), "given an object, the model takes f32[]"),
    ("f32", np.array(None), "given object[]"),
    ("f32", np.array("a"), "given <U1[]"),
    ("f32", b"a", "given a bytes"),
    (
        "f32",
        np.ma.array(1.0),
        "given a masked array float64[], the model takes f32[]: x.filled",
    ),
    ("f32", np.datetime64(3, "s"), "given datetime64[s] "),
    ("f32", np.zeros((), "V4"), "given |V4[]"),
    ("f32", float, "given a type"),
    ("f32", [1.0], "given a list, the model takes an array f32[]; np.asarray"),
    ("f32", (), "takes an array f32[]; () in a spec is the shape of a scalar"),
    ("f32", [], "[] in a spec is the shape of a scalar, j2o.static([]) is empty"),
    ("f32", np.ones(1, np.float32), "given float32[1], the model takes f32[]"),
    ("c64", 1e300j, "beyond what c64 holds"),
]


@pytest.mark.parametrize(
    ("dtype", "value", "said"), REFUSED, ids=lambda v: str(type(v).__name__)
)
def test_a_value_that_would_change_is_refused(models, dtype, value, said):
    with pytest.raises(j2o.SpecError) as caught:
        models[dtype](value)
    text = str(caught.value)
    assert text.startswith("input 'x': ")
    assert said in text
    assert "\n" not in text
    assert len(text) < 200


def test_arrays_of_64_bits_are_narrowed_where_their_values_fit():
    model = identity("i32[3]")
    np.testing.assert_array_equal(
        model(np.array([1, -2, 2**31 - 1])), [1, -2, 2**31 - 1]
    )
    with pytest.raises(
        j2o.SpecError,
        match=r"given int64\[3\], .* some of its values are beyond what i32 holds",
    ):
        model(np.array([1, -2, 2**31]))
    floats = identity("f32[2]")
    np.testing.assert_array_equal(
        floats(np.array([np.inf, 0.1])), np.float32([np.inf, 0.1])
    )
    with pytest.raises(j2o.SpecError, match="beyond what f32 holds"):
        floats(np.array([1.0, -1e39]))
    assert identity("i32[0]")(np.zeros(0, np.int64)).shape == (0,)


LAYOUTS = {
    "transposed": lambda a: a.T.copy().T,
    "strided": lambda a: np.repeat(a, 2, 1)[:, ::2],
    "reversed": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "matrix": np.matrix,
    "jax": jnp.asarray,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_however_an_array_lies_in_memory(layout):
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    given = LAYOUTS[layout](a)
    np.testing.assert_array_equal(identity("f32[2,3]")(given), a)
    narrow = (
        LAYOUTS[layout](a.astype(ml_dtypes.bfloat16))
        if layout != "big-endian"
        else a.astype("bfloat16")
    )
    np.testing.assert_array_equal(
        identity("bf16[2,3]")(narrow), a.astype(ml_dtypes.bfloat16)
    )


def test_read_only_and_broadcast_arrays():
    ones = np.broadcast_to(np.float32(1), (2, 3))
    np.testing.assert_array_equal(identity("f32[2,3]")(ones), ones)
    np.testing.assert_array_equal(
        identity("bf16[2,3]")(ones.astype("bfloat16", copy=False)), ones
    )


def test_objects_that_are_arrays_by_protocol():
    class Own:
        def __array__(self, dtype=None, copy=None):
            return np.arange(3, dtype=np.float32)

    class Broken:
        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("on a\nGPU")

    np.testing.assert_array_equal(identity("f32[3]")(Own()), [0, 1, 2])
    with pytest.raises(
        j2o.SpecError, match=r"given a Broken, the model takes f32\[3\]: on a GPU"
    ):
        identity("f32[3]")(Broken())


def test_a_deleted_array_and_a_tracer_are_refused():
    model = identity("f32[3]")
    gone = jnp.ones(3)
    gone.delete()
    with pytest.raises(
        j2o.SpecError, match="input 'x': given an array that is deleted"
    ):
        model(gone)
    for transform in (jax.jit, jax.grad, jax.vmap):
        with pytest.raises(
            j2o.TraceError,
            match=r"input 'x': given a tracer of .* runs outside of jax.jit",
        ):
            transform(lambda x: model(x).sum())(jnp.ones(3))
    with pytest.raises(j2o.TraceError, match="given a tracer"):
        j2o.compile(lambda x: model(x) + 1, ["f32[3]"])


def test_keys_of_another_kind_are_refused():
    model = identity("key<fry>[]")
    key = jax.random.key(3)
    assert model(key) == key
    with pytest.raises(
        j2o.SpecError,
        match=r"given key<rbg>\[\], the model takes key<fry>\[\]: jax.random.key",
    ):
        model(jax.random.key(3, impl="rbg"))
    for other in (np.uint32(3), 3, jax.random.PRNGKey(3)):
        with pytest.raises(j2o.SpecError, match="the model takes key<fry>"):
            model(other)


TREE = {"image": "f32[2]", "pair": ["f32[1]", "i32[]"]}
GIVEN = {"image": np.ones(2, np.float32), "pair": [np.ones(1, np.float32), 3]}
MISFITS = {
    "too few": (
        ([GIVEN],),
        "arguments: given 1, the model takes 2 arguments (x/image: f32[2], ",
    ),
    "too many": ((GIVEN, 1.0, 2.0), "arguments: given 3, the model takes 2 arguments"),
    "other keys": (
        ({**GIVEN, "mask": 1}, 1.0),
        "argument 0: given a dict with 'mask', the model takes the keys 'image', 'pair'",
    ),
    "a key less": (
        ({"image": GIVEN["image"]}, 1.0),
        "argument 0: given a dict without 'pair'",
    ),
    "no dict": (
        (GIVEN["pair"], 1.0),
        "argument 0: given a list, the model takes a dict of x/image: f32[2], ",
    ),
    "an array": (
        (GIVEN["image"], 1.0),
        "argument 0: given float32[2], the model takes a dict of ",
    ),
    "None": ((None, 1.0), "argument 0: given None, the model takes a dict of "),
    "a tuple": (
        ({**GIVEN, "pair": (1, 2)}, 1.0),
        "argument 0['pair']: given a tuple, the model takes a list of x/pair/0: ",
    ),
    "longer": (
        ({**GIVEN, "pair": [1, 2, 3]}, 1.0),
        "argument 0['pair']: given a list of 3, the model takes 2",
    ),
    "rows": (
        ({**GIVEN, "image": [[0.0] * 784]}, 1.0),
        "input 'x/image': given a list, the model takes an array f32[2]; np.as",
    ),
    "empty": (
        ({**GIVEN, "image": None}, 1.0),
        "input 'x/image': given None, the model takes an array f32[2]",
    ),
    "second": (
        (GIVEN, [1.0]),
        "input 'y': given a list, the model takes an array f32[]",
    ),
    "unordered": (({1: 2, "a": 3}, 1.0), "arguments: no pytree of arrays: "),
}


@pytest.mark.parametrize("case", MISFITS)
def test_another_pytree_is_told_at_the_first_place(case):
    args, said = MISFITS[case]
    model = j2o.compile(lambda x, y: x["image"] + x["pair"][1] + y, [TREE, ()])
    with pytest.raises(j2o.SpecError) as caught:
        model(*args)
    assert str(caught.value).startswith(said)
    assert len(str(caught.value)) < 250
    np.testing.assert_array_equal(model(GIVEN, 1.0), [5, 5])


def test_named_tuples_and_absent_parts():
    model = j2o.compile(lambda p: p.left, [Pair("f32[2]", None)])
    assert model(Pair(np.ones(2, np.float32), None)).shape == (2,)
    with pytest.raises(
        j2o.SpecError, match=r"argument 0: given a tuple, the model takes a Pair of "
    ):
        model((np.ones(2, np.float32), None))
    with pytest.raises(
        j2o.SpecError,
        match=r"argument 0.right: given float32\[2\], the model takes None",
    ):
        model(Pair(np.ones(2, np.float32), np.ones(2, np.float32)))


def test_sizes_are_checked_in_every_call():
    model = j2o.compile(lambda x: x + 1, [("B", 2)], constraints=["B <= 4"])
    for _ in range(2):
        assert model(np.ones((3, 2), np.float32)).shape == (3, 2)
        with pytest.raises(
            j2o.DimensionError,
            match="input 'x', axis 1: the size is 3, the model takes 2",
        ):
            model(np.ones((3, 3), np.float32))
        with pytest.raises(j2o.DimensionError, match="'B <= 4' does not hold"):
            model(np.ones((5, 2), np.float32))


def test_64_bit_results_keep_their_values_where_the_mode_is_off():
    with enable_x64(True):
        model = j2o.compile(lambda n, x: (n * n, x * 2, x * 1j), ["i64[]", "f64[]"])
    n, x, z = model(np.int64(2**20), np.float64(0.1))
    assert (n.dtype, x.dtype, z.dtype) == (np.int64, np.float64, np.complex128)
    assert int(n) == 2**40
    assert float(x) == 0.2
    model.verify(np.int64(2**20), np.float64(0.1))


def test_several_threads_call_at_once():
    model = j2o.compile(lambda x: jnp.sin(x) @ x.T, [("B", 8)])
    inputs = [np.full((i + 1, 8), i, np.float32) for i in range(8)]
    start = threading.Barrier(len(inputs))
    sessions, results = set(), {}

    def work(i):
        start.wait()
        results[i] = [np.asarray(model(inputs[i])) for _ in range(5)]
        sessions.add(id(model.session))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(sessions) == 1
    for i, x in enumerate(inputs):
        for got in results[i]:
            np.testing.assert_allclose(got, np.sin(x) @ x.T, rtol=1e-5)


def test_a_copy_of_a_model_has_its_own_session():
    model = j2o.compile(lambda x: x + 1, ["f32[2]"])
    model(np.ones(2, np.float32))
    twin = copy.deepcopy(model)
    np.testing.assert_array_equal(twin(np.ones(2, np.float32)), [2, 2])


@pytest.mark.parametrize("kind", ["c64", "key<rbg>", "bf16", "i4"])
def test_layouts_at_the_boundary_of_arrays_with_parts(kind):
    shape = (1, 2, 3, 4)
    model = j2o.compile(
        lambda x: x, [f"{kind}[1,2,3,4]"], inputs_as_nchw=[0], outputs_as_nchw=[0]
    )
    if kind == "key<rbg>":
        x = jax.random.split(jax.random.key(0, impl="rbg"), shape)
    else:
        x = np.arange(24).reshape(shape).astype(j2o.ir.DType(kind).numpy)
    sizes = [
        d.dim_value for d in model.to_proto().graph.input[0].type.tensor_type.shape.dim
    ]
    assert sizes[:4] == [1, 4, 2, 3]
    got = model(x)
    assert got.shape == shape
    assert bool((got == x).all())


def test_what_stops_onnxruntime_is_told_in_one_line():
    model = identity("f32[2]")
    with pytest.raises(
        j2o.J2OError, match="onnxruntime cannot run the model: "
    ) as caught:
        model.session.run({"x": np.ones((2, 2), np.float32)})
    assert "\n" not in str(caught.value)


def test_the_graph_in_the_file_has_the_name_of_the_function_or_the_one_given():
    def net(x):
        return x + 1

    assert j2o.compile(net, [("B",)]).to_proto().graph.name == "net"
    named = j2o.compile(net, [("B",)], name="my net")
    assert named.to_proto().graph.name == "my_net"
