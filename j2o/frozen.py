"""Frozen weights: trees whose leaves become initializers, read only while the model is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from j2o.errors import SpecError
from j2o.ir.tensor import CHUNK, ArrayTensor, LazyTensor, Tensor
from j2o.ir.types import Type, dtype_of


@dataclass(frozen=True)
class Weights:
    """A pytree argument that is frozen into the model; see `weights`."""

    tree: Any


def weights(tree: Any) -> Weights:
    """Mark a pytree argument of `compile` as frozen: its leaves become initializers named after their tree path.

    Leaves may be numpy or JAX arrays, `np.memmap`, or lazy arrays; none is copied, and lazy ones are read while saving.
    """
    return Weights(tree)


class LazyArray:
    """An array with a shape and a dtype whose data `load()` reads when it is needed; a leaf for JAX's trees."""

    __slots__ = ("_load", "chunks", "dtype", "shape")

    def __init__(
        self,
        shape: Sequence[int],
        dtype: Any,
        load: Callable[[], Any],
        chunks: Callable[[], Iterator[np.ndarray]] | None = None,
    ) -> None:
        self.shape = tuple(int(d) for d in shape)
        self.dtype = np.dtype(dtype)
        self._load, self.chunks = load, chunks

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def load(self) -> np.ndarray:
        return np.asarray(self._load())

    __array__ = None  # numpy must not read it by accident

    def __repr__(self) -> str:
        return f"lazy({self.dtype}{list(self.shape)})"


def lazy(shape: Sequence[int], dtype: Any, load: Callable[[], Any]) -> LazyArray:
    """A leaf for `weights` whose data `load()` gives, called while the model is saved (and once for each save)."""
    return LazyArray(shape, dtype, load)


def tensor_of(leaf: Any, key: str | None) -> Tensor:
    """A leaf as a constant of the IR, without copying or reading it; SpecError where it is no array.

    Without a key, the constant gets one of its content (small) or a number.
    """
    if key is None and not isinstance(leaf, np.memmap | LazyArray):
        return ArrayTensor(np.asarray(leaf))
    key = key or f"weights_{id(leaf)}"
    if isinstance(leaf, LazyArray):
        return LazyTensor(Type(dtype_of(leaf.dtype), leaf.shape), key, leaf.load, leaf.chunks)
    if isinstance(leaf, np.memmap):
        return LazyTensor(Type(dtype_of(leaf.dtype), leaf.shape), key, lambda: leaf, lambda: _file_chunks(leaf))
    if isinstance(leaf, np.ndarray | np.generic | int | float | complex | bool):
        return ArrayTensor(np.asarray(leaf), key)
    if hasattr(leaf, "addressable_shards"):
        if len(leaf.sharding.device_set) > 1:
            return LazyTensor(Type(dtype_of(leaf.dtype), leaf.shape), key, lambda: _gather(leaf))
        return ArrayTensor(np.asarray(leaf), key)
    raise SpecError(f"weights: {key} is a {type(leaf).__name__}, not an array")


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

    return jax.tree.map(lambda x: x.load() if isinstance(x, LazyArray) else jax.numpy.asarray(x), tree)


def _file_chunks(array: np.memmap) -> Iterator[np.ndarray]:
    """Flat pieces of a mapped file; each is a copy, so that its pages can be dropped."""
    flat = array.reshape(-1) if array.flags.c_contiguous else None
    if flat is None:
        yield np.ascontiguousarray(array).reshape(-1)
        return
    step = max(1, CHUNK // array.itemsize)
    for start in range(0, flat.size, step):
        yield np.array(flat[start : start + step])


def _gather(array: Any) -> np.ndarray:
    """An array that lies on several devices, shard by shard."""
    out = np.empty(array.shape, array.dtype)
    for shard in array.addressable_shards:
        if shard.replica_id == 0:
            out[shard.index] = np.asarray(shard.data)
    return out


def open_safetensors(path: Any) -> Any:
    """The weights of a safetensors file, or of the files that an index names, as a flat dict of lazy arrays.

    Needs the extra `safetensors`. SpecError where the file is missing.
    """
    import json
    from pathlib import Path

    from safetensors import safe_open

    path = Path(path)
    if not path.is_file():
        raise SpecError(f"open_safetensors: there is no file {str(path)!r}")
    if path.suffix == ".json":
        files = {name: path.parent / file for name, file in json.loads(path.read_text())["weight_map"].items()}
    else:
        with safe_open(path, framework="numpy") as f:
            files = dict.fromkeys(f.keys(), path)
    return {name: _safetensors_leaf(safe_open, file, name) for name, file in files.items()}


_SAFETENSORS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool",
                **{f"{s}{n}": f"{'u' * (s == 'U')}int{n}" for s in "IU" for n in (8, 16, 32, 64)},
                "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}  # fmt: skip


def _safetensors_leaf(safe_open: Any, file: Any, name: str) -> LazyArray:
    import ml_dtypes

    with safe_open(file, framework="numpy") as f:
        piece = f.get_slice(name)
        text = _SAFETENSORS[piece.get_dtype()]
        shape = tuple(piece.get_shape())
    dtype = np.dtype(getattr(ml_dtypes, text, text))

    def chunks() -> Iterator[np.ndarray]:
        with safe_open(file, framework="numpy") as f:
            rows = f.get_slice(name)
            if not shape or 0 in shape:
                yield np.asarray(f.get_tensor(name)).reshape(-1)
                return
            row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
            step = max(1, CHUNK // max(1, row_bytes))
            for start in range(0, shape[0], step):
                yield np.ascontiguousarray(rows[start : start + step]).reshape(-1)

    def load() -> np.ndarray:
        with safe_open(file, framework="numpy") as f:
            return f.get_tensor(name)

    return LazyArray(shape, dtype, load, chunks)


def open_orbax(path: Any) -> Any:
    """The weights of an orbax checkpoint as its tree of lazy arrays, each read by tensorstore when it is written.

    Needs the extra `orbax`. SpecError where there is no checkpoint.
    """
    from pathlib import Path

    import jax
    import orbax.checkpoint as ocp

    path = Path(path).absolute()
    if not path.is_dir():
        raise SpecError(f"open_orbax: there is no checkpoint folder {str(path)!r}")
    checkpointer = ocp.PyTreeCheckpointer()
    metadata = checkpointer.metadata(path).item_metadata
    tree = getattr(metadata, "tree", metadata)
    paths, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))

    def leaf(index: int, meta: Any) -> LazyArray:
        def load() -> np.ndarray:
            wanted = [
                ocp.RestoreArgs(restore_type=np.ndarray) if i == index else ocp.RestoreArgs() for i in range(len(paths))
            ]
            item = [m if i == index else ocp.PLACEHOLDER for i, (_, m) in enumerate(paths)]
            restored = checkpointer.restore(
                path, args=ocp.args.PyTreeRestore(
                    item=jax.tree.unflatten(structure, item), restore_args=jax.tree.unflatten(structure, wanted)
                )
            )  # fmt: skip
            return np.asarray(jax.tree.leaves(restored, is_leaf=lambda x: x is ocp.PLACEHOLDER)[index])

        return LazyArray(meta.shape, meta.dtype, load)

    return jax.tree.unflatten(structure, [leaf(i, m) for i, (_, m) in enumerate(paths)])
