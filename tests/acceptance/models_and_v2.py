"""Models, versions and the Open Inference Protocol: real clients, and versions that change under load.

    python -m tests.acceptance.models_and_v2 [LINE ...]

Needs the `cpu`, `train` and `dev` extras; line 1 also `perf_analyzer` on the PATH or in PERF_ANALYZER. Line 2 takes
more than a minute and wants a quiet machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from export.build import build
from tests.acceptance.report import run
from tests.acceptance.server import Server, serve
from tests.networks import make_checkpoint

ROOT = Path(__file__).parents[2]
CONNECTIONS = 32
SECONDS = 60
ROUNDS = 10


@dataclass
class Load:
    """What clients saw: the status and version of each answer, and when it was asked and received."""

    answers: list[tuple[float, float, int, str]] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    stop: asyncio.Event = field(default_factory=asyncio.Event)


async def _connection(server: Server, path: str, body: bytes, load: Load) -> None:
    target = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(target.hostname, target.port)
    head = f"POST {path} HTTP/1.1\r\nHost: {target.netloc}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    try:
        while not load.stop.is_set():
            asked = time.monotonic()
            writer.write(head + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = next(line for line in answer.split("\r\n") if line.startswith("content-length:"))
            content = json.loads(await reader.readexactly(int(length.partition(":")[2])))
            status = int(answer.split(" ", 2)[1])
            load.answers.append((asked, time.monotonic(), status, content.get("version", content.get("detail"))))
    except Exception as error:
        load.errors[f"{type(error).__name__}: {error}"] += 1
    finally:
        writer.close()


def _copy(repository: Path, number: int) -> None:
    """Version 1 under another number, put in place as export does it: in one step."""
    model = repository / "model"
    staging = Path(shutil.copytree(model / "1", model / f".partial-{number}"))
    path = staging / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": number}))
    staging.rename(model / str(number))


async def _until(client: httpx.AsyncClient, number: int, states: set[str | None]) -> float:
    """When a version was first reported in one of the states (None: not at all), in `time.monotonic` seconds."""
    while True:
        answer = await client.get("/v1/models/model")
        status = next((each for each in answer.json()["versions"] if each["version"] == str(number)), None)
        if (None if status is None else status["state"]) in states:
            return time.monotonic()
        await asyncio.sleep(0.02)


@contextmanager
def _large_model() -> Iterator[Path]:
    """A repository with a ResNet-18 of 45 MB, so that one that is not freed shows."""
    with tempfile.TemporaryDirectory() as folder:
        make_checkpoint("resnet18", size=64).save(Path(folder) / "checkpoint.safetensors")
        build(Path(folder) / "checkpoint.safetensors", Path(folder) / "repository", "model")
        yield Path(folder) / "repository"


def _resources(server: Server) -> tuple[float, int]:
    """Resident megabytes, and open descriptors."""
    process = Path("/proc") / str(server.process.pid)
    resident = int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    return resident, len(list((process / "fd").iterdir()))


async def _under_load(server: Server, repository: Path, body: bytes, seconds: float, rounds: int) -> Load:
    """Load from all connections while versions come and go; the times at which they were reported gone are checked."""
    load = Load()
    clients = [asyncio.create_task(_connection(server, "/v1/classify", body, load)) for _ in range(CONNECTIONS)]
    started = time.monotonic()
    gone: dict[str, float] = {}
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        for turn in range(rounds):
            first, second = 2 * turn + 2, 2 * turn + 3
            _copy(repository, first)
            await _until(client, first, {"READY"})
            _copy(repository, second)
            await _until(client, second, {"READY"})
            shutil.rmtree(repository / "model" / str(second))
            gone[str(second)] = await _until(client, second, {None})
            shutil.rmtree(repository / "model" / str(first))
            gone[str(first)] = await _until(client, first, {None})
            print(f"  round {turn + 1}: {time.monotonic() - started:.0f} s, {_resources(server)}", flush=True)
        await asyncio.sleep(max(0.0, started + seconds - time.monotonic()))
    load.stop.set()
    await asyncio.gather(*clients)
    late = [version for _, received, _, version in load.answers if received > gone.get(version, received)]
    load.errors.update(f"version {version} after it was gone" for version in late)
    return load


def line_2() -> tuple[bool, str]:
    """32 connections for 60 s while versions are added, replaced and removed ten times: nothing fails or leaks."""
    body = (ROOT / "export" / "photographs" / "cat.jpg").read_bytes()
    with _large_model() as repository, serve("--repository", str(repository)) as server:
        ready = _resources(server)
        asyncio.run(_under_load(server, repository, body, 5, 0))
        before = _resources(server)
        load = asyncio.run(_under_load(server, repository, body, SECONDS, ROUNDS))
        time.sleep(1)  # the connections are closed
        after = _resources(server)
    statuses = Counter(status for _, _, status, _ in load.answers)
    slowest = max(received - asked for asked, received, _, _ in load.answers)
    versions = len({version for _, _, _, version in load.answers})
    back = all(now <= 1.1 * then for now, then in zip(after, before, strict=True))
    holds = statuses.keys() == {200} and not load.errors and back and versions > ROUNDS
    return holds, (
        f"{len(load.answers)} answers {dict(statuses)} from {versions} versions, slowest {slowest:.2f} s, "
        f"errors {dict(load.errors) or 'none'}; MB and descriptors when ready {ready}, under load before {before}, "
        f"after {after}"
    )


if __name__ == "__main__":
    run({2: line_2})
