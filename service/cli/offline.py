"""Offline scoring: files through the pipeline of the service, here or in a cluster, with results in their order."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import ExitStack, aclosing, closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, Protocol

from models.imaging.image_files import Skipped
from models.progress import ProgressBar, progress_bar
from service.app import Service
from service.cli.file_list import FileList, ImageFile
from service.cli.sinks import Sink
from service.core.errors import ServiceError
from service.core.settings import Settings
from service.core.threads import lower_priority
from service.inference.optional_outputs import OptionalOutputs
from service.inference.results import ImageResult
from service.messages.model import ServedModel
from service.scoring.classification import CHUNK, CHUNKS_IN_FLIGHT, classify_contents
from service.scoring.contents import ContentReader
from service.scoring.settings import ScoringError

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
    error: ServiceError | ScoringError | OSError | None = None
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


Results = AsyncGenerator[tuple[Sequence[ImageFile], Sequence[ImageResult]]]


class Place(Protocol):
    """Computes: on this machine, or in a cluster."""

    async def start(self) -> ServedModel:
        """Load the model.

        Raises:
            ScoringError: it cannot be loaded, as with ServiceError.
        """
        ...

    def results(self, scoring: Scoring, after: ImageFile | None) -> Results:
        """The results in the order of the files, some at a time.

        Args:
            scoring: the files, and what to compute for them.
            after: file of an earlier run; only the files behind it are classified.
        """
        ...

    async def close(self) -> None:
        """Free the model."""
        ...


async def classify_files(scoring: Scoring, place: Place) -> Outcome:
    """Classify files and write each result in order. Results are kept if a signal or an error stops the work."""
    outcome = Outcome()
    try:
        with _cancelled_by_signals():
            await _classify_all(place, scoring, outcome)
    except asyncio.CancelledError:
        outcome.stopped = True
    except (ServiceError, ScoringError, OSError) as error:
        outcome.error = error
    try:
        if outcome.done or outcome.error is None:
            for sink in scoring.sinks:
                sink.finish()
    except OSError as error:
        outcome.error = outcome.error or error
    finally:
        await place.close()
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


async def _classify_all(place: Place, scoring: Scoring, outcome: Outcome) -> None:
    """Classify files, write each result in order, and count."""
    model = await place.start()
    after, outcome.done, outcome.failed, complete = await asyncio.to_thread(scoring.begin, model)
    if complete:
        outcome.total = outcome.done
        return
    with (
        progress_bar("classifying", None, completed=outcome.done) as progress,
        _counted_in_background(scoring.files, outcome, progress),
    ):
        progress.update(outcome.done)
        async with aclosing(place.results(scoring, after)) as results:
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


class OnThisMachine:
    """Computes on this machine.

    Args:
        settings: the repository, the model, and how it is computed.
    """

    def __init__(self, settings: Settings) -> None:
        self._service = Service(settings)
        self._held = ExitStack()

    async def start(self) -> ServedModel:
        """Load the model."""
        await self._service.start()
        self._model = self._held.enter_context(self._service.pipeline.lease())
        return self._model

    async def results(self, scoring: Scoring, after: ImageFile | None) -> Results:
        """A few chunks at a time, so that decoding and inference overlap."""
        running: deque[tuple[Sequence[ImageFile], asyncio.Task[list[ImageResult]]]] = deque()
        remaining = scoring.files.walk(scoring.skipped, after)
        with closing(ContentReader()) as reader:
            try:
                while True:
                    while len(running) < CHUNKS_IN_FLIGHT and (
                        chunk := await asyncio.to_thread(_next_chunk, remaining)
                    ):
                        running.append((chunk, asyncio.create_task(self._classify_chunk(chunk, scoring, reader))))
                    if not running:
                        return
                    yield running[0][0], await running[0][1]
                    running.popleft()
            finally:
                tasks = [task for _, task in running]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Free the model."""
        self._held.close()
        await self._service.close()

    async def _classify_chunk(
        self, files: Sequence[ImageFile], scoring: Scoring, reader: ContentReader
    ) -> list[ImageResult]:
        contents = await asyncio.to_thread(reader.read, [file.name for file in files])
        return await classify_contents(self._service.pipeline, self._model, contents, scoring.k, scoring.optional)


def _next_chunk(files: Iterator[ImageFile]) -> list[ImageFile]:
    return list(islice(files, CHUNK))
