"""Batches of files from many requests, with a decoder that a test holds."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Coroutine, Sequence
from queue import SimpleQueue
from threading import Semaphore
from typing import Any

import numpy as np
import pytest

from models.imaging.preprocess import Preprocess
from service.core.priority import Priority
from service.executors.gpu.gpu_batcher import DecodeBatcher
from service.messages.decoding import DecodedImage
from tests.support.geometry import preprocess_for
from tests.support.service import TIMEOUT

SMALL, LARGE = preprocess_for(32, 3), preprocess_for(64, 3)
BULK, INTERACTIVE = Priority.bulk, Priority.interactive


class HeldBack:
    """Decodes a file into one pixel, its first byte, when the test allows it."""

    def __init__(self) -> None:
        self.begun: SimpleQueue[bytes] = SimpleQueue()
        """First bytes of the files of each call."""
        self.let = Semaphore(0)
        self.closed = False

    def decode(self, files: Sequence[bytes], preprocess: Preprocess) -> list[DecodedImage | None]:
        self.begun.put(b"".join(files))
        assert self.let.acquire(timeout=TIMEOUT)
        if b"!" in files:
            raise RuntimeError("the device is gone")
        return [DecodedImage(np.full((1, 1, 3), file[0], np.uint8), 1, 1) for file in files]

    def close(self) -> None:
        self.closed = True


Scene = Callable[["Stage"], Coroutine[Any, Any, None]]


class Stage:
    def __init__(self) -> None:
        self.jpeg = HeldBack()
        held_back: Any = self.jpeg
        self.together = DecodeBatcher(held_back)

    def ask(
        self, files: bytes, preprocess: Preprocess = SMALL, priority: Priority = INTERACTIVE
    ) -> asyncio.Task[list[DecodedImage | None]]:
        """A request of one file for each byte."""
        each = [bytes([byte]) for byte in files]
        return asyncio.create_task(self.together.decode(each, preprocess, priority))

    async def begun(self) -> bytes:
        return await asyncio.to_thread(self.jpeg.begun.get, timeout=TIMEOUT)

    async def occupy(self) -> list[asyncio.Task[list[DecodedImage | None]]]:
        """Make both threads busy."""
        tasks = []
        for name in (b"1", b"2"):
            tasks.append(self.ask(name))
            assert await self.begun() == name
        return tasks


def play(scene: Scene) -> None:
    async def whole() -> None:
        stage = Stage()
        try:
            async with asyncio.timeout(TIMEOUT):
                await scene(stage)
        finally:
            stage.jpeg.let.release(1000)
            await asyncio.to_thread(stage.together.close)
        assert stage.jpeg.closed

    asyncio.run(whole())


def values(cuts: Sequence[DecodedImage | None]) -> bytes:
    return bytes(int(cut.pixels[0, 0, 0]) for cut in cuts if cut is not None)


def test_files_that_arrive_during_a_batch_share_the_next() -> None:
    async def scene(stage: Stage) -> None:
        first = await stage.occupy()
        later = [stage.ask(name) for name in (b"a", b"bc", b"d")]
        await asyncio.sleep(0)
        stage.jpeg.let.release()
        assert await stage.begun() == b"abcd"
        stage.jpeg.let.release(2)
        assert [values(await task) for task in (*first, *later)] == [b"1", b"2", b"a", b"bc", b"d"]

    play(scene)


def test_large_request_is_split_between_the_threads() -> None:
    async def scene(stage: Stage) -> None:
        names = bytes(range(64, 64 + 80))
        task = stage.ask(names)
        both = {await stage.begun(), await stage.begun()}
        assert both == {names[:32], names[32:64]}
        stage.jpeg.let.release(3)
        assert await stage.begun() == names[64:]
        assert values(await task) == names

    play(scene)


def test_batch_has_files_of_one_geometry() -> None:
    async def scene(stage: Stage) -> None:
        await stage.occupy()
        for name, preprocess in ((b"a", SMALL), (b"b", SMALL), (b"c", LARGE), (b"d", SMALL)):
            stage.ask(name, preprocess)
        await asyncio.sleep(0)
        stage.jpeg.let.release(10)
        assert {await stage.begun(), await stage.begun(), await stage.begun()} == {b"ab", b"c", b"d"}

    play(scene)


def test_interactive_files_pass_bulk_files_that_get_their_share() -> None:
    async def scene(stage: Stage) -> None:
        await stage.occupy()
        stage.ask(b"B" * 20, priority=BULK)
        for _ in range(40):
            stage.ask(b"i")
        stage.ask(b"b", priority=BULK)
        await asyncio.sleep(0)
        stage.jpeg.let.release()
        assert await stage.begun() == b"i" * 32
        stage.jpeg.let.release()
        assert await stage.begun() == b"i" * 8 + b"B" * 20 + b"b"

    play(scene)


def test_bulk_never_starves() -> None:
    async def scene(stage: Stage) -> None:
        await stage.occupy()
        stage.ask(b"b" * 4, priority=BULK)
        for _ in range(200):
            stage.ask(b"i")
        await asyncio.sleep(0)
        stage.jpeg.let.release()
        assert await stage.begun() == b"bbbb" + b"i" * 28

    play(scene)


def test_cancelled_files_are_not_decoded() -> None:
    async def scene(stage: Stage) -> None:
        await stage.occupy()
        gone, stays = stage.ask(b"g"), stage.ask(b"s")
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
        stage.jpeg.let.release()
        assert await stage.begun() == b"s"
        stage.jpeg.let.release(2)
        assert values(await stays) == b"s"

    play(scene)


@pytest.mark.slow
def test_failure_reaches_the_requests_of_its_batch_only(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(stage: Stage) -> None:
        first = await stage.occupy()
        later = [stage.ask(b"!"), stage.ask(b"y"), stage.ask(b"x" * 32)]
        await asyncio.sleep(0)
        stage.jpeg.let.release(100)
        *failed, well = await asyncio.gather(*later, return_exceptions=True)
        assert [str(error) for error in failed] == ["the device is gone"] * 2
        assert isinstance(well, list) and values(well) == b"x" * 32
        assert [values(await task) for task in first] == [b"1", b"2"]

    with caplog.at_level(logging.ERROR):
        play(scene)
        gc.collect()  # asyncio logs an error of a future that was not retrieved when the future is freed
    assert not caplog.records
