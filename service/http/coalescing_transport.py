"""The head of an answer waits for its body: both leave in one piece.

uvicorn writes them apart. Each costs a system call and a segment, and wakes the client.
"""

from __future__ import annotations

import asyncio

_BEGINNING, _LENGTH = b"HTTP/1.1 ", b"\r\ncontent-length: "
"""Of a head that a body follows at once; where it comes in chunks, the first may be long in coming."""


class CoalescingTransport:
    """A transport that holds such a head back until what follows, or until `flush`.

    Args:
        transport: of the connection.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""
        self.get_extra_info = transport.get_extra_info
        self.is_closing = transport.is_closing
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_BEGINNING) and _LENGTH in data:
            self._head = data
            return
        self._transport.write(data)

    def flush(self) -> None:
        """Nothing follows: write what is held."""
        if self._head:
            self._transport.write(self._head)
            self._head = b""

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        self._head = b""
        self._transport.abort()

    def get_write_buffer_size(self) -> int:
        """Bytes that the client has not taken yet."""
        return len(self._head) + self._transport.get_write_buffer_size()
