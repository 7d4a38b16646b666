"""Bad input gives one readable line, and leaves the disk alone."""

import jax.numpy as jnp
import numpy as np
import pytest

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
    ],
)
def test_options(options):
    with pytest.raises(j2o.SpecError):
        j2o.compile(identity, [("B",)], **options)


def test_branch_on_value():
    with pytest.raises(j2o.TraceError):
        j2o.compile(lambda x: x if x.sum() > 0 else -x, [("B",)])


def test_inconclusive_size():
    with pytest.raises(j2o.DimensionError):
        j2o.compile(lambda x: x[:5] if x.shape[0] > 5 else x, [("B",)])


def test_users_own_error_comes_through():
    def broken(x):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        j2o.compile(broken, [("B",)])


def test_missing_folder(tmp_path):
    model = j2o.compile(identity, [("B",)])
    with pytest.raises(j2o.SaveError, match="no folder"):
        model.save(tmp_path / "missing" / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_wrong_sizes():
    model = j2o.compile(lambda x, y: x + y, [("B", 2), ("B", 2)], constraints=["B <= 4"])
    assert np.allclose(model(np.ones((3, 2), np.float32), np.ones((3, 2), np.float32)), 2)
    with pytest.raises(j2o.DimensionError, match="B <= 4"):
        model(np.ones((5, 2), np.float32), np.ones((5, 2), np.float32))
    with pytest.raises(j2o.DimensionError, match="axis 0"):
        model(np.ones((3, 2), np.float32), np.ones((2, 2), np.float32))


def test_all_unsupported_operations_at_once():
    with pytest.raises(j2o.UnsupportedError) as error:
        j2o.compile(lambda x: (jnp.linalg.eigh(x)[0], jnp.linalg.svd(x)[1]), [(3, 3)])
    assert len(error.value.operations) >= 2
    assert "test_errors.py" in str(error.value)
