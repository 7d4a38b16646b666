"""Reading weights where they lie, box by box: files that are mapped into memory, and shards of JAX arrays."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from j2o.errors import SpecError
from j2o.ir.tensor import CHUNK, Box, Reader, extents

# bytes of a mapped file, or of decoded pieces of a checkpoint, that may stay in memory
MAPPED = 4 * CHUNK


def native_reader(array: np.ndarray) -> Reader:
    """Reads an array of the other byte order in this machine's."""
    native = array.dtype.newbyteorder("=")
    return lambda box: array[(*box, ...)].astype(native)


# ------------------------------------------------------------------------------------ mapped files


def map_reader(leaf: np.memmap) -> Reader:
    """Reads a mapped file without copying it.

    Pages that were read are given back to the system, but for private changes to them. SpecError
    where the file is shorter than the array.
    """
    pages: mmap.mmap = leaf._mmap  # type: ignore[attr-defined]
    before = leaf.offset - leaf.offset % mmap.ALLOCATIONGRANULARITY
    if pages.size() < before + len(pages):
        raise SpecError(f"the file {leaf.filename} was truncated after it was mapped")
    plain = np.asarray(leaf)
    native = plain.dtype.newbyteorder("=")
    gives_back = leaf.mode != "c" and hasattr(pages, "madvise")
    read_bytes = 0

    def read(box: Box) -> np.ndarray:
        nonlocal read_bytes
        if gives_back and read_bytes > MAPPED:
            pages.madvise(mmap.MADV_DONTNEED)
            read_bytes = 0
        piece = plain[(*box, ...)]
        read_bytes += piece.nbytes
        return piece.astype(native, copy=False)

    return read


# ------------------------------------------------------------------------------------ shards


class Range(NamedTuple):
    """The places of an array along one axis, from `start` up to `stop`."""

    start: int
    stop: int

    def within(self, other: Range) -> slice:
        """The same places, counted from the start of a range that holds them."""
        return slice(self.start - other.start, self.stop - other.start)


def shard_reader(array: Any) -> Reader:
    """Reads a JAX array from its shards; no shard leaves its device whole for a part of it."""
    return lambda box: _from_shards(array, box)


def _from_shards(array: Any, box: Box) -> np.ndarray:
    """A box of a JAX array, put together from the parts of its shards."""
    out = np.empty(extents(box), array.dtype)
    wanted = [Range(s.start, s.stop) for s in box]
    for shard in array.addressable_shards:
        if shard.replica_id != 0:
            continue
        held = _ranges_of(shard, array.shape)
        common = list(map(_overlap, held, wanted))
        if all(r.start < r.stop for r in common):
            place = tuple(map(Range.within, common, wanted))
            out[place] = _part(shard, tuple(map(Range.within, common, held)))
    return out


def _ranges_of(shard: Any, shape: Sequence[int]) -> list[Range]:
    """The places of the whole array that a shard holds, for each axis."""
    ranges = []
    for index, size in zip(shard.index, shape, strict=True):
        start, stop, _ = index.indices(size)
        ranges.append(Range(start, stop))
    return ranges


def _overlap(a: Range, b: Range) -> Range:
    return Range(max(a.start, b.start), min(a.stop, b.stop))


def _part(shard: Any, inside: tuple[slice, ...]) -> np.ndarray:
    """A part of a shard; on a CPU, numpy sees the memory itself."""
    if shard.device.platform == "cpu":
        return np.asarray(shard.data)[inside]
    return np.asarray(shard.data[inside])
