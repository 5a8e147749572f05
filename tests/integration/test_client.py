"""The client with a service in memory: retries, time limits, and many images in their order."""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import AsyncIterator, Iterator
from threading import Event
from typing import Any

import httpx
import pytest

from resnet_serve_client import (
    ApiError,
    AsyncClient,
    Client,
    ClientError,
    InvalidAnswer,
    NoAnswer,
    TimedOut,
    Unavailable,
    UnreadableImage,
    retries,
)
from tests.support.fake_service import Answer, FakeService, classified, files, problem
from tests.support.service import TIMEOUT

SYNCHRONOUS = [True, False]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts, which then take no time."""
    found: list[float] = []
    pause = retries.pause

    def record(*arguments: Any) -> float:
        found.append(pause(*arguments))
        return 0.0

    monkeypatch.setattr(retries, "pause", record)
    return found


def call(synchronous: bool, service: FakeService, method: str, *arguments: Any, **options: Any) -> Any:
    """Call a method of a client."""
    settings = {name: options.pop(name) for name in ("retries", "api_key", "base_url") if name in options}
    if synchronous:
        with Client(transport=service, **settings) as client:
            return getattr(client, method)(*arguments, **options)

    async def run() -> Any:
        async with AsyncClient(transport=service, **settings) as client:
            return await getattr(client, method)(*arguments, **options)

    return asyncio.run(run())


def labels_of(synchronous: bool, service: FakeService, images: Any, **options: Any) -> list[str]:
    """The labels, or the names of the errors, that `classify_many` gives."""

    def label(result: Any) -> str:
        return result.best.label if result.error is None else type(result.error).__name__

    if synchronous:
        with Client(transport=service) as client:
            return [label(result) for result in client.classify_many(images, **options)]

    async def run() -> list[str]:
        async with AsyncClient(transport=service) as client:
            return [label(result) async for result in client.classify_many(images, **options)]

    return asyncio.run(run())


@pytest.mark.parametrize("synchronous", SYNCHRONOUS)
def test_options_are_sent(synchronous: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNET_SERVE_URL", "http://service.test/vision/")
    monkeypatch.setenv("RESNET_SERVE_API_KEY", "secret")
    service = FakeService()
    options = {
        "model": "a.b",
        "version": 3,
        "top_k": 2,
        "embedding": True,
        "layer": 3,
        "cam": "values",
        "priority": "bulk",
    }
    result = call(synchronous, service, "classify", b"cat", timeout=5, request_id="mine", **options)
    (sent,) = service.requests
    assert (result.best.label, result.model, result.version) == ("cat", "m", "3")
    assert sent.url.path == "/vision/v1/models/a.b/versions/3/classify"
    assert 4000 < float(sent.url.params["timeout_ms"]) <= 5000
    expected = {"top_k": "2", "embedding": "true", "layer": "3", "cam": "values", "priority": "bulk"}
    assert {name: value for name, value in sent.url.params.items() if name != "timeout_ms"} == expected
    assert sent.headers["Authorization"] == "Bearer secret"
    assert sent.headers["X-Request-Id"] == "mine"
    assert sent.headers["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize("synchronous", SYNCHRONOUS)
def test_a_request_is_sent_again_until_it_is_answered(synchronous: bool, pauses: list[float]) -> None:
    script: list[Answer] = [
        problem(503, {"Retry-After": "3"}),
        httpx.RemoteProtocolError("Server disconnected"),
        problem(429, {"Retry-After": "Wed, 01 Jul 2026 12:01:00 GMT", "Date": "Wed, 01 Jul 2026 12:00:00 GMT"}),
        httpx.Response(200, content=b'{"model":'),
    ]
    service = FakeService(script)
    assert call(synchronous, service, "classify", b"cat", timeout=600).best.label == "cat"
    assert [files(request) for request in service.requests] == [[b"cat"]] * 5
    assert 3 <= pauses[0] <= 3.3
    assert pauses[1] <= 0.5
    assert 60 <= pauses[2] <= 66


@pytest.mark.parametrize("answer", [httpx.Response(502), httpx.Response(504), httpx.ConnectError("refused")])
def test_attempts_are_limited(answer: Answer, pauses: list[float]) -> None:
    service = FakeService([answer] * 10)
    with pytest.raises((ApiError, NoAnswer)):
        call(True, service, "classify", b"cat", retries=2)
    assert len(service.requests) == 3


def untrusted() -> httpx.ConnectError:
    """The error of a certificate that is not trusted."""
    error = httpx.ConnectError("certificate verify failed")
    error.__cause__ = ssl.SSLCertVerificationError("self-signed certificate")
    return error


@pytest.mark.parametrize(
    "answer",
    [
        *(problem(status) for status in (400, 401, 403, 404, 413, 415, 422, 500)),
        httpx.UnsupportedProtocol("ftp"),
        untrusted(),
    ],
)
def test_an_error_that_stays_is_raised_at_once(answer: Answer, pauses: list[float]) -> None:
    service = FakeService([answer])
    with pytest.raises(ClientError) as raised:
        call(True, service, "classify", b"cat")
    assert len(service.requests) == 1
    if isinstance(answer, httpx.Response):
        assert isinstance(raised.value, ApiError)
        assert (raised.value.status, raised.value.request_id) == (answer.status_code, "id-7")
        assert type(raised.value).__name__ != "ApiError" or answer.status_code in (415, 500)


def test_a_pause_beyond_the_time_limit_is_not_made() -> None:
    service = FakeService([problem(503, {"Retry-After": "120"})])
    with pytest.raises(Unavailable, match="what to do"):
        call(True, service, "classify", b"cat", timeout=60)
    assert len(service.requests) == 1


async def never(request: httpx.Request) -> httpx.Response:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize("synchronous", SYNCHRONOUS)
def test_a_call_ends_at_its_time_limit(synchronous: bool) -> None:
    with pytest.raises(TimedOut, match="did not answer within") as raised:
        call(synchronous, FakeService(answer=never), "classify", b"cat", timeout=0.05)
    assert isinstance(raised.value, TimeoutError)


def test_the_state_of_the_service() -> None:
    loading = httpx.Response(503, json={"ready": False, "reasons": ["loading"]})
    assert call(True, FakeService([loading]), "ready").reasons == ("loading",)
    assert not call(True, FakeService([httpx.Response(503, text="proxy")]), "ready").ready
    assert not call(True, FakeService([httpx.ConnectError("refused")]), "live")
    with pytest.raises(InvalidAnswer, match="is this the URL of resnet-serve"):
        call(True, FakeService([httpx.Response(200, json={})]), "models", retries=0)


@pytest.mark.parametrize("synchronous", SYNCHRONOUS)
def test_errors_of_single_images_are_in_their_place(synchronous: bool) -> None:
    service = FakeService()
    images = [b"a", b"bad", "no/such/file", b"b", 7]
    expected = ["a", "UnprocessableImage", "UnreadableImage", "b", "UnreadableImage"]
    assert labels_of(synchronous, service, images, batch=3) == expected
    assert sorted(files(request) for request in service.requests) == [[b"a", b"bad"], [b"b"]]
    assert {request.url.params["errors"] for request in service.requests} == {"inline"}
    assert {request.url.params["priority"] for request in service.requests} == {"bulk"}
    assert call(synchronous, FakeService(), "classify_batch", []) == []
    with pytest.raises(UnreadableImage):
        call(synchronous, service, "classify", "no/such/file")


@pytest.mark.parametrize("synchronous", SYNCHRONOUS)
def test_images_without_memory_and_requests_that_are_too_large_are_sent_again(
    synchronous: bool, pauses: list[float]
) -> None:
    crowded = {"error": {"status": 503, "title": "Overloaded", "detail": "no memory"}}
    first = {"model": "m", "version": "3", "results": [crowded, crowded]}
    service = FakeService([problem(413), httpx.Response(200, json=first)])
    assert labels_of(synchronous, service, [b"a", b"b", b"c", b"d"]) == ["a", "b", "c", "d"]
    sent = [files(request) for request in service.requests]
    assert sent == [[b"a", b"b", b"c", b"d"], [b"a", b"b"], [b"c", b"d"], [b"a", b"b"]]
    assert labels_of(synchronous, FakeService([problem(413)]), [b"a"]) == ["PayloadTooLarge"]


@pytest.mark.parametrize("synchronous", SYNCHRONOUS)
def test_many_images_keep_their_order_within_bounds(synchronous: bool) -> None:
    """Of each four requests the last is answered first; requests and images in flight are counted."""
    in_flight, most, taken, finished = 0, 0, 0, 0
    ahead: list[int] = []
    done = [asyncio.Event() for _ in range(25)]

    async def answer(request: httpx.Request) -> httpx.Response:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        first, *_ = names = files(request)
        group = int(first) // 4
        if group % 4 < 3 and group < 24:
            await done[group + 1].wait()
        done[group].set()
        in_flight -= 1
        return classified(names)

    def images() -> Iterator[bytes]:
        nonlocal taken
        for number in range(99):
            taken += 1
            ahead.append(taken - finished)
            yield str(number).encode()

    def count(number: int) -> None:
        nonlocal finished
        finished = number

    options = {"batch": 4, "concurrency": 4, "progress": count}
    assert labels_of(synchronous, FakeService(answer=answer), images(), **options) == [str(n) for n in range(99)]
    assert (most, finished) == (4, 99)
    assert max(ahead) <= 2 * 4 * 4


def test_an_asynchronous_input() -> None:
    async def images() -> AsyncIterator[bytes]:
        for number in range(7):
            await asyncio.sleep(0)
            yield str(number).encode()

    assert labels_of(False, FakeService(), images(), batch=3) == [str(number) for number in range(7)]


@pytest.mark.parametrize("synchronous", SYNCHRONOUS)
def test_an_abandoned_iterator_cancels_its_requests(synchronous: bool) -> None:
    arrived, cancelled = Event(), Event()

    async def answer(request: httpx.Request) -> httpx.Response:
        if files(request) == [b"0"]:
            assert await asyncio.to_thread(arrived.wait, TIMEOUT)
            return classified([b"0"])
        arrived.set()
        try:
            return await never(request)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    images = (str(number).encode() for number in range(1000))
    if synchronous:
        with Client(transport=FakeService(answer=answer)) as client:
            results = client.classify_many(images, batch=1, concurrency=2)
            assert next(results).best.label == "0"
            results.close()
            assert cancelled.wait(TIMEOUT)
        return

    async def run() -> None:
        async with AsyncClient(transport=FakeService(answer=answer)) as client:
            results = client.classify_many(images, batch=1, concurrency=2)
            assert (await anext(results)).best.label == "0"
            await results.aclose()
            assert cancelled.is_set()

    asyncio.run(run())


@pytest.mark.parametrize("synchronous", SYNCHRONOUS)
def test_an_error_of_a_request_ends_the_iterator(synchronous: bool, pauses: list[float]) -> None:
    with pytest.raises(ApiError, match="401 T: what to do"):
        labels_of(synchronous, FakeService([problem(401)]), [b"a"] * 100)


def test_progress_is_shown_or_counted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert labels_of(True, FakeService(), [b"a", b"b", b"c"], progress=True) == ["a", "b", "c"]
    assert "3/3" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match="progress"):
        labels_of(True, FakeService(), [b"a"], progress=True)


def test_repetitions_are_logged(pauses: list[float], caplog: pytest.LogCaptureFixture) -> None:
    call(True, FakeService([problem(503)] * 4), "classify", b"cat")
    assert [record.levelname for record in caplog.records if record.name == "resnet_serve_client"] == ["WARNING"]
    assert "503 T: what to do (request id-7); next attempt in" in caplog.text


def test_a_closed_client_says_so() -> None:
    client = Client(transport=FakeService())
    assert client.classify(b"cat").best.label == "cat"
    client.close()
    with pytest.raises(ClientError, match="the client is closed"):
        client.classify(b"cat")


def test_invalid_arguments() -> None:
    with pytest.raises(ValueError, match="begin it with http"):
        Client("localhost:8000")
    with pytest.raises(ValueError, match="the URL of the service is 'http://host:port': Invalid port"):
        Client("http://host:port")
    with pytest.raises(ValueError, match="above 0"):
        Client(timeout=0)
    with Client(transport=FakeService()) as client, pytest.raises(ValueError, match="batch is 0"):
        next(client.classify_many([], batch=0))
