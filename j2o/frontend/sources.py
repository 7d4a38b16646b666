"""Where an equation comes from: the user's frame and JAX's name stack. Uses `jax._src.source_info_util`."""

from __future__ import annotations

import functools
import os
from typing import Any

from jax._src import source_info_util

from j2o.ir.graph import Loc

FRONTEND = os.path.dirname(__file__) + os.sep
# steps that name nothing: Haiku has `~` for what is made outside of a module's call
NO_STEPS = frozenset(["", "~"])
PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep


def location(eqn: Any, scope: str = "") -> Loc | None:
    """The user's frame of an equation, and the module that it belongs to.

    None where JAX kept no traceback, and for code that no user wrote.
    """
    frame = _user_frame(eqn.source_info.traceback)
    if frame is None:
        return None
    return Loc(frame.file_name, frame.start_line, frame.function_name, scope)


def scope_of(eqn: Any, around: str) -> str:
    """The scope of an equation that stands in a jaxpr of the scope `around`.

    JAX starts a new name stack in each jaxpr.
    """
    own = _names(eqn.source_info.name_stack.stack)
    return f"{around}/{own}" if around and own else around or own


@functools.lru_cache(maxsize=4096)
def _names(stack: tuple[Any, ...]) -> str:
    """The names in a stack of JAX's, without its transformations, such as jvp and vmap."""
    scopes = [
        entry.name for entry in stack if isinstance(entry, source_info_util.Scope)
    ]
    steps = [step for name in scopes if is_name(name) for step in name.split("/")]
    return "/".join(step for step in steps if step not in NO_STEPS)


def is_name(scope: str) -> bool:
    """Return True for a scope that names a part of a program.

    False for the formula of an einsum, and for a class of Equinox, which names all the modules of its kind.
    """
    is_formula = "," in scope or "->" in scope
    return not is_formula and not scope.startswith("eqx.")


@functools.lru_cache(maxsize=64)
def _user_frame(traceback: Any) -> source_info_util.Frame | None:
    """The innermost frame of the program itself: what called the trace is no part of it."""
    for frame in source_info_util.user_frames(traceback):
        if frame.file_name.startswith(FRONTEND):
            return None
        if not frame.file_name.startswith(PACKAGE):
            return frame
    return None
