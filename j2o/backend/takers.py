"""Which of the known runtimes take a file, and what keeps the others from it: the file next to their tables.

Only what the file says is looked at: a value without a type may be of any.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import onnx

from j2o.backend.kernels import INSTALLED, names, table
from j2o.backend.proto import ONNX_DTYPES
from j2o.ir.onnx_ops import CONTRIB, schema
from j2o.ir.target import OLDEST, Row, Table
from j2o.ir.types import DType

VERSION = re.compile(r"-\d+\.\d+$")
SHOWN = 3  # reasons that are told; of more, how many more
_DTYPES = {int(number): dtype for dtype, number in ONNX_DTYPES.items()}


class Use(NamedTuple):
    """An operator as a file uses it: its domain, and the known dtypes of operands and results by position."""

    domain: str
    kind: str
    inputs: tuple[DType | None, ...]
    outputs: tuple[DType | None, ...]


class Taker(NamedTuple):
    """A runtime, and what keeps it from a file; nothing where it takes it."""

    name: str
    reasons: tuple[str, ...]


def takers(model: onnx.ModelProto) -> list[Taker]:
    """Return each known runtime with what keeps it from a model."""
    opset = next((one.version for one in model.opset_import if not one.domain), OLDEST)
    uses = sorted(_uses(model), key=repr)
    found = []
    for name in names():
        if name not in (INSTALLED, "portable"):
            lacking = [*_reasons(table(name), model.ir_version, opset, uses)]
            if model.functions and not table(name).functions:
                lacking.append("functions of the model's own")
            reasons = dict.fromkeys(lacking)
            found.append(Taker(name, tuple(reasons)))
    return found


def groups(found: Sequence[Taker]) -> list[tuple[str, tuple[str, ...]]]:
    """Return names, those of versions that follow each other as `onnxruntime-1.20 to 1.32`, with reasons.

    First those that take the file, then the others; those that follow each other with the same reasons
    are told together.
    """
    taking = [one.name for one in found if not one.reasons]
    rows: list[tuple[str, tuple[str, ...]]] = []
    if taking:
        rows.append((", ".join(_spans(taking)), ()))
    refusing = [one for one in found if one.reasons]
    for reasons, group in itertools.groupby(refusing, key=lambda one: one.reasons):
        rows.append((", ".join(_spans([one.name for one in group])), reasons))
    return rows


def told(found: Sequence[Taker]) -> list[str]:
    """Lines that say who takes a file, and who does not."""
    lines: list[str] = []
    for who, reasons in groups(found):
        if not reasons:
            lines.append(f"  runs on {who}")
            continue
        more = f" and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
        lines.append(f"  not on {who}: {', '.join(reasons[:SHOWN])}{more}")
    if not any(not one.reasons for one in found):
        lines.insert(0, "  runs on none known")
    return lines


def _spans(found: Sequence[str]) -> list[str]:
    """Names, those of versions that follow each other as `onnxruntime-1.20 to 1.32`."""
    every = names()
    spans: list[list[str]] = []
    for name in found:
        before = every[every.index(name) - 1]
        is_next = spans and spans[-1][-1] == before
        if is_next and VERSION.search(name) and VERSION.search(before):
            spans[-1].append(name)
        else:
            spans.append([name])
    return list(map(_span, spans))


def _span(names: Sequence[str]) -> str:
    """A run of names as its first and the version of its last."""
    first, last = names[0], names[-1]
    return first if first == last else f"{first} to {last.rpartition('-')[2]}"


# ------------------------------------------------------------------------------------ reasons


def _reasons(
    known: Table, ir_version: int, opset: int, uses: Iterable[Use]
) -> Iterator[str]:
    """What keeps a runtime from a file."""
    if opset > known.newest:
        yield f"opset {opset} is too new"
        return
    if 0 < known.ir_version < ir_version:
        yield f"IR version {ir_version} is too new"
    if opset < OLDEST:
        yield f"opset {opset} is older than {OLDEST}, from which on it is known"
        return
    target = known.target(opset)
    for use in uses:
        op = _op(use)
        if op is None:
            yield f"operators of the domain {use.domain[:80]}"
            continue
        rows = (*target.rows.get(op, ()), *target.inlined.get(op, ()))
        if not rows and not (use.domain == "" and target.has(op)):
            yield f"no {use.kind[:80]}"
        elif rows and not _is_taken(use, rows, opset, known.casts):
            dtype = next((d.value for d in (*use.inputs, *use.outputs) if d), "")
            yield f"no {use.kind} of {dtype}"


def _op(use: Use) -> str | None:
    """The name of an operator in tables; None for one of a domain that they have not."""
    dialect = {"": "onnx", CONTRIB: "ort"}.get(use.domain)
    return dialect and f"{dialect}.{use.kind}"


def _is_taken(
    use: Use, rows: Iterable[Row], opset: int, casts: frozenset[DType]
) -> bool:
    """Return True where some row takes the known dtypes, or would take float32 for those that are cast."""
    if use.domain:
        return True
    variables = _variables(use, opset)
    return any(_fits(variables, row, casts) for row in rows)


def _fits(variables: Mapping[str, DType], row: Row, casts: frozenset[DType]) -> bool:
    """Return True where a row takes the dtype of each type constraint, or float32 for one that is cast."""
    for name, dtype in variables.items():
        taken = row.get(name, (dtype,))
        if dtype not in taken and not (dtype in casts and DType.F32 in taken):
            return False
    return True


def _variables(use: Use, opset: int) -> dict[str, DType]:
    """The known dtype of each type constraint."""
    known = schema(use.kind, opset)
    found: dict[str, DType] = {}
    for names_of, dtypes in ((known.inputs, use.inputs), (known.outputs, use.outputs)):
        for i, dtype in enumerate(dtypes):
            if dtype is not None and names_of:
                found.setdefault(names_of[min(i, len(names_of) - 1)], dtype)
    return found


# ------------------------------------------------------------------------- what a file uses


def _uses(model: onnx.ModelProto) -> set[Use]:
    """The operators of a model, in regions and functions too, but for calls of its functions."""
    own = {(one.domain, one.name) for one in model.functions}
    found: set[Use] = set()
    dtypes: dict[str, DType] = {}
    _enter(model.graph, dtypes)
    waiting = [(model.graph.node, dtypes)]
    for function in model.functions:
        waiting.append((function.node, _dtypes_of(function.value_info)))
    while waiting:
        nodes, known = waiting.pop()
        for node in nodes:
            domain = "" if node.domain == "ai.onnx" else node.domain
            for graph in _regions(node):
                _enter(graph, known)
                waiting.append((graph.node, known))
            is_constant = node.op_type == "Constant"  # no kernel: it is an initializer
            if not is_constant and (node.domain, node.op_type) not in own:
                found.add(Use(domain, node.op_type, *_signature(node, known)))
    return found


def _regions(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in the attributes of a node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _signature(
    node: onnx.NodeProto, known: Mapping[str, DType]
) -> tuple[tuple[DType | None, ...], tuple[DType | None, ...]]:
    """The dtypes of operands and results, None for what is left out or has no type."""
    inputs = tuple([known.get(name) for name in node.input])
    outputs = tuple([known.get(name) for name in node.output])
    return inputs, outputs


def _enter(graph: onnx.GraphProto, known: dict[str, DType]) -> None:
    """Enter the values of a graph whose dtypes the file says."""
    for values in (graph.input, graph.output, graph.value_info):
        known.update(_dtypes_of(values))
    for tensor in graph.initializer:
        if tensor.data_type in _DTYPES:
            known[tensor.name] = _DTYPES[tensor.data_type]


def _dtypes_of(values: Iterable[onnx.ValueInfoProto]) -> dict[str, DType]:
    """The dtype of each value for which it is said."""
    found: dict[str, DType] = {}
    for value in values:
        dtype = _DTYPES.get(value.type.tensor_type.elem_type)
        if dtype is not None:
            found[value.name] = dtype
    return found
