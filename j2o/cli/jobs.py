"""What `j2o export` is to do: one model, or those of a file for `--config`, looked at before any is made."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from j2o.backend.files import DataNames, data_names_of
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
    job = _job(args, None, "")
    for one in _written_twice([job]):
        raise SpecError(one)
    return job


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
        for option, file in _files(args):
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
    if file == PRINTED:
        what = "it cannot be printed; name a file, as in 'model.onnx'"
        raise SpecError(f"{option} {file}: {what}")
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
    if not found:
        for what in _written_twice(jobs):
            found.append(Refusal(SpecError(f"{file}: {what}"), file))
    return found


class Written(NamedTuple):
    """A file that a job writes: the option that names it, and its path."""

    job: Job
    option: str
    path: Path

    def may_take(self, other: Written) -> bool:
        """Return True where both are one file, or data of this one may have the other's name."""
        if self.path.resolve() == other.path.resolve():
            return True
        if self.path.parent.resolve() != other.path.parent.resolve():
            return False
        names = self.data_names()
        return names is not None and names.fits(other.path.name)

    def data_names(self) -> DataNames | None:
        """How the data files are named that go with this file; None where there are none."""
        if self.option == "--data":
            return DataNames(self.path.stem, self.path.suffix)
        args = self.job.args
        is_whole = args.data is not None or args.external_data is False
        if self.option != "--output" or is_whole:
            return None
        return data_names_of(self.path.name)


def _files(args: argparse.Namespace) -> list[tuple[str, Path]]:
    """The options that name a file to write, with the file."""
    found = []
    for option in ("--output", "--report", "--data"):
        file = getattr(args, option.removeprefix("--"))
        if file is not None and (option, file) != ("--report", PRINTED):
            found.append((option, file))
    return found


def _written_twice(jobs: Sequence[Job]) -> list[str]:
    """A line for each two files of which the later one would take the place of the other."""
    found = []
    seen: list[Written] = []
    for job in jobs:
        for option, path in _files(job.args):
            one = Written(job, option, path)
            for other in seen:
                if one.option == other.option == "--data":
                    continue  # models share it
                if one.may_take(other) or other.may_take(one):
                    found.append(_told(other, one))
            seen.append(one)
    return found


def _told(one: Written, other: Written) -> str:
    """The line for two files that are one, or may become one."""
    if one.job is not other.job:
        both = f"{one.job.table} and {other.job.table}"
    elif one.job.table is None:
        both = f"{one.option} and {other.option}"
    else:
        options = [entry.option.removeprefix("--") for entry in (one, other)]
        both = f"{' and '.join(options)} of {one.job.table}"
    return f"{both} would both write {other.path}"


def _check_same(first: argparse.Namespace, job: Job) -> None:
    """SpecError where a job asks for other data than the first one with the same data file."""
    for key in ("max_file_bytes", "sources"):
        if getattr(first, key) != getattr(job.args, key):
            option = key.replace("_", "-")
            what = "must be the same for models that share their data"
            raise SpecError(f"{option} of {job.table}: it {what}")
