"""Memory and time that images may take: one budget, first come first served, and an end."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import pytest

from models.imaging.allowance import FREE_BYTES, MAX_COPIED_BYTES, Allowance, DecodeMemory, TimedReader
from models.imaging.errors import DeadlinePassed, TooMuchMemory

TOTAL = 10 * FREE_BYTES


class Observed(threading.Condition):
    """Counts threads that begin to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = threading.Semaphore(0)

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.release()
        return super().wait(timeout)


def observed_memory() -> tuple[DecodeMemory, threading.Semaphore]:
    memory = DecodeMemory(TOTAL)
    condition = memory._condition = Observed()
    return memory, condition.waits


def in_thread(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def test_images_share_the_memory_in_their_order() -> None:
    memory, waits = observed_memory()
    first, large, small = (Allowance(memory=memory) for _ in range(3))
    done: list[str] = []

    def take(name: str, allowance: Allowance, size: int) -> None:
        allowance.reserve(size)
        done.append(name)

    first.reserve(TOTAL - 3 * FREE_BYTES)
    waiting_large = in_thread(lambda: take("large", large, TOTAL))
    waits.acquire()
    waiting_small = in_thread(lambda: take("small", small, 2 * FREE_BYTES))  # there is room, but it came later
    waits.acquire()
    assert not done
    assert first.release() == TOTAL - 3 * FREE_BYTES
    waiting_large.join()
    assert done == ["large"]
    assert large.release() == TOTAL
    waiting_small.join()
    assert done == ["large", "small"]


def test_codecs_that_stop_all_threads_run_one_at_a_time() -> None:
    memory, waits = observed_memory()
    first, second = (Allowance(memory=memory) for _ in range(2))
    first.reserve(2 * FREE_BYTES, MAX_COPIED_BYTES)
    waiting = in_thread(lambda: second.reserve(2 * FREE_BYTES, MAX_COPIED_BYTES))  # there is memory
    waits.acquire()
    first.release()
    waiting.join()
    assert second.release() == 2 * FREE_BYTES


def test_small_images_never_wait() -> None:
    memory = DecodeMemory(TOTAL)
    Allowance(memory=memory).reserve(TOTAL)
    small = Allowance(memory=memory, deadline=-math.inf)
    small.reserve(FREE_BYTES)
    assert small.release() == 0


def test_an_image_above_the_total_is_refused() -> None:
    with pytest.raises(TooMuchMemory, match="scale it down"):
        Allowance(memory=DecodeMemory(TOTAL)).reserve(TOTAL + 1)


def test_waiting_ends_with_the_deadline_or_the_request() -> None:
    memory, waits = observed_memory()
    Allowance(memory=memory).reserve(TOTAL)
    with pytest.raises(DeadlinePassed):
        Allowance(memory=memory, deadline=0.0).reserve(TOTAL)
    given_up = Allowance(memory=memory)
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            given_up.reserve(TOTAL)
        except DeadlinePassed as error:
            errors.append(error)

    thread = in_thread(wait)
    waits.acquire()
    given_up.end()
    thread.join()
    assert len(errors) == 1


def test_a_file_cannot_be_read_after_the_deadline() -> None:
    allowance = Allowance()
    reader = TimedReader(b"abcdef", allowance)
    assert reader.read(3) == b"abc"
    allowance.end()
    with pytest.raises(DeadlinePassed):
        reader.read(3)
