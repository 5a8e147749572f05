"""`resnet-classify --on ray`: Ray Data scores the files on the machines of a cluster, and this process writes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from service import executors
from service.cli.file_list import STANDARD_INPUT, ImageFile
from service.cli.offline import Results, Scoring
from service.cli.ray_data.cluster import (
    alive_nodes,
    check_nodes,
    connect,
    disconnect,
    load_on_worker,
)
from service.cli.ray_data.dataset import chunks_by_client, chunks_of_dataset
from service.cli.ray_data.stages import Chunk, first_row
from service.cli.ray_data.workers import plan_workers
from service.core.object_storage import StorageError, is_url
from service.core.settings import Settings
from service.messages.model import ServedModel

_CHUNK = 64
"""Files per chunk. A chunk costs Ray a few milliseconds, and is the work that a dead worker loses."""

_STOP_SECONDS = 30.0
"""Time for a call of Ray to return after Ctrl-C."""
_T = TypeVar("_T")


class OnRay:
    """Computes on a Ray cluster.

    Args:
        on: value of the option --on.
        settings: the repository, the model, and how it is computed.
        repository: folder or URL of models; None for the model that ships with the project.
        paths: files and folders to classify, as they were given.
        k: number of classes per image.
    """

    def __init__(self, on: str, settings: Settings, repository: str | None, paths: list[str], k: int) -> None:
        self._on = on
        self._calling: asyncio.Future[Any] | None = None
        self._chunks: Generator[Chunk] | None = None
        places = [path for path in [repository, *paths] if path is not None and path != STANDARD_INPUT]
        self._paths = [os.path.abspath(path) for path in places if not is_url(path)]
        self._device = executors.find(settings.executor).device
        given = settings.model_fields_set
        self._options: dict[str, Any] = {
            "repository": repository if repository is None or is_url(repository) else os.path.abspath(repository),
            "model": settings.model,
            "version": int(settings.versions) if settings.versions.isdecimal() else None,
            "executor": settings.executor if "executor" in given else None,
            "precision": settings.precision if "precision" in given else None,
            "top_k": k,
        }

    async def start(self) -> ServedModel:
        """Connect, check the machines, and load the model on one of them."""
        return await self._call(self._start)

    def _start(self) -> ServedModel:
        connect(self._on)
        nodes = alive_nodes()
        check_nodes(nodes, self._paths)
        model = load_on_worker(self._options, self._device)
        self._plan = plan_workers(model, [node["Resources"] for node in nodes])
        self._model = model
        # All workers load this version, also if a newer one comes meanwhile.
        self._options |= {
            "model": model.name,
            "version": int(model.version),
            "executor": model.executor,
            "precision": model.precision,
            "threads": self._plan.threads,
            "max_batch": model.max_batch,
        }
        return model

    async def results(self, scoring: Scoring, after: ImageFile | None) -> Results:
        """The results as Ray gives them, which keeps the order."""
        chunks = self._chunks = await self._call(lambda: self._begin(scoring, after))
        while (chunk := await self._call(lambda: next(chunks, None))) is not None:
            if chunk.before != after:
                raise StorageError(
                    "the folders of images changed while a worker was replaced: run the same command again to continue"
                )
            scoring.skipped.merge(chunk.skipped)
            if chunk.files:
                yield chunk.files, chunk.results
                after = chunk.files[-1]

    async def close(self) -> None:
        """Leave the cluster. After Ctrl-C, wait for the chunk that is computed: Ray ends the process otherwise."""
        running = set[asyncio.Future[Any]]()
        if self._calling is not None:
            _, running = await asyncio.wait([self._calling], timeout=_STOP_SECONDS)
        if self._chunks is not None and not running:
            await asyncio.to_thread(self._chunks.close)
        await asyncio.to_thread(disconnect)

    async def _call(self, function: Callable[[], _T]) -> _T:
        """Call a function in a thread, which a cancellation does not leave."""
        calling = self._calling = asyncio.ensure_future(asyncio.to_thread(function))
        return await asyncio.shield(calling)

    def _begin(self, scoring: Scoring, after: ImageFile | None) -> Generator[Chunk]:
        row = first_row(scoring.files, after, max(_CHUNK, self._model.max_batch))
        arguments = (row, self._model.preprocess, os.getcwd(), self._plan, self._options)
        return chunks_by_client(*arguments) if self._on.startswith("ray://") else chunks_of_dataset(*arguments)
