"""The engine: what a request sees of inference. A queue, and threads that run its batches on executors.

Arrays and numbers go in, arrays and numbers come out; nothing else is shared, so the same messages could cross to an
engine in another process.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import NamedTuple, Protocol

import numpy as np

from models.imaging.preprocess import UInt8Array
from service.core.errors import DeadlineExceeded, InferenceFailed, Overloaded, ServiceError, Unavailable
from service.core.priority import Priority
from service.engine.batch_queue import Batch, BatchQueue, QueueClosed, QueueFull, Ticket
from service.engine.workers import Computed, NoDevice, Workers
from service.executors.base import Executor, Float32Array
from service.inference.admission import Admission
from service.inference.deadlines import Deadlines
from service.telemetry import request_context
from service.telemetry.metrics import Metrics
from service.telemetry.statistics import Statistics


class Result(NamedTuple):
    """The answer to one request's images."""

    outputs: dict[str, Float32Array]
    """Arrays [n, ...], one row an image, in the order of the request."""
    queue_seconds: float
    """Time that the first image waited."""
    assembly_seconds: float
    """Time of copying into the executor's buffer, added up over the batches that the images were in."""
    inference_seconds: float
    """Time in the executor, added up likewise."""
    batch_size: int
    """Size of the largest of these batches."""


class Engine(Protocol):
    """Takes the images of many requests and answers each."""

    admission: Admission
    """Lets requests in before they are decoded, or refuses them."""

    async def submit(
        self,
        images: Sequence[UInt8Array],
        outputs: frozenset[str],
        deadline: float,
        priority: Priority = Priority.interactive,
    ) -> Result:
        """Compute images.

        Args:
            images: uint8 [H, W, C] each.
            outputs: names out of logits, probabilities, embedding, feature_map.
            deadline: `time.monotonic` seconds; what is not done by then is given up.
            priority: interactive images pass the bulk ones.

        Raises:
            Overloaded: the queue is full.
            DeadlineExceeded: the deadline passed.
            InferenceFailed: the executor raised.
            Unavailable: the engine is closed.
        """
        ...

    @property
    def alive(self) -> bool:
        """Whether batches are being computed."""
        ...


@dataclass(eq=False, slots=True)
class _Pending:
    """A request that waits in `submit`."""

    future: asyncio.Future[Result]
    parts: list[tuple[int, Result]] = field(default_factory=list)
    """Of a request that is in several batches: where each begins, and its answer. No shares: they lead back here, and
    only the garbage collector would free them."""
    done: int = 0
    """Images that are computed."""


class LocalEngine:
    """An engine in this process: a thread for each lane of its executors.

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
        deliver, fail = partial(self._call, self._deliver), partial(self._call, self._fail)
        self._workers = Workers(executors, queue, self._metrics, name, deliver, fail, processors)
        self.admission = Admission(queue.capacity, queue.max_batch, len(self._workers))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._deadlines: Deadlines | None = None

    def start(self) -> None:
        """Begin to compute; answers are delivered on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines(self._loop, _late)
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
    def lanes(self) -> int:
        """Batches that are computed at the same time."""
        return len(self._workers)

    @property
    def max_batch(self) -> int:
        return self._queue.max_batch

    async def submit(
        self,
        images: Sequence[UInt8Array],
        outputs: frozenset[str],
        deadline: float,
        priority: Priority = Priority.interactive,
    ) -> Result:
        if self._loop is None or self._deadlines is None or not self.alive:
            raise Unavailable("; ".join([f"model {self._name!r} is not running", *self.lost]))
        pending = _Pending(self._loop.create_future())
        ticket = Ticket(images, outputs, deadline, pending, priority=priority)
        try:
            self._queue.put(ticket)
        except QueueClosed:
            raise Unavailable(f"model {self._name!r} is shutting down") from None
        except QueueFull as full:  # only reached by those who were not admitted
            batches = math.ceil(full.waiting / self.max_batch) / max(1, len(self._workers))
            raise Overloaded(max(1, math.ceil(batches * self._queue.batch_seconds))) from None
        self._deadlines.watch(pending.future, deadline)
        try:
            result = await pending.future
        finally:
            self._deadlines.forget(pending.future)
            self._queue.abandon(ticket)  # no one waits for it any more, whatever ended the wait
        _note(ticket, result)
        return result

    def _deliver(self, batch: Batch, computed: Computed) -> None:
        inference = computed.finished - computed.assembled
        self._metrics.batch(batch.size, inference, computed.wasted)
        self.statistics.batch(batch.size, inference)
        row = 0
        for share in batch.shares:
            ticket, count = share.ticket, share.stop - share.start
            pending: _Pending = ticket.owner
            result = Result(
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


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the time limit passed before the image was computed: try again, or raise timeout_ms")


def _failure(error: Exception) -> ServiceError:
    failure: ServiceError
    if isinstance(error, NoDevice):
        failure = Unavailable(str(error))
    else:
        failure = InferenceFailed("the model failed on this batch: try again; the server's log has the cause")
    failure.__cause__ = error
    return failure


def _put_together(parts: Iterable[tuple[int, Result]]) -> Result:
    ordered = [part for _, part in sorted(parts, key=itemgetter(0))]
    return Result(
        {name: np.concatenate([part.outputs[name] for part in ordered]) for name in ordered[0].outputs},
        min(part.queue_seconds for part in ordered),
        sum(part.assembly_seconds for part in ordered),
        sum(part.inference_seconds for part in ordered),
        max(part.batch_size for part in ordered),
    )


def _note(ticket: Ticket, result: Result) -> None:
    """Put the stages into the record of the request."""
    noted = request_context.current()
    noted.batch_size = max(noted.batch_size, result.batch_size)
    at = ticket.queued_at
    for stage, seconds in (
        ("queue", result.queue_seconds),
        ("assembly", result.assembly_seconds),
        ("inference", result.inference_seconds),
    ):
        noted.stage(stage, at, seconds)
        at += seconds
