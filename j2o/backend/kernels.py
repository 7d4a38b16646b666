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
from typing import Any

from j2o.errors import SpecError
from j2o.ir.target import Target
from j2o.ir.types import DType, is_in_onnx

SNAPSHOT = Path(__file__).with_name("kernels.json")
OLDEST = 18
DOMAINS = {"": "onnx", "com.microsoft": "ort"}
# what onnxruntime calls the element type of a tensor
ONNX_NAMES = {
    "float": DType.F32, "double": DType.F64, "float16": DType.F16, "bfloat16": DType.BF16,
    "bool": DType.BOOL, "string": DType.STRING,
    **{f"int{n}": DType(f"i{n}") for n in (2, 4, 8, 16, 32, 64)},
    **{f"uint{n}": DType(f"u{n}") for n in (2, 4, 8, 16, 32, 64)},
    "float8e4m3fn": DType.F8E4M3FN, "float8e4m3fnuz": DType.F8E4M3FNUZ,
    "float8e5m2": DType.F8E5M2, "float8e5m2fnuz": DType.F8E5M2FNUZ,
    "float8e8m0": DType.F8E8M0FNU, "float4e2m1": DType.F4E2M1FN,
}  # fmt: skip


@functools.cache
def _snapshot() -> dict[str, Any]:
    return json.loads(SNAPSHOT.read_text())


def newest_opset() -> int:
    """The newest opset that the onnxruntime of the snapshot runs."""
    return _snapshot()["opset"]


def _has(kind: str, opset: int) -> bool:
    """Whether there is a kernel.

    One without a last opset is for one version of the operator alone, that of its first.
    """
    import onnx

    since = onnx.defs.get_schema(kind, opset).since_version
    rows = (row[1:3] for row in _snapshot()["kernels"] if row[0] == f"onnx.{kind}")
    return any(
        first == since if last is None else first <= since <= last
        for first, last in rows
    )


@functools.cache
def target(opset: int | None = None, needs: str | None = None) -> Target:
    """onnxruntime's CPU kernels at an opset, by default the newest that has an operator which the model `needs`.

    SpecError where the opset is out of range or lacks that operator.
    """
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
    for op, first, last, constraints in _snapshot()["kernels"]:
        version = opset if op.startswith("onnx.") else 1
        if first <= version and (last is None or version <= last):
            rows[op].append(
                {name: _allowed(dtypes, opset) for name, dtypes in constraints.items()}
            )
    return Target(opset, dict(rows))


@functools.cache
def _allowed(dtypes: str, opset: int) -> frozenset[DType]:
    """Those of a kernel's dtypes that a model of the opset may have."""
    return frozenset(d for d in map(DType, dtypes.split()) if is_in_onnx(d, opset))


def read_registry() -> dict[str, Any]:
    """The installed onnxruntime's CPU kernels in the form of the snapshot."""
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_opkernel_def

    rows = []
    newest = 0
    for kernel in get_all_opkernel_def():
        if kernel.provider != "CPUExecutionProvider" or kernel.domain not in DOMAINS:
            continue
        first, last = kernel.version_range
        if kernel.domain == "":
            newest = max(newest, first)
        constraints = {
            name: " ".join(sorted(_dtypes(types)))
            for name, types in sorted(kernel.type_constraints.items())
        }
        rows.append(
            [
                f"{DOMAINS[kernel.domain]}.{kernel.op_name}",
                first,
                None if last > 1000 else last,
                constraints,
            ]
        )
    return {
        "onnxruntime": onnxruntime.__version__,
        "opset": newest,
        "kernels": sorted(rows, key=repr),
    }


def _dtypes(types: Sequence[str]) -> Iterator[str]:
    """The names of the dtypes among types such as `tensor(float)` and `seq(tensor(float))`."""
    for type in types:
        dtype = ONNX_NAMES.get(type.removeprefix("tensor(").removesuffix(")"))
        if dtype is not None:
            yield dtype.value


def main() -> None:
    data = read_registry()
    kernels = ",\n".join(json.dumps(row) for row in data.pop("kernels"))
    SNAPSHOT.write_text(json.dumps(data)[:-1] + ', "kernels": [\n' + kernels + "\n]}\n")


if __name__ == "__main__":
    main()
