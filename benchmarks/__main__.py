"""`python -m benchmarks`, from a clone of the repository."""

from __future__ import annotations

import dataclasses
import json
import shlex
import statistics
import subprocess
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from models.console import fail
from service.core.cpus import available_cpus

app = typer.Typer(help="Measure, and write tables, JSON and plots.", no_args_is_help=True)

_CPUS = available_cpus()
_PHOTOGRAPHS = Path(str(resources.files("export") / "photographs"))

Version = Annotated[Path, typer.Argument(help="Version folder in a model repository.", metavar="VERSION")]
Batches = Annotated[str, typer.Option("--batches", help="Batch sizes, separated by commas.")]
Threads = Annotated[int, typer.Option(help="CPUs that one inference uses.", min=1)]
Out = Annotated[Path | None, typer.Option(help="Folder for the rows as JSON and the plot as PNG and SVG.")]


@app.command("engines")
def engines_command(version: Version, batches: Batches = "1,8", threads: Threads = _CPUS, out: Out = None) -> None:
    """Images per second of every executor and precision on this machine, measured in turn."""
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
    """The gain of fused residual additions: the same model with fusion and without, measured in turn."""
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


@app.command("compare")
def compare_command(
    before: Annotated[Path, typer.Argument(help="Checkout that ratios are relative to.", metavar="BEFORE")],
    after: Annotated[Path, typer.Argument(help="The other checkout.", metavar="AFTER")],
    loads: Annotated[
        str,
        typer.Option(help="MODEL:CONNECTIONS, separated by commas; models: resnet20 (the shipped one), resnet50."),
    ] = "resnet20:32,resnet20:1,resnet50:32",
    rounds: Annotated[int, typer.Option(help="Measurements per load and checkout.", min=1)] = 5,
    seconds: Annotated[float, typer.Option(help="Time of each measurement.", min=0.01)] = 3.0,
    retries: Annotated[int, typer.Option(help="Largest number of rounds per load that are repeated.", min=0)] = 5,
    before_options: Annotated[str, typer.Option(help="Options of the first service, as one argument.")] = "",
    after_options: Annotated[
        str, typer.Option(help='Options of the second service, such as "--api-keys keys.toml --tracing".')
    ] = "",
    header: Annotated[
        list[str] | None, typer.Option(help="Header of every request, such as 'Authorization: Bearer KEY'; repeatable.")
    ] = None,
    resnet50: Annotated[
        Path | None, typer.Option(help="Repository of the resnet50. Default: random weights, exported once to build/.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File for all rounds as JSON.", metavar="FILE")] = None,
) -> None:
    """The services of two checkouts under the same load, in turn: the median ratio of their throughputs."""
    from benchmarks import compare
    from benchmarks.serve.server import ServerFailed

    try:
        chosen = [compare.ComparedLoad.parse(text) for text in loads.split(",")]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    results: dict[str, list[compare.ComparedRound]] = {}
    try:
        for load in chosen:
            shared = compare.repository_options(load.model, resnet50)
            first = compare.Side(before.resolve(), [*shared, *shlex.split(before_options)])
            second = compare.Side(after.resolve(), [*shared, *shlex.split(after_options)])
            requests = compare.make_requests(load.model, header or [])
            results[str(load)] = compare.compare(first, second, load, requests, rounds, seconds, retries, typer.echo)
    except (ServerFailed, compare.RequestsFailed, OSError, subprocess.SubprocessError) as error:
        fail(error)
    table = Table("load", "before, images/s", "after, images/s", "median ratio", "ratios")
    for name, measured in results.items():
        medians = (statistics.median(getattr(row, side) for row in measured) for side in ("before", "after"))
        ratios = ", ".join(f"{row.ratio:.3f}" for row in measured)
        table.add_row(name, *(f"{rate:,.1f}" for rate in medians), f"{compare.median_ratio(measured):.3f}", ratios)
    _print(table)
    if out is not None:
        rows = {name: [dataclasses.asdict(row) for row in measured] for name, measured in results.items()}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


@app.command("serve")
def serve_command(
    options: Annotated[
        list[str] | None, typer.Argument(help="Further options of the service, after --.", metavar="-- OPTION")
    ] = None,
    repository: Annotated[Path | None, typer.Option(help="Model repository. Default: the shipped one.")] = None,
    model: Annotated[str | None, typer.Option(help="Model to serve, if the repository holds several.")] = None,
    executor: Annotated[str | None, typer.Option(help="Executor of the service.")] = None,
    precision: Annotated[str | None, typer.Option(help="Precision of the executor.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPUs that one inference of the service uses.")] = None,
    photographs: Annotated[
        Path, typer.Option(help="Folder of JPEG and PNG files to send. Default: those of export/.", show_default=False)
    ] = _PHOTOGRAPHS,
    loads: Annotated[
        str, typer.Option(help="Kinds of requests; many has 64 images per request.")
    ] = "jpeg,png,many,tensor",
    connections: Annotated[
        str, typer.Option(help="Connections of the closed loops, separated by commas.")
    ] = "1,8,32,128",
    open_loops: Annotated[
        str, typer.Option("--open", help="Rates of the open loops in per cent of the capacity; 0 for none.")
    ] = "30,60",
    batches: Annotated[
        str, typer.Option(help="Batch sizes of the engine alone, beside 1 and the service's largest.")
    ] = "8,32",
    rounds: Annotated[int, typer.Option(help="Number of times that everything is measured.", min=1)] = 5,
    seconds: Annotated[
        float, typer.Option(help="Time of each measurement in each round; open loops take five times as long.")
    ] = 2.0,
    starts: Annotated[int, typer.Option(help="Starts of the service whose time is measured.", min=1)] = 3,
    clients: Annotated[int, typer.Option(help="Processes that send requests.", min=1)] = 1,
    other_load: Annotated[
        float, typer.Option(help="Load of other processes, as a share of the CPUs, that counts as a disturbance.")
    ] = 0.08,
    retries: Annotated[int, typer.Option(help="Number of times that a disturbed measurement is repeated.", min=0)] = 2,
    out: Out = None,
) -> None:
    """The service under load, beside the limits of its engine and its decoder, measured in turn."""
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
                max_other_load=other_load,
                retries=retries,
            ),
            out,
        )
    except (command.BadOptions, NoPhotographs, ServerFailed) as error:
        fail(error)


@app.command("workers")
def workers_command(
    repository: Annotated[Path, typer.Argument(help="Model repository with one model of colour images.")],
    workers: Annotated[str, typer.Option(help="Numbers of workers, separated by commas.")] = "1,2,4,8",
    executor: Annotated[str, typer.Option(help="Executor; simulated:MS stands for a GPU.")] = "simulated:0.64",
    precision: Annotated[str, typer.Option(help="Precision of the executor.")] = "float32",
    option: Annotated[list[str] | None, typer.Option(help="Further option of the service, with =.")] = None,
    loads: Annotated[
        str, typer.Option(help="Loads, separated by commas.")
    ] = "jpeg-256,jpeg-640,tensor,many-256,many-640",
    connections: Annotated[int, typer.Option(help="Connections; with 64 images per request an eighth.", min=1)] = 64,
    seconds: Annotated[float, typer.Option(help="Time of each measurement.")] = 3.0,
    clients: Annotated[int, typer.Option(help="Processes that send requests.", min=1)] = max(1, _CPUS // 4),
    out: Out = None,
) -> None:
    """The service with several numbers of workers: throughput, latency and CPU time."""
    from benchmarks.serve import payloads
    from benchmarks.serve import workers as measured
    from benchmarks.serve.server import ServerFailed
    from models.artifact import manifest
    from service.registry.repository import find_versions

    if unknown := set(loads.split(",")) - set(measured.LOADS):
        raise typer.BadParameter(f"--loads takes {', '.join(measured.LOADS)}, not {', '.join(sorted(unknown))}")
    (name, versions), *_ = find_versions(repository).items()
    described = manifest.read(versions[max(versions)].folder)
    made = measured.make_requests(payloads.photographs(_PHOTOGRAPHS), name, described.preprocess)
    chosen = ["--repository", str(repository), "--executor", executor, "--precision", precision, *(option or [])]
    requests = {load: made[load] for load in measured.LOADS if load in loads.split(",")}
    table = Table("workers", "load", "connections", "images/s", "p50, ms", "p99, ms", "failed", "CPU, µs", "clients")
    rows = []
    try:
        for row in measured.measure(chosen, _numbers(workers, "--workers"), requests, connections, seconds, clients):
            rows.append(row)
            table.add_row(
                str(row.workers),
                row.load,
                str(row.connections),
                f"{row.images_per_second:,.0f}",
                f"{row.p50_ms:.1f}",
                f"{row.p99_ms:.1f}",
                str(row.failed),
                f"{row.service_us:,.0f}",
                f"{row.client_share:.0%}",
            )
    except ServerFailed as error:
        fail(error)
    _print(table)
    if out is not None:
        _write(rows, out / "workers.json")


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
