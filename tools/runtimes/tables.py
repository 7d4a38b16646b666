"""Makes the tables of kernels in `j2o/backend/targets/`, each from the runtime itself.

    python -m tools.runtimes.tables onnxruntime-1.20=PYTHON onnxruntime-web=FOLDER openvino=PYTHON …

PYTHON is an interpreter that has the runtime, FOLDER has it in its `node_modules`. onnxruntime tells its
kernels (`get_all_opkernel_def`); only which functions it writes out is tried. Other runtimes have no such
list: each operator is tried at each version and with all dtypes, as a model of one node (`probes`).
onnxruntime-web has the kernels of the onnxruntime of its version, whose table must be there, but for what it
does not load. OpenVINO runs all of them, and must give the right values. `portable` is what all tables have
in common.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import onnx
import onnx.defs

from j2o.backend.kernels import ENDING, FOLDER
from j2o.backend.proto import ir_version
from j2o.ir.onnx_ops import ONNX_NAMES, schema
from j2o.ir.target import OLDEST, Table, read_table
from j2o.ir.types import DType, is_in_onnx
from tools.runtimes.asking import Answer, Runtime, ask, job, kernels, runtime
from tools.runtimes.probes import KINDS, NORMS, Probe, far_from_zero, probes

DOMAINS = {"": "onnx", "com.microsoft": "ort"}
UNBOUNDED = 1000  # from here on, the last opset of a kernel stands for none
# what is known to differ from ONNX, and cannot be seen in the dtypes
ONNXRUNTIME = (
    "ReduceMax and ReduceMin pass over NaN; j2o looks for it",
    "1 / y of integers is another division; j2o writes it in another form",
)
CAST = ("f16",)  # by onnxruntime's InsertCastTransformer
NANS = "TopK takes NaN for equal to any number; j2o sorts by keys"
TIES = (
    "TopK leaves the order of equal elements open; j2o sorts once more, by their places"
)
FAR = 5e-3  # from the right values of a normalisation, which are about 1
DIGITS = "loses its digits where the mean is large; j2o takes its parts"
FAULTS = {
    "openvino": (
        "i64 is computed as i32: numbers beyond its range are wrong",
        "u32 is computed as i32 in places: numbers from 2^31 on are wrong",
        "integers are divided and reduced as f32: numbers beyond 2^24 are wrong",
        "Scan writes a state over the row behind it; j2o makes it a Loop",
        "comparisons of NaN hold in places; Relu, Max, Min and Clip give a number for it, Exp infinity",
    )
}
# what a kernel takes: (type constraint, dtypes), in the order of the names
Row: TypeAlias = "tuple[tuple[str, frozenset[DType]], ...]"
# operator → its kernels at one opset
Rows: TypeAlias = "dict[str, set[Row]]"


class Runs(NamedTuple):
    """What a runtime is, and its kernels by opset."""

    name: str
    version: str
    faults: Sequence[str]
    rows: Mapping[int, Rows]
    ir_version: int  # the newest that it reads
    casts: Sequence[
        str
    ] = ()  # dtypes that it casts to f32 itself where it lacks a kernel
    inlined: Mapping[int, Rows] | None = None  # functions that it writes out
    avoids: Sequence[str] = ()  # operators with which it loses too many digits
    functions: bool = True  # whether a model may have some of its own
    orders_nan: bool = False  # whether TopK takes NaN for the greatest number
    orders_ties: bool = True  # whether TopK keeps equal elements in their order
    misfused: Sequence[str] = ()  # what it fuses in f64 without a kernel for that


def main() -> None:
    """Make the tables that the arguments name, and `portable` of all that there are."""
    for argument in sys.argv[1:]:
        name, _, place = argument.partition("=")
        write(runs(runtime(name, place)))
    files = [file for file in FOLDER.glob(f"*{ENDING}") if "portable" not in file.name]
    write(common([read_table(file) for file in sorted(files)]))


def runs(one: Runtime) -> Runs:
    """What a runtime runs."""
    found = _runs(one)
    avoids = tuple(inexact(one))
    faults = [f"{kind} {DIGITS}" for kind in avoids]
    in_order = orders_nan(one)
    if not in_order:
        faults.append(NANS)
    is_stable = orders_ties(one)
    if not is_stable:
        faults.append(TIES)
    named = [f"onnx.{kind}" for kind in avoids]
    [answer] = ask(one, [job(_with_function())])
    return found._replace(
        avoids=named,
        faults=[*found.faults, *faults],
        functions=answer.error is None,
        orders_nan=in_order,
        orders_ties=is_stable,
        misfused=tuple(misfused(one)),
    )


def _with_function() -> bytes:
    """A model that calls a function of its own."""
    text = f"""<ir_version: 8, opset_import: ["": {OLDEST}, "own": 1]>
    caller (float[2] x) => (float[2] y) {{ y = own.twice(x) }}
    <domain: "own", opset_import: ["": {OLDEST}]> twice (a) => (b) {{ b = Add(a, a) }}"""
    return onnx.parser.parse_model(text).SerializeToString()


def orders_nan(one: Runtime) -> bool:
    """Whether TopK takes NaN for greater than all numbers, and the first of several for the first."""
    nan, inf = np.nan, np.inf
    rows = [[1, nan, 2, inf], [nan, -1, inf, nan], [-inf, 0, nan, 5], [inf, 3, 2, nan]]
    x = np.array(rows, np.float32)
    for largest, order in (
        (1, np.argmax(x, 1)),
        (0, np.argmin(np.where(np.isnan(x), inf, x), 1)),
    ):
        text = f"""<ir_version: 8, opset_import: ["": {OLDEST}]>
        sorts (float[4, 4] x) => (float[4, 1] y, int64[4, 1] at)
        <int64[1] k = {{1}}> {{ y, at = TopK <axis = 1, largest = {largest}> (x, k) }}"""
        model = onnx.parser.parse_model(text).SerializeToString()
        [answer] = ask(one, [job(model, {"x": x})])
        if answer.error is not None or (answer.outputs[1][:, 0] != order).any():
            return False
    return True


def orders_ties(one: Runtime) -> bool:
    """Whether TopK keeps equal elements in their order, as ONNX has it, also in a long row."""
    x = np.repeat(np.float32([2, 1]), 32)[None]
    order = np.argsort(x, kind="stable")
    text = f"""<ir_version: 8, opset_import: ["": {OLDEST}]>
    sorts (float[1, 64] x) => (float[1, 64] y, int64[1, 64] at)
    <int64[1] k = {{64}}> {{ y, at = TopK <largest = 0> (x, k) }}"""
    model = onnx.parser.parse_model(text).SerializeToString()
    [answer] = ask(one, [job(model, {"x": x})])
    return answer.error is None and bool((answer.outputs[1] == order).all())


# by what is fused: onnxruntime makes FusedMatMul of the first, and QuickGelu of the second
FUSED = {
    "onnx.MatMul": "t = Transpose <perm = [1, 0]> (x) y = MatMul (x, t)",
    "onnx.Mul": "s = Sigmoid (x) y = Mul (x, s)",
}


def misfused(one: Runtime) -> Iterator[str]:
    """The operators that a runtime has in f64, and does not load in f64 behind others."""
    for op, nodes in FUSED.items():
        alone = f"y = {op.removeprefix('onnx.')} (x, x)"
        answers = ask(one, [job(_of_f64(text)) for text in (alone, nodes)])
        if [answer.error is None for answer in answers] == [True, False]:
            yield op


def _of_f64(nodes: str) -> bytes:
    """A model that makes y of a square x."""
    text = f"""<ir_version: 8, opset_import: ["": {OLDEST}]>
    fused (double[2, 2] x) => (double[2, 2] y) {{ {nodes} }}"""
    return onnx.parser.parse_model(text).SerializeToString()


def inexact(one: Runtime) -> Iterator[str]:
    """The operators with which a runtime loses too many digits."""
    asked = {kind: far_from_zero(kind) for kind in NORMS}
    jobs = [job(model, feeds) for model, feeds, _ in asked.values()]
    for (kind, (_, _, want)), answer in zip(asked.items(), ask(one, jobs), strict=True):
        if answer.outputs and not np.allclose(
            answer.outputs[0], want, atol=FAR, rtol=0
        ):
            yield kind


def _runs(one: Runtime) -> Runs:
    """What a runtime runs, as it is found for each kind of runtimes."""
    newest = newest_opset(one)
    ir = newest_ir_version(one)
    if one.name.startswith("onnxruntime-1."):
        return listed(one, newest, ir)
    if one.name == "onnxruntime-web":
        return on_the_web(one, newest, ir)
    kind = one.name.partition("-")[0]
    faults = [*ONNXRUNTIME, *FAULTS.get(kind, ())]
    return Runs(one.name, one.version(), faults, tried(one, newest), ir)


def newest_opset(one: Runtime) -> int:
    """The newest opset of which a runtime loads a model."""
    opsets = range(OLDEST, onnx.defs.onnx_opset_version() + 1)
    answers = ask(one, [job(_smallest(opset)) for opset in opsets])
    taken = []
    for opset, answer in zip(opsets, answers, strict=True):
        if answer.error is None:
            taken.append(opset)
    return max(taken)


def newest_ir_version(one: Runtime) -> int:
    """The newest IR version of which a runtime loads a model."""
    versions = range(ir_version(OLDEST), onnx.IR_VERSION + 1)
    answers = ask(one, [job(_smallest(OLDEST, version)) for version in versions])
    taken = [v for v, answer in zip(versions, answers, strict=True) if not answer.error]
    return max(taken)


def _smallest(opset: int, ir: int | None = None) -> bytes:
    """A model of an opset that has nothing new in it."""
    text = f"""<ir_version: {ir or ir_version(opset)}, opset_import: ["": {opset}]>
    smallest (float[2] x) => (float[2] y) {{ y = Mul(x, x) }}"""
    return onnx.parser.parse_model(text).SerializeToString()


# ------------------------------------------------------------------------- listed by onnxruntime


def listed(one: Runtime, newest: int, ir: int) -> Runs:
    """An onnxruntime: the kernels that it tells of, and the functions that it writes out."""
    found = kernels(one)
    every = [_registered(*row) for row in found["kernels"] if row[0] in DOMAINS]
    rows = {opset: _at(every, opset) for opset in range(OLDEST, newest + 1)}
    inlined: dict[int, Rows] = {opset: {} for opset in rows}
    for probe in _inlined(one, newest, rows):
        _enter(inlined, probe)
    version = f"onnxruntime {found['version']}, CPU"
    return Runs(one.name, version, ONNXRUNTIME, rows, ir, CAST, inlined)


class _Registered(NamedTuple):
    """A kernel of the registry."""

    op: str
    first: int
    last: int | None
    row: Row

    def is_for(self, version: int) -> bool:
        """Return True where this kernel is for a version of its operator.

        One without a last opset is for one version alone, that of its first: onnxruntime does not trust it
        with versions that its author has not seen.
        """
        if self.last is None:
            return self.first == version
        return self.first <= version <= self.last


def _registered(
    domain: str, kind: str, versions: Sequence[int], types: Mapping[str, Sequence[str]]
) -> _Registered:
    first, last = versions
    row = []
    for name, allowed in sorted(types.items()):
        dtypes = frozenset(_dtypes(allowed))
        if dtypes:  # there is none in a sequence
            row.append((name, dtypes))
    end = None if last > UNBOUNDED else last
    return _Registered(f"{DOMAINS[domain]}.{kind}", first, end, tuple(row))


def _dtypes(types: Iterable[str]) -> Iterator[DType]:
    """The dtypes among types."""
    for type in types:
        dtype = ONNX_NAMES.get(type.removeprefix("tensor(").removesuffix(")"))
        if dtype is not None:
            yield dtype


def _at(every: Iterable[_Registered], opset: int) -> Rows:
    """The kernels at an opset; operators of onnxruntime's own have one version."""
    rows: Rows = {}
    for kernel in every:
        version = _version_at(kernel.op, opset)
        if version is not None and kernel.is_for(version):
            rows.setdefault(kernel.op, set()).add(kernel.row)
    return rows


def _version_at(op: str, opset: int) -> int | None:
    """The version of an operator that a model of an opset means; None where it has none yet."""
    dialect, kind = op.split(".")
    if dialect == "ort":
        return 1
    try:
        return schema(kind, opset).since
    except KeyError:
        return None


def _inlined(one: Runtime, newest: int, rows: Mapping[int, Rows]) -> Iterator[Probe]:
    """Functions without a kernel that the runtime loads all the same."""
    kinds = []
    for kind in KINDS:
        try:
            is_function = schema(kind, newest).has_function
        except KeyError:
            continue
        if is_function:
            kinds.append(kind)
    asked = []
    for probe in probes(newest, kinds):
        if f"onnx.{probe.op}" not in rows[max(probe.first, OLDEST)]:
            asked.append(probe)
    answers = ask(one, [job(probe.model) for probe in asked])
    for probe, answer in zip(asked, answers, strict=True):
        if answer.error is None:
            yield probe


# ------------------------------------------------------------------------------ found by trying


def tried(one: Runtime, newest: int) -> dict[int, Rows]:
    """The kernels of a runtime: the probes that it runs with the right values."""
    every = list(probes(newest))
    jobs = [job(probe.model, probe.feeds) for probe in every]
    answers = ask(one, jobs)
    wanted = _wanted(jobs)
    rows: dict[int, Rows] = {opset: {} for opset in range(OLDEST, newest + 1)}
    for probe, answer, want in zip(every, answers, wanted, strict=True):
        if _agrees(probe, answer, want):
            _enter(rows, probe)
    for found in rows.values():
        _drop_faulty_control(found)
    return rows


def _drop_faulty_control(rows: Rows) -> None:
    """Leave out control flow that does not carry f32: that it carries other dtypes is luck."""
    for kind in ("If", "Loop", "Scan"):
        carried = [dict(row)["V"] for row in rows.get(f"onnx.{kind}", ())]
        if not any(DType.F32 in dtypes for dtypes in carried):
            rows.pop(f"onnx.{kind}", None)


def _wanted(jobs: Sequence[dict[str, Any]]) -> list[Answer]:
    """The right values: those of onnxruntime, and of onnx's evaluator where that has no kernel."""
    found = ask(runtime("onnxruntime", sys.executable), jobs)
    rest = [i for i, answer in enumerate(found) if answer.error is not None]
    evaluator = runtime("reference", sys.executable)
    more = ask(evaluator, [jobs[i] for i in rest])
    for i, answer in zip(rest, more, strict=True):
        found[i] = answer
    return found


def on_the_web(one: Runtime, newest: int, ir: int) -> Runs:
    """onnxruntime-web: the kernels of the onnxruntime of its version, but for what it does not load."""
    version = one.version()
    minor = version.split()[1].rpartition(".")[0]
    same = read_table(FOLDER / f"onnxruntime-{minor}{ENDING}")
    opsets = range(OLDEST, newest + 1)
    rows = {opset: _rows_of(same, opset) for opset in opsets}
    every = list(probes(newest))
    loaded: dict[int, Rows] = {opset: {} for opset in opsets}
    refused: set[str] = set()
    for probe, answer in zip(
        every, ask(one, [job(p.model) for p in every]), strict=True
    ):
        if answer.error is None:
            _enter(loaded, probe)
        elif _has(rows[max(probe.first, OLDEST)], probe):
            refused.add(f"onnx.{probe.op}")
    for opset in opsets:
        for op in refused & rows[opset].keys():
            rows[opset][op] = loaded[opset].get(op, set())
    return Runs(one.name, version, ONNXRUNTIME, rows, ir, CAST)


def _has(rows: Rows, probe: Probe) -> bool:
    """Return True where there is a kernel for the dtypes of a probe."""
    for row in rows.get(f"onnx.{probe.op}", ()):
        if all(probe.dtypes.get(name) in (None, *dtypes) for name, dtypes in row):
            return True
    return False


def _agrees(probe: Probe, got: Answer, want: Answer) -> bool:
    """Return True where the outputs are right."""
    if got.error is not None or want.error is not None:
        return False
    tolerance = max(map(_tolerance, probe.dtypes.values()), default=1e-5)
    for one, other in zip(got.outputs, want.outputs, strict=True):
        if (one.dtype, one.shape) != (other.dtype, other.shape):
            return False
        wide = [np.asarray(array, np.float64) for array in (one, other)]
        if not np.allclose(*wide, rtol=tolerance, atol=tolerance, equal_nan=True):
            return False
    return True


def _tolerance(dtype: DType) -> float:
    """How far results may be apart: some units in the last place."""
    if not dtype.is_float:
        return 0.0
    if dtype.bits < 16:
        return 0.5
    return {DType.F64: 1e-12, DType.F32: 1e-5, DType.F16: 1e-2}.get(dtype, 5e-2)


def _enter(rows: Mapping[int, Rows], probe: Probe) -> None:
    """Enter a probe that runs at all opsets that it stands for."""
    row = tuple((name, frozenset([d])) for name, d in sorted(probe.dtypes.items()))
    for opset, found in rows.items():
        if probe.first <= opset and (probe.last is None or opset <= probe.last):
            found.setdefault(f"onnx.{probe.op}", set()).add(row)


# ------------------------------------------------------------------------------------ portable


def common(tables: Sequence[Table]) -> Runs:
    """What all tables run."""
    newest = min(table.newest for table in tables)
    faults = dict.fromkeys(fault for table in tables for fault in table.faults)
    rows: dict[int, Rows] = {}
    for opset in range(OLDEST, newest + 1):
        first, *others = [_rows_of(table, opset) for table in tables]
        for other in others:
            first = _both(first, other)
        rows[opset] = first
    names = ", ".join(table.name for table in tables)
    ir = min(table.ir_version for table in tables)
    avoids = sorted({op for table in tables for op in table.avoids})
    what = f"what all of these run: {names}"
    functions = all(table.functions for table in tables)
    in_order = all(table.orders_nan for table in tables)
    is_stable = all(table.orders_ties for table in tables)
    badly_fused = sorted({op for table in tables for op in table.misfused})
    made = Runs("portable", what, [*faults], rows, ir, avoids=avoids)
    return made._replace(
        functions=functions,
        orders_nan=in_order,
        orders_ties=is_stable,
        misfused=badly_fused,
    )


def _rows_of(table: Table, opset: int) -> Rows:
    rows: Rows = {}
    target = table.target(opset)
    for every in (target.rows, target.inlined):
        for op, found in every.items():
            kernels_of = {tuple(sorted(row.items())) for row in found}
            rows.setdefault(op, set()).update(kernels_of)
    return rows


def _both(one: Rows, other: Rows) -> Rows:
    """The kernels that two runtimes have in common."""
    found: Rows = {}
    for op in one.keys() & other.keys():
        shared = set()
        for row in one[op]:
            shared.update(filter(None, (_shared(row, more) for more in other[op])))
        if shared:
            found[op] = merged(shared)
    return found


def _shared(one: Row, other: Row) -> Row | None:
    """What both of two kernels take; a constraint that one of them does not name is free in it."""
    first, second = dict(one), dict(other)
    row = []
    for name in sorted(first.keys() | second.keys()):
        left = first.get(name, second.get(name))
        right = second.get(name, left)
        assert left is not None
        assert right is not None
        if not left & right:
            return None
        row.append((name, left & right))
    return tuple(row)


# ------------------------------------------------------------------------------------ the files


def merged(rows: Iterable[Row]) -> set[Row]:
    """The same kernels in fewer rows: those that differ in one constraint become one."""
    found = set(rows)
    for name in sorted({name for row in found for name, _ in row}):
        groups: dict[tuple[Row, bool], set[DType]] = {}
        for row in found:
            rest = tuple(part for part in row if part[0] != name)
            key = (rest, len(rest) < len(row))
            groups.setdefault(key, set()).update(dict(row).get(name, ()))
        found = set()
        for (rest, has_it), dtypes in groups.items():
            part = ((name, frozenset(dtypes)),) if has_it else ()
            found.add(tuple(sorted((*rest, *part), key=lambda one: one[0])))
    return found


def write(found: Runs) -> None:
    """Write a table; the same kernels always give the same bytes."""
    data = {
        "name": found.name,
        "runtime": found.version,
        "newest": max(found.rows),
        "ir_version": found.ir_version,
        "casts": list(found.casts),
        "avoids": list(found.avoids),
        "functions": found.functions,
        "orders_nan": found.orders_nan,
        "orders_ties": found.orders_ties,
        "misfused": list(found.misfused),
        "inlines": found.inlined is not None,
        "faults": list(found.faults),
        "kernels": sorted(_ranges(found.rows), key=repr),
        "inlined": sorted(_ranges(found.inlined or {}), key=repr),
    }
    FOLDER.mkdir(exist_ok=True)
    text = json.dumps(data, separators=(",", ":")).encode()
    file = FOLDER / f"{found.name}{ENDING}"
    file.write_bytes(gzip.compress(text, mtime=0))
    counts = f"{len(data['kernels'])} kernels, {file.stat().st_size} bytes"
    print(f"{file.name}: {found.version}, opset {data['newest']}, {counts}", flush=True)


def _ranges(rows: Mapping[int, Rows]) -> Iterator[list[Any]]:
    """The kernels as a file has them: one row for opsets that follow each other."""
    begun: dict[tuple[str, Row], int] = {}
    for opset in [*sorted(rows), None]:
        present = set() if opset is None else _present(rows[opset], opset)
        for key in begun.keys() - present:
            op, row = key
            taken = {name: " ".join(sorted(d.value for d in ds)) for name, ds in row}
            last = max(rows) if opset is None else opset - 1
            yield [op, begun.pop(key), last, taken]
        for key in present - begun.keys():
            assert opset is not None
            begun[key] = opset


def _present(rows: Rows, opset: int) -> set[tuple[str, Row]]:
    """The kernels at an opset, with the dtypes that it has."""
    found = set()
    for op, kernels_of in rows.items():
        within = [_within(row, opset) for row in kernels_of]
        for row in merged(within):
            if all(dtypes for _, dtypes in row):
                found.add((op, row))
    return found


def _within(row: Row, opset: int) -> Row:
    return tuple(
        (name, frozenset(dtype for dtype in dtypes if is_in_onnx(dtype, opset)))
        for name, dtypes in row
    )


if __name__ == "__main__":
    main()
