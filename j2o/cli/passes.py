"""`j2o passes`: list the passes; with `--why`, say where a rule does not fit."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from j2o.cli.load import load
from j2o.cli.program import function_and_specs, spec_arguments
from j2o.cli.reply import Reply
from j2o.cli.status import Status
from j2o.errors import SpecError, shown

if TYPE_CHECKING:
    from j2o.ir.graph import Graph
    from j2o.passes.pipeline import Pass, PassPipeline
    from j2o.passes.rewriting.inquiry import Inquiry
    from j2o.passes.rewriting.rule import Rule


def arguments(parser: argparse.ArgumentParser) -> None:
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
    spec_arguments(why)


def run(args: argparse.Namespace, reply: Reply) -> int:
    from j2o.passes.default import default_pipeline

    pipeline = default_pipeline(args.opt_level)
    if args.why is not None:
        return _why(args, pipeline, reply)
    if args.program is not None:
        raise SpecError(f"{args.program}: --why RULE says what is asked of it")
    found = list(dict.fromkeys(pipeline))
    width = max((len(one.name) for one in found), default=0)
    for one in found:
        reply.say(f"{one.name:{width}}  {one.at:6}  level {one.level}  {one.doc}")
    reply.put(passes=list(map(_as_data, found)))
    return 0


def _as_data(one: Pass) -> dict[str, Any]:
    """A pass as `--json` has it."""
    from j2o.passes.rewriting.rule import RuleSet

    rules = [rule.name for rule in one.rules] if isinstance(one, RuleSet) else []
    return {
        "name": one.name,
        "at": one.at,
        "level": one.level,
        "doc": one.doc,
        "rules": rules,
    }


def _why(args: argparse.Namespace, pipeline: PassPipeline, reply: Reply) -> int:
    """Tell, for each operation where a rule could fit, that it does, or which part does not and why."""
    from j2o.passes.rewriting.inquiry import Inquiry

    if args.program is None:
        raise SpecError(
            "--why: a function or a file with the text of a graph is needed"
        )
    inquiry = Inquiry(_rule(args.why, pipeline))
    name = inquiry.rule.name
    if Path(args.program).is_file():
        _ask_text(inquiry, args)
        rewrites = None
        reply.say(inquiry)
    else:
        rewrites = _ask_program(inquiry, args, pipeline)
        reply.say(f"{inquiry}\nrewrites by {name}: {rewrites}")
    answers = inquiry.in_order()
    nodes = [answer.as_data() for answer in answers]
    reply.put(rule=name, rewrites=rewrites, nodes=nodes)
    return 0


def _ask_text(inquiry: Inquiry, args: argparse.Namespace) -> None:
    """Ask at the nodes of a graph in the text form."""
    from j2o.request import target_for

    graph = _graph_of(Path(args.program))
    inquiry.ask(graph, target_for(args.target, args.opset, None))


def _ask_program(
    inquiry: Inquiry, args: argparse.Namespace, pipeline: PassPipeline
) -> int:
    """Ask while a function is compiled; how often the rule has fired."""
    import j2o

    if ":" in args.why:
        place = args.after or ("inline" if inquiry.rule.at == "lax" else "fold")
        pipeline = pipeline.after(place, inquiry.rule)
    with Status("compiling", args.quiet):
        model = j2o.compile(
            **function_and_specs(args.program, args),
            passes=inquiry.put_before_rule(pipeline),
        )
    name = inquiry.rule.name
    return sum(record.rules.get(name, 0) for record in model.report.passes)


def _rule(text: str, pipeline: PassPipeline) -> Rule:
    """The rule of that name, or one of the user's own, `module:name`."""
    from j2o.passes.rewriting.rule import Rule, RuleSet

    found = load("rule", text) if ":" in text else pipeline.find(text)
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
