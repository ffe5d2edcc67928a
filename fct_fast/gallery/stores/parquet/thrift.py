"""Thrift's compact protocol, as far as Parquet uses it: any struct to plain values and back.

A struct is a dict from field number to `(type, value)`; a list is `(type of the items, items)`; integers, bytes and
booleans are themselves, a double its eight bytes. Writing what was read gives the same bytes, whoever wrote them in the
usual way.
"""

from __future__ import annotations

from typing import Any, TypeAlias

__all__ = ["BINARY", "BOOL", "I32", "I64", "LIST", "STRUCT", "Struct", "ThriftError", "read_struct", "write_struct"]

TRUE, BOOL, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
MAX_DEPTH = 32

Struct: TypeAlias = dict[int, tuple[int, Any]]


class ThriftError(ValueError):
    """Bytes that are no struct of the compact protocol."""


def read_struct(data: bytes | memoryview, start: int = 0) -> tuple[Struct, int]:
    """The struct that begins at `start`, and where it ends. Raises ThriftError."""
    reader = _Reader(data, start)
    try:
        return reader.struct(0), reader.place
    except IndexError:
        raise ThriftError("ends within a struct") from None


def write_struct(struct: Struct) -> bytes:
    """The inverse of `read_struct`."""
    out = bytearray()
    _put_struct(out, struct)
    return bytes(out)


class _Reader:
    def __init__(self, data: bytes | memoryview, place: int) -> None:
        self.data, self.place = data, place

    def struct(self, depth: int) -> Struct:
        if depth > MAX_DEPTH:
            raise ThriftError("nests too deep")
        fields: Struct = {}
        number = 0
        while True:
            head = self.data[self.place]
            self.place += 1
            if head == 0:
                return fields
            number = number + (head >> 4) if head >> 4 else self.integer()
            kind = head & 15
            if kind in (TRUE, BOOL):
                fields[number] = (BOOL, kind == TRUE)
            else:
                fields[number] = (kind, self.value(kind, depth))

    def value(self, kind: int, depth: int) -> Any:
        if kind in (I16, I32, I64):
            return self.integer()
        if kind == BINARY:
            return self.take(self.varint())
        if kind == STRUCT:
            return self.struct(depth + 1)
        if kind == LIST:
            return self.items(depth + 1)
        if kind in (TRUE, BOOL):  # an item of a list
            return self.take(1)
        if kind == BYTE:
            return self.take(1)
        if kind == DOUBLE:
            return self.take(8)
        raise ThriftError(f"holds a value of the type {kind}, which Parquet does not use")

    def items(self, depth: int) -> tuple[int, list[Any]]:
        head = self.data[self.place]
        self.place += 1
        count = head >> 4 if head >> 4 < 15 else self.varint()
        if count > len(self.data) - self.place:  # every item has at least one byte
            raise ThriftError(f"has a list of {count} items, more than the bytes that follow")
        return head & 15, [self.value(head & 15, depth) for _ in range(count)]

    def take(self, count: int) -> bytes:
        found = bytes(self.data[self.place : self.place + count])
        if len(found) < count:
            raise ThriftError("ends within a value")
        self.place += count
        return found

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.data[self.place]
            self.place += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ThriftError("has an integer of more than 64 bits")

    def integer(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)


def _put_struct(out: bytearray, struct: Struct) -> None:
    last = 0
    for number, (kind, value) in struct.items():
        code = kind if kind != BOOL else (TRUE if value else BOOL)
        if 0 < number - last < 16:
            out.append((number - last) << 4 | code)
        else:
            out.append(code)
            _put_varint(out, _zigzag(number))
        last = number
        if kind != BOOL:
            _put(out, kind, value)
    out.append(0)


def _put(out: bytearray, kind: int, value: Any) -> None:
    if kind in (I16, I32, I64):
        _put_varint(out, _zigzag(value))
    elif kind == BINARY:
        _put_varint(out, len(value))
        out += value
    elif kind == STRUCT:
        _put_struct(out, value)
    elif kind == LIST:
        inner, items = value
        out.append((min(len(items), 15) << 4) | inner)
        if len(items) >= 15:
            _put_varint(out, len(items))
        for item in items:
            _put(out, inner, item)
    else:  # the bytes of a byte, a double, or a boolean in a list
        out += value


def _put_varint(out: bytearray, value: int) -> None:
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)


def _zigzag(value: int) -> int:
    return (value << 1) ^ (value >> 63)
