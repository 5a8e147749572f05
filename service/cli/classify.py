"""`resnet-classify`: classifies files and folders offline, with the pipeline of the service."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, TextIO

import typer
from pydantic import ValidationError

from models.console import console, fail, print_error, print_once
from models.imaging.image_files import Skipped
from models.validation import first_error
from service import executors
from service.cli.embedding_files import open_embedding_file
from service.cli.file_list import FileList
from service.cli.offline import Outcome, Scoring, classify_files
from service.cli.sinks import CsvWriter, JsonLinesWriter, MapFolder, Sink, TableWriter
from service.core.settings import OfflineSettings, Settings, shipped_repository
from service.executors.base import ExecutorError
from service.inference.optional_outputs import Cam, OptionalOutputs
from service.registry.repository import LoadError, find_versions

_STOPPED = 130
"""Exit status after Ctrl-C, as of a shell."""


class Format(StrEnum):
    """Format of the output."""

    table = "table"
    csv = "csv"
    jsonl = "jsonl"


_WRITERS: dict[Format, Callable[[TextIO], Sink]] = {
    Format.table: TableWriter,
    Format.csv: CsvWriter,
    Format.jsonl: JsonLinesWriter,
}


def classify(
    paths: Annotated[
        list[str],
        typer.Argument(
            help="Images, folders with images, URLs of both, and - for a list of all these on standard input.",
            metavar="PATH...",
        ),
    ],
    repository: Annotated[
        Path | None, typer.Option(help="Folder of models. Default: the model that ships with the project.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model to use, if the repository has several.")] = None,
    executor: Annotated[
        str | None, typer.Option(help="Runtime that computes, as of resnet-serve. Default: onnxruntime-cpu.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="float32, float16, bfloat16 or int8. Default: float32.")] = None,
    top_k: Annotated[int, typer.Option(help="Number of classes per image.", min=1)] = 1,
    format_: Annotated[Format, typer.Option("--format", help="Format of the output.")] = Format.table,
    output: Annotated[Path | None, typer.Option(help="File to write to instead of the terminal.")] = None,
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
    skipped = Skipped()
    if layer is not None and embedding is None:
        fail("--layer selects what --embedding writes: add --embedding FILE, or leave --layer out")
    try:
        settings = _settings(repository, model, executor, precision)
        files = FileList(paths)
        more: list[Sink] = [] if cam is None else [MapFolder(cam, files.roots())]
        more += [] if embedding is None else [open_embedding_file(embedding)]
    except (ExecutorError, LoadError, OSError, ValueError) as error:
        fail(error)
    optional = OptionalOutputs(embedding is not None, None if cam is None else Cam.picture, layer)
    try:
        with closing(files), _open(output) as stream:
            scoring = Scoring(files, skipped, top_k, optional, [_WRITERS[format_](stream), *more])
            outcome = asyncio.run(classify_files(scoring, settings))
            if isinstance(outcome.error, BrokenPipeError):
                raise outcome.error
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        _discard_output()
        raise typer.Exit(1) from None
    except OSError as error:
        fail(error)
    _print_skipped(skipped)
    _exit(outcome, len(skipped.unreadable))


def _settings(repository: Path | None, model: str | None, executor: str | None, precision: str | None) -> Settings:
    """The settings of the options that are given; others are those of `resnet-serve`, or of a tuned profile.

    Raises:
        ExecutorError: the executor does not exist, or its runtime is not installed.
        LoadError: the repository cannot be read.
    """
    given = {"executor": executor, "precision": precision}
    try:
        settings = OfflineSettings(
            repository=repository or shipped_repository(),
            model=model,
            **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
        )
    except ValidationError as error:
        fail(f"--{first_error(error)}")
    executors.find(settings.executor)
    find_versions(settings.repository_folder)
    return settings


def _print_skipped(skipped: Skipped) -> None:
    if line := str(skipped):
        print_once(line)
    for reason in skipped.unreadable:
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


@contextmanager
def _open(path: Path | None) -> Iterator[TextIO]:
    """The output in UTF-8. Bytes of a file name that are not UTF-8 are written as \\udc80 to \\udcff, as in JSON."""
    if path is None:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
        yield sys.stdout
        sys.stdout.flush()
        return
    try:
        stream = path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
    except OSError as error:
        fail(error)
    with stream:
        yield stream


def _discard_output() -> None:
    """Let the interpreter's last flush of a closed pipe go nowhere, instead of failing."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run() -> None:
    """Run the command line."""
    typer.run(classify)


if __name__ == "__main__":
    run()
