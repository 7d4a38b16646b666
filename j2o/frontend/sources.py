"""Where an equation comes from: the user's frame, and the parts of the program that JAX's name stack tells.

Uses of private JAX: `source_info_util`.
"""

from __future__ import annotations

import functools
import os
import re
from typing import Any, NamedTuple

from jax._src import source_info_util

from j2o.ir.node import Loc
from j2o.ir.places import is_installed

FRONTEND = os.path.dirname(__file__) + os.sep
UNFIT = re.compile(r"[\s\x00-\x1f\x7f]+")  # what no name of a node should have
PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep
# steps that name nothing: Haiku has `~` for what is made outside of a module's call
NO_STEPS = frozenset(["", "~"])


def location(eqn: Any, scope: str = "") -> Loc | None:
    """The user's frame of an equation, and the part of the program that it belongs to.

    None where JAX kept no traceback, and for code that no user wrote.
    """
    return _location(eqn.source_info.traceback, scope)


# tracebacks are equal where their frames are: the layers of a model are traced by the same lines


@functools.lru_cache(maxsize=4096)
def _location(traceback: Any, scope: str) -> Loc | None:
    """The user's frame as a location; the same object for equal ones."""
    frame = _user_frame(traceback)
    if frame is None:
        return None
    return Loc(frame.file_name, frame.start_line, frame.function_name, scope)


@functools.lru_cache(maxsize=1024)
def _user_frame(traceback: Any) -> source_info_util.Frame | None:
    """The innermost frame of the program itself: what called the trace is no part of it."""
    for frame in source_info_util.user_frames(traceback):
        if frame.file_name.startswith(FRONTEND):
            return None
        if not frame.file_name.startswith(PACKAGE):
            return frame
    return None


# ------------------------------------------------------------------------------------ names


class NameStack(NamedTuple):
    """What a name stack says: the parts of the program, and whether a derivative walks back through them."""

    scope: str
    is_backwards: bool


def names_of(eqn: Any) -> NameStack:
    """What the name stack of an equation says; it starts anew in each jaxpr."""
    return _names(eqn.source_info.name_stack.stack)


@functools.lru_cache(maxsize=4096)
def _names(stack: tuple[Any, ...]) -> NameStack:
    """Scopes are names. Transformations, such as vmap, are none."""
    names: list[str] = []
    is_backwards = False
    for entry in stack:
        if not isinstance(entry, source_info_util.Scope):
            is_backwards = is_backwards or entry.name == "transpose"
        elif _is_a_part(entry.name):
            names.append(entry.name)
    return NameStack("/".join(steps(*names)), is_backwards)


def steps(*names: str) -> list[str]:
    """The steps of paths, one after the other, without those that say nothing."""
    path = UNFIT.sub("_", "/".join(names))
    return [step for step in path.split("/") if step not in NO_STEPS]


def _is_a_part(scope: str) -> bool:
    """Return True for a scope that names a part of a program.

    False for the formula of an einsum, and for a class of Equinox, which names all modules of its kind.
    """
    is_formula = "," in scope or "->" in scope
    return not is_formula and not scope.startswith("eqx.")


def jit_name(eqn: Any) -> str:
    """The name of the user's own function that a jit calls; "" for another, and for what is no jit."""
    name = eqn.params.get("name")
    inner = getattr(eqn.params.get("jaxpr"), "jaxpr", None)
    if not isinstance(name, str) or not name.isidentifier() or inner is None:
        return ""
    file = inner.debug_info.func_filename
    is_own = file is not None and not is_installed(file)
    return name if is_own and source_info_util.is_user_filename(file) else ""
