"""The queue in front of an executor, which forms the batches.

Callers put tickets in; executor threads take batches out, as large as there are images waiting. So while a batch is
computed the next one forms, nobody waits for a timer, and the executor never waits while somebody waits for it.
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
from service.engine.lifo_condition import LifoCondition


class QueueClosed(Exception):
    """Nothing more is accepted."""


class QueueFull(Exception):
    """No room; `waiting` images are before this one."""

    def __init__(self, waiting: int) -> None:
        super().__init__(f"{waiting} images are waiting")
        self.waiting = waiting


@dataclass(eq=False, slots=True)
class QueuedRequest:
    """The images of one request, on their way through batches: it may share one, or spread over several."""

    images: Sequence[UInt8Array]
    outputs: frozenset[str]
    deadline: float
    """`time.monotonic` seconds after which nobody waits for the answer."""
    owner: Any
    """Who is to be told; the queue does not look at it."""
    queued_at: float = field(default_factory=time.monotonic)
    priority: Priority = Priority.interactive
    taken: int = 0
    """Images that are already in a batch."""
    abandoned: bool = False
    """The caller has gone, see `BatchQueue.abandon`."""


class RequestSlice(NamedTuple):
    """The part [start, stop) of a ticket's images that is in one batch."""

    ticket: QueuedRequest
    start: int
    stop: int


class Batch(NamedTuple):
    """What one call of the executor computes."""

    shares: Sequence[RequestSlice]
    size: int
    outputs: frozenset[str]


class _Lane:
    """Tickets of one priority, first in, first out."""

    def __init__(self) -> None:
        self.tickets: deque[QueuedRequest] = deque()
        self.waiting = 0
        self._first_deadline = math.inf
        """No ticket has an earlier one."""

    def append(self, ticket: QueuedRequest) -> None:
        self.tickets.append(ticket)
        self.waiting += len(ticket.images)
        self._first_deadline = min(self._first_deadline, ticket.deadline)

    def take(self, room: int) -> list[RequestSlice]:
        """Up to `room` images; a ticket that does not fit as a whole keeps its rest."""
        shares = []
        while room and self.tickets:
            ticket = self.tickets[0]
            images = len(ticket.images)
            start, stop = ticket.taken, min(images, ticket.taken + room)
            ticket.taken = stop
            room -= stop - start
            self.waiting -= stop - start
            if stop == images:
                self.tickets.popleft()
            shares.append(RequestSlice(ticket, start, stop))
        return shares

    def drop_expired(self, horizon: float, abandoned: bool) -> None:
        """Forget tickets whose caller has gone, if any has, and those whose deadline is not after the horizon."""
        if abandoned or self._first_deadline <= horizon:
            self.tickets = deque(
                ticket for ticket in self.tickets if not ticket.abandoned and ticket.deadline > horizon
            )
            self.waiting = sum(len(ticket.images) - ticket.taken for ticket in self.tickets)
            self._first_deadline = min((ticket.deadline for ticket in self.tickets), default=math.inf)


class BatchQueue:
    """Bounded queue of tickets, first in, first out within a priority; thread-safe.

    Args:
        capacity: images that may wait.
        max_batch: most images in one batch.
        max_delay: seconds that the first image of a batch may wait for it to fill; 0 never waits.
        split: leave idle executor threads their share of what waits, where half a batch takes half the time; and wake
            the thread that was busy last. Devices of their own are better off in turn: one that is lost is found out.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        capacity: int,
        max_batch: int,
        max_delay: float = 0.0,
        split: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.capacity = capacity
        self.max_batch = max_batch
        self.batch_seconds = 0.0
        """Expected time of a batch. Images that would miss their deadline by it are not computed while others wait."""
        self._max_delay = max_delay
        self._split = split
        self._idle = 0
        """Threads that wait for a batch."""
        self._clock = clock
        self._lanes = {priority: _Lane() for priority in Priority}
        self._interactive, self._bulk = self._lanes[Priority.interactive], self._lanes[Priority.bulk]
        self._bulk_share = BulkShare()
        self._abandoned = False
        """Whether a caller has gone whose images may wait."""
        self._closed = False
        self._lock = Lock()
        self._changed = LifoCondition(self._lock) if split else Condition(self._lock)

    def __len__(self) -> int:
        """Images that wait."""
        return self._interactive.waiting + self._bulk.waiting

    def put(self, ticket: QueuedRequest) -> None:
        """Append a ticket.

        Raises:
            QueueClosed: after `close`.
            QueueFull: its images do not all fit.
        """
        with self._lock:
            if self._closed:
                raise QueueClosed
            if len(self) + len(ticket.images) > self.capacity:
                self._drop_expired()
                if len(self) + len(ticket.images) > self.capacity:
                    raise QueueFull(len(self))
            self._lanes[ticket.priority].append(ticket)
            self._changed.notify()

    def take(self) -> Batch | None:
        """Wait for images and take up to `max_batch` of them; None once the queue is closed and empty."""
        with self._lock:
            while True:
                self._drop_expired()
                if not len(self):
                    if self._closed:
                        return None
                    self._idle += 1
                    self._changed.wait()
                    self._idle -= 1
                elif (patience := self._patience()) > 0:
                    self._changed.wait(patience)
                else:
                    return self._fill()

    def abandon(self, ticket: QueuedRequest) -> None:
        """The caller has gone, or has its answer: images that still wait are dropped before they cost anything."""
        ticket.abandoned = True
        if ticket.taken < len(ticket.images):
            self._abandoned = True

    def close(self) -> None:
        """Accept nothing more; what waits is still given out."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()

    def _patience(self) -> float:
        """Seconds that the batch may still wait to fill."""
        if self._max_delay == 0 or self._closed or len(self) >= self.max_batch:
            return 0.0
        first = min(lane.tickets[0].queued_at for lane in self._lanes.values() if lane.tickets)
        return first + self._max_delay - self._clock()

    def _fill(self) -> Batch:
        room = self.max_batch
        if self._split:
            room = min(room, math.ceil(len(self) / (1 + self._idle)))
        for_bulk = self._bulk_share.places(room, self._bulk.waiting)
        shares = self._interactive.take(room - for_bulk)
        interactive = _size(shares)
        bulk = self._bulk.take(room - interactive)
        self._bulk_share.took(_size(bulk), self._bulk.waiting)
        shares += bulk
        if len(self):
            self._changed.notify()  # another executor thread can take the rest
        outputs = shares[0].ticket.outputs.union(*[share.ticket.outputs for share in shares[1:]])
        return Batch(shares, interactive + _size(bulk), outputs)

    def _drop_expired(self) -> None:
        # The executor is not left idle for a prediction: an image that may be late is computed when no other waits.
        late = self.batch_seconds if len(self) > self.max_batch else 0.0
        horizon = self._clock() + late
        abandoned, self._abandoned = self._abandoned, False
        self._interactive.drop_expired(horizon, abandoned)
        self._bulk.drop_expired(horizon, abandoned)


def _size(shares: Sequence[RequestSlice]) -> int:
    return sum([share.stop - share.start for share in shares])
