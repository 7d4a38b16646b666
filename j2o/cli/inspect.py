"""`j2o inspect`: print what is in models."""

from __future__ import annotations

import argparse
from pathlib import Path

from j2o.cli.failure import each


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")


def run(args: argparse.Namespace) -> int:
    return each(args.models, _look, args.traceback)


def _look(file: Path) -> None:
    from j2o.backend.load import summary

    print(summary(file))
