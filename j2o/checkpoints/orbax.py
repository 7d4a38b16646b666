"""`open_orbax`: checkpoint folders of orbax, as tensorstore reads them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from j2o.arguments import check_installed, existing_path
from j2o.errors import SpecError
from j2o.frozen import LazyArray
from j2o.ir.tensor import Reader
from j2o.readers import MAPPED


class Key(NamedTuple):
    """One step from the root of the tree to a leaf: the key of a dict, or the index of a list."""

    name: str
    is_index: bool


class Entry(NamedTuple):
    """A leaf of the tree: the way to it, and whether there is an array."""

    keys: tuple[Key, ...]
    has_array: bool


class StoredLeaf(NamedTuple):
    keys: tuple[Key, ...]  # from where the leaf is looked at
    array: LazyArray | None


def open_orbax(path: Any) -> Any:
    """The weights of an orbax checkpoint folder as its tree, sequences as lists, of lazy arrays.

    Only metadata is read here; each weight is read by tensorstore, chunk by chunk, while the model
    is written. Needs the extra `orbax`. SpecError where that is not installed, where there is no
    checkpoint, or a weight of it is missing or damaged.
    """
    check_installed("open_orbax", "tensorstore", extra="orbax")
    path = existing_path("open_orbax: path", path).absolute()
    if not (path / "_METADATA").is_file():
        raise _refused(
            f"{str(path)!r} is not the folder of an orbax checkpoint{_hint(path)}"
        )
    metadata, entries = _read_metadata(path / "_METADATA")
    # all are being opened at the same time
    opening = [
        _start_to_open(path, metadata, entry) if entry.has_array else None
        for entry in entries
    ]
    leaves = []
    for entry, finish in zip(entries, opening, strict=True):
        leaves.append(StoredLeaf(entry.keys, finish() if finish is not None else None))
    return _tree(leaves)


def _hint(path: Path) -> str:
    """Where a checkpoint lies below a folder that is none, for a message."""
    inner = []
    for depth in ("*", "*/*"):
        inner += [found.parent for found in path.glob(f"{depth}/_METADATA")]
    return f"; {str(max(inner))!r} is one" if inner else ""


def _read_metadata(file: Path) -> tuple[dict[str, Any], list[Entry]]:
    """What is said of the whole checkpoint, and its leaves."""
    try:
        metadata = json.loads(file.read_bytes())
        entries = [
            _entry(described) for described in metadata["tree_metadata"].values()
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _refused(f"{str(file)!r} is damaged: {error!r}") from None
    return metadata, entries


def _entry(described: dict[str, Any]) -> Entry:
    keys = [Key(str(k["key"]), k["key_type"] == 1) for k in described["key_metadata"]]
    has_array = not described["value_metadata"].get("skip_deserialize")
    return Entry(tuple(keys), has_array)


# ------------------------------------------------------------------------------------ arrays


def _start_to_open(
    path: Path, metadata: dict[str, Any], entry: Entry
) -> Callable[[], LazyArray]:
    """Start to open one array; calling the result waits for it."""
    import tensorstore

    spec = _spec(path, metadata, ".".join(key.name for key in entry.keys))
    pending = tensorstore.open(spec, read=True, open=True)

    def finish() -> LazyArray:
        try:
            array = pending.result()
        except ValueError as error:
            where = "/".join(key.name for key in entry.keys)
            what = " ".join(str(error).split())
            raise _refused(f"{where} cannot be opened: {what}") from error
        return LazyArray(array.shape, array.dtype.numpy_dtype, lambda: _reader(spec))

    return finish


def _spec(path: Path, metadata: dict[str, Any], name: str) -> dict[str, Any]:
    """What tensorstore needs to know of where an array lies, and how."""
    store = {"driver": "file", "path": f"{path}/{name}/"}
    if metadata.get("use_ocdbt"):
        store = {"driver": "ocdbt", "base": f"file://{path}/", "path": f"{name}/"}
    driver = "zarr3" if metadata.get("use_zarr3") else "zarr"
    return {"driver": driver, "kvstore": store}


def _reader(spec: dict[str, Any]) -> Reader:
    """Reads boxes of an array, chunks that were decoded are kept up to a limit."""
    import tensorstore

    context = tensorstore.Context({"cache_pool": {"total_bytes_limit": MAPPED}})
    array: Any = tensorstore.open(spec, read=True, open=True, context=context).result()
    elements = math.prod(array.chunk_layout.read_chunk.shape or ())
    if elements * array.dtype.numpy_dtype.itemsize <= MAPPED:
        return lambda box: array[box].read().result()
    # a chunk that is too large to keep would be decoded for every box
    whole_array = array.read().result()
    return lambda box: whole_array[(*box, ...)]


# ------------------------------------------------------------------------------------ the tree


def _tree(leaves: Sequence[StoredLeaf]) -> Any:
    """Nested dicts and lists of arrays; what has no array is an empty dict."""
    if len(leaves) == 1 and not leaves[0].keys:
        array = leaves[0].array
        return {} if array is None else array
    groups: dict[Key, list[StoredLeaf]] = {}
    for leaf in leaves:
        first, *rest = leaf.keys
        groups.setdefault(first, []).append(StoredLeaf(tuple(rest), leaf.array))
    if all(key.is_index for key in groups):
        in_order = sorted(groups, key=lambda key: int(key.name))
        return [_tree(groups[key]) for key in in_order]
    return {key.name: _tree(group) for key, group in groups.items()}


def _refused(why: str) -> SpecError:
    return SpecError(f"open_orbax: {why}")
