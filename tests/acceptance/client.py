"""A client that costs little, so that on a small machine the server is what is measured."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes


async def post_all(
    url: str, bodies: Sequence[bytes], connections: int, content_type: str = "image/png"
) -> list[Answer]:
    """POST each body once, from several connections that each send the next when theirs is answered (HTTP/1.1)."""
    target = urlsplit(url)
    answers: dict[int, Answer] = {}
    pending = iter(enumerate(bodies))

    async def connection() -> None:
        reader, writer = await asyncio.open_connection(target.hostname, target.port)
        try:
            for index, body in pending:
                writer.write(
                    f"POST {target.path}?{target.query} HTTP/1.1\r\nHost: {target.netloc}\r\n"
                    f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                    + body
                )
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                length = next(line for line in head.split("\r\n") if line.startswith("content-length:"))
                content = await reader.readexactly(int(length.partition(":")[2]))
                answers[index] = Answer(int(head.split(" ", 2)[1]), content)
        finally:
            writer.close()
            await writer.wait_closed()

    await asyncio.gather(*(connection() for _ in range(connections)))
    return [answers[index] for index in range(len(bodies))]
