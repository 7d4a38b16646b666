"""Writing several models whose weights lie in one data file, each weight once.

The data is written and named first, as for one model, and stays with the names that older models know until
each of them is replaced. Renaming a `.onnx` is the one step from an old model to a new one, so that each is
complete at every instant, whichever of its neighbours are new.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from j2o.backend import external
from j2o.backend.asked import (
    Progress,
    check_folder,
    check_sizes,
    checked_limit,
    checked_path,
    guarded,
    in_a_line,
)
from j2o.backend.files import DataNames, Files, data_names_of
from j2o.errors import SaveError
from j2o.ir.graph import Graph
from j2o.ir.tensor import Tensor


class SharedModel(NamedTuple):
    """One of the models: where it goes, its message without large weights, and these by name."""

    target: Path
    message: Any
    large: dict[str, Tensor]

    def key(self, name: str) -> str:
        """A name for a weight among those of all models."""
        return f"{self.target.name}: {name}"


def save_models(
    models: Mapping[Any, tuple[Graph, int]],
    data: str | os.PathLike[str],
    *,
    max_file_bytes: int | None = None,
    progress: Progress | None = None,
    sources: bool = True,
    system: Any = os,
) -> None:
    """Write root graphs, each with its opset, as `j2o.save_models` says.

    Every call that changes the disk goes to `system`. Raises SaveError as `external.save` does, and where the
    paths do not name different files of one folder.
    """
    target = checked_path(data)
    targets = [checked_path(path) for path in models]
    limit = checked_limit(True, max_file_bytes, progress)
    for path in (target, *targets):
        check_folder(path)
    check_names(target, targets)
    parts = []
    for path, (graph, opset) in zip(targets, models.values(), strict=True):
        parts.append(SharedModel(path, *external.divided(graph, opset, sources)))
    large = _all_weights(parts)
    check_sizes(limit, large)
    total = sum(tensor.nbytes for tensor in large.values())
    names = DataNames(target.stem, target.suffix, are_shared=True)
    try:
        with ThreadPoolExecutor(3) as pool:
            files = Files(system, target, pool, guarded(progress), total, names)
            try:
                with files:
                    _write(files, parts, large, limit)
            finally:
                files.close()  # which Ctrl-C may have kept from being done
    except OSError as error:
        why = error.strerror or error
        raise SaveError(f"{in_a_line(target)}: cannot be written: {why}") from error


def check_names(data: Path, models: Sequence[Path]) -> None:
    """SaveError where the files are not of one folder, or two of them have one name."""
    folder = data.parent.resolve()
    seen = {data.name}
    for path in models:
        name = in_a_line(path)
        if path.parent.resolve() != folder:
            where = "runtimes look for data beside the model"
            raise SaveError(f"{name}: not in the folder of {in_a_line(data)}; {where}")
        if path.name in seen:
            raise SaveError(f"{name}: two files would have this name")
        seen.add(path.name)
    shared = DataNames(data.stem, data.suffix)
    for path in models:
        if data_names_of(path.name).fits(data.name):
            what = f"{path.name!r} saved alone would take this name"
            raise SaveError(f"{in_a_line(data)}: {what}; give another for the data")
        if shared.fits(path.name):
            what = f"such names are those of data files beside {data.name!r}"
            raise SaveError(f"{in_a_line(path)}: {what}; give another for the model")


def _all_weights(parts: Sequence[SharedModel]) -> dict[str, Tensor]:
    """The large weights of all models."""
    found = {}
    for part in parts:
        found |= {part.key(name): tensor for name, tensor in part.large.items()}
    return found


def _write(
    files: Files,
    parts: Sequence[SharedModel],
    large: dict[str, Tensor],
    limit: int | None,
) -> None:
    """Write the data, then the models that name it, and put these in the places of the old ones."""
    made, places = external.write_data(files, large, limit)
    for file in made:
        files.sync(file)
    files.opened.lock()
    names = external.settle(files, made, places)
    models = {}
    for part in parts:
        for name, tensor in part.large.items():
            place = places[part.key(name)]
            entry = external.entry(name, tensor, place, names[place.file])
            part.message.graph.initializer.append(entry)
        file = external.write_message(files, part.target, part.message)
        models[part.target.name] = file
    files.switch(models, names)
