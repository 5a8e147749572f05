"""`resnet-serve tune`: measures what computes a model fastest on this machine, for the service's next start."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from models.artifact import manifest
from models.artifact.manifest import ManifestError
from models.console import console, fail
from models.runtime.engine_cache import ENVIRONMENT, EngineCacheError, default_folder, require_writable, tuning_file
from models.runtime.tuning import Bounds, Measurement, TuningProfile, engine_of, key
from service.cli.tune_trials import tune
from service.executors.base import ExecutorError

_COLUMNS = 6
"""Batch sizes per table."""

app = typer.Typer(add_completion=False)


@app.command()
def tune_command(
    path: Annotated[Path, typer.Argument(help="Model in a repository; its newest version.", metavar="REPOSITORY/NAME")],
    cache: Annotated[
        Path | None,
        typer.Option(envvar=ENVIRONMENT, help="Folder of the profile. Default: ~/.cache/resnet-serve."),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Time to measure; a longer time is more exact.", min=1)] = 180.0,
    max_latency: Annotated[
        float | None, typer.Option(help="Largest time of a batch in milliseconds. Default: no limit.", min=0.01)
    ] = None,
    max_accuracy_loss: Annotated[
        float, typer.Option(help="Share of images by which top-1 may fall against float32.", min=0)
    ] = 0.01,
    executor: Annotated[
        list[str] | None,
        typer.Option(help="Measure only this executor; repeatable. Default: all that are installed."),
    ] = None,
    threads: Annotated[
        str | None, typer.Option(help="Numbers of threads to try, such as 1,4. Default: powers of two, and all CPUs.")
    ] = None,
) -> None:
    """Measure what computes a model fastest on this machine, for the service to use from its next start.

    Every executor, precision, number of threads and batch size is measured in turn. The result is a profile,
    tuning.json, in the engine cache.
    """
    folder = cache or default_folder()
    counts = () if threads is None else _numbers(threads, "--threads")
    bounds = Bounds(max_latency_ms=max_latency, max_accuracy_loss=max_accuracy_loss)
    try:
        version = manifest.find_versions(path)[-1]
        require_writable(folder)
        profile = tune(version, folder, bounds, seconds, counts, executor or ())
        file = tuning_file(folder, key(manifest.read(version)))
    except (ManifestError, EngineCacheError, ExecutorError, OSError) as error:
        fail(error)
    print_tables(profile, Console())
    if any(not profile.bounds.allow(row) for row in profile.measurements):
        typer.echo("(…) beyond the bounds")
    if any(row.disturbed for row in profile.measurements):
        typer.echo("* other processes used the CPUs: lower than on a quiet machine")
    typer.echo(_best_of(profile))
    if (best := profile.best()) is not None and best.disturbed:
        console.print(
            "warning: the best was measured while other processes used the CPUs, so another\n"
            "engine may be faster. Tune again on a quiet machine.",
            style="yellow",
            highlight=False,
        )
    typer.echo(f"written: {file}")
    if importlib.util.find_spec("matplotlib") is None:
        typer.echo("no plot: it needs the package matplotlib")
        return
    from service.cli.tune_plot import plot

    plot(profile, file)


def main(arguments: Sequence[str]) -> None:
    """Run the command with the arguments behind `tune`, and exit."""
    app(args=list(arguments), prog_name="resnet-serve tune")


def _numbers(text: str, option: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise typer.BadParameter(f"{option} takes numbers such as 1,8, not {text!r}")
    return numbers


def print_tables(profile: TuningProfile, output: Console) -> None:
    """Print images per second: a table per executor, a row per precision and threads, a column per batch size."""
    output.print("images per second, by batch size; loss of accuracy")
    batches = sorted({row.batch for row in profile.measurements})
    for executor in dict.fromkeys(row.executor for row in profile.measurements):
        for first in range(0, len(batches), _COLUMNS):
            output.print(_table(profile, executor, batches[first : first + _COLUMNS]))


def _table(profile: TuningProfile, executor: str, batches: Sequence[int]) -> Table:
    """One executor at up to `_COLUMNS` batch sizes, no wider than 80 characters."""
    names = ("precision", "threads", *map(str, batches), "loss")
    table = Table(*names, title=executor, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for column in table.columns:
        column.no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    best = profile.best()
    for engine in dict.fromkeys(map(engine_of, profile.measurements)):
        name, precision, threads = engine
        rows = {row.batch: row for row in profile.measurements if engine_of(row) == engine}
        if name == executor:
            cells = [_cell(rows[batch], profile, best) if batch in rows else "" for batch in batches]
            loss = next(iter(rows.values())).accuracy_loss
            table.add_row(precision, str(threads), *cells, f"{loss:.1%}")
    return table


def _cell(row: Measurement, profile: TuningProfile, best: Measurement | None) -> str:
    rate = _short(row.images_per_second) + ("*" if row.disturbed else "")
    if row == best:
        return f"[bold]{rate}[/bold]"
    return rate if profile.bounds.allow(row) else f"[dim]({rate})[/dim]"


def _short(rate: float) -> str:
    """A rate in up to five characters."""
    if rate < 9_999.5:
        return f"{rate:,.0f}"
    if rate < 99_950:
        return f"{rate / 1000:.1f}k"
    return f"{rate / 1000:.0f}k"


def _best_of(profile: TuningProfile) -> str:
    """The engine that the service will use, and its gain, in lines of up to 80 characters."""
    best = profile.best()
    if best is None:
        return "no measurement keeps the bounds: the service uses its default rule"
    lines = [
        f"best: {best.executor} {best.precision}, threads {best.threads}, batches of up to {best.batch}",
        f"  {best.images_per_second:,.1f} images/s{'*' if best.disturbed else ''}, {best.latency_ms:.1f} ms per batch",
    ]
    if (ratio := profile.ratio(best)) is not None:
        lines.append(f"  {ratio:.2f} x ONNX Runtime in float32 at the same batch")
    return "\n".join(lines)


if __name__ == "__main__":
    app(prog_name="resnet-serve tune")
