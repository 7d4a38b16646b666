"""Programs over symbolic sizes at the edges.

No elements, no rounds, windows larger than what they slide over.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import j2o
from j2o.frontend.versions import enable_x64
from j2o.ir.dims import DimScope
from j2o.ir.dims_agree import agree
from tests.harness import agrees, operators

KERNEL = jnp.arange(36.0).reshape(3, 3, 2, 2)
CONV = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}


def windowed(init, op, *args, **kwargs):
    return lambda x: lax.reduce_window(
        x, jnp.float32(init), op, *(a(x) if callable(a) else a for a in args), **kwargs
    )


def two_results(x):
    return lax.reduce_window(
        (x, x),
        (jnp.float32(1), jnp.float32(2)),
        lambda a, b: (a[0] + b[0], a[1] - b[1]),
        (2, x.shape[0]),
        (1, 1),
        "SAME",
    )


def rows(x):
    """A scan that may have no rounds, whose rows have a symbolic size."""
    return lax.scan(lambda c, row: (c + row.sum(), row * c), jnp.float32(1), x)


# function, spec, shapes
PROGRAMS = {
    "valid convolution": (
        lambda x: lax.conv_general_dilated(x, KERNEL, (2, 1), "VALID", **CONV),
        ("B", "H", "W", 2),
        [(2, 1, 1, 2), (1, 3, 2, 2), (2, 5, 7, 2)],
    ),
    "valid maximum": (
        windowed(-jnp.inf, lax.max, (1, 3, 2), (1, 2, 1), "VALID"),
        ("B", "H", "W"),
        [(2, 1, 1), (2, 2, 4), (1, 7, 5)],
    ),
    "valid sum": (
        windowed(0, lax.add, (1, 3, 2), (1, 2, 1), [(0, 0), (0, 1), (0, 0)]),
        ("B", "H", "W"),
        [(2, 1, 1), (2, 2, 4)],
    ),
    "window of a symbolic size": (
        windowed(0, lax.add, lambda x: (2, x.shape[0]), (1, 1), "VALID"),
        ("B", 5),
        [(1, 5), (3, 5)],
    ),
    "padded, dilated": (
        windowed(
            1,
            lax.min,
            lambda x: (2, x.shape[0]),
            (1, 2),
            lambda x: ((1, 1), (x.shape[0], 2)),
            window_dilation=(1, 2),
        ),
        ("B", 5),
        [(1, 5), (3, 5)],
    ),
    "window, two results": (two_results, ("B", 5), [(1, 5), (4, 5)]),
    "stride": (
        lambda x: lax.slice_in_dim(x, 0, 4, 1 + x.shape[0] // 4, 1),
        ("B", 4),
        [(1, 4), (9, 4)],
    ),
    "halves": (
        lambda x: x.reshape(x.shape[0] // 2, 2, x.shape[1]) + 1,
        ("B", "T"),
        [(2, 3), (6, 1)],
    ),
    "pooling nothing": (
        lambda x: lax.reduce_window(x[:, 1:], 0.0, lax.add, (1, 2), (1, 2), "SAME"),
        ("B", "T"),
        [(2, 1), (3, 4)],
    ),
    "convolving nothing": (
        lambda x: lax.conv_general_dilated(x[:, 1:], KERNEL, (1, 1), "SAME", **CONV),
        ("B", "H", "W", 2),
        [(2, 1, 3, 2), (1, 3, 2, 2)],
    ),
    "no rounds": (lambda x: rows(x[1:]), ("B", "T"), [(1, 3), (4, 2)]),
    "products of nothing": (
        lambda x: lax.cumprod(x[2:], 0),
        ("B", "T"),
        [(1, 3), (4, 2)],
    ),
    "bits of nothing": (
        lambda x: jax.random.bits(jax.random.key(1), x[1:].shape),
        ("B", "T"),
        [(1, 3), (4, 2)],
    ),
    "scatter into nothing": (
        lambda x: x[1:].at[jnp.arange(3) % 2, 0].max(2.0, mode="clip"),
        ("B", "T"),
        [(1, 3), (4, 2)],
    ),
    "LU of nothing": (lax.linalg.lu, ("B", 0, 4), [(2, 0, 4)]),
    "QR of nothing": (
        lambda x: lax.linalg.qr(x, full_matrices=False),
        ("B", 4, 0),
        [(2, 4, 0)],
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_edges(name):
    fn, spec, shapes = PROGRAMS[name]
    model = j2o.compile(fn, [spec])
    for i, shape in enumerate(shapes):
        model.verify(
            np.random.default_rng(i).standard_normal(shape).astype(np.float32),
            rtol=1e-5,
            atol=1e-5,
        )


RAGGED = {  # contracting and batch dimensions, the ragged ones, the groups'; specs and shapes of the operands
    "rows": (
        ([1], [1]),
        ([], []),
        [0],
        [0],
        [("M", "K"), (2, "K", "N")],
        [(5, 3), (2, 3, 4)],
    ),
    "contracted": (
        ([1], [0]),
        ([], []),
        [1],
        [],
        [("M", "K"), ("K", "N")],
        [(4, 5), (5, 3)],
    ),
    "batch": (
        ([2], [1]),
        ([0], [0]),
        [0],
        [],
        [("B", "M", "K"), ("B", "K", "N")],
        [(5, 2, 3), (5, 3, 4)],
    ),
    "rows of a batch": (
        ([2], [2]),
        ([0], [1]),
        [1],
        [0],
        [("B", "M", "K"), (2, "B", "K", 4)],
        [(3, 5, 2), (2, 3, 2, 4)],
    ),
}


@pytest.mark.parametrize("name", RAGGED)
def test_ragged_dot(name):
    contract, batch, ragged, groups, specs, shapes = RAGGED[name]
    numbers = lax.RaggedDotDimensionNumbers((contract, batch), ragged, groups)
    model = j2o.compile(
        lambda x, y, g: lax.ragged_dot_general(x, y, g, numbers), [*specs, "i32[2]"]
    )
    x, y = (
        np.random.default_rng(i).standard_normal(s).astype(np.float32)
        for i, s in enumerate(shapes)
    )
    model.verify(x, y, np.array([2, 3], np.int32))


def test_the_mean_of_nothing():
    model = j2o.compile(lambda x: x[1:].mean(0), [("B", "T")])
    assert np.isnan(model(np.ones((1, 3), np.float32))).all()


def test_pivots_out_of_bounds():
    model = j2o.compile(
        lambda p: lax.linalg.lu_pivots_to_permutation(p, 8), ["i32[B,3]"]
    )
    model.verify(np.array([[5, 1, 9], [-1, -20, 2]], np.int32))


def test_threefry_halves_the_dimension_that_the_sizes_say():
    key, algorithm = np.arange(4, dtype=np.uint32), lax.RandomAlgorithm.RNG_THREE_FRY
    model = j2o.compile(
        lambda k, x: lax.rng_bit_generator(k, x.shape, algorithm=algorithm),
        ["u32[4]", ("B", "T")],
    )
    for shape in ((3, 5), (3, 4), (2, 5), (5, 3)):
        model.verify(key, np.ones(shape, np.float32))


def test_sums_of_integers_wrap():
    for dtype, bits in ((np.int32, 31), (np.uint32, 32)):
        model = j2o.compile(lambda x: x.sum(0), [jax.ShapeDtypeStruct((3, 1), dtype)])
        model.verify(
            np.array([[2**bits - 1], [2**bits - 1], [5]], np.int64).astype(dtype)
        )
    with enable_x64(True):
        model = j2o.compile(lambda x: x.sum(0), ["i64[B,1]"])
        model.verify(np.array([[2**63 - 1], [2**53 + 1], [5]], np.int64))


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int8])
def test_one_over_an_integer_times_another(dtype):
    spec = jax.ShapeDtypeStruct((4,), dtype)
    for fn in (
        lambda y: lax.div(jnp.ones_like(y), y) * jnp.array(6, dtype),
        lambda y: jnp.array(1, dtype) % y,
    ):
        for level in (0, 2):
            j2o.compile(fn, [spec], opt_level=level).verify(
                np.array([2, 1, 3, 0], dtype)
            )


def test_the_callers_settings_for_promotion_do_not_reach_our_own_code():
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        j2o.compile(jnp.linalg.inv, [("B", 3, 3)]).verify(
            np.eye(3, dtype=np.float32)[None] * 2
        )


def test_sizes_that_make_a_division_by_zero_do_not_stop_the_process():
    import onnxruntime as ort

    model = j2o.compile(
        lambda x, y: x.sum() + y.reshape(x.shape[0], -1).sum(0), [("B",), ("B*T",)]
    )
    session = ort.InferenceSession(
        model.to_proto().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    with pytest.raises(Exception, match="Reshape"):
        session.run(None, {"x": np.ones(0, np.float32), "y": np.ones(6, np.float32)})


SAME = [
    ("T//128*128 + T%128", "T", True),
    ("(T+127)//128", "-((-1*T)//128)", True),
    ("max(T+100, 300) - max(T, 200)", "100", True),
    ("max(T+100, 300) - max(T, 201)", "100", False),
    ("max(T, 1000)", "1000", False),
    ("T%97", "T%8633", False),
    ("min(T, 4096)//4096*4096", "min(T, 4096)", False),
    ("(S//16)*(T+1)*16", "S*T + S", True),
    ("max(S, 511)", "S", False),
    ("max(S, 512)", "512", True),
    ("3", "4", False),
]


@pytest.mark.parametrize(("a", "b", "same"), SAME)
def test_sizes_written_in_two_ways(a, b, same):
    scope = DimScope(["S <= 512", "mod(S, 16) == 0"])
    assert agree(scope.dim(a), scope.dim(b)) == same


def block(x):
    """Causal attention of four heads, a normalisation over the sequence, and a sum that a loop makes."""
    batch, length, width = x.shape
    heads = x.reshape(batch, length, 4, width // 4)
    scores = jnp.einsum("bqhd,bkhd->bhqk", heads, heads) / length
    seen = jnp.arange(length)[:, None] >= jnp.arange(length)
    mixed = jnp.einsum(
        "bhqk,bkhd->bqhd", jax.nn.softmax(jnp.where(seen, scores, -1e9)), heads
    )
    x = x + mixed.reshape(batch, length, width) - x.mean(1, keepdims=True)
    return x + lax.fori_loop(
        0, length, lambda i, s: s + x[:, i].sum() / (batch * length), jnp.float32(0)
    )


def serving(graph) -> list[tuple[str, bool]]:
    """The nodes that compute with sizes alone, and whether each stands in a loop."""
    sizes, found = set(), []
    for node in graph.walk():
        inputs = [v for v in node.inputs if v is not None and v.const is None]
        if node.op == "onnx.Shape" or (
            inputs and not node.graphs and sizes.issuperset(inputs)
        ):
            sizes.update(node.outputs)
            found.append((node.kind, node.graph is not graph))
    return found


def test_what_serves_sizes_does_not_grow_with_depth_nor_stand_in_loops():
    counts = []
    for depth in (1, 4):
        model = j2o.compile(
            lambda x, depth=depth: [x := block(x) for _ in range(depth)][-1],
            [("B", "T", 8)],
        )
        model.verify(
            np.random.default_rng(0).standard_normal((2, 3, 8)).astype(np.float32),
            rtol=1e-3,
            atol=1e-3,
        )
        nodes = serving(model.graph)
        assert not any(inside for _, inside in nodes)
        assert ("Shape", False) in nodes
        counts.append(len(nodes))
    assert counts[0] == counts[1]


def shapes_of(graph):
    """(name, shape or None) of every value of a proto's graph that a node makes, and of the graphs in it."""
    infos = {
        v.name: v
        for v in (*graph.value_info, *getattr(graph, "output", ()), *graph.input)
        if not isinstance(v, str)
    }
    for node in graph.node:
        for name in filter(None, node.output):
            info = infos.get(name)
            yield (
                name,
                info
                and [
                    d.dim_param or d.dim_value for d in info.type.tensor_type.shape.dim
                ],
            )
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from shapes_of(attribute.g)


def test_every_value_of_the_exported_model_has_a_shape():
    marked = j2o.function(block)
    model = j2o.compile(lambda x: marked(block(x)).reshape(-1, 2, 8), [("2*B", "T", 8)])
    proto = model.to_proto()
    assert len(proto.functions) == 1
    found = [
        entry for part in (proto.graph, *proto.functions) for entry in shapes_of(part)
    ]
    assert [name for name, shape in found if shape is None] == []
    assert any("2*B" in shape for _, shape in found)
    assert any("B*T" in shape for _, shape in found)


def test_a_variance_does_not_ask_whether_there_are_elements():
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    model = agrees(lambda x: x.var((1, 2)), [x], ["f32[B,H,W]"])
    assert "Where" not in operators(model)
