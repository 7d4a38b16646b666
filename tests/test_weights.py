"""Weights: read while the model is written, what folding records, and the dtype they are stored in."""

import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import j2o
from j2o.frozen import LazyArray, tensor_of
from j2o.ir import views
from j2o.ir.types import DType
from tests.harness import normal

RNG = np.random.default_rng(0)
BF16 = ml_dtypes.bfloat16


def matrix(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


# -------------------------------------------------------------------------------- views

LARGE = 2**15  # elements: more than folding computes with


def _shapes_of(size):
    """Shapes of that many elements, a power of two."""
    return (
        st.lists(st.sampled_from([1, 2, 4, 8, 16]), max_size=4)
        .map(tuple)
        .filter(lambda s: size % np.prod(s) == 0)
    )


@st.composite
def _slices(draw, shape):
    out = []
    for d in shape:
        start = draw(st.integers(0, d - 1))
        stop = draw(st.integers(start + 1, d))
        step = draw(st.sampled_from([1, 1, 2, 3, 100, -1, -2]))
        out.append(
            slice(start, stop, step)
            if step > 0
            else slice(stop - 1, start - 1 if start else None, step)
        )
    return tuple(out)


@st.composite
def _step(draw, tensor, array):
    """One more view of a tensor, and the same of the array."""
    shape = array.shape
    kind = draw(
        st.sampled_from(
            [
                "transpose",
                "reshape",
                "cast",
                "slice",
                "take",
                "concat",
                "broadcast",
                "pad",
                "tile",
                "scale",
            ]
        )
    )
    axis = draw(st.integers(0, len(shape) - 1))
    if kind == "transpose":
        perm = tuple(draw(st.permutations(range(len(shape)))))
        return views.transposed(tensor, perm), array.transpose(perm)
    if kind == "reshape":
        front = draw(_shapes_of(array.size))
        new = (*front, array.size // int(np.prod(front)))
        return views.reshaped(tensor, new), array.reshape(new)
    if kind == "cast":
        dtype = draw(st.sampled_from([DType.BF16, DType.F16, DType.F32]))
        return views.casted(tensor, dtype), array.astype(dtype.numpy)
    if kind == "slice":
        where = draw(_slices(shape))
        return views.sliced(tensor, where), array[where]
    if kind == "take":
        index = np.array(
            draw(
                st.lists(
                    st.integers(-shape[axis], shape[axis] - 1), min_size=1, max_size=9
                )
            )
        )
        return views.taken(tensor, index, axis), np.take(array, index, axis)
    if kind == "concat":
        parts = draw(st.sampled_from([2, 3]))
        return views.concatenated((tensor,) * parts, axis), np.concatenate(
            (array,) * parts, axis
        )
    if kind == "broadcast":
        new = (2, *shape)
        return views.broadcasted(tensor, new), np.broadcast_to(array, new)
    if kind == "pad":
        widths = [(1, 2) if k == axis else (0, 0) for k in range(len(shape))]
        return views.padded(
            tensor, widths, tensor_of(np.asarray(7, array.dtype), None)
        ), np.pad(array, widths, constant_values=7)
    if kind == "tile":
        repeats = [2 if k == axis else 1 for k in range(len(shape))]
        return views.tiled(tensor, repeats), np.tile(array, repeats)
    factor = np.asarray(2, array.dtype)
    scaled = views.mapped(
        np.multiply, "scaled", tensor.type, tensor, tensor_of(factor, None)
    )
    return scaled, array * factor


SOURCES = ["array", "fortran", "memmap", "lazy", "boxes"]


def _source(kind, array, folder):
    if kind == "memmap":
        path = folder / "w.bin"
        array.tofile(path)
        return np.memmap(path, array.dtype, "r", shape=array.shape)
    if kind == "lazy":
        return j2o.lazy(array.shape, array.dtype, lambda: array)
    if kind == "boxes":
        return LazyArray(
            array.shape, array.dtype, lambda: lambda box: array[box].copy()
        )
    return np.asfortranarray(array) if kind == "fortran" else array


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_chains_of_views_are_what_numpy_computes(tmp_path_factory, data):
    dims = data.draw(
        st.sampled_from(
            [
                (LARGE,),
                (256, 128),
                (8, 64, 64),
                (4, 1, 32, 256),
                (2, 3, 5, 7, 11, 13, 2),
            ]
        )
    )
    array = np.arange(np.prod(dims), dtype=np.float32).reshape(dims) % 999
    tensor = tensor_of(
        _source(
            data.draw(st.sampled_from(SOURCES)), array, tmp_path_factory.mktemp("w")
        ),
        "w",
    )
    for _ in range(data.draw(st.integers(1, 5))):
        new, expected = data.draw(_step(tensor, array))
        if expected.size <= 2 * 2**17:
            tensor, array = new, expected
    assert tensor.dtype.numpy == array.dtype
    assert tensor.shape == array.shape
    limit = data.draw(st.sampled_from([3000, 10**5, 2**24]))
    chunks = list(tensor.chunks(limit))
    assert all(c.nbytes <= max(limit, array.itemsize) for c in chunks)
    assert (
        b"".join(c.tobytes() for c in chunks) == np.ascontiguousarray(array).tobytes()
    )


@pytest.mark.parametrize("shape", [(700, 900), (3, 700, 300), (700, 3, 300)])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8, BF16])
def test_transposed_in_blocks(shape, dtype):
    array = (np.arange(np.prod(shape)) % 251).reshape(shape).astype(dtype)
    for perm in (
        [*range(len(shape))][::-1],
        [1, 0, *range(2, len(shape))],
        [len(shape) - 1, *range(len(shape) - 1)],
    ):
        tensor = views.transposed(tensor_of(array, "w"), tuple(perm))
        assert (
            np.concatenate(list(tensor.chunks())).tobytes()
            == np.ascontiguousarray(array.transpose(perm)).tobytes()
        )


# ------------------------------------------------------------------------------ folding

A, B = matrix(256, 256), matrix(256, 256)
CHAINS = {
    "transpose": lambda w, v, x: x @ w.T,
    "cast": lambda w, v, x: x @ w.astype(jnp.bfloat16).astype(jnp.float32),
    "reshape": lambda w, v, x: jnp.einsum("bi,ijk->bjk", x, w.reshape(256, 16, 16)),
    "slice": lambda w, v, x: x @ w[:, 100:200],
    "index": lambda w, v, x: x @ w.reshape(256, 2, 128)[:, 1],
    "split": lambda w, v, x: functools.reduce(
        jnp.add, [x @ part for part in jnp.split(w, 2, axis=1)]
    ),
    "concatenate": lambda w, v, x: x @ jnp.concatenate([w, v], 1),
    "stack": lambda w, v, x: jnp.einsum("bi,nij->bnj", x, jnp.stack([w, v])),
    "broadcast": lambda w, v, x: jnp.einsum(
        "bi,nij->bnj", x, jnp.broadcast_to(w, (3, 256, 256))
    ),
    "pad": lambda w, v, x: x @ jnp.pad(w, ((0, 0), (3, 5))),
    "flip and stride": lambda w, v, x: x @ w[::-1, ::2],
    "roll": lambda w, v, x: x @ jnp.roll(w, 3, 0),
    "tile": lambda w, v, x: x @ jnp.tile(w, (1, 2)),
    "permute": lambda w, v, x: x @ w[np.arange(256) ^ 5],
    "scale": lambda w, v, x: x @ (w * 0.5 + v),
    "swap": lambda w, v, x: x @ w.reshape(16, 16, 256).swapaxes(0, 1).reshape(256, 256),
    "scan": lambda w, v, x: jax.lax.scan(
        lambda c, _: (jnp.tanh(c @ w.T), None), x, None, length=2
    )[0],
}
KEPT = {"MatMul", "Gemm", "Add", "Tanh", "Loop", "Reshape"}  # what computes with `x`


@pytest.mark.parametrize("size", [8, 1024])
def test_what_is_made_from_one_weight_keeps_its_name(size):
    """Small ones are computed at once, large ones while they are written: the names are the same."""
    params = {"kernel": np.ones((size, size), np.float32), "bias": np.arange(size)}

    def dense(params, x):
        kernel = params["kernel"].astype(jnp.bfloat16)
        return x @ kernel.T + params["bias"].astype(jnp.bfloat16)

    model = j2o.compile(dense, [j2o.weights(params), f"bf16[B,{size}]"])
    assert set(stored(model)) == {"kernel", "bias"}


@pytest.mark.parametrize("name", CHAINS)
def test_chains_fold_and_leave_no_nodes(name):
    reads = []
    lazy = j2o.lazy(A.shape, A.dtype, lambda: reads.append(1) or A)
    model = j2o.compile(CHAINS[name], [j2o.weights(lazy), j2o.weights(B), ("B", 256)])
    assert not reads
    assert {op.removeprefix("onnx.") for op in model.report.ops_after} <= KEPT
    model.verify(matrix(3, 256), rtol=1e-3, atol=1e-3)


def test_tied_weights_are_stored_once():
    model = j2o.compile(lambda w, x: x @ w @ w.T, [j2o.weights(A), ("B", 256)])
    assert model.report.weights_bytes == A.nbytes
    model.verify(matrix(3, 256), rtol=1e-3, atol=1e-2)


# ------------------------------------------------------------------------------ sources


def stored(model):
    """The initializers of a model, by name."""
    import onnx

    return {
        i.name: onnx.numpy_helper.to_array(i)
        for i in model.to_proto().graph.initializer
    }


def test_what_is_in_memory_is_not_copied():
    for array in (A, jnp.asarray(A)):
        tensor = tensor_of(array, "w")
        assert all(np.shares_memory(c, np.asarray(array)) for c in tensor.chunks(10**4))
    assert np.asarray(array).ctypes.data == array.unsafe_buffer_pointer()


@pytest.mark.filterwarnings("ignore:64-bit mode is off")
@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("dtype", ["complex128", "float64", "int64"])
def test_weights_of_64_bits_are_narrowed_as_jax_narrows_them(dtype, level):
    w = np.array([[3, -4], [1, 2]]).astype(dtype)
    w[1] *= 2 if dtype != "complex128" else 1j

    def f(x, w):
        return jnp.abs(x * w)

    model = j2o.compile(f, ["f32[2,2]", j2o.weights(w)], opt_level=level)
    x = matrix(2, 2)
    want = f(x, jnp.asarray(w))
    assert want.dtype == np.float32
    np.testing.assert_allclose(model(x), want, rtol=1e-6)


def test_big_endian_and_private_changes(tmp_path):
    A.tofile(tmp_path / "w")
    private = np.memmap(tmp_path / "w", np.float32, "c", shape=A.shape)
    private[3] = 5
    for array in (A.astype(">f4"), private):
        model = j2o.compile(
            lambda p, x: x @ p["w"], [j2o.weights({"w": array}), ("B", 256)]
        )
        assert (stored(model)["w"] == array).all()


SHARDED = """
import jax, numpy as np, j2o
from j2o.frozen import tensor_of
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
assert jax.device_count() == 4
w = np.random.default_rng(0).standard_normal((256, 512)).astype(np.float32)
mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("a", "b"))
for spec in (P("a", "b"), P(None, "a"), P("b"), P(("b", "a"), None), P()):
    x = jax.device_put(w, NamedSharding(mesh, spec))
    tensor = tensor_of(x, "w")
    assert b"".join(c.tobytes() for c in tensor.chunks(10**4)) == w.tobytes()
    model = j2o.compile(lambda p, x: x @ p["w"].T, [j2o.weights({"w": x}), ("B", 512)])
    model.save("m.onnx", external_data=True)
    model.verify(np.ones((2, 512), np.float32), rtol=1e-3, atol=1e-3)
assert x._npy_value is None, "gathered"
print("good")
"""


def test_sharded_arrays(tmp_path):
    env = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-c", SHARDED],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "good\n", done.stderr


TREE = {
    "dense": {"kernel": matrix(300, 70), "bias": matrix(70, dtype=BF16)},
    "blocks": [{"w": matrix(4, 5)}, {"w": np.arange(3)}],
    "step": np.float32(2),
}


def test_safetensors(tmp_path):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    flat = {
        "dense.kernel": TREE["dense"]["kernel"],
        "bias": TREE["dense"]["bias"],
        "scalar": np.asarray(2, np.float32),
    }
    parts = {
        "a.safetensors": {"dense.kernel": flat["dense.kernel"]},
        "b.safetensors": {k: flat[k] for k in ("bias", "scalar")},
    }
    for name, part in {"one.safetensors": flat, **parts}.items():
        save_file(part, tmp_path / name)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(
        json.dumps(
            {
                "weight_map": {
                    name: file for file, part in parts.items() for name in part
                }
            }
        )
    )
    for path in (tmp_path / "one.safetensors", index):
        tree = j2o.open_safetensors(path)
        assert tree.keys() == flat.keys()
        for name, leaf in tree.items():
            tensor = views.transposed(
                tensor_of(leaf, name), tuple(range(leaf.ndim))[::-1]
            )
            assert (
                b"".join(c.tobytes() for c in tensor.chunks(2000))
                == np.ascontiguousarray(flat[name].T).tobytes()
            )
    model = j2o.compile(
        lambda p, x: x @ p["dense.kernel"].T, [j2o.weights(tree), ("B", 70)]
    )
    model.verify(matrix(2, 70), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"use_ocdbt": False}, {"use_zarr3": True}])
def test_orbax(tmp_path, options):
    ocp = pytest.importorskip("orbax.checkpoint")
    ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)).save(
        tmp_path / "run/default", TREE
    )
    with pytest.raises(j2o.J2OError, match="run/default' is one"):
        j2o.open_orbax(tmp_path)
    tree = j2o.open_orbax(tmp_path / "run/default")
    assert jax.tree.structure(tree) == jax.tree.structure(TREE)
    for leaf, array in zip(jax.tree.leaves(tree), jax.tree.leaves(TREE), strict=True):
        chunks = list(tensor_of(leaf, "w").chunks(2000))
        assert b"".join(c.tobytes() for c in chunks) == array.tobytes()
    model = j2o.compile(
        lambda p, x: x @ p["dense"]["kernel"].T, [j2o.weights(tree), ("B", 70)]
    )
    model.verify(matrix(2, 70), rtol=1e-3, atol=1e-3)


# ------------------------------------------------------------------------------- errors


def _fails():
    raise OSError("the disk is gone")


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (
            j2o.lazy((300, 300), "float32", lambda: A),
            r"load\(\) gave float32\[256, 256\], declared is lazy\(float32\[300, 300\]\)",
        ),
        (
            j2o.lazy((256, 256), "float32", lambda: A.astype(np.float64)),
            "load\\(\\) gave float64",
        ),
        (j2o.lazy((256, 256), "float32", _fails), "OSError: the disk is gone"),
    ],
)
def test_errors_while_reading_name_the_weight(tmp_path, leaf, message):
    model = j2o.compile(
        lambda p, x: x @ p["a"]["w"].T,
        [j2o.weights({"a": {"w": leaf}}), ("B", leaf.shape[1])],
    )
    with pytest.raises(j2o.J2OError, match=f"weights 'a/w': .*{message}") as caught:
        model.save(tmp_path / "m.onnx", external_data=True)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_typed_keys_are_weights():
    keys = {"noise": jax.random.key(3), "many": jax.random.split(jax.random.key(4), 2)}

    def draw(p, x):
        return (
            x
            + jax.random.normal(p["noise"], (3,))
            + jax.random.uniform(p["many"][1], (3,))
        )

    model = j2o.compile(draw, [j2o.weights(keys), (3,)])
    model.verify(np.ones(3, np.float32))


def test_errors_of_leaves(tmp_path):
    deleted = jnp.ones(3)
    deleted.delete()
    for leaf in (
        "text",
        object(),
        np.array(["a"]),
        np.zeros(2, "datetime64[s]"),
        deleted,
    ):
        with pytest.raises(j2o.SpecError, match="weights 'a/w': "):
            j2o.compile(
                lambda p, x: p["a"]["w"], [j2o.weights({"a": {"w": leaf}}), ("B",)]
            ).save(tmp_path / "m.onnx")
    for shape, dtype, load in [
        ((2, -1), "float32", list),
        ((2,), "floaty", list),
        ((2,), object, list),
        ((2,), "float32", A),
        (("B",), "float32", list),
    ]:
        with pytest.raises(j2o.SpecError, match="lazy"):
            j2o.lazy(shape, dtype, load)


def test_a_file_truncated_after_it_was_mapped(tmp_path):
    A.tofile(tmp_path / "w")
    tensor = tensor_of(np.memmap(tmp_path / "w", np.float32, "r", shape=A.shape), "w")
    os.truncate(tmp_path / "w", 100)
    with pytest.raises(j2o.SpecError, match=r"weights 'w': .*truncated"):
        tensor.reader()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"weight_map": 3}',
        *(
            json.dumps({"weight_map": {"w": f}})
            for f in (
                "../w.safetensors",
                "/etc/passwd",
                "..",
                "sub/w.safetensors",
                "missing.safetensors",
                "w.safetensors",
                "bad.safetensors",
                7,
            )
        ),
    ],
)
def test_errors_of_safetensors(tmp_path, text):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    (tmp_path / "in/sub").mkdir(parents=True)
    for path in ("w.safetensors", "in/w.safetensors", "in/sub/w.safetensors"):
        save_file({"other": A}, tmp_path / path)
    (tmp_path / "in/bad.safetensors").write_bytes(b"\xff" * 100)
    index = tmp_path / "in/model.json"
    index.write_text(text)
    with pytest.raises(j2o.SpecError, match="open_safetensors: ") as caught:
        j2o.open_safetensors(index)
    assert "\n" not in str(caught.value)
    assert (
        "weight_map" not in text
        or "weight_map" in str(caught.value)
        or "'w'" in str(caught.value)
        or "bad" in text
    )


EXTRAS = [
    (j2o.open_safetensors, "safetensors", "safetensors"),
    (j2o.open_orbax, "tensorstore", "orbax"),
]


@pytest.mark.parametrize(("reader", "package", "extra"), EXTRAS)
def test_the_extra_that_a_reader_needs_is_named(
    reader, package, extra, monkeypatch, tmp_path
):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(j2o.SpecError, match=rf"pip install 'j2o\[{extra}\]'"):
        reader(tmp_path)


def test_missing_files(tmp_path):
    pytest.importorskip("tensorstore")
    for reader in (j2o.open_safetensors, j2o.open_orbax):
        with pytest.raises(j2o.SpecError, match="nothing"):
            reader(tmp_path / "nothing")
    (tmp_path / "_METADATA").write_text('{"tree_metadata": {"x": 1}}')
    with pytest.raises(j2o.SpecError, match="damaged"):
        j2o.open_orbax(tmp_path)
    entry = {"key_metadata": [{"key": "w", "key_type": 2}], "value_metadata": {}}
    (tmp_path / "_METADATA").write_text(json.dumps({"tree_metadata": {"w": entry}}))
    with pytest.raises(j2o.SpecError, match="open_orbax: w cannot be opened"):
        j2o.open_orbax(tmp_path)


# ------------------------------------------------------------------------ stored dtypes


def ops(model):
    return {op.removeprefix("onnx.") for op in model.report.ops_after}


@pytest.mark.parametrize("level", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("dtype", "error", "size"),
    [("bfloat16", 4e-3, 2), ("float16", 5e-4, 2), ("int8", 2e-2, 1)],
)
def test_weights_dtype(tmp_path, level, dtype, error, size):
    params = {
        "a": j2o.lazy(A.shape, A.dtype, lambda: A),
        "b": B,
        "bias": np.ones(256, np.float32),
    }
    model = j2o.compile(
        lambda p, x: jnp.tanh(x @ p["a"].T / 16 + p["bias"]) @ p["b"],
        [j2o.weights(params), ("B", 256)],
        opt_level=level,
        weights_dtype=dtype,
    )
    assert ("DequantizeLinear" if dtype == "int8" else "Cast") in ops(model)
    assert model.report.weights_bytes < (2 * size + 0.2) * A.size
    assert not model.report.quantisation
    found = dict(model.verify(matrix(3, 256), rtol=0.1, atol=1).quantisation)
    assert found.keys() == {"a", "b"}
    assert all(0 < e < error for e in found.values())
    assert model.report.quantisation == found
    model.save(tmp_path / "m.onnx", external_data=True)
    kept = stored(model)
    assert kept["bias"].dtype == np.float32
    assert {kept[n].dtype.itemsize for n in "ab"} == {size}


# columns of very different size
UNEVEN = (matrix(96, 96) * np.logspace(-6, 6, 96)).astype(np.float32)
STACK = np.stack([UNEVEN, 1e3 * UNEVEN, 1e-3 * UNEVEN]).astype(np.float32)


def _conv(w, x):
    return jax.lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


CHANNELS = {  # the weight, its use, what it is used with, the axes of the result along which sizes are alike
    "right": (UNEVEN, lambda w, x: x @ w, ("B", 96), 0),
    "right, turned": (UNEVEN.T.copy(), lambda w, x: x @ w.T, ("B", 96), 0),
    "left": (UNEVEN.T.copy(), lambda w, x: w @ x, (96, "B"), 1),
    "lookup": (
        UNEVEN.T.copy(),
        lambda w, x: w[jnp.floor(jnp.abs(x)).astype(jnp.int32) * 40 % 96],
        ("B",),
        1,
    ),
    "stack": (STACK, lambda w, x: jnp.einsum("bi,nij->bnj", x, w), ("B", 96), 0),
    "scan": (
        STACK,
        lambda w, x: jax.lax.scan(lambda c, v: (c @ v, None), x, w)[0],
        ("B", 96),
        0,
    ),
    "loop": (
        STACK,
        lambda w, x: jax.lax.fori_loop(0, 3, lambda i, c: c @ jnp.asarray(w)[i], x),
        ("B", 96),
        0,
    ),
    "batch": (STACK, lambda w, x: jnp.einsum("nbi,nij->nbj", x, w), (3, "B", 96), 1),
    "conv": (UNEVEN[:72].reshape(3, 3, 8, 96), _conv, ("B", 6, 6, 8), (0, 1, 2)),
}


@pytest.mark.parametrize("name", CHANNELS)
@pytest.mark.parametrize("level", [0, 2])
def test_int8_has_a_scale_for_each_output_channel(name, level):
    w, fn, spec, alike = CHANNELS[name]
    model = j2o.compile(
        fn, [j2o.weights(w), spec], weights_dtype="int8", opt_level=level
    )
    assert "DequantizeLinear" in ops(model)
    x = matrix(*(4 if d == "B" else d for d in spec))
    got, want = np.asarray(model(x)), np.asarray(fn(w, x))
    assert (np.abs(got - want).max(alike) <= 0.3 * np.abs(want).max(alike)).all()


def test_channels_of_zeros_in_int8_give_zero():
    """Onnxruntime's kernel for bytes leaves a rest of the scale where a sum is 0."""
    w = normal(128, 256)
    w[:, ::2] = 0
    x = normal(2, 128)
    specs = [x, j2o.weights(w)]
    model = j2o.compile(lambda x, w: x @ w, specs, weights_dtype="int8")
    got = model(x)
    np.testing.assert_allclose(got[:, ::2], 0, atol=1e-35)
    np.testing.assert_allclose(got, x @ w, atol=1)


def tied(w, i):
    return w[i] @ w.T


def looked_up(w, i):
    return w[i]


def product(w, i):
    return jnp.tile(jnp.float32(i)[:, None], 128) @ w.T


ZERO_POINTS = [(tied, True), (looked_up, True), (product, False)]


@pytest.mark.parametrize(("fn", "has_one"), ZERO_POINTS)
def test_int8_has_a_zero_point_where_more_than_products_take_it(fn, has_one):
    """Onnxruntime 1.20 to 1.24 do not load `tied` otherwise; products with one are slower."""
    w = normal(256, 128)
    specs = [j2o.weights(w), "i32[3]"]
    model = j2o.compile(fn, specs, weights_dtype="int8")
    (stored,) = model.graph.nodes_of("onnx.DequantizeLinear")
    assert (len(stored.inputs) == 3) == has_one
    model.verify(np.int32([1, 0, 5]), rtol=0.1, atol=2)


def test_int8_at_opset_18():
    model = j2o.compile(
        CHANNELS["stack"][1],
        [j2o.weights(STACK[:1]), ("B", 96)],
        weights_dtype="int8",
        opset=18,
    )
    model.verify(matrix(2, 96), rtol=0.1, atol=1e5)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_weights_dtype_of_functions_and_regions(dtype):
    @j2o.function
    def block(w, x):
        return jnp.tanh(x @ w)

    def fn(p, x):
        x = block(p["b"], block(p["a"], x))
        return jax.lax.fori_loop(
            0,
            3,
            lambda _, c: jax.lax.cond(c[0, 0] > 0, lambda: c @ p["c"].T, lambda: -c),
            x,
        )

    params = {name: matrix(256, 256) / 16 for name in "abc"}
    model = j2o.compile(fn, [j2o.weights(params), ("B", 256)], weights_dtype=dtype)
    assert len(model.graph.functions) == 1
    assert model.report.weights_bytes < 2.1 * 3 * 256 * 256
    assert (
        len(
            model.verify(np.ones((2, 256), np.float32), rtol=0.1, atol=0.1).quantisation
        )
        == 3
    )


def test_what_weights_dtype_leaves_alone():
    params = {
        "half": matrix(256, 256, dtype=BF16),
        "whole": RNG.integers(0, 9, (256, 256)),
        "bias": matrix(5000),
    }
    specs = [j2o.weights(params), ("B", 256)]
    fn = lambda p, x: (p["half"], p["whole"], p["bias"], x)  # noqa: E731
    plain, model = (j2o.compile(fn, specs, weights_dtype=d) for d in (None, "float16"))
    assert model.report.ops_after == plain.report.ops_after
    model.verify(matrix(2, 256), rtol=0, atol=0)


def test_values_that_do_not_fit(tmp_path):
    big = A * np.float32(1e6)
    model = j2o.compile(
        lambda w, x: x * 0 + w, [j2o.weights(big), (256, 256)], weights_dtype="float16"
    )
    assert np.asarray(model(A)).max() == np.finfo(np.float16).max
    big[0, 0] = np.nan
    model = j2o.compile(
        lambda p, x: x @ p["w"],
        [j2o.weights({"w": big}), ("B", 256)],
        weights_dtype="int8",
    )
    with pytest.raises(j2o.SpecError, match="'w' has values that are not finite"):
        model.save(tmp_path / "m.onnx", external_data=True)


def test_wrong_weights_dtype():
    for wrong in ("int3", "float32", 8, ["int8"]):
        with pytest.raises(j2o.SpecError, match="'bfloat16', 'float16', 'int8'"):
            j2o.compile(lambda x: x, [("B",)], weights_dtype=wrong)
