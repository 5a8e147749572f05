"""The work of a study in independent pieces: each is computed once, kept, and not computed again.

That is how a study resumes. Several processes may run the same study: a piece is locked by the one that computes it,
the others take the next. A piece is known by all that decides its numbers, so studies share what they have in common.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.console import console
from models.files import atomic_write


@dataclass(frozen=True)
class Piece:
    """A part of a study that needs no other part, or one that is named."""

    name: str
    """Unique in its study; the key of its numbers."""
    identity: dict[str, Any]
    """All that decides the numbers, as JSON."""
    work: Callable[[Path], dict[str, Any]]
    """Computes the numbers; takes a folder of its own, for what it wants to keep."""
    cost: float = 1.0
    """Expected time, in any unit that the pieces of a study share."""
    needs: Piece | None = None
    """A piece whose folder `work` reads."""

    def folder(self, root: Path) -> Path:
        text = json.dumps([self.name, self.identity], sort_keys=True)
        return root / f"{self.name.replace(' ', '-')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    def numbers(self, root: Path) -> Path:
        return self.folder(root) / "numbers.json"


def compute(pieces: Sequence[Piece], root: Path) -> dict[str, dict[str, Any]]:
    """The numbers of each piece by name, computed or read from `root`; says after each how much is left."""
    results: dict[str, dict[str, Any]] = {}
    countdown = _Countdown([piece for piece in pieces if not piece.numbers(root).exists()])
    # What another process is at is left for last, and then waited for.
    for wait in (False, True):
        for piece in pieces:
            if piece.name in results or not (wait or _ready(piece, root)):
                continue
            with _claim(piece.folder(root), wait=wait) as mine:
                if mine:
                    results[piece.name] = _compute_one(piece, root, countdown)
    return {piece.name: results[piece.name] for piece in pieces}


def write_json(value: dict[str, Any], path: Path) -> None:
    """Write atomically; processes that share a study may write the same file at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, (json.dumps(value, indent=1) + "\n").encode())


def _ready(piece: Piece, root: Path) -> bool:
    return piece.needs is None or piece.needs.numbers(root).exists()


def _compute_one(piece: Piece, root: Path, countdown: _Countdown) -> dict[str, Any]:
    path = piece.numbers(root)
    if path.exists():
        countdown.skip(piece)
    else:
        started = time.perf_counter()
        numbers = piece.work(piece.folder(root))
        # The time stands beside the numbers, not in them: the same work gives the same file.
        write_json(numbers, path)
        countdown.done(piece, time.perf_counter() - started)
    return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


@contextmanager
def _claim(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Whether the folder is this process's until the end of the block; the lock goes when a process dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


class _Countdown:
    """Says how long the rest takes, from what the pieces so far took for their cost."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._left = {piece.name: piece.cost for piece in pieces}
        self._count = len(pieces)
        self._seconds = self._cost = 0.0

    def skip(self, piece: Piece) -> None:
        """It was computed before, or by another process."""
        self._left.pop(piece.name, None)

    def done(self, piece: Piece, seconds: float) -> None:
        self._left.pop(piece.name)
        self._seconds += seconds
        self._cost += piece.cost
        left = sum(self._left.values()) * self._seconds / self._cost
        console.print(
            f"{self._count - len(self._left)} of {self._count}: {piece.name}, {seconds:.1f} s; "
            f"about {_duration(left)} left",
            highlight=False,
        )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
