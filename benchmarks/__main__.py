"""`resnet-bench`; also `python -m benchmarks`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from service.settings import available_cpus

app = typer.Typer(help="Measure, and show as tables, JSON and plots.", no_args_is_help=True)

_CPUS = available_cpus()

Version = Annotated[Path, typer.Argument(help="Version folder in a model repository.", metavar="VERSION")]
Batches = Annotated[str, typer.Option("--batches", help="Batch sizes, separated by commas.")]
Threads = Annotated[int, typer.Option(help="Processors that one inference uses.", min=1)]
Out = Annotated[Path | None, typer.Option(help="Folder for the rows as JSON and the plot as PNG and SVG.")]


@app.command("engines")
def engines_command(version: Version, batches: Batches = "1,8", threads: Threads = _CPUS, out: Out = None) -> None:
    """Images per second of every executor and precision that can be had here, all in turn."""
    from benchmarks import engines, plots

    rows = list(engines.measure(version, _numbers(batches), threads))
    table = Table("engine", "batch", "images/s", "best", "ratio", "logit error")
    for row in rows:
        table.add_row(
            row.engine,
            str(row.batch),
            f"{row.images_per_second:,.1f}",
            f"{row.best:,.1f}",
            f"{row.ratio:.2f}",
            f"{row.logit_rms_error:.1e}",
        )
    _print(table)
    if out is not None:
        _write(rows, out / "engines.json")
        plots.engines(rows, out / "engines")


@app.command("fusion")
def fusion_command(version: Version, batches: Batches = "1,8", threads: Threads = _CPUS, out: Out = None) -> None:
    """What the fusion of residual additions is worth: the same model with it and without, in turn."""
    from benchmarks import fusion, plots

    rows = list(fusion.measure(version, _numbers(batches), threads))
    table = Table("runtime", "precision", "batch", "with fusion", "without", "gain")
    for row in rows:
        table.add_row(
            row.runtime,
            row.precision,
            str(row.batch),
            f"{row.images_per_second:,.1f}/s ({row.fused}/{row.residual_adds})",
            f"{row.images_per_second_without:,.1f}/s ({row.fused_without}/{row.residual_adds})",
            f"{row.gain:+.1%}",
        )
    _print(table)
    if out is not None:
        _write(rows, out / "fusion.json")
        plots.fusion(rows, out / "fusion")


def _numbers(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise typer.BadParameter(f"--batches takes numbers such as 1,8, not {text!r}")
    return numbers


def _print(table: Table) -> None:
    for column in table.columns[1:]:
        column.justify = "right"
    Console().print(table)


def _write(rows: Iterable[Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app()
