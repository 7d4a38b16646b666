"""What `j2o export` is to do: one model, or those of a file for `--config`, looked at before any is made."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from j2o.cli import config
from j2o.cli.parser import PRINTED, Parser, UsageError
from j2o.cli.program import check_options
from j2o.errors import J2OError, SpecError

if TYPE_CHECKING:
    from j2o.cli.verify import Wanted

AddArguments = Callable[[argparse.ArgumentParser], None]


class Refusal(NamedTuple):
    """What does not fit, and the file or table that it is about."""

    error: SpecError
    of: object


class Job(NamedTuple):
    """A model to be made: what says how, and the name of its table where there is one."""

    args: argparse.Namespace
    comparison: Wanted | None
    table: str | None = None

    @property
    def before(self) -> str:
        """What stands before a line about this job, where there are several."""
        return "" if self.table is None else f"{self.table}: "


def single(args: argparse.Namespace) -> Job:
    """The job of a command line without `--config`."""
    missing = []
    if args.fn is None:
        missing.append("FUNCTION")
    if args.output is None:
        missing.append("-o/--output")
    if missing:
        what = f"{' and '.join(missing)} is missing; or --config FILE has the models"
        raise UsageError(f"j2o export: {what} ('j2o export --help' tells more)")
    if args.only:
        raise UsageError(f"j2o export: --only {args.only[0]}: it is for --config FILE")
    return _job(args, None, "")


def of_file(
    args: argparse.Namespace, arguments: AddArguments
) -> tuple[list[Job], list[Refusal]]:
    """The jobs of the tables in a file, and what does not fit in it.

    Arguments on the command line take the place of those in each table.
    """
    for value, option in ((args.fn, "FUNCTION"), (args.output, "--output")):
        if value is not None:
            what = "the tables of --config have it, each its own"
            raise UsageError(f"j2o export: {option} {value}: {what}")
    folder = args.config.parent
    sys.path[:0] = [str(folder.resolve()), os.getcwd()]
    parser = Parser()
    arguments(parser)
    keys = config.keys_of(parser)
    on_command_line = config.given(args.words, arguments)
    jobs: list[Job] = []
    refusals: list[Refusal] = []
    for table in config.read(args.config, args.only, keys):
        try:
            one = config.arguments_of(table, folder, parser, keys)
            vars(one).update(on_command_line)
            jobs.append(_job(one, table.name, f"{table.where} "))
        except SpecError as error:
            refusals.append(Refusal(error, table.name))
    refusals += _clashes(jobs, args.config)
    return jobs, refusals


def _job(args: argparse.Namespace, table: str | None, where: str) -> Job:
    """A job whose options fit; SpecError, with `where` before it, says which does not."""
    from j2o.cli.verify import wanted

    try:
        if args.fn is None:
            raise SpecError("function is missing: 'pkg.module:name', or a file's")
        if args.output is None:
            raise SpecError("output is missing: where to write, as in 'model.onnx'")
        for option in ("--output", "--report", "--data"):
            file = getattr(args, option.removeprefix("--"))
            if file not in (None, PRINTED):
                _check_folder(option, file)
        if args.data is not None and args.external_data is not None:
            raise SpecError("--external-data: with --data the weights lie there")
        check_options(args)
        return Job(args, wanted(args), table)
    except J2OError as error:
        told = str(error) if table is None else str(error).removeprefix("--")
        raise SpecError(f"{where}{told}") from error


def _check_folder(option: str, file: Path) -> None:
    """SpecError where nothing could be written in the end, before time is spent on compiling."""
    if not file.parent.is_dir():
        what = f"there is no folder {str(file.parent)!r}"
        raise SpecError(f"{option} {file}: {what}; make it, or name another one")
    if file.is_dir():
        raise SpecError(f"{option} {file}: it is a folder; name a file in it")


# ------------------------------------------------------------------------------------ several


def grouped(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs that are saved together, in the order of the first of each group."""
    groups: dict[Any, list[Job]] = {}
    for job in jobs:
        data = job.args.data
        key = id(job) if data is None else data.resolve()
        groups.setdefault(key, []).append(job)
    return list(groups.values())


def _clashes(jobs: Sequence[Job], file: Path) -> list[Refusal]:
    """What does not fit of tables that are right each by itself."""
    from j2o.backend.shared import check_names

    found = []
    seen: dict[Path, Job] = {}
    for job in jobs:
        for path in _written_alone(job):
            other = seen.setdefault(path.resolve(), job)
            if other is not job:
                what = f"{other.table} and {job.table} would both write {path}"
                found.append(Refusal(SpecError(f"{file}: {what}"), file))
    for group in grouped(jobs):
        first = group[0].args
        if first.data is None:
            continue
        try:
            check_names(first.data, [job.args.output for job in group])
            for job in group[1:]:
                _check_same(first, job)
        except J2OError as error:
            names = " and ".join([str(job.table) for job in group])
            told = SpecError(f"{file}: data of {names}: {error}")
            found.append(Refusal(told, file))
    return found


def _written_alone(job: Job) -> list[Path]:
    """The files of a job that no other job may write."""
    files = (job.args.output, job.args.report)
    return [file for file in files if file not in (None, PRINTED)]


def _check_same(first: argparse.Namespace, job: Job) -> None:
    """SpecError where a job asks for other data than the first one with the same data file."""
    for key in ("max_file_bytes", "sources"):
        if getattr(first, key) != getattr(job.args, key):
            option = key.replace("_", "-")
            what = "must be the same for models that share their data"
            raise SpecError(f"{option} of {job.table}: it {what}")
