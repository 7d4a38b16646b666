"""Where an equation comes from: the user's frame and JAX's name stack. Uses `jax._src.source_info_util`."""

from __future__ import annotations

import functools
import os
from typing import Any

from jax._src import source_info_util

from j2o.ir.graph import Loc

FRONTEND = os.path.dirname(__file__) + os.sep
PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep


def location(eqn: Any) -> Loc | None:
    """The user's frame of an equation; None where JAX kept no traceback, and for code that no user wrote."""
    info = eqn.source_info
    frame = _user_frame(info.traceback)
    if frame is None:
        return None
    return Loc(
        frame.file_name, frame.start_line, frame.function_name, str(info.name_stack)
    )


@functools.lru_cache(maxsize=64)
def _user_frame(traceback: Any) -> source_info_util.Frame | None:
    """The innermost frame of the program itself: what called the trace is no part of it."""
    for frame in source_info_util.user_frames(traceback):
        if frame.file_name.startswith(FRONTEND):
            return None
        if not frame.file_name.startswith(PACKAGE):
            return frame
    return None
