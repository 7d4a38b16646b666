"""Which runtimes take what j2o writes: programs of zoos are exported, run in each, and compared with JAX.

    python -m tools.runtimes --zoo ../zoo.py --write onnxruntime-1.20=PYTHON onnxruntime-web=FOLDER …

Each program is exported at the default opset, and for each runtime that is a target. `--only mlp,gpt` takes
the programs whose names have one of these words, `--write` puts the table into `docs/runtimes.md`. The
status is 1 where a runtime gives other numbers than JAX, or takes a file of which `j2o inspect` says that it
does not, or the other way round ("not expected").
"""

from __future__ import annotations

import argparse
import filecmp
import importlib.util
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import j2o
from examples import zoo
from j2o.backend.kernels import names
from j2o.backend.load import read
from j2o.backend.takers import takers
from j2o.ir import dims
from j2o.ir.dims import DimScope
from tools.runtimes.asking import Answer, Runtime, ask, job, runtime

PAGE = Path(__file__).parents[2] / "docs" / "runtimes.md"
BEGIN, END = "<!-- table -->\n", "<!-- end -->\n"
TOLERANCE = 1e-3  # of the largest magnitude of an output, or of 1 where that is less
GOOD = "✓"
NOTHING = "agrees, but JAX gives no number: with random weights everything overflows"
LONGEST = 200  # characters of a message
SURPRISE = "not expected:"  # how a note begins of which the tables know nothing
# bytes of weights above which onnx's evaluator, which is slow, is not asked
LARGE = 2**27


class Program(NamedTuple):
    """What is compiled, at which specs, with which arguments."""

    name: str
    fn: Callable[..., Any]
    specs: Sequence[Any]
    arguments: Sequence[Any]


class Export(NamedTuple):
    """A program in a file: with what it is fed, and what JAX gives. `refused` says why there is none."""

    program: str
    target: str | None
    path: str
    feeds: dict[str, np.ndarray]
    wanted: list[np.ndarray]
    opset: int
    size: int
    keeps: dict[str, str]  # what keeps a runtime from it, as `j2o inspect` tells it
    refused: str | None = None


# --------------------------------------------------------------------------------- programs


def programs(files: Sequence[str], words: Sequence[str]) -> Iterator[Program]:
    """The programs of the examples, and of other zoos, at their smallest sizes."""
    for name, example in zoo.EXAMPLES.items():
        if _is_asked(name, words):
            arguments = next(zoo.arguments(example))
            yield Program(name, example.build(), example.specs, arguments)
    for file in files:
        for name, build in _module(Path(file)).ZOO.items():
            full = f"{Path(file).parent.name}/{name}"
            if _is_asked(full, words):
                fn, specs, sizes = build()
                yield Program(full, fn, specs, _arguments(specs, sizes[0]))


def _is_asked(name: str, words: Sequence[str]) -> bool:
    return not words or any(word in name for word in words)


def _module(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location("other_zoo", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _arguments(specs: Sequence[str], size: dict[str, int]) -> list[np.ndarray]:
    """Random arguments: normally distributed, or integers below 100."""
    random = np.random.default_rng(0)
    made = []
    for spec in specs:
        dtype, _, text = spec.rstrip("]").partition("[")
        shape = tuple(dims.evaluate(d, size) for d in DimScope().shape(text))
        if dtype == "f32":
            made.append(random.standard_normal(shape).astype(np.float32))
        else:
            made.append(random.integers(0, 100, shape).astype(np.int32))
    return made


def export(program: Program, target: str | None, folder: Path) -> Export:
    """A program in a file, with what it is fed and what JAX gives."""
    try:
        model = j2o.compile(program.fn, program.specs, target=target)
    except j2o.UnsupportedError as error:
        told = " ".join(str(error).split())[:LONGEST]
        return Export(program.name, target, "", {}, [], 0, 0, {}, f"j2o: {told}")
    leaves = jax.tree.leaves(program.arguments)
    arrays = [np.asarray(leaf) for leaf in leaves]
    feeds = dict(zip(model.input_names, arrays, strict=True))
    given = jax.tree.map(jax.numpy.asarray, list(program.arguments))
    wanted = [np.asarray(leaf) for leaf in jax.tree.leaves(program.fn(*given))]
    kind = (target or "default").replace("/", "-")
    path = folder / f"{program.name.replace('/', '-')}-{kind}.onnx"
    model.save(path, external_data=False)
    keeps = {one.name: ", ".join(one.reasons) for one in takers(read(path))}
    size = path.stat().st_size
    return Export(
        program.name, target, str(path), feeds, wanted, model.opset, size, keeps
    )


# --------------------------------------------------------------------------------- comparing


def verdict(one: Export, runtime: str, answer: Answer) -> str:
    """A mark where the outputs are JAX's, else what is the matter."""
    known = one.keeps.get(runtime)
    if answer.error is not None:
        told = _without_paths(answer.error)
        return known or (told if known is None else f"{SURPRISE} {told}")
    if known:
        return f"{SURPRISE} it runs; inspect says that it does not: {known}"
    for got, want in zip(answer.outputs, one.wanted, strict=True):
        if got.shape != want.shape:
            return f"shapes differ: {got.shape}, not {want.shape}"
        if problem := _apart(got, want):
            return problem
    return GOOD


def _without_paths(text: str) -> str:
    """A message of a runtime without names of files, and not too long."""
    return re.sub(r"\S*/\S+", "…", text)[:LONGEST]


def _apart(got: np.ndarray, want: np.ndarray) -> str | None:
    """How far an output is from JAX's, where that is too far."""
    if not np.issubdtype(want.dtype, np.floating):
        return None if np.array_equal(got, want) else "integers differ"
    is_number = np.isfinite(want)
    if not np.array_equal(got[~is_number], want[~is_number], equal_nan=True):
        return "NaN or infinities differ"
    if not is_number.any():
        return NOTHING if want.size else None
    far = float(np.max(np.abs(got.astype(np.float64) - want)[is_number]))
    largest = max(1.0, float(np.max(np.abs(want[is_number]))))
    if far <= TOLERANCE * largest:  # False for NaN
        return None
    return f"numbers differ by {far:.1e}, the largest is {largest:.1e}"


def asked(one: Runtime, exports: Sequence[Export]) -> list[str]:
    """What a runtime makes of exports."""
    verdicts = [each.refused for each in exports]
    jobs, where = [], []
    for i, each in enumerate(exports):
        if verdicts[i]:
            continue
        if one.name == "reference" and each.size > LARGE:
            verdicts[i] = "not asked, as it is slow"
            continue
        jobs.append(job(each.path, each.feeds))
        where.append(i)
    for i, answer in zip(where, ask(one, jobs), strict=True):
        verdicts[i] = verdict(exports[i], one.name, answer)
    return [text or "" for text in verdicts]


# ------------------------------------------------------------------------------------ the page


class Table:
    """Marks by program and runtime; what is no mark becomes a note below the table."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = columns
        self.rows: dict[str, dict[str, str]] = {}
        self.notes: dict[str, int] = {}

    def enter(
        self, program: str, opset: int, column: str, texts: Sequence[str]
    ) -> None:
        """Enter what a runtime makes of the export at the default opset, and of that for it."""
        row = self.rows.setdefault(program, {"opset": str(opset)})
        marks = dict.fromkeys(map(self.mark, texts))
        row[column] = " / ".join(marks)

    def mark(self, text: str) -> str:
        """The mark itself, or the number of a note."""
        if text == GOOD:
            return text
        return f"[{self.notes.setdefault(text, len(self.notes) + 1)}]"

    def __str__(self) -> str:
        keys = ["opset", *self.columns]
        lines = [
            "| program | " + " | ".join(keys) + " |",
            "| --- | " + " | ".join("---" for _ in keys) + " |",
        ]
        for program, row in self.rows.items():
            marks = " | ".join(row.get(key, "–") for key in keys)
            lines.append(f"| {program} | {marks} |")
        lines.append("")
        lines += [f"- [{number}] {text}" for text, number in self.notes.items()]
        return "\n".join(lines) + "\n"


def main() -> int:
    """Ask every runtime about every program."""
    parser = argparse.ArgumentParser(prog="tools.runtimes")
    parser.add_argument("runtimes", nargs="+", metavar="NAME=PLACE")
    parser.add_argument("--zoo", action="append", default=[], metavar="FILE")
    parser.add_argument("--only", default="", metavar="WORDS")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    runtimes = [runtime(*given.split("=", 1)) for given in args.runtimes]
    table = Table([one.version() for one in runtimes])
    words = [word for word in args.only.split(",") if word]
    for program in programs(args.zoo, words):
        with tempfile.TemporaryDirectory() as folder:
            _enter(table, program, runtimes, Path(folder))
    print(table)
    if args.write:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        PAGE.write_text(before + BEGIN + f"\n{table}\n" + END + after)
    return int(any(_is_wrong(note) for note in table.notes))


def _is_wrong(note: str) -> bool:
    """Return True where numbers are not JAX's, or a table is wrong."""
    return " differ" in note or note.startswith(SURPRISE)


def _enter(
    table: Table, program: Program, runtimes: Sequence[Runtime], folder: Path
) -> None:
    """A row of the table."""
    plain = export(program, None, folder)
    for one in runtimes:
        exports = [plain]
        if one.name in names():
            special = export(program, one.name, folder)
            if special.refused or not filecmp.cmp(plain.path, special.path, False):
                exports.append(special)
        texts = asked(one, exports)
        table.enter(program.name, plain.opset, one.version(), texts)
        print(f"{program.name} in {one.name}: {' / '.join(texts)}", flush=True)
        for each in exports[1:]:
            if each.path:
                Path(each.path).unlink()


if __name__ == "__main__":
    sys.exit(main())
