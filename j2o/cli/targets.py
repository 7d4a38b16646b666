"""`j2o targets`: list the runtimes that `--target` may name."""

from __future__ import annotations

import argparse

from j2o.cli.reply import Reply


def arguments(parser: argparse.ArgumentParser) -> None:
    """It has none of its own."""


def run(args: argparse.Namespace, reply: Reply) -> int:
    from j2o.backend.kernels import INSTALLED, installed, names, table

    found = [table(name) for name in names() if name != INSTALLED]
    reply.say(f"{INSTALLED:17} the installed one: {installed()}")
    for one in found:
        reply.say(f"{one.name:17} opsets 18 to {one.newest}  {one.runtime}")
    told = [one.told() for one in found]
    reply.put(installed=installed(), targets=told)
    return 0
