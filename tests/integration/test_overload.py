"""Overload: too many images, bytes, requests or connections, too little time, and clients that disconnect."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import logging
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from threading import Event

import pytest

from service.core.errors import Overloaded
from service.core.priority import Priority
from service.core.settings import Settings
from service.engine.engine import Engine
from service.http.connection_state import ConnectionState
from service.http.content import json_text
from tests.support.api import Chunks, as_form, as_json, check, check_problem, check_still_answers, metrics
from tests.support.asgi import Exchange
from tests.support.gate import Gate
from tests.support.service import TIMEOUT, Client, serve
from tests.support.tiny import Eager

Photographs = list[tuple[str, bytes]]


@pytest.fixture
def engine(client: Client) -> Engine:
    return client.engine()


@pytest.fixture
def gate(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(engine, monkeypatch)
    yield gate
    gate.let_through(1000)


def test_full_service_refuses_before_reading_the_body(client: Client, photographs: Photographs, eager: Eager) -> None:
    body = Chunks(100)
    with client.admit(512):
        response = client.post("/v1/classify", content=body)
    check_problem(response, 503, "too many images are waiting.* try again in [0-9]+ s")
    assert int(response.headers["retry-after"]) >= 1
    assert body.sent == 0
    check_still_answers(client, photographs, eager)


def test_full_service_refuses_in_v2_before_reading_the_body(client: Client) -> None:
    body = Chunks(100)
    with client.admit(512):
        response = client.post("/v2/models/tiny/infer", content=body)
    assert (response.status_code, body.sent) == (503, 0)
    assert "too many images are waiting" in response.json()["error"]


def test_time_limit_covers_parsing(
    client: Client, photographs: Photographs, eager: Eager, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = Event()
    with monkeypatch.context() as patch:
        patch.setattr(json_text, "parse_now", lambda *_: stop.wait(TIMEOUT))
        try:
            late = client.post("/v1/classify?timeout_ms=100", **as_json(photographs[0][1]))
        finally:
            stop.set()
    check_problem(late, 504, "JSON was parsed: raise timeout_ms")
    check_still_answers(client, photographs, eager)


def test_images_are_admitted_before_decoding(client: Client, photographs: Photographs) -> None:
    with client.admit(512 - 64 - 3):
        check_problem(client.post("/v1/classify", **as_form(*[photographs[0][1]] * 4)), 503, "waiting")
        assert client.post("/v1/classify", **as_form(*[photographs[0][1]] * 3)).status_code == 200
    assert client.images_in_flight() == 0


def test_interactive_requests_have_reserved_capacity(client: Client, photographs: Photographs) -> None:
    with client.admit(512 - 64, Priority.bulk):
        check_problem(client.post("/v1/classify?priority=bulk", content=photographs[0][1]), 503, "waiting")
        assert client.post("/v1/classify?priority=interactive", content=photographs[0][1]).status_code == 200
    assert client.post("/v1/classify?priority=bulk", content=photographs[0][1]).status_code == 200
    check_problem(client.post("/v1/classify?priority=urgent", content=photographs[0][1]), 400, "priority")


def test_bulk_waits_for_interactive_in_the_engine(
    client: Client, engine: Engine, gate: Gate, photographs: Photographs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine._queue, "max_batch", 1)
    answered: list[str] = []

    async def play() -> None:
        async def ask(priority: str) -> None:
            exchange = Exchange([photographs[0][1]], path=f"/v1/classify?priority={priority}")
            await exchange.run(client.app)
            assert exchange.status == 200
            answered.append(priority)

        first = asyncio.create_task(ask("bulk"))
        await gate.started()
        others = [asyncio.create_task(ask("bulk"))]
        await gate.queued(1)
        others.append(asyncio.create_task(ask("interactive")))
        await gate.queued(2)
        gate.let_through(3)
        await asyncio.gather(first, *others)

    client.portal.call(play)
    assert answered == ["bulk", "interactive", "bulk"]


def running_tasks() -> Counter[str]:
    """Names of the functions that run as tasks. Those of the service itself are replaced from time to time."""
    return Counter(getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks())


def test_cancelled_request_is_skipped(
    client: Client, engine: Engine, gate: Gate, photographs: Photographs, caplog: pytest.LogCaptureFixture
) -> None:
    before = metrics(client)

    async def play() -> None:
        tasks = running_tasks()
        first, *others = [Exchange([photographs[0][1]]) for _ in range(5)]
        running = asyncio.create_task(first.run(client.app))
        await gate.started()
        waiting = [asyncio.create_task(other.run(client.app)) for other in others]
        await gate.queued(4)
        for other in others[:3]:
            other.hang_up()
        await asyncio.gather(*waiting[:3])
        assert client.images_in_flight() == 2
        gate.let_through(2)
        await asyncio.gather(running, waiting[3])
        assert (first.status, others[3].status) == (200, 200)
        assert not running_tasks() - tasks

    client.portal.call(play)
    assert gate.images == 2
    assert client.images_in_flight() == 0
    after = metrics(client)
    assert after["resnet_requests_total", "tiny", "499"] - before.get(("resnet_requests_total", "tiny", "499"), 0) == 3
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_disconnect_during_inference(client: Client, gate: Gate, photographs: Photographs, eager: Eager) -> None:
    async def play() -> None:
        leaving = Exchange([photographs[0][1]])
        running = asyncio.create_task(leaving.run(client.app))
        await gate.started()
        leaving.hang_up()
        await running
        assert leaving.status == 499
        assert client.images_in_flight() == 0

    client.portal.call(play)
    gate.let_through(1000)
    check_still_answers(client, photographs, eager)


@pytest.mark.parametrize("path", ["/v1/classify", "/v1/embeddings", "/v2/models/tiny-encoded/infer"])
def test_disconnect_while_the_model_is_loaded(
    path: str, client: Client, photographs: Photographs, eager: Eager, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = photographs[0][1]
    if path == "/v1/embeddings":
        text = {"model": "tiny", "input": base64.b64encode(data).decode()}
        leaving = Exchange([json.dumps(text).encode()], {"content-type": "application/json"}, path)
    else:
        leaving = Exchange([data], {"inference-header-content-length": "0"}, path)

    async def hang_up(*arguments: object, **options: object) -> float:
        leaving.hang_up()
        return 10.0

    computed = client.engine().statistics.inferences
    with monkeypatch.context() as patch:
        patch.setattr(client.pipeline.lookup, "ensure_loaded", hang_up)
        client.portal.call(leaving.run, client.app)
    assert leaving.status == 499
    assert client.engine().statistics.inferences == computed
    assert client.images_in_flight() == 0
    check_still_answers(client, photographs, eager)


def test_lines_are_sent_as_images_are_computed(
    client: Client,
    engine: Engine,
    gate: Gate,
    photographs: Photographs,
    eager: Eager,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The engine computes the next image only after the line of the image before is sent."""
    monkeypatch.setattr(engine._queue, "max_batch", 1)
    files = [data for _, data in photographs]
    files.insert(2, b"bad")
    request = client.http.build_request("POST", "/v1/classify", **as_form(*files))
    exchange = Exchange(
        [request.read()],
        {**dict(request.headers), "accept": "application/x-ndjson"},
        on_body=lambda part: gate.let_through() if b"predictions" in part else None,
    )
    gate.let_through()
    client.portal.call(exchange.run, client.app)
    assert exchange.status == 200
    assert exchange.answer_headers["content-type"] == "application/x-ndjson"
    assert exchange.answer_headers["x-accel-buffering"] == "no"  # otherwise nginx buffers the lines until the end
    lines = [json.loads(line) for line in exchange.answer.splitlines()]
    assert sorted(line["index"] for line in lines) == list(range(len(files)))
    for line in lines:
        assert (line["model"], line["version"]) == ("tiny", "1")
        if line["index"] == 2:
            assert line["error"]["status"] == 422
        else:
            check(line, files[line["index"]], eager)
    assert client.images_in_flight() == 0


def test_disconnect_cancels_the_remaining_lines(
    client: Client, engine: Engine, gate: Gate, photographs: Photographs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine._queue, "max_batch", 1)
    request = client.http.build_request("POST", "/v1/classify", **as_form(*[photographs[0][1]] * 20))
    exchange = Exchange([request.read()], {**dict(request.headers), "accept": "application/x-ndjson"})

    async def play() -> None:
        running = asyncio.create_task(exchange.run(client.app))
        await gate.started()
        exchange.hang_up()
        await running

    client.portal.call(play)
    gate.let_through(1000)
    assert gate.images == 1
    assert client.images_in_flight() == 0


def test_lines_are_refused_when_full(client: Client, photographs: Photographs) -> None:
    with client.admit(512 - 64 - 1):
        options = as_form(*[photographs[0][1]] * 2)
        check_problem(client.post("/v1/classify", headers={"accept": "application/x-ndjson"}, **options), 503)


@pytest.fixture(scope="module")
def narrow(tiny_repository: Path) -> Iterator[Client]:
    settings = Settings(
        repository=tiny_repository,
        max_decompressed_bytes=250_000,
        max_buffered_body_bytes=300_000,
        client_timeout_seconds=0.05,
    )
    with serve(settings) as client:
        yield client


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "Deflate": lambda data: zlib.compress(data, wbits=-zlib.MAX_WBITS),
}
"""Compression by Content-Encoding. The last is a bare stream, as .NET's DeflateStream writes it."""


@pytest.mark.parametrize("encoding", COMPRESS)
def test_compressed_bodies(encoding: str, client: Client, photographs: Photographs, eager: Eager) -> None:
    for _, data in photographs:
        compressed = COMPRESS[encoding](data)
        parts = [compressed[start : start + 1000] for start in range(0, len(compressed), 1000)]
        for sent in (parts, [parts[0][:1], parts[0][1:], *parts[1:]]):
            exchange = Exchange(sent, {"content-encoding": encoding})
            client.portal.call(exchange.run, client.app)
            assert exchange.status == 200, exchange.answer
            check(exchange.json()["results"][0], data, eager)


def test_a_compressed_body_larger_than_a_piece(client: Client, photographs: Photographs, eager: Eager) -> None:
    _, data = photographs[0]
    for padding in (0, 1, 256 * 1024 - len(data), 512 * 1024 - len(data), 1_000_000):
        response = client.post(
            "/v1/classify", content=gzip.compress(data + bytes(padding)), headers={"content-encoding": "gzip"}
        )
        assert response.status_code == 200, response.text
        check(response.json()["results"][0], data, eager)


@pytest.mark.parametrize(
    ("content", "encoding", "status", "detail"),
    [
        (gzip.compress(bytes(50_000_000), mtime=0), "gzip", 413, "250,000 bytes accepted once decompressed"),
        (gzip.compress(b"image", mtime=0)[:-4], "gzip", 400, "incomplete"),
        (gzip.compress(b"image", mtime=0) + b"more", "gzip", 400, "more bytes after the end"),
        (b"image", "gzip", 400, "Content-Encoding"),
        (b"", "gzip", 400, "incomplete"),
        (b"image", "br", 415, "'br' is not supported: send gzip, deflate"),
        (gzip.compress(b"image", mtime=0), "gzip, gzip", 415, "not supported"),
    ],
)
def test_invalid_compressed_bodies(content: bytes, encoding: str, status: int, detail: str, narrow: Client) -> None:
    response = narrow.post("/v1/classify", content=content, headers={"content-encoding": encoding})
    check_problem(response, status, detail)


async def dripping(parts: int) -> AsyncIterator[bytes]:
    for _ in range(parts):
        yield b"x"
    await asyncio.Event().wait()


def test_body_that_does_not_arrive_times_out(narrow: Client) -> None:
    exchange = Exchange(dripping(10))
    narrow.portal.call(exchange.run, narrow.app)
    assert exchange.status == 408
    assert exchange.json()["title"] == "Request too slow"
    assert exchange.answer_headers["connection"] == "close"


def test_memory_of_all_bodies_is_bounded(narrow: Client, photographs: Photographs, eager: Eager) -> None:
    """The memory of a request is free after its end, also after an error."""
    check_problem(narrow.post("/v1/classify", content=bytes(300_001)), 503, "memory")
    for _ in range(3):
        check_problem(narrow.post("/v1/classify", content=bytes(300_000)), 422)
    check_still_answers(narrow, photographs, eager)


def test_compressed_bodies_count_what_they_hold(tiny_repository: Path) -> None:
    with serve(Settings(repository=tiny_repository, max_buffered_body_bytes=1_000_000)) as client:
        for size, status in [(1_000_001, 503), (1_000_000, 422), (1_000_000, 422)]:
            content = gzip.compress(bytes(size))
            response = client.post("/v1/classify", content=content, headers={"content-encoding": "gzip"})
            check_problem(response, status)


@pytest.mark.parametrize("root_path", ["", "/vision"])
def test_connection_above_the_limit_gets_only_probes(root_path: str, client: Client, photographs: Photographs) -> None:
    for path, status in (("/v1/classify", 503), ("/healthz", 405), ("/readyz", 405), ("/metrics", 405)):
        connection = ConnectionState(refusal=Overloaded(1, "connections"))
        exchange = Exchange([photographs[0][1]], path=path, root_path=root_path, connection=connection)
        client.portal.call(exchange.run, client.app)
        assert exchange.status == status
        if status == 503:
            assert "too many clients are connected" in exchange.json()["detail"]
            assert exchange.answer_headers["retry-after"] == "1"


def test_rate_limit_per_client(tiny_repository: Path, photographs: Photographs) -> None:
    with serve(Settings(repository=tiny_repository, rate_limit=0.001, rate_burst=3)) as client:
        for _ in range(3):
            assert client.post("/v1/classify", content=photographs[0][1]).status_code == 200
        response = client.post("/v1/classify", content=photographs[0][1])
        check_problem(response, 429, "more than 0.001 requests per second")
        assert int(response.headers["retry-after"]) > 900
        for probe in ("/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"):
            assert client.get(probe).status_code == 200
        assert client.get("/v2").status_code == 429
        check_problem(client.get("/readyz?verbos"), 400, "'verbos': did you mean 'verbose'")
        other = Exchange([photographs[0][1]])  # from another address
        client.portal.call(other.run, client.app)
        assert other.status == 200
