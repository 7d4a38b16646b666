"""Python's collector of cycles, paused while j2o compiles.

Compiling makes many objects that live to its end: looking for cycles among them would cost a quarter more time. The
collector belongs to the whole process, so the pauses of all threads are counted: the first turns it off, the last turns it on
again, if it was on.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

_lock = threading.RLock()  # a signal's handler may compile, too
_pausing: set[object] = set()
_was_enabled = False


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """The collector is off while this lasts, in any thread; at the end it is as it was before the first pause."""
    global _was_enabled
    me = object()
    try:
        with _lock:
            if not _pausing:
                _was_enabled = gc.isenabled()
            _pausing.add(me)
            gc.disable()
        yield
    finally:
        _end(me)


def _end(me: object) -> None:
    """One pause less. An interrupt at any place in this leaves the collector on or another pause that will turn it on."""
    with _lock:
        if me not in _pausing:
            return
        try:
            _pausing.discard(me)
        finally:
            if not _pausing and _was_enabled:
                gc.enable()
