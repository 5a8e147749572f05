"""An open loop of requests for many models, over a fixed number of connections, so that descriptors can be counted."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np

TIMEOUT_MS = 2000
_CONNECTIONS = 128


@dataclass(frozen=True)
class Reply:
    """The answer to one request."""

    model: str
    seconds: float
    """From the time at which it was due to its last byte."""
    status: int
    load_ms: float | None
    """Time that the request waited for a load; None if its model was in memory."""
    retry_after: str | None
    content: dict[str, Any]


def zipf(names: Sequence[str], exponent: float, count: int, seed: int) -> list[str]:
    """Names drawn with probabilities in proportion to 1 / rank^exponent."""
    weights = np.arange(1, len(names) + 1, dtype=float) ** -exponent
    drawn = np.random.default_rng(seed).choice(len(names), count, p=weights / weights.sum())
    return [names[index] for index in drawn]


def send_all(url: str, image: bytes, models: Sequence[str], rate: float, seed: int) -> list[Reply]:
    """POST an image to each model in turn, at Poisson times that do not depend on the answers.

    Raises:
        OSError: a connection broke.
    """
    return asyncio.run(_send_all(url, image, models, rate, seed))


async def _send_all(url: str, image: bytes, models: Sequence[str], rate: float, seed: int) -> list[Reply]:
    target = urlsplit(url)
    # Connections are used in turn, so that the service closes none of them as idle.
    free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for _ in range(_CONNECTIONS):
        free.put_nowait(await asyncio.open_connection(target.hostname, target.port))
    due_at = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, len(models)))
    start = time.perf_counter()

    async def send(model: str, due: float) -> Reply:
        connection = await free.get()
        reader, writer = connection
        writer.write(
            f"POST /v1/models/{model}/classify?top_k=10&timeout_ms={TIMEOUT_MS} HTTP/1.1\r\nHost: {target.netloc}\r\n"
            f"Content-Type: image/png\r\nContent-Length: {len(image)}\r\n\r\n".encode()
            + image
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        content = await reader.readexactly(int(headers["content-length"]))
        seconds = time.perf_counter() - start - due
        free.put_nowait(connection)
        timing = headers.get("server-timing", "")
        load_ms = float(timing.partition("dur=")[2]) if timing else None
        status = int(head[0].split()[1])
        return Reply(model, seconds, status, load_ms, headers.get("retry-after"), json.loads(content))

    tasks = []
    for model, due in zip(models, due_at, strict=True):
        await asyncio.sleep(max(0.0, start + due - time.perf_counter()))
        tasks.append(asyncio.create_task(send(model, due)))
    replies = await asyncio.gather(*tasks)
    while not free.empty():
        free.get_nowait()[1].close()
    return list(replies)
