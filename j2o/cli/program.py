"""The options that say which function is compiled and how: one for every parameter of `j2o.compile`."""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from j2o.cli.load import load
from j2o.cli.parser import Json, ObjectName
from j2o.errors import J2OError, SpecError, raised, shortened, shown

if TYPE_CHECKING:
    from j2o.passes.pipeline import PassPipeline

LEVELS = (0, 1, 2, 3)
CALL = "()"  # what ends the name of a factory


# ------------------------------------------------------------------------------------ options


def program_arguments(
    parser: argparse.ArgumentParser, is_optional: bool = False
) -> None:
    """What says which function is compiled, and how; FUNCTION may be left out where that is said."""
    parser.add_argument(
        "fn",
        nargs="?" if is_optional else None,
        type=ObjectName,
        metavar="FUNCTION",
        help="what to compile: pkg.module:name, or path/to/file.py:name; with () behind it, a factory "
        "that is called and gives the function, or the function and its specs",
    )
    spec_arguments(parser)
    _pass_arguments(parser)
    _boundary_arguments(parser)


def spec_arguments(parser: argparse._ActionsContainer) -> None:
    """What says at which inputs a function is compiled, and for what."""
    _input_arguments(parser)
    parser.add_argument(
        "--target",
        metavar="NAME",
        help="what must run the model, one of 'j2o targets' (default: the installed onnxruntime)",
    )
    parser.add_argument(
        "--opset",
        type=_whole_number,
        metavar="N",
        help="default: the lowest that the model needs",
    )


def _input_arguments(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--spec",
        type=Json,
        dest="specs",
        action="append",
        default=[],
        metavar="SPEC",
        help="one a positional argument, for example 'f32[B,784]'; a pytree as JSON: "
        '\'{"image": "f32[B,784]", "step": "i32[]"}\'',
    )
    parser.add_argument(
        "--kwargs",
        type=Json,
        metavar="JSON",
        help="specs and values of keyword arguments, for example "
        '\'{"mask": "bool[B,T]", "train": false}\'',
    )
    parser.add_argument(
        "--static",
        type=Json,
        metavar="JSON",
        help="keyword arguments whose values are handed over as they are, for example "
        '\'{"axis": 1, "mutable": ["cache"]}\'',
    )
    parser.add_argument(
        "--constraint",
        dest="constraints",
        action="append",
        default=[],
        metavar="TEXT",
        help="on symbolic sizes, for example 'T <= 512'",
    )


def _pass_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--opt-level",
        type=_whole_number,
        default=2,
        choices=LEVELS,
        help="how much is done: 0 lowers only, 1 cleans up, 2 (the default) recovers operators, "
        "3 takes those of onnxruntime alone too",
    )
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="PASS",
        help="leave out a pass, a group or a rule, one of 'j2o passes'",
    )
    parser.add_argument(
        "--check",
        default="",
        choices=("numeric",),
        help="run the graph after every pass, compare",
    )
    parser.add_argument(
        "--checks",
        action="store_true",
        help="the model refuses sizes and values for which the program raises",
    )
    parser.add_argument(
        "--weights-dtype",
        choices=("bfloat16", "float16", "int8"),
        help="how large float weights are stored",
    )


def _boundary_arguments(parser: argparse.ArgumentParser) -> None:
    for option, told in (
        ("--input-name", "one an input, in their order"),
        ("--output-name", "one an output, in their order"),
    ):
        dest = option[2:].replace("-", "_") + "s"
        parser.add_argument(
            option, dest=dest, action="append", metavar="NAME", help=told
        )
    for option, dest, told in (
        ("--input-as-nchw", "inputs_as_nchw", "an input the model takes as NCHW"),
        ("--output-as-nchw", "outputs_as_nchw", "an output the model gives as NCHW"),
    ):
        parser.add_argument(
            option,
            dest=dest,
            action="append",
            default=[],
            type=_name_or_position,
            metavar="NAME",
            help=f"{told}, by its name or position; JAX has NHWC",
        )
    parser.add_argument("--name", help="of the graph (default: that of the function)")
    parser.add_argument(
        "--state",
        type=ObjectName,
        metavar="FILTER",
        help="variables of an nnx module that become inputs and outputs, "
        "for example flax.nnx:Cache",
    )


def _whole_number(text: str) -> int:
    """An option that is a whole number."""
    try:
        return int(text)
    except ValueError:
        message = f"{text!r}: a whole number is needed"
        raise argparse.ArgumentTypeError(message) from None


def _name_or_position(text: str) -> str | int:
    """An option that is the name of an argument, or its position."""
    return int(text) if text.isdecimal() else text


# ------------------------------------------------------------------------------------ values


def options(args: argparse.Namespace) -> dict[str, Any]:
    """What `j2o.compile` is given, but for its passes."""
    state = None if args.state is None else load("--state", args.state)
    return {
        **function_and_specs(args.fn, args),
        "state": state,
        "opt_level": args.opt_level,
        "checks": args.checks,
        "weights_dtype": args.weights_dtype,
        "input_names": args.input_names,
        "output_names": args.output_names,
        "inputs_as_nchw": args.inputs_as_nchw,
        "outputs_as_nchw": args.outputs_as_nchw,
        "name": args.name,
    }


def pipeline(args: argparse.Namespace) -> PassPipeline:
    """The passes of the level, without those that are left out."""
    from j2o.passes.default import default_pipeline

    passes = default_pipeline(args.opt_level)
    return passes.without(*args.without).checking(args.check)


def check_options(args: argparse.Namespace) -> None:
    """SpecError for options that cannot be right, whatever the function is."""
    from j2o.request import target_for

    for text in args.specs:
        _spec(text)
    _keyword_arguments(args)
    pipeline(args)
    target_for(args.target, args.opset, args.weights_dtype)


def function_and_specs(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """The function of that name, or what its factory gives, and what it is compiled at and for."""
    specs = [_spec(text) for text in args.specs]
    fn, made = _function(name)
    if made is not None and specs:
        what = f"--spec {shortened(args.specs[0], 80)}: {name} gives specs itself"
        raise SpecError(f"{what}; leave one of both out")
    return {
        "fn": fn,
        "specs": specs if made is None else made,
        "kwargs": _keyword_arguments(args),
        "constraints": args.constraints,
        "opset": args.opset,
        "target": args.target,
    }


def _function(name: str) -> tuple[Any, Any]:
    """The function, and the specs where a factory gives them."""
    if not name.endswith(CALL):
        return load("function", name), None
    factory = load("factory", name.removesuffix(CALL))
    if not callable(factory):
        raise SpecError(f"factory {name!r}: it is {shown(factory)}, no function")
    made = _called(name, factory)
    if not isinstance(made, tuple):
        return made, None
    if len(made) != 2:
        needed = "the function is needed, or a pair: function, specs"
        raise SpecError(f"factory {name!r}: it gave {shown(made)}; {needed}")
    return made


def _called(name: str, factory: Callable[[], Any]) -> Any:
    """What a factory gives; SpecError where it needs arguments, or raises."""
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        what = f"it is called without arguments: {error}"
        raise SpecError(f"factory {name!r}: {what}") from None
    except ValueError:  # something in C that does not tell
        pass
    try:
        return factory()
    except J2OError:
        raise
    except Exception as error:
        raise SpecError(f"factory {name!r} raised {raised(error)}") from error


def _keyword_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """What `--kwargs` and `--static` say of `kwargs` of `compile`."""
    import j2o

    kwargs = _json_object("--kwargs", args.kwargs)
    for name, value in _json_object("--static", args.static).items():
        if name in kwargs:
            raise SpecError(f"--static: {name!r} stands in --kwargs too")
        kwargs[name] = j2o.static(value)
    return kwargs


def _spec(text: str) -> Any:
    """A spec as it stands, or a pytree of specs in JSON."""
    if text.lstrip().startswith(("{", "[")):
        return _json("--spec", text, '\'{"image": "f32[B,784]"}\' or \'["B", 784]\'')
    if "[" not in text:
        needed = "a dtype and sizes are needed, as in 'f32[B,784]'; 'f32[]' is a scalar"
        raise SpecError(f"--spec {shortened(text, 80)}: {needed}")
    return text


def _json_object(option: str, text: str | None) -> dict[str, Any]:
    """The names and values that an option has; none where it is not given."""
    if text is None:
        return {}
    found = _json(option, text, '{"train": false}')
    if not isinstance(found, dict):
        needed = 'names with values are needed, as in {"train": false}'
        raise SpecError(f"{option} {shortened(text, 80)}: {needed}")
    return found


def _json(option: str, text: str, example: str) -> Any:
    """An option that is JSON; SpecError with an example where it is none."""
    try:
        return json.loads(text)
    except ValueError as error:
        what = f"no JSON, as {example} is: {error}"
        raise SpecError(f"{option} {shortened(text, 80)}: {what}") from None
