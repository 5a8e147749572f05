"""The queue in front of the instances of a model, which forms the batches.

Requests are put in; worker threads take batches out, as large as the number of waiting images. While one batch is
computed, the next one forms: no timer delays a batch, and no instance is idle while images wait.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Condition, Lock
from typing import Any, NamedTuple

from models.imaging.preprocess import UInt8Array
from service.core.priority import BulkShare, Priority


class QueueClosed(Exception):
    """The queue accepts no more requests."""


class QueueFull(Exception):
    """There is no room; `waiting` images are in the queue."""

    def __init__(self, waiting: int) -> None:
        super().__init__(f"{waiting} images are waiting")
        self.waiting = waiting


@dataclass(eq=False, slots=True)
class QueuedRequest:
    """The images of one request, which may share a batch with others, or be split into several batches."""

    images: Sequence[UInt8Array]
    outputs: frozenset[str]
    deadline: float
    """`time.monotonic` seconds after which the images are not computed."""
    owner: Any
    """Receives the results; the queue does not use it."""
    queued_at: float = field(default_factory=time.monotonic)
    priority: Priority = Priority.interactive
    only_in_flight: bool = False
    """As `InferenceRequest.only_in_flight`."""
    taken: int = 0
    """Number of images that are in a batch already."""
    abandoned: bool = False
    """Whether the result is not needed any more; see `BatchQueue.abandon`."""


class RequestSlice(NamedTuple):
    """The images [start, stop) of a request, which are in one batch."""

    request: QueuedRequest
    start: int
    stop: int


class Batch(NamedTuple):
    """The images of one call of an executor."""

    slices: Sequence[RequestSlice]
    size: int
    outputs: frozenset[str]

    def images(self) -> list[UInt8Array]:
        """The images in the order of the slices, uint8 [H, W, C] each."""
        return [image for part in self.slices for image in part.request.images[part.start : part.stop]]


class _Fifo:
    """Requests of one priority, first in, first out."""

    def __init__(self) -> None:
        self.requests: deque[QueuedRequest] = deque()
        self.waiting = 0
        """Images that are in no batch yet."""
        self._first_deadline = math.inf
        """Lower bound of the deadlines."""

    def append(self, request: QueuedRequest) -> None:
        self.requests.append(request)
        self.waiting += len(request.images)
        self._first_deadline = min(self._first_deadline, request.deadline)

    def take(self, room: int) -> list[RequestSlice]:
        """Take up to `room` images; a request that does not fit as a whole keeps the others."""
        slices = []
        while room and self.requests:
            request = self.requests[0]
            images = len(request.images)
            start, stop = request.taken, min(images, request.taken + room)
            request.taken = stop
            room -= stop - start
            self.waiting -= stop - start
            if stop == images:
                self.requests.popleft()
            slices.append(RequestSlice(request, start, stop))
        return slices

    def drop_expired(self, horizon: float, abandoned: bool) -> None:
        """Drop abandoned requests, if there may be any, and those with a deadline up to the horizon."""
        if abandoned or self._first_deadline <= horizon:
            self.requests = deque(
                request for request in self.requests if not request.abandoned and request.deadline > horizon
            )
            self.waiting = sum(len(request.images) - request.taken for request in self.requests)
            self._first_deadline = min((request.deadline for request in self.requests), default=math.inf)


class BatchQueue:
    """Bounded queue of requests, first in, first out within a priority; thread-safe.

    Args:
        capacity: most images in the queue.
        max_batch: most images in one batch.
        max_delay: seconds that the first image of a batch may wait for the batch to fill; 0 never waits.
        single_image: whether a thread calls `take_single_image`, and gets the images that are the only work.
        split: leave idle worker threads their part of the waiting images: for instances on CPUs, where half a batch
            takes half the time.
        clock: returns monotonic seconds.
    """

    def __init__(
        self,
        capacity: int,
        max_batch: int,
        max_delay: float = 0.0,
        split: bool = False,
        single_image: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.capacity = capacity
        self.max_batch = max_batch
        self.batch_seconds = 0.0
        """Expected time of a batch. Images that would miss their deadline by it are not computed while others wait."""
        self._max_delay = max_delay
        self._split = split
        self._single_image = single_image
        self._idle = 0
        """Threads that wait in `take`."""
        self._computing = 0
        """Batches that were taken and are not done."""
        self._clock = clock
        self._fifos = {priority: _Fifo() for priority in Priority}
        self._interactive, self._bulk = self._fifos[Priority.interactive], self._fifos[Priority.bulk]
        self._bulk_share = BulkShare()
        self._abandoned = False
        """Whether a request with waiting images may be abandoned."""
        self._closed = False
        self._lock = Lock()
        self._changed = Condition(self._lock)
        self._single_image_changed = Condition(self._lock)

    def __len__(self) -> int:
        """Images that wait."""
        return self._interactive.waiting + self._bulk.waiting

    @property
    def busy(self) -> bool:
        """Whether images wait or are computed."""
        return bool(self._computing or len(self))

    def put(self, request: QueuedRequest) -> None:
        """Append a request.

        Raises:
            QueueClosed: after `close`.
            QueueFull: not all of its images fit.
        """
        with self._lock:
            if self._closed:
                raise QueueClosed
            if len(self) + len(request.images) > self.capacity:
                self._drop_expired()
                if len(self) + len(request.images) > self.capacity:
                    raise QueueFull(len(self))
            self._fifos[request.priority].append(request)
            (self._single_image_changed if self._is_single_image() else self._changed).notify()

    def take(self) -> Batch | None:
        """Wait for images and take up to `max_batch` of them; None once the queue is closed and empty."""
        with self._lock:
            while True:
                self._drop_expired()
                single_image = self._is_single_image()
                if single_image or not len(self):
                    if self._closed:
                        return None
                    if single_image:
                        self._single_image_changed.notify()
                    self._idle += 1
                    self._changed.wait()
                    self._idle -= 1
                elif (delay := self._remaining_delay()) > 0:
                    self._changed.wait(delay)
                else:
                    return self._form_batch()

    def take_single_image(self) -> Batch | None:
        """Wait until one image is the only work: nothing else waits, is computed or is in flight. Then take the image.

        Returns:
            None once the queue is closed.
        """
        with self._lock:
            while not self._closed:
                self._drop_expired()
                if self._is_single_image():
                    return self._form_batch()
                self._single_image_changed.wait()
            return None

    def done(self) -> None:
        """Report that a batch that was taken is computed."""
        with self._lock:
            self._computing -= 1

    def abandon(self, request: QueuedRequest) -> None:
        """Mark a request whose result is not needed any more: its waiting images are dropped instead of computed."""
        request.abandoned = True
        if request.taken < len(request.images):
            self._abandoned = True

    def close(self) -> None:
        """Accept no more requests; waiting images can still be taken."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()
            self._single_image_changed.notify_all()

    def _is_single_image(self) -> bool:
        """Whether `take_single_image` gets the next image; other threads leave it."""
        if not self._single_image or self._computing or len(self) != 1 or self._closed or self._max_delay:
            return False
        requests = [*self._interactive.requests, *self._bulk.requests]
        return len(requests) == 1 and requests[0].only_in_flight and len(requests[0].images) == 1

    def _remaining_delay(self) -> float:
        """Seconds that the next batch may still wait to fill."""
        if self._max_delay == 0 or self._closed or len(self) >= self.max_batch:
            return 0.0
        first = min(fifo.requests[0].queued_at for fifo in self._fifos.values() if fifo.requests)
        return first + self._max_delay - self._clock()

    def _form_batch(self) -> Batch:
        room = self.max_batch
        if self._split:
            room = min(room, math.ceil(len(self) / (1 + self._idle)))
        for_bulk = self._bulk_share.places(room, self._bulk.waiting)
        slices = self._interactive.take(room - for_bulk)
        interactive = _images(slices)
        bulk = self._bulk.take(room - interactive)
        self._bulk_share.took(_images(bulk), self._bulk.waiting)
        slices += bulk
        if len(self):
            self._changed.notify()  # another worker thread can take the remaining images
        self._computing += 1
        outputs = slices[0].request.outputs.union(*[part.request.outputs for part in slices[1:]])
        return Batch(slices, interactive + _images(bulk), outputs)

    def _drop_expired(self) -> None:
        # An instance is not left idle because of a prediction: without other images, a late image is computed.
        late = self.batch_seconds if len(self) > self.max_batch else 0.0
        horizon = self._clock() + late
        abandoned, self._abandoned = self._abandoned, False
        self._interactive.drop_expired(horizon, abandoned)
        self._bulk.drop_expired(horizon, abandoned)


def _images(slices: Sequence[RequestSlice]) -> int:
    return sum([part.stop - part.start for part in slices])
