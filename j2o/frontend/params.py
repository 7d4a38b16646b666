"""JAX's equation parameters as plain attributes, the same for every JAX version that j2o supports.

dtypes become `DType`, enumerations lower-case strings, named tuples `Struct`, arrays `Tensor`, jaxprs
regions. Parameters that say how to compute or where, not what, are dropped. One that is none of these is an
error: a new JAX release shows at once what it added.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax._src.hashable_array import HashableArray
from jax.extend import core as jcore

from j2o.ir.dims import is_symbolic, normal
from j2o.ir.tensor import ArrayTensor
from j2o.ir.types import Attr, DType, Struct, dtype_of

# Parameters that have no influence on the values, in groups by the reason.
PLACEMENT = (  # where operands lie and where code runs: a model runs on one device, and its runtime chooses
    "backend",
    "check_vma",
    "context_mesh",
    "ctx_mesh",
    "device",
    "devices",
    "dst_sharding",
    "in_layouts",
    "in_shardings",
    "in_specs",
    "layout",
    "manual_axes",
    "memory_space",
    "newly_manual_axes",
    "out_layouts",
    "out_sharding",
    "out_shardings",
    "out_specs",
    "sharding",
    "srcs",
    "unconstrained_dims",
)
COMPILING = (  # how to compile and schedule: the results are the same either way
    "_split_transpose",
    "accuracy",
    "compiler_options_kvs",
    "compiler_params",
    "cost_estimate",
    "donated_invars",
    "grid_mapping",
    "inline",
    "is_scan",
    "keep_unused",
    "optimize_energy",
    "policy",
    "prevent_cse",
    "primitive_name",
    "split_transpose",
    "unroll",
    "use_consts",
)
DERIVATIVES = (  # rules for differentiation and batching: these were applied while JAX traced
    "bwd",
    "bwd_callable",
    "call_jaxpr_thunk",
    "differentiated",
    "fwd_jaxpr_thunk",
    "jvp_fun",
    "jvp_jaxpr_fun",
    "jvp_jaxpr_thunk",
    "linear",
    "mul_at",
    "out_trees",
    "symbolic_zeros",
    "transpose_thunk",
    "vmap_method",
)
CODE = (  # functions of Python whose jaxpr stands beside them, or which only a compiler calls
    "computation",
    "lower_fun",
    "rule",
)
PROMISES = (  # what a caller promises about the values, and which of two ways to round is quicker
    "allow_negative_indices",
    "use_fast_variance",
)
RESULTS = (  # what the types of an equation's results say already
    "out_avals",
    "out_dtype_weak",
    "result_avals",
    "weak_type",
)
NAMES = ("debug_info",)  # names for messages
DROPPED = frozenset(
    (*PLACEMENT, *COMPILING, *DERIVATIVES, *CODE, *PROMISES, *RESULTS, *NAMES)
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
    """Return the DType of a dtype of JAX's: numpy's, ml_dtypes' and the typed keys'.

    float0 (no tangent) is held as bool. TypeError for keys of another implementation.
    """
    if jax.dtypes.issubdtype(dtype, jax.dtypes.extended):
        tag = str(dtype).removeprefix("key<").removesuffix(">")
        if tag in KEY_DTYPES:
            return KEY_DTYPES[tag]
        raise TypeError(
            f"typed keys of the implementation {tag!r} are not supported; "
            "use 'threefry2x32', 'rbg' or 'unsafe_rbg'"
        )
    return DType.BOOL if dtype == jax.dtypes.float0 else dtype_of(dtype)


def jaxprs_of(value: Any) -> list[Any]:
    """The jaxprs in one parameter, closed or open."""
    if isinstance(value, tuple | list):
        return [j for v in value if type(v) not in _PLAIN for j in jaxprs_of(v)]
    return [value] if isinstance(value, jcore.Jaxpr | jcore.ClosedJaxpr) else []


def normalise(params: Mapping[str, Any]) -> tuple[dict[str, Attr], list[Any]]:
    """Return an equation's attributes, and the jaxprs for its regions in the order of the parameters.

    None and what is in `DROPPED` are left out. ParamError names a parameter that cannot be kept.
    """
    attrs: dict[str, Attr] = {}
    jaxprs: list[Any] = []
    for name, value in params.items():
        if value is None or name in DROPPED:
            continue
        if type(value) in _PLAIN:
            attrs[name] = _plain(name, value)
        elif name == "mesh":
            _check_one_device(value)
        else:
            _enter(name, value, attrs, jaxprs)
    return attrs, jaxprs


def _enter(name: str, value: Any, attrs: dict[str, Attr], jaxprs: list[Any]) -> None:
    """Enter a parameter among the attributes, or the jaxprs in it, which have no form as attributes.

    ParamError names it, and shows it where that is short.
    """
    try:
        attrs[name] = encode(value)
    except ParamError:
        found = jaxprs_of(value)
        if not found:
            raise _not_kept(name, value) from None
        jaxprs += found


def _check_one_device(mesh: Any) -> None:
    """Raise ParamError for a mesh of several devices."""
    if mesh.size > 1:
        raise ParamError(
            f"a mesh of {mesh.size} devices; programs for one device can be exported"
        )


def _plain(name: str, value: Any) -> Attr:
    """A number or text as it is; the name of a dtype, as the user spelled it, as that dtype."""
    if isinstance(value, str) and name.endswith("dtype"):
        return dtype_from_jax(jax.dtypes.canonicalize_dtype(value))
    return value


def _not_kept(name: str, value: Any) -> ParamError:
    """The error for a parameter that has no form, which shows it where that is short."""
    text = repr(value)
    is_short = len(text) < LONGEST and " at 0x" not in text
    given = f"={text}" if is_short else ""
    return ParamError(f"parameter {name}{given} of type {type(value).__name__}")


def encode(value: Any) -> Attr:
    """Return one parameter as an attribute; ParamError with the name of its type where it has no form."""
    kind: Any = type(value)
    if kind in _PLAIN or value is None:
        return value
    # the kinds that most others are of
    if kind is tuple:
        if _PLAIN.issuperset(map(type, value)):
            return value
        return tuple([encode(element) for element in value])
    if isinstance(value, np.dtype):
        return dtype_from_jax(value)
    if is_symbolic(value):
        return normal(value)  # the object that types have: comparing others is slow
    if isinstance(value, jcore.Jaxpr | jcore.ClosedJaxpr):
        raise ParamError(kind.__name__)
    for form in (_scalar, _named, _collection, _array):
        found = form(value)
        if found is not None:
            return found
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _struct(value, [field.name for field in dataclasses.fields(value)])
    raise ParamError(type(value).__name__)


# Each form gives the attribute for the values that are its own, and None for all others.


def _scalar(value: Any) -> Attr:
    """The element of a number of numpy, and subclasses of Python's own numbers and texts as they are."""
    if isinstance(value, enum.Enum):
        return value.name.lower()
    if isinstance(value, np.integer | np.floating):
        return value.item()
    return value if isinstance(value, bool | str | int | float) else None


def _named(value: Any) -> Attr:
    """What has a name or a text that says all.

    A primitive to select by, an implementation of keys, a pytree.
    """
    if isinstance(value, jcore.Primitive):
        return value.name
    if hasattr(value, "tag") and hasattr(value, "key_shape"):
        return value.tag
    return str(value) if isinstance(value, jax.tree_util.PyTreeDef) else None


def _collection(value: Any) -> Attr:
    """A named tuple or mapping as a Struct, a tuple or list as a tuple."""
    fields = getattr(value, "_fields", None)
    if isinstance(value, tuple) and fields is not None:
        return _struct(value, fields)
    if isinstance(value, tuple | list):
        return tuple([encode(element) for element in value])
    if isinstance(value, Mapping):
        return Struct("dict", **{key: encode(v) for key, v in value.items()})
    return None


def _array(value: Any) -> Attr:
    """An array or complex number as a tensor, a dtype of typed keys or a class for one as a DType."""
    if isinstance(value, HashableArray):
        value = value.val
    if isinstance(value, np.ndarray | jax.Array | complex | np.complexfloating):
        return ArrayTensor(np.asarray(value))
    return dtype_from_jax(value) if _is_dtype(value) else None


def _struct(value: Any, names: Iterable[str]) -> Struct:
    """The attributes of these names, under the name of the object's class."""
    fields = {name: encode(getattr(value, name)) for name in names}
    return Struct(type(value).__name__, **fields)


def _is_dtype(value: Any) -> bool:
    """Return True for the dtype of typed keys, and for a class that stands for one (`np.float32`)."""
    if isinstance(value, type):
        return issubclass(value, np.generic) or hasattr(value, "dtype")
    return _is_extended(value)


def _is_extended(value: Any) -> bool:
    """Return True for the dtype of typed keys, which is no numpy dtype."""
    return (
        hasattr(value, "itemsize")
        and hasattr(value, "type")
        and jax.dtypes.issubdtype(value, jax.dtypes.extended)
    )
