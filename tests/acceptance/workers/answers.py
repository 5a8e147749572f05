"""Line 1: one process and four workers answer alike, and connections are spread over the workers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from tests.acceptance.faults.case import expect
from tests.acceptance.workers import suite
from tests.acceptance.workers.requests import Request, all_requests
from tests.acceptance.workers.served import EXAMPLE, SIMULATED, TINY, Workers, check_each, serve
from tests.support.api_keys import KEYS, OPERATOR, WEB, write_keys
from tests.support.api_keys import ROOT as ROOT_KEY
from tests.support.load import Load
from tests.support.worker_processes import client_ports, wait_until

WORKERS = 4
CONNECTIONS = 16
MAX_SHARE = 1.5
"""Requests of the busiest worker by the mean."""
_OPTIONS = ("--instances", "1", "--max-body-bytes", "2000000", "--max-images", "8", "--timeout-ms", "60000", "--admin")
_VARYING_HEADERS = frozenset({"date", "x-request-id", "content-length", "retry-after"})
_VARYING_FIELDS = frozenset({"timing", "request_id", "ns", "last_inference"})
"""Times and ids: fields that may differ at any depth. Counts are equal, since requests are sent one at a time."""
_BURST = 6


def check() -> tuple[bool, str]:
    """Each part; all figures."""
    return check_each(compare_answers, compare_keys, compare_rates, distribute, suite.run_both)


def compare_answers() -> str:
    """Each request to one process, and to each of four workers."""
    requests = all_requests()
    with _both(*_OPTIONS) as (one, clients):
        headers = {"x-api-key": ROOT_KEY}
        asked = one.get("/openapi.json").json()["paths"].keys() - {"/metrics"}  # whose series are compared
        statuses: set[int] = set()
        differences: list[str] = []
        for number, request in enumerate(requests):
            # Admin requests and counts: the four workers together get as many requests as the one process.
            client = clients[number % WORKERS]
            expected, answer = (_settled(each, request, headers) for each in (one, client))
            statuses.add(expected.status_code)
            if _comparable(expected) != _comparable(answer):
                differences.append(f"{request}: {_difference(expected, answer)}")
        series = [_series(each) for each in (one, clients[0])]
    missing = [path for path in asked if not any(_matches(path, request) for request in requests)]
    for difference in differences[:10]:
        print(f"    {difference}", flush=True)
    figures = (
        f"{len(requests)} requests to {len(asked)} documented paths with statuses {sorted(statuses)}: "
        f"{len(differences)} answers differ; series that differ: {sorted(series[0] ^ series[1]) or 'none'}; "
        f"paths without a request: {missing or 'none'}"
    )
    expect(not differences and not missing and series[0] == series[1], figures)
    return figures


def compare_keys() -> str:
    """Requests with every key and without one."""
    count, differences = 0, []
    (_, classify, *_) = (request for request in all_requests() if "classify" in request.path and request.body)
    paths = ("/v1/models", "/v2", "/v2/models/stats", "/healthz", "/readyz", "/v2/health/ready", "/openapi.json")
    requests = [
        classify,
        *(Request("GET", path) for path in paths),
        Request("POST", "/v2/repository/models/other/load", b"{}"),
    ]
    with _both(*_OPTIONS) as (one, clients):
        for key in (None, "unknown", WEB, OPERATOR, ROOT_KEY):
            for form in ("x-api-key", "authorization"):
                value = f"Bearer {key}" if form == "authorization" else key
                headers = {} if key is None else {form: str(value)}
                for number, request in enumerate(requests):
                    answers = [_send(each, request, headers) for each in (one, clients[number % WORKERS])]
                    count += 1
                    if _comparable(answers[0]) != _comparable(answers[1]):
                        differences.append(f"{request} {headers}: {_difference(*answers)}")
    for difference in differences[:10]:
        print(f"    {difference}", flush=True)
    figures = f"{count} requests with and without keys: {len(differences)} answers differ"
    expect(not differences, figures)
    return figures


def compare_rates() -> str:
    """A limit of requests per client holds over all workers together."""
    with _both("--rate-limit", "0.001", "--rate-burst", str(_BURST), keys=False) as (one, clients):
        request = Request("GET", "/v1/models")
        one_process = [_send(one, request, {}) for _ in range(2 * _BURST)]
        workers = [_send(clients[number % WORKERS], request, {}) for number in range(2 * _BURST)]
    same = [*map(_comparable, one_process)] == [*map(_comparable, workers)]
    waits = [["retry-after" in answer.headers for answer in answers] for answers in (one_process, workers)]
    figures = (
        f"rate limit with a burst of {_BURST}: one process {[answer.status_code for answer in one_process]}, "
        f"4 workers in turn {[answer.status_code for answer in workers]}"
    )
    expect(same and waits[0] == waits[1], figures)
    return figures


def distribute() -> str:
    """Kept-alive connections: equal load on each, so the connections of a worker are its share of the requests."""
    with serve(WORKERS, *SIMULATED) as workers, Load(workers.port, EXAMPLE, CONNECTIONS) as load:
        wait_until(lambda: len(load.answers) > 1000, "requests are answered")
        counts = {pid: client_ports(pid, workers.port) for pid in workers.find().workers}
        wait_until(lambda: len(load.answers) > 11_000, "requests are answered")
    by_port = {port: pid for pid, ports in counts.items() for port in ports}
    answered = dict.fromkeys(counts, 0)
    for answer in load.answers:
        answered[by_port[answer.client_port]] += 1
    busiest = max(answered.values()) / (sum(answered.values()) / WORKERS)
    figures = (
        f"{CONNECTIONS} connections over {WORKERS} workers: {sorted(map(len, counts.values()))} kept alive, "
        f"{sorted(answered.values())} answers, the busiest {busiest:.2f} x the mean ({MAX_SHARE})"
    )
    expect(busiest <= MAX_SHARE and set(load.statuses) == {200}, figures)
    return figures


@contextmanager
def _both(*options: str, keys: bool = True) -> Iterator[tuple[httpx.Client, Sequence[httpx.Client]]]:
    """Clients of a service of one process, and of each worker of another; with the same models."""
    with TemporaryDirectory(prefix="workers-") as folder, ExitStack() as stack:
        path = Path(folder) / "keys.toml"
        write_keys(path, KEYS)
        sides: list[Workers] = []
        for number in (1, WORKERS):
            more = ("--api-keys", str(path)) if keys else ()
            sides.append(stack.enter_context(serve(number, "--repository", TINY, *options, *more)))
        yield _connect(stack, sides[0]), [_connect(stack, sides[1]) for _ in range(WORKERS)]


def _connect(stack: ExitStack, workers: Workers) -> httpx.Client:
    """A client with one kept-alive connection. The connections of several clients are to different workers."""
    limits = httpx.Limits(max_connections=1, keepalive_expiry=600.0)
    client = stack.enter_context(httpx.Client(base_url=workers.service.url, timeout=60.0, limits=limits))
    client.get("/healthz")
    return client


def _send(client: httpx.Client, request: Request, headers: dict[str, str]) -> httpx.Response:
    return client.request(request.method, request.path, content=request.body, headers=headers | request.headers)


def _settled(client: httpx.Client, request: Request, headers: dict[str, str]) -> httpx.Response:
    """The answer; of the index, once no version is being unloaded: that ends a moment after the answer to `unload`."""
    answers: list[httpx.Response] = []

    def settled() -> bool:
        answers[:] = [_send(client, request, headers)]
        return request.path != "/v2/repository/index" or b'"UNLOADING"' not in answers[0].content

    wait_until(settled, f"{request} is answered without a version that is being unloaded")
    return answers[0]


def _comparable(response: httpx.Response) -> tuple[int, dict[str, str], Any]:
    """Status, headers and content, without the parts that differ from request to request."""
    headers = {name: value for name, value in response.headers.items() if name not in _VARYING_HEADERS}
    kind = response.headers.get("content-type", "")
    if "json" not in kind:
        length = int(response.headers.get("inference-header-content-length", 0))
        return (
            response.status_code,
            headers,
            (_strip(json.loads(response.content[:length] or b"0")), response.content[length:]),
        )
    if "ndjson" in kind:
        lines = [_strip(json.loads(line)) for line in response.text.splitlines()]
        return response.status_code, headers, sorted(lines, key=lambda line: line.get("index", -1))
    return response.status_code, headers, _strip(response.json() if response.content else None)


def _strip(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _strip(value) for name, value in content.items() if name not in _VARYING_FIELDS}
    return [_strip(value) for value in content] if isinstance(content, list) else content


def _difference(expected: httpx.Response, answer: httpx.Response) -> str:
    pairs = zip(("status", "headers", "content"), _comparable(expected), _comparable(answer), strict=True)
    return "; ".join(f"{name} {str(one)[:300]} / {str(other)[:300]}" for name, one, other in pairs if one != other)


def _series(client: httpx.Client) -> set[str]:
    """Names and labels of the series of the service itself; those of each process are told apart by a label."""
    text = client.get("/metrics").text
    return {line.rpartition(" ")[0] for line in text.splitlines() if line.startswith("resnet_")}


def _matches(path: str, request: Request) -> bool:
    return bool(re.fullmatch(re.sub(r"\{[^}]+\}", "[^/]+", path), request.path.partition("?")[0]))
