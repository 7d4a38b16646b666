"""How the command line tells an error: in one line, or with its traceback."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from j2o.errors import J2OError


def tell(error: BaseException, with_traceback: bool) -> int:
    """Print the error that is being handled to stderr; the exit status of a failure."""
    if with_traceback:
        traceback.print_exception(error)
    else:
        kind = "" if isinstance(error, J2OError) else f"{type(error).__name__}: "
        print(f"j2o: {kind}{' '.join(str(error).split())}", file=sys.stderr)
    return 1


def each(
    files: Sequence[Path], look: Callable[[Path], None], with_traceback: bool
) -> int:
    """Look at every file, whatever is wrong with those before it; the worst exit status."""
    worst = 0
    for file in files:
        try:
            look(file)
        except J2OError as error:
            worst = max(worst, tell(error, with_traceback))
    return worst
