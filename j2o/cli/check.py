"""`j2o check`: say whether models are sound, and which runtimes take them."""

from __future__ import annotations

import argparse
from pathlib import Path

from j2o.cli.failure import each
from j2o.cli.status import Status


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    parser.add_argument(
        "--deep",
        action="store_true",
        help="read the weights too, and compare them with their checksums",
    )


def run(args: argparse.Namespace) -> int:
    def look(file: Path) -> None:
        _check(file, args.deep, args.quiet)

    return each(args.models, look, args.traceback)


def _check(file: Path, deep: bool, quiet: bool) -> None:
    from j2o.backend.load import check, taken_by

    with Status("checking", quiet) as status:
        sums = check(file, deep=deep, progress=status.progress)
    if not quiet:
        print(f"{file}: good" + (f", {sums} checksums right" if sums else ""))
        print(taken_by(file))
