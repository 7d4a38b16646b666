"""The command line: a table of commands, each a file of this folder."""

from __future__ import annotations

import argparse
import os
import re
import sys
import textwrap
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from j2o import __version__
from j2o.cli import (
    bisect,
    check,
    completion,
    dump,
    export,
    inspect,
    passes,
    targets,
)
from j2o.cli.parser import Parser, UsageError
from j2o.cli.reply import FAILED, INTERRUPTED, STATUSES, UNREADABLE, Reply
from j2o.errors import J2OWarning, meant


class Command(NamedTuple):
    """A subcommand. `run` carries it out and gives the exit status, `arguments` adds its arguments."""

    run: Callable[[argparse.Namespace, Reply], int]
    arguments: Callable[[argparse.ArgumentParser], None]
    help: str


COMMANDS = {
    "export": Command(
        export.run, export.arguments, "compile a function and write the model"
    ),
    "inspect": Command(
        inspect.run,
        inspect.arguments,
        "print what is in models; reads no weights",
    ),
    "check": Command(
        check.run,
        check.arguments,
        "check models: structure, shapes, where weights lie; onnxruntime must load them",
    ),
    "passes": Command(
        passes.run,
        passes.arguments,
        "list the passes in the order they run; with --why, say where a rule does not fit",
    ),
    "targets": Command(
        targets.run, targets.arguments, "list the runtimes that --target may name"
    ),
    "dump": Command(dump.run, dump.arguments, "print the graph after a pass"),
    "bisect": Command(
        bisect.run,
        bisect.arguments,
        "find the first value that differs from JAX, with its node, source line and pass",
    ),
    "completion": Command(
        completion.run,
        completion.arguments,
        "print what a shell needs to complete the words of j2o",
    ),
}

TOP_OPTIONS = ("-h", "--help", "--version")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0 only on success."""
    if sys.stderr is None:  # closed by who called; `print` would take stdout for it
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    words = list(sys.argv[1:] if argv is None else argv)
    reply = Reply(words, has_process=argv is None)
    try:
        return reply.finish(_status(words, reply))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FAILED


def _status(words: Sequence[str], reply: Reply) -> int:
    """Carry out a command line; its exit status, with what went wrong told."""
    try:
        return _carried_out(_parsed(words), reply)
    except UsageError as error:
        print(error, file=sys.stderr)
        reply.add_error("UsageError", str(error).removeprefix("j2o: "))
        return UNREADABLE


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    """What a command line says; UsageError where it cannot be read."""
    parser = make_parser()
    if not words or words[0] not in (*COMMANDS, *TOP_OPTIONS):
        raise UsageError(_no_command(words))
    args, left = parser.parse_known_args(words)
    if left:
        raise UsageError(_left_over(words[0], left[0]))
    args.words = words[1:]
    return args


def _no_command(words: Sequence[str]) -> str:
    """The line for a command line that does not begin with a command."""
    there = f"there are {', '.join(COMMANDS)}"
    more = "('j2o --help' tells more)"
    if not words:
        return f"j2o: a command is missing; {there} {more}"
    word = words[0]
    if word.startswith("-"):
        near = meant(word, TOP_OPTIONS) or f"; a command comes first; {there}"
        return f"j2o: {word}: there is no such option here{near} {more}"
    near = meant(word, COMMANDS) or f"; {there}"
    return f"j2o: {word}: there is no such command{near} {more}"


def _left_over(command: str, word: str) -> str:
    """The line for a word that no argument takes."""
    more = f"('j2o {command} --help' tells more)"
    if not word.startswith("-"):
        advice = "a text with spaces or signs of the shell stands in quotes"
        if re.fullmatch(r"\w+\[.*\]", word):
            advice = f"--spec '{word}' would be a spec"
        return f"j2o {command}: nothing takes {word!r}; {advice} {more}"
    name = word.partition("=")[0]
    options = _options_of(command) if name.startswith("--") else []
    extended = [one for one in options if one.startswith(name)]
    near = f"; did you mean {extended[0]!r}?" if extended else meant(name, options)
    return f"j2o {command}: {name}: there is no such option{near} {more}"


def _options_of(command: str) -> list[str]:
    parser = Parser()
    _common_arguments(parser)
    COMMANDS[command].arguments(parser)
    found = []
    for action in parser._actions:
        found += action.option_strings
    return found


def _carried_out(args: argparse.Namespace, reply: Reply) -> int:
    """Run a command; its exit status."""
    try:
        with warnings.catch_warnings(), reply.keeping_stdout():
            warnings.showwarning = _WarningShower(reply, args.quiet)
            return args.run(args, reply)
    except KeyboardInterrupt:
        print("j2o: interrupted", file=sys.stderr)
        reply.add_error("KeyboardInterrupt", "interrupted")
        return INTERRUPTED
    except (UsageError, BrokenPipeError):
        raise
    # SystemExit: a program that ends the process has exported nothing
    except (Exception, SystemExit) as error:
        return reply.fail(error)


class _WarningShower(NamedTuple):
    """What Python calls for a warning: one of j2o is one line, those of others are as Python has them."""

    reply: Reply
    quiet: bool

    def __call__(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: Any = None,
        line: str | None = None,
    ) -> None:
        self.reply.warn(str(message))
        if self.quiet:
            return
        if issubclass(category, J2OWarning):
            print(f"j2o: warning: {message}", file=sys.stderr)
        else:
            told = warnings.formatwarning(message, category, filename, lineno, line)
            sys.stderr.write(told)


def make_parser() -> Parser:
    """The parser of all commands, made from their table."""
    parser = Parser(
        prog="j2o",
        description="Compile JAX functions to ONNX, and look into the results.",
        epilog=_exit_statuses(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"j2o {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        told = command.help
        sub = commands.add_parser(name, help=told, description=told)
        _common_arguments(sub)
        sub.set_defaults(run=command.run)
        command.arguments(sub)
    return parser


def _exit_statuses() -> str:
    """The exit statuses as `--help` shows them."""
    rows = ["exit status:"]
    for status, told in STATUSES.items():
        indent = " " * 7
        rows += textwrap.wrap(
            f"  {status:<4} {told}", width=79, subsequent_indent=indent
        )
    rows.append("Of several models each is looked at, and the highest status counts.")
    rows.append(
        "An error is one line on stderr; --traceback shows where it comes from."
    )
    return "\n".join(rows)


def _common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--traceback",
        action="store_true",
        help="show the whole traceback of an error",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="one JSON document on stdout in place of text, errors included",
    )
    parser.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        help="no warnings, no progress, nothing where all is well; errors, and what is asked for",
    )
