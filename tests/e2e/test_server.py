"""The real process: what it prints, how it ends, and that no accepted request is lost when it does."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.process import ATTEMPTS, end, probe, running, start
from tests.support.service import TIMEOUT

REQUESTS = 50


async def in_flight(client: httpx.AsyncClient) -> float:
    text = (await client.get("/metrics")).text
    (value,) = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "resnet_requests_in_flight"
    ]
    return value


def test_accepted_requests_are_answered_before_the_end(
    tiny_repository: Path, photographs: list[tuple[str, bytes]]
) -> None:
    # A batch begins when half of the requests are there: the other half waits in the queue when the signal comes.
    flags = ["--executor", "simulated:1500", "--max-batch", REQUESTS // 2, "--max-delay-ms", 20_000]
    with running("--repository", tiny_repository, "--timeout-ms", 60_000, *flags) as (process, url):

        async def play() -> list[httpx.Response]:
            limits = httpx.Limits(max_connections=None)
            async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT, limits=limits) as client:
                requests = [
                    asyncio.create_task(client.post("/v1/classify", content=photographs[number % 6][1]))
                    for number in range(REQUESTS)
                ]
                for _ in range(ATTEMPTS):
                    if await in_flight(client) == REQUESTS:
                        break
                else:
                    pytest.fail(f"{REQUESTS} requests were never in flight together")
                assert not any(request.done() for request in requests)
                process.send_signal(signal.SIGTERM)
                return await asyncio.gather(*requests)

        responses = asyncio.run(play())
        _, logged = process.communicate(timeout=TIMEOUT)
        assert [response.status_code for response in responses] == [200] * REQUESTS
        assert all(len(response.json()["results"][0]["predictions"]) == 5 for response in responses)
        assert [response.json()["timing"]["batch_size"] for response in responses] == [REQUESTS // 2] * REQUESTS
        assert process.returncode == 0, logged
        assert "Traceback" not in logged


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_idle_ends_it_with_success(
    number: signal.Signals, tiny_repository: Path, photographs: list[tuple[str, bytes]]
) -> None:
    with running("--repository", tiny_repository) as (process, url):
        answer = httpx.post(f"{url}/v1/classify", content=photographs[0][1])
        assert answer.status_code == 200
        with httpx.Client() as client:  # a connection that is kept open does not hold it up
            assert client.get(f"{url}/healthz").text == "ok\n"
            end(process, number)
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--executor", "abacus"],
            "no executor is named 'abacus'; there are: onnxruntime-cpu, onnxruntime-cuda, openvino",
        ),
        (["--repository", "/missing/repository"], "/missing/repository: there is no such folder"),
        (["--port", "99999"], "port: "),
    ],
)
def test_what_cannot_be_served_is_one_line_and_2(flags: list[str], message: str, tiny_repository: Path) -> None:
    process = start("--repository", tiny_repository, *flags)
    printed, logged = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 2
    assert printed == ""
    (line,) = logged.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_a_port_that_is_taken(tiny_repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = start("--repository", tiny_repository, "--port", taken.getsockname()[1])
        _, logged = process.communicate(timeout=TIMEOUT)
    assert process.returncode != 0
    assert "address already in use" in logged
    assert "listening on" not in logged
    assert "Traceback" not in logged


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command to make a certificate")
def test_it_speaks_tls(tiny_repository: Path, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost"
    options = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *options], check=True, capture_output=True)
    context = ssl.create_default_context(cafile=str(certificate))
    flags = ["--executor", "simulated:0", "--ssl-certfile", certificate, "--ssl-keyfile", key]
    with running("--repository", tiny_repository, *flags, verify=context) as (process, url):
        assert url.startswith("https://")
        assert httpx.get(f"{url}/healthz", verify=context).text == "ok\n"
        settings = {"RESNET_SERVE_PORT": url.rpartition(":")[2], "RESNET_SERVE_SSL_CERTFILE": str(certificate)}
        assert probe(**settings).returncode == 0
        end(process)


def test_behind_a_proxy_that_takes_a_prefix_away(tiny_repository: Path, photographs: list[tuple[str, bytes]]) -> None:
    with running("--repository", tiny_repository, "--executor", "simulated:0", "--root-path", "/vision") as (_, url):
        assert httpx.post(f"{url}/v1/classify", content=photographs[0][1]).status_code == 200
        assert httpx.get(f"{url}/v2/models/resnet").json().keys() == {"error"}
        assert httpx.get(f"{url}/openapi.json").json()["servers"] == [{"url": "/vision"}]
        assert "/vision/openapi.json" in httpx.get(f"{url}/docs").text
