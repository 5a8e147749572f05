"""The graph in which blocks of a version can be deleted: loaded at its first use, and freed when it is not used.

One graph is in memory at a time, and computes one image at a time, with one thread of the lowest priority.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from models import malloc
from models.artifact import golden, manifest, parity
from models.artifact.manifest import INPUT, LESION_INPUT, ManifestError
from models.artifact.parity import ParityError
from models.imaging.preprocess import UInt8Array
from service.core.errors import DeadlineExceeded, InferenceFailed, Overloaded, ServiceError, Unavailable
from service.core.threads import run_in_background
from service.engine.engine import Engine
from service.engine.idle_queue import IdleQueue
from service.executors.base import ExecutorError, Float32Array
from service.messages.inference import InferenceResult
from service.messages.lesion import LesionRequest
from service.registry.repository import LoadError
from service.registry.residency.residency import Residency
from service.registry.verification import check_inside
from service.registry.version import Version

log = logging.getLogger(__name__)

_UNUSED_SECONDS = 60.0
"""Time after which a graph that is not used leaves memory."""
_VERIFIED_IMAGES = 4
"""Golden images that a graph is verified with."""


class LesionGraph:
    """Computes with one thread: the one that calls.

    Args:
        path: the file.
        blocks: number of blocks.

    Raises:
        ExecutorError: ONNX Runtime cannot load the file.
    """

    def __init__(self, path: Path, blocks: int) -> None:
        from service.executors.onnxruntime_cpu import open_session  # only now, because few services need it

        self._session = open_session(path, threads=1)
        self._blocks = blocks

    def compute(self, images: UInt8Array, output: str, deleted: Sequence[int] = ()) -> Float32Array:
        """One output, float32 [n, classes], of images.

        Args:
            images: uint8 [n, H, W, C].
            output: logits or probabilities.
            deleted: positions of the blocks whose residual branches are left out.
        """
        gates = np.ones(self._blocks, np.float32)
        gates[list(deleted)] = 0.0
        values: Float32Array = self._session.run([output], {INPUT: images, LESION_INPUT: gates})[0]
        return values


class Lesions:
    """Computes images with blocks deleted. Used on the event loop only.

    Args:
        repository: folder that no link may lead out of.
        engines: gives all engines.
        residency: knows whether there is memory; None without a limit.
    """

    def __init__(self, repository: Path, engines: Callable[[], Iterable[Engine]], residency: Residency | None) -> None:
        self._repository, self._residency = repository, residency
        self._queue = IdleQueue(engines)
        self._graph: LesionGraph | None = None
        """The loaded graph."""
        self._key: int | None = None
        """Key of its version."""
        self._timer: asyncio.TimerHandle | None = None
        if residency is not None:
            residency.free_spare = self.free
        self._freeing: asyncio.Task[bool] | None = None

    async def compute(self, version: Version, request: LesionRequest) -> InferenceResult:
        """As `Backend.lesion`, for a version that is held."""
        queued = time.monotonic()
        try:
            async with asyncio.timeout_at(request.deadline):
                return await self._queue.run(lambda: self._compute(version, request, queued))
        except TimeoutError:
            raise DeadlineExceeded("the time limit passed before the image was computed: raise timeout_ms") from None

    async def _compute(self, version: Version, request: LesionRequest, queued: float) -> InferenceResult:
        graph = await self._load(version)
        started = time.monotonic()
        images = request.image[None]
        try:
            whole = await self._queue.call_when_idle(graph.compute, images, "probabilities")
            without = whole
            if request.deleted:
                without = await self._queue.call_when_idle(graph.compute, images, "probabilities", request.deleted)
        except ServiceError:
            raise
        except Exception as error:  # the exceptions of the runtime have no common base
            log.exception("%s version %d: the graph without blocks failed", version.served.name, version.number)
            raise InferenceFailed("the model failed on this image: the server's log has the cause") from error
        finally:
            self._keep()
        outputs = {"probabilities": np.concatenate([whole, without])}
        return InferenceResult(outputs, started - queued, 0.0, time.monotonic() - started, 1)

    async def _load(self, version: Version) -> LesionGraph:
        """The graph of a version, which takes the place of another one."""
        key = version.served.key
        if self._graph is not None and self._key == key:
            return self._graph
        await self.free()
        folder = version.directory.folder
        try:
            size = (folder / manifest.LESION_FILE).stat().st_size
            if self._residency is not None and not await self._residency.has_room(size):
                raise Overloaded(1, "memory")
            graph = await self._queue.call_when_idle(open_graph, self._repository, folder)
        except (LoadError, ManifestError, ParityError, ExecutorError, OSError) as error:
            log.error("%s version %d: no blocks can be deleted: %s", version.served.name, version.number, error)
            raise Unavailable(f"no blocks of the model can be deleted: {error}") from error
        self._graph, self._key = graph, key
        return graph

    def _keep(self) -> None:
        """Keep the graph for a time from now on."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(_UNUSED_SECONDS, self._free_unused)

    def _free_unused(self) -> None:
        self._freeing = asyncio.get_running_loop().create_task(self.free())

    async def free(self) -> bool:
        """Let the graph leave memory; an image that it computes is finished. Whether there was one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._graph is None:
            return False
        self._graph, self._key = None, None
        await run_in_background(malloc.trim)
        return True


def open_graph(repository: Path, folder: Path) -> LesionGraph:
    """Load the graph of a version, and verify it. Takes up to seconds.

    Args:
        repository: folder that no link may lead out of.
        folder: folder of the version.

    Raises:
        LoadError: a link leads out of the repository.
        ManifestError: a file is missing or altered.
        ParityError: the graph computes other logits than PyTorch.
        ExecutorError: ONNX Runtime cannot load the file.
    """
    described = manifest.read_moved(folder)
    if described.lesion is None:
        raise ManifestError(f"{folder}: has no file to delete blocks: export it again with --lesions")
    path = folder / described.lesion.artifact.file
    check_inside(repository, path, folder / manifest.GOLDEN_FILE)
    manifest.check_hash(path, described.lesion.artifact.sha256)
    graph = LesionGraph(path, len(described.lesion.blocks))
    images, logits = golden.read(folder / manifest.GOLDEN_FILE)
    computed = graph.compute(images[:_VERIFIED_IMAGES], "logits")
    parity.check(computed, logits[:_VERIFIED_IMAGES], "float32")
    return graph
