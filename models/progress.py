"""Progress bars with a rate and the remaining time; nothing is drawn if standard error is not a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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


class ProgressBar:
    """One bar of long work."""

    def __init__(self, progress: Progress, description: str, total: int) -> None:
        self._progress = progress
        self._description = description
        self._task = progress.add_task(description, total=total)

    def update(self, completed: int, loss: float | None = None) -> None:
        """Show the number of completed images, and the mean loss if there is one."""
        description = self._description if loss is None else f"{self._description}  loss {loss:.4f}"
        self._progress.update(self._task, completed=completed, description=description)

    def note(self, line: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(line, highlight=False)


@contextmanager
def progress_bar(description: str, total: int, unit: str = "images") -> Iterator[ProgressBar]:
    """A bar on standard error with the number of completed images or other units, their rate, and the remaining time.

    If standard error is not a terminal, only the notes are printed.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield ProgressBar(progress, description, total)


class Phases:
    """One bar per running phase of nested work."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def start(self, phase: str, steps: int) -> None:
        """Add the bar of a phase."""
        self._tasks[phase] = self._progress.add_task(f"  {phase}", total=steps)

    def update(self, phase: str, completed: int) -> None:
        """Show the number of completed steps of a phase."""
        self._progress.update(self._tasks[phase], completed=completed)

    def finish(self, phase: str) -> None:
        """Remove the bar of a phase."""
        self._progress.remove_task(self._tasks.pop(phase))


@contextmanager
def phases(description: str) -> Iterator[Phases]:
    """A spinner with the elapsed time on standard error, and a bar per phase below it.

    If standard error is not a terminal, nothing is printed.
    """
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        progress.add_task(description, total=None)
        yield Phases(progress)
