"""`j2o check`: say whether models are sound, and which runtimes take them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from j2o.cli.reply import Reply, each
from j2o.cli.status import Status


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    parser.add_argument(
        "--deep",
        action="store_true",
        help="read the weights too, and compare them with their checksums",
    )


def run(args: argparse.Namespace, reply: Reply) -> int:
    def look(file: Path) -> dict[str, Any]:
        return _check(file, args.deep, args.quiet, reply)

    return each(args.models, look, reply)


def _check(file: Path, deep: bool, quiet: bool, reply: Reply) -> dict[str, Any]:
    from j2o.backend.check import check
    from j2o.backend.contents import runtimes
    from j2o.backend.load import read
    from j2o.backend.summary import taken_by
    from j2o.backend.takers import takers

    with Status("checking", quiet) as status:
        sums = check(file, deep=deep, progress=status.progress)
    found = takers(read(file))
    if not quiet:
        reply.say(f"{file}: good" + (f", {sums} checksums right" if sums else ""))
        reply.say(taken_by(found))
    return {
        "file": file,
        "checksums": sums if deep else None,
        "runtimes": runtimes(found),
    }
