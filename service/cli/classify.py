"""`resnet-classify`: classifies files and folders offline, with the pipeline of the service."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TextIO

import typer
from pydantic import ValidationError

from models.console import console, fail
from models.progress import progress_bar
from models.validation import first_error
from service.app import Service
from service.cli.sinks import CsvWriter, EmbeddingFile, JsonLinesWriter, MapFolder, Sink, TableWriter
from service.core.errors import ServiceError, UnprocessableImage
from service.core.settings import OfflineSettings, Settings, shipped_repository
from service.inference.optional_outputs import Cam, OptionalOutputs
from service.inference.pipeline import Pipeline
from service.inference.results import ImageResult
from service.messages.model import ServedModel
from service.registry.repository import LoadError, find_versions

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif"}
_CHUNK = 32
_CHUNKS_IN_FLIGHT = 4
_TIMEOUT_SECONDS = 3600.0


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
    paths: Annotated[list[Path], typer.Argument(help="Images, and folders with images.", metavar="PATH...")],
    repository: Annotated[
        Path | None, typer.Option(help="Folder of models. Default: the model that ships with the project.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model to use, if the repository has several.")] = None,
    top_k: Annotated[int, typer.Option(help="Number of classes per image.", min=1)] = 1,
    format_: Annotated[Format, typer.Option("--format", help="Format of the output.")] = Format.table,
    output: Annotated[Path | None, typer.Option(help="File to write to instead of the terminal.")] = None,
    cam: Annotated[
        Path | None,
        typer.Option(help="Folder for heat maps of the pixels that support each class.", metavar="DIR"),
    ] = None,
    embedding: Annotated[
        Path | None, typer.Option(help="File for the pooled features of each image.", metavar="FILE.npz")
    ] = None,
) -> None:
    """Classify image files. Exits with 1 if a file cannot be classified; the output has its error."""
    logging.basicConfig(level=logging.ERROR, format="error: %(message)s")
    try:
        files = find_files(paths)
        settings = OfflineSettings(repository=repository or shipped_repository(), model=model)
        find_versions(settings.repository)
        more: list[Sink] = [] if cam is None else [MapFolder(cam, files)]
        more += [] if embedding is None else [EmbeddingFile(embedding)]
    except ValidationError as error:
        fail(first_error(error))
    except (LoadError, OSError) as error:
        fail(error)
    with _open(output) as stream:
        try:
            optional = OptionalOutputs(embedding is not None, None if cam is None else Cam.picture)
            failed = asyncio.run(_run(files, settings, top_k, optional, [_WRITERS[format_](stream), *more]))
        except ServiceError as error:
            fail(error)
    if failed:
        console.print(f"{failed} of {len(files)} files could not be classified", style="red", highlight=False)
        raise typer.Exit(1)


def find_files(paths: Sequence[Path]) -> list[Path]:
    """List files by path, and the files in folders, at any depth, that have the suffix of an image.

    Raises:
        FileNotFoundError: a path does not exist, or there are no files.
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
        raise FileNotFoundError("there are no image files")
    return files


async def _run(
    files: Sequence[Path], settings: Settings, k: int, optional: OptionalOutputs, sinks: Sequence[Sink]
) -> int:
    """Classify files, write each result in order, and return the number of errors."""
    service = Service(settings)
    await service.start()
    failed = 0
    try:
        with service.pipeline.lease() as model, progress_bar("classifying", total=len(files)) as progress:
            done = 0
            async for path, result in _results(service.pipeline, model, files, k, optional):
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
    pipeline: Pipeline, model: ServedModel, files: Sequence[Path], k: int, optional: OptionalOutputs
) -> AsyncIterator[tuple[Path, ImageResult]]:
    """Results in the order of the files, a few chunks at a time so that decoding and inference overlap."""
    running: deque[tuple[Sequence[Path], asyncio.Task[list[ImageResult]]]] = deque()
    chunks = [files[first : first + _CHUNK] for first in range(0, len(files), _CHUNK)]
    for chunk in chunks:
        running.append((chunk, asyncio.create_task(_classify_chunk(pipeline, model, chunk, k, optional))))
        if len(running) == _CHUNKS_IN_FLIGHT:
            paths, task = running.popleft()
            for pair in zip(paths, await task, strict=True):
                yield pair
    for paths, task in running:
        for pair in zip(paths, await task, strict=True):
            yield pair


async def _classify_chunk(
    pipeline: Pipeline, model: ServedModel, paths: Sequence[Path], k: int, optional: OptionalOutputs
) -> list[ImageResult]:
    contents = await asyncio.to_thread(lambda: [_read(path) for path in paths])
    readable = [content for content in contents if isinstance(content, bytes)]
    results: Iterator[ImageResult] = iter(())
    if readable:
        answer = await pipeline.classify(model, readable, k, _TIMEOUT_SECONDS, optional, inline_errors=True)
        results = iter(answer.results)
    return [next(results) if isinstance(content, bytes) else ImageResult(error=content) for content in contents]


def _read(path: Path) -> bytes | UnprocessableImage:
    try:
        return path.read_bytes()
    except OSError as error:
        return UnprocessableImage(f"the file cannot be read: {error.strerror}")


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
    """Run the command line."""
    typer.run(classify)


if __name__ == "__main__":
    run()
