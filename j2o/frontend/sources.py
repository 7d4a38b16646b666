"""Where an equation comes from: the user's frame and JAX's name stack. Uses `jax._src.source_info_util`."""

from __future__ import annotations

from typing import Any

from jax._src import source_info_util

from j2o.ir.graph import Loc


def location(eqn: Any) -> Loc | None:
    """The user's frame of an equation, or None where JAX kept no traceback."""
    info = eqn.source_info
    frame = source_info_util.user_frame(info.traceback)
    if frame is None:
        return None
    return Loc(frame.file_name, frame.start_line, frame.function_name, str(info.name_stack))
