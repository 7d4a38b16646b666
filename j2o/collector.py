"""Python's collector of cycles, paused while j2o compiles what JAX has traced.

Compiling makes many objects that live to its end: looking for cycles among them would cost a
quarter more time. Tracing leaves many cycles behind, which cost least where they go at once, so
the collector runs there as always. It belongs to the whole process, so the pauses of all threads
are counted: the first turns it off, the last turns it on again, if it was on.
"""

from __future__ import annotations

import gc
import threading

_lock = threading.RLock()  # a signal's handler may compile, too
_pausing: set[int] = set()  # the `id` of each pause
_was_enabled = False


class CollectorPaused:
    """`with CollectorPaused():` turns the collector off, in all threads.

    When the last pause ends, it is as it was before the first. A pause that an interrupt keeps from its
    end ends when it is no longer referred to.
    """

    def __enter__(self) -> None:
        global _was_enabled
        with _lock:
            if not _pausing:
                _was_enabled = gc.isenabled()
            _pausing.add(id(self))
            gc.disable()

    def __exit__(self, *_: object) -> None:
        self._end()

    def __del__(self) -> None:
        self._end()

    def _end(self) -> None:
        with _lock:
            if id(self) not in _pausing:
                return
            try:
                _pausing.discard(id(self))
            finally:
                if not _pausing and _was_enabled:
                    gc.enable()
