"""The values at a model's boundary: a caller's as the arrays of the graph, and back as JAX's.

A value is taken where nothing of it is lost: an array of the wanted dtype; one of 64 bits where JAX
would narrow it, if its values fit; a Python number, whose kind may rise (bool, int, float, complex) but
never fall. Anything else is a SpecError.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from j2o.errors import SpecError, TraceError
from j2o.ir.types import KEY_NAMES, DType, Type, dtype_of

ARRAYS = (np.ndarray, jax.Array, np.generic)
# how JAX narrows arrays while 64-bit mode is off
NARROWED = {
    DType.F64: DType.F32,
    DType.I64: DType.I32,
    DType.U64: DType.U32,
    DType.C128: DType.C64,
}
# a Python number is taken by a dtype of its own rank or a higher one
RANKS = (bool, int, float, complex)
SHOWN = 40  # characters of a value in a message


# ------------------------------------------------------------------------------------ what the caller gives


def accept(value: Any, wanted: Type, name: str) -> Any:
    """A leaf as a numpy or JAX array of the wanted dtype and rank; sizes are not looked at.

    Raises SpecError that names the input, what was given and what is wanted, and TraceError for a tracer.
    """
    if isinstance(value, Tracer):
        given = f"a tracer of {value.aval.str_short()}"
        where = "a model runs outside of jax.jit, grad and vmap"
        raise TraceError(f"input {name!r}: given {given}: {where}")
    if not isinstance(value, ARRAYS):
        value = _foreign(value, wanted, name)
    if isinstance(value, np.ma.MaskedArray):
        raise _refused(name, value, wanted, "x.filled(…) gives masked values a value")
    if np.ndim(value) != wanted.rank:
        raise _refused(name, value, wanted)
    if wanted.dtype.is_key or value.dtype != wanted.dtype.numpy:
        value = _converted(value, wanted, name)
    return _readable(value, wanted, name) if isinstance(value, jax.Array) else value


def _refused(name: str, value: Any, wanted: Type, advice: str = "") -> SpecError:
    told = f"given {described(value)}, the model takes {wanted}"
    if advice:
        told += f": {advice}"
    return SpecError(f"input {name!r}: {told}")


def described(value: Any) -> str:
    """What a message says of a value.

    Of an array it says dtype and shape; a number or a string stands itself; of anything else it
    says the type.
    """
    if isinstance(value, np.ma.MaskedArray):
        return f"a masked array {value.dtype}{list(value.shape)}"
    if isinstance(value, np.generic):
        return f"{value.dtype} {_short(value.item())}"
    if isinstance(value, ARRAYS):
        return f"{value.dtype}{list(value.shape)}"
    if value is None or isinstance(value, (*RANKS, str)):
        return _short(value)
    kind = type(value).__name__
    article = "an" if kind[0].lower() in "aeiou" else "a"
    return f"{article} {kind}"


def _short(value: Any) -> str:
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python prints no integers of more than 4300 digits
        return f"a number of {value.bit_length()} bits"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _readable(value: jax.Array, wanted: Type, name: str) -> jax.Array:
    if value.is_deleted():
        why = "it was donated to another computation"
        raise SpecError(f"input {name!r}: given an array that is deleted: {why}")
    if not value.is_fully_addressable:
        raise _refused(name, value, wanted, "it lies on devices of other processes")
    return value


def _foreign(value: Any, wanted: Type, name: str) -> Any:
    """What is no array yet: a Python number, or an object that says what array it is."""
    if isinstance(value, bool | int | float | complex):
        return _number(value, wanted, name)
    if isinstance(value, type):
        raise _refused(name, value, wanted)
    try:
        if hasattr(value, "__jax_array__"):
            array = value.__jax_array__()
        elif hasattr(value, "__array__"):
            array = np.asarray(value)
        else:
            array = None
    except Exception as error:
        why = " ".join(str(error).split())[:200]
        raise _refused(name, value, wanted, why) from error
    if array is None:
        raise _refused(name, value, wanted)
    if isinstance(array, Tracer):
        return accept(array, wanted, name)
    return array


def _number(value: complex, wanted: Type, name: str) -> np.ndarray:
    """A Python number as a scalar of the wanted dtype, if that holds it.

    Integers are kept exactly; other numbers are rounded, but not to infinity.
    """
    dtype = wanted.dtype
    rank = next(i for i, kind in enumerate(RANKS) if isinstance(value, kind))
    if wanted.rank or rank > _rank(dtype):
        raise _refused(name, value, wanted)
    if dtype.is_int and isinstance(value, int):
        low, high = dtype.integers
        if not low <= value <= high:
            why = f"{dtype.value} holds {low} to {high}"
            raise _refused(name, value, wanted, why)
        return np.asarray(int(value), dtype.numpy)
    array, stays_finite = _rounded(value, dtype)
    if not stays_finite:
        why = f"it is beyond what {dtype.value} holds"
        raise _refused(name, value, wanted, why)
    if isinstance(value, int) and complex(array) != value:
        why = f"{dtype.value} has no such integer; a float would be rounded"
        raise _refused(name, value, wanted, why)
    return array


def _rank(dtype: DType) -> int:
    """The place in RANKS of the numbers that a dtype holds; -1 for keys and strings."""
    holds = (dtype is DType.BOOL, dtype.is_int, dtype.is_float, dtype.is_complex)
    return holds.index(True) if any(holds) else -1


def _rounded(value: Any, dtype: DType) -> tuple[np.ndarray, bool]:
    """A number in the nearest value of a float or complex dtype; whether it is finite, or was not before."""
    try:
        exact = complex(value)
    except OverflowError:
        return np.zeros((), dtype.numpy), False
    with np.errstate(all="ignore"):
        array = np.asarray(exact if dtype.is_complex else exact.real, dtype.numpy)
    is_same = np.array_equal(complex(array), exact, equal_nan=True)
    return array, bool(is_same or np.isfinite(complex(array)))


def _converted(value: Any, wanted: Type, name: str) -> Any:
    """An array of another dtype than the wanted one, where it means the same."""
    if wanted.dtype.is_key:
        return _key(value, wanted, name)
    if isinstance(value, np.ndarray | np.generic) and not value.dtype.isnative:
        value = value.astype(value.dtype.newbyteorder("="))
        if value.dtype == wanted.dtype.numpy:
            return value
    try:
        given = dtype_of(value.dtype)
    except TypeError:
        raise _refused(name, value, wanted) from None
    if NARROWED.get(given) is not wanted.dtype:
        raise _refused(name, value, wanted)
    return _narrowed(value, wanted, name)


def _narrowed(value: Any, wanted: Type, name: str) -> np.ndarray:
    """A 64-bit array in 32 bits: floats rounded; SpecError where a value is beyond the range."""
    array = np.asarray(value)
    subject = "it is" if array.ndim == 0 else "some of its values are"
    beyond = f"{subject} beyond what {wanted.dtype.value} holds"
    if wanted.dtype.is_int:
        low, high = wanted.dtype.integers
        if array.size and not (low <= array.min() and array.max() <= high):
            raise _refused(name, value, wanted, beyond)
        return array.astype(wanted.dtype.numpy)
    try:
        with np.errstate(over="raise", invalid="ignore"):
            return array.astype(wanted.dtype.numpy)
    except FloatingPointError:
        raise _refused(name, value, wanted, beyond) from None


def _key(value: Any, wanted: Type, name: str) -> Any:
    """A typed PRNG key of the wanted kind."""
    impl = KEY_NAMES[wanted.dtype]
    advice = f"jax.random.key(0, impl={impl!r}) makes one"
    if not _is_key(value):
        advice += ", wrap_key_data does of its data"
        raise _refused(name, value, wanted, advice)
    if value.dtype != jax.random.key(0, impl=impl).dtype:
        raise _refused(name, value, wanted, advice)
    return value


def _is_key(value: Any) -> bool:
    """Return True for an array of typed PRNG keys."""
    if not isinstance(value, jax.Array):
        return False
    return jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


# ------------------------------------------------------------------------------------ pytrees


def by_place(
    args: Sequence[Any], kwargs: Mapping[str, Any], places: Sequence[str]
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """The arguments of a call with those by place that were given by their parameter's name."""
    missing = places[len(args) :]
    if not missing or not all(name in kwargs for name in missing):
        return args, kwargs
    rest = {name: value for name, value in kwargs.items() if name not in missing}
    return (*args, *(kwargs[name] for name in missing)), rest


def other_keywords(
    given: Collection[str],
    wanted: Sequence[str],
    settled: Collection[str],
    places: Sequence[str],
) -> str:
    """What is wrong with the keywords of a call, in one sentence.

    `wanted` are the model's keywords, `places` the names of its arguments by place.
    """
    for keyword in given:
        if keyword in settled:
            what = "it was settled when the model was compiled; leave it out"
            return f"argument {keyword!r}: {what}"
        if keyword in places:
            what = "it is given twice, or another one is missing"
            return f"argument {keyword!r}: {what}; by place come {_listed(places)}"
        if keyword not in wanted:
            takes = "the model takes no such keyword"
            if wanted:
                takes = f"the model takes the keywords {_listed(wanted)}"
            if places:
                takes += f"; by place or name come {_listed(places)}"
            return f"argument {keyword!r}: {takes}"
    missing = [keyword for keyword in wanted if keyword not in given]
    takes = "the model takes it by keyword"
    return f"argument {missing[0]!r}: it is missing; {takes}"


def misfit(
    wanted: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    names: Sequence[str],
    types: Sequence[Type],
) -> str:
    """The first place where the arguments are another pytree than the model takes, in one sentence."""
    told = [f"{name}: {type}" for name, type in zip(names, types, strict=True)]
    by_place, by_keyword = wanted.children()
    children = by_place.children()
    if len(args) != len(children):
        return _miscounted(len(args), len(children), told[: by_place.num_leaves])
    places = [f"argument {i}" for i in range(len(args))]
    places += [f"argument {keyword!r}" for keyword in sorted(kwargs)]
    values = [*args, *(kwargs[keyword] for keyword in sorted(kwargs))]
    first = 0  # number of the first leaf of an argument
    children += by_keyword.children()
    for child, place, value in zip(children, places, values, strict=True):
        last = first + child.num_leaves
        found = _first_misfit(child, value, place, told[first:last])
        if found is not None:
            return found
        first = last
    return "arguments: another pytree than the model takes"


def _miscounted(given: int, count: int, told: Sequence[str]) -> str:
    """There are more or fewer arguments than the model takes."""
    takes = f"{count} argument" if count == 1 else f"{count} arguments"
    names = ", ".join(told[:8])
    if len(told) > 8:
        names += ", …"
    if names:
        takes += f" ({names})"
    return f"arguments: given {given}, the model takes {takes}"


def _first_misfit(
    wanted: Any, value: Any, where: str, leaves: Sequence[str]
) -> str | None:
    """Where a value differs from a tree, or None; `leaves` has name and type of each leaf of the tree."""
    if jax.tree.structure(value) == wanted:
        return None
    if jax.tree_util.treedef_is_leaf(wanted) and wanted.num_leaves == 1:
        return _no_array(value, leaves[0])
    parts, tree = jax.tree_util.tree_flatten_with_path(
        value, is_leaf=lambda x: x is not value
    )
    kind = _kind(wanted)
    if jax.tree_util.all_leaves([value]) or _kind(tree) is not kind:
        wish = f"a {kind.__name__} of {', '.join(leaves[:8])}"
        if kind is type(None):
            wish = "None"
        return f"{where}: given {described(value)}, the model takes {wish}"
    if isinstance(value, dict):
        told = _other_keys(wanted, value)
        if told is not None:
            return f"{where}: {told}"
    count = len(wanted.children())
    if len(parts) != count:
        given = f"a {kind.__name__} of {len(parts)}"
        return f"{where}: given {given}, the model takes {count}"
    found = _misfit_of_parts(wanted, parts, where, leaves)
    if found is not None:
        return found
    return f"{where}: given a {kind.__name__} with other static parts than in the spec"


def _no_array(value: Any, leaf: str) -> str:
    """A value stands where the model takes one array."""
    name, _, wish = leaf.rpartition(": ")
    told = f"given {described(value)}, the model takes an array {wish}"
    if isinstance(value, list | tuple) and not value:
        empty = "()" if isinstance(value, tuple) else "[]"
        told += f"; {empty} in a spec is the shape of a scalar, j2o.static({empty}) is empty"
    elif isinstance(value, list | tuple):
        told += "; np.asarray(…) makes an array of it"
    return f"input {name!r}: {told}"


def _other_keys(wanted: Any, value: dict[Any, Any]) -> str | None:
    """Which keys a dict lacks and which it has beside those of the tree; None where they are the same."""
    given = sorted(map(str, value))
    keys = [str(key) for key in wanted.node_data()[1]]
    if given == sorted(keys):
        return None
    said = []
    missing = sorted(set(keys) - set(given))
    if missing:
        said.append(f"without {_listed(missing)}")
    extra = sorted(set(given) - set(keys))
    if extra:
        said.append(f"with {_listed(extra)}")
    takes = f"the model takes the keys {_listed(keys)}"
    return f"given a dict {' and '.join(said)}, {takes}"


def _listed(keys: Sequence[str]) -> str:
    return ", ".join(map(repr, keys[:8]))


def _misfit_of_parts(
    wanted: Any, parts: Sequence[tuple[Any, Any]], where: str, leaves: Sequence[str]
) -> str | None:
    """The first misfit in the parts of a container, which are as many as the tree has."""
    first = 0  # number of the first leaf of a part
    for child, (path, part) in zip(wanted.children(), parts, strict=True):
        last = first + child.num_leaves
        place = where + jax.tree_util.keystr(path)
        found = _first_misfit(child, part, place, leaves[first:last])
        if found is not None:
            return found
        first = last
    return None


def _kind(tree: Any) -> type:
    """The container at the root of a tree."""
    data = tree.node_data()
    return type(None) if data is None else data[0]


# ------------------------------------------------------------------------------------ to the graph and back


def to_graph(array: Any) -> np.ndarray:
    """An array as the graph takes it: keys as their data, complex numbers as a last axis of two."""
    if _is_key(array):
        return np.asarray(jax.random.key_data(array))
    plain: Any = np.asarray(array)
    if plain.dtype.kind == "c":
        return np.stack([plain.real, plain.imag], axis=-1)
    return plain


def to_jax(array: np.ndarray, type: Type) -> jax.Array:
    """What the graph gives as JAX has it."""
    if type.dtype.is_key:
        return jax.random.wrap_key_data(jnp.asarray(array), impl=KEY_NAMES[type.dtype])
    if type.dtype.is_complex:
        pairs: Any = np.ascontiguousarray(array).view(type.dtype.numpy)
        return jnp.asarray(pairs[..., 0])
    return jnp.asarray(array)
