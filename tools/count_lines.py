"""Counts lines of code: `python -m tools.count_lines [CHECKOUT ...]`, by default this checkout.

Counted are the Python files of `service/`, `models/` and `export/`, without blank lines, comments and docstrings. Not
counted are the experiments of `models/studies/`, and what measures executors for `resnet-serve tune`: these modules
moved from `benchmarks/`, which is not counted either. With several checkouts, the last column is the difference
between the last and the first.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("service", "models", "export")
NOT_COUNTED = (
    "models/studies/*",
    "models/tuning.py",
    "models/runtime/tuning.py",
    "models/runtime/tuning_*.py",
    "service/cli/tune.py",
    "service/cli/tune_*.py",
)
"""Glob patterns, relative to a checkout. A checkout has the modules of `tune` where it has them."""
_LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def count(source: str) -> int:
    """Lines of a Python module that hold code. Every string that is a statement of its own is a docstring."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _LAYOUT:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def modules(checkout: Path, package: str) -> Iterator[Path]:
    """The Python files of a package that are counted."""
    for path in sorted((checkout / package).rglob("*.py")):
        name = path.relative_to(checkout)
        if not any(name.match(pattern) or name.parent.match(pattern) for pattern in NOT_COUNTED):
            yield path


def count_package(checkout: Path, package: str) -> int:
    """Lines of code of a package of a checkout."""
    return sum(count(path.read_text(encoding="utf-8")) for path in modules(checkout, package))


def main() -> None:
    """Print a table: a row per package, a column per checkout."""
    checkouts = [Path(argument) for argument in sys.argv[1:]] or [ROOT]
    rows = {package: [count_package(checkout, package) for checkout in checkouts] for package in PACKAGES}
    rows["sum"] = [sum(column) for column in zip(*rows.values(), strict=True)]
    for name, counts in rows.items():
        change = [f"{counts[-1] - counts[0]:+9,}"] if len(counts) > 1 else []
        print(f"{name:10}", *(f"{value:9,}" for value in counts), *change)


if __name__ == "__main__":
    main()
