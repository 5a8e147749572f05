"""Draws the structure of the code, made from its imports, into docs/architecture.md.

    python -m tools.structure            draw it again
    python -m tools.structure --check    exit with 1 if the drawing is stale

A part is a package or module directly inside `service` or `models`. The number of imports from one part to another is
the number of pairs of modules, as import-linter counts them.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import grimp

DOCUMENT = Path(__file__).parents[1] / "docs" / "architecture.md"
BEGIN, END = "<!-- structure:begin -->", "<!-- structure:end -->"
PACKAGES = ("service", "models")
SIDES = {
    "answers": ("http", "inference", "decoding"),
    "computes": ("registry", "engine", "executors"),
}
"""The two sides of the service, and their parts from the top down."""

Arrows = Mapping[tuple[str, str], int]
"""The number of imports by (importing part, imported part)."""


class CircularImport(Exception):
    """Parts import each other; the message names them."""


def find_arrows(graph: grimp.ImportGraph, package: str) -> Arrows:
    """The imports between different parts of a package."""
    arrows: Counter[tuple[str, str]] = Counter()
    for module in graph.find_descendants(package):
        for imported in graph.find_modules_directly_imported_by(module):
            ends = _part(module, package), _part(imported, package)
            if ends[0] != ends[1] and all(ends):
                arrows[ends] += 1
    return arrows


def _part(module: str, package: str) -> str:
    """The part that a module is in; empty for the package itself and for other packages."""
    name, _, rest = module.partition(".")
    return rest.partition(".")[0] if name == package else ""


def find_levels(parts: Iterable[str], arrows: Arrows) -> list[list[str]]:
    """Parts from the top down; each stands one level above the highest part that it imports.

    Raises:
        CircularImport: there is no such order.
    """
    left, levels = sorted(parts), list[list[str]]()
    while left:
        lowest = [part for part in left if not any((part, other) in arrows for other in left)]
        if not lowest:
            raise CircularImport(f"these import each other: {', '.join(left)}")
        left = [part for part in left if part not in lowest]
        levels.insert(0, lowest)
    return levels


def draw(package: str, parts: Iterable[str], arrows: Arrows) -> str:
    """A package as a Mermaid flow chart and a table of all imports between its parts, in Markdown."""
    levels = find_levels(parts, arrows)
    order = [part for level in levels for part in level]
    lines = [
        f"`{package}/`: {len(order)} packages and modules on {len(levels)} levels, {len(arrows)} arrows for "
        f"{sum(arrows.values())} imports.",
        "",
        "```mermaid",
        "flowchart TD",
        *_nodes(package, order),
        *(f"    {_identifier(top)} -->|{arrows[top, below]}| {_identifier(below)}" for top, below in _direct(arrows)),
        "```",
        "",
        f"| {package}/ | {' | '.join(order)} |",
        f"|---{'|--:' * len(order)}|",
    ]
    for part in order:
        cells = [str(arrows.get((part, other), "")) for other in order]
        lines.append(f"| **{part}** | {' | '.join(cells)} |")
    return "\n".join(lines)


def _nodes(package: str, order: Iterable[str]) -> list[str]:
    lines, sides = [], SIDES if package == "service" else {}
    for side, parts in sides.items():
        lines += [f"    subgraph {side}", *(f"        {_identifier(part)}[{part}]" for part in parts), "    end"]
    placed = {part for parts in sides.values() for part in parts}
    return lines + [f"    {_identifier(part)}[{part}]" for part in order if part not in placed]


def _direct(arrows: Arrows) -> list[tuple[str, str]]:
    """The arrows that no longer path implies."""
    below: dict[str, set[str]] = {}

    def reach(part: str) -> set[str]:
        if part not in below:
            nearest = {other for top, other in arrows if top == part}
            below[part] = nearest.union(*map(reach, nearest))
        return below[part]

    return [
        (top, other)
        for top, other in sorted(arrows)
        if not any(other in reach(middle) for upper, middle in arrows if upper == top and middle != other)
    ]


def _identifier(part: str) -> str:
    """A name that Mermaid does not take for a keyword."""
    return f"part_{part.strip('_')}"


def drawing() -> str:
    """The text between the two marks."""
    graph = grimp.build_graph("models", "export", "service", cache_dir=None)
    sections = [
        "Made by `python -m tools.structure` from the imports. A number counts imports. The charts leave out an arrow "
        "that a longer path implies; the tables have all: a row imports the columns, and nothing stands below the "
        "diagonal because nothing imports upwards."
    ]
    for package in PACKAGES:
        parts = [name.partition(".")[2] for name in graph.find_children(package)]
        sections.append(draw(package, parts, find_arrows(graph, package)))
    return "\n\n".join(sections)


def replace_drawing(document: str, text: str) -> str:
    """The document with another drawing.

    Raises:
        ValueError: the document does not have each mark once.
    """
    if document.count(BEGIN) != 1 or document.count(END) != 1:
        raise ValueError(f"expected {BEGIN} and {END} once each")
    head, _, rest = document.partition(BEGIN)
    return f"{head}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}"


def main() -> None:
    """Write the drawing, or compare it."""
    before = DOCUMENT.read_text(encoding="utf-8")
    after = replace_drawing(before, drawing())
    if "--check" not in sys.argv[1:]:
        DOCUMENT.write_text(after, encoding="utf-8")
    elif before != after:
        sys.exit(f"{DOCUMENT.name} is stale: run python -m tools.structure")


if __name__ == "__main__":
    main()
