"""The errors that users of j2o see. Each message is one readable line that says what, where, and what would work."""

from __future__ import annotations


class J2OError(Exception):
    """Base of every error that j2o raises on purpose."""


class SpecError(J2OError):
    """A spec, a name or an option of `compile` does not fit; the message names the argument and the entry."""


class TraceError(J2OError):
    """JAX cannot trace the function: it leaks tracers, branches on values or calls the host."""


class UnsupportedError(J2OError):
    """Some operations of the program cannot be expressed; `operations` lists every one of them."""

    def __init__(self, operations: list[str]) -> None:
        self.operations = operations
        head = f"{len(operations)} unsupported operation{'s' if len(operations) > 1 else ''}: "
        super().__init__(head + "; ".join(operations))


class DimensionError(J2OError):
    """Symbolic dimensions are in conflict, or a decision about them cannot be taken."""


class InvalidGraphError(J2OError):
    """A graph breaks a rule of the IR; the message names the node and its source line."""


class VerificationError(J2OError):
    """The exported model and JAX disagree."""


class NotConvergingError(J2OError):
    """Rewriting does not come to an end; the message names the rules that fire in a loop."""


class ParseError(J2OError):
    """Text is not a graph in the text form; the message gives line and column."""


class SaveError(J2OError):
    """A model cannot be written where it was asked for."""


class LoadError(J2OError):
    """A file is not a model that j2o can read, or it is damaged."""


class J2OWarning(UserWarning):
    """The model is what was asked for, though perhaps not what was meant; the report lists these too."""
