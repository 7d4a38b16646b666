"""The options that say where and how exactly a model is compared with JAX."""

from __future__ import annotations

import argparse

from j2o.cli.parser import NameValue
from j2o.errors import SpecError

RTOL = 1e-4
ATOL = 1e-5


def verify_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("comparing with JAX")
    group.add_argument(
        "--verify",
        action="store_true",
        help="run the model and the function at random inputs; exit status 3 where they differ",
    )
    comparison_arguments(group)


def comparison_arguments(group: argparse._ActionsContainer) -> None:
    """What says at which sizes models are compared with JAX, and how exactly."""
    group.add_argument(
        "--size",
        type=NameValue,
        action="append",
        default=[],
        metavar="NAME=N",
        help="a symbolic size to compare at (default: the smallest from 3 up that fit)",
    )
    group.add_argument(
        "--rtol",
        type=float,
        help=f"how far floats may differ, relative to JAX's (default: {RTOL:g})",
    )
    group.add_argument(
        "--atol", type=float, help=f"what they may differ besides (default: {ATOL:g})"
    )


def tolerances(args: argparse.Namespace) -> tuple[float, float]:
    """`--rtol` and `--atol`, or what they are by default."""
    from j2o.compare import check_tolerance

    rtol = RTOL if args.rtol is None else check_tolerance("--rtol", args.rtol)
    atol = ATOL if args.atol is None else check_tolerance("--atol", args.atol)
    return rtol, atol


def sizes_given(args: argparse.Namespace) -> dict[str, int]:
    """The sizes of `--size`, by their symbols."""
    return dict(map(_size, args.size))


def _size(text: str) -> tuple[str, int]:
    """`B=8` as a pair."""
    name, _, size = text.partition("=")
    if not name or not size.isdecimal():
        raise SpecError(f"--size {text}: a name and a number are needed, as in B=8")
    return name, int(size)
