"""`resnet-classify`: files and folders through the very pipeline that serves, without a server."""

from __future__ import annotations

import asyncio
import csv
import json
import logging
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Protocol, TextIO

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from models.console import console, fail
from models.progress import progress_bar
from service.app import Service
from service.cli.sinks import EmbeddingFile, MapFolder
from service.core.errors import ServiceError, UnprocessableImage
from service.core.settings import Settings, shipped_repository
from service.http.v1.schemas import image_json
from service.inference.optional_outputs import Cam, OptionalOutputs
from service.inference.pipeline import Pipeline
from service.inference.results import ImageResult
from service.messages.model import ServedModel
from service.registry.repository import LoadError, find_versions

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif"}
_CHUNK = 32
_CHUNKS_IN_FLIGHT = 4


class Format(StrEnum):
    table = "table"
    csv = "csv"
    jsonl = "jsonl"


def classify(
    paths: Annotated[list[Path], typer.Argument(help="Images, and folders of them.", metavar="PATH...")],
    repository: Annotated[
        Path | None, typer.Option(help="Folder of models. Default: the model that ships with the project.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model to use, where the repository holds several.")] = None,
    top_k: Annotated[int, typer.Option(help="Classes for each image.", min=1)] = 1,
    format_: Annotated[Format, typer.Option("--format", help="How to print the answers.")] = Format.table,
    output: Annotated[Path | None, typer.Option(help="File to write to instead of the terminal.")] = None,
    cam: Annotated[
        Path | None, typer.Option(help="Folder for pictures of what spoke for each class.", metavar="DIR")
    ] = None,
    embedding: Annotated[
        Path | None, typer.Option(help="File for the pooled features of each image.", metavar="FILE.npz")
    ] = None,
) -> None:
    """Classify image files. Ends with 1 where a file could not be classified, and says which."""
    logging.basicConfig(level=logging.ERROR, format="error: %(message)s")
    try:
        files = find_files(paths)
        settings = Settings(repository=repository or shipped_repository(), model=model)
        find_versions(settings.repository)
        keepers: list[Sink] = [] if cam is None else [MapFolder(cam, files)]
        keepers += [] if embedding is None else [EmbeddingFile(embedding)]
    except (ValidationError, LoadError, OSError) as error:
        fail(error)
    with _open(output) as stream:
        try:
            extras = OptionalOutputs(embedding is not None, None if cam is None else Cam.picture)
            failed = asyncio.run(_run(files, settings, top_k, extras, [_WRITERS[format_](stream), *keepers]))
        except ServiceError as error:
            fail(error)
    if failed:
        console.print(f"{failed} of {len(files)} files could not be classified", style="red", highlight=False)
        raise typer.Exit(1)


def find_files(paths: Sequence[Path]) -> list[Path]:
    """The files named, and those with an image's suffix in the folders named, at any depth, sorted.

    Raises:
        FileNotFoundError: a path that does not exist, or no image at all.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        elif path.is_file():
            files.append(path)
        else:
            raise FileNotFoundError(f"{path}: there is no such file or folder")
    if not files:
        raise FileNotFoundError("no image files there")
    return files


async def _run(
    files: Sequence[Path], settings: Settings, k: int, extras: OptionalOutputs, sinks: Sequence[Sink]
) -> int:
    """Classify, write each answer in order, and count the failures."""
    service = Service(settings)
    await service.start()
    failed = 0
    try:
        with service.pipeline.lease() as loaded, progress_bar("classifying", total=len(files)) as progress:
            done = 0
            async for path, result in _results(service.pipeline, loaded, files, k, extras):
                for sink in sinks:
                    sink.write(path, result)
                failed += result.error is not None
                progress.update(done := done + 1)
        for sink in sinks:
            sink.finish()
    finally:
        await service.close()
    return failed


async def _results(
    pipeline: Pipeline, model: ServedModel, files: Sequence[Path], k: int, extras: OptionalOutputs
) -> AsyncIterator[tuple[Path, ImageResult]]:
    """Answers in the order of the files, a few chunks ahead so that decoding and inference overlap."""
    running: deque[tuple[Sequence[Path], asyncio.Task[list[ImageResult]]]] = deque()
    chunks = [files[first : first + _CHUNK] for first in range(0, len(files), _CHUNK)]
    for chunk in chunks:
        running.append((chunk, asyncio.create_task(_classify_chunk(pipeline, model, chunk, k, extras))))
        if len(running) == _CHUNKS_IN_FLIGHT:
            paths, task = running.popleft()
            for pair in zip(paths, await task, strict=True):
                yield pair
    for paths, task in running:
        for pair in zip(paths, await task, strict=True):
            yield pair


async def _classify_chunk(
    pipeline: Pipeline, model: ServedModel, paths: Sequence[Path], k: int, extras: OptionalOutputs
) -> list[ImageResult]:
    contents = await asyncio.to_thread(lambda: [_read(path) for path in paths])
    readable = [content for content in contents if isinstance(content, bytes)]
    results: Iterator[ImageResult] = iter(())
    if readable:
        results = iter((await pipeline.classify(model, readable, k, 3600.0, extras, inline_errors=True)).results)
    return [next(results) if isinstance(content, bytes) else ImageResult(error=content) for content in contents]


def _read(path: Path) -> bytes | UnprocessableImage:
    try:
        return path.read_bytes()
    except OSError as error:
        return UnprocessableImage(f"the file cannot be read: {error.strerror}")


class Sink(Protocol):
    """Takes the answers in order."""

    def write(self, path: Path, result: ImageResult) -> None: ...
    def finish(self) -> None: ...


class _TableWriter:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._table = Table("file", "label", "probability")
        self._table.columns[2].justify = "right"

    def write(self, path: Path, result: ImageResult) -> None:
        if result.error is not None:
            self._table.add_row(Text(str(path)), Text(str(result.error), style="red"), "")
        for rank, prediction in enumerate(result.predictions):
            name = Text("" if rank else str(path))
            self._table.add_row(name, Text(prediction.label), f"{prediction.probability:.2%}")

    def finish(self) -> None:
        Console(file=self._stream).print(self._table)


class _CsvWriter:
    """A line an image and class; errors have the rank 0."""

    def __init__(self, stream: TextIO) -> None:
        self._writer = csv.writer(stream)
        self._writer.writerow(["file", "rank", "label", "index", "probability", "error"])

    def write(self, path: Path, result: ImageResult) -> None:
        if result.error is not None:
            self._writer.writerow([path, 0, "", "", "", str(result.error)])
        for rank, prediction in enumerate(result.predictions, start=1):
            self._writer.writerow([path, rank, prediction.label, prediction.index, prediction.probability, ""])

    def finish(self) -> None:
        """Every line is written already."""


class _JsonLinesWriter:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, path: Path, result: ImageResult) -> None:
        line = {"file": str(path), **image_json(_without_files(result))}
        self._stream.write(json.dumps(line, ensure_ascii=False) + "\n")

    def finish(self) -> None:
        """Every line is written already."""


def _without_files(result: ImageResult) -> ImageResult:
    """A result without the parts that are written to files of their own."""
    predictions = [replace(prediction, cam_png=None) for prediction in result.predictions]
    image = None if result.image is None else replace(result.image, region=None)
    return replace(result, predictions=predictions, image=image, embedding=None)


_WRITERS: dict[Format, Callable[[TextIO], Sink]] = {
    Format.table: _TableWriter,
    Format.csv: _CsvWriter,
    Format.jsonl: _JsonLinesWriter,
}


@contextmanager
def _open(path: Path | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    try:
        stream = path.open("w", encoding="utf-8", newline="")
    except OSError as error:
        fail(error)
    with stream:
        yield stream


def run() -> None:
    typer.run(classify)


if __name__ == "__main__":
    run()
