"""Extracts the sentences of a file: Markdown text, docstrings, comments, messages, and the text of the web page.

Code is left out: fenced and indented blocks, `inline code`, addresses and tags. Each passage keeps its lines, so that a
finding can name the line.
"""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from itertools import groupby
from pathlib import Path

CODE = "§"
"""Stands for code, addresses and values, which are not checked."""

MESSAGE_WORDS = 3
"""A string literal with fewer words is a key, a path or a label, and is not checked."""

HASH_COMMENTS = {".toml", ".yml", ".yaml", ".conf", ".example", ".sh", "Makefile", "Dockerfile"}
SLASH_COMMENTS = {".js", ".css", ".cu"}
MARKDOWN, PYTHON, HTML, DASHBOARD = ".md", ".py", ".html", ".json"


@dataclass(frozen=True)
class Passage:
    """Some sentences of a file.

    `line` is the line of the first character of `text`, and `text` keeps its line breaks. A heading is no sentence: it
    may be "What was measured".
    """

    line: int
    text: str
    heading: bool = False


def passages(path: Path) -> Iterator[Passage]:
    """Passages of a file, by its type; none for a file of another type."""
    kind = path.suffix or path.name
    if kind == MARKDOWN:
        yield from markdown(path.read_text())
    elif kind == PYTHON:
        yield from python(path.read_text())
    elif kind == HTML:
        yield from html(path.read_text())
    elif kind == DASHBOARD:
        yield from descriptions(path.read_text())
    elif kind in HASH_COMMENTS:
        yield from comments(path.read_text(), r"#+")
        yield from alert_texts(path.read_text())
    elif kind in SLASH_COMMENTS:
        yield from comments(path.read_text(), r"(?://|/?\*+)")
        yield from script_strings(path.read_text())


def strip_code(text: str) -> str:
    """Text with code, addresses and tags replaced by `CODE`, on the same lines."""

    def blank(found: re.Match[str]) -> str:
        return CODE + "\n" * found[0].count("\n")

    text = re.sub(r"(`+)[^`]+?\1", blank, text)
    text = re.sub(r"<(?:https?:)?[/\w!][^<>\n]*>", lambda tag: f" {_described(tag[0])} ", text)
    text = re.sub(r"\]\([^)\s]*\)", "]", text)
    return re.sub(r"https?://\S+", CODE, text).replace("*", "").replace("[", "").replace("]", "")


def _described(tag: str) -> str:
    """The words that a tag has for people."""
    alternative = re.search(r'\balt="([^"]*)"', tag)
    return alternative[1] if alternative else ""


def markdown(text: str) -> Iterator[Passage]:
    """Paragraphs, list items, table cells and headings."""
    lines = _without_blocks(text)
    paragraph: list[tuple[int, str]] = []
    for number, line in [*enumerate(lines, 1), (len(lines) + 1, "")]:
        starts = re.match(r"\s*(?:[-*+]|\d+\.|>|#+|\|)\s", line + " ")
        if paragraph and (starts or not line.strip()):
            yield Passage(paragraph[0][0], strip_code("\n".join(text for _, text in paragraph)))
            paragraph = []
        if line.lstrip().startswith("#"):
            yield Passage(number, strip_code(line.lstrip("# ")), heading=True)
        elif line.lstrip().startswith("|"):
            header = number < len(lines) and re.fullmatch(r"\s*\|[-:| ]+\|?\s*", lines[number]) is not None
            for cell in re.sub(r"`[^`]*`", CODE, line).split("|"):
                yield Passage(number, strip_code(cell.strip()), heading=header)
        elif line.strip():
            paragraph.append((number, line[starts.end() :] if starts and len(line) > starts.end() else line))


def _without_blocks(text: str) -> list[str]:
    """Lines of a Markdown file; those of fenced and indented blocks are empty."""
    lines, fence, before, block = [], "", "", False
    for line in text.splitlines():
        mark = re.match(r"\s*(```+|~~~+)", line)
        if fence:
            fence = "" if mark and line.strip() == fence else fence
            lines.append("")
        elif mark:
            fence = mark[1]
            lines.append("")
        else:
            block = line.startswith("    ") and (block or not before.strip())
            lines.append("" if block else line)
        before = line
    return lines


def python(text: str) -> Iterator[Passage]:
    """Docstrings, comments, and string literals of at least `MESSAGE_WORDS` words: messages, help and descriptions."""
    yield from _python_comments(text)
    tree = ast.parse(text)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        literal = _literal(node)
        if literal is None or id(node) in parts:
            continue
        if id(node) in docstrings or len(re.findall(r"[A-Za-z]{2,}", literal)) >= MESSAGE_WORDS:
            for paragraph, first in _paragraphs(literal):
                yield Passage(getattr(node, "lineno", 1) + first, strip_code(paragraph))


def _literal(node: ast.AST) -> str | None:
    """The text of a string literal, with `CODE` for what an f-string puts in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else CODE for part in node.values)
    return None


def _paragraphs(text: str) -> Iterator[tuple[str, int]]:
    """(paragraph, its first line) of a text."""
    lines = text.split("\n")
    for filled, group in groupby(enumerate(lines), key=lambda line: bool(line[1].strip())):
        if filled:
            found = list(group)
            yield "\n".join(line.strip() for _, line in found), found[0][0]


def _python_comments(text: str) -> Iterator[Passage]:
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type == tokenize.COMMENT]
    found = [(token.start[0], token.start[1], token.string.lstrip("#: ")) for token in tokens]
    yield from _consecutive([(line, column, words) for line, column, words in found if not _directive(words)])


def _directive(words: str) -> bool:
    return re.match(r"(?:noqa|type: ignore|pragma|!/)", words) is not None


def _consecutive(lines: list[tuple[int, int, str]]) -> Iterator[Passage]:
    """Passages of (line, column, comment): comments below one another are one."""
    for _, group in groupby(enumerate(lines), key=lambda item: (item[1][0] - item[0], item[1][1])):
        found = [line for _, line in group]
        yield Passage(found[0][0], strip_code("\n".join(words for _, _, words in found)))


def comments(text: str, mark: str) -> Iterator[Passage]:
    """Comments of a file whose comments begin with what the pattern `mark` matches."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        comment = re.search(rf"(?:^|\s){mark}(?:\s+|$)(.*?)(?:\*/)?$", line)
        if comment and not line.startswith("#!"):
            found.append((number, comment.start(), comment[1]))
    yield from _consecutive(found)


def script_strings(text: str) -> Iterator[Passage]:
    """String literals of JavaScript with at least `MESSAGE_WORDS` words."""
    for number, line in enumerate(text.splitlines(), 1):
        for literal in re.findall(r'"([^"]*)"|`([^`]*)`', line):
            words = re.sub(r"\$\{[^}]*\}", CODE, literal[0] or literal[1])
            if len(re.findall(r"[A-Za-z]{2,}", words)) >= MESSAGE_WORDS:
                yield Passage(number, words)


def alert_texts(text: str) -> Iterator[Passage]:
    """Summaries and actions of alerts in YAML."""
    for number, line in enumerate(text.splitlines(), 1):
        annotation = re.match(r"\s*(?:summary|action): (.*)$", line)
        if annotation:
            yield Passage(number, strip_code(annotation[1].strip('"')))


def descriptions(text: str) -> Iterator[Passage]:
    """Titles and descriptions of a JSON file."""
    for number, line in enumerate(text.splitlines(), 1):
        described = re.match(r'\s*"(?:title|description)": ("(?:[^"\\]|\\.)*"),?$', line)
        if described:
            yield Passage(number, strip_code(json.loads(described[1])))


def html(text: str) -> Iterator[Passage]:
    """Text and described attributes of a page."""
    reader = _Page()
    reader.feed(text)
    yield from reader.passages


class _Page(HTMLParser):
    """Collects what a page says."""

    DESCRIBED = frozenset({"alt", "title", "placeholder", "aria-label", "content"})

    def __init__(self) -> None:
        super().__init__()
        self.passages: list[Passage] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in self.DESCRIBED and value:
                self.passages.append(Passage(self.getpos()[0], value))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.passages.append(Passage(self.getpos()[0], data, heading=(self.rawdata or "").startswith("<h")))
