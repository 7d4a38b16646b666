"""`j2o bisect`: the first value that a model computes otherwise than JAX, with its node, line and pass."""

from __future__ import annotations

import argparse
import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from j2o.cli.comparison import comparison_arguments, sizes_given, tolerances
from j2o.cli.program import options, pipeline, program_arguments
from j2o.cli.reply import Reply
from j2o.cli.status import Status
from j2o.errors import SpecError, VerificationError


def arguments(parser: argparse.ArgumentParser) -> None:
    program_arguments(parser)
    group = parser.add_argument_group("comparing with JAX")
    group.add_argument(
        "--inputs",
        type=Path,
        metavar="FILE",
        help="an .npz file with an array for each input, by its name or as arr_0, arr_1, … "
        "(default: random arrays)",
    )
    group.add_argument(
        "--seed", type=int, default=0, help="of random inputs (default: 0)"
    )
    comparison_arguments(group)


def run(args: argparse.Namespace, reply: Reply) -> int:
    import j2o

    rtol, atol = tolerances(args)
    sizes = sizes_given(args)
    inputs = None if args.inputs is None else _arrays(args.inputs)
    with Status("looking for the first difference from JAX", args.quiet):
        found = j2o.bisect(
            **options(args),
            passes=pipeline(args),
            inputs=inputs,
            sizes=sizes,
            seed=args.seed,
            rtol=rtol,
            atol=atol,
        )
    reply.put(**found.to_json())
    if found.differs or not args.quiet:
        reply.say(found)
    if found.differs:
        return reply.fail(VerificationError(found.summary))
    return 0


def _arrays(file: Path) -> dict[str, Any]:
    """The arrays of an .npz file by their names; SpecError where it is none."""
    import numpy as np

    needed = (
        "an .npz file with an array for each input is needed, as np.savez writes it"
    )
    try:
        # numpy leaves a file open that is no good archive
        with file.open("rb") as stream:
            found = np.load(stream)
            if not isinstance(found, np.lib.npyio.NpzFile):
                raise SpecError(f"--inputs {file}: it has one array alone; {needed}")
            return {name: found[name] for name in found.files}
    except FileNotFoundError:
        raise SpecError(f"--inputs {file}: there is no such file") from None
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        why = " ".join(str(error).split())
        raise SpecError(f"--inputs {file}: {why}; {needed}") from None
