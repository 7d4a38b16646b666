"""`j2o export`: compile a function and write the model."""

from __future__ import annotations

import argparse
from pathlib import Path

from j2o.cli.program import options, pipeline, program_arguments
from j2o.cli.reply import Reply
from j2o.cli.status import Status
from j2o.cli.verify import verify_arguments, wanted
from j2o.errors import SpecError

PRINTED = "-"  # the file that stands for the terminal


def arguments(parser: argparse.ArgumentParser) -> None:
    program_arguments(parser)
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        help="where to write, for example model.onnx",
    )
    parser.add_argument(
        "--external-data",
        action=argparse.BooleanOptionalAction,
        help="weights in OUTPUT.data (default: above 1 GiB)",
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
        metavar="FILE",
        help="write what became of the program as a page, for example report.html; - prints it as text",
    )
    verify_arguments(parser)


def _bytes(text: str) -> int:
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        message = f"{text!r}: a number of bytes is needed, as in 2e9"
        raise argparse.ArgumentTypeError(message) from None


def run(args: argparse.Namespace, reply: Reply) -> int:
    import j2o
    from j2o.cli.exported import exported

    _check_folder("--output", args.output)
    page = None if args.report in (None, PRINTED) else Path(args.report)
    if page is not None:
        _check_folder("--report", page)
    comparison = wanted(args)
    with Status("compiling", args.quiet) as status:
        model = j2o.compile(**options(args), passes=pipeline(args))
        at = comparison and comparison.arguments(model)
        status.say("saving")
        model.save(
            args.output,
            args.external_data,
            max_file_bytes=args.max_file_bytes,
            progress=status.progress,
            sources=args.sources,
        )
        if page is not None:
            status.say("writing the report")
            model.report.save(page, sources=args.sources)
    if not args.quiet:
        reply.say(f"{args.output}: {model!r}")
    if args.report == PRINTED:
        reply.say(model.report)
    reply.put(models=[exported(model, args.output, None, None)])
    if comparison and at:
        compared = comparison.compare(model, at)
        reply.put(models=[exported(model, args.output, None, compared)])
        if not args.quiet:
            reply.say(compared)
    return 0


def _check_folder(option: str, file: Path) -> None:
    """SpecError where nothing could be written in the end, before time is spent on compiling."""
    if not file.parent.is_dir():
        what = f"there is no folder {str(file.parent)!r}"
        raise SpecError(f"{option} {file}: {what}; make it, or name another one")
    if file.is_dir():
        raise SpecError(f"{option} {file}: it is a folder; name a file in it")
