"""`j2o completion`: what a shell needs to complete commands, options and their values."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from j2o.cli.parser import ObjectName
from j2o.cli.reply import Reply

SHELLS = ("bash", "zsh", "fish")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "shell",
        choices=SHELLS,
        metavar="SHELL",
        help="what is to read it: bash, zsh or fish",
    )


def run(args: argparse.Namespace, reply: Reply) -> int:
    import shtab

    from j2o.cli import make_parser

    parser = make_parser()
    for action in _actions(parser):
        _offer(action)
    script = shtab.complete(parser, args.shell)
    reply.say(script)
    reply.put(shell=args.shell, script=script)
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The arguments of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _actions(inner)


def _offer(action: argparse.Action) -> None:
    """Say what an argument can be completed to, where the parser itself takes any text."""
    import shtab

    if action.type in (Path, ObjectName):
        action.complete = shtab.FILE  # type: ignore[attr-defined]
    elif action.dest == "target":
        action.choices = _targets()
    elif action.dest == "after":
        action.choices = _passes()
    elif action.dest == "why":
        action.choices = _rules()
    elif action.dest == "without":
        action.choices = [*_passes(), *_rules()]


def _targets() -> tuple[str, ...]:
    from j2o.backend.kernels import names

    return names()


def _passes() -> list[str]:
    from j2o.passes.default import default_pipeline

    return list(dict.fromkeys(default_pipeline(3).names()))


def _rules() -> list[str]:
    from j2o.passes.default import default_pipeline

    found = []
    for one in default_pipeline(3):
        found += [rule.name for rule in getattr(one, "rules", ())]
    return list(dict.fromkeys(found))
