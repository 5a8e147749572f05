"""Progress of long work with a rate and the remaining time: a bar on a terminal, otherwise a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from models.console import console


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} {self._unit}/s" if speed else "", style="cyan")


class ProgressBar(Protocol):
    """Shows how far long work is."""

    def update(self, completed: int, loss: float | None = None, waiting: float | None = None) -> None:
        """Show the number of completed images and, if given, the mean loss and the share of time spent waiting."""

    def set_total(self, total: int) -> None:
        """Set the number of images once it is known. May be called in any thread."""

    def note(self, line: str) -> None:
        """Print a line."""


class _TerminalBar:
    """One bar of long work on a terminal."""

    def __init__(self, progress: Progress, description: str, total: int | None, completed: int) -> None:
        self._progress = progress
        self._description = description
        self._task = progress.add_task(description, total=total, completed=completed)

    def set_total(self, total: int) -> None:
        self._progress.update(self._task, total=total)

    def update(self, completed: int, loss: float | None = None, waiting: float | None = None) -> None:
        description = self._description if loss is None else f"{self._description}  loss {loss:.4f}"
        if waiting is not None:
            description += f"  waiting for data {waiting:.0%}"
        self._progress.update(self._task, completed=completed, description=description)

    def note(self, line: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(line, highlight=False)


class ProgressLines:
    """A line of long work now and then, for a log.

    The first line comes after `INTERVAL` seconds, and later ones after a twentieth of the time so far: 100 for 8 hours.

    Args:
        description: the work.
        total: number of images, or of other units; None if it is not known yet.
        unit: plural of the unit.
        clock: seconds, monotonic.
    """

    INTERVAL = 10.0

    def __init__(
        self, description: str, total: int | None, unit: str = "images", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._description, self._total, self._unit, self._clock = description, total, unit, clock
        self._started = clock()
        self._due = self._started + self.INTERVAL
        self._first: tuple[float, int] | None = None
        """Time and completed units of the first update: a resumed run begins with many."""

    def set_total(self, total: int) -> None:
        self._total = total

    def update(self, completed: int, loss: float | None = None, waiting: float | None = None) -> None:
        now, total = self._clock(), self._total
        self._first = self._first or (now, completed)
        if now < self._due or (total is not None and completed >= total):
            return
        self._due = now + max(self.INTERVAL, (now - self._started) / 20)
        parts = [f"{completed:,} {self._unit}"]
        if total is not None:
            parts = [f"{completed:,} of {total:,} {self._unit} ({completed / total:.0%})"]
        if loss is not None:
            parts.append(f"loss {loss:.4f}")
        if waiting is not None:
            parts.append(f"waiting for data {waiting:.0%}")
        if completed > self._first[1]:
            rate = (completed - self._first[1]) / (now - self._first[0])
            parts += [
                f"{rate:,.0f} {self._unit}/s" if rate > 10 else f"{rate:.2g} {self._unit}/s",
                "time left unknown" if total is None else f"about {duration((total - completed) / rate)} left",
            ]
        self.note(f"{self._description}: {', '.join(parts)}")

    def note(self, line: str) -> None:
        """Print a line."""
        console.print(line, highlight=False, soft_wrap=True, markup=False)


@contextmanager
def progress_bar(
    description: str, total: int | None, unit: str = "images", completed: int = 0
) -> Iterator[ProgressBar]:
    """A bar on standard error with the number of completed images or other units, their rate, and the remaining time.

    If standard error is not a terminal, a line now and then instead.

    Args:
        description: the work.
        total: number of images; None if it is not known yet.
        unit: plural of the unit.
        completed: images that an earlier run completed.
    """
    if not console.is_terminal:
        yield ProgressLines(description, total, unit)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield _TerminalBar(progress, description, total, completed)


def duration(seconds: float) -> str:
    """A time for people: seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class Phases:
    """One bar per running phase of nested work. Without a terminal, a line per phase, one in ten seconds at most."""

    def __init__(self, progress: Progress, description: str) -> None:
        self._progress = progress
        self._description = description
        self._tasks: dict[str, TaskID] = {}
        self._started = self._printed = time.monotonic()

    def start(self, phase: str, steps: int) -> None:
        """Add the bar of a phase."""
        self._tasks[phase] = self._progress.add_task(f"  {phase}", total=steps)
        now = time.monotonic()
        if self._progress.disable and now - self._printed >= ProgressLines.INTERVAL:
            self._printed = now
            line = f"{self._description}: {phase}, after {duration(now - self._started)}"
            console.print(line, highlight=False, soft_wrap=True, markup=False)

    def update(self, phase: str, completed: int) -> None:
        """Show the number of completed steps of a phase."""
        self._progress.update(self._tasks[phase], completed=completed)

    def finish(self, phase: str) -> None:
        """Remove the bar of a phase."""
        self._progress.remove_task(self._tasks.pop(phase))


@contextmanager
def phases(description: str) -> Iterator[Phases]:
    """A spinner with the elapsed time on standard error, and a bar per phase below it.

    If standard error is not a terminal, a line now and then instead.
    """
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        progress.add_task(description, total=None)
        yield Phases(progress, description)
