"""Reads compiled kernels: ELF files for one kind of GPU.

NVIDIA's compiler describes each function in sections that its tools (`cuobjdump -elf`) print, too:

    .text.NAME      code
    .nv.info        attributes of functions by the number of their symbol: registers and stack per thread
    .nv.info.NAME   attributes of the function: place and size of each parameter

An attribute is its format (one byte), its number (one byte), two bytes of value or length, and the value.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_ELF = b"\x7fELF\x02\x01"
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_SYMBOL_TABLE = 2
_WITH_LENGTH = 4
_PARAMETER = 0x17
_FRAME_SIZE = 0x11
_REGISTERS = 0x2F
_PARAMETER_SIZE_SHIFT = 18  # of the attribute's last word, in bits


class BadCubin(ValueError):
    """The content is no compiled kernel; the message is one line with the reason."""


@dataclass(frozen=True)
class Function:
    """A function of a cubin."""

    name: str
    parameters: tuple[tuple[int, int], ...]
    """Offset and size in bytes of each parameter, in order."""
    registers: int
    """Per thread."""
    stack_bytes: int
    """Local memory per thread: arrays and spilled registers."""


@dataclass(frozen=True)
class _Section:
    name: str
    kind: int
    content: bytes


def read_function(content: bytes, name: str) -> Function:
    """Describe a function of a cubin.

    Raises:
        BadCubin: the content is no cubin, or has no such function.
    """
    try:
        sections = _sections(content)
        text = next((each for each in sections if each.name == f".text.{name}"), None)
        info = next((each for each in sections if each.name == f".nv.info.{name}"), None)
        if text is None or info is None:
            raise BadCubin(f"has no function {name}")
        registers, stack = (_of_function(sections, name, number) for number in (_REGISTERS, _FRAME_SIZE))
        return Function(name, _parameters(info.content), registers, stack)
    except (struct.error, UnicodeDecodeError, IndexError) as error:
        raise BadCubin("is no complete ELF file") from error


def _sections(content: bytes) -> list[_Section]:
    if content[: len(_ELF)] != _ELF:
        raise BadCubin("is no ELF file of 64 bits")
    header = _HEADER.unpack_from(content)
    start, count, names_at = header[6], header[12], header[13]
    rows = [_SECTION.unpack_from(content, start + place * _SECTION.size) for place in range(count)]
    names = _content(content, rows[names_at])
    return [_Section(_text(names, row[0]), row[1], _content(content, row)) for row in rows]


def _content(content: bytes, row: tuple[int, ...]) -> bytes:
    return content[row[4] : row[4] + row[5]]


def _text(table: bytes, start: int) -> str:
    return table[start : table.index(b"\0", start)].decode() if b"\0" in table[start:] else ""


def _attributes(content: bytes) -> list[tuple[int, bytes]]:
    """Number and value of each attribute that has a length."""
    found, at = [], 0
    while at + 4 <= len(content):
        form, number, length = struct.unpack_from("<BBH", content, at)
        at += 4
        if form == _WITH_LENGTH:
            found.append((number, content[at : at + length]))
            at += length
    return found


def _parameters(info: bytes) -> tuple[tuple[int, int], ...]:
    found = {}
    for number, value in _attributes(info):
        if number == _PARAMETER:
            _, ordinal, offset, packed = struct.unpack("<IHHI", value)
            found[ordinal] = (offset, packed >> _PARAMETER_SIZE_SHIFT)
    return tuple(found[ordinal] for ordinal in sorted(found))


def _of_function(sections: list[_Section], name: str, wanted: int) -> int:
    """An attribute of a function from the section that all functions share; 0 if it has none."""
    own = next((number for number, symbol in enumerate(_symbols(sections)) if symbol == name), None)
    shared = next((each.content for each in sections if each.name == ".nv.info"), b"")
    for number, value in _attributes(shared):
        if number == wanted and len(value) == 8:
            symbol, size = struct.unpack("<II", value)
            if symbol == own:
                return int(size)
    return 0


def _symbols(sections: list[_Section]) -> list[str]:
    """Names of the symbols, in the order of their table."""
    table = next((each for each in sections if each.kind == _SYMBOL_TABLE), None)
    names = next((each.content for each in sections if each.name == ".strtab"), b"")
    if table is None:
        return []
    count = len(table.content) // _SYMBOL.size
    return [_text(names, _SYMBOL.unpack_from(table.content, place * _SYMBOL.size)[0]) for place in range(count)]
