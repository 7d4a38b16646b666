"""The command line: export, inspect, check, passes, targets, dump."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from j2o.errors import J2OError, J2OWarning, SpecError, raised, shortened, shown

if TYPE_CHECKING:
    from j2o.ir.graph import Graph
    from j2o.passes.pipeline import PassPipeline
    from j2o.passes.rewriting.rule import Rule


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0 only on success."""
    args = _parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return args.run(args)
    except KeyboardInterrupt:
        print("j2o: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    # SystemExit: a program that ends the process has exported nothing
    except (Exception, SystemExit) as error:
        if args.traceback:
            traceback.print_exc()
        else:
            kind = "" if isinstance(error, J2OError) else f"{type(error).__name__}: "
            print(f"j2o: {kind}{' '.join(str(error).split())}", file=sys.stderr)
        return 1


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


# ------------------------------------------------------------------------------------ arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="j2o",
        description="Compile JAX functions to ONNX, and look into the results.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        told = command.help
        sub = commands.add_parser(name, help=told, description=told)
        sub.add_argument(
            "--traceback",
            action="store_true",
            help="show the whole traceback of an error",
        )
        sub.set_defaults(run=command.run)
        command.arguments(sub)
    return parser


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    _program_arguments(parser)
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        help="where to write, for example model.onnx",
    )
    parser.add_argument(
        "--external-data",
        action=argparse.BooleanOptionalAction,
        help="weights in OUTPUT.data (default: above 1 GiB)",
    )
    parser.add_argument(
        "--max-file-bytes",
        type=_number,
        metavar="N",
        help="split the data into files of at most that size (2e9 = 2 GB)",
    )
    parser.add_argument(
        "--weights-dtype",
        choices=("bfloat16", "float16", "int8"),
        help="how large float weights are stored",
    )
    parser.add_argument(
        "--sources",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep the source line of each node in the model, "
        "relative to its package or project (default: yes)",
    )
    parser.add_argument(
        "--report", action="store_true", help="print what each pass did"
    )


def _inspect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path)


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path)
    parser.add_argument(
        "--deep",
        action="store_true",
        help="read the weights too, and compare them with their checksums",
    )


def _passes_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--opt-level",
        type=int,
        default=3,
        choices=range(4),
        help="those that run at this level (default: 3, all of them)",
    )
    why = parser.add_argument_group(
        "why a rule does not fit",
        "--why RULE PROGRAM asks the rule at every operation where it could fit, before its pass runs.",
    )
    why.add_argument(
        "--why",
        metavar="RULE",
        help="the name of a rule, or one of your own: pkg.module:name, path/to/file.py:name",
    )
    why.add_argument(
        "program",
        nargs="?",
        help="a function, pkg.module:name or path/to/file.py:name, or a file with the text of a graph, "
        "as 'j2o dump' prints it",
    )
    why.add_argument(
        "--after",
        metavar="PASS",
        help="where a rule of your own is put (default: after fold; on lax operations, after inline)",
    )
    _spec_arguments(why)


def _dump_arguments(parser: argparse.ArgumentParser) -> None:
    _program_arguments(parser)
    told = "the pass (default: the last)"
    parser.add_argument("--after", metavar="PASS", help=told)


def _program_arguments(parser: argparse.ArgumentParser) -> None:
    """What says which function is compiled, and how."""
    parser.add_argument(
        "function", help="what to compile: pkg.module:name, or path/to/file.py:name"
    )
    _spec_arguments(parser)
    parser.add_argument("--opt-level", type=int, default=2, choices=range(4))
    parser.add_argument(
        "--check",
        default="",
        choices=("", "numeric"),
        help="run the graph after every pass, compare",
    )


def _spec_arguments(parser: argparse._ActionsContainer) -> None:
    """What says at which inputs a function is compiled, and for which opset."""
    parser.add_argument(
        "--spec",
        action="append",
        default=[],
        metavar="SPEC",
        help="one a positional argument, for example 'f32[B,784]'; a pytree as JSON: "
        '\'{"image": "f32[B,784]", "step": "i32[]"}\'',
    )
    parser.add_argument(
        "--kwargs",
        metavar="JSON",
        help="specs and values of keyword arguments, for example "
        '\'{"mask": "bool[B,T]", "train": false}\'',
    )
    parser.add_argument(
        "--static",
        metavar="JSON",
        help="keyword arguments whose values are handed over as they are, for example "
        '\'{"axis": 1, "mutable": ["cache"]}\'',
    )
    parser.add_argument(
        "--constraint",
        action="append",
        default=[],
        help="on symbolic sizes, for example 'T <= 512'",
    )
    parser.add_argument(
        "--target",
        metavar="NAME",
        help="what must run the model, one of 'j2o targets' (default: the installed onnxruntime)",
    )
    parser.add_argument(
        "--opset",
        type=int,
        help="default: the lowest that the model needs",
    )


def _number(text: str) -> int:
    return int(float(text))


def _specs(args: argparse.Namespace) -> dict[str, Any]:
    """What the options say of `specs` and `kwargs` of `compile`."""
    import j2o

    kwargs = _json_object("--kwargs", args.kwargs)
    for name, value in _json_object("--static", args.static).items():
        if name in kwargs:
            raise SpecError(f"--static: {name!r} stands in --kwargs too")
        kwargs[name] = j2o.static(value)
    return {"specs": list(map(_spec, args.spec)), "kwargs": kwargs}


def _spec(text: str) -> Any:
    """A spec as it stands, or a pytree of specs in JSON."""
    is_json = text.lstrip().startswith(("{", "["))
    return _json("--spec", text) if is_json else text


def _json_object(option: str, text: str | None) -> dict[str, Any]:
    """The names and values that an option has; none where it is not given."""
    if text is None:
        return {}
    found = _json(option, text)
    if not isinstance(found, dict):
        needed = 'names with values are needed, as in {"train": false}'
        raise SpecError(f"{option} {shortened(text, 80)}: {needed}")
    return found


def _json(option: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise SpecError(f"{option} {shortened(text, 80)}: no JSON: {error}") from None


# ------------------------------------------------------------------------------------ the function


def _load_function(text: str) -> Any:
    """The function that `module:attribute.path` names."""
    return _load("function", text)


def _load(what: str, text: str) -> Any:
    """The object that `module:attribute.path` names; SpecError says which part of `what` is not there."""
    module_name, colon, path = text.partition(":")
    if not colon or not path or not module_name:
        raise SpecError(f"{what} {text!r}: write it as pkg.module:name")
    is_file = module_name.endswith(".py")
    if is_file and not Path(module_name).is_file():
        raise SpecError(f"{what}: there is no file {module_name!r}")
    load_module = _load_file if is_file else _load_module
    try:
        found = load_module(module_name)
    except J2OError:
        raise
    except (Exception, SystemExit) as error:
        why = f"{module_name} cannot be imported: {raised(error)}"
        raise SpecError(f"{what} {text!r}: {why}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            where = getattr(found, "__name__", type(found).__name__)
            raise SpecError(f"{what} {text!r}: {where} has no {part!r}")
        found = getattr(found, part)
    return found


def _load_module(name: str) -> Any:
    sys.path.insert(0, os.getcwd())
    return importlib.import_module(name)


def _load_file(path: str) -> Any:
    """The module that a file is, whatever else bears its name; its neighbours can be imported by it."""
    file = Path(path)
    sys.path.insert(0, str(file.resolve().parent))
    name = file.stem if file.stem not in sys.modules else f"j2o_program_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ------------------------------------------------------------------------------------ commands


def _export(args: argparse.Namespace) -> int:
    import j2o

    with _Status("compiling") as status:
        model = j2o.compile(
            _load_function(args.function),
            **_specs(args),
            constraints=args.constraint,
            opt_level=args.opt_level,
            opset=args.opset,
            target=args.target,
            weights_dtype=args.weights_dtype,
            passes=lambda p: p.checking(args.check),
        )
        status.say("saving")
        model.save(
            args.output,
            args.external_data,
            max_file_bytes=args.max_file_bytes,
            progress=status.progress,
            sources=args.sources,
        )
    print(f"{args.output}: {model!r}")
    if args.report:
        print(model.report)
    return 0


def _inspect(args: argparse.Namespace) -> int:
    from j2o.backend.load import summary

    print(summary(args.model))
    return 0


def _check(args: argparse.Namespace) -> int:
    from j2o.backend.load import check, taken_by

    with _Status("checking") as status:
        sums = check(args.model, deep=args.deep, progress=status.progress)
    print(f"{args.model}: good" + (f", {sums} checksums right" if sums else ""))
    print(taken_by(args.model))
    return 0


def _passes(args: argparse.Namespace) -> int:
    from j2o.passes.default import default_pipeline

    pipeline = default_pipeline(args.opt_level)
    if args.why is not None:
        return _why(args, pipeline)
    if args.program is not None:
        raise SpecError(f"{args.program}: --why RULE says what is asked of it")
    for one in dict.fromkeys(pipeline):
        print(f"{one.name:14} {one.at:7} level {one.level}  {one.doc}")
    return 0


def _why(args: argparse.Namespace, pipeline: PassPipeline) -> int:
    """Print, for each operation where a rule could fit, that it does, or which part does not and why."""
    import j2o
    from j2o.passes.rewriting.inquiry import Inquiry

    if args.program is None:
        raise SpecError(
            "--why: a function or a file with the text of a graph is needed"
        )
    inquiry = Inquiry(_rule(args.why, pipeline))
    if Path(args.program).is_file():
        from j2o.request import target_for

        inquiry.ask(
            _graph_of(Path(args.program)), target_for(args.target, args.opset, None)
        )
        print(inquiry)
        return 0
    if ":" in args.why:
        place = args.after or ("inline" if inquiry.rule.at == "lax" else "fold")
        pipeline = pipeline.after(place, inquiry.rule)
    with _Status("compiling"):
        model = j2o.compile(
            _load_function(args.program),
            **_specs(args),
            constraints=args.constraint,
            opset=args.opset,
            target=args.target,
            passes=inquiry.put_before_rule(pipeline),
        )
    print(inquiry)
    name = inquiry.rule.name
    rewrites = sum(record.rules.get(name, 0) for record in model.report.passes)
    print(f"rewrites by {name}: {rewrites}")
    return 0


def _rule(text: str, pipeline: PassPipeline) -> Rule:
    """The rule of that name, or one of the user's own, `module:name`."""
    from j2o.passes.rewriting.rule import Rule, RuleSet

    found = _load("rule", text) if ":" in text else pipeline.find(text)
    if isinstance(found, Rule):
        return found
    if isinstance(found, RuleSet):
        names = ", ".join(rule.name for rule in found.rules)
        raise SpecError(f"--why {text}: it is a set of rules; ask one of {names}")
    raise SpecError(f"--why {text}: {shown(found)} is no rule")


def _graph_of(file: Path) -> Graph:
    """The graph whose text a file has."""
    from j2o.errors import ParseError
    from j2o.ir.parser import parse

    try:
        return parse(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, ParseError) as error:
        problem = str(error) if isinstance(error, ParseError) else "it is no text"
        needed = (
            "the text of a graph as 'j2o dump' prints it, or a function, module:name"
        )
        raise SpecError(f"{file}: {problem}; needed is {needed}") from None


def _dump(args: argparse.Namespace) -> int:
    import j2o

    texts: dict[str, str] = {}

    def observe(name: str, graph: Any) -> None:
        if args.after in (None, name):
            texts[name] = str(graph)

    with _Status("compiling"):
        j2o.compile(
            _load_function(args.function),
            **_specs(args),
            constraints=args.constraint,
            opt_level=args.opt_level,
            opset=args.opset,
            target=args.target,
            passes=lambda p: p.checking(args.check).observing(observe),
        )
    if not texts:
        names = j2o.default_pipeline(args.opt_level).names()
        there = ", ".join(dict.fromkeys(names))
        raise SpecError(
            f"--after {args.after}: there is no such pass; there are {there}"
        )
    print(list(texts.values())[-1])
    return 0


def _targets(args: argparse.Namespace) -> int:
    from j2o.backend.kernels import INSTALLED, installed, names, table

    found = [table(name) for name in names() if name != INSTALLED]
    if args.json:
        print(json.dumps([one.told() for one in found], indent=2))
        return 0
    print(f"{INSTALLED:17} the installed one: {installed()}")
    for one in found:
        print(f"{one.name:17} opsets 18 to {one.newest}  {one.runtime}")
    return 0


def _targets_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="with what is known to differ"
    )


class Command(NamedTuple):
    """A subcommand. `run` carries it out and gives the exit status, `arguments` adds its arguments."""

    run: Callable[[argparse.Namespace], int]
    arguments: Callable[[argparse.ArgumentParser], None]
    help: str


COMMANDS = {
    "export": Command(
        _export, _export_arguments, "compile a function and write the model"
    ),
    "inspect": Command(
        _inspect, _inspect_arguments, "print what is in a model; reads no weights"
    ),
    "check": Command(
        _check,
        _check_arguments,
        "check a model: structure, shapes, where its weights lie; onnxruntime must load it",
    ),
    "passes": Command(
        _passes,
        _passes_arguments,
        "list the passes in the order they run; with --why, say where a rule does not fit",
    ),
    "targets": Command(
        _targets, _targets_arguments, "list the runtimes that --target may name"
    ),
    "dump": Command(_dump, _dump_arguments, "print the graph after a pass"),
}


# ------------------------------------------------------------------------------------ progress


class _Status:
    """What goes on, on a terminal: a spinner, and for bytes a bar with their number and rate.

    Nothing is shown elsewhere.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.bar: Any = None

    def __enter__(self) -> _Status:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress, SpinnerColumn

            self.bar = Progress(
                SpinnerColumn(),
                "{task.description}",
                console=Console(stderr=True),
                transient=True,
            )
            self.task = self.bar.add_task(self.text, total=None)
            self.bar.start()
        return self

    def say(self, text: str) -> None:
        if self.bar is not None:
            self.bar.update(self.task, description=text)

    def progress(self, done: int, total: int) -> None:
        if self.bar is not None:
            if len(self.bar.columns) == 2:
                from rich.progress import BarColumn, DownloadColumn, TransferSpeedColumn

                self.bar.reset(self.task)
                self.bar.columns += (
                    BarColumn(),
                    DownloadColumn(binary_units=True),
                    TransferSpeedColumn(),
                )
            self.bar.update(self.task, completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()


if __name__ == "__main__":
    sys.exit(main())
