"""Writes of a connection in one piece, over a transport that remembers each write."""

from __future__ import annotations

from typing import Any

import pytest

from service.http.connection.coalescing_transport import CoalescingTransport


class Wire:
    """A transport that takes everything at once."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.ended: list[str] = []
        self.waiting = 0
        self.eof = True
        """Whether one side of it can be closed: without TLS."""

    def write(self, data: bytes) -> None:
        assert not self.ended
        self.writes.append(data)

    def close(self) -> None:
        self.ended.append("closed")

    def can_write_eof(self) -> bool:
        return self.eof

    def write_eof(self) -> None:
        self.ended.append("end written")

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


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 4\r\n\r\n"


@pytest.fixture
def wire() -> Any:
    return Wire()


@pytest.fixture
def output(wire: Any) -> CoalescingTransport:
    return CoalescingTransport(wire, lambda: False)


def test_head_and_body_leave_together(wire: Wire, output: CoalescingTransport) -> None:
    output.write(HEAD)
    assert not wire.writes
    output.write(b"body")
    assert wire.writes == [HEAD + b"body"]
    output.flush()
    assert wire.writes == [HEAD + b"body"]


def test_a_head_without_a_body_leaves_when_the_answer_is_complete(wire: Wire, output: CoalescingTransport) -> None:
    output.write(HEAD)
    output.flush()
    assert wire.writes == [HEAD]


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"4\r\nline\r\n",
        b"more of a body",
    ],
)
def test_everything_else_leaves_at_once(wire: Wire, output: CoalescingTransport, data: bytes) -> None:
    output.write(data)
    assert wire.writes == [data]


def test_a_body_in_parts_leaves_as_it_comes(wire: Wire, output: CoalescingTransport) -> None:
    for data in (HEAD, b"bo", b"dy"):
        output.write(data)
    assert wire.writes == [HEAD + b"bo", b"dy"]


def test_a_kept_head_counts_as_unread(wire: Wire, output: CoalescingTransport) -> None:
    wire.waiting = 7
    output.write(HEAD)
    assert output.get_write_buffer_size() == 7 + len(HEAD)
    output.flush()
    assert output.get_write_buffer_size() == 7


def test_closing_writes_first(wire: Wire, output: CoalescingTransport) -> None:
    output.write(HEAD)
    output.close()
    assert (wire.writes, wire.ended, output.is_closing()) == ([HEAD], ["closed"], True)


def test_a_connection_that_lingers_is_closed_when_it_is_closed_again(wire: Wire) -> None:
    output = CoalescingTransport(wire, lambda: True)  # type: ignore[arg-type]
    output.write(HEAD)
    output.close()
    assert (wire.writes, wire.ended, output.is_closing()) == ([HEAD], ["end written"], True)
    output.close()
    assert wire.ended == ["end written", "closed"]


def test_tls_lingers_by_itself(wire: Wire) -> None:
    wire.eof = False
    CoalescingTransport(wire, lambda: True).close()  # type: ignore[arg-type]
    assert wire.ended == ["closed"]


def test_aborting_does_not(wire: Wire, output: CoalescingTransport) -> None:
    output.write(HEAD)
    output.abort()
    assert (wire.writes, wire.ended) == ([], ["aborted"])


def test_the_rest_is_the_transports(output: CoalescingTransport) -> None:
    assert output.get_extra_info("peername") == "the peername"
