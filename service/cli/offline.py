"""Offline scoring: files through the pipeline of the service, with results in the order of the files."""

from __future__ import annotations

import asyncio
import signal
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from models.progress import progress_bar
from service.app import Service
from service.cli.file_list import FileList
from service.cli.sinks import Sink
from service.core.errors import ServiceError, UnprocessableImage
from service.core.settings import Settings
from service.inference.optional_outputs import OptionalOutputs
from service.inference.pipeline import Pipeline
from service.inference.results import ImageResult
from service.messages.model import ServedModel

_CHUNK = 32
_CHUNKS_IN_FLIGHT = 4
_TIMEOUT_SECONDS = 3600.0


@dataclass
class Outcome:
    """Numbers of files at the end, or when the work was stopped."""

    done: int = 0
    failed: int = 0
    stopped: bool = False
    """Whether SIGINT or SIGTERM was received."""
    error: ServiceError | OSError | None = None
    """The reason why no more files could be classified or written."""


async def classify_files(
    files: FileList, settings: Settings, k: int, optional: OptionalOutputs, sinks: Sequence[Sink]
) -> Outcome:
    """Classify files and write each result in order. Results are kept if a signal or an error stops the work."""
    service = Service(settings)
    outcome = Outcome()
    try:
        with _cancelled_by_signals():
            await service.start()
            await _classify_all(service.pipeline, files, k, optional, sinks, outcome)
    except asyncio.CancelledError:
        outcome.stopped = True
    except (ServiceError, OSError) as error:
        outcome.error = error
    try:
        if outcome.done or outcome.error is None:
            for sink in sinks:
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


async def _classify_all(
    pipeline: Pipeline,
    files: FileList,
    k: int,
    optional: OptionalOutputs,
    sinks: Sequence[Sink],
    outcome: Outcome,
) -> None:
    """Classify files, write each result in order, and count."""
    with pipeline.lease() as model, progress_bar("classifying", total=len(files)) as progress:
        async with aclosing(_results(pipeline, model, files, k, optional)) as results:
            async for path, result in results:
                for sink in sinks:
                    sink.write(path, result)
                outcome.done += 1
                outcome.failed += result.error is not None
                progress.update(outcome.done)


async def _results(
    pipeline: Pipeline, model: ServedModel, files: Iterable[Path], k: int, optional: OptionalOutputs
) -> AsyncGenerator[tuple[Path, ImageResult]]:
    """Results in the order of the files, a few chunks at a time so that decoding and inference overlap."""
    running: deque[tuple[Sequence[Path], asyncio.Task[list[ImageResult]]]] = deque()
    remaining = iter(files)
    try:
        while True:
            while len(running) < _CHUNKS_IN_FLIGHT and (chunk := list(islice(remaining, _CHUNK))):
                running.append((chunk, asyncio.create_task(_classify_chunk(pipeline, model, chunk, k, optional))))
            if not running:
                return
            paths, task = running[0]
            for pair in zip(paths, await task, strict=True):
                yield pair
            running.popleft()
    finally:
        tasks = [task for _, task in running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


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
    except MemoryError:
        return UnprocessableImage("the file is larger than the memory")
