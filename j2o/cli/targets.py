"""`j2o targets`: list the runtimes that `--target` may name."""

from __future__ import annotations

import argparse
import json


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="with what is known to differ"
    )


def run(args: argparse.Namespace) -> int:
    from j2o.backend.kernels import INSTALLED, installed, names, table

    found = [table(name) for name in names() if name != INSTALLED]
    if args.json:
        print(json.dumps([one.told() for one in found], indent=2))
        return 0
    print(f"{INSTALLED:17} the installed one: {installed()}")
    for one in found:
        print(f"{one.name:17} opsets 18 to {one.newest}  {one.runtime}")
    return 0
