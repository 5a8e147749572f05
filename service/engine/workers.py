"""The threads that compute batches: one per concurrent batch of each instance.

A thread takes a batch from the queue and computes it on its instance. The thread of the single-image instance takes an
image only if it is the only work. A batch whose device is lost is computed once more on another device.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from queue import SimpleQueue
from threading import Lock, Thread
from typing import NamedTuple

from service.core.threads import lower_priority, pin_to_cpu
from service.engine.batch_queue import Batch, BatchQueue
from service.engine.progress import MIN_STALL_SECONDS, BatchClock, StallDetector
from service.executors.base import DeviceLost, Executor, Float32Array, close_all, padded_size
from service.telemetry.metrics import ModelMetrics

log = logging.getLogger(__name__)


_JOIN_SECONDS = 1.0
"""Time between two checks whether a batch is stalled, while the threads end."""


class Computed(NamedTuple):
    """The outputs of a batch, and times in `time.monotonic` seconds."""

    outputs: dict[str, Float32Array]
    started: float
    assembled: float
    finished: float
    wasted: int
    """Rows that were computed to pad the batch to a bucket."""


class AllDevicesLost(Exception):
    """Every device is lost."""


@dataclass(eq=False, slots=True)
class _Instance:
    """An executor, and the state of its device."""

    executor: Executor
    free: SimpleQueue[None]
    """An item per batch that the executor can compute in addition; a semaphore implemented in C."""
    cpu: int | None = None
    """CPU that its threads are pinned to."""
    lost: str | None = None
    """Why its device is lost."""


class Workers:
    """Computes the batches of a queue until the queue is closed and empty.

    Args:
        executors: the instances.
        queue: the queue.
        metrics: counts lost devices.
        name: name of the model, for logs.
        deliver: called in a worker thread with each batch and its outputs.
        fail: called in a worker thread with each batch that failed, and the error.
        single_image: an instance for a single image while no other image is in flight, or None.
        cpus: the CPU that each instance is pinned to; empty if they are not pinned.
        stall_seconds: time after which a batch is stalled.
    """

    def __init__(
        self,
        executors: Sequence[Executor],
        queue: BatchQueue,
        metrics: ModelMetrics,
        name: str,
        deliver: Callable[[Batch, Computed], None],
        fail: Callable[[Batch, Exception], None],
        single_image: Executor | None = None,
        cpus: Sequence[int] = (),
        stall_seconds: float = MIN_STALL_SECONDS,
    ) -> None:
        self._queue = queue
        self._metrics = metrics
        self._name = name
        self._deliver = deliver
        self._fail = fail
        self._instances = [_make_instance(executor, cpu) for executor, cpu in zip_longest(executors, cpus)]
        self._single_image = None if single_image is None else _make_instance(single_image)
        self._concurrent_batches = sum(executor.concurrent_batches for executor in executors)
        """Of the devices that are not lost."""
        self._running = 0
        """Threads."""
        self._lock = Lock()
        self._stalls = StallDetector(name, stall_seconds)
        self._threads: dict[Thread, BatchClock] = {}
        for index, each in enumerate(self._instances):
            for number in range(each.executor.concurrent_batches):
                self._add_thread(each, queue.take, f"{index}.{number}")
        if self._single_image is not None:
            self._add_thread(self._single_image, queue.take_single_image, "single")

    def __len__(self) -> int:
        """Batches that can be computed at the same time."""
        return self._concurrent_batches

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()
            with self._lock:
                self._running += 1

    def join(self) -> None:
        """Wait for the threads, then close the executors. If a batch is stalled, they stay open, as it uses them."""
        for thread, clock in self._threads.items():
            while thread.is_alive():
                thread.join(_JOIN_SECONDS)
                if self._stalls.is_stalled(clock, time.monotonic()):
                    log.error("model %s: a stalled batch keeps its memory until the process ends", self._name)
                    return
        close_all(each.executor for each in self._instances)
        if self._single_image is not None:
            self._single_image.executor.close()

    @property
    def alive(self) -> bool:
        """Whether batches can be computed."""
        return self._running > 0 and self._concurrent_batches > 0 and not self._stalls.all_stalled

    @property
    def devices(self) -> int:
        """Number of devices that are not lost; several instances may share one."""
        return len({each.executor.device for each in self._instances if each.lost is None})

    @property
    def lost(self) -> list[str]:
        """A sentence per lost device, with the reason."""
        return [f"{each.executor.device} is lost: {each.lost}" for each in self._instances if each.lost is not None]

    @property
    def stalled(self) -> list[str]:
        """A sentence per device that does not finish its batch, as of the last `check_progress`."""
        return self._stalls.reasons

    def check_progress(self) -> None:
        """Detect stalled batches; called once per second."""
        self._stalls.check(time.monotonic())

    def _add_thread(self, instance: _Instance, take: Callable[[], Batch | None], suffix: str) -> None:
        device = instance.executor.device
        clock = BatchClock(device, single_image=instance is self._single_image)
        name = f"engine-{self._name}-{device}-{suffix}"
        self._threads[Thread(target=self._work, args=(instance, take, clock), name=name, daemon=True)] = clock

    def _work(self, instance: _Instance, take: Callable[[], Batch | None], clock: BatchClock) -> None:
        self._stalls.add(clock)
        try:
            self._run_loop(instance, take, clock)
        finally:
            self._stalls.remove(clock)
            with self._lock:
                self._running -= 1

    def _run_loop(self, instance: _Instance, take: Callable[[], Batch | None], clock: BatchClock) -> None:
        if instance.executor.device == "cpu":
            lower_priority()
        if instance.cpu is not None:
            pin_to_cpu(instance.cpu)
        while instance.lost is None and (batch := take()) is not None:
            self._compute(instance, batch, clock)
        if not self.devices:
            self._queue.close()
            while (batch := self._queue.take()) is not None:
                self._fail(batch, AllDevicesLost("; ".join(self.lost)))

    def _compute(self, own: _Instance, batch: Batch, clock: BatchClock) -> None:
        """Compute a batch and deliver its outputs or its error."""
        try:
            computed = self._run_or_retry(own, batch, clock)
        except Exception as error:  # every exception of a native runtime must reach the requests, not end the thread
            log.exception("model %s: a batch of %d failed", self._name, batch.size)
            self._queue.done()
            self._fail(batch, error)
        else:
            self._update_expectation(computed.finished - computed.started)
            self._queue.done()  # before the next request of the same client
            self._deliver(batch, computed)

    def _run_or_retry(self, own: _Instance, batch: Batch, clock: BatchClock) -> Computed:
        """Compute a batch; if its device is lost, once more on another device."""
        try:
            return self._run(self._failover_target(own), batch, clock)
        except DeviceLost:
            other = self._failover_target(own)
            self._metrics.retried()
            return self._run(other, batch, clock)

    def _failover_target(self, own: _Instance) -> _Instance:
        """The instance itself, or another one if its device is lost."""
        if own.lost is None:
            return own
        for other in self._instances:
            if other.lost is None:
                return other
        raise AllDevicesLost("; ".join(self.lost))

    def _run(self, instance: _Instance, batch: Batch, clock: BatchClock) -> Computed:
        executor = instance.executor
        instance.free.get()  # threads of lost devices use it in addition to its own
        try:
            started = clock.started = time.monotonic()
            gathered = executor.gather(batch.images())
            assembled = time.monotonic()
            outputs = executor.run(gathered, batch.outputs)
        except DeviceLost as error:
            self._mark_lost(instance, error)
            raise
        finally:
            clock.started = math.inf
            instance.free.put(None)
        finished = time.monotonic()
        return Computed(outputs, started, assembled, finished, padded_size(batch.size, executor.buckets) - batch.size)

    def _mark_lost(self, instance: _Instance, error: DeviceLost) -> None:
        with self._lock:  # several threads detect it at the same time
            if instance.lost is not None:
                return
            instance.lost = str(error)
            self._concurrent_batches -= instance.executor.concurrent_batches
        log.error("model %s: %s is not used any more: %s", self._name, instance.executor.device, error)
        self._metrics.device_lost()

    def _update_expectation(self, seconds: float) -> None:
        """Update the expected time of a batch: an average over about the last ten."""
        known = self._queue.batch_seconds
        self._queue.batch_seconds = known + (seconds - known) * (0.1 if known else 1.0)


def _make_instance(executor: Executor, cpu: int | None = None) -> _Instance:
    instance = _Instance(executor, SimpleQueue(), cpu)
    for _ in range(executor.concurrent_batches):
        instance.free.put(None)
    return instance
