"""The command line: a table of commands, each a file of this folder."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from j2o import __version__
from j2o.cli import check, dump, export, inspect, passes, targets
from j2o.cli.failure import tell
from j2o.errors import J2OWarning

EXIT_STATUS = """\
exit status:
  0    all went well
  1    it did not: the function cannot be compiled, a file is no good model,
       with --verify the model gives other values than JAX
  2    the command line itself is wrong: an option, a choice, what is missing
  130  interrupted with Ctrl-C
Of several files, each is looked at, and the worst one counts. An error is one
line on stderr; --traceback shows where it comes from.
"""


class Command(NamedTuple):
    """A subcommand. `run` carries it out and gives the exit status, `arguments` adds its arguments."""

    run: Callable[[argparse.Namespace], int]
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
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0 only on success."""
    args = make_parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _hide_warning if args.quiet else _show_warning
            return args.run(args)
    except KeyboardInterrupt:
        print("j2o: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    # SystemExit: a program that ends the process has exported nothing
    except (Exception, SystemExit) as error:
        return tell(error, args.traceback)


def _hide_warning(*_: object) -> None:
    """With --quiet, errors alone are told."""


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    """Warnings of j2o in one line; those of others as Python shows them."""
    if issubclass(category, J2OWarning):
        print(f"j2o: warning: {message}", file=sys.stderr)
    else:
        sys.stderr.write(
            warnings.formatwarning(message, category, filename, lineno, line)
        )


class Parser(argparse.ArgumentParser):
    """Tells what is wrong in one line, without the usage of all options before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} ('{self.prog} --help' tells more)\n")


def make_parser() -> Parser:
    """The parser of all commands, made from their table."""
    parser = Parser(
        prog="j2o",
        description="Compile JAX functions to ONNX, and look into the results.",
        epilog=EXIT_STATUS,
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


def _common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--traceback",
        action="store_true",
        help="show the whole traceback of an error",
    )
    parser.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        help="no warnings, no progress, nothing where all is well; errors, and what is asked for",
    )
