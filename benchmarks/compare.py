"""Compares the services of two checkouts under the same loads: `python -m benchmarks compare BEFORE AFTER`.

Both services run all the time and only one of them is under load. A round loads each once, and every second round
begins with the other one, so a machine that becomes slower or faster affects both. A round with much other load on the
machine is repeated. The result is the median of the rounds' ratios.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.serve import client, payloads, server
from benchmarks.system import cpu_usage
from service.cli.tune_timing import MAX_OTHER_LOAD

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "models" / "pretrained" / "examples"
PHOTOGRAPHS = ROOT / "export" / "photographs"
RANDOM_RESNET50 = ROOT / "build" / "compare"
"""Folder of the ResNet-50 with random weights, which is built once."""
MODELS = ("resnet20", "resnet50")
WARM_UP_SECONDS = 1.0
_SECONDS_TO_END = 60.0

Report = Callable[[str], None]
"""Takes a line about each round."""


class RequestsFailed(Exception):
    """A service answered with another status than 200."""


@dataclass(frozen=True)
class ComparedLoad:
    """Requests with one image, from connections that each send the next request after the answer."""

    model: str
    """`resnet20`, the shipped model; or `resnet50`."""
    connections: int

    @classmethod
    def parse(cls, text: str) -> ComparedLoad:
        """Parse `MODEL:CONNECTIONS`.

        Raises:
            ValueError: the text has another form.
        """
        model, _, connections = text.partition(":")
        if model not in MODELS or not connections.isdecimal() or int(connections) < 1:
            raise ValueError(f"a load is MODEL:CONNECTIONS with a model of {', '.join(MODELS)}, not {text!r}")
        return cls(model, int(connections))

    def __str__(self) -> str:
        return f"{self.model}, {self.connections} connection{'s' if self.connections > 1 else ''}"


@dataclass(frozen=True)
class Side:
    """One of the two services."""

    checkout: Path
    options: Sequence[str] = ()
    """Command line of the service."""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ComparedRound:
    """Images per second of both services in one round."""

    before: float
    after: float
    other_load: float
    """Share of the CPUs that other processes used."""

    @property
    def ratio(self) -> float:
        return self.after / self.before


def compare(
    before: Side,
    after: Side,
    load: ComparedLoad,
    requests: Sequence[bytes],
    rounds: int,
    seconds: float,
    retries: int = 5,
    report: Report = print,
) -> list[ComparedRound]:
    """Measure one load.

    Args:
        before: the service that ratios are relative to.
        after: the other service.
        load: the load.
        requests: HTTP requests as bytes, sent in turn to the default model of both services.
        rounds: number of measurements per service.
        seconds: time of one measurement.
        retries: largest number of repeated rounds.
        report: called with a line about each round.

    Raises:
        ServerFailed: a service does not start.
        RequestsFailed: a request failed.
    """
    measured: list[ComparedRound] = []
    with _running(before) as first, _running(after) as second:
        for port in (first, second):
            client.run_closed(port, requests, load.connections, 2 * WARM_UP_SECONDS)
        while len(measured) < rounds:
            order = (first, second) if len(measured) % 2 == 0 else (second, first)
            start = cpu_usage()
            rates = {port: _rate(port, requests, load.connections, seconds) for port in order}
            current = ComparedRound(rates[first], rates[second], start.other_load(cpu_usage()))
            repeated = current.other_load > MAX_OTHER_LOAD and retries > 0
            report(
                f"{load}: {current.before:,.1f} and {current.after:,.1f} images/s, ratio {current.ratio:.3f}, "
                f"other load {current.other_load:.1%}{', repeated' if repeated else ''}"
            )
            if repeated:
                retries -= 1
            else:
                measured.append(current)
    return measured


def median_ratio(rounds: Sequence[ComparedRound]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(current.ratio for current in rounds)


def make_requests(model: str, headers: Sequence[str] = ()) -> list[bytes]:
    """Requests to `/v1/classify`: example images for the ResNet-20, photographs for the ResNet-50.

    Args:
        model: one of `MODELS`.
        headers: further header lines, such as `Authorization: Bearer KEY`.
    """
    files = sorted(EXAMPLES.glob("*.png") if model == "resnet20" else PHOTOGRAPHS.glob("*.jpg"))
    kind = "image/png" if model == "resnet20" else "image/jpeg"
    lines = "".join(f"{line}\r\n" for line in headers)
    return [payloads.post("/v1/classify", kind, file.read_bytes(), lines) for file in files]


def repository_options(model: str, resnet50: Path | None) -> list[str]:
    """Options with which a service has a model as its default: none for the shipped ResNet-20.

    Args:
        model: one of `MODELS`.
        resnet50: repository of a ResNet-50. Default: one with random weights, which is built if it does not exist.

    Raises:
        CalledProcessError: the ResNet-50 cannot be built.
    """
    if model == "resnet20":
        return []
    repository = resnet50 or RANDOM_RESNET50 / "repository"
    if resnet50 is None and not repository.exists():
        RANDOM_RESNET50.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "benchmarks.resnet50", str(RANDOM_RESNET50)]
        subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return ["--repository", str(repository.resolve())]


def _rate(port: int, requests: Sequence[bytes], connections: int, seconds: float) -> float:
    client.run_closed(port, requests, connections, WARM_UP_SECONDS)
    outcome = client.run_closed(port, requests, connections, seconds)
    failed = [status for status in outcome.statuses if status != 200]
    if failed:
        raise RequestsFailed(f"{len(failed)} of {len(outcome.statuses)} requests failed, the first with {failed[0]}")
    end = max(start + taken for start, taken in zip(outcome.started, outcome.seconds, strict=True))
    return len(outcome.statuses) / end


@contextmanager
def _running(side: Side) -> Iterator[int]:
    """Run the service of a checkout until the end of the block; gives its port once it is ready."""
    port = server.free_port()
    command = [sys.executable, "-m", "service", "--port", str(port), "--log-level", "warning", *side.options]
    environment = {**os.environ, "PYTHONPATH": str(side.checkout), **side.environment}
    process = subprocess.Popen(command, cwd=side.checkout, env=environment)
    try:
        server.wait_until_ready(process, port)
        yield port
    finally:
        process.terminate()
        process.wait(_SECONDS_TO_END)
