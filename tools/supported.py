"""Writes docs/supported.md from the rule tables.

python -m tools.supported          # write it
python -m tools.supported --check  # exit status 1 where it is out of date
"""

import sys
from pathlib import Path

import j2o.passes.lower  # noqa: F401  (fills the tables)
from j2o.passes.components import BILINEAR, COMPLEX, EACH, FLATTENED, KEYS
from j2o.passes.inline import CALLS
from j2o.passes.lower.table import DECOMPOSITIONS, RULES

PATH = Path(__file__).parent.parent / "docs" / "supported.md"
HEAD = """# Primitives with a rule

Written by `python -m tools.supported` from the rule tables. Real dtypes need no column: what onnxruntime has no kernel for
is cast by the legaliser. *ONNX* rules build nodes, *JAX* rules are plain JAX code traced at the operation's own types. Complex
numbers are pairs of reals, typed keys arrays of words; a dot says that the primitive takes them. Calls that are inlined:
"""
HOLDERS = {"cond", "scan", "while"}  # hold regions, and take whatever these take


def text() -> str:
    """The page."""
    calls = ", ".join(f"`{c.removeprefix('lax.')}`" for c in sorted(CALLS))
    names = sorted({*RULES, *DECOMPOSITIONS, *COMPLEX, *KEYS})
    rows = [
        f"| `{n}` | {'JAX' if n in DECOMPOSITIONS else 'ONNX' if n in RULES else 'components'} "
        f"| {'·' if n in {*COMPLEX, *EACH, *BILINEAR, *FLATTENED, *HOLDERS} else ''} "
        f"| {'·' if n in {*KEYS, *EACH, *FLATTENED, *HOLDERS} else ''} |"
        for n in names
    ]
    table = ["| primitive | rule | complex | keys |", "| --- | --- | --- | --- |", *rows]
    return f"{HEAD}{calls}.\n\n" + "\n".join(table) + f"\n\n{len(names)} primitives.\n"


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        sys.exit(PATH.read_text() != text())
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(text())
