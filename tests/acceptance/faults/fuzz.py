"""Fuzzes a served process: `python -m tests.acceptance.faults.fuzz [TARGET ...] [--minutes M] [--seed N]`.

Targets are framing, multipart, json and images; by default all of them. A connection that the service does not handle
is shrunk and written to `tests/data/corpus/TARGET/`, which `tests/e2e/test_corpus.py` replays.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import statistics
import sys
import time
from pathlib import Path
from threading import Event, Thread

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.acceptance.faults.served import ROOT, ServedProcess, serve
from tests.support.fuzzing import TARGETS, Finding, exchange

CORPUS = ROOT / "tests" / "data" / "corpus"
MAX_SLOPE = 0.5
"""Growth of the memory in MB per minute."""
WARM_UP = 0.25
"""Share of the time after which memory is measured."""
_EXAMPLES = 500
_MAX_FINDINGS = 5
_SAMPLE_SECONDS = 2.0


class MemoryWatch:
    """Samples the memory of a service in a thread of its own, after a warm-up."""

    def __init__(self, service: ServedProcess, warm_up_seconds: float) -> None:
        self._service = service
        self._start = time.monotonic() + warm_up_seconds
        self._minutes: list[float] = []
        self._megabytes: list[float] = []
        self._ended = Event()
        self._thread = Thread(target=self._sample, daemon=True)
        self._thread.start()

    def end(self) -> float:
        """End the samples. Returns the growth in MB per minute."""
        self._ended.set()
        self._thread.join()
        if len(self._minutes) < 2:
            return 0.0
        return statistics.linear_regression(self._minutes, self._megabytes).slope

    def _sample(self) -> None:
        while not self._ended.wait(_SAMPLE_SECONDS):
            now = time.monotonic()
            if now >= self._start:
                self._minutes.append(now / 60)
                self._megabytes.append(self._service.memory_mb())


class Fuzzer:
    """Sends what a target's strategy draws, and counts answers by status."""

    def __init__(self, target: str, port: int) -> None:
        self._strategy = TARGETS[target]()
        self._port = port
        self._failed = b""
        self.connections = 0
        self.statuses: dict[int, int] = {}

    def run(self, number: int) -> tuple[Finding, bytes] | None:
        """Send some connections. Returns the first finding with its shrunk connection."""

        @seed(number)
        @settings(
            max_examples=_EXAMPLES,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(self._strategy)
        def send(connection: bytes) -> None:
            self._send(connection)

        try:
            send()
        except Finding as finding:
            return finding, self._failed
        return None

    def _send(self, connection: bytes) -> None:
        self.connections += 1
        try:
            statuses = exchange(self._port, connection)
        except Finding:
            self._failed = connection
            raise
        for status in statuses:
            self.statuses[status] = self.statuses.get(status, 0) + 1


def fuzz(target: str, minutes: float, first_seed: int) -> bool:
    """Fuzz one target. Prints PASS or FAIL with the figures; returns whether it holds."""
    findings = 0
    with serve() as service:
        fuzzer = Fuzzer(target, service.port)
        memory = MemoryWatch(service, WARM_UP * minutes * 60)
        end = time.monotonic() + minutes * 60
        number = first_seed
        while time.monotonic() < end and findings < _MAX_FINDINGS and service.process.poll() is None:
            found = fuzzer.run(number)
            number += 1
            if found is not None:
                findings += 1
                print(f"  {target}: {found[0]}; kept as {_keep(target, found[1])}", flush=True)
        slope = memory.end()
        alive = service.process.poll() is None
    holds = alive and not findings and slope <= MAX_SLOPE
    counts = ", ".join(f"{status}: {count}" for status, count in sorted(fuzzer.statuses.items()))
    print(
        f"{'PASS' if holds else 'FAIL'}  {target}: seeds {first_seed} to {number - 1}, {minutes:g} minutes, "
        f"{fuzzer.connections:,} connections ({counts}), {findings} findings, memory {slope:+.2f} MB per minute",
        flush=True,
    )
    return holds


def _keep(target: str, connection: bytes) -> Path:
    path = CORPUS / target / f"{hashlib.sha256(connection).hexdigest()[:16]}.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(connection)
    return path.relative_to(ROOT)


def make_parser(description: str | None, minutes: float) -> argparse.ArgumentParser:
    """A parser of `--minutes` and `--seed`; without a seed, one is drawn."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--minutes", type=float, default=minutes)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    return parser


def main() -> None:
    """Fuzz the targets in turn. Exits with 1 if one does not hold."""
    parser = make_parser(__doc__, minutes=10.0)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    results = [fuzz(target, arguments.minutes, arguments.seed) for target in arguments.targets or TARGETS]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
