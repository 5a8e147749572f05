"""`resnet-bench`; also `python -m benchmarks`."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from export.inspect import find_versions
from models.artifact import manifest
from models.artifact.manifest import ManifestError
from models.console import fail
from models.runtime.engine_cache import ENVIRONMENT, default_folder, tuning_file
from models.runtime.tuning import Bounds, Measurement, Tuning, engine_of, key
from service.core.settings import available_cpus
from service.executors.base import ExecutorError

app = typer.Typer(help="Measure, and show as tables, JSON and plots.", no_args_is_help=True)

_CPUS = available_cpus()
_PHOTOGRAPHS = Path(str(resources.files("export") / "photographs"))

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


@app.command("tune")
def tune_command(
    path: Annotated[
        Path, typer.Argument(help="A model in a repository; its newest version.", metavar="REPOSITORY/NAME")
    ],
    cache: Annotated[
        Path | None, typer.Option(envvar=ENVIRONMENT, help="Folder of engines. Default: ~/.cache/resnet-serve.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long to measure; more is more exact.", min=1)] = 180.0,
    max_latency: Annotated[
        float | None, typer.Option(help="Milliseconds that a batch may take. Default: any.", min=0.01)
    ] = None,
    max_accuracy_loss: Annotated[
        float, typer.Option(help="Share of images by which top-1 may fall against float32.", min=0)
    ] = 0.01,
    threads: Annotated[
        str | None, typer.Option(help="Numbers of threads to try. Default: 1, 2, 4, … and all processors.")
    ] = None,
) -> None:
    """Find out what computes a model best on this machine, for the service to use from its next start."""
    from benchmarks import tune

    folder, counts = cache or default_folder(), () if threads is None else _numbers(threads, "--threads")
    bounds = Bounds(max_latency_ms=max_latency, max_accuracy_loss=max_accuracy_loss)
    try:
        version = find_versions(path)[-1]
        tuning = tune.tune(version, folder, bounds, seconds, counts)
    except (ManifestError, ExecutorError, OSError) as error:
        fail(error)
    _print(_tuning_table(tuning))
    file = tuning_file(folder, key(manifest.read(version)))
    if any(not tuning.bounds.allow(row) for row in tuning.measurements):
        typer.echo("(…) beyond the bounds")
    if any(row.disturbed for row in tuning.measurements):
        typer.echo("* something else used the processors meanwhile: tune again on a quiet machine")
    typer.echo(_best_of(tuning))
    typer.echo(f"written: {file}")
    if importlib.util.find_spec("matplotlib") is None:
        typer.echo("no plot: it needs the package matplotlib")
        return
    from benchmarks import plots

    plots.tuning(tuning, file)


def _tuning_table(tuning: Tuning) -> Table:
    """Images a second: a row an engine, a column a size of the batch."""
    batches = sorted({row.batch for row in tuning.measurements})
    table = Table("engine", "cpus", *map(str, batches), "loss", title="images a second, by batch; loss of accuracy")
    table.columns[0].no_wrap = True
    best, engines = tuning.best(), dict.fromkeys(map(engine_of, tuning.measurements))
    for engine in engines:
        rows = {row.batch: row for row in tuning.measurements if engine_of(row) == engine}
        executor, precision, threads = engine
        cells = [_cell(rows[batch], tuning, best) if batch in rows else "" for batch in batches]
        loss = next(iter(rows.values())).accuracy_loss
        table.add_row(f"{executor} {precision}", str(threads), *cells, f"{loss:.1%}")
    return table


def _cell(row: Measurement, tuning: Tuning, best: Measurement | None) -> str:
    rate = f"{row.images_per_second:,.0f}{'*' if row.disturbed else ''}"
    if row == best:
        return f"[bold]{rate}[/bold]"
    return rate if tuning.bounds.allow(row) else f"[dim]({rate})[/dim]"


def _best_of(tuning: Tuning) -> str:
    """What the service will use, and what it gains."""
    best = tuning.best()
    if best is None:
        return "nothing keeps within the bounds: the service goes by its default rule"
    line = (
        f"best: {best.executor} {best.precision}, threads {best.threads}, batches of up to {best.batch}: "
        f"{best.images_per_second:,.1f} images/s, {best.latency_ms:.1f} ms a batch"
    )
    ratio = tuning.ratio(best)
    return line if ratio is None else f"{line}, {ratio:.2f} x ONNX Runtime in float32 at the same batch"


@app.command("serve")
def serve_command(
    options: Annotated[
        list[str] | None, typer.Argument(help="Further options of the service, behind --.", metavar="-- OPTION")
    ] = None,
    repository: Annotated[Path | None, typer.Option(help="Model repository. Default: the shipped one.")] = None,
    model: Annotated[str | None, typer.Option(help="Model, where the repository holds several.")] = None,
    executor: Annotated[str | None, typer.Option(help="Runtime that computes.")] = None,
    precision: Annotated[str | None, typer.Option(help="What it computes in.")] = None,
    threads: Annotated[int | None, typer.Option(help="Processors that one inference of the service uses.")] = None,
    photographs: Annotated[
        Path, typer.Option(help="Folder of JPEG and PNG files to send. Default: those of export/.", show_default=False)
    ] = _PHOTOGRAPHS,
    loads: Annotated[str, typer.Option(help="What is sent; many are 64 images a request.")] = "jpeg,png,many,tensor",
    connections: Annotated[str, typer.Option(help="Of the closed loops, separated by commas.")] = "1,8,32,128",
    open_loops: Annotated[str, typer.Option("--open", help="Rates in per cent of the capacity; 0 for none.")] = "30,60",
    batches: Annotated[str, typer.Option(help="Of the engine alone, beside 1 and the service's own largest.")] = "8,32",
    rounds: Annotated[int, typer.Option(help="PrioritySemaphore through everything that is measured.", min=1)] = 5,
    seconds: Annotated[
        float, typer.Option(help="Of each measurement in each round; open loops take five times.")
    ] = 2.0,
    starts: Annotated[int, typer.Option(help="Starts of the service, to measure the time it takes.", min=1)] = 3,
    clients: Annotated[int, typer.Option(help="Processes that send.", min=1)] = 1,
    other_load: Annotated[float, typer.Option(help="Share of the machine beyond which others disturb.")] = 0.08,
    retries: Annotated[int, typer.Option(help="How often what was disturbed is measured again.", min=0)] = 2,
    out: Out = None,
) -> None:
    """The service under load, beside the most that its engine and its decoder could do, all in turn."""
    from benchmarks.serve import command
    from benchmarks.serve.loads import KINDS
    from benchmarks.serve.payloads import NoPhotographs
    from benchmarks.serve.rounds import Options
    from benchmarks.serve.server import ServerFailed

    named = {"repository": repository, "model": model, "executor": executor, "precision": precision, "threads": threads}
    service = [part for name, value in named.items() if value is not None for part in (f"--{name}", str(value))]
    service += options or []
    kinds = tuple(kind for kind in KINDS if kind in loads.split(","))
    if set(kinds) != set(loads.split(",")):
        raise typer.BadParameter(f"--loads takes {', '.join(KINDS)}, not {loads!r}")
    shares = () if open_loops == "0" else tuple(share / 100 for share in _numbers(open_loops, "--open"))
    try:
        command.serve(
            Options(
                service=service,
                settings=command.settings(service),
                photographs=photographs,
                kinds=kinds,
                connections=_numbers(connections, "--connections"),
                batches=_numbers(batches),
                shares=shares,
                rounds=rounds,
                seconds=seconds,
                starts=starts,
                clients=clients,
                cpus=_CPUS,
                most_other_load=other_load,
                retries=retries,
            ),
            out,
        )
    except (command.BadOptions, NoPhotographs, ServerFailed) as error:
        fail(error)


def _numbers(text: str, option: str = "--batches") -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise typer.BadParameter(f"{option} takes numbers such as 1,8, not {text!r}")
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
