"""Prints the primitives that have a lowering, from the rule tables: `python -m tools.supported`."""

import j2o.passes.lower  # noqa: F401  (fills the tables)
from j2o.passes.lower.table import DECOMPOSITIONS, RULES

if __name__ == "__main__":
    for name in sorted({*RULES, *DECOMPOSITIONS}):
        print(f"{name:28} {'plain JAX' if name in DECOMPOSITIONS else 'ONNX nodes'}")
