"""What some snippets of pages need and not every machine has.

`tools/node_packages` fetches the packages of Node. A variable, such as `$ORT`, is set by whoever has what it
tells the place of. Every other name is a module of Python.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

MODULES = Path(__file__).parents[1] / ".venv-node" / "node_modules"
PACKAGES = ("onnxruntime-node", "onnxruntime-web")


def is_here(name: str | None) -> bool:
    """Whether this machine has what a page names; nothing is always there."""
    if name is None:
        return True
    if name.startswith("$"):
        return name[1:] in os.environ
    if name == "node":
        return shutil.which("node") is not None
    if name in PACKAGES:
        return is_here("node") and (MODULES / name).is_dir()
    return importlib.util.find_spec(name) is not None
