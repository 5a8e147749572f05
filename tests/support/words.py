"""Finds words and names that docs/words.toml discourages, in one file or many.

    python -m tests.support.words [PATH...]

prints a line for each finding, with the better word, and ends with 1 if there is one. Without a path it checks the
whole project. `# words: allow` at the end of a line of Python allows the names of that line, on the
first line that of the module.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.support.prose import Passage, passages

ROOT = Path(__file__).parents[2]
LIST = ROOT / "docs" / "words.toml"

PACKAGES = ("service", "models", "export", "benchmarks", "clients", "tests", "deploy", "docs")
CHECKED = (
    *PACKAGES,
    "*.md",
    "Makefile",
    "Dockerfile",
    "docker-compose.yml",
    "pyproject.toml",
    ".env.example",
    ".pre-commit*",
)
LEFT_OUT = (
    "docs/words.toml",  # the list itself
    "docs/gpu",  # a report stays as it was measured
    "docs/studies/*.json",
    "tests/unit/test_words.py",  # plants what must be found
    "tests/acceptance/house/words.py",  # the same
    "tests/support/words.py",  # its patterns and examples
    "tests/data",
    "models/pretrained",
    "service/page/swagger-ui",  # from elsewhere, unchanged
)

ALLOWED = re.compile(r"#\s*words: allow")
MACROS = {
    # The start of a sentence, or of a clause behind a colon or semicolon.
    "{start}": r"(?:\A\W*|(?<=[.!?:;]\s)|(?<=[.!?:;]\n))",
    # A unit or a thing that a rate counts by: "25 µs a request" is 25 µs per request.
    "{counted}": r"(?:answer|batch|block|body|CPU|class|client|connection|core|device|epoch|executor|file|GPU|hour"
    r"|image|instance|lane|layer|machine|minute|model|parameter|photograph|pixel|process|processor|request|round|row"
    r"|runtime|second|seed|side|size|stage|step|stream|study|thread|token|version|worker)(?!\w|\s+(?:time|chance|look))",
}


@dataclass(frozen=True)
class Rule:
    """A discouraged word or construction, and the better one."""

    pattern: re.Pattern[str]
    better: str
    reason: str
    prose: bool
    names: bool


@dataclass(frozen=True)
class Finding:
    """Where a discouraged word stands, and the word to write instead."""

    path: Path
    line: int
    found: str
    rule: Rule

    def __str__(self) -> str:
        found = " ".join(self.found.split())
        return f"{self.path}:{self.line}: {found!r}: write {self.rule.better} ({self.rule.reason})"


@dataclass(frozen=True)
class Name:
    """The name of a module, class, function, field or constant."""

    kind: str
    name: str
    line: int

    @property
    def words(self) -> str:
        """The name as words: `LoneExecutor` and `lone_executor` are "lone executor"."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", self.name).replace("_", " ").strip().lower()


@cache
def rules() -> tuple[Rule, ...]:
    """The rules of docs/words.toml.

    Raises ValueError for an entry that is incomplete or has a key that is not known.
    """
    found = []
    for entry in tomllib.loads(LIST.read_text())["word"]:
        if set(entry) != {"pattern", "better", "reason", "where"} or entry["where"] not in ("prose", "names", "both"):
            raise ValueError(f"{LIST.name}: not an entry of pattern, better, reason and where: {entry}")
        pattern = entry["pattern"].replace(" ?", r"\s*").replace(" ", r"\s+")
        for macro, meaning in MACROS.items():
            pattern = pattern.replace(macro, meaning)
        where = entry["where"]
        compiled = re.compile(pattern, 0 if "{start}" in entry["pattern"] else re.IGNORECASE)
        found.append(Rule(compiled, entry["better"], entry["reason"], where != "names", where != "prose"))
    return tuple(found)


@cache
def name_table() -> dict[str, Rule]:
    """The rule of each whole name, such as `class Ticket`, in docs/words.toml."""
    table = tomllib.loads(LIST.read_text())["names"]
    return {name: Rule(re.compile(name), better, "one name per thing", False, True) for name, better in table.items()}


def in_prose(passage: Passage) -> Iterator[tuple[int, str, Rule]]:
    """(line, words, rule) for each discouraged word of a passage."""
    for rule in rules():
        if not rule.prose or (passage.heading and not rule.names):
            continue
        for found in rule.pattern.finditer(passage.text):
            at = passage.text.count("\n", 0, found.start() + len(found[0]) - len(found[0].lstrip()))
            shown = re.match(r".{0,40}\S*", passage.text[found.start() :].lstrip().replace("\n", " "))
            yield passage.line + at, shown[0] if shown else found[0], rule


def names(path: Path) -> Iterator[Name]:
    """The name of a module, and of its classes, functions, annotated fields and constants."""
    text = path.read_text()
    allowed = {number for number, line in enumerate(text.splitlines(), 1) if ALLOWED.search(line)}
    if 1 not in allowed:
        yield Name("module", path.parent.name if path.stem == "__init__" else path.stem, 1)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            found = [Name("class", node.name, node.lineno), *_fields(node)]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found = [Name("function", node.name, node.lineno)]
        elif isinstance(node, ast.Module):
            found = [Name("constant", name, line) for name, line in _assigned(node.body)]
        else:
            continue
        yield from (name for name in found if name.line not in allowed)


def _fields(node: ast.ClassDef) -> list[Name]:
    return [Name("field", name, line) for name, line in _assigned(node.body)]


def _assigned(body: Iterable[ast.stmt]) -> Iterator[tuple[str, int]]:
    for statement in body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name):
                yield target.id, statement.lineno


def in_names(path: Path) -> Iterator[tuple[int, str, Rule]]:
    """(line, name, rule) for each discouraged name that a module gives."""
    for name in names(path):
        whole = f"{name.kind} {name.name}"
        listed = name_table().get(whole)
        found = [rule for rule in rules() if rule.names and rule.pattern.search(name.words)]
        for rule in [*found, *([listed] if listed else [])]:
            yield name.line, whole, rule


def files(paths: Sequence[Path] = ()) -> Iterator[Path]:
    """The files that are checked, all or those at or below `paths`."""
    for start in paths or [path for pattern in CHECKED for path in sorted(ROOT.glob(pattern))]:
        for path in sorted(start.rglob("*")) if start.is_dir() else [start]:
            inner = path.resolve().relative_to(ROOT)
            left_out = any(part.match(pattern) for pattern in LEFT_OUT for part in (inner, *inner.parents))
            if path.is_file() and not left_out and "__pycache__" not in inner.parts:
                yield path


def check(path: Path) -> list[Finding]:
    """Findings of a file, in the order of its lines."""
    found = [finding for passage in passages(path) for finding in in_prose(passage)]
    if path.suffix == ".py":
        found += in_names(path)
    shown = path.resolve().relative_to(ROOT)
    return [Finding(shown, *finding) for finding in sorted(found, key=lambda finding: finding[0])]


def main(arguments: Sequence[str]) -> int:
    """Print the findings below the given paths; 1 if there is one."""
    found = [finding for path in files([Path(argument) for argument in arguments]) for finding in check(path)]
    print(*found, sep="\n", end="\n" if found else "")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
