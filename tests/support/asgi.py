"""A client that decides when each message of a request comes, and sees each part of the answer as it is sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message

from service.http.connection_state import ConnectionState


@dataclass
class Exchange:
    """One request, and what has been answered to it so far."""

    body: AsyncIterator[bytes] | Sequence[bytes]
    headers: dict[str, str] = field(default_factory=dict)
    path: str = "/v1/classify"
    root_path: str = ""
    """That the service is under; stands before the path."""
    connection: ConnectionState = field(default_factory=ConnectionState)
    on_body: Callable[[bytes], object] = lambda part: None
    status: int = 0
    answer_headers: dict[str, str] = field(default_factory=dict)
    answer: bytes = b""
    _gone: asyncio.Event = field(default_factory=asyncio.Event)

    def hang_up(self) -> None:
        self._gone.set()
        self.connection.disconnect()

    async def run(self, app: ASGIApp) -> None:
        """Until the application has finished."""
        messages = self._messages()
        path, _, query = self.path.partition("?")
        await app(
            {
                "type": "http",
                "method": "POST",
                "path": self.root_path + path,
                "raw_path": (self.root_path + path).encode(),
                "root_path": self.root_path,
                "query_string": query.encode(),
                "headers": [(name.lower().encode(), value.encode()) for name, value in self.headers.items()],
                "client": ("192.0.2.1", 1234),
                "state": {"connection": self.connection},
            },
            messages.__anext__,
            self._send,
        )

    def json(self) -> Any:
        return json.loads(self.answer)

    async def _messages(self) -> AsyncIterator[Message]:
        if isinstance(self.body, Sequence):
            for part in self.body[:-1]:
                yield {"type": "http.request", "body": part, "more_body": True}
            yield {"type": "http.request", "body": self.body[-1], "more_body": False}
        else:
            async for part in self.body:
                yield {"type": "http.request", "body": part, "more_body": True}
            yield {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        while True:
            yield {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if self.status:  # as servers do, which then close the connection
                raise RuntimeError("the answer has begun already")
            self.status = message["status"]
            self.answer_headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.answer += message.get("body", b"")
            self.on_body(message.get("body", b""))
