"""What a trace writes to objects of the caller's: it is put back, and what the model loses by it is told.

A model has no memory. A Dropout that draws its mask from a stream that the function holds, or a BatchNorm that keeps
statistics, works in training only because the program writes to that state; the model repeats the first call for ever.
Uses of private JAX: none.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
from jax import core
from jax.extend import core as jcore

from j2o.frontend.held import Held, is_keras_variable, is_nnx, is_variable
from j2o.frontend.modules import Copies, is_written

SHOWN = 3
Snapshot = list[tuple[Any, dict[Any, Any] | list[Any]]]
RANDOM = frozenset(["random_bits", "threefry2x32", "rng_bit_generator", "random_gamma"])
# what says that a module, or a call, is one in training
TRAINING = {
    "deterministic": False,
    "use_running_average": False,
    "inference": False,
    "training": True,
    "train": True,
    "is_training": True,
}
SAME_NUMBERS = "random numbers become constants, the same in every call of the model"
SAME_STATISTICS = "each batch is normalised by its own statistics"


# --------------------------------------------------------------------------------------------- putting back


def snapshot(held: Held) -> Snapshot:
    """What the objects that a function holds consist of. nnx variables are left out: they refuse to be written to."""
    found: Snapshot = []
    for _, x in held.objects:
        if isinstance(x, dict):
            found.append((x, dict(x)))
        elif isinstance(x, list):
            found.append((x, list(x)))
        elif hasattr(x, "__dict__") and not is_variable(x):
            found.append((x, dict(vars(x))))
    return found


def put_back(before: Snapshot) -> None:
    """Take what belongs to a trace out of the caller's objects: each place gets what it had, or goes.

    nnx modules that could not be copied, as they are held by what `jax.jit` returns, get back all that they had.
    """
    for x, parts in before:
        if isinstance(parts, list):
            if any(map(is_of_a_trace, x)):
                x[:] = parts
            continue
        place = x if isinstance(x, dict) else vars(x)
        if is_nnx(x):
            if list(map(id, place.values())) != list(map(id, parts.values())):
                place.clear()
                place.update(parts)
            continue
        for name in [name for name, value in place.items() if is_of_a_trace(value)]:
            if name in parts:
                dict.__setitem__(place, name, parts[name])
            else:
                dict.__delitem__(place, name)


def is_of_a_trace(x: Any) -> bool:
    """Whether a value is a tracer, or a container with one."""
    if isinstance(x, dict):
        x = list(x.values())
    if isinstance(x, list | tuple):
        return any(isinstance(value, core.Tracer) for value in x)
    return isinstance(x, core.Tracer)


# --------------------------------------------------------------------------------------- what the model loses


def lost_writes(held: Held, copies: Copies, results: Any) -> list[int]:
    """The places in `held` of the state that a program has written to and does not return, asked for where its trace ends.

    Counted are streams of random numbers and batch statistics of nnx modules, and variables of keras.
    """
    returned = {id(leaf) for leaf in jax.tree.leaves(results)}
    lost = []
    for position, (_, x) in enumerate(held.objects):
        if is_variable(x) and _effect_of(x) is not None:
            after = copies.get(id(x), x)
            written, value = is_written(x, after), after.get_raw_value()
        elif is_keras_variable(x):
            written, value = is_of_a_trace(x.value), x.value
        else:
            continue
        if written and not all(id(leaf) in returned for leaf in jax.tree.leaves(value)):
            lost.append(position)
    return lost


def warnings_of(held: Held, lost: Sequence[int], jaxpr: Any, results: Any) -> list[str]:
    """What a user should hear of a program, a line each: what is in training, and what is drawn once and for all.

    `lost` is what `lost_writes` found, `jaxpr` the closed jaxpr and `results` the pytree of its results' shapes.
    """
    constant = functools.cache(
        lambda: _draws_from_constants(jaxpr.jaxpr, [True] * len(jaxpr.jaxpr.invars))
    )
    return [
        *_of_nnx(held, [i for i in lost if is_variable(held.objects[i][1])], constant),
        *_of_keras(held, [i for i in lost if is_keras_variable(held.objects[i][1])]),
        *_of_modes(held, constant),
        *_of_statistics(held, results),
    ]


def _of_nnx(
    held: Held, lost: Sequence[int], draws_from_constants: Callable[[], bool]
) -> Iterator[str]:
    training: dict[str, None] = {}
    effects: dict[str, None] = {}
    drawing: dict[str, None] = {}
    for position in lost:
        effect = _effect_of(held.objects[position][1])
        path, owner = _owner(held, position)
        if effect is None or (effect == SAME_NUMBERS and not draws_from_constants()):
            continue
        if _is_in_training(owner) or (
            effect == SAME_STATISTICS and not _has_flags(owner)
        ):
            training[_described(path, owner)] = effects[effect] = None
        elif not _has_flags(owner):
            drawing[_described(path, owner)] = None
    if training:
        effect = " and ".join(effects)
        yield f"in training mode: {_list(training)}; {effect}; .eval() on the module switches this off"
    if drawing:
        advice = "pass the nnx.Rngs or a key as an argument, or call .eval() on a module in training"
        yield f"random state that the function holds: {_list(drawing)}; {SAME_NUMBERS}; {advice}"


def _of_keras(held: Held, lost: Sequence[int]) -> Iterator[str]:
    owners = {
        held.objects[position][1].path.rpartition("/")[0]: None for position in lost
    }
    if owners:
        effect = f"{SAME_NUMBERS}, and {SAME_STATISTICS}"
        yield f"in training mode: {_list(owners)}; {effect}; call the model with training=False"


def _effect_of(variable: Any) -> str | None:
    """What the model loses where a program writes to an nnx variable of this kind; None where this is no loss."""
    nnx = sys.modules["flax.nnx"]
    kinds = ((nnx.RngState, SAME_NUMBERS), (nnx.BatchStat, SAME_STATISTICS))
    return next((effect for kind, effect in kinds if isinstance(variable, kind)), None)


def _owner(held: Held, position: int) -> tuple[str, Any]:
    """The path and the object of the innermost nnx module around an object; the object itself where there is none."""
    found = held.objects[position]
    seen = {position}
    while (
        outer := held.parents[id(held.objects[position][1])][0]
    ) >= 0 and outer not in seen:
        position = outer
        seen.add(position)
        if isinstance(held.objects[position][1], sys.modules["flax.nnx"].Module):
            return held.objects[position]
    return found


def _described(path: str, x: Any) -> str:
    if isinstance(x, functools.partial):
        return " and ".join(
            f"{name}={value}"
            for name, value in x.keywords.items()
            if TRAINING.get(name) is value
        )
    kind = type(x).__name__
    return f"{path} ({kind})" if path else kind


def _list(names: Iterable[str]) -> str:
    """A few names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


# ------------------------------------------------------------------------------- what is said to be in training


def _of_modes(held: Held, draws_from_constants: Callable[[], bool]) -> Iterator[str]:
    """Modules of linen and equinox and calls with `training=True`, where random numbers depend on no input."""
    found = [
        _described(path, x)
        for path, x in held.objects
        if _has_a_mode(x) and _is_in_training(x)
    ]
    if found and draws_from_constants():
        off = "deterministic=True, training=False or eqx.nn.inference_mode(model) switches it off"
        yield f"in training mode: {_list(found)}; {SAME_NUMBERS}; {off}, and a key as an argument varies them"


def _of_statistics(held: Held, results: Any) -> Iterator[str]:
    """A BatchNorm of equinox in training whose new state the program does not return."""
    equinox = sys.modules.get("equinox")
    if equinox is None:
        return
    norms = [
        (path, x)
        for path, x in held.objects
        if isinstance(x, equinox.nn.BatchNorm) and x.inference is False
    ]
    leaves = jax.tree.leaves(results, is_leaf=lambda x: isinstance(x, equinox.nn.State))
    if norms and not any(isinstance(x, equinox.nn.State) for x in leaves):
        names = _list(_described(path, x) for path, x in norms)
        yield f"in training mode: {names}; {SAME_STATISTICS}; eqx.nn.inference_mode(model) uses those of training"


def _has_a_mode(x: Any) -> bool:
    """Whether an object is a linen module, a Dropout of equinox that drops something, or a partial call."""
    linen, equinox = sys.modules.get("flax.linen"), sys.modules.get("equinox")
    if equinox is not None and isinstance(x, equinox.nn.Dropout):
        return isinstance(x.p, int | float) and x.p > 0
    return isinstance(x, functools.partial) or (
        linen is not None and isinstance(x, linen.Module)
    )


def _flags(x: Any) -> dict[str, Any]:
    """What an object says of training: by its attributes, or by the keywords of a partial call."""
    parts = (
        x.keywords if isinstance(x, functools.partial) else getattr(x, "__dict__", {})
    )
    return {name: parts[name] for name in TRAINING if name in parts}


def _has_flags(x: Any) -> bool:
    return not is_variable(x) and bool(_flags(x))


def _is_in_training(x: Any) -> bool:
    return not is_variable(x) and any(
        value is TRAINING[name] for name, value in _flags(x).items()
    )


def _draws_from_constants(jaxpr: Any, given: list[bool]) -> bool:
    """Whether random numbers are drawn in a jaxpr, of which `given` says what inputs vary, from what never does."""
    varying = {var for var, varies in zip(jaxpr.invars, given, strict=True) if varies}
    for eqn in jaxpr.eqns:
        varies = [
            isinstance(atom, jcore.Var) and atom in varying for atom in eqn.invars
        ]
        if eqn.primitive.name in RANDOM and not any(varies):
            return True
        for inner in jcore.jaxprs_in_params(eqn.params):
            # the last operands of a jit, scan, branch or loop are those of its body
            count = len(inner.invars)
            inside = (
                varies[len(varies) - count :]
                if count <= len(varies)
                else [any(varies)] * count
            )
            if _draws_from_constants(inner, inside):
                return True
        if any(varies):
            varying.update(eqn.outvars)
    return False
