"""Specs: what the arguments of a function look like, in every form that `compile` takes, as JAX's abstract values."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from j2o.arguments import name_of
from j2o.errors import DimensionError, SpecError, shortened, shown
from j2o.frozen import LazyArray, Weights, own_key, tensor_of
from j2o.ir.dims import (
    DimScope,
    constraints_of,
    is_contradictory,
    is_symbolic,
    largest_number,
    normal,
    parse_constraint,
    scope_of,
    symbols_in,
)
from j2o.ir.tensor import Tensor
from j2o.ir.types import KEY_NAMES, NUMPY_NAMES, DType, dtype_of

LARGEST = 2**63 - 1  # sizes and numbers of elements are int64 in ONNX
DEEPEST = (
    200  # JAX loses count of Python's recursion in trees that are deeper than its limit
)
DTYPE_NAMES = frozenset(d.value for d in DType if d is not DType.STRING)


@dataclass(frozen=True)
class Specs:
    """`avals` are the flat leaves of all arguments, in order; `frozen` has the constant of each leaf that is a weight.

    `names` are those of the leaves that are graph inputs; `tree` is the structure of the tuple of arguments. `narrowed` says
    which leaves have 64-bit numbers that JAX takes as 32-bit ones.
    """

    avals: tuple[jax.ShapeDtypeStruct, ...]
    frozen: tuple[Tensor | None, ...]
    names: tuple[str, ...]
    tree: Any
    caller_tree: Any  # without the frozen arguments
    frozen_arguments: frozenset[int]
    scope: DimScope
    narrowed: tuple[str, ...] = ()


def parse_specs(
    fn: Callable[..., Any],
    specs: Sequence[Any],
    constraints: Sequence[str] = (),
    input_names: Sequence[str] | None = None,
) -> Specs:
    """All specs of a call; SpecError names the argument and the entry that does not fit."""
    _check_entries(specs)
    parameters = _parameters(fn, len(specs))
    flat = [
        _flatten(parameter, spec)
        for parameter, spec in zip(parameters, specs, strict=True)
    ]
    scope = _find_scope([leaf for paths, _ in flat for _, leaf in paths], constraints)
    avals, frozen, names, trees, caller, frozen_arguments, narrowed = (
        [],
        [],
        [],
        [],
        [],
        set(),
        [],
    )
    taken: dict[str, Any] = {}
    for i, (parameter, spec) in enumerate(zip(parameters, specs, strict=True)):
        is_frozen = isinstance(spec, Weights)
        paths, tree = flat[i]
        trees.append(tree)
        if is_frozen:
            frozen_arguments.add(i)
        else:
            caller.append(tree)
        for path, leaf in paths:
            where = path_name(path)
            name = f"{parameter}/{where}" if where else parameter
            if is_frozen:
                tensor = tensor_of(leaf, own_key(where or parameter, leaf, taken))
                avals.append(_aval_of_weights(leaf, tensor))
                given = tensor.dtype.numpy
                frozen.append(tensor)
            else:
                shape, given = _shape_and_dtype(name, leaf, scope)
                avals.append(jax.ShapeDtypeStruct(shape, _canonical(given)))
                frozen.append(None)
                names.append(name)
            if avals[-1].dtype != given and _is_worth_telling(leaf, given, is_frozen):
                narrowed.append(f"{name} ({given})")
    _check_constraints(scope, constraints)
    tree, caller_tree = (jax.tree_util.treedef_tuple(tuple(t)) for t in (trees, caller))
    final = _names(names, input_names, "input_names")
    frozen_at = frozenset(frozen_arguments)
    return Specs(
        tuple(avals),
        tuple(frozen),
        final,
        tree,
        caller_tree,
        frozen_at,
        scope,
        tuple(narrowed),
    )


def _aval_of_weights(leaf: Any, tensor: Tensor) -> jax.ShapeDtypeStruct:
    """What a frozen leaf is to JAX; the tensor of a typed PRNG key holds its data."""
    if _is_key(getattr(leaf, "dtype", None)):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    return jax.ShapeDtypeStruct(tensor.shape, _canonical(tensor.dtype.numpy))


def _text(entry: Any) -> str:
    """An entry as it stands in a message."""
    return (
        shortened(repr(entry), 80)
        if isinstance(entry, str | tuple | list)
        else shown(entry)
    )


def _is_worth_telling(leaf: Any, dtype: Any, is_frozen: bool) -> bool:
    """Whether it matters that a leaf becomes one of 32 bits: numbers of weights lose digits, inputs get another dtype.

    Integers of weights stay what they are, and Python's own numbers have no dtype.
    """
    is_python = isinstance(leaf, int | float | complex) and not isinstance(
        leaf, np.generic
    )
    return not is_python and (not is_frozen or dtype.kind in "fc")


def _check_entries(specs: Any) -> None:
    """SpecError where `specs` is no sequence of entries, or one entry that should be in such a sequence."""
    if isinstance(specs, str | bytes) or not isinstance(specs, Sequence):
        raise SpecError(
            f"specs={_text(specs)}: a sequence with one entry for each positional argument is needed, as in ['f32[B,784]']"
        )
    if not specs or not all(isinstance(d, str | int) and _is_size(d) for d in specs):
        return
    if not any(isinstance(d, str) and _is_dtype_name(d) for d in specs):
        one = "(" + ", ".join(map(repr, specs)) + ("," if len(specs) == 1 else "") + ")"
        raise SpecError(
            f"specs={_text(specs)} is one shape, a sequence with one entry for each argument is needed: "
            f"[{shortened(one, 80)}]; a scalar input is 'f32[]' or 'i32[]'"
        )


def _check_depth(parameter: str, tree: Any) -> None:
    """SpecError where containers are nested too deep for JAX, as those are that contain themselves."""
    level = [tree]
    for _ in range(DEEPEST):
        inner = [child for node in level for child in _containers_in(node)]
        level = list({id(child): child for child in inner}.values())
        if not level:
            return
    raise SpecError(
        f"spec of {parameter!r}: {shown(tree)} is nested over {DEEPEST} deep, or contains itself"
    )


def _containers_in(node: Any) -> list[Any]:
    children = (
        node.values()
        if isinstance(node, dict)
        else node
        if isinstance(node, list | tuple)
        else ()
    )
    return [child for child in children if isinstance(child, dict | list | tuple)]


def _flatten(parameter: str, spec: Any) -> tuple[list[Any], Any]:
    """The leaves of an entry with their paths, and its structure; SpecError where it is no pytree."""
    is_frozen = isinstance(spec, Weights)
    tree, is_leaf = (spec.tree, _is_list_of_sizes) if is_frozen else (spec, _is_leaf)
    _check_depth(parameter, tree)
    try:
        return jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
    except (TypeError, ValueError) as error:  # keys that have no order
        what = shortened(f"{type(error).__name__}: {error}", 160)
        raise SpecError(
            f"spec of {parameter!r}: {_text(tree)} is no pytree: {what}"
        ) from error


def _check_constraints(scope: DimScope, constraints: Sequence[str]) -> None:
    """SpecError where a constraint names what no spec has, or no sizes fulfil all of them."""
    known = (
        scope.names
    )  # not those in the shapes: JAX has T in the place of S where S == T
    for text in constraints:
        left, _, right = parse_constraint(text)
        if unknown := sorted((symbols_in(left) | symbols_in(right)) - known):
            there = (
                f"they have {', '.join(sorted(known))}"
                if known
                else "all their sizes are numbers"
            )
            raise SpecError(
                f"constraints: {_text(text)}: no spec has a size {shown(unknown[0])}; {there}"
            )
    try:
        impossible = bool(constraints) and is_contradictory(scope)
    except (ArithmeticError, DimensionError) as error:
        raise SpecError(f"constraints={_text(list(constraints))}: {error}") from None
    if impossible:
        raise SpecError(
            f"constraints={_text(list(constraints))}: no sizes fulfil them; a size is 1 or more"
        )


def _names(
    found: Sequence[str], given: Sequence[str] | None, argument: str
) -> tuple[str, ...]:
    """The names of inputs or outputs: those given, else those found; SpecError where there are not so many tensors."""
    if given is None:
        return tuple(_unique(found))
    if len(given) != len(found):
        there = shortened(", ".join(found), 120)
        raise SpecError(
            f"{argument}={_text(list(given))}: {len(given)} names for {len(found)} tensors ({there})"
        )
    return tuple(given)


def output_names(
    found: Sequence[str], given: Sequence[str] | None, inputs: Sequence[str]
) -> tuple[str, ...]:
    """The names of the outputs; none may be that of an input."""
    names, taken = _names(found, given, "output_names"), set(inputs)
    if given is None:
        return tuple(f"{n}_out" if n in taken else n for n in names)
    if clashing := [n for n in names if n in taken]:
        raise SpecError(
            f"output_names: {clashing[0]!r} is the name of an input; choose another"
        )
    return names


def _unique(names: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, -1) + 1
        out.append(f"{name}_{seen[name]}" if seen[name] else name)
    return out


def _parameters(fn: Callable[..., Any], count: int) -> list[str]:
    """Names for `count` positional arguments; SpecError where the function cannot be called with so many."""
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):
        return [f"arg_{i}" for i in range(count)]
    positional, required, rest = [], 0, None
    for p in signature.parameters.values():
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
            positional.append(p.name)
            required += p.default is p.empty
        elif p.kind == p.VAR_POSITIONAL:
            rest = p.name
        elif p.kind == p.KEYWORD_ONLY and p.default is p.empty:
            raise SpecError(
                f"fn: the keyword-only parameter {p.name!r} has no value; {_binding(p.name, '…')} gives it one"
            )
    if count < required or (count > len(positional) and rest is None):
        takes = (
            f"{required}"
            if required == len(positional)
            else f"{required} to {len(positional)}"
        )
        missing = f"; no spec for {positional[count]!r}" if count < required else ""
        raise SpecError(
            f"specs: {count} given, {shortened(name_of(fn), 60)} takes {takes} positional arguments{missing}"
        )
    names = positional[:count]
    return names + [f"{rest}_{i}" for i in range(count - len(names))]


def _binding(parameter: str, value: str) -> str:
    """The code that gives a parameter a Python value."""
    return f"functools.partial(fn, {parameter}={value})"


def _is_size(d: Any) -> bool:
    return (
        "[" not in d
        if isinstance(d, str)
        else isinstance(d, int | np.integer) and not isinstance(d, bool)
    )


def _is_shape(spec: Any) -> bool:
    """Whether an entry is a shape; one with None, True or 2.5 among the sizes is meant as one, though not a good one."""
    if type(spec) not in (tuple, list):
        return False
    if all(map(_is_size, spec)):
        return True
    return all(_is_size(d) or _is_no_size(d) for d in spec) and any(
        d is not None for d in spec
    )


def _is_no_size(d: Any) -> bool:
    """Whether this Python value stands where only a size can."""
    return d is None or (
        isinstance(d, bool | float | complex) and not isinstance(d, np.generic)
    )


def _is_list_of_sizes(spec: Any) -> bool:
    """Whether a leaf of weights is a list of numbers that should have been an array."""
    return _is_shape(spec) and len(spec) > 0


def _is_leaf(spec: Any) -> bool:
    return spec is not None and (
        _is_shape(spec) or _is_pair(spec) or isinstance(spec, str | Weights | LazyArray)
    )


def _is_pair(spec: Any) -> bool:
    """Whether an entry is a shape and a dtype side by side, which is no form of a spec."""
    if type(spec) not in (tuple, list) or len(spec) != 2 or not _is_shape(spec[0]):
        return False
    dtype = spec[1]
    return isinstance(dtype, type | np.dtype) or (
        isinstance(dtype, str) and _is_dtype_name(dtype)
    )


def _is_dtype_name(text: str) -> bool:
    return text in NUMPY_NAMES or text in DTYPE_NAMES


def _find_scope(leaves: Sequence[Any], constraints: Sequence[str]) -> DimScope:
    """The scope of the caller's own dimension expressions where there are any, else a new one."""
    scopes = []
    for leaf in leaves:
        shape = leaf.shape if _is_array_like(leaf) else ()
        for d in shape if isinstance(shape, tuple) else ():
            if is_symbolic(d) and all(scope_of(d) is not s for s in scopes):
                scopes.append(scope_of(d))
    if len(scopes) > 1:
        raise SpecError(
            "specs: the symbolic dimensions come from different scopes; make them in one jax.export.SymbolicScope"
        )
    if scopes:
        if constraints:
            raise SpecError(
                "constraints: the specs bring a scope of their own; state the constraints when making that scope"
            )
        return DimScope.of_jax(scopes[0], constraints_of(scopes[0]))
    try:
        return DimScope(constraints)
    except DimensionError as error:
        raise SpecError(str(error)) from None


def _shape_and_dtype(
    name: str, leaf: Any, scope: DimScope
) -> tuple[tuple[Any, ...], Any]:
    """What one entry says: a shape, and a dtype of numpy or of JAX's keys, 64-bit ones as they are."""
    if isinstance(leaf, Weights):
        raise SpecError(
            f"spec of {name!r}: j2o.weights marks a whole argument, not a part of one"
        )
    if isinstance(leaf, LazyArray):
        raise SpecError(
            f"spec of {name!r}: a lazy array is a weight; wrap the argument in j2o.weights(…)"
        )
    if isinstance(leaf, str):
        return _of_text(name, leaf, scope)
    if _is_shape(leaf):
        return _of_sizes(name, leaf, scope), np.dtype(np.float32)
    if _is_pair(leaf):
        right = _as_text(*leaf)
        raise SpecError(
            f"spec of {name!r}: {_text(leaf)} is a shape beside a dtype; {right!r} says both"
        )
    if isinstance(leaf, bool):
        bound = _binding(name.partition("/")[0], repr(leaf))
        raise SpecError(
            f"spec of {name!r}: {leaf} is a Python value; {bound} gives it, 'bool[]' makes it an input"
        )
    if isinstance(leaf, int | float | complex) and not isinstance(leaf, np.generic):
        return (), np.result_type(leaf)
    if not _is_array_like(leaf):
        raise SpecError(
            f"spec of {name!r}: {_text(leaf)} is no spec; a shape, 'f32[B,3]', an array or a ShapeDtypeStruct would do"
        )
    return _sizes_of_array(name, leaf), _dtype_of_array(name, leaf)


def _is_array_like(leaf: Any) -> bool:
    return (
        not isinstance(leaf, type) and hasattr(leaf, "shape") and hasattr(leaf, "dtype")
    )


def _of_text(name: str, leaf: str, scope: DimScope) -> tuple[tuple[Any, ...], Any]:
    """Shape and dtype of `'f32[B,28,28,1]'`."""
    match = re.fullmatch(r"\s*([\w<>]+)\s*(?:\[(.*)\])?\s*", leaf, re.S)
    if match is None:
        raise SpecError(
            f"spec of {name!r}: {_text(leaf)} is not of the form 'f32[B,28,28,1]'"
        )
    dtype, text = match.groups()
    return _shape(name, leaf, text or "", scope), _dtype(name, leaf, dtype)


def _of_sizes(name: str, leaf: Sequence[Any], scope: DimScope) -> tuple[Any, ...]:
    """The shape that a tuple or list of sizes is."""
    for d in leaf:
        if _is_no_size(d):
            raise SpecError(
                f"spec of {name!r}: {_text(leaf)}: {d} is no size; a name such as 'B' makes a size symbolic"
            )
        if not isinstance(d, str):
            _check_number(name, leaf, int(d))
    shape = _shape(name, leaf, ",".join(map(str, leaf)), scope)
    if len(shape) != len(leaf):
        wrong = next(
            (d for d in leaf if isinstance(d, str) and (not d.strip() or "," in d)), ""
        )
        raise SpecError(
            f"spec of {name!r}: {_text(leaf)}: {shown(wrong)} is not one size"
        )
    return shape


def _as_text(shape: Sequence[Any], dtype: Any) -> str:
    """The text of a spec for a shape and a dtype: `'f32[B,784]'`."""
    name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", str(dtype))
    short = NUMPY_NAMES[name].value if name in NUMPY_NAMES else name
    return f"{short}[{','.join(map(str, shape))}]"


def _sizes_of_array(name: str, leaf: Any) -> tuple[Any, ...]:
    """The shape of an example array or a ShapeDtypeStruct."""
    try:
        shape = tuple(leaf.shape)
    except TypeError:
        raise SpecError(
            f"spec of {name!r}: {_text(leaf)} has no shape of sizes: {shown(leaf.shape)}"
        ) from None
    for d in shape:
        if not (is_symbolic(d) or (_is_size(d) and not isinstance(d, str))):
            raise SpecError(
                f"spec of {name!r}: {_text(leaf)}: {shown(d)} is no size; a number, or a size of jax.export.symbolic_shape, is"
            )
    return _checked(name, leaf, tuple(map(normal, shape)))


def _dtype_of_array(name: str, leaf: Any) -> Any:
    """The dtype of an example array or a ShapeDtypeStruct."""
    try:
        if _is_key(leaf.dtype):
            return leaf.dtype
        dtype = np.dtype(leaf.dtype).newbyteorder("=")
        known = dtype_of(dtype) is not DType.STRING
    except TypeError:
        known = False
    if not known:
        raise SpecError(
            f"spec of {name!r}: {_text(leaf)} has the dtype {shown(leaf.dtype)}; numbers or bools are needed"
        )
    return dtype


def _shape(name: str, entry: Any, text: str, scope: DimScope) -> tuple[Any, ...]:
    try:
        shape = scope.shape(text)
    except DimensionError as error:
        why = str(error).removeprefix(f"dimensions {text!r}: ")
        raise SpecError(
            f"spec of {name!r}: {_text(entry)}: {shortened(why, 160)}"
        ) from None
    return _checked(name, entry, shape)


def _checked(name: str, entry: Any, shape: tuple[Any, ...]) -> tuple[Any, ...]:
    """`shape`; SpecError where a size, or the number of elements, is none that an array can have."""
    elements = 1
    for d in shape:
        if type(d) is int:
            _check_number(name, entry, d)
            elements *= d or 1
        else:
            _check_number(name, entry, largest_number(d))
    _check_number(name, entry, elements, "number of elements")
    return shape


def _check_number(name: str, entry: Any, number: int, what: str = "size") -> None:
    if number < 0:
        advice = "a name such as 'B' makes a size symbolic"
        raise SpecError(
            f"spec of {name!r}: {_text(entry)}: the size {number} is negative; {advice}"
        )
    if number > LARGEST:
        raise SpecError(
            f"spec of {name!r}: {_text(entry)}: the {what} is above 2**63 - 1, the largest that ONNX can say"
        )


def _dtype(name: str, entry: str, text: str) -> Any:
    if not _is_dtype_name(text):
        bound = _binding(name.partition("/")[0], _text(entry))
        static = "" if "[" in entry else f"; if it is a Python value, {bound} gives it"
        raise SpecError(
            f"spec of {name!r}: {_text(entry)}: there is no dtype {_text(text)}; f32, bf16, i32, u8, bool, … are{static}"
        )
    dtype = NUMPY_NAMES.get(text) or DType(text)
    return (
        jax.random.key(0, impl=KEY_NAMES[dtype]).dtype if dtype.is_key else dtype.numpy
    )


def _canonical(dtype: Any) -> Any:
    """The dtype that JAX gives such an array: 64-bit ones are narrowed unless the caller has turned 64-bit mode on."""
    return dtype if _is_key(dtype) else jax.dtypes.canonicalize_dtype(dtype)


def _is_key(dtype: Any) -> bool:
    return dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.extended)


def path_name(path: Sequence[Any]) -> str:
    """A pytree path as text: `params/Dense_0/kernel`; what cannot stand in a name is `_`."""
    steps = (
        next((getattr(key, a) for a in ("key", "name", "idx") if hasattr(key, a)), key)
        for key in path
    )
    text = "/".join(filter(None, map(str, steps)))
    return (
        text
        if text.isprintable()
        else "".join(c if c.isprintable() else "_" for c in text)
    )
