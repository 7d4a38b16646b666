"""What must be able to run a model: an opset, and the kernels of a runtime, as data."""

from __future__ import annotations

import functools
import gzip
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from j2o.errors import SpecError
from j2o.ir.onnx_ops import is_function
from j2o.ir.types import DType, is_in_onnx

# one kernel: for every type constraint of the operator (`T`, `T1`, …) the dtypes it takes
Row: TypeAlias = "Mapping[str, frozenset[DType]]"
OLDEST = 18  # the oldest opset that j2o writes


@dataclass(frozen=True, eq=False)
class Target:
    """`rows` maps an operator (`onnx.Erf`, `ort.FusedMatMul`) to its kernels at `opset`.

    `inlined` has in the same form the functions that the runtime writes out; with `inlines` it also does so
    with functions that stand in neither. Where `rows` is empty, everything is taken to run. The operators in
    `slow` run, but slower than their parts; those in `avoids` lose too many digits. `others` gives the same
    runtime at another opset; None where the opset is asked for, and not to be changed. With `orders_nan`
    TopK takes NaN for greater than all numbers, and the first of several for the first; with `orders_ties` it
    keeps equal elements in their order, as ONNX has it. Those in `misfused` it fuses in f64 with what stands
    in front, to operators that it has no kernel of. `faults` has what is known to differ from ONNX, a line
    each.
    """

    opset: int
    rows: Mapping[str, Sequence[Row]] = field(
        default_factory=dict[str, "Sequence[Row]"]
    )
    name: str = "onnxruntime CPU"
    slow: frozenset[str] = frozenset()
    others: Callable[[int], Target] | None = None
    inlined: Mapping[str, Sequence[Row]] = field(
        default_factory=dict[str, "Sequence[Row]"]
    )
    inlines: bool = True
    avoids: frozenset[str] = frozenset()
    functions: bool = True  # whether a model may have some of its own
    orders_nan: bool = False  # whether TopK takes NaN for the greatest number
    orders_ties: bool = True  # whether TopK keeps equal elements in their order
    misfused: frozenset[str] = frozenset()
    faults: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: str | os.PathLike[str], opset: int | None = None) -> Target:
        """Read a target from a table: JSON, as `docs/targets.md` describes it, or that in gzip.

        With `opset` the target stays at that; else a model gets the lowest that it needs. SpecError where
        the file is no table, or lacks the opset.
        """
        return read_table(path).target(opset)

    def has(self, op: str) -> bool:
        """Return True where ONNX's `op` runs with some dtype, and with the right values, as far as known."""
        if op in self.avoids:
            return False
        if not self.rows or op in self.rows or op in self.inlined:
            return True
        return self.inlines and is_function(op.removeprefix("onnx."), self.opset)

    def supports(self, op: str, dtype: DType, constraint: str | None = None) -> bool:
        """Return True where some kernel of `op` takes `dtype` for a constraint (see `dtypes`)."""
        return dtype in self.dtypes(op, constraint)

    def prefers(self, op: str, dtype: DType) -> bool:
        """Return True where `op` runs with `dtype`, and does so no slower than its parts."""
        if op in self.slow or op in self.avoids:
            return False
        if op in self.rows:
            return self.supports(op, dtype)
        return dtype in _dtypes_of(self.inlined.get(op, ()))

    def is_asked_for(self, opset: int) -> bool:
        """Return True where the user asked for an opset, and for this one or a later.

        Else the model gets the lowest that it needs, which an operator from there on would raise.
        """
        return self.others is None and self.opset >= opset

    @functools.lru_cache(maxsize=4096)  # noqa: B019 (targets are few and live long)
    def dtypes(self, op: str, constraint: str | None = None) -> frozenset[DType]:
        """The dtypes that any kernel of `op` takes for a constraint, by default for the main one."""
        return _dtypes_of(self.rows.get(op, ()), constraint)


def _dtypes_of(rows: Sequence[Row], constraint: str | None = None) -> frozenset[DType]:
    """The dtypes that any of the rows takes for a constraint, by default for the main one."""
    found: set[DType] = set()
    for row in rows:
        name = constraint or _main_constraint(row)
        if name is not None:
            found |= row.get(name, frozenset())
    return frozenset(found)


def _main_constraint(row: Row) -> str | None:
    """`T`, `T1` or the first there is; None where an operator has none."""
    for name in ("T", "T1"):
        if name in row:
            return name
    return next(iter(row), None)


# ------------------------------------------------------------------------------------ tables


class Kernel(NamedTuple):
    """A row of a table: an operator, the first and last opset at which it is so, and what it takes."""

    op: str
    first: int
    last: int
    constraints: dict[str, str]  # dtypes by the name of a type constraint, as one text


@dataclass(frozen=True, eq=False)
class Table:
    """What a runtime runs at each opset from 18 up to `newest`; the parts of a target are told there."""

    name: str
    runtime: str  # its name and version, in words
    newest: int
    kernels: tuple[Kernel, ...]
    ir_version: int = 0  # the newest that it reads, 0 where nobody knows
    # what it casts to f32 itself where it lacks a kernel
    casts: frozenset[DType] = frozenset()
    inlined: tuple[Kernel, ...] = ()
    inlines: bool = False
    avoids: frozenset[str] = frozenset()
    functions: bool = True  # whether a model may have some of its own
    orders_nan: bool = False  # whether TopK takes NaN for the greatest number
    orders_ties: bool = True  # whether TopK keeps equal elements in their order
    # what it fuses in f64 to operators that it has no kernel of
    misfused: frozenset[str] = frozenset()
    faults: tuple[str, ...] = ()

    @functools.lru_cache(maxsize=64)  # noqa: B019 (tables are few and live long)
    def target(self, opset: int | None = None) -> Target:
        """The target at an opset, by default at the newest, from which the model's own is found."""
        chosen = self.newest if opset is None else opset
        if not OLDEST <= chosen <= self.newest:
            raise SpecError(
                f"opset={opset!r}: {self.name} takes opsets {OLDEST} to {self.newest}"
            )
        others = None if opset is not None else self.target
        return Target(
            opset=chosen,
            rows=self.rows(chosen),
            name=self.name,
            others=others,
            inlined=_at(self.inlined, chosen),
            inlines=self.inlines,
            avoids=self.avoids,
            functions=self.functions,
            orders_nan=self.orders_nan,
            orders_ties=self.orders_ties,
            misfused=self.misfused,
            faults=self.faults,
        )

    def told(self) -> dict[str, Any]:
        """What there is to say of it in short, for `j2o targets --json`."""
        return {
            "name": self.name,
            "runtime": self.runtime,
            "opsets": [OLDEST, self.newest],
            "avoids": sorted(self.avoids),
            "faults": list(self.faults),
        }

    @functools.lru_cache(maxsize=64)  # noqa: B019 (tables are few and live long)
    def rows(self, opset: int) -> Mapping[str, Sequence[Row]]:
        """The kernels of each operator at an opset."""
        return _at(self.kernels, opset)


def _at(kernels: Sequence[Kernel], opset: int) -> Mapping[str, Sequence[Row]]:
    """The rows of a table for an opset, by operator."""
    found: dict[str, list[Row]] = {}
    for kernel in kernels:
        if kernel.first <= opset <= kernel.last:
            row: dict[str, frozenset[DType]] = {}
            for name, names in kernel.constraints.items():
                row[name] = _dtypes(names, opset)
            found.setdefault(kernel.op, []).append(row)
    return found


@functools.cache
def _dtypes(names: str, opset: int) -> frozenset[DType]:
    """Those of a kernel's dtypes that a model of the opset may have."""
    return frozenset(d for d in map(DType, names.split()) if is_in_onnx(d, opset))


def read_table(path: str | os.PathLike[str]) -> Table:
    """Read a table; SpecError where the file has none."""
    file = Path(path)
    try:
        data = file.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        found = json.loads(data)
        if not isinstance(found, dict):
            raise ValueError("a table is an object of JSON")
    except (OSError, EOFError, ValueError) as error:
        raise SpecError(f"{file}: cannot be read as a target: {error}") from None
    try:
        return _table(found)
    except (KeyError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise SpecError(f"{file}: is no table of a target: {what}") from None


def _table(found: Any) -> Table:
    """The table in what JSON gave; KeyError, TypeError or ValueError where a part is wrong."""
    faults: list[Any] = list(found.get("faults", ()))
    return Table(
        name=str(found["name"]),
        runtime=str(found["runtime"]),
        newest=int(found["newest"]),
        kernels=tuple(map(_kernel, found["kernels"])),
        ir_version=int(found.get("ir_version", 0)),
        casts=frozenset(map(DType, found.get("casts", ()))),
        inlined=tuple(map(_kernel, found.get("inlined", ()))),
        inlines=bool(found.get("inlines", False)),
        avoids=frozenset(map(str, found.get("avoids", ()))),
        functions=bool(found.get("functions", True)),
        orders_nan=bool(found.get("orders_nan", False)),
        orders_ties=bool(found.get("orders_ties", True)),
        misfused=frozenset(map(str, found.get("misfused", ()))),
        faults=tuple(map(str, faults)),
    )


def _kernel(row: Any) -> Kernel:
    """A row of a table; ValueError for one that is not well-formed."""
    op, first, last, constraints = row
    taken: dict[str, str] = dict(constraints)
    for names in taken.values():
        _dtypes(names, OLDEST)  # ValueError for a dtype that there is not
    return Kernel(str(op), int(first), int(last), taken)
