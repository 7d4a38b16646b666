"""The kernels of onnxruntime's CPU provider, as a `Target`.

`kernels.json` is a snapshot of the registry, so that compiling gives the same model everywhere;
`python -m j2o.backend.kernels` takes it anew from the installed onnxruntime.
"""

from __future__ import annotations

import collections
import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from j2o.backend.forms import INLINED, SLOW
from j2o.errors import SpecError
from j2o.ir.onnx_ops import ONNX_NAMES
from j2o.ir.target import Row, Target
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

    def runs(self, version: int) -> bool:
        """Return True where this kernel is for a version of its operator.

        A kernel without a last opset is for one version alone, that of its first: onnxruntime does not
        trust it with versions that its author has not seen.
        """
        if self.last is None:
            return self.first == version
        return self.first <= version <= self.last


@functools.cache
def _snapshot() -> dict[str, Any]:
    return json.loads(SNAPSHOT.read_text())


def _kernels() -> Iterator[_Kernel]:
    """The rows of the snapshot."""
    return (_Kernel(*row) for row in _snapshot()["kernels"])


def newest_opset() -> int:
    """The newest opset that the onnxruntime of the snapshot runs."""
    return _snapshot()["opset"]


def _version_at(op: str, opset: int) -> int | None:
    """The version of an operator that a model of an opset means; None where it has none yet.

    Operators of onnxruntime's own have one version.
    """
    versions = _snapshot()["versions"].get(op, [1])
    return max((v for v in versions if v <= opset), default=None)


def _rows(opset: int, kernels: Iterable[_Kernel]) -> dict[str, list[Row]]:
    """The dtypes of those kernels that a model of an opset can have, by operator."""
    rows: dict[str, list[Row]] = collections.defaultdict(list)
    for kernel in kernels:
        version = _version_at(kernel.op, opset)
        if version is not None and kernel.runs(version):
            dtypes = {
                name: _allowed(names, opset)
                for name, names in kernel.constraints.items()
            }
            rows[kernel.op].append(dtypes)
    return dict(rows)


def has_kernel(kind: str, opset: int) -> bool:
    """Return True where onnxruntime runs ONNX's operator `kind` without inlining a function."""
    return bool(_rows(opset, [k for k in _kernels() if k.op == f"onnx.{kind}"]))


@functools.cache
def target(opset: int | None = None, needs: str | None = None) -> Target:
    """Return onnxruntime's CPU kernels at an opset.

    By default it is the newest that has an operator which the model `needs`: others may be chosen in its
    place, and operators that run slower than their parts are avoided. An opset that is asked for stands for
    the smallest graph. SpecError where the opset is out of range or lacks that operator.
    """
    newest = newest_opset()
    if needs is not None:
        opsets = range(newest, OLDEST - 1, -1)
        newest = next(o for o in opsets if has_kernel(needs, o))
    chosen = newest if opset is None else opset
    if not isinstance(chosen, int) or not OLDEST <= chosen <= newest:
        what = f" with {needs}" if needs else ""
        raise SpecError(
            f"opset={opset!r}: j2o writes opsets {OLDEST} to {newest}{what}"
        )
    rows = _rows(chosen, _kernels())
    if opset is None:
        rows |= _rows_of_older(frozenset(rows), newest)
    for op, opsets in INLINED.items():
        if chosen in opsets and op not in rows:
            rows[op] = [{"T": frozenset([DType.F32])}]
    if opset is None:
        return Target(chosen, rows, others=target, slow=SLOW)
    return Target(chosen, rows)


def _rows_of_older(known: frozenset[str], newest: int) -> dict[str, list[Row]]:
    """The kernels of operators that have none at the newest opset, but had some at an older one.

    A model whose opset is not asked for can be of that one.
    """
    others = [k for k in _kernels() if k.op not in known]
    found: dict[str, list[Row]] = {}
    for opset in range(OLDEST, newest):
        found |= _rows(opset, others)
    return found


@functools.cache
def _allowed(dtypes: str, opset: int) -> frozenset[DType]:
    """Those of a kernel's dtypes that a model of the opset may have."""
    return frozenset(d for d in map(DType, dtypes.split()) if is_in_onnx(d, opset))


def read_registry() -> dict[str, Any]:
    """Return the installed onnxruntime's CPU kernels in the form of the snapshot."""
    import onnx
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_opkernel_def

    registered = [
        kernel
        for kernel in get_all_opkernel_def()
        if kernel.provider == PROVIDER and kernel.domain in DOMAINS
    ]
    own = [k for k in registered if k.domain == ""]
    names = {k.op_name for k in own}
    versions: dict[str, list[int]] = collections.defaultdict(list)
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.name in names:
            versions[f"onnx.{schema.name}"].append(schema.since_version)
    return {
        "onnxruntime": onnxruntime.__version__,
        "opset": max((k.version_range[0] for k in own), default=0),
        "versions": {op: sorted(found) for op, found in sorted(versions.items())},
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
