"""How much is parsed and read, with a parser and a transport that the test drives."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from service.http.connection.request_input import PIECE_BYTES, RequestInput


class Wire:
    """A transport that remembers whether it is read."""

    reads = True

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True


class Parser:
    """Takes pieces of a body as long as one is left, and else of heads; a request waits if the test says so."""

    def __init__(self) -> None:
        self.parsed = b""
        self.body_bytes = 0
        self.left = 0
        self.waits = False
        self.input: Any = None

    def parse(self, data: bytes | memoryview) -> None:
        self.parsed += bytes(data)
        if self.left:
            self.body_bytes += len(data)
            self.left -= len(data)
        if self.waits:
            self.input.pause_reading()

    def body_left(self) -> int:
        return self.left

    def head_left(self) -> int:
        return 65536

    def request_waits(self) -> bool:
        return self.waits


DATA = bytes(range(256)) * 256


@pytest.fixture
def wire() -> Any:
    return Wire()


@pytest.fixture
def parser() -> Parser:
    return Parser()


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_nothing_is_parsed_or_read_after_a_request_that_waits(wire: Any, parser: Parser) -> None:
    async def play() -> None:
        parser.input = request_input = RequestInput(wire, parser, asyncio.get_running_loop())
        parser.waits = True
        request_input.feed(DATA)
        request_input.resume_reading()  # as uvicorn does when the request before it waits for the end of the connection
        await turns(100)
        assert (len(parser.parsed), wire.reads) == (PIECE_BYTES, False)
        parser.waits = False
        request_input.resume_reading()
        assert len(parser.parsed) == PIECE_BYTES  # uvicorn starts the request that waits first
        await turns(100)
        assert (parser.parsed, wire.reads) == (DATA, True)

    asyncio.run(play())


def test_heads_are_parsed_in_turns(wire: Any, parser: Parser) -> None:
    async def play() -> None:
        request_input = RequestInput(wire, parser, asyncio.get_running_loop())
        request_input.feed(DATA)
        assert (len(parser.parsed), wire.reads) == (PIECE_BYTES, False)
        request_input.feed(DATA)  # the transport had it already
        await turns(100)
        assert (parser.parsed, wire.reads) == (DATA + DATA, True)

    asyncio.run(play())


def test_a_body_is_parsed_at_once(wire: Any, parser: Parser) -> None:
    async def play() -> None:
        request_input = RequestInput(wire, parser, asyncio.get_running_loop())
        parser.left = len(DATA)
        request_input.feed(DATA)
        assert (parser.parsed, wire.reads) == (DATA, True)

    asyncio.run(play())


def test_dropped_bytes_are_not_parsed(wire: Any, parser: Parser) -> None:
    async def play() -> None:
        request_input = RequestInput(wire, parser, asyncio.get_running_loop())
        request_input.feed(DATA)
        request_input.drop()
        await turns(100)
        assert len(parser.parsed) == PIECE_BYTES

    asyncio.run(play())


def test_a_head_is_parsed_alone(wire: Any, parser: Parser) -> None:
    async def play() -> None:
        request_input = RequestInput(wire, parser, asyncio.get_running_loop())
        request_input.feed(b"head\r\n\r\n" + DATA)
        assert parser.parsed == b"head\r\n\r\n"

    asyncio.run(play())
