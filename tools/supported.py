"""Writes docs/supported.md from the rule tables and from docs/supported.json.

`tools.verified` makes the latter of suites' results.

python -m tools.supported          # write it python -m tools.supported --check  # exit status 1 where
it is out of date
"""

import json
import sys
from pathlib import Path
from typing import Any

from j2o.frontend.host import CALLING, PRINTING
from j2o.frontend.own_code import primitives_with_code
from j2o.passes.components.tables import BILINEAR, COMPLEX, EACH, FLATTENED, KEYS
from j2o.passes.lower import elementwise, has_rule
from j2o.passes.lower.table import DECOMPOSITIONS, LOWERINGS, OneOperator
from j2o.passes.structure.inline import CALLS

PATH = Path(__file__).parent.parent / "docs" / "supported.md"
RESULTS = PATH.with_suffix(".json")
HEAD = """# Primitives with a rule

Written by `python -m tools.supported` from the rule tables and the results of conformance suites
({cases}).

Real dtypes need no column of rules: what onnxruntime has no kernel for is cast by the legaliser. *ONNX*
rules build nodes, *JAX* rules are plain JAX code traced at the operation's own types.
The link leads to the file that has the rule: search it for the primitive's name in quotes, and see
[writing-a-lowering.md](writing-a-lowering.md).
Complex numbers are pairs of reals, typed keys arrays of words; a dot says that the primitive takes them.
*Verified* has the dtypes in which cases of the suites agree with JAX, *symbolic* says whether cases with
symbolic sizes do; what stands in neither is tested by `tests` alone, or through the primitives that it
is made of.
"""
LIMITS = """
## Primitives with code of their own

Where no rule says what a primitive is, the JAX code counts that its author gave it for the compiler or
as its implementation: so work the primitives of `jax.experimental.sparse`, of equinox (also
`linear_solve` of lineax) and of users. What has neither is refused.

## Errors at run time

A branch that calls a Python function which can only raise (`equinox.error_if`) and `checkify.check` are
left out, with a note in the report; with `checks=True` the model itself fails where JAX raises. A
function that may return a value is refused.

## What cannot be expressed

Compiling raises `UnsupportedError`, which lists all such operations at once.

- `pure_callback`, `io_callback`: ONNX cannot call the host. `debug.print` and `debug.callback` are left
  out, with a note in the report.
- Meshes of more than one device, and `ragged_all_to_all`: ONNX has one device. Collectives over axes of
  size 1 are their operand.
- Typed keys of a user's own generator: its code is Python that JAX runs.
- `ffi_call`, `pallas_call`, Triton kernels and a user's own primitives without JAX code, until
  `@j2o.lower` says what they are.
- `spsolve` of `jax.experimental.sparse`, which calls scipy, and functions of `jax.export`, which are
  compiled already.
- A window of `reduce_window` of symbolic size that does not cover its axis, with a computation of the
  user's.
- `scaled_matmul` of `jax.nn`, fused attention of cuDNN: JAX itself has these on GPUs only.

Sizes that depend on values (`nonzero` without `size`) JAX cannot trace: `TraceError`.
"""
HOLDERS = {"cond", "scan", "while"}  # hold regions, and take whatever these take
WITH_COMPLEX = {*COMPLEX, *EACH, *BILINEAR, *FLATTENED, *HOLDERS}
WITH_KEYS = {*KEYS, *EACH, *FLATTENED, *HOLDERS}
ORDER = [
    "bool",
    *("u2", "u4", "u8", "u16", "u32", "u64"),
    *("i2", "i4", "i8", "i16", "i32", "i64"),
    *("f8", "bf16", "f16", "f32", "f64"),
    *("c64", "c128"),
    "key",
]


def in_short(dtypes: list[str]) -> str:
    """Dtypes in a fixed order, the kinds of float8 and of keys as one."""
    kinds = set()
    for dtype in dtypes:
        merged = [kind for kind in ("f8", "key") if dtype.startswith(kind)]
        kinds.update(merged or [dtype])
    return " ".join(dtype for dtype in ORDER if dtype in kinds)


def rules() -> set[str]:
    """Primitives that have a rule of ours, or code of JAX's own that stands for one."""
    seen = json.loads(RESULTS.read_text())["primitives"]
    own = {name for name in primitives_with_code() & set(seen) if not has_rule(name)}
    return {*LOWERINGS, *DECOMPOSITIONS, *COMPLEX, *KEYS, *own} - CALLING - PRINTING


def text() -> str:
    """The page."""
    results = json.loads(RESULTS.read_text())
    names = sorted(rules())
    verified = results["primitives"]
    table = [
        "| primitive | rule | complex | keys | verified | symbolic |",
        "| --- | --- | --- | --- | --- | --- |",
        *(row(name, verified.get(name, {})) for name in names),
    ]
    suites = sorted(results["cases"].items())
    cases = ", ".join(f"{count} cases of {suite}" for suite, count in suites)
    inlined = ", ".join(f"`{call.removeprefix('lax.')}`" for call in sorted(CALLS))
    head = HEAD.format(cases=cases) + f"Calls that are inlined: {inlined}.\n\n"
    return head + "\n".join(table) + f"\n\n{len(names)} primitives.\n{LIMITS}"


def row(name: str, verified: dict[str, Any]) -> str:
    """The row of one primitive; `verified` is what suites have of it."""
    columns = [
        f"`{name}`",
        linked(name),
        "·" if name in WITH_COMPLEX else "",
        "·" if name in WITH_KEYS else "",
        in_short(verified.get("dtypes", [])),
        "·" if verified.get("symbolic") else "",
    ]
    return f"| {' | '.join(columns)} |"


def linked(name: str) -> str:
    """The kind of a primitive's rule, with a link to the rule's file where it is one of ours."""
    if name in DECOMPOSITIONS:
        return f"[JAX]({file_of(DECOMPOSITIONS[name])})"
    if name in LOWERINGS:
        return f"[ONNX]({file_of(LOWERINGS[name])})"
    if name in COMPLEX or name in KEYS:
        return f"[components]({file_of(COMPLEX.get(name) or KEYS[name])})"
    return "JAX"  # its author's own code


def file_of(rule: Any) -> str:
    """Where a rule stands, from the page's folder."""
    module = elementwise.__name__  # all rows of one operator stand there
    if not isinstance(rule, OneOperator):
        module = getattr(rule, "func", rule).__module__
    return f"../{module.replace('.', '/')}.py"


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        sys.exit(PATH.read_text() != text())
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(text())
