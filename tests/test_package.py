"""The package as users get it: what wheel and sdist hold, its types, its help, what other systems lack."""

import email
import inspect
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import j2o
from j2o.request import CompileOptions
from tests.test_save import POSIX

ROOT = Path(__file__).parents[1]
USER = Path(__file__).with_name("typed_user.py")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the wheel and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture(scope="module")
def wheel(built):
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith("/METADATA")]
    return email.message_from_bytes(wheel.read(name))


def sources():
    """Every file of the package in the checkout but what Python makes."""
    paths = (path for path in (ROOT / "j2o").rglob("*") if path.is_file())
    return {
        str(path.relative_to(ROOT)) for path in paths if "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == sources()
    assert "j2o/py.typed" in names


def test_the_wheel_has_the_licence(wheel, metadata):
    assert metadata["License-Expression"] == "Apache-2.0 AND MIT"
    files = ["LICENSE", "j2o/page/vendor/dagre.LICENSE"]
    assert sorted(metadata.get_all("License-File")) == files
    (name,) = [name for name in wheel.namelist() if name.endswith("/LICENSE")]
    assert wheel.read(name) == (ROOT / "LICENSE").read_bytes()
    assert b"Apache License" in wheel.read(name)


def test_the_page_of_the_package_has_no_link_into_the_checkout(metadata):
    page = metadata.get_payload()
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "`docs/calls.md`" in page
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert [link for link in links if not link.startswith("https://")] == []


def test_the_sdist_holds_all_that_building_and_testing_needs(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = ["LICENSE", "README.md", "CHANGELOG.md", "hatch_build.py", "docs/calls.md"]
    wanted += ["pyproject.toml", "tests/test_package.py", "examples/zoo.py"]
    assert sources() | set(wanted) <= names


def test_a_type_checker_knows_the_types_of_a_users_program(tmp_path):
    """mypy reads j2o as a user's checker does; what j2o itself stands on is not its matter."""
    (tmp_path / "user.py").write_text(USER.read_text())
    settings = tmp_path / "mypy.ini"
    settings.write_text(
        "[mypy]\nstrict = true\n"
        "[mypy-j2o.*]\nignore_errors = true\n"
        "[mypy-jax.*,numpy.*,onnx.*,onnx_ir.*,networkx.*]\nfollow_imports = skip\n"
    )
    command = ["-m", "mypy", "--config-file", settings, tmp_path / "user.py"]
    _checks(command, tmp_path)


def test_pyright_knows_the_types_of_a_users_program(tmp_path):
    (tmp_path / "user.py").write_text(USER.read_text())
    settings = {
        "include": ["user.py"],
        "extraPaths": [str(ROOT)],
        "reportUnnecessaryTypeIgnoreComment": "error",
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    _checks(["-m", "pyright", "--pythonpath", sys.executable], tmp_path)


def _checks(command, folder):
    """The checker finds nothing wrong with a file outside of the checkout."""
    there = dict(os.environ, MYPYPATH=str(ROOT), PYTHONPATH=str(ROOT))
    told = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=there,
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stdout + told.stderr


def test_help_describes_every_parameter_of_compile():
    text = inspect.cleandoc(j2o.compile.__doc__ or "")
    described = re.findall(r"^    (\w+): ", text, re.MULTILINE)
    assert described == list(inspect.signature(j2o.compile).parameters)


def test_each_parameter_of_compile_by_keyword_is_an_option():
    parameters = inspect.signature(j2o.compile).parameters.values()
    options = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
    assert options == list(CompileOptions.__annotations__)


WITHOUT_POSIX = """
import importlib, os, pkgutil, sys
import numpy as np
for name in ["fcntl", "grp", "pwd", "resource", "termios"]:
    sys.modules[name] = None
for name in dir(os):
    if name in sys.argv[1:]:
        delattr(os, name)
import j2o
for module in pkgutil.walk_packages(j2o.__path__, "j2o."):
    if module.name != "j2o.__main__":
        importlib.import_module(module.name)
model = j2o.compile(abs, ["f32[B]"])
assert model(np.array([-1.0, 2.0], np.float32)).tolist() == [1.0, 2.0]
"""


def test_every_module_is_imported_and_a_model_runs_without_what_only_posix_has():
    subprocess.run([sys.executable, "-c", WITHOUT_POSIX, *POSIX], check=True, cwd=ROOT)
