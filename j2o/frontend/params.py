"""JAX's equation parameters as plain attributes, the same for every JAX version that j2o supports.

dtypes become `DType`, enumerations lower-case strings, named tuples `Struct`, arrays `Tensor`, jaxprs regions. Parameters
that say how to compute or where, not what, are dropped. One that is none of these is an error: a new JAX release
shows at once what it added.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax._src.hashable_array import HashableArray
from jax.extend import core as jcore

from j2o.ir.dims import is_symbolic
from j2o.ir.tensor import ArrayTensor
from j2o.ir.types import Attr, DType, Struct, dtype_of

# what has no influence on the values: placement, precision hints, scheduling, names of rules for differentiation
DROPPED = frozenset(
    "accuracy allow_negative_indices backend bwd bwd_callable call_jaxpr_thunk check_vma "
    "compiler_options_kvs compiler_params computation context_mesh cost_estimate ctx_mesh device devices differentiated "
    "donated_invars fwd_jaxpr_thunk grid_mapping in_layouts in_shardings in_specs inline is_scan jvp_fun "
    "jvp_jaxpr_fun jvp_jaxpr_thunk keep_unused lower_fun layout linear memory_space manual_axes mul_at "
    "newly_manual_axes optimize_energy out_layouts out_sharding out_shardings out_specs out_trees policy "
    "prevent_cse primitive_name rule sharding srcs split_transpose _split_transpose symbolic_zeros transpose_thunk unconstrained_dims unroll "
    "use_fast_variance use_consts vmap_method weak_type out_avals out_dtype_weak result_avals dst_sharding "
    "debug_info".split()
)
KEY_DTYPES = {d.value[4:-1]: d for d in DType if d.is_key} | {
    "unsafe_rbg": DType.KEY_UNSAFE_RBG
}
LONGEST = 80  # characters of a parameter that a message shows
_PLAIN = frozenset([bool, int, float, str])


class ParamError(TypeError):
    """A parameter that cannot be kept as an attribute."""


@functools.cache
def dtype_from_jax(dtype: Any) -> DType:
    """The DType of JAX's: numpy's, ml_dtypes' and the typed keys'. float0 (no tangent) is held as bool."""
    if jax.dtypes.issubdtype(dtype, jax.dtypes.extended):
        tag = str(dtype).removeprefix("key<").removesuffix(">")
        if tag in KEY_DTYPES:
            return KEY_DTYPES[tag]
        raise TypeError(
            f"typed keys of the implementation {tag!r} are not supported; use 'threefry2x32', 'rbg' or 'unsafe_rbg'"
        )
    return DType.BOOL if dtype == jax.dtypes.float0 else dtype_of(dtype)


def jaxprs_of(value: Any) -> list[Any]:
    """The jaxprs in one parameter, closed or open."""
    if isinstance(value, tuple | list):
        return [j for v in value if type(v) not in _PLAIN for j in jaxprs_of(v)]
    return [value] if isinstance(value, jcore.Jaxpr | jcore.ClosedJaxpr) else []


def normalise(params: Mapping[str, Any]) -> tuple[dict[str, Attr], list[Any]]:
    """Attributes, and the jaxprs for regions in the order of the parameters; ParamError names a parameter it cannot keep."""
    attrs: dict[str, Attr] = {}
    jaxprs: list[Any] = []
    for name, value in params.items():
        if value is None or name in DROPPED:
            continue
        if name == "mesh":
            if value.size > 1:
                raise ParamError(
                    f"a mesh of {value.size} devices; programs for one device can be exported"
                )
            continue
        if type(value) in _PLAIN:
            named = isinstance(value, str) and name.endswith(
                "dtype"
            )  # as the user spelled it
            attrs[name] = (
                dtype_from_jax(jax.dtypes.canonicalize_dtype(value)) if named else value
            )
            continue
        found = jaxprs_of(value)
        if found:
            jaxprs += found
            continue
        try:
            attrs[name] = encode(value)
        except ParamError:
            shown = (
                f"={value!r}"
                if len(repr(value)) < LONGEST and " at 0x" not in repr(value)
                else ""
            )
            raise ParamError(
                f"parameter {name}{shown} of type {type(value).__name__}"
            ) from None
    return attrs, jaxprs


def encode(value: Any) -> Attr:
    """One parameter as an attribute."""
    if value is None or type(value) in _PLAIN:
        return value
    if isinstance(value, enum.Enum):
        return value.name.lower()
    if isinstance(value, bool | str | int | float | np.integer | np.floating):
        return value.item() if isinstance(value, np.generic) else value
    if is_symbolic(value):
        return value
    if isinstance(value, jcore.Primitive):  # which of two primitives to select by
        return value.name
    if hasattr(value, "tag") and hasattr(value, "key_shape"):  # a PRNG implementation
        return value.tag
    fields = getattr(value, "_fields", None)
    if isinstance(value, tuple) and fields is not None:
        return Struct(
            type(value).__name__, **{k: encode(getattr(value, k)) for k in fields}
        )
    if isinstance(value, tuple | list):
        return tuple(encode(v) for v in value)
    if isinstance(value, Mapping):
        return Struct("dict", **{k: encode(v) for k, v in value.items()})
    if isinstance(value, jax.tree_util.PyTreeDef):
        return str(value)
    value = value.val if isinstance(value, HashableArray) else value
    if isinstance(value, np.ndarray | jax.Array):
        return ArrayTensor(np.asarray(value))
    if (
        isinstance(value, np.dtype)
        or (
            isinstance(value, type)
            and (issubclass(value, np.generic) or hasattr(value, "dtype"))
        )
        or _is_extended(value)
    ):
        return dtype_from_jax(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return Struct(
            type(value).__name__,
            **{
                f.name: encode(getattr(value, f.name))
                for f in dataclasses.fields(value)
            },
        )
    raise ParamError(type(value).__name__)


def _is_extended(value: Any) -> bool:
    """Whether `value` is the dtype of typed keys, which is no numpy dtype."""
    return (
        hasattr(value, "itemsize")
        and hasattr(value, "type")
        and jax.dtypes.issubdtype(value, jax.dtypes.extended)
    )
