"""What a connection writes, in one piece: over a transport that remembers each write."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from service.gather import Gathered


class Wire:
    """A transport that takes everything at once."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.ended: list[str] = []
        self.waiting = 0

    def write(self, data: bytes) -> None:
        assert not self.ended
        self.writes.append(data)

    def close(self) -> None:
        self.ended.append("closed")

    def abort(self) -> None:
        self.ended.append("aborted")

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def get_extra_info(self, name: str) -> str:
        return f"the {name}"

    def is_closing(self) -> bool:
        return bool(self.ended)

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


@pytest.fixture
def wire() -> Wire:
    return Wire()


def play(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scene)


def gathered(wire: Any) -> Gathered:
    return Gathered(wire, asyncio.get_running_loop())


def test_head_and_body_leave_together_when_the_answer_is_complete(wire: Wire) -> None:
    async def scene() -> None:
        output = gathered(wire)
        output.write(b"head ")
        output.write(b"body")
        assert not wire.writes
        output.flush()
        assert wire.writes == [b"head body"]
        await asyncio.sleep(0)
        assert wire.writes == [b"head body"]

    play(scene())


def test_what_is_not_complete_leaves_in_the_next_turn(wire: Wire) -> None:
    async def scene() -> None:
        output = gathered(wire)
        output.write(b"a line")
        await asyncio.sleep(0)
        output.write(b"another")
        await asyncio.sleep(0)
        assert wire.writes == [b"a line", b"another"]

    play(scene())


def test_much_is_not_held_back(wire: Wire) -> None:
    async def scene() -> None:
        output = gathered(wire)
        output.write(b"head ")
        output.write(bytes(100_000))
        assert [len(data) for data in wire.writes] == [100_005]

    play(scene())


def test_what_is_held_counts_as_not_taken(wire: Wire) -> None:
    async def scene() -> None:
        output = gathered(wire)
        wire.waiting = 7
        output.write(b"abc")
        assert output.get_write_buffer_size() == 10
        output.flush()
        assert output.get_write_buffer_size() == 7

    play(scene())


def test_closing_writes_first_and_aborting_does_not(wire: Wire) -> None:
    async def scene() -> None:
        output = gathered(wire)
        output.write(b"last words")
        output.close()
        assert (wire.writes, wire.ended, output.is_closing()) == ([b"last words"], ["closed"], True)
        other = Wire()
        output = gathered(other)
        output.write(b"never")
        output.abort()
        await asyncio.sleep(0)
        assert (other.writes, other.ended) == ([], ["aborted"])

    play(scene())


def test_the_rest_is_the_transports(wire: Wire) -> None:
    async def scene() -> None:
        assert gathered(wire).get_extra_info("peername") == "the peername"

    play(scene())
