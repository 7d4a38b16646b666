"""`j2o inspect`: print what is in models."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from j2o.cli.reply import Reply, each


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")


def run(args: argparse.Namespace, reply: Reply) -> int:
    def look(file: Path) -> dict[str, Any]:
        from j2o.backend.contents import contents
        from j2o.backend.summary import summary

        if reply.is_json:
            return contents(file)
        reply.say(summary(file))
        return {}

    return each(args.models, look, reply)
