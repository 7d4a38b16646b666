"""Convolutions in all their forms, compared with JAX."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import j2o
from j2o.frontend.versions import enable_x64
from tests.harness import normal, operators, sized


def conv(
    x, w, strides=(1, 1), padding="SAME", layout=("NHWC", "HWIO", "NHWC"), **params
):
    return lax.conv_general_dilated(
        x, w, strides, padding, dimension_numbers=layout, **params
    )


def conv1(x, w, strides=(1,), padding="SAME", **params):
    return conv(x, w, strides, padding, ("NWC", "WIO", "NWC"), **params)


def loss(fn):
    return lambda x, w: jax.grad(lambda x, w: (fn(x, w) ** 2).sum(), argnums=(0, 1))(
        x, w
    )


def transpose(x, w, strides=(2, 2), padding="SAME", **params):
    return lax.conv_transpose(x, w, strides, padding, **params)


P = functools.partial
IMAGE, LARGER, KERNEL = ("B", "H", "W", 4), ("B", "H+2", "W+2", 4), (3, 3, 4, 6)
CASES = {
    "plain": (conv, IMAGE, KERNEL),
    "valid": (P(conv, padding="VALID"), IMAGE, KERNEL),
    "strided": (P(conv, strides=(2, 3)), IMAGE, KERNEL),
    "asymmetric": (P(conv, padding=((2, 0), (1, 5))), IMAGE, KERNEL),
    "negative": (P(conv, padding=((-1, 2), (0, -2))), LARGER, KERNEL),
    "atrous": (P(conv, rhs_dilation=(2, 1)), IMAGE, KERNEL),
    "spread_and_strided": (
        P(conv, lhs_dilation=(2, 3), strides=(3, 1), padding=((1, 0), (0, 2))),
        IMAGE,
        KERNEL,
    ),
    "other_layouts": (
        P(conv, layout=("CHNW", "IHWO", "WNCH")),
        (4, "H", "B", "W"),
        (4, 3, 3, 6),
    ),
    "grouped": (P(conv, feature_group_count=2), IMAGE, (3, 3, 2, 6)),
    "depthwise": (P(conv, feature_group_count=4), IMAGE, (3, 3, 1, 8)),
    "batch_groups": (P(conv, batch_group_count=2), ("2*B", "H", "W", 4), KERNEL),
    "one_dimension": (P(conv1, padding=[(2, 0)]), ("B", "H", 4), (3, 4, 6)),
    "three_dimensions": (
        P(conv, strides=(1, 2, 1), layout=("NDHWC", "DHWIO", "NDHWC")),
        ("B", 4, "H", 5, 2),
        (2, 3, 2, 2, 3),
    ),
    "no_dimensions": (
        P(conv, strides=(), padding=(), layout=("NC", "IO", "NC")),
        ("B", 4),
        (4, 6),
    ),
    "transpose": (transpose, IMAGE, KERNEL),
    "transpose_valid": (P(transpose, strides=(3, 2), padding="VALID"), IMAGE, KERNEL),
    "transpose_dilated": (P(transpose, rhs_dilation=(2, 2)), IMAGE, KERNEL),
    "transpose_far_padding": (P(transpose, padding=((5, 7), (0, -1))), IMAGE, KERNEL),
    "transpose_grouped": (
        P(conv, lhs_dilation=(2, 2), padding=((2, 2), (1, 3)), feature_group_count=2),
        IMAGE,
        (3, 3, 2, 6),
    ),
    "gradients": (loss(conv), IMAGE, KERNEL),
    "gradients_strided": (loss(P(conv, strides=(2, 3))), ("B", 7, 8, 4), KERNEL),
    "gradients_atrous": (loss(P(conv, rhs_dilation=(2, 1))), IMAGE, KERNEL),
    "gradients_grouped": (loss(P(conv, feature_group_count=2)), IMAGE, (3, 3, 2, 6)),
    "gradients_transpose": (loss(transpose), IMAGE, KERNEL),
    "gradients_batch_groups": (
        loss(P(conv, batch_group_count=2)),
        ("2*B", "H", "W", 4),
        KERNEL,
    ),
    "per_example_kernel": (jax.vmap(P(conv1)), ("B", 2, "H", 4), ("B", 3, 4, 6)),
    "per_example_grouped": (
        jax.vmap(P(conv1, feature_group_count=2)),
        ("B", 2, "H", 4),
        ("B", 3, 2, 6),
    ),
    "no_filters": (conv, IMAGE, (3, 3, 4, 0)),
    "no_channels": (conv, ("B", 5, 6, 0), (3, 3, 0, 2)),
    "nothing_fits": (P(conv, padding="VALID"), ("B", 2, 6, 4), KERNEL),
}


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_jax(name, level):
    fn, *specs = CASES[name]
    model = j2o.compile(fn, specs, opt_level=level)
    for sizes in ({"B": 1, "H": 7, "W": 6}, {"B": 3, "H": 8, "W": 9}):
        model.verify(*(normal(*sized(s, sizes)) for s in specs), rtol=1e-3, atol=1e-3)


DTYPES = [
    "float16",
    "bfloat16",
    "float64",
    "int8",
    "uint8",
    "int16",
    "int32",
    "int64",
    "uint32",
    "uint64",
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "form", ["plain", "strided", "transpose", "grouped", "gradients"]
)
def test_every_dtype(dtype, form):
    fn, image, kernel = CASES[form]
    if form == "gradients" and "int" in dtype:
        pytest.skip("integers have no gradients")
    with enable_x64(True):
        sizes = {"B": 2, "H": 5, "W": 6}
        x, w = (
            jnp.asarray(normal(*sized(s, sizes)) * 3).astype(dtype)
            for s in (image, kernel)
        )
        specs = [f"{dtype}[{','.join(map(str, s))}]" for s in (image, kernel)]
        loose = dtype in ("float16", "bfloat16")
        j2o.compile(fn, specs).verify(
            x, w, rtol=3e-2 if loose else 1e-9, atol=0.5 if loose else 1e-9
        )


@pytest.mark.parametrize(
    ("dtype", "result"),
    [("int8", "int32"), ("float16", "float32"), ("bfloat16", "float32")],
)
def test_preferred_element_type(dtype, result):
    x, w = (jnp.asarray(normal(*s) * 20).astype(dtype) for s in ((2, 6, 5, 4), KERNEL))
    model = j2o.compile(
        lambda x: conv(x, w, preferred_element_type=jnp.dtype(result)), [x]
    )
    model.verify(x, rtol=1e-3, atol=1e-2)


def test_channels_first_is_one_node():
    w = normal(6, 4, 3, 3)
    model = j2o.compile(
        lambda x: lax.conv(x, w, (2, 2), [(1, 1), (1, 1)]), [("B", 4, "H", "W")]
    )
    assert operators(model) == ["Conv"]


def test_transposed_convolution_is_conv_transpose():
    w = normal(*KERNEL)
    model = j2o.compile(lambda x: transpose(x, w), [IMAGE])
    assert "ConvTranspose" in operators(model)
    assert "Pad" not in operators(model)


def test_transposed_convolution_of_what_may_be_empty():
    w = normal(8, 3, 2)

    def fn(x):
        fours = x[:, : x.shape[1] // 4 * 4].reshape(x.shape[0], -1, 4, 3)
        layout = ("NWC", "WIO", "NWC")
        return transpose(fours.sum(2), w, (4,), "SAME", dimension_numbers=layout)

    model = j2o.compile(fn, [("B", "T", 3)])
    for length in (1, 3, 4, 7, 8):
        model.verify(normal(2, length, 3), rtol=1e-4, atol=1e-4)
    model = j2o.compile(fn, [("B", "T", 3)], constraints=["T >= 4"])
    assert "Pad" not in operators(model)


def test_bytes_are_convolved_as_bytes():
    w = jnp.asarray(normal(6, 4, 3, 3) * 40).astype(jnp.int8)
    model = j2o.compile(
        lambda x: lax.conv(x, w, (1, 1), "VALID", preferred_element_type=jnp.int32),
        ["i8[B,4,8,8]"],
    )
    assert operators(model) == ["ConvInteger"]


@pytest.mark.parametrize("padding", ["SAME", "SAME_LOWER"])
@pytest.mark.parametrize(
    ("strides", "dilation"), [((2, 3), 1), ((2, 5), 1), ((2, 1), 2)]
)
def test_same_padding_of_symbolic_sizes(padding, strides, dilation):
    w = normal(*KERNEL)
    model = j2o.compile(
        lambda x: conv(x, w, strides, padding, rhs_dilation=(1, dilation)), [IMAGE]
    )
    if strides == (2, 3):  # auto_pad says it: no sizes at run time
        assert operators(model) == ["Transpose", "Conv", "Transpose"]
    for h in range(1, 8):
        model.verify(normal(2, h, h + 1, 4), rtol=1e-4, atol=1e-4)


def test_zeros_that_a_program_puts_around_are_the_convolutions_own():
    w = normal(*KERNEL)

    def fn(x):
        around = jnp.pad(x, ((0, 0), (1, 2), (0, 3), (0, 0)))
        return conv(around, w, (2, 1), "VALID")

    model = j2o.compile(fn, [IMAGE])
    assert operators(model) == ["Transpose", "Conv", "Transpose"]
    model.verify(normal(2, 5, 6, 4), rtol=1e-4, atol=1e-4)


def test_nothing_is_spread_to_nothing():
    w = normal(2, 3, 3)

    def fn(x):
        some = x[:, : (x.shape[0] + 1) // 3]  # none where there is one row
        return conv1(some, w, (1,), [(1, 1)], lhs_dilation=(2,))

    model = j2o.compile(fn, ["f32[B,B,3]"])
    for size in (1, 2, 6):
        model.verify(normal(size, size, 3), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2, 3, 5])
@pytest.mark.parametrize("padding", ["VALID", [(1, 0)], [(0, 2)]])
def test_what_is_smaller_than_the_kernel_has_no_windows(padding, stride, dilation):
    """No sizes are computed at run time for that."""
    w = normal(4, 3, 2)
    model = j2o.compile(
        lambda x: conv1(x, w, (stride,), padding, rhs_dilation=(dilation,)),
        ["f32[B,T,3]"],
    )
    assert operators(model) == ["Transpose", "Conv", "Slice", "Transpose"]
    for length in range(1, 12):
        model.verify(normal(2, length, 3), rtol=1e-4, atol=1e-4)


def test_a_convolution_of_no_windows():
    w, v = normal(4, 3, 3), normal(3, 3, 2)
    model = j2o.compile(
        lambda x: conv1(conv1(x, w, (2,), "VALID"), v, (2,), "VALID"), ["f32[B,T,3]"]
    )
    assert {"Shape", "Pad"}.isdisjoint(operators(model))
    for length in (1, 3, 4, 6, 7, 8, 9, 12):
        model.verify(normal(2, length, 3), rtol=1e-4, atol=1e-4)
    model = j2o.compile(
        lambda x: conv1(x, w, (2,), "VALID"), ["f32[B,T,3]"], constraints=["T >= 4"]
    )
    assert operators(model) == ["Transpose", "Conv", "Transpose"]
