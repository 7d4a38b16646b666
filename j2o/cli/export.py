"""`j2o export`: compile a function and write the model."""

from __future__ import annotations

import argparse
from pathlib import Path

from j2o.cli.comparison import verify_arguments
from j2o.cli.program import program_arguments
from j2o.cli.reply import FAILED, Reply


def arguments(parser: argparse.ArgumentParser) -> None:
    program_arguments(parser, is_optional=True)
    _file_arguments(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        help="where to write, for example model.onnx",
    )
    parser.add_argument(
        "--external-data",
        action=argparse.BooleanOptionalAction,
        help="weights in OUTPUT.data (default: above 1 GiB)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="weights in this file beside the model; models of one --config that name the same share it",
    )
    parser.add_argument(
        "--max-file-bytes",
        type=_bytes,
        metavar="N",
        help="split the data into files of at most that size (2e9 = 2 GB)",
    )
    parser.add_argument(
        "--sources",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep the source line of each node in the model, "
        "relative to its package or project (default: yes)",
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="write what became of the program as a page, for example report.html; - prints it as text",
    )
    verify_arguments(parser)


def _file_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "several models",
        "Options on the command line take the place of those in each table.",
    )
    group.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="a TOML file with a table for each model: [tool.j2o.export.NAME] in pyproject.toml, "
        "[export.NAME] in any other; its keys are these options",
    )
    group.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="of the tables of --config that one, and others that are named so",
    )


def _bytes(text: str) -> int:
    """A number of bytes, also as 2e9."""
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        message = f"{text!r}: a number of bytes is needed, as in 2e9"
        raise argparse.ArgumentTypeError(message) from None


def run(args: argparse.Namespace, reply: Reply) -> int:
    from j2o.cli import jobs
    from j2o.cli.exporter import export

    if args.config is None:
        return export([jobs.single(args)], args.quiet, reply)
    wanted, refusals = jobs.of_file(args, arguments)
    for refusal in refusals:
        reply.fail(refusal.error, refusal.of)
    if refusals:
        return FAILED
    return export(wanted, args.quiet, reply)
