"""Stops a training run on SIGINT or SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """SIGINT or SIGTERM stopped the run; its state is saved."""


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that gets an item with the first SIGINT or SIGTERM; a second one ends the process as usual."""
    received: list[int] = []

    def receive(number: int, _: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, previous[signal.Signals(number)])

    previous = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
