"""The targets that come with j2o: a table of kernels a runtime, made by `python -m tools.runtimes.tables`."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from j2o.backend.forms import SLOW
from j2o.errors import SpecError, shown
from j2o.ir.onnx_ops import ONNX_NAMES, newest_schemas
from j2o.ir.target import OLDEST, Row, Table, Target, read_table
from j2o.ir.types import DType

FOLDER = Path(__file__).with_name("targets")
ENDING = ".json.gz"
INSTALLED = "onnxruntime"  # the name of the target that is installed
PROVIDER = "CPUExecutionProvider"


def dtype_named(type: str) -> DType | None:
    """Return the dtype of `tensor(float)`; None for what is no tensor, such as `seq(tensor(float))`."""
    return ONNX_NAMES.get(type.removeprefix("tensor(").removesuffix(")"))


@functools.cache
def names() -> tuple[str, ...]:
    """The names of the targets, `onnxruntime` first, versions in their order."""
    found = [file.name.removesuffix(ENDING) for file in FOLDER.glob(f"*{ENDING}")]
    return (INSTALLED, *sorted(found, key=_version_order))


def _version_order(name: str) -> tuple[str, list[int]]:
    """A key that sorts runtimes by kind, and those of a kind by version."""
    kind = re.sub(r"-[\d.]+$", "", name)
    return kind, [int(number) for number in re.findall(r"\d+", name)]


@functools.cache
def table(name: str = INSTALLED) -> Table:
    """The table of a target; SpecError where there is none of that name."""
    if name == INSTALLED:
        name = installed()
    if name not in names():
        known = ", ".join(names())
        raise SpecError(
            f"target={shown(name)}: there is none of that name; there are {known}"
        )
    found = read_table(FOLDER / f"{name}{ENDING}")
    # an older onnx lacks the schemas of the newest opsets
    return dataclasses.replace(found, newest=min(found.newest, newest_schemas()))


@functools.cache
def installed() -> str:
    """The target that is nearest to the installed onnxruntime: its own version, or the last before it."""
    known = [name for name in names() if name.startswith("onnxruntime-1.")]
    try:
        version = metadata.version("onnxruntime")
    except metadata.PackageNotFoundError:  # a build under another name, or none
        return known[-1]
    minor = [int(part) for part in version.split(".")[:2]]
    older = [name for name in known if _version_order(name)[1] <= minor]
    return older[-1] if older else known[0]


@functools.cache
def target(
    opset: int | None = None, needs: str | None = None, name: str = INSTALLED
) -> Target:
    """Return a target at an opset.

    By default it is the newest that has an operator which the model `needs`: others may be chosen in its
    place, and operators that run slower than their parts are avoided. An opset that is asked for stands for
    the smallest graph. SpecError where the opset is out of range or lacks that operator.
    """
    found = table(name)
    newest = found.newest if needs is None else _newest_with(found, needs)
    if opset is None:
        rows = {**_rows_of_older(found, newest), **found.rows(newest)}
        chosen = found.target(newest)
        return dataclasses.replace(chosen, rows=rows, others=found.target, slow=SLOW)
    if not isinstance(opset, int) or not OLDEST <= opset <= newest:
        what = f" with {needs}" if needs else ""
        which = "" if name == INSTALLED else f" for {name}"
        raise SpecError(
            f"opset={opset!r}: j2o writes opsets {OLDEST} to {newest}{what}{which}"
        )
    return found.target(opset)


def _newest_with(found: Table, kind: str) -> int:
    """The newest opset at which a runtime has kernels of an operator."""
    opsets = range(found.newest, OLDEST - 1, -1)
    taken = (o for o in opsets if f"onnx.{kind}" in found.rows(o))
    return next(taken, found.newest)


def _rows_of_older(found: Table, newest: int) -> dict[str, Sequence[Row]]:
    """The kernels of operators at the last opset that has some.

    An operator may have none at the newest opset; a model whose opset is not asked for can be older.
    """
    current = found.rows(newest)
    others = tuple(k for k in found.kernels if k.op not in current)
    rest = dataclasses.replace(found, kernels=others)  # few: most have one
    rows: dict[str, Sequence[Row]] = {}
    for opset in range(OLDEST, newest):
        rows.update(rest.rows(opset))
    return rows
