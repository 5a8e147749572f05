"""The threads that compute an engine's batches: one for each lane of each executor.

While one lane copies, another computes. A device that is lost is taken out, and the batch that it had is tried once
more on another; when the last is gone, whoever waits is told so.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from queue import SimpleQueue
from threading import Lock, Thread
from typing import NamedTuple

from models.imaging.preprocess import UInt8Array
from service.core.threads import lower_priority, pin_to_cpu
from service.engine.batch_queue import Batch, BatchQueue
from service.executors.base import DeviceLost, Executor, Float32Array, close_all, fill_up
from service.telemetry.metrics import ModelMetrics

log = logging.getLogger(__name__)


_SMALL_BYTES = 64 * 1024
"""An image of so much is copied without numpy, which gives the interpreter's lock away for every copy of 500 values
and has to wait for it again: longer than the copy takes."""


class Computed(NamedTuple):
    """A batch's outputs, and when what was done; times in `time.monotonic` seconds."""

    outputs: dict[str, Float32Array]
    started: float
    assembled: float
    finished: float
    wasted: int
    """Rows that were computed beyond the images, to fill a bucket."""


class NoDevice(Exception):
    """Every device is lost."""


@dataclass(eq=False, slots=True)
class _Instance:
    """An executor and its lanes."""

    executor: Executor
    free: SimpleQueue[None]
    """As long as there are lanes without a batch; a semaphore, but in C."""
    processor: int | None = None
    """That its threads stay on."""
    lost: str | None = None
    """Why it is taken out."""


class Workers:
    """Takes batches out of a queue until that is closed and empty.

    Args:
        executors: one a device.
        queue: where the batches come from.
        metrics: told of devices that are lost.
        name: of the model, for logs.
        deliver: called in a worker's thread with each batch that was computed.
        fail: called likewise with each batch that was not, and why.
        processors: that the executors' threads stay on, one for each executor; none if they may go anywhere.
    """

    def __init__(
        self,
        executors: Sequence[Executor],
        queue: BatchQueue,
        metrics: ModelMetrics,
        name: str,
        deliver: Callable[[Batch, Computed], None],
        fail: Callable[[Batch, Exception], None],
        processors: Sequence[int] = (),
    ) -> None:
        self._queue = queue
        self._metrics = metrics
        self._name = name
        self._deliver = deliver
        self._fail = fail
        self._seats = [
            _Instance(executor, SimpleQueue(), processor) for executor, processor in zip_longest(executors, processors)
        ]
        for seat in self._seats:
            for _ in range(seat.executor.lanes):
                seat.free.put(None)
        self._lanes = sum(executor.lanes for executor in executors)
        """Of devices that are not lost."""
        self._running = 0
        """Threads."""
        self._counting = Lock()
        self._threads = [
            Thread(target=self._work, args=(seat,), name=f"engine-{name}-{seat.executor.device}-{lane}", daemon=True)
            for seat in self._seats
            for lane in range(seat.executor.lanes)
        ]

    def __len__(self) -> int:
        """Batches that can be computed at the same time."""
        return self._lanes

    def start(self) -> None:
        for thread in self._threads:
            thread.start()
            with self._counting:
                self._running += 1

    def join(self) -> None:
        """Wait for the threads, then free the executors."""
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        close_all(seat.executor for seat in self._seats)

    @property
    def alive(self) -> bool:
        """Whether batches are being computed."""
        return self._running > 0 and self._lanes > 0

    @property
    def devices(self) -> int:
        """Devices that compute; several executors may share one."""
        return len({seat.executor.device for seat in self._seats if seat.lost is None})

    @property
    def lost(self) -> list[str]:
        """Each device that is taken out, and why."""
        return [f"{seat.executor.device} is lost: {seat.lost}" for seat in self._seats if seat.lost is not None]

    def _work(self, seat: _Instance) -> None:
        try:
            self._run_loop(seat)
        finally:
            with self._counting:
                self._running -= 1

    def _run_loop(self, seat: _Instance) -> None:
        if seat.executor.device == "cpu":
            lower_priority()
        if seat.processor is not None:
            pin_to_cpu(seat.processor)
        while seat.lost is None and (batch := self._queue.take()) is not None:
            self._compute(seat, batch)
        if not self.devices:
            self._queue.close()
            while (batch := self._queue.take()) is not None:
                self._fail(batch, NoDevice("; ".join(self.lost)))

    def _compute(self, seat: _Instance, batch: Batch) -> None:
        """Compute a batch here; where the device is lost, once more on another."""
        try:
            try:
                computed = self._run(self._failover_target(seat), batch)
            except DeviceLost:
                other = self._failover_target(seat)
                self._metrics.retried()
                computed = self._run(other, batch)
        except Exception as error:  # whatever a native runtime raises must reach the callers, not end the thread
            log.exception("model %s: a batch of %d failed", self._name, batch.size)
            self._fail(batch, error)
        else:
            self._expect(computed.finished - computed.started)
            self._deliver(batch, computed)

    def _failover_target(self, seat: _Instance) -> _Instance:
        """The seat itself, or if its device is lost another one."""
        if seat.lost is None:
            return seat
        for other in self._seats:
            if other.lost is None:
                return other
        raise NoDevice("; ".join(self.lost))

    def _run(self, seat: _Instance, batch: Batch) -> Computed:
        executor = seat.executor
        seat.free.get()  # a thread whose own device is lost comes in addition
        try:
            started = time.monotonic()
            buffer = executor.acquire(batch.size)
            _assemble(batch, buffer)
            assembled = time.monotonic()
            outputs = executor.run(buffer, batch.outputs)
        except DeviceLost as error:
            self._take_out(seat, error)
            raise
        finally:
            seat.free.put(None)
        finished = time.monotonic()
        return Computed(outputs, started, assembled, finished, fill_up(batch.size, executor.buckets) - batch.size)

    def _take_out(self, seat: _Instance, error: DeviceLost) -> None:
        with self._counting:  # several lanes find out at the same time
            if seat.lost is not None:
                return
            seat.lost = str(error)
            self._lanes -= seat.executor.lanes
        log.error("model %s: %s is taken out: %s", self._name, seat.executor.device, error)
        self._metrics.device_lost()

    def _expect(self, seconds: float) -> None:
        """Tell the queue how long a batch takes: a slow average, over about the last ten."""
        known = self._queue.batch_seconds
        self._queue.batch_seconds = known + (seconds - known) * (0.1 if known else 1.0)


def _assemble(batch: Batch, buffer: UInt8Array) -> None:
    images = (image for share in batch.shares for image in share.ticket.images[share.start : share.stop])
    size = buffer[0].nbytes
    if size > _SMALL_BYTES:
        for row, image in enumerate(images):
            buffer[row] = image
        return
    flat = memoryview(buffer.reshape(-1).data)
    for row, image in enumerate(images):
        flat[row * size : (row + 1) * size] = image.tobytes()
