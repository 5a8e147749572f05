"""Compares two checkouts under the same load, in turns: `python -m benchmarks.compare BEFORE AFTER`.

Both services run all the time and only one of them is under load. A round loads each once, and every second round
begins with the other one, so that a machine that gets slower or faster does so for both. What counts is the median of
the rounds' ratios.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.machine import Moment
from benchmarks.serve import client, server

MAX_OTHER_LOAD = 0.08
"""Share of the machine. A round with more of it from other processes is measured again."""
_WARM_UP_SECONDS = 1.0


@dataclass(frozen=True)
class Load:
    """Requests of one image, from a number of connections that each wait for the answer before the next request."""

    model: str
    connections: int

    @classmethod
    def parse(cls, text: str) -> Load:
        """`MODEL:CONNECTIONS`."""
        model, _, connections = text.partition(":")
        return cls(model, int(connections))


@dataclass(frozen=True)
class Side:
    """One of the two services."""

    checkout: Path
    options: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Round:
    """Images per second of both sides in one round."""

    before: float
    after: float
    other_load: float
    """Share of the machine that other processes used meanwhile."""

    @property
    def ratio(self) -> float:
        return self.after / self.before


def compare(
    before: Side,
    after: Side,
    load: Load,
    requests: Sequence[bytes],
    rounds: int,
    seconds: float,
    retries: int = 5,
) -> list[Round]:
    """Measure one load.

    Args:
        before: the service that the ratio is relative to.
        after: the other service.
        load: its model is the default model of both services.
        requests: HTTP requests as bytes, sent in turn.
        rounds: number of measurements per side.
        seconds: time of one measurement.
        retries: how often a round with too much other load is repeated, in all.
    """
    measured: list[Round] = []
    with _running(before) as first, _running(after) as second:
        for port in (first, second):
            client.run_closed(port, requests, load.connections, 2 * _WARM_UP_SECONDS)
        while len(measured) < rounds:
            order = (first, second) if len(measured) % 2 == 0 else (second, first)
            start = Moment.now()
            rates = {port: _rate(port, requests, load.connections, seconds) for port in order}
            current = Round(rates[first], rates[second], start.other_load(Moment.now()))
            repeated = current.other_load > MAX_OTHER_LOAD and retries > 0
            note = ", repeated" if repeated else ""
            print(
                f"  {load.model}, {load.connections} connections: {current.before:,.1f} and {current.after:,.1f} "
                f"images/s, ratio {current.ratio:.3f}, other load {current.other_load:.1%}{note}",
                flush=True,
            )
            if repeated:
                retries -= 1
            else:
                measured.append(current)
    return measured


def median_ratio(rounds: Sequence[Round]) -> float:
    return statistics.median(current.ratio for current in rounds)


def _rate(port: int, requests: Sequence[bytes], connections: int, seconds: float) -> float:
    client.run_closed(port, requests, connections, _WARM_UP_SECONDS)
    outcome = client.run_closed(port, requests, connections, seconds)
    failed = sum(status != 200 for status in outcome.statuses)
    if failed:
        raise RuntimeError(f"{failed} of {len(outcome.statuses)} requests failed")
    return len(outcome.statuses) / max(
        start + taken for start, taken in zip(outcome.started, outcome.seconds, strict=True)
    )


@contextmanager
def _running(side: Side) -> Iterator[int]:
    """The service of a checkout, ready; gives its port."""
    port = server.free_port()
    command = [sys.executable, "-m", "service", "--port", str(port), "--log-level", "warning", *side.options]
    environment = {**os.environ, "PYTHONPATH": str(side.checkout), **side.environment}
    process = subprocess.Popen(command, cwd=side.checkout, env=environment)
    try:
        server.wait_until_ready(process, port)
        yield port
    finally:
        process.terminate()
        process.wait(60)
