"""`j2o dump`: print the graph after a pass."""

from __future__ import annotations

import argparse
from typing import Any

from j2o.cli.program import options, pipeline, program_arguments
from j2o.cli.reply import Reply
from j2o.cli.status import Status
from j2o.errors import SpecError, meant


def arguments(parser: argparse.ArgumentParser) -> None:
    program_arguments(parser)
    told = "the pass (default: the last)"
    parser.add_argument("--after", metavar="PASS", help=told)


def run(args: argparse.Namespace, reply: Reply) -> int:
    import j2o

    texts: dict[str, str] = {}

    def observe(name: str, graph: Any) -> None:
        if args.after in (None, name):
            texts[name] = str(graph)

    with Status("compiling", args.quiet):
        j2o.compile(
            **options(args),
            passes=pipeline(args).observing(observe),
        )
    if not texts:
        names = pipeline(args).names()
        there = f"there are {', '.join(dict.fromkeys(names))}"
        near = meant(args.after, names) or f"; {there}"
        raise SpecError(f"--after {args.after}: there is no such pass{near}")
    *_, (name, text) = texts.items()
    reply.say(text)
    reply.put(after=name, graph=text)
    return 0
