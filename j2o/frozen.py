"""Frozen weights: trees whose leaves become initializers, read only while the model is written."""

from __future__ import annotations

import json
import math
import mmap
import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from j2o.arguments import existing_path
from j2o.errors import SpecError, shortened, shown
from j2o.ir.tensor import (
    CHUNK,
    ArrayTensor,
    Box,
    LazyTensor,
    Reader,
    Tensor,
    extents,
    whole,
)
from j2o.ir.types import DType, Type, dtype_of

MAPPED = (
    4 * CHUNK
)  # bytes of a mapped file or of decoded pieces of a checkpoint that may stay in memory


@dataclass(frozen=True)
class Weights:
    """A pytree argument that is frozen into the model; see `weights`."""

    tree: Any


def weights(tree: Any) -> Weights:
    """Mark a pytree argument of `compile` as frozen: its leaves become initializers named after their tree path.

    Leaves may be numpy or JAX arrays (also sharded over devices), `np.memmap`, or what `lazy`, `open_safetensors` and
    `open_orbax` give. None is copied; those that are not in memory are read while saving, in pieces where that is possible.
    Their contents must not change between `compile` and the last use of the model.
    """
    return Weights(tree)


class LazyArray:
    """An array with a shape and a dtype that is read when it is needed, through what `open()` gives; a leaf for JAX's trees."""

    __slots__ = ("dtype", "open", "shape")

    def __init__(
        self, shape: Iterable[int], dtype: Any, open: Callable[[], Reader]
    ) -> None:
        self.shape, self.dtype, self.open = tuple(shape), np.dtype(dtype), open

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def load(self) -> np.ndarray:
        return self.open()(whole(self.shape))

    __array__ = None  # numpy must not read it by accident

    def __repr__(self) -> str:
        return f"lazy({self.dtype}{list(self.shape)})"


def lazy(shape: Sequence[int], dtype: Any, load: Callable[[], Any]) -> LazyArray:
    """A leaf for `weights` whose data `load()` gives, called while the model is saved (once, or twice to quantise).

    SpecError where shape and dtype are none; SpecError while saving where `load()` fails or gives something else.
    """
    if not callable(load):
        raise SpecError(
            f"lazy: load is {shown(load)}; a function that returns the array is needed"
        )
    try:
        made = LazyArray(map(operator.index, shape), dtype, lambda: _whole(made, load))
        if dtype is None:
            raise TypeError("None is no dtype")
        _dtype(made.dtype)
        if min(made.shape, default=0) < 0:
            raise ValueError("a size is negative")
        if math.prod(n or 1 for n in made.shape) >= 2**63:
            raise ValueError("more than 2**63 - 1 elements")
    except (TypeError, ValueError) as error:
        raise SpecError(
            f"lazy({shown(shape)}, {shown(dtype)}): not the shape and dtype of an array: {error}"
        ) from None
    return made


def _whole(array: LazyArray, load: Callable[[], Any]) -> Reader:
    """Reads boxes of what `load()` gives, called when the first is read."""
    loaded: list[np.ndarray] = []

    def read(box: Box) -> np.ndarray:
        if not loaded:
            found = _unmasked(load())
            if found.shape != array.shape or found.dtype != array.dtype:
                raise SpecError(
                    f"load() gave {found.dtype}{list(found.shape)}, declared is {array!r}"
                )
            loaded.append(found)
        return loaded[0][(*box, ...)]

    return read


def _unmasked(array: Any) -> np.ndarray:
    """As a plain array; TypeError for a masked one, whose mask no model keeps."""
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            "it is a masked array, a model has no masks; array.filled(value) is a plain one"
        )
    return np.asarray(array)


def tensor_of(leaf: Any, key: str | None) -> Tensor:
    """A leaf as a constant of the IR, without copying or reading it; SpecError where it is no array.

    Without a key, the constant gets one of its content (small) or a number.
    """
    name = key or f"weights_{id(leaf)}"
    if _is_tracer(leaf):
        raise SpecError(
            f"weights {name!r}: {shown(leaf)} is a tracer, which has no values; compile outside of jit, grad and vmap"
        )
    try:
        if isinstance(leaf, LazyArray):
            return LazyTensor(Type(_dtype(leaf.dtype), leaf.shape), name, leaf.open)
        if isinstance(leaf, np.memmap) and leaf._mmap is not None:  # type: ignore[attr-defined]
            return _lazy_tensor(leaf, name, lambda: _map_reader(leaf))
        if isinstance(leaf, np.ndarray) and not leaf.dtype.isnative:
            return _lazy_tensor(
                leaf,
                name,
                lambda: (
                    lambda box: leaf[(*box, ...)].astype(leaf.dtype.newbyteorder("="))
                ),
            )
        if isinstance(leaf, np.ndarray | np.generic | int | float | complex | bool):
            array = _unmasked(leaf)
            _dtype(array.dtype)
            return ArrayTensor(array, key)
        if hasattr(leaf, "addressable_shards"):
            return _jax_tensor(leaf, key, name)
    except (
        TypeError,
        RuntimeError,
    ) as error:  # a dtype that ONNX lacks, an array that was deleted
        raise SpecError(f"weights {name!r}: {shortened(str(error), 200)}") from error
    what = f"is a {type(leaf).__name__}, not an array; numpy and JAX arrays, np.memmap and j2o.lazy(…) are"
    raise SpecError(f"weights {name!r}: {what}")


def _is_tracer(leaf: Any) -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(leaf, jax.core.Tracer)


def _lazy_tensor(leaf: Any, name: str, open: Callable[[], Reader]) -> LazyTensor:
    return LazyTensor(Type(_dtype(leaf.dtype), leaf.shape), name, open)


def _dtype(given: Any) -> DType:
    """The dtype of a weight in the IR, in this machine's byte order; TypeError where it has none."""
    dtype = dtype_of(np.dtype(given).newbyteorder("="))
    if dtype == DType.STRING:
        raise TypeError("an array of objects has no numbers to store")
    return dtype


def _jax_tensor(leaf: Any, key: str | None, name: str) -> Tensor:
    """On one CPU device, the array's own memory; elsewhere, what shards are asked for. Typed PRNG keys as their data."""
    import jax

    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return ArrayTensor(np.asarray(jax.random.key_data(leaf)), key)
    if not leaf.is_fully_addressable:
        raise SpecError(
            f"weights {name!r}: a part of it lies on devices of other processes; gather it first"
        )
    devices = leaf.sharding.device_set
    if len(devices) == 1 and next(iter(devices)).platform == "cpu":
        return ArrayTensor(np.asarray(leaf), key)
    return _lazy_tensor(leaf, name, lambda: lambda box: _from_shards(leaf, box))


def own_key(path: str, leaf: Any, taken: dict[str, Any]) -> str:
    """`path`, numbered where another array has it already; `taken` learns it. Equal keys mean equal contents."""
    key, n = path, 0
    while taken.setdefault(key, leaf) is not leaf:
        n += 1
        key = f"{path}_{n}"
    return key


def loaded(tree: Any) -> Any:
    """A tree of weights with every lazy leaf read."""
    import jax

    return jax.tree.map(
        lambda x: x.load() if isinstance(x, LazyArray) else jax.numpy.asarray(x), tree
    )


def _map_reader(leaf: np.memmap) -> Reader:
    """Reads a mapped file without copying; pages that were read are given back, but for private changes to them."""
    pages: mmap.mmap = leaf._mmap  # type: ignore[attr-defined]
    if pages.size() < leaf.offset - leaf.offset % mmap.ALLOCATIONGRANULARITY + len(
        pages
    ):
        raise SpecError(f"the file {leaf.filename} was truncated after it was mapped")
    plain, read_bytes = np.asarray(leaf), 0
    native = plain.dtype.newbyteorder("=")

    def read(box: Box) -> np.ndarray:
        nonlocal read_bytes
        if read_bytes > MAPPED and leaf.mode != "c" and hasattr(pages, "madvise"):
            pages.madvise(mmap.MADV_DONTNEED)
            read_bytes = 0
        piece = plain[(*box, ...)]
        read_bytes += piece.nbytes
        return piece.astype(native, copy=False)

    return read


def _from_shards(array: Any, box: Box) -> np.ndarray:
    """A box of a JAX array, put together from the parts of its shards; no shard leaves its device whole for a part."""
    out = np.empty(extents(box), array.dtype)
    for shard in array.addressable_shards:
        if shard.replica_id != 0:
            continue
        has = [s.indices(d)[:2] for s, d in zip(shard.index, array.shape, strict=True)]
        both = [
            (max(a, s.start), min(b, s.stop))
            for (a, b), s in zip(has, box, strict=True)
        ]
        if all(a < b for a, b in both):
            inside = tuple(
                slice(a - start, b - start)
                for (a, b), (start, _) in zip(both, has, strict=True)
            )
            here = tuple(
                slice(a - s.start, b - s.start)
                for (a, b), s in zip(both, box, strict=True)
            )
            on_cpu = (
                shard.device.platform == "cpu"
            )  # where numpy sees the memory itself
            out[here] = (
                np.asarray(shard.data)[inside]
                if on_cpu
                else np.asarray(shard.data[inside])
            )
    return out


# ------------------------------------------------------------------------------------------------ safetensors


_SAFETENSORS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool",
                "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
                **{f"{s}{n}": f"{'u' * (s == 'U')}int{n}" for s in "IU" for n in (8, 16, 32, 64)}}  # fmt: skip


def open_safetensors(path: Any) -> dict[str, LazyArray]:
    """The weights of a safetensors file, or of the files beside it that an index (`….json`) names, by name.

    Only headers are read here; each weight is read in slices while the model is written. Needs the extra `safetensors`.
    SpecError names the file or weight that is missing, damaged, outside the index's folder, or of a dtype that ONNX lacks.
    """
    path = existing_path("open_safetensors: path", path)
    if not path.is_file():
        raise SpecError(f"open_safetensors: there is no file {shown(str(path))}")
    if path.suffix != ".json":
        return {name: leaf for name, leaf in _safetensors(path)}
    index = _index(path)
    files = {
        file: dict(_safetensors(path.parent / file))
        for file in sorted(set(index.values()))
    }
    for name, file in index.items():
        if name not in files[file]:
            raise SpecError(
                f"open_safetensors: {path.name} says that {file} has {name!r}, which is not there"
            )
    return {name: files[file][name] for name, file in index.items()}


def _index(path: Path) -> dict[str, str]:
    """Which file has which weight; files that an index names lie in its own folder."""
    try:
        found = json.loads(path.read_bytes())["weight_map"]
        entries = [(str(name), str(file)) for name, file in found.items()]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SpecError(
            f"open_safetensors: {str(path)!r} is not an index; JSON with a 'weight_map' of names to files is"
        ) from None
    for name, file in entries:
        if (
            Path(file).name != file
            or "\\" in file
            or not (path.parent / file).is_file()
        ):
            raise SpecError(
                f"open_safetensors: {path.name} puts {name!r} in {file!r}, no file in the index's folder"
            )
    return dict(entries)


def _safetensors(path: Path) -> Iterator[tuple[str, LazyArray]]:
    import ml_dtypes
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118  (the file is no mapping)
                piece = file.get_slice(name)
                text = _SAFETENSORS.get(piece.get_dtype())
                if text is None:
                    raise SpecError(
                        f"open_safetensors: {name!r} of {path.name} is {piece.get_dtype()}, not an ONNX dtype"
                    )
                dtype = np.dtype(getattr(ml_dtypes, text, text))
                yield (
                    name,
                    LazyArray(
                        piece.get_shape(),
                        dtype,
                        lambda name=name: _slices(safe_open, path, name),
                    ),
                )
    except (SafetensorError, OSError) as error:
        raise SpecError(
            f"open_safetensors: {str(path)!r} is no safetensors file: {error}"
        ) from error


def _slices(safe_open: Any, path: Path, name: str) -> Reader:
    file = safe_open(path, framework="numpy")
    piece = file.get_slice(name)
    return lambda box: piece[box] if box else file.get_tensor(name)


# ----------------------------------------------------------------------------------------------------- orbax


def open_orbax(path: Any) -> Any:
    """The weights of an orbax checkpoint folder as its tree, sequences as lists, of lazy arrays.

    Only metadata is read here; each weight is read by tensorstore, chunk by chunk, while the model is written. Needs the
    extra `orbax`. SpecError where there is no checkpoint, or a weight of it is missing or damaged.
    """
    path = existing_path("open_orbax: path", path).absolute()
    if not (path / "_METADATA").is_file():
        inner = sorted(
            p.parent for depth in ("*", "*/*") for p in path.glob(f"{depth}/_METADATA")
        )
        hint = f"; {str(inner[-1])!r} is one" if inner else ""
        raise SpecError(
            f"open_orbax: {str(path)!r} is not the folder of an orbax checkpoint{hint}"
        )
    try:
        metadata = json.loads((path / "_METADATA").read_bytes())
        entries = [
            (
                [(str(k["key"]), k["key_type"] == 1) for k in entry["key_metadata"]],
                entry["value_metadata"],
            )
            for entry in metadata["tree_metadata"].values()
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SpecError(
            f"open_orbax: {str(path / '_METADATA')!r} is damaged: {error!r}"
        ) from None
    opened = [
        (
            [k for k in keys],
            None
            if value.get("skip_deserialize")
            else _stored(path, metadata, [k for k, _ in keys]),
        )
        for keys, value in entries
    ]
    return _tree([(keys, store and store()) for keys, store in opened])


def _stored(
    path: Path, metadata: dict[str, Any], keys: Sequence[str]
) -> Callable[[], LazyArray]:
    """Starts to open one array; calling the result waits for it."""
    import tensorstore as ts

    name = ".".join(keys)
    store: dict[str, Any] = {"driver": "file", "path": f"{path}/{name}/"}
    if metadata.get("use_ocdbt"):
        store = {"driver": "ocdbt", "base": f"file://{path}/", "path": f"{name}/"}
    spec = {
        "driver": "zarr3" if metadata.get("use_zarr3") else "zarr",
        "kvstore": store,
    }

    def open() -> Reader:
        context = ts.Context({"cache_pool": {"total_bytes_limit": MAPPED}})
        array = ts.open(spec, read=True, open=True, context=context).result()
        chunk = (
            math.prod(array.chunk_layout.read_chunk.shape or ())
            * array.dtype.numpy_dtype.itemsize
        )  # type: ignore[arg-type]
        if chunk <= MAPPED:
            return lambda box: array[box].read().result()
        whole_array = (
            array.read().result()
        )  # one chunk after the other would be decoded for every box
        return lambda box: whole_array[(*box, ...)]

    pending = ts.open(spec, read=True, open=True)

    def leaf() -> LazyArray:
        try:
            array = pending.result()
        except ValueError as error:
            what = " ".join(str(error).split())
            raise SpecError(
                f"open_orbax: {'/'.join(keys)} cannot be opened: {what}"
            ) from error
        return LazyArray(array.shape, array.dtype.numpy_dtype, open)

    return leaf


def _tree(entries: Sequence[tuple[Sequence[tuple[str, bool]], Any]]) -> Any:
    """Nested dicts and lists of leaves at paths of (key, whether it is an index); what has no array is an empty dict."""
    if len(entries) == 1 and not entries[0][0]:
        return {} if entries[0][1] is None else entries[0][1]
    groups: dict[tuple[str, bool], list[Any]] = {}
    for keys, leaf in entries:
        groups.setdefault(keys[0], []).append((keys[1:], leaf))
    if all(is_index for _, is_index in groups):
        return [
            _tree(groups[key]) for key in sorted(groups, key=lambda key: int(key[0]))
        ]
    return {key: _tree(group) for (key, _), group in groups.items()}
