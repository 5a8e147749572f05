"""A thread that a codec holds is replaced and counted, and closing does not wait for it."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Coroutine
from functools import wraps

import pytest

from service.decoding import decoder_threads
from service.decoding.decoder_threads import DecoderThreads, _Job


def in_event_loop(test: Callable[[], Coroutine[None, None, None]]) -> Callable[[], None]:
    """Run an asynchronous test."""

    @wraps(test)
    def run() -> None:
        asyncio.run(test())

    return run


@pytest.fixture(autouse=True)
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_threads, "_GRACE_SECONDS", 0.0)


class Codec:
    """A call that holds its thread until `returns` is set."""

    def __init__(self) -> None:
        self.started, self.returns = threading.Event(), threading.Event()
        self.given_up = False

    def __call__(self) -> str:
        self.started.set()
        self.returns.wait()
        return "late"

    def give_up(self) -> None:
        self.given_up = True


async def abandon(threads: DecoderThreads, codec: Codec) -> None:
    """Start a call, and wait for it no longer."""
    running = asyncio.create_task(threads.run(codec, codec.give_up))
    await asyncio.to_thread(codec.started.wait)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.sleep(0)  # the event loop looks at the thread
    await asyncio.sleep(0)


def nothing() -> None:
    """Give up at once."""


@in_event_loop
async def test_a_held_thread_is_replaced_until_the_bound() -> None:
    threads = DecoderThreads(1)
    codecs = [Codec(), Codec()]
    await abandon(threads, codecs[0])
    assert codecs[0].given_up
    assert (threads.held, threads.replaced, threads.exhausted) == (1, 1, False)
    assert await threads.run(lambda: "decoded", nothing) == "decoded"
    await abandon(threads, codecs[1])
    assert (threads.held, threads.replaced, threads.exhausted) == (2, 1, True)
    for codec in codecs:
        codec.returns.set()
    assert await threads.run(lambda: "decoded again", nothing) == "decoded again"
    threads.close()


@in_event_loop
async def test_a_call_that_gives_up_keeps_its_thread() -> None:
    decoder_threads._GRACE_SECONDS = 60.0  # restored by the fixture
    threads = DecoderThreads(1)
    codec = Codec()
    running = asyncio.create_task(threads.run(codec, codec.returns.set))
    await asyncio.to_thread(codec.started.wait)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await threads.run(lambda: "next", nothing) == "next"
    assert (threads.held, threads.exhausted) == (0, False)
    threads.close()


@in_event_loop
async def test_a_call_that_never_started_is_not_made() -> None:
    threads = DecoderThreads(1)
    codec = Codec()
    first = asyncio.create_task(threads.run(codec, nothing))
    await asyncio.to_thread(codec.started.wait)
    calls: list[int] = []
    waiting = asyncio.create_task(threads.run(lambda: calls.append(1), nothing))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    codec.returns.set()
    assert await first == "late"
    assert await threads.run(lambda: "next", nothing) == "next"
    assert not calls
    threads.close()


@in_event_loop
async def test_errors_reach_the_caller() -> None:
    def fail() -> Callable[[], None]:
        raise KeyError("codec")

    threads = DecoderThreads(1)
    with pytest.raises(KeyError, match="codec"):
        await threads.run(fail, nothing)
    assert await threads.run(lambda: "next", nothing) == "next"
    threads.close()


class FailingCodec(Codec):
    """A call that fails as soon as `returns` is set."""

    def __call__(self) -> str:
        self.thread = threading.current_thread()
        super().__call__()
        raise ValueError("the file is damaged")


@in_event_loop
async def test_a_held_thread_that_fails_at_the_end_leaves_nothing_in_memory() -> None:
    threads = DecoderThreads(1)
    codec = FailingCodec()
    await abandon(threads, codec)
    thread, left = codec.thread, weakref.ref(codec)
    gc.disable()
    try:
        codec.returns.set()
        del codec
        await asyncio.to_thread(thread.join)
        assert left() is None
    finally:
        gc.enable()
        threads.close()


@in_event_loop
async def test_a_thread_that_returns_as_the_grace_ends_is_not_held() -> None:
    returned, leave = threading.Event(), threading.Event()

    class Paused(DecoderThreads):
        def _finish(self, job: _Job[object]) -> None:
            super()._finish(job)
            returned.set()
            leave.wait()

    threads = Paused(1)
    codec = Codec()
    running = asyncio.create_task(threads.run(codec, nothing))
    await asyncio.to_thread(codec.started.wait)
    codec.returns.set()
    await asyncio.to_thread(returned.wait)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.sleep(0)  # the event loop looks at the thread
    await asyncio.sleep(0)
    assert (threads.held, threads.replaced) == (0, 0)
    leave.set()
    threads.close()


@in_event_loop
async def test_closing_does_not_wait_for_a_held_thread() -> None:
    threads = DecoderThreads(1)
    codec = Codec()
    await abandon(threads, codec)
    threads.close()
    assert threads.held == 1
    codec.returns.set()
