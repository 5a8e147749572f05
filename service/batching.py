"""The queue in front of an executor, which forms the batches.

Callers put tickets in; executor threads take batches out, as large as there are images waiting. So while a batch is
computed the next one forms, nobody waits for a timer, and the executor never waits while somebody waits for it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Condition
from typing import Any

from models.preprocess import UInt8Array


class QueueClosed(Exception):
    """Nothing more is accepted."""


class QueueFull(Exception):
    """No room; `waiting` images are before this one."""

    def __init__(self, waiting: int) -> None:
        super().__init__(f"{waiting} images are waiting")
        self.waiting = waiting


@dataclass(eq=False, slots=True)
class Ticket:
    """The images of one request, on their way through batches: it may share one, or spread over several."""

    images: Sequence[UInt8Array]
    outputs: frozenset[str]
    deadline: float
    """`time.monotonic` seconds after which nobody waits for the answer."""
    owner: Any
    """Who is to be told; the queue does not look at it."""
    queued_at: float = field(default_factory=time.monotonic)
    taken: int = 0
    """Images that are already in a batch."""
    abandoned: bool = False
    """The caller has gone: its images are dropped before they cost anything."""


@dataclass(frozen=True, slots=True)
class Share:
    """The part [start, stop) of a ticket's images that is in one batch."""

    ticket: Ticket
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What one call of the executor computes."""

    shares: tuple[Share, ...]
    size: int
    outputs: frozenset[str]


class BatchQueue:
    """Bounded first-in-first-out queue of tickets; thread-safe.

    Args:
        capacity: images that may wait.
        max_batch: most images in one batch.
        max_delay: seconds that the first image of a batch may wait for it to fill; 0 never waits.
        clock: seconds, monotonic.
    """

    def __init__(
        self, capacity: int, max_batch: int, max_delay: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.max_batch = max_batch
        self._capacity = capacity
        self._max_delay = max_delay
        self._clock = clock
        self._tickets: deque[Ticket] = deque()
        self._waiting = 0
        self._closed = False
        self._changed = Condition()

    def __len__(self) -> int:
        """Images that wait."""
        return self._waiting

    def put(self, ticket: Ticket) -> None:
        """Append a ticket.

        Raises:
            QueueClosed: after `close`.
            QueueFull: its images do not all fit.
        """
        with self._changed:
            if self._closed:
                raise QueueClosed
            if self._waiting + len(ticket.images) > self._capacity:
                self._drop_dead()
            if self._waiting + len(ticket.images) > self._capacity:
                raise QueueFull(self._waiting)
            self._tickets.append(ticket)
            self._waiting += len(ticket.images)
            self._changed.notify()

    def take(self) -> Batch | None:
        """Wait for images and take up to `max_batch` of them; None once the queue is closed and empty."""
        with self._changed:
            while True:
                self._drop_dead()
                if not self._tickets:
                    if self._closed:
                        return None
                    self._changed.wait()
                elif (patience := self._patience()) > 0:
                    self._changed.wait(patience)
                else:
                    return self._fill()

    def close(self) -> None:
        """Accept nothing more; what waits is still given out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _patience(self) -> float:
        """Seconds that the batch may still wait to fill."""
        if self._max_delay == 0 or self._closed or self._waiting >= self.max_batch:
            return 0.0
        return self._tickets[0].queued_at + self._max_delay - self._clock()

    def _fill(self) -> Batch:
        shares = []
        room = self.max_batch
        outputs: frozenset[str] = frozenset()
        while room and self._tickets:
            ticket = self._tickets[0]
            stop = min(len(ticket.images), ticket.taken + room)
            shares.append(Share(ticket, ticket.taken, stop))
            outputs |= ticket.outputs
            room -= stop - ticket.taken
            ticket.taken = stop
            if stop == len(ticket.images):
                self._tickets.popleft()
        size = self.max_batch - room
        self._waiting -= size
        if self._tickets:
            self._changed.notify()  # another executor thread can take the rest
        return Batch(tuple(shares), size, outputs)

    def _drop_dead(self) -> None:
        now = self._clock()
        alive = deque(ticket for ticket in self._tickets if not ticket.abandoned and ticket.deadline > now)
        if len(alive) != len(self._tickets):
            self._tickets = alive
            self._waiting = sum(len(ticket.images) - ticket.taken for ticket in alive)
