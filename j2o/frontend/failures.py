"""What stops a trace, as one line of j2o: the user's `file:line`, what happened there and what would work.

Uses of private JAX: none.
"""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Sequence

import jax
import numpy as np

from j2o.errors import DimensionError, J2OError, TraceError
from j2o.ir.dims import Inconclusive
from j2o.ir.dims_settle import settling
from j2o.ir.places import LIBRARY, is_installed

LONGEST = 400
# advice on errors of other packages, by words of their class or message
KNOWN: tuple[tuple[str, str], ...] = (
    (
        "UnboundModuleError",
        "functools.partial(module.apply, variables) is a function, "
        "and so is module.bind(variables)",
    ),
    (
        "Dropout requires a key",
        "eqx.nn.inference_mode(model) switches it off",
    ),
    (
        "Array.__contains__: unsupported operand type <class 'str'>",
        "an array stands where the function looks for a name in a dict; "
        "variables and parameters come as j2o.weights(tree)",
    ),
    (
        "ScopeCollectionNotFound",
        "variables of linen are a dict of collections, {'params': …, 'batch_stats': …}",
    ),
    (
        "Input type must be an integer",
        "a shape is float32, and 'i32[B,T]' is a spec of integers",
    ),
    (
        "got indexer with type float",
        "a shape is float32, and 'i32[B,T]' is a spec of integers",
    ),
    (
        "indices must have an integer type",
        "a shape is float32, and 'i32[B,T]' is a spec of integers",
    ),
    (
        "iteration over a 0-d array",
        "[] and () in a spec are the shape of a scalar; j2o.static([]) is the empty list",
    ),
    (
        "from a different trace level",
        "nnx.jit, nnx.scan, nnx.cond and the like take modules that write to themselves, "
        "those of jax do not",
    ),
    (
        "associative scan over axis of non-constant size",
        "lax.associative_scan, and derivatives of cumprod, cummax and the like, take an axis of known size; "
        "give that size as a number in the spec, or write the loop with lax.scan",
    ),
    (
        "shape polymorphism",
        "give that size as a number in the spec",
    ),
)
NO_SIZES = (
    "give that size as a number in the spec, or use lax.fori_loop, lax.scan "
    "and jax.numpy, which take symbolic sizes"
)
OTHER_AXES = (
    "no constraint alone would settle it: the function may want other axes, "
    "and jax.vmap adds one for the batch"
)
# what would work where a program asks for a value that is known only when the model runs
ADVICE: tuple[tuple[type[Exception], str], ...] = (
    (
        jax.errors.TracerBoolConversionError,
        "jnp.where and lax.cond decide on values, lax.while_loop repeats on them",
    ),
    (
        jax.errors.NonConcreteBooleanIndexError,
        "jnp.where(mask, x, 0) has a shape that does not depend on values",
    ),
    (
        jax.errors.TracerArrayConversionError,
        "use jax.numpy in the place of numpy",
    ),
    (
        jax.errors.TracerIntegerConversionError,
        "jnp.take, lax.dynamic_slice and lax.fori_loop take such integers",
    ),
    (
        jax.errors.ConcretizationTypeError,
        "use jax.numpy and jax.lax, or hand the argument over as a value by j2o.static(…)",
    ),
    (
        jax.errors.UnexpectedTracerError,
        "a value has left the function that made it; return it, or pass it as an argument",
    ),
)
# how JAX says that a result is no array, and its words for a symbolic size that is used as a number
NO_ARRAY = r"returned a value of type (.*?), which is not a valid JAX type"
NO_NUMBER = r"_DimExpr|a single integer, got '[A-Za-z]"


def question_of(error: Exception) -> str:
    """Return what an error of tracing asks, and where: the same text for errors that ask the same."""
    return user_line(error) + _question_in(_one_line(error))


def _one_line(error: BaseException) -> str:
    """A message on one line."""
    return " ".join(str(error).split())


def _question_in(text: str) -> str:
    """The first sentence of a message of JAX's about sizes, without its preamble and full stop."""
    question = text.removeprefix("Symbolic dimension comparison ")
    return question.partition(". ")[0].rstrip(".")


def told_constraints(error: Exception) -> list[tuple[str, ...]] | None:
    """Return the lists of constraints that an error of JAX's speaks of.

    None for an error that no constraint can settle.
    """
    if not isinstance(error, Inconclusive) and not _is_raised_by_jax(error):
        return None
    return settling(_one_line(error))


def explained(error: Exception, options: Sequence[tuple[str, ...]] = ()) -> J2OError:
    """Return what `trace` raises for an exception of tracing: always an error of j2o, in one line.

    `options` are the lists of constraints of which each would settle what the error asks. DimensionError
    where the program asks for a decision about a symbolic size that cannot be taken and that constraints
    would settle, TraceError for anything else. An error of j2o is itself.
    """
    if isinstance(error, J2OError):
        return error
    text = _one_line(error)
    where = user_line(error)
    if found := re.search(NO_ARRAY, text):
        kind = re.sub(r"<class '(.*)'>", r"\1", found.group(1))
        return TraceError(
            f"the function returns a {kind}; arrays, and pytrees of arrays, can be exported"
        )
    for kind, advice in ADVICE:
        if isinstance(error, kind):
            return TraceError(
                f"{where}{type(error).__name__}: {_first_line(error)}; {advice}"
            )
    if options:
        return _open_question(where, text, options)
    if _needs_a_number(error, text):
        return TraceError(
            f"{where}the program needs a number where it has a symbolic size: "
            f"{_question_in(text)}; {NO_SIZES}"
        )
    if _is_raised_by_jax(error) and settling(text):
        return TraceError(f"{where}{_question_in(text)}; {OTHER_AXES}")
    return TraceError(f"{where}{_told(error, text)}")


def _open_question(
    where: str, text: str, options: Sequence[tuple[str, ...]]
) -> DimensionError:
    """The error for a question about sizes that each of these lists of constraints would settle."""
    choices = " or ".join(f"constraints={list(option)}" for option in options)
    return DimensionError(
        f"{where}the program asks what the symbolic sizes leave open: "
        f"{_question_in(text)}; {choices} would settle it"
    )


def _needs_a_number(error: Exception, text: str) -> bool:
    """Return True where the program uses a symbolic size as only a number can be used."""
    return isinstance(error, Inconclusive) or re.search(NO_NUMBER, text) is not None


def _told(error: Exception, text: str) -> str:
    """The class and message of any error, with advice where it is known."""
    kind = type(error).__name__
    what = f"{kind}: {shortened(text)}" if text else kind
    for words, advice in KNOWN:
        if words in kind or words in text:
            what = f"{what.rstrip('.')}; {advice}"
    return what


def user_line(error: BaseException) -> str:
    """Return `file:line: ` of the innermost frame of the user's code, "" where there is none.

    Code of the user's own is what is no installed package. Where all frames are of packages, the innermost
    one outside of JAX, numpy, j2o and Python's own library counts.
    """
    frames = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    candidates = [frame for frame in frames if not is_machinery(frame[0])]
    own = [frame for frame in candidates if not is_installed(frame[0])]
    if not candidates:
        return ""
    file, line = (own or candidates)[-1]
    return f"{file}:{line}: "


MACHINERY = tuple(
    os.path.dirname(str(file)) + os.sep
    for file in (jax.__file__, np.__file__, os.path.dirname(__file__))
)


def is_machinery(file: str) -> bool:
    """Return True for a file of JAX, numpy, j2o or Python's own library: no user wrote it."""
    in_library = file.startswith(LIBRARY + os.sep) and not is_installed(file)
    return file.startswith((*MACHINERY, "<frozen ")) or in_library


def shortened(text: str) -> str:
    """Return a text in one line without addresses of objects, cut between words where it is long."""
    text = re.sub(r" at 0x[0-9a-f]+", "", " ".join(text.split()))
    if len(text) <= LONGEST:
        return text
    return text[:LONGEST].rpartition(" ")[0] + " …"


def _first_line(error: BaseException) -> str:
    """The first line of a message, shortened, without a full stop."""
    lines = str(error).strip().splitlines()
    return shortened(lines[0]).rstrip(".") if lines else ""


def _is_raised_by_jax(error: BaseException) -> bool:
    """Return True where JAX raised the error, not the user's own code."""
    frame, _ = list(traceback.walk_tb(error.__traceback__))[-1]
    return frame.f_code.co_filename.startswith(os.path.dirname(jax.__file__) + os.sep)
