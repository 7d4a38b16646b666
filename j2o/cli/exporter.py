"""Making, writing and comparing the models of `j2o export`, one after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import j2o
from j2o.cli.exported import exported
from j2o.cli.jobs import Job, grouped
from j2o.cli.parser import PRINTED
from j2o.cli.program import options, pipeline
from j2o.cli.reply import Reply
from j2o.cli.status import Status
from j2o.cli.verify import Arguments
from j2o.model import Model


class CompiledModel(NamedTuple):
    """A compiled model, and what it is to be compared at."""

    job: Job
    model: Model
    at: Arguments | None


def export(jobs: Sequence[Job], quiet: bool, reply: Reply) -> int:
    """Export models, each whatever becomes of the others; the exit status."""
    with Status("compiling", quiet, len(jobs)) as status:
        exporter = _Exporter(quiet, reply, status)
        for group in grouped(jobs):
            made = exporter.compile(group)
            if made:
                exporter.save(made)
    if len(jobs) > 1 and not quiet:
        reply.say(f"{len(exporter.written)} of {len(jobs)} models written")
    return exporter.worst


class _Exporter:
    """`worst` is the worst exit status so far, `written` has what is told of each model written."""

    def __init__(self, quiet: bool, reply: Reply, status: Status) -> None:
        self.quiet = quiet
        self.reply = reply
        self.status = status
        self.worst = 0
        self.written: list[dict[str, Any]] = []
        reply.put(models=self.written)

    def compile(self, group: Sequence[Job]) -> list[CompiledModel]:
        """The models of a group that can be compiled."""
        found = []
        for job in group:
            self.status.next(f"{job.before}compiling")
            with self._going_on([job]):
                model = j2o.compile(**options(job.args), passes=pipeline(job.args))
                at = job.comparison and job.comparison.arguments(model)
                found.append(CompiledModel(job, model, at))
        return found

    def save(self, group: Sequence[CompiledModel]) -> None:
        """Write the models of a group, and compare those that are to be compared."""
        jobs = [made.job for made in group]
        self.status.say(f"{jobs[0].before}saving")
        with self._going_on(jobs):
            _write(group, self.status)
            for made in group:
                self._tell_and_compare(made)

    def _tell_and_compare(self, made: CompiledModel) -> None:
        """Tell of a model that is written, write its report, and compare it with JAX where asked for."""
        job, model, at = made
        entry = exported(model, job.args.output, job.table)
        self.written.append(entry)
        self._say(f"{job.args.output}: {model!r}")
        with self._going_on([job]):
            self._report(job, model)
        if job.comparison is None or at is None:
            return
        with self._going_on([job]):
            self.status.say(f"{job.before}comparing")
            compared = job.comparison.compare(model, at)
            entry["comparison"] = compared.as_data()
            self._say(compared)

    def _report(self, job: Job, model: Model) -> None:
        """Print the report, or write its page."""
        if job.args.report == PRINTED:
            with self.status.hidden():
                self.reply.say(model.report)
        elif job.args.report is not None:
            self.status.say(f"{job.before}writing the report")
            model.report.save(
                job.args.report,
                sources=job.args.sources,
                model_file=job.args.output.name,
            )

    def _say(self, text: object) -> None:
        """Print a line above the status, unless all is to be quiet."""
        if not self.quiet:
            with self.status.hidden():
                self.reply.say(text)

    @contextlib.contextmanager
    def _going_on(self, jobs: Sequence[Job]) -> Iterator[None]:
        """An error in some jobs is told, and the next ones are done all the same."""
        try:
            yield
        except BrokenPipeError:
            raise
        # SystemExit: a program that ends the process has exported nothing
        except (Exception, SystemExit) as error:
            with self.status.hidden():
                for job in jobs:
                    failed = self.reply.fail(error, job.table, job.before)
                    self.worst = max(self.worst, failed)


def _write(group: Sequence[CompiledModel], status: Status) -> None:
    """Write one model, or those that share their data."""
    args = group[0].job.args
    if args.data is None:
        group[0].model.save(
            args.output,
            args.external_data,
            max_file_bytes=args.max_file_bytes,
            progress=status.progress,
            sources=args.sources,
        )
        return
    j2o.save_models(
        {made.job.args.output: made.model for made in group},
        args.data,
        max_file_bytes=args.max_file_bytes,
        progress=status.progress,
        sources=args.sources,
    )
