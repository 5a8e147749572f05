"""The engine of a version: a queue, and worker threads that compute its batches on instances.

It takes an `InferenceRequest` and returns an `InferenceResult`; both are plain values.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter

import numpy as np

from service.core.errors import (
    NOT_COMPUTED_IN_TIME,
    DeadlineExceeded,
    InferenceFailed,
    Overloaded,
    ServiceError,
    Unavailable,
)
from service.core.threads import run_in_background
from service.engine.batch_queue import Batch, BatchQueue, QueueClosed, QueuedRequest, QueueFull
from service.engine.progress import MIN_STALL_SECONDS
from service.engine.workers import AllDevicesLost, Computed, Workers
from service.executors.base import Executor
from service.messages.inference import InferenceRequest, InferenceResult, ResultReceiver
from service.telemetry.metrics import Metrics
from service.telemetry.statistics import Statistics

_NO_MEMORY = re.compile(r"bad_alloc|[Ff]ailed to allocate memory|out of memory")
"""Found in the errors of C++, ONNX Runtime and CUDA, which have no class of their own."""


@dataclass(eq=False, slots=True)
class Pending:
    """A request that has no result yet."""

    outcome: ResultReceiver
    decode_seconds: float
    parts: list[tuple[int, InferenceResult]] = field(default_factory=list)
    """Of a request in several batches: the first image and the result of each part. Slices would refer back to this
    object, and only the garbage collector would free them."""
    done: int = 0
    """Images that are computed."""


class Engine:
    """Computes the images of many requests in batches.

    Args:
        executors: the instances, used by the threads of the engine only; closed with it.
        queue: the queue of requests.
        metrics: counts batches, on the event loop.
        name: name of the model, for logs and metrics.
        single_image: an instance for a single image while no other request is in flight, or None.
        cpus: the CPU that the threads of each instance are pinned to; empty if they are not pinned.
        stall_seconds: time after which a batch is stalled.
    """

    def __init__(
        self,
        executors: Sequence[Executor],
        queue: BatchQueue,
        metrics: Metrics,
        name: str,
        single_image: Executor | None = None,
        cpus: Sequence[int] = (),
        stall_seconds: float = MIN_STALL_SECONDS,
    ) -> None:
        self.executors = executors
        self._queue = queue
        self._name = name
        self._metrics = metrics.model(name)
        self.statistics = Statistics()
        deliver, fail = partial(self._call, self._deliver), partial(self._call, self._fail)
        self._workers = Workers(executors, queue, self._metrics, name, deliver, fail, single_image, cpus, stall_seconds)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._observers: tuple[Callable[[], None], ...] = ()

    def start(self) -> None:
        """Start the threads; results are delivered on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._workers.start()

    async def close(self) -> None:
        """Refuse new requests, compute the waiting ones, then close the executors; do not wait for a stalled batch."""
        self._queue.close()
        await run_in_background(self._workers.join)

    @property
    def alive(self) -> bool:
        """Whether batches can be computed."""
        return self._workers.alive

    @property
    def devices(self) -> int:
        """Number of devices that are not lost."""
        return self._workers.devices

    @property
    def problems(self) -> list[str]:
        """A sentence per device that is lost, or that does not finish its batch."""
        return self._workers.lost + self._workers.stalled

    @property
    def stalled(self) -> int:
        """Number of devices that do not finish their batch."""
        return len(self._workers.stalled)

    @property
    def device_names(self) -> frozenset[str]:
        """Devices of the instances."""
        return frozenset(executor.device for executor in self.executors)

    @property
    def busy(self) -> bool:
        """Whether images wait or are computed."""
        return self._queue.busy

    def observe(self, batch_done: Callable[[], None]) -> None:
        """Call a function on the event loop after each batch, once, however often it is given."""
        if batch_done not in self._observers:
            self._observers += (batch_done,)

    def forget(self, batch_done: Callable[[], None]) -> None:
        """Do not call a function any more."""
        self._observers = tuple(each for each in self._observers if each != batch_done)

    def check_progress(self) -> None:
        """Detect batches that do not end; called once per second."""
        self._workers.check_progress()

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return len(self._queue)

    @property
    def concurrent_batches(self) -> int:
        """Batches that can be computed at the same time."""
        return len(self._workers)

    @property
    def max_batch(self) -> int:
        """Most images per batch."""
        return self._queue.max_batch

    async def submit(self, request: InferenceRequest) -> InferenceResult:
        """Compute the images of a request, and count it in the statistics.

        Raises:
            Overloaded: the queue is full.
            DeadlineExceeded: the deadline passed.
            InferenceFailed: the executor raised.
            Unavailable: the engine is closed.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[InferenceResult] = loop.create_future()
        queued = self.begin(request, future)
        timer = loop.call_at(request.deadline, self._expire, queued)
        try:
            return await future
        finally:
            timer.cancel()
            self._queue.abandon(queued)  # after a result, an error, a timeout or a cancellation

    def begin(self, request: InferenceRequest, outcome: ResultReceiver) -> QueuedRequest:
        """As `submit`, without waiting: the outcome is given the result or the error, but no error at the deadline.

        Returns:
            The request in the queue, for `cancel`.
        """
        try:
            return self._put(request, outcome)
        except ServiceError:
            self.statistics.failed(request.decode_seconds)
            raise

    def cancel(self, queued: QueuedRequest) -> None:
        """Do not compute the images of a request that still wait."""
        self._queue.abandon(queued)
        if time.monotonic() >= queued.deadline:
            self._expire(queued)

    def _put(self, request: InferenceRequest, outcome: ResultReceiver) -> QueuedRequest:
        if self._loop is None or not self.alive:
            raise Unavailable("; ".join([f"model {self._name!r} is not running", *self.problems]))
        queued = QueuedRequest(
            request.images,
            request.outputs,
            request.deadline,
            Pending(outcome, request.decode_seconds),
            priority=request.priority,
            only_in_flight=request.only_in_flight,
        )
        try:
            self._queue.put(queued)
        except QueueClosed:
            raise Unavailable(f"model {self._name!r} is shutting down") from None
        except QueueFull as full:  # raised only for requests that were not admitted
            batches = math.ceil(full.waiting / self.max_batch) / max(1, len(self._workers))
            raise Overloaded(max(1, math.ceil(batches * self._queue.batch_seconds))) from None
        return queued

    def _expire(self, queued: QueuedRequest) -> None:
        self._end_with(queued, DeadlineExceeded(NOT_COMPUTED_IN_TIME))

    def _deliver(self, batch: Batch, computed: Computed) -> None:
        inference = computed.finished - computed.assembled
        self._metrics.batch(batch.size, inference, computed.wasted)
        self.statistics.batch(batch.size, inference)
        row = 0
        for part in batch.slices:
            queued, count = part.request, part.stop - part.start
            pending: Pending = queued.owner
            result = InferenceResult(
                {name: computed.outputs[name][row : row + count] for name in queued.outputs},
                computed.started - queued.queued_at,
                computed.assembled - computed.started,
                inference,
                batch.size,
            )
            row += count
            if count < len(queued.images):
                pending.parts.append((part.start, result))
                pending.done += count
                if pending.done < len(queued.images):
                    continue
                result = _join(pending.parts)
            if not pending.outcome.done():
                self._count(queued, result)
                pending.outcome.set_result(result)
        self._announce()

    def _count(self, queued: QueuedRequest, result: InferenceResult) -> None:
        decode_seconds = queued.owner.decode_seconds
        self.statistics.succeeded(
            len(queued.images),
            decode_seconds,
            result.queue_seconds,
            result.inference_seconds,
            decode_seconds + time.monotonic() - queued.queued_at,
        )

    def _end_with(self, queued: QueuedRequest, error: ServiceError) -> None:
        """End a request with an error, if it has not ended."""
        pending: Pending = queued.owner
        if not pending.outcome.done():
            self.statistics.failed(pending.decode_seconds + time.monotonic() - queued.queued_at)
            pending.outcome.set_exception(error)

    def _fail(self, batch: Batch, error: Exception) -> None:
        self.statistics.failed_batches += 1
        for part in batch.slices:
            self._queue.abandon(part.request)
            self._end_with(part.request, _failure(error))
        self._announce()

    def _announce(self) -> None:
        for batch_done in self._observers:
            batch_done()

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        """Run a function on the event loop; do nothing if the loop is closed."""
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)


def _failure(error: Exception) -> ServiceError:
    failure: ServiceError
    if isinstance(error, AllDevicesLost):
        failure = Unavailable(str(error))
    elif isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        failure = Overloaded(1, "memory")
    else:
        failure = InferenceFailed("the model failed on this batch: try again; the server's log has the cause")
    failure.__cause__ = error
    return failure


def _join(parts: Iterable[tuple[int, InferenceResult]]) -> InferenceResult:
    """Join the results of the parts of a request."""
    results = [result for _, result in sorted(parts, key=itemgetter(0))]
    return InferenceResult(
        {name: np.concatenate([result.outputs[name] for result in results]) for name in results[0].outputs},
        min(result.queue_seconds for result in results),
        sum(result.assembly_seconds for result in results),
        sum(result.inference_seconds for result in results),
        max(result.batch_size for result in results),
    )
