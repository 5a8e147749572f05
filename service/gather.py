"""What a connection writes in one turn of the event loop leaves in one piece.

uvicorn writes the head of an answer and its body apart. Each costs a system call and a segment, and wakes the client.
"""

from __future__ import annotations

import asyncio

_MOST = 64 * 1024
"""Bytes that are held back; whoever writes more is to learn how fast the client reads."""


class Gathered:
    """A transport that writes later than it is told to: at `flush`, or else in the next turn.

    Args:
        transport: of the connection.
        loop: that it belongs to.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self._bytes = 0
        self.get_extra_info = transport.get_extra_info
        self.is_closing = transport.is_closing
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading

    def write(self, data: bytes) -> None:
        if not self._held:
            self._loop.call_soon(self.flush)
        self._held.append(data)
        self._bytes += len(data)
        if self._bytes > _MOST:
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        if self._held:
            data = b"".join(self._held)
            self._held.clear()
            self._bytes = 0
            self._transport.write(data)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        self._held.clear()
        self._transport.abort()

    def get_write_buffer_size(self) -> int:
        """Bytes that the client has not taken yet."""
        return self._bytes + self._transport.get_write_buffer_size()
