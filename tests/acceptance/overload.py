"""Overload: other clients are not affected, and metrics show the load.

    python -m tests.acceptance.overload [LINE ...]

Needs the `cpu`, `train` and `dev` extras, and promtool (Debian's package prometheus). The load comes from this process,
the service runs in its own; nothing else should run on the machine.
"""

from __future__ import annotations

import asyncio
import gc
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import httpx
import uvloop
from pydantic_settings import CliApp

from export.build import build
from service.core.settings import Settings
from service.serve import make_server
from tests.acceptance.client import Timed, open_loop, post_all
from tests.acceptance.report import run
from tests.acceptance.server import Server, serve
from tests.support.networks import make_checkpoint

ROOT = Path(__file__).parents[2]
IMAGE = (ROOT / "models" / "pretrained" / "examples" / "ankle-boot.png").read_bytes()
PHOTOGRAPH = (ROOT / "export" / "photographs" / "cat.jpg").read_bytes()

BATCH_SECONDS = 0.02
MAX_BATCH = 4
CAPACITY = MAX_BATCH / BATCH_SECONDS
SIMULATED = ("--executor", f"simulated:{BATCH_SECONDS * 1000:g}", "--max-batch", str(MAX_BATCH))


def line_1() -> tuple[bool, str]:
    """Poisson arrivals at 0.5, 1, 2 and 5 times the capacity, on a simulated executor and on ResNet-50."""
    with serve(*SIMULATED) as server:
        simulated = _loads(server, CAPACITY, timeout=0.25, batch_seconds=BATCH_SECONDS, image=IMAGE)
    with tempfile.TemporaryDirectory() as folder:
        repository = _resnet50(Path(folder))
        # One CPU for the engine: the clients run on this machine too.
        with serve("--repository", str(repository), "--threads", "1") as server:
            capacity = _capacity(server)
            batch_seconds = server.metric("resnet_batch_seconds_sum") / server.metric("resnet_batch_seconds_count")
            real = _loads(server, capacity, timeout=1.0, batch_seconds=batch_seconds, image=PHOTOGRAPH)
    return simulated[0] and real[0], f"simulated: {simulated[1]}; ResNet-50: {real[1]}"


def _loads(server: Server, capacity: float, timeout: float, batch_seconds: float, image: bytes) -> tuple[bool, str]:
    url = f"{server.url}/v1/classify?timeout_ms={timeout * 1000:g}"
    seconds = 12.0
    goodput: dict[float, float] = {}
    late, refusals = 0.0, {}
    for factor in (0.5, 1.0, 2.0, 5.0):
        answers = uvloop.run(open_loop(url, image, factor * capacity, seconds))
        settled = [answer for answer in answers if answer.due >= 2.0]
        good = [answer for answer in settled if answer.status == 200]
        refused = [answer.seconds for answer in settled if answer.status == 503]
        goodput[factor] = sum(answer.seconds <= timeout + batch_seconds for answer in good) / (seconds - 2.0)
        late = max(late, *(answer.seconds - timeout for answer in good))
        refusals[factor] = statistics.median(refused) if refused else 0.0
        print(
            f"  {factor:g} x {capacity:.0f}/s: goodput {goodput[factor]:.1f}/s, statuses {_statuses(settled)}, "
            f"median of answers {statistics.median(answer.seconds for answer in good) * 1000:.0f} ms, "
            f"of refusals {refusals[factor] * 1000:.1f} ms, latest {late * 1000:+.0f} ms",
            flush=True,
        )
    ratio = goodput[5.0] / goodput[1.0]
    holds = ratio >= 0.9 and max(refusals.values()) <= 0.05 and late <= batch_seconds
    return holds, (
        f"goodput at 5 x {ratio:.0%} of that at 1 x (at least 90 %), refusals in "
        f"{max(refusals.values()) * 1000:.1f} ms (at most 50), "
        f"latest answer {late * 1000:+.0f} ms from its deadline (at most +{batch_seconds * 1000:.0f})"
    )


def _statuses(answers: Sequence[Timed]) -> dict[int, int]:
    statuses = [answer.status for answer in answers]
    return {status: statuses.count(status) for status in sorted(set(statuses))}


def _resnet50(folder: Path) -> Path:
    make_checkpoint("resnet50", size=224).save(folder / "resnet50.safetensors")
    build(folder / "resnet50.safetensors", folder / "repository", "resnet50")
    return folder / "repository"


def _capacity(server: Server) -> float:
    """Images a second from 16 connections that always have a request open; the best of three."""
    count, rates = 150, []
    for _ in range(3):
        started = time.perf_counter()
        uvloop.run(post_all(f"{server.url}/v1/classify", [PHOTOGRAPH] * count, connections=16))
        rates.append(count / (time.perf_counter() - started))
    return max(rates)


def line_2() -> tuple[bool, str]:
    """1,000 clients that disconnect at random times leave nothing behind."""
    with _in_this_process(*SIMULATED) as (url, loop):
        asyncio.run(post_all(f"{url}/v1/classify", [IMAGE] * 20, connections=4))
        before = _left_behind(url, loop)
        asyncio.run(_leave(url, callers=1000))
        computed = _metric(url, "resnet_batch_size_sum")
        gone = time.perf_counter()
        while (after := _left_behind(url, loop)) != before and time.perf_counter() < gone + 10.0:
            time.sleep(0.01)
        beyond = _metric(url, "resnet_batch_size_sum") - computed
        answered = asyncio.run(post_all(f"{url}/v1/classify", [IMAGE] * 20, connections=4))
    holds = beyond <= MAX_BATCH and after == before and all(answer.status == 200 for answer in answered)
    return holds, (
        f"{beyond:.0f} images computed after the last had gone (at most {MAX_BATCH}); tasks, requests, images in "
        f"flight, queue and descriptors before {before}, after {after}"
    )


async def _leave(url: str, callers: int) -> None:
    """Connect, send all of a request or part of it, and disconnect within a tenth of a second."""
    target = urlsplit(url)
    moments = random.Random(0)
    request = f"POST /v1/classify HTTP/1.1\r\nHost: service\r\nContent-Length: {len(IMAGE)}\r\n\r\n".encode() + IMAGE

    async def one() -> None:
        await asyncio.sleep(moments.uniform(0.0, 3.0))
        _, writer = await asyncio.open_connection(target.hostname, target.port)
        sent = len(request) if moments.random() < 0.8 else moments.randrange(len(request))
        writer.write(request[:sent])
        await asyncio.sleep(moments.uniform(0.0, 0.1))
        writer.transport.abort()

    await asyncio.gather(*(one() for _ in range(callers)))


@contextmanager
def _in_this_process(*options: str) -> Iterator[tuple[str, asyncio.AbstractEventLoop]]:
    """The service in a thread, so that its tasks can be counted."""
    server = make_server(CliApp.run(Settings, cli_args=["--port", "0", "--log-format", "text", *options]))
    loop = uvloop.new_event_loop()
    thread = Thread(target=lambda: loop.run_until_complete(server.serve()), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    while not httpx.get(f"{url}/readyz").is_success:
        time.sleep(0.05)
    try:
        yield url, loop
    finally:
        server.should_exit = True
        thread.join(30)


def _metric(url: str, name: str) -> float:
    text = httpx.get(f"{url}/metrics").text
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


def _left_behind(url: str, loop: asyncio.AbstractEventLoop) -> tuple[float, ...]:
    counted = [_metric(url, f"resnet_{name}") for name in ("requests_in_flight", "images_in_flight", "queue_images")]
    return (len(asyncio.all_tasks(loop)), *counted, _metric(url, "process_open_fds"))


def line_3() -> tuple[bool, str]:
    """Bulk at 3 times the capacity beside a little interactive traffic; then both at 3 times."""
    with serve(*SIMULATED) as server:
        interactive, bulk = (f"{server.url}/v1/classify?priority={name}" for name in ("interactive", "bulk"))
        alone = _median(uvloop.run(open_loop(interactive, IMAGE, 20.0, 10.0)))

        async def together(rate: float) -> tuple[list[Timed], list[Timed]]:
            return await asyncio.gather(
                open_loop(interactive, IMAGE, rate, 12.0, seed=1), open_loop(bulk, IMAGE, 3 * CAPACITY, 12.0, seed=2)
            )

        loaded, _ = uvloop.run(together(20.0))
        median = _median([answer for answer in loaded if answer.due >= 2.0])
        flood = uvloop.run(together(3 * CAPACITY))
    failed = sum(answer.status != 200 for answer in loaded)
    done = [
        sum(answer.status == 200 and 4.0 <= answer.due + answer.seconds <= 12.0 for answer in answers)
        for answers in flood
    ]
    share = done[1] / sum(done)
    limit = 2 * alone + BATCH_SECONDS
    return median <= limit and share >= 0.1 and not failed, (
        f"interactive median {median * 1000:.1f} ms beside bulk at 3 x, {alone * 1000:.1f} ms alone (at most "
        f"{limit * 1000:.1f}), {failed} of {len(loaded)} failed; bulk gets {share:.1%} of what is done when both come "
        f"at 3 x (at least 10 %)"
    )


def _median(answers: Sequence[Timed]) -> float:
    return statistics.median(answer.seconds for answer in answers if answer.status == 200)


def line_4() -> tuple[bool, str]:
    """Every metric is read after traffic that moves it; promtool is silent; a trace has one span per stage."""
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "tests/integration/test_access_log.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    with serve() as server:
        asyncio.run(post_all(f"{server.url}/v1/classify", [IMAGE] * 20, connections=4))
        text = httpx.get(f"{server.url}/metrics").text
    promtool = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    said = promtool.stdout + promtool.stderr
    holds = tests.returncode == 0 and "skipped" not in tests.stdout and promtool.returncode == 0 and not said
    return holds, f"tests: {tests.stdout.splitlines()[-1]}; promtool: {said or 'silent'}"


def line_5() -> tuple[bool, str]:
    """Other clients beside 1,000 idle connections, 100 uploads of one byte per second and 20 that do not read."""
    quiet, disturbed = [], []
    with serve(*SIMULATED) as server, serve() as shipped:
        for _ in range(5):
            quiet.append(_throughput(server, shipped))
            with _bad_clients(server), _bad_clients(shipped):
                disturbed.append(_throughput(server, shipped))
    before, after = (tuple(map(statistics.median, zip(*paces, strict=True))) for paces in (quiet, disturbed))
    holds = after[0] <= 1.1 * before[0] and after[1] >= 0.9 * before[1]
    return holds, (
        f"median answer {after[0] * 1000:.2f} ms, {before[0] * 1000:.2f} without them (at most 10 % more); "
        f"{after[1]:.0f} requests/s of the shipped model, {before[1]:.0f} without them (at most 10 % fewer)"
    )


def _throughput(server: Server, shipped: Server) -> tuple[float, float]:
    """Median seconds at half the simulated capacity, and requests per second of the shipped model."""
    median = _median(uvloop.run(open_loop(f"{server.url}/v1/classify", IMAGE, CAPACITY / 2, 4.0)))
    count = 4000
    started = time.perf_counter()
    uvloop.run(post_all(f"{shipped.url}/v1/classify", [IMAGE] * count, connections=16))
    return median, count / (time.perf_counter() - started)


@contextmanager
def _bad_clients(server: Server) -> Iterator[None]:
    target = urlsplit(server.url)
    address = (target.hostname or "", target.port or 0)
    with ExitStack() as stack:
        connections = [stack.enter_context(socket.create_connection(address)) for _ in range(1120)]
        uploads, deaf = connections[:100], connections[100:120]
        for client in uploads:
            client.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: service\r\nContent-Length: 1000\r\n\r\n")
        for client in deaf:
            client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: service\r\n\r\n" * 20)
        loop = asyncio.new_event_loop()
        thread = Thread(target=loop.run_until_complete, args=(_drip(uploads),), daemon=True)
        thread.start()
        time.sleep(3.0)  # until the requests of the deaf are dealt with
        yield
        for task in asyncio.all_tasks(loop):
            loop.call_soon_threadsafe(task.cancel)
        thread.join(10)


async def _drip(clients: Sequence[socket.socket]) -> None:
    try:
        while True:
            for client in clients:
                try:
                    client.send(b"x")
                except OSError:  # disconnected, as it should be
                    continue
            await asyncio.sleep(1.0)
    except asyncio.CancelledError:
        pass


if __name__ == "__main__":
    # The clients run in this process, and its pauses to collect garbage would pass for the service's.
    gc.collect()
    gc.freeze()
    run({1: line_1, 2: line_2, 3: line_3, 4: line_4, 5: line_5})
