"""Writes docs/supported.md from the rule tables and from docs/supported.json, which
`tools.verified` makes of suites' results.

python -m tools.supported          # write it
python -m tools.supported --check  # exit status 1 where it is out of date
"""

import json
import sys
from pathlib import Path
from typing import Any

from j2o.frontend.host import CALLING, PRINTING
from j2o.frontend.own_code import primitives_with_code
from j2o.passes.components.split import BILINEAR, COMPLEX, EACH, FLATTENED, KEYS
from j2o.passes.lower import has_rule
from j2o.passes.lower.table import DECOMPOSITIONS, LOWERINGS, OneOperator
from j2o.passes.structure.inline import CALLS

PATH = Path(__file__).parent.parent / "docs" / "supported.md"
RESULTS = PATH.with_suffix(".json")
HEAD = """# Primitives with a rule

Written by `python -m tools.supported` from the rule tables and the results of conformance suites
({cases}). Real dtypes need no column of rules: what onnxruntime has no kernel for is cast by the legaliser. *ONNX* rules build nodes, *JAX* rules are
plain JAX code traced at the operation's own types; the link leads to the file that has the rule (search it for the primitive's
name in quotes, and see [writing-a-lowering.md](writing-a-lowering.md)). Complex numbers are pairs of reals, typed keys arrays of words; a dot says
that the primitive takes them. *Verified* has the dtypes in which cases of the suites agree with JAX, *symbolic* says whether cases
with symbolic sizes do; what stands in neither is tested by `tests` alone, or through the primitives that it is made of.
"""
LIMITS = """
## Primitives with code of their own

Where no rule says what a primitive is, the JAX code counts that its author gave it for the compiler or as its implementation: so
work the primitives of `jax.experimental.sparse`, of equinox (also `linear_solve` of lineax) and of users. What has neither is refused.

## Errors at run time

A branch that calls a Python function which can only raise (`equinox.error_if`) and `checkify.check` are left out, with a note in
the report; with `checks=True` the model itself fails where JAX raises. A function that may return a value is refused.

## What cannot be expressed

Compiling raises `UnsupportedError`, which lists all such operations at once.

- `pure_callback`, `io_callback`: ONNX cannot call the host. `debug.print` and `debug.callback` are left out, with a note in the report.
- Meshes of more than one device, and `ragged_all_to_all`: ONNX has one device. Collectives over axes of size 1 are their operand.
- Typed keys of a user's own generator: its code is Python that JAX runs.
- `ffi_call`, `pallas_call`, Triton kernels and a user's own primitives without JAX code, until `@j2o.lower` says what they are.
- `spsolve` of `jax.experimental.sparse`, which calls scipy, and functions of `jax.export`, which are compiled already.
- A window of `reduce_window` of symbolic size that does not cover its axis, with a computation of the user's.
- `scaled_matmul` of `jax.nn`, fused attention of cuDNN: JAX itself has these on GPUs only.

Sizes that depend on values (`nonzero` without `size`) JAX cannot trace: `TraceError`.
"""
HOLDERS = {"cond", "scan", "while"}  # hold regions, and take whatever these take
DTYPES = (
    *("bool", "u2", "u4", "u8", "u16", "u32", "u64"),
    *("i2", "i4", "i8", "i16", "i32", "i64"),
    *("f8", "bf16", "f16", "f32", "f64"),
    *("c64", "c128", "key"),
)  # in the order of the page
ROWS = "j2o.passes.lower.elementwise"  # the module with the rows of one operator each


def in_short(dtypes: list[str]) -> str:
    """Dtypes in a fixed order, the kinds of float8 and of keys as one."""
    kinds = {kind_of(d) for d in dtypes}
    return " ".join(d for d in DTYPES if d in kinds)


def kind_of(dtype: str) -> str:
    for kind in ("f8", "key"):
        if dtype.startswith(kind):
            return kind
    return dtype


def rules() -> set[str]:
    """Primitives that have a rule of ours, or code of JAX's own that stands for one."""
    seen = json.loads(RESULTS.read_text())["primitives"]
    own = {name for name in primitives_with_code() & set(seen) if not has_rule(name)}
    return {*LOWERINGS, *DECOMPOSITIONS, *COMPLEX, *KEYS, *own} - CALLING - PRINTING


def rule_of(primitive: str) -> str:
    """Which kind of rule a primitive has, as a link to the file where it stands."""
    if primitive in DECOMPOSITIONS:
        return linked("JAX", DECOMPOSITIONS[primitive])
    if primitive in LOWERINGS:
        return linked("ONNX", LOWERINGS[primitive])
    if primitive in COMPLEX:
        return linked("components", COMPLEX[primitive])
    if primitive in KEYS:
        return linked("components", KEYS[primitive])
    return "JAX"  # code of the primitive's author


def linked(kind: str, rule: Any) -> str:
    module = ROWS if isinstance(rule, OneOperator) else rule.__module__
    path = module.replace(".", "/") + ".py"
    name = path.removeprefix("j2o/passes/")
    return f"{kind}, [{name}](../{path})"


def row(primitive: str, verified: dict[str, Any]) -> str:
    """One row of the table; `verified` has the dtypes and the flag that suites give for the primitive."""
    takes_parts = {*EACH, *FLATTENED, *HOLDERS}
    cells = [
        f"`{primitive}`",
        rule_of(primitive),
        "·" if primitive in {*COMPLEX, *BILINEAR, *takes_parts} else "",
        "·" if primitive in {*KEYS, *takes_parts} else "",
        in_short(verified["dtypes"]),
        "·" if verified["symbolic"] else "",
    ]
    return f"| {' | '.join(cells)} |"


def text() -> str:
    """The page."""
    results = json.loads(RESULTS.read_text())
    none = {"dtypes": [], "symbolic": False}
    names = sorted(rules())
    table = [
        "| primitive | rule | complex | keys | verified | symbolic |",
        "| --- | --- | --- | --- | --- | --- |",
        *(row(name, results["primitives"].get(name, none)) for name in names),
    ]
    suites = sorted(results["cases"].items())
    cases = ", ".join(f"{count} cases of {suite}" for suite, count in suites)
    calls = ", ".join(f"`{c.removeprefix('lax.')}`" for c in sorted(CALLS))
    head = HEAD.format(cases=cases) + f"Calls that are inlined: {calls}.\n\n"
    return head + "\n".join(table) + f"\n\n{len(names)} primitives.\n{LIMITS}"


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        sys.exit(PATH.read_text() != text())
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(text())
