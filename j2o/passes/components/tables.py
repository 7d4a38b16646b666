"""How operations on complex numbers and typed keys are split: tables, and decorators that fill two of them.

`PARTS` has what a value splits into. `EACH`, `BILINEAR` and `FLATTENED` name primitives that need no code of
their own. The others have a formula, a function of plain JAX code with the primitive's own parameters:

    @on_pairs("exp")
    def exp(z: Pair) -> Pair: ...

    @on_words("random_split")
    def random_split(keys: Array, *, shape: Shape, impl: DType) -> Words: ...

`complex.py` and `complex_arrays.py` fill `COMPLEX`, `keys.py` fills `KEYS`; `split.py` imports these files
and applies what the tables say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar

from j2o.ir.types import DType

Formula: TypeAlias = Callable[..., Any]
F = TypeVar("F", bound=Formula)

COMPLEX: dict[str, Formula] = {}  # by the name of the primitive, without "lax."
KEYS: dict[str, Formula] = {}


class Split(NamedTuple):
    """The arrays that one value becomes, each of the value's own shape."""

    dtype: DType
    count: int


PARTS = {
    # real and imaginary part
    DType.C64: Split(DType.F32, 2),
    DType.C128: Split(DType.F64, 2),
    # words of 32 bits
    DType.KEY_FRY: Split(DType.U32, 2),
    DType.KEY_RBG: Split(DType.U32, 4),
    DType.KEY_UNSAFE_RBG: Split(DType.U32, 4),
}
# the primitive itself, applied to each part
EACH = frozenset(
    [
        # what moves elements
        "all_gather",
        "all_to_all",
        "bitcast_convert_type",
        "broadcast",
        "broadcast_in_dim",
        "concatenate",
        "copy",
        "copy_p",
        "device_put",
        "dynamic_slice",
        "dynamic_update_slice",
        "expand_dims",
        "gather",
        "pad",
        "ppermute",
        "reshape",
        "rev",
        "select_n",
        "slice",
        "split",
        "squeeze",
        "stack",
        "tie",
        "tile",
        "transpose",
        "unstack",
        # what is linear
        "add",
        "add_any",
        "cumsum",
        "neg",
        "psum",
        "psum_invariant",
        "reduce_scatter",
        "reduce_sum",
        "reduce_window_sum",
        "scatter",
        "scatter-add",
        "scatter-sub",
        "select_and_scatter_add",
        "sub",
        # what is done to each float alone
        "empty",
        "empty2",
        "optimization_barrier",
        "random_clone",
        "reduce_precision",
        "stop_gradient",
    ]
)
# linear in each of two operands: applied to each pair of parts
BILINEAR = frozenset(
    [
        "conv_general_dilated",
        "dot_general",
        "mul",
        "ragged_dot",
        "ragged_dot_general",
    ]
)
# the primitive itself, with the parts as operands of their own: its lowering rule takes them
FLATTENED = frozenset(
    [
        "check",
        "fft",
        "io_callback",
        "pure_callback",
        "sort",
    ]
)
# attributes of a flattened node that count operands, in the order of the operands
COUNTS = ("num_consts", "num_carry", "cond_nconsts", "body_nconsts", "num_keys")


def on_pairs(*primitives: str) -> Callable[[F], F]:
    """Register a formula for complex operands.

    A complex operand comes as `Pair(re, im)`, a real one as an array; a complex result is a `Pair`.
    """
    return _registrar(COMPLEX, primitives)


def on_words(*primitives: str) -> Callable[[F], F]:
    """Register a formula for keys.

    Keys come as `u32[..., words]`, and the parameter `impl` says which kind of keys they are. Where the
    primitive gives keys, the result is a tuple with one array for each word.
    """
    return _registrar(KEYS, primitives)


def _registrar(
    table: dict[str, Formula], primitives: tuple[str, ...]
) -> Callable[[F], F]:
    """Decorator that enters a formula into a table under the names of primitives."""

    def register(formula: F) -> F:
        for primitive in primitives:
            table[primitive] = formula
        return formula

    return register
