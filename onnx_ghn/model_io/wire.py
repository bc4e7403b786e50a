"""The little of the protobuf wire format that bounds memory, when reading and when writing.

A field is a key (number and wire type), then a varint, 4 or 8 bytes, or a length and as many
bytes: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import onnx

from onnx_ghn.errors import ModelError

MAX_NODES = 100_000
"""Operators in one file, at any depth."""

MAX_PARTS = 1_000_000
"""The same, and attributes, tensors, dimensions, metadata entries and so on."""

MAX_ENTRIES = 3_000_000
"""The same, and single names and numbers."""

_SMALL_BYTES = 1 << 20
"""An empty message takes 2 bytes in a file and about 100 when parsed: a file of this size is
harmless, whatever it holds."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check_size_in_memory(content: bytes) -> None:
    """Refuse a file that would take far more memory than its size once it is parsed.

    Payloads are skipped, so that this is fast for real models, however large.

    Raises:
        ModelError: It holds too many messages. Damage is left to the parser to find.
    """
    if len(content) <= _SMALL_BYTES:
        return
    nodes = parts = entries = 0
    stack = [(0, len(content), onnx.ModelProto.DESCRIPTOR)]
    try:
        while stack:
            position, end, descriptor = stack.pop()
            children = _children(descriptor)
            while position < end:
                key, position = _read_varint(content, position)
                entries += 1
                kind = key & 7
                if kind == _BYTES:
                    length, position = _read_varint(content, position)
                    child = children.get(key >> 3)
                    if child is not None:
                        parts += 1
                        nodes += child is onnx.NodeProto.DESCRIPTOR
                        if length:
                            stack.append((position, min(position + length, end), child))
                    position += length
                elif kind == _VARINT:
                    _, position = _read_varint(content, position)
                elif kind in (_FIXED32, _FIXED64):
                    position += 4 if kind == _FIXED32 else 8
                else:
                    return
                if nodes > MAX_NODES or parts > MAX_PARTS or entries > MAX_ENTRIES:
                    raise ModelError(
                        f"the graph is too large, or an attack: it has more than {MAX_NODES} "
                        f"nodes, {MAX_PARTS} parts or {MAX_ENTRIES} entries"
                    )
    except IndexError:
        return


@cache
def _children(descriptor: Any) -> dict[int, Any]:
    """Field number to the message type that it holds, for the fields that hold messages."""
    return {
        field.number: field.message_type
        for field in descriptor.fields
        if field.message_type is not None
    }


def _read_varint(content: bytes, position: int) -> tuple[int, int]:
    """The number at `position`, and the position after it."""
    value = shift = 0
    while shift < 70:
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return value, position


def field_header(number: int, length: int) -> bytes:
    """What stands before `length` bytes of the field `number`."""
    return _varint(number << 3 | _BYTES) + _varint(length)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
