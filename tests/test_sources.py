"""Source lines in a model.

The user's own, from the package or project on, the same wherever the files lie.
"""

import subprocess
import sys
import textwrap

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import j2o
from j2o.ir.places import portable


def sources_of(model, **options):
    return [
        p.value
        for n in model.to_proto(**options).graph.node
        for p in n.metadata_props
        if p.key == "source"
    ]


def here(x):
    return jnp.tanh(x) * 2  # here


def line_of(fn, word):
    import inspect

    lines, first = inspect.getsourcelines(fn)
    return first + next(i for i, line in enumerate(lines) if word in line)


def test_the_users_line():
    assert set(sources_of(j2o.compile(here, [("B",)]))) == {
        f"tests/test_sources.py:{line_of(here, '# here')}"
    }


@pytest.mark.parametrize(
    "fn", [jnp.tanh, jax.jit(jnp.tanh), jax.nn.softmax], ids=["plain", "jit", "softmax"]
)
def test_what_no_user_wrote_has_no_line(fn):
    assert sources_of(j2o.compile(fn, [(3,)])) == []


def test_libraries_from_their_package_on():
    linear = j2o.compile(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), [("B", 3)])
    assert {s.rpartition(":")[0] for s in sources_of(linear)} == {
        "flax/nnx/nn/linear.py"
    }
    dense = j2o.compile(
        jax.vmap(eqx.nn.Linear(3, 4, key=jax.random.key(0))), [("B", 3)], name="dense"
    )
    assert {s.rpartition(":")[0] for s in sources_of(dense)} == {
        "equinox/nn/_linear.py"
    }


def test_a_marked_function_of_another():
    @j2o.function(name="mine")
    def marked(x):
        return jnp.tanh(x)

    model = j2o.compile(lambda x: marked(marked(x)), [(3,)])
    inside = [
        p.value
        for f in model.to_proto().functions
        for n in f.node
        for p in n.metadata_props
    ]
    assert inside
    assert all(s.startswith("tests/test_sources.py:") for s in inside)


def test_they_can_be_left_out(tmp_path):
    import onnx

    model = j2o.compile(here, [("B",)])
    assert sources_of(model, sources=False) == []
    model.save(tmp_path / "m.onnx", sources=False)
    assert b"test_sources" not in (tmp_path / "m.onnx").read_bytes()
    assert not any(n.metadata_props for n in onnx.load(tmp_path / "m.onnx").graph.node)
    with pytest.raises(j2o.SpecError, match="sources"):
        model.save(tmp_path / "n.onnx", sources="no")
    assert not (tmp_path / "n.onnx").exists()


def test_errors_keep_the_whole_path():
    with pytest.raises(j2o.TraceError, match=__file__):
        j2o.compile(lambda x: x if x else -x, [()])


def test_where_paths_begin(tmp_path):
    project, package, alone = (
        tmp_path / "project",
        tmp_path / "lib" / "top" / "inner",
        tmp_path / "alone",
    )
    for folder in (project / "src", package, alone):
        folder.mkdir(parents=True)
    (project / "pyproject.toml").touch()
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    assert portable(str(project / "src" / "train.py")) == "src/train.py"
    assert portable(str(package / "net.py")) == "top/inner/net.py"
    assert portable(str(alone / "net.py")) == "net.py"
    assert (
        portable("/home/me/.venv/lib/python3.12/site-packages/flax/nnx/nn/linear.py")
        == "flax/nnx/nn/linear.py"
    )
    assert portable(textwrap.__file__) == "textwrap.py"
    assert portable("<stdin>") == "<stdin>"
    assert portable("/tmp/ipykernel_4711/1234567.py") == "<cell>"
    assert portable("<ipython-input-3-5f3a>") == "<cell>"


PROGRAM = """
import functools, sys
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
import j2o

class Net(nnx.Module):
    '''A module with a docstring.'''
    def __init__(self, rngs):
        self.hidden = nnx.Linear(4, 4, rngs=rngs)
        self.act = functools.partial(jnp.clip, max=lambda: 0) and jnp.tanh
    @j2o.function
    def block(self, x):
        return self.act(self.hidden(x))
    def __call__(self, x):
        return jax.lax.fori_loop(0, 3, lambda i, c: self.block(c), x)

j2o.compile(Net(nnx.Rngs(0)), [("B", 4)]).save("net.onnx")
j2o.compile(lambda x: jnp.where(x > 0, x, 0) + jnp.arange(4.0), [("B", 4)], opt_level=0).save("plain.onnx")
"""


def test_the_same_program_in_two_folders_gives_the_same_bytes(tmp_path):
    secrets = [tmp_path / "alice" / "one", tmp_path / "bob" / "another" / "place"]
    written = []
    for folder in secrets:
        folder.mkdir(parents=True)
        (folder / "program.py").write_text(PROGRAM)
        subprocess.run([sys.executable, "program.py"], cwd=folder, check=True)
        written.append(
            [(folder / name).read_bytes() for name in ("net.onnx", "plain.onnx")]
        )
    assert written[0] == written[1]
    for data in written[0]:
        assert b"program.py:" in data
        for leak in (
            b"alice",
            b"/home",
            b"/tmp",
            b"/work",
            b"0x",
            b"site-packages",
            b"docstring",
            str(tmp_path).encode(),
        ):
            assert leak not in data, leak
