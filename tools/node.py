"""Node and its packages of onnxruntime, for the snippets of pages: `tools/node_packages` fetches them."""

from __future__ import annotations

import shutil
from pathlib import Path

MODULES = Path(__file__).parents[1] / ".venv-node" / "node_modules"


def has_node() -> bool:
    """Whether there is a `node` at all."""
    return shutil.which("node") is not None


def has_packages() -> bool:
    """Whether scripts that use onnxruntime can run."""
    return has_node() and (MODULES / "onnxruntime-node").is_dir()
