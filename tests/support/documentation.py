"""Code blocks of the documentation: how they are found, how a test treats them, and how outputs are compared."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

TOLERANCE = 0.01
"""Largest difference of two probabilities."""
MASKED = frozenset({"timing", "sha256", "request_id"})
"""Keys of JSON whose values differ from run to run."""


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Printed:
    """Run exactly as it is printed.

    `.venv/bin` and commands without a folder are those of the Python that runs the tests. Port 8000 is that of the
    service of the test.
    """

    start: str
    """The beginning of the block."""


@dataclass(frozen=True)
class Reduced(Printed):
    """Run with less data or time."""

    reason: str
    replace: Mapping[str, str] = field(default_factory=dict)
    """Printed text, and the text that is run instead."""


@dataclass(frozen=True)
class Output(Printed):
    """The output of the block before it; `…` stands for any words."""

    replace: Mapping[str, str] = field(default_factory=dict)
    """Printed text, and the text that a reduced command prints instead."""


@dataclass(frozen=True)
class NotRun(Printed):
    """Not run."""

    reason: str


def documents() -> list[str]:
    """Paths of all documents with text for users and contributors, relative to the project."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("export/*/*.md")]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a document, in their order, without drawings in Mermaid."""
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    fenced = [Block(text.count("\n", 0, block.start()) + 1, block[1], block[2]) for block in found]
    return [block for block in fenced if block.language != "mermaid"]


def indented_blocks(text: str) -> list[int]:
    """Lines at which a block begins that is indented instead of fenced: no test would see it."""
    outside = re.sub(r"^```.*?^```$", lambda block: "\n" * block[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL)
    return [outside.count("\n", 0, block.start()) + 2 for block in re.finditer(r"(?:\A|\n)\n {4}(?![-*\d])", outside)]


def commands(text: str) -> list[str]:
    """The commands of a shell block; a line that ends with a backslash or a pipe continues in the next."""
    joined = re.sub(r"\s*\\\n\s*", " ", text)
    return re.sub(r"\|\n\s*", "| ", joined).strip().split("\n")


def differences(expected: str, printed: str) -> list[str]:
    """How the output of a command differs from the documentation; empty if they agree.

    JSON is compared by its keys and values, text by its words. Numbers with a fraction agree within `TOLERANCE`, per
    cent within one point, and numbers with an exponent always.
    """
    try:
        return list(_values(json.loads(expected), json.loads(printed), "$"))
    except json.JSONDecodeError:
        return _text(_tokens(expected), _tokens(printed))


def _values(expected: Any, found: Any, where: str) -> Iterator[str]:
    if type(expected) is not type(found):
        yield f"{where}: expected {expected!r}, found {found!r}"
    elif isinstance(expected, dict):
        if expected.keys() != found.keys():
            yield f"{where}: expected the keys {sorted(expected)}, found {sorted(found)}"
        for key in expected.keys() & found.keys():
            if key in MASKED and isinstance(expected[key], dict):
                if expected[key].keys() != found[key].keys():
                    yield f"{where}.{key}: expected the keys {sorted(expected[key])}, found {sorted(found[key])}"
            elif key not in MASKED:
                yield from _values(expected[key], found[key], f"{where}.{key}")
    elif isinstance(expected, list):
        if len(expected) != len(found):
            yield f"{where}: expected {len(expected)} items, found {len(found)}"
        for index, (a, b) in enumerate(zip(expected, found, strict=False)):
            yield from _values(a, b, f"{where}[{index}]")
    elif isinstance(expected, float):
        if abs(expected - found) > TOLERANCE:
            yield f"{where}: expected {expected}, found {found}"
    elif expected != found:
        yield f"{where}: expected {expected!r}, found {found!r}"


_EXPONENT = r"[\d.]+e[-+]\d+"
_FRACTION = r"\d*\.\d+%?"


def _tokens(text: str) -> list[str]:
    """Words, numbers and signs; borders of tables are none."""
    return re.findall(rf"…|{_EXPONENT}|[\d.]*\d%?|[^\W\d]+|[^\w\s\u2500-\u257f]", text)


def _text(expected: list[str], found: list[str]) -> list[str]:
    """Differences of two texts: `…` agrees with any words, a number with one that is near."""
    patterns = [_pattern(token) for token in expected]
    words = " ".join(found)
    for count in range(len(patterns), 0, -1):  # fewer, to find the first word that differs
        agreed = re.match(" ".join(patterns[:count]) + (r"\Z" if count == len(patterns) else r"\b|\Z"), words)
        if agreed and count < len(patterns):
            return [f"expected {expected[count]!r} after {' '.join(expected[max(0, count - 8) : count])!r} in: {words}"]
        if agreed:
            numbers = [token for token in expected if re.fullmatch(_FRACTION, token)]
            return [
                f"expected {a}, found {b}" for a, b in zip(numbers, agreed.groups(), strict=True) if not _near(a, b)
            ]
    return [f"expected {' '.join(expected)!r}, found {words!r}"]


def _pattern(token: str) -> str:
    if token == "…":
        return ".+?"
    if re.fullmatch(_EXPONENT, token):
        return r"[\d.]+(?:e[-+]\d+)?"
    return f"({_FRACTION})" if re.fullmatch(_FRACTION, token) else re.escape(token)


def _near(expected: str, found: str) -> bool:
    if expected.endswith("%") != found.endswith("%"):
        return False
    return abs(float(expected.rstrip("%")) - float(found.rstrip("%"))) <= TOLERANCE * (100 if "%" in expected else 1)
