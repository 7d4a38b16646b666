"""A look at the bytes of a model before protobuf reads them: what they would cost, and that they are sound.

A few bytes can make protobuf take much: an empty message of two bytes has over a hundred in memory, a size of
one has eight. So the encoding (https://protobuf.dev/programming-guides/encoding) is walked once, the data of
tensors left out, and what no model needs is refused. The limits leave room for models of some 400,000 nodes;
that many are walked in three seconds.
"""

from __future__ import annotations

from typing import Any

import onnx

MESSAGES = 4_000_000  # of all kinds; a node with its attributes and the type of its result are about ten
PARTS = 10_000_000  # fields of all messages: names of operands, sizes, …
NUMBERS = 50_000_000  # of packed lists, but floats: sizes and entries of tensors that are not raw bytes
NAME = 2**16  # bytes of a name
TEXT = 2**26  # bytes of a text for people, and of a value in metadata
ALL_TEXT = 2**28  # bytes of all names and texts
GRAPHS = 5_000  # branches and bodies of loops; onnxruntime takes some 40 kB for each
DEPTH = 100  # of messages in messages, as in protobuf itself
# bytes of messages that are walked as a copy: reading one byte of a mapped file takes longer
_COPIED = 2**20

_LONG = frozenset({"doc_string", "value"})
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


class Damaged(ValueError):
    """The bytes are no messages of ONNX; the text says what is wrong, or is empty."""


class Costly(ValueError):
    """The bytes may be a model, but one that takes more than the limits."""


class _Message(dict[int, Any]):
    """What stands in a message by the key of a field.

    Another message, the most bytes of a text, or None for numbers.
    """

    is_graph = False


def _schema(descriptor: Any, known: dict[str, _Message]) -> _Message:
    if descriptor.full_name in known:
        return known[descriptor.full_name]
    made = known[descriptor.full_name] = _Message()
    made.is_graph = descriptor.name == "GraphProto"
    for field in descriptor.fields:
        key = field.number << 3 | _BYTES
        if field.type == field.TYPE_MESSAGE:
            made[key] = _schema(field.message_type, known)
        elif field.type == field.TYPE_STRING:
            made[key] = TEXT if field.name in _LONG else NAME
        elif field.type in (field.TYPE_INT32, field.TYPE_INT64, field.TYPE_UINT64):
            made[key] = None
    return made


_MODEL = _schema(onnx.ModelProto.DESCRIPTOR, {})


def scan(data: Any) -> None:
    """Walk the bytes of a model; Damaged where they are none, Costly where they take more than the limits."""
    walk = _Walk()
    try:
        walk.message(data, 0, len(data), _MODEL, 1)
    except IndexError:
        raise Damaged from None


class _Walk:
    """What was found so far."""

    def __init__(self) -> None:
        self.messages = self.graphs = self.parts = self.numbers = self.text = 0

    def message(
        self, data: Any, at: int, end: int, fields: _Message, depth: int
    ) -> None:
        """Walk the message that stands in `data` from `at` to `end`."""
        self.begin(fields, depth)
        parts = 0
        while at < end:
            key, at = data[at], at + 1
            if key > 127:
                key, at = _varint(data, at - 1)
            parts += 1
            wire = key & 7
            if key < 8:  # fields are numbered from 1 on
                raise Damaged
            if wire == _BYTES:
                size, at = data[at], at + 1
                if size > 127:
                    size, at = _varint(data, at - 1)
                stop = at + size
                if stop > end:
                    raise Damaged
                if key in fields:
                    self.content(data, at, stop, fields[key], depth)
                at = stop
            elif wire == _VARINT and data[at] < 128:  # most numbers are small
                at += 1
            else:
                at = _behind_number(data, at, wire)
            if parts > PARTS:
                break
        self.finish(parts, at == end)

    def finish(self, parts: int, at_end: bool) -> None:
        """Count the fields of a message; Damaged where the last one goes beyond its end."""
        self.parts += parts
        if self.parts > PARTS:
            raise Costly(f"it has more than {PARTS:,} fields (names, sizes, …)")
        if not at_end:
            raise Damaged

    def begin(self, fields: _Message, depth: int) -> None:
        """Count a message."""
        self.messages += 1
        self.graphs += fields.is_graph
        if depth > DEPTH:
            raise Costly(f"its messages are nested deeper than {DEPTH}")
        if self.messages > MESSAGES:
            raise Costly(
                f"it has more than {MESSAGES:,} messages (nodes, attributes, types, …)"
            )
        if self.graphs > GRAPHS:
            raise Costly(
                f"it has more than {GRAPHS:,} graphs (branches, bodies of loops)"
            )

    def content(
        self, data: Any, at: int, stop: int, kind: _Message | int | None, depth: int
    ) -> None:
        """What stands in a field of many bytes."""
        size = stop - at
        if kind is None:
            self.numbers += size
            if self.numbers > NUMBERS:
                raise Costly(
                    f"it has more than {NUMBERS:,} bytes of numbers that are not raw"
                )
        elif isinstance(kind, int):
            self.text += size
            if size > kind:
                raise Costly(
                    f"a name or text in it has {size:,} bytes, more than {kind:,}"
                )
            if self.text > ALL_TEXT:
                raise Costly(f"it has more than {ALL_TEXT:,} bytes of names and texts")
            try:
                str(data[at:stop], "utf-8")
            except UnicodeDecodeError:
                raise Damaged("a name in it is no text") from None
        elif size <= _COPIED and not isinstance(data, bytes):
            self.message(bytes(data[at:stop]), 0, size, kind, depth + 1)
        else:
            self.message(data, at, stop, kind, depth + 1)


def _behind_number(data: Any, at: int, wire: int) -> int:
    """The place behind a number that stands at `at`; Damaged for a wire type that ONNX does not have."""
    if wire == _VARINT:
        while data[at] > 127:
            at += 1
        return at + 1
    if wire == _FIXED32:
        return at + 4
    if wire == _FIXED64:
        return at + 8
    raise Damaged


def _varint(data: Any, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and the place behind it."""
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7
        if shift > 63:
            raise Damaged
