"""`--verify`: random arguments at which a model is compared with its function in JAX."""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

import jax

from j2o.cli.comparison import sizes_given, tolerances
from j2o.compare import Comparison
from j2o.errors import SpecError
from j2o.model import Model
from j2o.trial import random_leaves, sizes_for, told


class Arguments(NamedTuple):
    """What the model and the function are called with."""

    sizes: dict[str, int]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Compared(NamedTuple):
    """What a comparison has found, and at which sizes."""

    sizes: dict[str, int]
    found: Comparison

    def __str__(self) -> str:
        sizes = told(self.sizes)
        return f"as JAX at random inputs{sizes and f', {sizes}'}\n{self.found}"

    def as_data(self) -> dict[str, Any]:
        """The same under the keys of `j2o export --json`."""
        found = self.found
        rows = zip(found.names, found.absolute, found.relative, strict=True)
        outputs = [
            {"name": name, "absolute": absolute, "relative": relative}
            for name, absolute, relative in rows
        ]
        return {"sizes": self.sizes, "outputs": outputs}


class Wanted(NamedTuple):
    """What is asked of a comparison, looked at before anything is compiled."""

    sizes: dict[str, int]
    rtol: float
    atol: float

    def arguments(self, model: Model) -> Arguments:
        """Random arguments of the sizes given; of the smallest from 3 up where none is."""
        sizes = sizes_for(model, self.sizes, "--size")
        boundary = model._boundary
        leaves = random_leaves(model, sizes)
        args, named = jax.tree.unflatten(boundary.in_tree, leaves)
        kwargs = dict(zip(boundary.keywords, named, strict=True))
        return Arguments(sizes, args, kwargs)

    def compare(self, model: Model, at: Arguments) -> Compared:
        """How close the model is to JAX; VerificationError where that is not close enough."""
        tolerances = {"rtol": self.rtol, "atol": self.atol}
        found = model.verify(*at.args, **tolerances, **at.kwargs)
        jax.effects_barrier()  # what the function prints comes before what is told
        return Compared(at.sizes, found)


def wanted(args: argparse.Namespace) -> Wanted | None:
    """What the options ask for; None without --verify."""
    given = [f"--size {text}" for text in args.size]
    for option in ("rtol", "atol"):
        value = getattr(args, option)
        given += [] if value is None else [f"--{option} {value:g}"]
    if given and not args.verify:
        raise SpecError(f"{given[0]}: it is for --verify, which is needed with it")
    if not args.verify:
        return None
    return Wanted(sizes_given(args), *tolerances(args))
