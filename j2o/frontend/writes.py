"""What a trace writes to objects of the caller's: it is put back, and what the model loses by it is told.

A model has no memory. A Dropout that draws its mask from a stream that the function holds, or a BatchNorm
that keeps statistics, works in training only because the program writes to that state; the model repeats the
first call for ever. Uses of private JAX: none.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
from jax import core
from jax.extend import core as jcore

from j2o.frontend.held import (
    Held,
    Program,
    is_keras_variable,
    is_nnx,
    is_variable,
)
from j2o.frontend.modules import Copies, is_written
from j2o.frontend.params import jaxprs_of
from j2o.frontend.versions import raw_value

SHOWN = 3
Snapshot = list[tuple[Any, dict[Any, Any] | list[Any]]]
# primitives that draw random numbers
RANDOM = frozenset(["random_bits", "random_gamma", "rng_bit_generator", "threefry2x32"])
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
    """Return what the objects that a function holds consist of, for `put_back`.

    nnx variables are left out: they refuse to be written to.
    """
    found: Snapshot = []
    for place, (_, x) in enumerate(held.objects):
        if isinstance(x, dict):
            found.append((x, dict(x)))
        elif isinstance(x, list):
            found.append((x, list(x)))
        elif hasattr(x, "__dict__") and place not in held.variables:
            found.append((x, dict(vars(x))))
    return found


def put_back(before: Snapshot) -> None:
    """Take what belongs to a trace out of the caller's objects: each place gets what it had, or goes.

    nnx modules that could not be copied, as they are held by what `jax.jit` returns, get back all that they
    had.
    """
    for x, parts in before:
        if isinstance(parts, list):
            _put_back_list(x, parts)
            continue
        place = x if isinstance(x, dict) else vars(x)
        if is_nnx(x):
            _put_back_all(place, parts)
        else:
            _put_back_leaked(place, parts)


def _put_back_list(x: list[Any], parts: list[Any]) -> None:
    """Give a list what it had where it holds something of a trace."""
    if any(map(is_of_a_trace, x)):
        x[:] = parts


def _put_back_all(place: dict[Any, Any], parts: dict[Any, Any]) -> None:
    """Give a module all attributes that it had where one is another object now."""
    if list(map(id, place.values())) != list(map(id, parts.values())):
        place.clear()
        place.update(parts)


def _put_back_leaked(place: dict[Any, Any], parts: dict[Any, Any]) -> None:
    """Give the names that hold something of a trace what they had; the new ones go."""
    leaked = [name for name, value in place.items() if is_of_a_trace(value)]
    for name in leaked:
        if name in parts:
            dict.__setitem__(place, name, parts[name])
        else:
            dict.__delitem__(place, name)


def is_of_a_trace(x: Any) -> bool:
    """Return True for a tracer, and for a container with one."""
    if isinstance(x, dict):
        x = list(x.values())
    if isinstance(x, list | tuple):
        return any(isinstance(value, core.Tracer) for value in x)
    return isinstance(x, core.Tracer)


# -------------------------------------------------------------------------------------- what the model loses


def lost_writes(held: Held, copies: Copies, results: Any) -> list[int]:
    """Return the places in `held` of the state that a program has written to and does not return.

    It is asked for where its trace ends. Counted are streams of random numbers and batch statistics of nnx
    modules, and variables of keras.
    """
    returned = {id(leaf) for leaf in jax.tree.leaves(results)}
    lost = []
    variables = held.variables
    for position, (_, x) in enumerate(held.objects):
        if position in variables and _effect_of(x) is not None:
            after = copies.get(id(x), x)
            value = raw_value(after)
            written = is_written(x, after)
        elif is_keras_variable(x):
            value = x.value
            written = is_of_a_trace(value)
        else:
            continue
        leaves = jax.tree.leaves(value)
        if written and not all(id(leaf) in returned for leaf in leaves):
            lost.append(position)
    return lost


def warnings_of(held: Held, lost: Sequence[int], jaxpr: Any, results: Any) -> list[str]:
    """Return what a user should hear of a program, a line each.

    What is in training, what is drawn once and for all.

    `lost` is what `lost_writes` found, `jaxpr` the closed jaxpr and `results` the pytree of its results'
    shapes.
    """

    @functools.cache
    def draws_from_constants() -> bool:
        inputs_vary = [True] * len(jaxpr.jaxpr.invars)
        return _draws_from_constants(jaxpr.jaxpr, inputs_vary)

    of_nnx = [i for i in lost if i in held.variables]
    of_keras = [i for i in lost if is_keras_variable(held.objects[i][1])]
    return [
        *_of_nnx(held, of_nnx, draws_from_constants),
        *_of_keras(held, of_keras),
        *_of_modes(held, draws_from_constants),
        *_of_statistics(held, results),
    ]


def _of_nnx(
    held: Held, lost: Sequence[int], draws_from_constants: Callable[[], bool]
) -> Iterator[str]:
    """Modules of nnx in training, and random state outside of any module with a mode."""
    training: dict[str, None] = {}  # in the order found, each once
    effects: dict[str, None] = {}
    drawing: dict[str, None] = {}
    for position in lost:
        effect = _effect_of(held.objects[position][1])
        path, owner = _owner(held, position)
        if effect is None or (effect == SAME_NUMBERS and not draws_from_constants()):
            continue
        has_flags = _has_flags(owner)
        normalises = effect == SAME_STATISTICS and not has_flags
        if normalises or _is_in_training(owner):
            training[_described(path, owner)] = None
            effects[effect] = None
        elif not has_flags:
            drawing[_described(path, owner)] = None
    if training:
        effect = " and ".join(effects)
        yield (
            f"in training mode: {_list(training)}; {effect}; "
            ".eval() on the module switches this off"
        )
    if drawing:
        yield (
            f"random state that the function holds: {_list(drawing)}; {SAME_NUMBERS}; "
            "pass the nnx.Rngs or a key as an argument, "
            "or call .eval() on a module in training"
        )


def _of_keras(held: Held, lost: Sequence[int]) -> Iterator[str]:
    """Layers of keras whose variables a program writes to."""
    paths = [held.objects[position][1].path for position in lost]
    owners = dict.fromkeys(path.rpartition("/")[0] for path in paths)
    if owners:
        yield (
            f"in training mode: {_list(owners)}; {SAME_NUMBERS}, and {SAME_STATISTICS}; "
            "call the model with training=False"
        )


def _effect_of(variable: Any) -> str | None:
    """What the model loses where a program writes to an nnx variable of this kind.

    None where this is no loss.
    """
    nnx = sys.modules["flax.nnx"]
    if isinstance(variable, nnx.RngState):
        return SAME_NUMBERS
    return SAME_STATISTICS if isinstance(variable, nnx.BatchStat) else None


def _owner(held: Held, position: int) -> tuple[str, Any]:
    """The path and the object of the innermost nnx module around an object.

    The object itself where there is none.
    """
    module = sys.modules["flax.nnx"].Module
    found = held.objects[position]
    seen = {position}
    while True:
        _, x = held.objects[position]
        position = held.parents[id(x)][0]
        if position < 0 or position in seen:
            return found
        seen.add(position)
        if isinstance(held.objects[position][1], module):
            return held.objects[position]


def _described(path: str, x: Any) -> str:
    """A module by its path and class, a call by the arguments that say it is one in training."""
    if isinstance(x, functools.partial | Program):
        flags = _flags(x).items()
        said = [f"{name}={v}" for name, v in flags if TRAINING[name] is v]
        return " and ".join(said)
    kind = type(x).__name__
    return f"{path} ({kind})" if path else kind


def _list(names: Iterable[str]) -> str:
    """A few names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


# ----------------------------------------------------------------------------- what is said to be in training


def _of_modes(held: Held, draws_from_constants: Callable[[], bool]) -> Iterator[str]:
    """Modules of linen and equinox, and calls with `training=True`, whose random numbers no input varies."""
    found = [
        _described(path, x)
        for path, x in held.objects
        if _has_a_mode(x) and _is_in_training(x)
    ]
    if found and draws_from_constants():
        yield (
            f"in training mode: {_list(found)}; {SAME_NUMBERS}; "
            "deterministic=True, training=False or eqx.nn.inference_mode(model) "
            "switches it off, and a key as an argument varies them"
        )


def _of_statistics(held: Held, results: Any) -> Iterator[str]:
    """A BatchNorm of equinox in training whose new state the program does not return."""
    equinox = sys.modules.get("equinox")
    if equinox is None:
        return

    def is_state(x: Any) -> bool:
        """Return True for Equinox's object of states."""
        return isinstance(x, equinox.nn.State)

    norms = [
        _described(path, x)
        for path, x in held.objects
        if isinstance(x, equinox.nn.BatchNorm) and x.inference is False
    ]
    is_returned = any(map(is_state, jax.tree.leaves(results, is_leaf=is_state)))
    if norms and not is_returned:
        yield (
            f"in training mode: {_list(norms)}; {SAME_STATISTICS}; "
            "eqx.nn.inference_mode(model) uses those of training"
        )


def _has_a_mode(x: Any) -> bool:
    """Return True for a linen module, a Dropout of equinox that drops something, and a call."""
    equinox = sys.modules.get("equinox")
    if equinox is not None and isinstance(x, equinox.nn.Dropout):
        return isinstance(x.p, int | float) and x.p > 0
    linen = sys.modules.get("flax.linen")
    is_linen = linen is not None and isinstance(x, linen.Module)
    return is_linen or isinstance(x, functools.partial | Program)


def _flags(x: Any) -> dict[str, Any]:
    """What an object says of training: by its attributes, or by the arguments of a call."""
    if isinstance(x, Program):
        parts = x.static
    elif isinstance(x, functools.partial):
        parts = x.keywords
    else:
        parts = getattr(x, "__dict__", {})
    return {name: parts[name] for name in TRAINING if name in parts}


def _has_flags(x: Any) -> bool:
    """Return True for a module that has a flag of training."""
    return not is_variable(x) and bool(_flags(x))


def _is_in_training(x: Any) -> bool:
    """Return True for a module one of whose flags is that of training."""
    if is_variable(x):
        return False
    return any(value is TRAINING[name] for name, value in _flags(x).items())


def _draws_from_constants(jaxpr: Any, inputs_vary: list[bool]) -> bool:
    """Return True where a jaxpr draws random numbers from what no varying input reaches."""
    varying = {
        var for var, varies in zip(jaxpr.invars, inputs_vary, strict=True) if varies
    }
    for eqn in jaxpr.eqns:
        varies = [isinstance(x, jcore.Var) and x in varying for x in eqn.invars]
        if eqn.primitive.name in RANDOM and not any(varies):
            return True
        for body in jaxprs_of(tuple(eqn.params.values())):
            inner = body.jaxpr if isinstance(body, jcore.ClosedJaxpr) else body
            if _draws_from_constants(inner, _of_body(varies, len(inner.invars))):
                return True
        if any(varies):
            varying.update(eqn.outvars)
    return False


def _of_body(varies: list[bool], count: int) -> list[bool]:
    """Which of the `count` inputs of a body vary, by the operands of its equation.

    The last operands of a jit, scan, branch or loop are those of its body.
    """
    if count <= len(varies):
        return varies[len(varies) - count :]
    return [any(varies)] * count
