"""The head and the body of a response leave in one write.

uvicorn writes them separately. Each write costs a system call and a segment, and wakes the client: 3 % of the
throughput of a ResNet-20 at one connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_HEAD, _LENGTH = b"HTTP/1.1 ", b"\r\ncontent-length: "
"""Both are in a head that a body follows at once. Before the first chunk of a streamed body, minutes may pass."""


class CoalescingTransport:
    """A transport that keeps such a head until the next write, or until `flush`.

    Args:
        transport: transport of the connection.
        lingers: called before the connection is closed; if it returns True, the client gets the end of the connection,
            and is read until it ends its side. With TLS the transport does so by itself.
    """

    def __init__(self, transport: asyncio.Transport, lingers: Callable[[], bool]) -> None:
        self._transport = transport
        self._lingers = lingers
        self._head = b""
        self.get_extra_info = transport.get_extra_info
        self.is_closing = transport.is_closing
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading

    def write(self, data: bytes) -> None:
        """Write, or keep a head."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_HEAD) and _LENGTH in data:
            self._head = data
            return
        self._transport.write(data)

    def flush(self) -> None:
        """Write the head if there is one: no body follows."""
        if self._head:
            self._transport.write(self._head)
            self._head = b""

    def close(self) -> None:
        """Write the head and close the connection, or let it linger."""
        self.flush()
        if not self.is_closing() and self._transport.can_write_eof() and self._lingers():
            self.is_closing = _closing
            self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._head = b""
        self._transport.abort()

    def get_write_buffer_size(self) -> int:
        """Bytes that the client has not read yet."""
        return len(self._head) + self._transport.get_write_buffer_size()


def _closing() -> bool:
    return True
