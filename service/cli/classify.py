"""`resnet-classify`: classifies files and folders offline, with the pipeline of the service."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from models.console import console, fail, print_error, print_once
from models.extras import missing
from models.imaging.image_files import Skipped
from service.cli.file_list import FileList
from service.cli.offline import OnThisMachine, Outcome, Place, Scoring, classify_files
from service.cli.outputs import Format, OutputOptions, open_outputs
from service.core.settings import Settings, shipped_repository
from service.inference.optional_outputs import Cam, OptionalOutputs
from service.scoring.settings import ScoringError, offline_settings

_STOPPED = 130
"""Exit status after Ctrl-C, as of a shell."""

_OutputFolder = Annotated[
    str | None,
    typer.Option(
        help="Folder or URL for results in shards. After an interruption, the same command continues.", metavar="FOLDER"
    ),
]
_On = Annotated[
    str | None,
    typer.Option(
        help="ray: score on the Ray cluster of RAY_ADDRESS, or on a new one on this machine. ray://HOST:PORT: on that "
        "cluster.",
        metavar="ray[://HOST:PORT]",
    ),
]


def classify(
    paths: Annotated[
        list[str],
        typer.Argument(
            help="Images, folders with images, URLs of both, and - for a list of all these on standard input.",
            metavar="PATH...",
        ),
    ],
    repository: Annotated[
        str | None, typer.Option(help="Folder or URL of models. Default: the model that ships with the project.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model to use, if the repository has several.")] = None,
    model_version: Annotated[int | None, typer.Option(help="Version to use. Default: the newest.", min=1)] = None,
    executor: Annotated[
        str | None, typer.Option(help="Runtime that computes, as of resnet-serve. Default: onnxruntime-cpu.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="float32, float16, bfloat16 or int8. Default: float32.")] = None,
    on: _On = None,
    top_k: Annotated[int, typer.Option(help="Number of classes per image.", min=1)] = 1,
    format_: Annotated[
        Format | None, typer.Option("--format", help="Default: table, or parquet with --output-folder.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="File to write to instead of the terminal.")] = None,
    output_folder: _OutputFolder = None,
    files_per_shard: Annotated[int, typer.Option(help="Files per shard of --output-folder.", min=1)] = 10_000,
    cam: Annotated[
        Path | None,
        typer.Option(help="Folder for heat maps of the pixels that support each class.", metavar="DIR"),
    ] = None,
    embedding: Annotated[
        Path | None,
        typer.Option(help="File for the pooled features of each image: .npy, .parquet or .npz.", metavar="FILE"),
    ] = None,
    layer: Annotated[
        int | None, typer.Option(help="Stage whose features --embedding writes, instead of the last ones.", min=1)
    ] = None,
) -> None:
    """Classify image files. Exits with 1 if a file cannot be classified; the output has its error.

    Ctrl-C ends with the results so far.
    """
    logging.basicConfig(level=logging.ERROR, format="error: %(message)s")
    outputs = OutputOptions(format_, output, output_folder, files_per_shard, cam, embedding, layer)
    if problem := outputs.problem() or (on and _problem_of_cluster(on, outputs)):
        fail(problem)
    optional = OptionalOutputs(embedding is not None, None if cam is None else Cam.picture, layer)
    try:
        settings = offline_settings(repository, model, model_version, executor=executor, precision=precision)
    except ScoringError as error:
        fail(error)
    if settings.repository_folder == shipped_repository():
        text = (
            "with the model that ships with the project, which knows ten kinds of clothes; --repository takes another"
        )
        console.print(text, highlight=False, soft_wrap=True)
    try:
        place = OnThisMachine(settings) if on is None else _cluster(on, settings, repository, paths, top_k)
    except ScoringError as error:
        fail(error)
    _run(paths, outputs, settings, place, top_k, optional)


def _problem_of_cluster(on: str, outputs: OutputOptions) -> str | None:
    """Why options do not go together with a cluster; None if they do."""
    if re.fullmatch(r"ray|ray://[^\s/@]+:\d+", on) is None:
        return "--on is ray or ray://HOST:PORT"
    if outputs.cam is not None or outputs.embedding is not None:
        return "--cam and --embedding are computed on this machine: leave out --on"
    return None


def _cluster(on: str, settings: Settings, repository: str | None, paths: list[str], k: int) -> Place:
    # After Ctrl-C, a call of Ray would otherwise start Ray again. Its core writes errors that are none past the log.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        from service.cli.ray_data.scoring import OnRay  # an extra
    except ModuleNotFoundError as error:
        raise ScoringError(missing("--on ray", error.name, "ray")) from error
    return OnRay(on, settings, repository, paths, k)


def _run(
    paths: list[str], options: OutputOptions, settings: Settings, place: Place, k: int, optional: OptionalOutputs
) -> None:
    skipped = Skipped()
    try:
        with (
            closing(FileList(paths)) as files,
            open_outputs(options, files, skipped.unreadable, settings.repository_folder, k) as outputs,
        ):
            scoring = Scoring(files, skipped, k, optional, outputs.sinks, outputs.begin)
            outcome = asyncio.run(classify_files(scoring, place))
            if isinstance(outcome.error, BrokenPipeError):
                raise outcome.error
            if outcome.error is None and not outcome.stopped:
                outputs.complete()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        _discard_output()
        raise typer.Exit(1) from None
    except (OSError, ValueError) as error:
        fail(error)
    _print_skipped(skipped)
    _exit(outcome, len(skipped.unreadable))


def _print_skipped(skipped: Skipped) -> None:
    if line := str(skipped):
        print_once(line)
    for reason in dict.fromkeys(skipped.unreadable):
        print_error(reason)


def _exit(outcome: Outcome, unreadable: int) -> None:
    """Say what was not done, and exit with the status for it."""
    if outcome.failed:
        message = f"{outcome.failed} of {outcome.done} files could not be classified"
        console.print(message, style="red", highlight=False)
    if outcome.stopped or (outcome.error and outcome.done):
        of_all = f" of {outcome.total:,}" if outcome.total else ""
        console.print(f"stopped: {outcome.done:,}{of_all} files are done", highlight=False)
    if outcome.error:
        fail(outcome.error)
    if outcome.stopped:
        raise typer.Exit(_STOPPED)
    if outcome.failed or unreadable:
        raise typer.Exit(1)


def _discard_output() -> None:
    """Let the interpreter's last flush of a closed pipe go nowhere, instead of failing."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run() -> None:
    """Run the command line."""
    typer.run(classify)


if __name__ == "__main__":
    run()
