"""The commands of README.md, and whether they print the output that it shows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PROBABILITY_TOLERANCE = 0.01
_NUMBER = re.compile(r"\d+(?:\.\d+)?%?")
_PIECE = re.compile(_NUMBER.pattern + r"|\D+")
_MASKED = {"timing"}
"""Keys of JSON whose numbers differ from run to run."""


@dataclass(frozen=True)
class Step:
    """A fenced block, and the output that stands behind it."""

    section: str
    language: str
    """sh or python."""
    text: str
    output: str | None

    def commands(self) -> list[str]:
        """The commands of a shell block; a backslash continues a line."""
        joined = self.text.replace("\\\n", " ")
        return [" ".join(line.split()) for line in joined.splitlines() if line.strip()]


def steps(markdown: str, sections: Sequence[str]) -> Iterator[Step]:
    """The blocks of some sections, in their order."""
    parts = re.split(r"^## ", markdown, flags=re.MULTILINE)[1:]
    texts = {section: text for section, _, text in (part.partition("\n") for part in parts)}
    if missing := set(sections) - texts.keys():
        raise ValueError(f"README.md has no section {', '.join(sorted(missing))}")
    for section in sections:
        text = texts[section]
        blocks = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        for index, (language, block) in enumerate(blocks):
            if language in ("sh", "python"):
                following = blocks[index + 1 : index + 2]
                shown = following[0][1] if following and following[0][0] in ("json", "text") else None
                yield Step(section, language, block, shown)


def differences(shown: str, printed: str) -> list[str]:
    """Lines in which printed output differs from that shown; "…" stands for anything."""
    try:
        expected = json.loads(shown)
    except ValueError:
        return _text_differences(shown, printed)
    return list(_json_differences(expected, json.loads(printed), "$"))


def _text_differences(shown: str, printed: str) -> list[str]:
    expected, given = shown.rstrip().splitlines(), printed.rstrip().splitlines()
    if len(expected) != len(given):
        return [f"{len(expected)} lines shown, {len(given)} printed"]
    return [
        f"{line!r} shown, {other!r} printed"
        for line, other in zip(expected, given, strict=True)
        if not _like(line, other)
    ]


def _like(line: str, other: str) -> bool:
    """Whether two lines are equal, except for "…" and small differences of percentages."""
    pieces = _PIECE.findall(line.rstrip())
    pattern = "".join(
        f"({_NUMBER.pattern})" if _NUMBER.fullmatch(piece) else re.escape(piece).replace("…", ".*") for piece in pieces
    )
    found = re.fullmatch(pattern, other.rstrip())
    return found is not None and all(map(_close, _NUMBER.findall(line), found.groups()))


def _close(number: str, other: str) -> bool:
    if number.endswith("%") and other.endswith("%"):
        return abs(float(number[:-1]) - float(other[:-1])) <= 100 * PROBABILITY_TOLERANCE
    return number == other


def _json_differences(expected: Any, given: Any, path: str) -> Iterator[str]:
    if isinstance(expected, Mapping) and isinstance(given, Mapping):
        if expected.keys() != given.keys():
            yield f"{path}: keys {sorted(expected)} shown, {sorted(given)} given"
        for key in expected.keys() & given.keys():
            if key not in _MASKED:
                yield from _json_differences(expected[key], given[key], f"{path}.{key}")
            elif expected[key].keys() != given[key].keys():
                yield f"{path}.{key}: keys {sorted(expected[key])} shown, {sorted(given[key])} given"
    elif isinstance(expected, list) and isinstance(given, list) and len(expected) == len(given):
        for index, (first, second) in enumerate(zip(expected, given, strict=True)):
            yield from _json_differences(first, second, f"{path}[{index}]")
    elif isinstance(expected, float) and isinstance(given, float):
        if abs(expected - given) > PROBABILITY_TOLERANCE:
            yield f"{path}: {expected} shown, {given} given"
    elif expected != given:
        yield f"{path}: {expected!r} shown, {given!r} given"
