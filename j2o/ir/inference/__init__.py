"""Type inference of `onnx.*`: one small function an operator family, exact with symbolic dimensions.

The files of the families are imported here, which fills the tables in `table.py`.
"""

from j2o.ir.inference import control, elementwise, shapes, sums

__all__ = ["control", "elementwise", "shapes", "sums"]
