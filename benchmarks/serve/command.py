"""The command: from options to tables, JSON and pictures."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import CliApp
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.serve import report, rounds
from benchmarks.serve.report import Ceiling, LoadRow
from benchmarks.serve.rounds import BenchmarkRun, Options
from benchmarks.serve.tables import tables
from models.console import console
from models.runtime.tuning import cpu_name
from service.core.settings import Settings


class BadOptions(Exception):
    """The service refuses its options; the message says which."""


def settings(arguments: Sequence[str]) -> Settings:
    """The settings of the service, from its options and the environment.

    Raises:
        BadOptions: the service would not start with them.
    """
    try:
        return CliApp.run(Settings, [*arguments])
    except ValidationError as error:
        raise BadOptions("; ".join(f"{item['loc'][0]}: {item['msg']}" for item in error.errors())) from error


def serve(options: Options, out: Path | None) -> None:
    """Measure and print; with `out`, also write JSON and pictures into that folder."""
    with _progress(rounds.steps(options)) as step:
        run = rounds.run(options, step)
    ceilings = report.ceilings(run, options.max_other_load)
    rows = report.rows(run, options.cpus, options.max_other_load)
    printed = Console(width=None if console.is_terminal else 200)
    for table in tables(run, ceilings, rows):
        for column in table.columns[1:]:
            column.justify = "right"
        printed.print(table)
    if out is not None:
        from benchmarks.serve import plots

        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(document(options, run, ceilings, rows), indent=1)
        (out / "serve.json").write_text(text + "\n", encoding="utf-8")
        plots.connections(rows, out / "serve")
        plots.latencies(rows, out / "serve-latencies")


def document(
    options: Options, run: BenchmarkRun, ceilings: Sequence[Ceiling], rows: Sequence[LoadRow]
) -> dict[str, Any]:
    """All results as JSON; times of rows are in milliseconds, other names tell their unit."""
    return {
        "machine": {"cpu": cpu_name(), "cpus": options.cpus, "load_average": os.getloadavg()},
        "software": {"python": platform.python_version(), "system": platform.release()},
        "options": {
            "service": list(options.service),
            "photographs": options.photographs.name,
            "rounds": options.rounds,
            "seconds": options.seconds,
            "max_other_load": options.max_other_load,
        },
        "service": {
            "model": run.model,
            "version": run.version,
            "executor": run.executor,
            "precision": run.precision,
            "max_batch": run.max_batch,
            "start_to_ready_seconds": run.starts,
            "idle_cpu": run.idle_cpu,
            "idle_rss": run.idle_memory.rss,
            "idle_pss": run.idle_memory.pss,
        },
        "ceilings": [dataclasses.asdict(ceiling) for ceiling in ceilings],
        "loads": [dataclasses.asdict(row) | {"tail_ratio": row.tail_ratio} for row in rows],
    }


@contextmanager
def _progress(steps: int) -> Iterator[Callable[[str], None]]:
    """A progress bar that is drawn between measurements only: drawing would take CPU time from them."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, auto_refresh=False, disable=not console.is_terminal) as progress:
        task = progress.add_task("starting the service", total=steps)
        begun = 0

        def step(name: str) -> None:
            nonlocal begun
            progress.update(task, description=name, completed=begun, refresh=True)
            begun += 1

        yield step
        progress.update(task, description="done", completed=steps, refresh=True)
