"""The kernels of onnxruntime's CPU provider, as a `Target`.

`kernels.json` is a snapshot of the registry, so that compiling gives the same model everywhere;
`python -m j2o.backend.kernels` takes it anew from the installed onnxruntime.
"""

from __future__ import annotations

import collections
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from j2o.errors import SpecError
from j2o.ir.onnx_ops import ONNX_NAMES
from j2o.ir.target import Target
from j2o.ir.types import DType, is_in_onnx

SNAPSHOT = Path(__file__).with_name("kernels.json")
OLDEST = 18
DOMAINS = {"": "onnx", "com.microsoft": "ort"}
PROVIDER = "CPUExecutionProvider"
UNBOUNDED = 1000  # from here on, the last opset of a kernel stands for none


def dtype_named(type: str) -> DType | None:
    """Return the dtype of `tensor(float)`; None for what is no tensor, such as `seq(tensor(float))`."""
    return ONNX_NAMES.get(type.removeprefix("tensor(").removesuffix(")"))


class _Kernel(NamedTuple):
    """A row of the snapshot. `constraints` has dtypes by the name of a type variable, as one text."""

    op: str
    first: int
    last: int | None
    constraints: dict[str, str]

    def covers(self, version: int) -> bool:
        """Return True where a version of the operator lies between the kernel's first and last."""
        return self.first <= version and (self.last is None or version <= self.last)


@functools.cache
def _snapshot() -> dict[str, Any]:
    return json.loads(SNAPSHOT.read_text())


def _kernels() -> Iterator[_Kernel]:
    """The rows of the snapshot."""
    return (_Kernel(*row) for row in _snapshot()["kernels"])


def newest_opset() -> int:
    """The newest opset that the onnxruntime of the snapshot runs."""
    return _snapshot()["opset"]


def _has(kind: str, opset: int) -> bool:
    """Return True where there is a kernel for ONNX's operator `kind`.

    A kernel without a last opset is for one version of the operator alone, that of its first.
    """
    import onnx

    since = onnx.defs.get_schema(kind, opset).since_version
    for kernel in _kernels():
        if kernel.op != f"onnx.{kind}":
            continue
        is_for_one = kernel.last is None
        if kernel.first == since if is_for_one else kernel.covers(since):
            return True
    return False


@functools.cache
def target(opset: int | None = None, needs: str | None = None) -> Target:
    """Return onnxruntime's CPU kernels at an opset.

    By default it is the newest that has an operator which the model `needs`, and others may be chosen in
    its place. SpecError where the opset is out
    of range or lacks that operator.
    """
    others = target if opset is None else None
    newest = newest_opset()
    if needs is not None:
        newest = next(o for o in range(newest, OLDEST - 1, -1) if _has(needs, o))
    if opset is None:
        opset = newest
    if not isinstance(opset, int) or not OLDEST <= opset <= newest:
        what = f" with {needs}" if needs else ""
        raise SpecError(
            f"opset={opset!r}: j2o writes opsets {OLDEST} to {newest}{what}"
        )
    rows: dict[str, list[Any]] = collections.defaultdict(list)
    for kernel in _kernels():
        if kernel.covers(opset if kernel.op.startswith("onnx.") else 1):
            dtypes = {
                name: _allowed(names, opset)
                for name, names in kernel.constraints.items()
            }
            rows[kernel.op].append(dtypes)
    return Target(opset, dict(rows), others=others)


@functools.cache
def _allowed(dtypes: str, opset: int) -> frozenset[DType]:
    """Those of a kernel's dtypes that a model of the opset may have."""
    return frozenset(d for d in map(DType, dtypes.split()) if is_in_onnx(d, opset))


def read_registry() -> dict[str, Any]:
    """Return the installed onnxruntime's CPU kernels in the form of the snapshot."""
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_opkernel_def

    registered = [
        kernel
        for kernel in get_all_opkernel_def()
        if kernel.provider == PROVIDER and kernel.domain in DOMAINS
    ]
    firsts = [k.version_range[0] for k in registered if k.domain == ""]
    return {
        "onnxruntime": onnxruntime.__version__,
        "opset": max(firsts, default=0),
        "kernels": sorted(map(_row, registered), key=repr),
    }


def _row(kernel: Any) -> list[Any]:
    """A kernel of the registry as a row of the snapshot."""
    first, last = kernel.version_range
    constraints = {
        name: " ".join(sorted(_dtypes(types)))
        for name, types in sorted(kernel.type_constraints.items())
    }
    op = f"{DOMAINS[kernel.domain]}.{kernel.op_name}"
    return [op, first, None if last > UNBOUNDED else last, constraints]


def _dtypes(types: Sequence[str]) -> Iterator[str]:
    """The names of the dtypes among types."""
    for type in types:
        dtype = dtype_named(type)
        if dtype is not None:
            yield dtype.value


def main() -> None:
    """Write the snapshot anew."""
    data = read_registry()
    kernels = ",\n".join(json.dumps(row) for row in data.pop("kernels"))
    SNAPSHOT.write_text(json.dumps(data)[:-1] + ', "kernels": [\n' + kernels + "\n]}\n")


if __name__ == "__main__":
    main()
