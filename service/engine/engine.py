"""The engine: what a request sees of inference. A queue, and threads that run its batches on executors.

It takes an `InferenceRequest` and gives an `InferenceResult`; nothing else is shared with those who ask.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter

import numpy as np

from service.core.errors import DeadlineExceeded, InferenceFailed, Overloaded, ServiceError, Unavailable
from service.engine.batch_queue import Batch, BatchQueue, QueueClosed, QueuedRequest, QueueFull
from service.engine.workers import Computed, NoDevice, Workers
from service.executors.base import Executor
from service.messages.inference import InferenceRequest, InferenceResult
from service.telemetry.metrics import Metrics
from service.telemetry.statistics import Statistics


@dataclass(eq=False, slots=True)
class _Pending:
    """A request that waits in `submit`."""

    future: asyncio.Future[InferenceResult]
    parts: list[tuple[int, InferenceResult]] = field(default_factory=list)
    """Of a request that is in several batches: where each begins, and its answer. No shares: they lead back here, and
    only the garbage collector would free them."""
    done: int = 0
    """Images that are computed."""


class Engine:
    """Computes the images of many requests: a thread for each lane of its executors.

    Args:
        executors: one a device, used by the engine's threads only.
        queue: where requests wait.
        metrics: told of each batch, on the event loop.
        name: of the model, for logs and metrics.
        processors: that the executors' threads stay on, one for each executor, if any.
    """

    def __init__(
        self,
        executors: Sequence[Executor],
        queue: BatchQueue,
        metrics: Metrics,
        name: str,
        processors: Sequence[int] = (),
    ) -> None:
        self.executors = executors
        self._queue = queue
        self._name = name
        self._metrics = metrics.model(name)
        self.statistics = Statistics()
        self._in_flight = 0
        deliver, fail = partial(self._call, self._deliver), partial(self._call, self._fail)
        self._workers = Workers(executors, queue, self._metrics, name, deliver, fail, processors)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin to compute; answers are delivered on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._workers.start()

    async def close(self) -> None:
        """Refuse what comes, compute what waits, then free the executors."""
        self._queue.close()
        await asyncio.to_thread(self._workers.join)

    @property
    def alive(self) -> bool:
        return self._workers.alive

    @property
    def devices(self) -> int:
        """Devices that compute."""
        return self._workers.devices

    @property
    def lost(self) -> list[str]:
        """Each device that was taken out, and why."""
        return self._workers.lost

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return len(self._queue)

    @property
    def in_flight(self) -> int:
        """Images that were submitted and are not computed."""
        return self._in_flight

    @property
    def lanes(self) -> int:
        """Batches that are computed at the same time."""
        return len(self._workers)

    @property
    def max_batch(self) -> int:
        return self._queue.max_batch

    async def submit(self, request: InferenceRequest) -> InferenceResult:
        """Compute the images of a request, and count it in the statistics.

        Raises:
            Overloaded: the queue is full.
            DeadlineExceeded: the deadline passed.
            InferenceFailed: the executor raised.
            Unavailable: the engine is closed.
        """
        started = time.monotonic() - request.decode_seconds
        self._in_flight += len(request.images)
        try:
            result = await self._compute(request)
        except ServiceError:
            self.statistics.failed(time.monotonic() - started)
            raise
        finally:
            self._in_flight -= len(request.images)
        self.statistics.succeeded(
            len(request.images),
            request.decode_seconds,
            result.queue_seconds,
            result.inference_seconds,
            time.monotonic() - started,
        )
        return result

    async def _compute(self, request: InferenceRequest) -> InferenceResult:
        if self._loop is None or not self.alive:
            raise Unavailable("; ".join([f"model {self._name!r} is not running", *self.lost]))
        pending = _Pending(self._loop.create_future())
        queued = QueuedRequest(request.images, request.outputs, request.deadline, pending, priority=request.priority)
        try:
            self._queue.put(queued)
        except QueueClosed:
            raise Unavailable(f"model {self._name!r} is shutting down") from None
        except QueueFull as full:  # only requests that were not admitted come this far
            batches = math.ceil(full.waiting / self.max_batch) / max(1, len(self._workers))
            raise Overloaded(max(1, math.ceil(batches * self._queue.batch_seconds))) from None
        try:
            async with asyncio.timeout_at(request.deadline):
                return await pending.future
        except TimeoutError:
            raise DeadlineExceeded(
                "the time limit passed before the image was computed: try again, or raise timeout_ms"
            ) from None
        finally:
            self._queue.abandon(queued)  # nothing waits for the images any more, whatever ended the wait

    def _deliver(self, batch: Batch, computed: Computed) -> None:
        inference = computed.finished - computed.assembled
        self._metrics.batch(batch.size, inference, computed.wasted)
        self.statistics.batch(batch.size, inference)
        row = 0
        for share in batch.shares:
            ticket, count = share.ticket, share.stop - share.start
            pending: _Pending = ticket.owner
            result = InferenceResult(
                {name: computed.outputs[name][row : row + count] for name in ticket.outputs},
                computed.started - ticket.queued_at,
                computed.assembled - computed.started,
                inference,
                batch.size,
            )
            row += count
            if count < len(ticket.images):
                pending.parts.append((share.start, result))
                pending.done += count
                if pending.done < len(ticket.images):
                    continue
                result = _put_together(pending.parts)
            if not pending.future.done():
                pending.future.set_result(result)

    def _fail(self, batch: Batch, error: Exception) -> None:
        for share in batch.shares:
            self._queue.abandon(share.ticket)
            pending: _Pending = share.ticket.owner
            if not pending.future.done():
                pending.future.set_exception(_failure(error))

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        """Run a function on the event loop; nobody is left to be told when that is closed."""
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)


def _failure(error: Exception) -> ServiceError:
    failure: ServiceError
    if isinstance(error, NoDevice):
        failure = Unavailable(str(error))
    else:
        failure = InferenceFailed("the model failed on this batch: try again; the server's log has the cause")
    failure.__cause__ = error
    return failure


def _put_together(parts: Iterable[tuple[int, InferenceResult]]) -> InferenceResult:
    ordered = [part for _, part in sorted(parts, key=itemgetter(0))]
    return InferenceResult(
        {name: np.concatenate([part.outputs[name] for part in ordered]) for name in ordered[0].outputs},
        min(part.queue_seconds for part in ordered),
        sum(part.assembly_seconds for part in ordered),
        sum(part.inference_seconds for part in ordered),
        max(part.batch_size for part in ordered),
    )
