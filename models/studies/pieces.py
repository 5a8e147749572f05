"""The work of a study in pieces that are each computed once and stored, so that a stopped study can continue.

Several processes can run the same study: one locks the piece that it computes, and the others take the next one. The
identity of a piece has all values that decide its numbers, so studies share equal pieces.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from models.console import console
from models.files import atomic_write
from models.progress import duration


@dataclass(frozen=True)
class Piece:
    """A part of a study that needs at most one other part."""

    name: str
    """Unique name in its study; the key of its numbers."""
    identity: dict[str, Any]
    """All values that decide the numbers, as JSON."""
    work: Callable[[Path], dict[str, Any]]
    """Computes the numbers; the argument is a folder of its own for further files."""
    cost: float = 1.0
    """Expected time, in a unit that the pieces of a study share."""
    needs: Piece | None = None
    """A piece whose folder `work` reads."""

    def folder(self, root: Path) -> Path:
        text = json.dumps([self.name, self.identity], sort_keys=True)
        return root / f"{self.name.replace(' ', '-')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    def numbers(self, root: Path) -> Path:
        return self.folder(root) / "numbers.json"


def compute(pieces: Sequence[Piece], root: Path) -> dict[str, dict[str, Any]]:
    """The numbers of each piece by name, computed or read from `root`; prints the remaining time after each."""
    results: dict[str, dict[str, Any]] = {}
    countdown = _Countdown(pieces, root)
    # Pieces of other processes come last, and are then waited for.
    for wait in (False, True):
        for piece in pieces:
            if piece.name in results or not (wait or _ready(piece, root)):
                continue
            with _claim(piece.folder(root), wait=wait) as mine:
                if mine:
                    results[piece.name] = _compute_one(piece, root, countdown)
    return {piece.name: results[piece.name] for piece in pieces}


def write_json(value: dict[str, Any], path: Path) -> None:
    """Write a JSON file atomically: processes that share a study may write it at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, (json.dumps(value, indent=1) + "\n").encode())


def _ready(piece: Piece, root: Path) -> bool:
    return piece.needs is None or piece.needs.numbers(root).exists()


def _compute_one(piece: Piece, root: Path, countdown: _Countdown) -> dict[str, Any]:
    path = piece.numbers(root)
    if not path.exists():
        started = time.perf_counter()
        numbers = piece.work(piece.folder(root))
        # The numbers have no times, so the same work gives the same file.
        write_json(numbers, path)
        countdown.show(piece, time.perf_counter() - started)
    return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


@contextmanager
def _claim(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Lock a folder until the end of the block; False if another process has the lock, which ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


class _Countdown:
    """Prints the remaining time, from the cost of what all processes together finished since this one began."""

    def __init__(self, pieces: Sequence[Piece], root: Path) -> None:
        self._root = root
        self._pieces = self._unfinished(pieces)
        self._began = time.perf_counter()

    def _unfinished(self, pieces: Sequence[Piece]) -> list[Piece]:
        return [piece for piece in pieces if not piece.numbers(self._root).exists()]

    def show(self, finished: Piece, seconds: float) -> None:
        left = self._unfinished(self._pieces)
        remaining = sum(piece.cost for piece in left)
        speed = (sum(piece.cost for piece in self._pieces) - remaining) / (time.perf_counter() - self._began)
        end = datetime.now().astimezone() + timedelta(seconds=remaining / speed)
        console.print(
            f"{len(self._pieces) - len(left)} of {len(self._pieces)}: {finished.name}, {seconds:.1f} s; "
            f"about {duration(remaining / speed)} left, until {end:%Y-%m-%d %H:%M}",
            highlight=False,
        )
