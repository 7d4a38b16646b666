"""Objects that the command line names as `pkg.module:name` or `path/to/file.py:name`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from j2o.errors import J2OError, SpecError, meant, raised


def load(what: str, text: str) -> Any:
    """The object that `module:attribute.path` names; SpecError says which part of `what` is not there."""
    module_name, colon, path = text.partition(":")
    if not colon or not path or not module_name:
        advice = _colon_put(text) or "pkg.module:name, or path/to/file.py:name"
        raise SpecError(f"{what} {text!r}: write it as {advice}")
    is_file = module_name.endswith(".py")
    if is_file and not Path(module_name).is_file():
        raise SpecError(f"{what}: there is no file {module_name!r}")
    load_module = _load_file if is_file else _load_module
    try:
        found = load_module(module_name)
    except J2OError:
        raise
    except (Exception, SystemExit) as error:
        why = f"{module_name} cannot be imported: {raised(error)}"
        raise SpecError(f"{what} {text!r}: {why}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            where = getattr(found, "__name__", type(found).__name__)
            near = meant(part, filter(str.isidentifier, dir(found)))
            raise SpecError(f"{what} {text!r}: {where} has no {part!r}{near}")
        found = getattr(found, part)
    return found


def _colon_put(text: str) -> str:
    """`file.py:NAME` for a file alone, `pkg.module:name` for `pkg.module.name`; "" for what is neither."""
    if text.endswith(".py"):
        return f"{text}:NAME"
    module, dot, name = text.rpartition(".")
    return f"{module}:{name}" if dot and module and name and ":" not in text else ""


def _load_module(name: str) -> Any:
    """A module by its name, also from the folder in which one is."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return importlib.import_module(name)


def _load_file(path: str) -> Any:
    """The module that a file is, whatever else bears its name; its neighbours can be imported by it.

    A file is one module, however often it is named: its classes are the same, and its weights too.
    """
    file = Path(path)
    loaded = _loaded_from(file)
    if loaded is not None:
        return loaded
    sys.path.insert(0, str(file.resolve().parent))
    name = _free_name(file.stem)
    spec = importlib.util.spec_from_file_location(name, file.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)  # what is half made is not found again
        raise
    return module


def _loaded_from(file: Path) -> Any:
    """The module that has been loaded from a file, also where another one has imported it; None for none."""
    for name, module in list(sys.modules.items()):
        source = getattr(module, "__dict__", {}).get("__file__")
        if not isinstance(source, str) or name == "__main__":
            continue
        is_near = os.path.basename(source) == file.name
        if is_near and Path(source).resolve() == file.resolve():
            return module
    return None


def _free_name(stem: str) -> str:
    """The name of a file's module: its own where no other module has it."""
    name = stem
    count = 1
    while name in sys.modules:
        name = f"j2o_program_{stem}" + (f"_{count}" if count > 1 else "")
        count += 1
    return name
