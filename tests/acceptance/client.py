"""A client that costs little, so that on a small machine the server is what is measured."""

from __future__ import annotations

import asyncio
import random
import time
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


@dataclass(frozen=True)
class Timed:
    """An answer of the open loop; the status is 0 where the connection broke."""

    due: float
    """When it was to be sent, in seconds from the start."""
    seconds: float
    """From then to the last byte of the answer."""
    status: int


async def open_loop(
    url: str, body: bytes, rate: float, seconds: float, seed: int = 0, content_type: str = "image/png"
) -> list[Timed]:
    """POST a body at Poisson times, however long the responses take: a slow server does not get fewer requests."""
    target = urlsplit(url)
    request = (
        f"POST {target.path}?{target.query} HTTP/1.1\r\nHost: {target.netloc}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    answers: list[Timed] = []
    start = time.perf_counter()

    async def send(due: float) -> None:
        status = 0
        try:
            reader, writer = idle.pop() if idle else await asyncio.open_connection(target.hostname, target.port)
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split(None, 1)[0]))
            status = int(head.split(b" ", 2)[1])
            idle.append((reader, writer))
        except (OSError, EOFError):
            pass
        answers.append(Timed(due, time.perf_counter() - start - due, status))

    moments = random.Random(seed)
    due = moments.expovariate(rate)
    async with asyncio.TaskGroup() as sending:
        while due < seconds:
            await asyncio.sleep(max(0.0, start + due - time.perf_counter()))
            sending.create_task(send(due))
            due += moments.expovariate(rate)
    for _, writer in idle:
        writer.close()
    return answers
