"""What must be able to run a model: an opset, and the kernels of a runtime, as data."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from j2o.ir.types import DType

# one kernel: for every type constraint of the operator (`T`, `T1`, …) the dtypes it takes
Row: TypeAlias = "Mapping[str, frozenset[DType]]"


@dataclass(frozen=True, eq=False)
class Target:
    """`rows` maps an operator (`onnx.Erf`, `ort.FusedMatMul`) to its kernels at `opset`.

    An operator that is not in `rows` is taken to be a function that the runtime inlines. The operators in
    `slow` run, but slower than their parts. `others` gives the same runtime at another opset; None where the
    opset is asked for, and not to be changed.
    """

    opset: int
    rows: Mapping[str, Sequence[Row]] = field(
        default_factory=dict[str, "Sequence[Row]"]
    )
    name: str = "onnxruntime CPU"
    slow: frozenset[str] = frozenset()
    others: Callable[[int], Target] | None = None

    def supports(self, op: str, dtype: DType, constraint: str | None = None) -> bool:
        """Return True where some kernel of `op` takes `dtype` for a constraint (see `dtypes`)."""
        return dtype in self.dtypes(op, constraint)

    def prefers(self, op: str, dtype: DType) -> bool:
        """Return True where `op` runs with `dtype`, and does so no slower than its parts."""
        return op not in self.slow and self.supports(op, dtype)

    @functools.lru_cache(maxsize=4096)  # noqa: B019 (targets are few and live long)
    def dtypes(self, op: str, constraint: str | None = None) -> frozenset[DType]:
        """The dtypes that any kernel of `op` takes for a constraint, by default for the main one."""
        found: set[DType] = set()
        for row in self.rows.get(op, ()):
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
