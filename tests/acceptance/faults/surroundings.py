"""Cases 12, 13, 14 and 17: surroundings that fail."""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from tests.acceptance.faults.case import check, expect
from tests.acceptance.faults.served import Served, serve

_DROPPED = "resnet_log_lines_dropped_total"
TIMEOUT = 20.0
"""Seconds within which a change must show."""


def wait_for(holds: Callable[[], bool], message: str, seconds: float = TIMEOUT) -> float:
    """Wait until something holds. Returns the seconds that it took."""
    started = time.monotonic()
    while not holds():
        expect(time.monotonic() - started < seconds, f"{message}, after {seconds:.0f} s")
        time.sleep(0.05)
    return time.monotonic() - started


@check(14, "the log cannot be written for a while, then it can")
def log_is_not_writable(folder: Path) -> str:
    with serve() as service:

        def send(count: int) -> None:
            for _ in range(count):
                httpx.post(f"{service.url}/v1/classify", content=b"no image")

        def limit(size: int) -> None:
            hard = resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (size, hard))

        limit(len(service.log.encode()))
        send(20)
        wait_for(lambda: service.metric(_DROPPED) >= 20, "the metric does not count 20 lines")
        limit(resource.RLIM_INFINITY)
        wait_for(lambda: "log lines were dropped" in service.log, "the log does not say that lines were dropped")
        dropped, stated = (
            service.metric(_DROPPED),
            sum(map(int, re.findall(r"(\d+) log lines were dropped", service.log))),
        )
        expect(dropped == stated, f"the metric counts {dropped:.0f} lines, and the log states {stated}")
        before = service.log.count("POST /v1/classify")
        send(3)
        wait_for(lambda: service.log.count("POST /v1/classify") == before + 3, "the log did not continue")
        return f"{stated} lines dropped, counted and stated; the log continues"


@check(17, "the home of the user after a start and a request")
def home_is_left_alone(folder: Path) -> str:
    home = folder / "home"
    home.mkdir()
    with serve(HOME=str(home), ORT_DISABLE_TELEMETRY="") as service:
        _classify(service)
        service.terminate()
    files = [str(path.relative_to(home)) for path in home.rglob("*")]
    expect(not files, f"the service wrote {', '.join(files)} into the home of the user")
    return "nothing is written"


def _classify(service: Served) -> httpx.Response:
    image = next((Path(__file__).parents[3] / "export" / "photographs").glob("*.jpg"))
    answer = httpx.post(f"{service.url}/v1/classify", content=image.read_bytes(), timeout=30)
    expect(answer.status_code == 200, f"the answer is {answer.status_code}: {answer.text}")
    return answer
