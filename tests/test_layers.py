"""The import arrows of the architecture, a lazy `import j2o`, and foreign modules left as they were."""

import ast
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import j2o

PACKAGE = Path(j2o.__file__).parent
ALLOWED = {
    "ir": {"ir", "errors"},
    "frontend": {"frontend", "ir", "errors"},
    "backend": {"backend", "ir", "errors"},
    "passes": {"passes", "ir", "errors"},
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names)


@pytest.mark.parametrize("layer", ALLOWED)
def test_arrows(layer):
    for path in (PACKAGE / layer).rglob("*.py"):
        own = {m.split(".")[1] for m in imports(path) if m.startswith("j2o.")}
        assert own <= ALLOWED[layer], path


def test_private_jax_and_onnx_stay_where_they_belong():
    for path in PACKAGE.rglob("*.py"):
        where = path.relative_to(PACKAGE).as_posix()
        names = list(imports(path))
        if any(m.startswith("jax._src") for m in names):
            assert where.startswith("frontend/") or where == "ir/dims.py", where
        if any(m.split(".")[0] in ("onnx", "onnx_ir") for m in names):
            assert where.startswith("backend/") or where in (
                "ir/onnx_ops.py",
                "model.py",
            ), where


def test_import_is_lazy():
    code = "import j2o, sys; print([m for m in ('jax', 'flax', 'onnxruntime', 'onnx') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True
        ).stdout.strip()
        == "[]"
    )


def test_foreign_modules_are_not_touched():
    from flax import nnx

    modules = [jax, jax.numpy, jax.lax, jax.nn, nnx, nnx.Linear]
    before = [dict(vars(m)) for m in modules]
    net = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    j2o.compile(net, [("B", 3)])
    for module, old in zip(modules, before, strict=True):
        assert all(vars(module).get(k) is v for k, v in old.items()), module
