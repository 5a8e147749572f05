"""Offline scoring: files through the pipeline of the service, with results in the order of the files."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from models.imaging.image_files import Skipped
from models.progress import ProgressBar, progress_bar
from service.app import Service
from service.cli.file_list import FileList, ImageFile
from service.cli.sinks import Sink
from service.cli.url_files import Content, UrlReader
from service.core.errors import ServiceError, UnprocessableImage
from service.core.object_storage import is_url
from service.core.settings import Settings
from service.core.threads import lower_priority
from service.inference.optional_outputs import OptionalOutputs
from service.inference.pipeline import Pipeline
from service.inference.results import ImageResult
from service.messages.model import ServedModel

_CHUNK = 32
_CHUNKS_IN_FLIGHT = 4
_TIMEOUT_SECONDS = 3600.0
_COUNT_SECONDS = 1.0
"""Time to finish counting the files after Ctrl-C, so that the last line can name their number."""


@dataclass
class Outcome:
    """Numbers of files at the end, or when the work was stopped."""

    done: int = 0
    """Files with a result, also those of earlier runs."""
    failed: int = 0
    total: int | None = None
    """All files; None if they were not counted."""
    stopped: bool = False
    """Whether SIGINT or SIGTERM was received."""
    error: ServiceError | OSError | None = None
    """The reason why no more files could be classified or written."""


class Begin(NamedTuple):
    """Where to begin: after the files of earlier runs."""

    after: ImageFile | None = None
    done: int = 0
    failed: int = 0
    complete: bool = False
    """Whether earlier runs did all files."""


class Scoring(NamedTuple):
    """What to compute for which files, and where the results go."""

    files: FileList
    skipped: Skipped
    """Collects what is left out in folders."""
    k: int
    """Number of classes per image."""
    optional: OptionalOutputs
    sinks: Sequence[Sink]
    begin: Callable[[ServedModel], Begin] = lambda model: Begin()
    """Compares the model with that of earlier runs. May raise OSError."""


async def classify_files(scoring: Scoring, settings: Settings) -> Outcome:
    """Classify files and write each result in order. Results are kept if a signal or an error stops the work."""
    service = Service(settings)
    outcome = Outcome()
    try:
        with _cancelled_by_signals():
            await service.start()
            await _classify_all(service.pipeline, scoring, outcome)
    except asyncio.CancelledError:
        outcome.stopped = True
    except (ServiceError, OSError) as error:
        outcome.error = error
    try:
        if outcome.done or outcome.error is None:
            for sink in scoring.sinks:
                sink.finish()
    except OSError as error:
        outcome.error = outcome.error or error
    finally:
        await service.close()
    return outcome


@contextmanager
def _cancelled_by_signals() -> Iterator[None]:
    """Cancel this task with the first SIGINT or SIGTERM; a second one ends the process as usual."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def stop() -> None:
        for number in numbers:
            loop.remove_signal_handler(number)
        if task is not None:
            task.cancel()

    for number in numbers:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _classify_all(pipeline: Pipeline, scoring: Scoring, outcome: Outcome) -> None:
    """Classify files, write each result in order, and count."""
    with pipeline.lease() as model:
        after, outcome.done, outcome.failed, complete = await asyncio.to_thread(scoring.begin, model)
        if complete:
            outcome.total = outcome.done
            return
        with (
            progress_bar("classifying", None, completed=outcome.done) as progress,
            _counted_in_background(scoring.files, outcome, progress),
        ):
            progress.update(outcome.done)
            async with aclosing(_results(pipeline, model, scoring, after)) as results:
                async for files, answers in results:
                    for file, result in zip(files, answers, strict=True):
                        for sink in scoring.sinks:
                            sink.write(file, result)
                        outcome.done += 1
                        outcome.failed += result.error is not None
                    progress.update(outcome.done)
        outcome.total = outcome.done


@contextmanager
def _counted_in_background(files: FileList, outcome: Outcome, progress: ProgressBar) -> Iterator[None]:
    """Count the files while they are classified, for the remaining time."""

    def count() -> None:
        lower_priority()
        try:
            outcome.total = sum(1 for _ in files.walk(Skipped()))
        except (OSError, ValueError):  # the walk that classifies gives the reason; at the end the list is closed
            return
        progress.set_total(outcome.total)

    thread = threading.Thread(target=count, name="count", daemon=True)
    thread.start()
    try:
        yield
    except asyncio.CancelledError:
        thread.join(_COUNT_SECONDS)
        raise


async def _results(
    pipeline: Pipeline, model: ServedModel, scoring: Scoring, after: ImageFile | None
) -> AsyncGenerator[tuple[Sequence[ImageFile], list[ImageResult]]]:
    """Results in the order of the files, a few chunks at a time so that decoding and inference overlap."""
    running: deque[tuple[Sequence[ImageFile], asyncio.Task[list[ImageResult]]]] = deque()
    remaining = scoring.files.walk(scoring.skipped, after)
    with closing(UrlReader(_CHUNK)) as reader:
        try:
            while True:
                while len(running) < _CHUNKS_IN_FLIGHT and (chunk := await asyncio.to_thread(_next_chunk, remaining)):
                    task = asyncio.create_task(_classify_chunk(pipeline, model, chunk, scoring, reader))
                    running.append((chunk, task))
                if not running:
                    return
                yield running[0][0], await running[0][1]
                running.popleft()
        finally:
            tasks = [task for _, task in running]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _next_chunk(files: Iterator[ImageFile]) -> list[ImageFile]:
    return list(islice(files, _CHUNK))


async def _classify_chunk(
    pipeline: Pipeline, model: ServedModel, files: Sequence[ImageFile], scoring: Scoring, reader: UrlReader
) -> list[ImageResult]:
    contents = await asyncio.to_thread(_read_chunk, files, reader)
    readable = [content for content in contents if isinstance(content, bytes)]
    results: Iterator[ImageResult] = iter(())
    if readable:
        answer = await pipeline.classify(
            model, readable, scoring.k, _TIMEOUT_SECONDS, scoring.optional, inline_errors=True
        )
        results = iter(answer.results)
    return [next(results) if isinstance(content, bytes) else ImageResult(error=content) for content in contents]


def _read_chunk(files: Sequence[ImageFile], reader: UrlReader) -> list[Content]:
    urls = [file.name for file in files if is_url(file.name)]
    from_urls = iter(reader.read(urls) if urls else ())
    return [next(from_urls) if is_url(file.name) else _read(file.name) for file in files]


def _read(path: str) -> Content:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        return UnprocessableImage(f"the file cannot be read: {error.strerror}")
    except MemoryError:
        return UnprocessableImage("the file is larger than the memory")
