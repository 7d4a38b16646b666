"""Attributes of a node by their kind: `node.int_attr("axis", 0)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from j2o.ir.types import Attr, DType, are_integers


class HasAttributes:
    """What has `attrs`: an operation, which messages name."""

    __slots__ = ()

    op: str
    attrs: dict[str, Attr]

    def int_attr(self, name: str, default: int | None = None) -> int:
        """Return an integer attribute.

        Of all accessors: ValueError where there is none and no default, TypeError for another kind.
        """
        return self._attr(name, default, int)

    def float_attr(self, name: str, default: float | None = None) -> float:
        """Return a float attribute; an integer stands for the float of its value."""
        value = self._attr(name, default, (int, float))
        return float(value)

    def str_attr(self, name: str, default: str | None = None) -> str:
        """Return an attribute that is text."""
        return self._attr(name, default, str)

    def dtype_attr(self, name: str, default: DType | None = None) -> DType:
        """Return an attribute that is an element type."""
        return self._attr(name, default, DType)

    def ints_attr(
        self, name: str, default: Sequence[int] | None = None
    ) -> tuple[int, ...]:
        """Return an attribute that is a sequence of integers."""
        value = self._attr(name, None if default is None else tuple(default), tuple)
        if not are_integers(value):
            raise TypeError(
                f"attribute {name} of {self.op} is {value!r}, not a sequence of integers"
            )
        return value

    def _attr(self, name: str, default: Attr, kind: Any) -> Any:
        """An attribute of a kind; the two errors of all accessors."""
        value = self.attrs.get(name, default)
        if value is None:
            raise ValueError(f"{self.op} has no attribute {name}")
        if not isinstance(value, kind):
            raise TypeError(
                f"attribute {name} of {self.op} is {value!r}, a {type(value).__name__}"
            )
        return value
