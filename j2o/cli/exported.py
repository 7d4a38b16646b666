"""What `j2o export --json` tells of a model that was written."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from j2o.ir.types import Type, dim_text

if TYPE_CHECKING:
    from j2o.model import Model
    from j2o.report import Report


def exported(model: Model, file: Path, table: str | None) -> dict[str, Any]:
    """One entry of `models`; its `comparison` is set where there is one."""
    graph = model.graph
    inputs = [value.type for value in graph.inputs]
    outputs = [value.type for value in graph.outputs]
    return {
        "table": table,
        "file": file,
        "graph": model.name,
        "opset": model.opset,
        "inputs": _typed(model.input_names, inputs),
        "outputs": _typed(model.output_names, outputs),
        "constraints": list(graph.root.dims.constraints),
        "operators": model.report.ops_after,
        "weights_bytes": model.report.weights_bytes,
        "report": _report(model.report),
        "comparison": None,
    }


def _typed(names: Sequence[str], types: Sequence[Type]) -> list[dict[str, Any]]:
    """Inputs or outputs as `j2o inspect --json` tells them."""
    found = []
    for name, type in zip(names, types, strict=True):
        shape = [d if isinstance(d, int) else dim_text(d) for d in type.shape]
        dtype = type.dtype.numpy.name
        found.append({"name": name, "kind": "tensor", "dtype": dtype, "shape": shape})
    return found


def _report(report: Report) -> dict[str, Any]:
    return {
        "seconds": report.seconds,
        "ops_before": report.ops_before,
        "passes": list(map(dataclasses.asdict, report.passes)),
        "opset_reasons": report.opset_reasons,
        "not_portable": report.not_portable,
        "quantisation": report.quantisation,
        "notes": list(dict.fromkeys(report.notes)),
        "warnings": report.warnings,
    }
