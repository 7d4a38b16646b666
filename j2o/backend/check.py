"""Whether a model is sound: structure, shapes, where its weights lie, and that onnxruntime loads it."""

from __future__ import annotations

import hashlib
import itertools
import os
from pathlib import Path
from typing import NamedTuple

import onnx

from j2o.backend.asked import Progress, in_a_line
from j2o.backend.costs import check_cost
from j2o.backend.load import read, readable
from j2o.backend.tensors import Place, Region, digest_of, messages_of, place_of
from j2o.errors import LoadError
from j2o.ir.tensor import CHUNK

LONGEST = 500  # characters that are shown of what others say


def check(
    path: str | os.PathLike[str], deep: bool = False, progress: Progress | None = None
) -> int:
    """Check structure, shapes, where the weights lie, and that onnxruntime loads the model.

    `deep` also reads the weights that have a checksum of `save`, in bounded memory, and compares; without it
    no external data is read. Returns the number of weights whose checksum is right. LoadError says what is
    wrong.
    """
    from j2o.backend.session import Session

    model = read(path)
    path = Path(path)
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise LoadError(
            f"{in_a_line(path)}: its name is not UTF-8, give the file another name"
        ) from None
    with readable(path):
        tensors = messages_of(model, onnx.TensorProto)
        found = [place_of(path, tensor) for tensor in tensors]
        places = [place for place in found if place is not None]
        _check_overlaps(path, places)
        good = _check_sums(path, model, places, progress) if deep else 0
        check_cost(path, model)
    del model  # those who look next read the file themselves
    try:
        onnx.checker.check_model(str(path))
    except Exception as error:
        raise LoadError(
            f"{in_a_line(path)}: {' '.join(str(error).split())[:LONGEST]}"
        ) from error
    Session(str(path), optimise=False)
    return good


def _check_overlaps(path: Path, places: list[Place]) -> None:
    """Weights may share all of a region, where their contents are equal, but no part of one."""
    filled = sorted(p for p in places if p.region.start < p.region.end)
    for one, other in itertools.pairwise(filled):
        first, second = one.region, other.region
        if first == second or first.file != second.file:
            continue
        if second.start < first.end:
            raise LoadError(
                f"{in_a_line(path)}: {one.name[:80]!r} and {other.name[:80]!r} overlap "
                f"in {one.location[:80]!r}"
            )


class _Sum(NamedTuple):
    """The checksum that is stored of a weight ("" for none), and that of its bytes."""

    name: str
    stored: str
    found: str


def _check_sums(
    path: Path, model: onnx.ModelProto, places: list[Place], progress: Progress | None
) -> int:
    """Read every weight, a shared region once; how many checksums were stored, all of them right."""
    sums = _sums_inside(model) + _sums_outside(path, places, progress)
    for one in sums:
        if one.stored not in ("", one.found):
            raise LoadError(
                f"{in_a_line(path)}: {one.name[:80]!r} is damaged: "
                "its bytes do not have the checksum that was stored"
            )
    return sum(bool(one.stored) for one in sums)


def _sums_inside(model: onnx.ModelProto) -> list[_Sum]:
    """The checksums of the tensors that lie in the model itself."""
    sums: list[_Sum] = []
    for tensor in messages_of(model, onnx.TensorProto):
        stored = digest_of(tensor)
        if stored and tensor.data_location != onnx.TensorProto.EXTERNAL:
            found = hashlib.sha256(tensor.raw_data).hexdigest()
            sums.append(_Sum(tensor.name, stored, found))
    return sums


def _sums_outside(
    path: Path, places: list[Place], progress: Progress | None
) -> list[_Sum]:
    """The checksums of the tensors in data files; `progress` is told the bytes read and those in all."""
    stored = [place for place in places if place.digest]
    locations = {place.region: place.location for place in stored}
    total = sum(region.end - region.start for region in locations)
    done = 0
    found: dict[Region, str] = {}
    for region, location in locations.items():
        digest = hashlib.sha256()
        with open(path.parent / location, "rb", buffering=0) as file:
            file.seek(region.start)
            while chunk := file.read(min(CHUNK, region.end - file.tell())):
                digest.update(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, total)
        found[region] = digest.hexdigest()
    return [_Sum(place.name, place.digest, found[place.region]) for place in stored]
