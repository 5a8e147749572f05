"""Known names that a misspelt one may stand for."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def closest(name: str, known: Iterable[str], most: int = 1) -> list[str]:
    """At most `most` known names like a given one, first those that begin with it. Case is ignored, and so is the
    difference between hyphen and underscore."""
    plain = {_plain(each): each for each in known}
    given = _plain(name.strip())[:100]
    found = get_close_matches(given, plain, most, 0.6)
    return [plain[each] for each in sorted(found, key=lambda each: not each.startswith(given))]


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")
