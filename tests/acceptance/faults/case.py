"""The cases: functions that are registered by number, and how each is run and judged.

An attack sends hostile input to a served process, and is run three times. Beside what the attack itself checks, these
limits hold for each: the event loop never stands still for more than 100 ms in two of three runs, memory stays within a
bound and comes back, and the process ends within its limit after SIGTERM. A check is run once.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.acceptance.faults.health_probe import HealthProbe
from tests.acceptance.faults.served import ServedProcess, serve

RUNS = 3
MAX_LAG = 0.1
"""Seconds for which the event loop may stand still."""
MAX_GROWTH_MB = 30.0
"""Memory after a run, ten seconds later, above that after the first run."""
SETTLE_SECONDS = 10.0
IDLE_SECONDS = 3.0
"""Time of the idle control: what `/healthz` takes without an attack, on this machine at this moment."""


class Failed(Exception):
    """A case does not hold; the message says why."""


def expect(holds: object, message: str) -> None:
    """Raise Failed with a message unless something holds."""
    if not holds:
        raise Failed(message)


@dataclass(frozen=True)
class Case:
    """A numbered case of the issue."""

    number: int
    title: str
    run: Callable[[], str]
    """Returns the figure. Raises Failed if the case does not hold."""


CASES: list[Case] = []


def check(number: int, title: str) -> Callable[[Callable[[Path], str]], Callable[[Path], str]]:
    """Register a function as a case. It gets an empty folder, returns the figure, and raises Failed."""

    def register(function: Callable[[Path], str]) -> Callable[[Path], str]:
        def run() -> str:
            with TemporaryDirectory(prefix="faults-") as folder:
                return function(Path(folder))

        CASES.append(Case(number, title, run))
        return function

    return register


def attack(
    number: int,
    title: str,
    *,
    options: Sequence[str] = (),
    memory_mb: float = 600.0,
    max_seconds: float | None = None,
    shutdown_seconds: float = 5.0,
    lag: bool = True,
) -> Callable[[Callable[[ServedProcess], str]], Callable[[ServedProcess], str]]:
    """Register a function as an attack on a served process.

    Args:
        number: number of the case in the issue.
        title: what is sent.
        options: options of the service besides `--port` and `--shutdown-seconds`.
        memory_mb: most resident memory of the process while it is attacked, in MB: the documented bound.
        max_seconds: most seconds that one run may take; None for no limit.
        shutdown_seconds: value of `--shutdown-seconds`; the process must end at most 2 s later.
        lag: whether the event loop is measured; False if the attack stops the process itself.
    """

    def register(function: Callable[[ServedProcess], str]) -> Callable[[ServedProcess], str]:
        def run() -> str:
            with serve(*options, "--shutdown-seconds", str(shutdown_seconds)) as service:
                limits = _Limits(service, memory_mb, max_seconds, lag)
                figures = [limits.measure(function) for _ in range(RUNS)]
                return f"{figures[-1]}; {limits.judge()}; {_end(service, shutdown_seconds)}"

        CASES.append(Case(number, title, run))
        return function

    return register


class _Limits:
    """Measures each run of an attack, and judges all runs at the end."""

    def __init__(self, service: ServedProcess, memory_mb: float, max_seconds: float | None, lag: bool) -> None:
        self._service = service
        self._memory_mb = memory_mb
        self._max_seconds = max_seconds
        self._measures_lag = lag
        self._lags: list[float] = []
        self._probes: list[float] = []
        self._peaks: list[float] = []
        self._settled: list[float] = []
        self._seconds: list[float] = []
        with self._probe() as idle:
            time.sleep(IDLE_SECONDS)
        self._idle = idle.longest

    def measure(self, function: Callable[[ServedProcess], str]) -> str:
        """Run the attack once. Returns its figure."""
        self._service.reset_peak()
        before = self._service.lags() if self._measures_lag else {}
        started = time.monotonic()
        with self._probe() as probe:
            figure = function(self._service)
        self._seconds.append(time.monotonic() - started)
        self._probes.append(probe.longest)
        if self._measures_lag:
            self._lags.append(_longest(before, self._service.lags()))
        self._peaks.append(self._service.peak_mb())
        time.sleep(SETTLE_SECONDS)
        self._settled.append(self._service.memory_mb())
        return figure

    def judge(self) -> str:
        """All figures of the limits. Raises Failed if a limit does not hold."""
        growth = max(self._settled) - self._settled[0]
        figures = (
            f"loop at most {_ms(self._lags)}, /healthz at most {_ms(self._probes)} (idle {self._idle * 1000:.0f}) ms, "
            f"memory at most {max(self._peaks):.0f} of {self._memory_mb:.0f} MB, then {growth:+.0f} MB, "
            f"{max(self._seconds):.1f} s"
        )
        late = [max(0.0, each - self._idle) for each in self._probes]
        expect(statistics.median(self._lags or [0.0]) <= MAX_LAG, f"the event loop stood still: {figures}")
        expect(not self._measures_lag or statistics.median(late) <= MAX_LAG, f"/healthz was late: {figures}")
        expect(max(self._peaks) <= self._memory_mb, f"memory above its bound: {figures}")
        expect(growth <= MAX_GROWTH_MB, f"memory was not given back: {figures}")
        expect(self._max_seconds is None or max(self._seconds) <= self._max_seconds, f"too slow: {figures}")
        return figures

    @contextmanager
    def _probe(self) -> Iterator[HealthProbe]:
        with HealthProbe(self._service.port, self._measures_lag) as probe:
            yield probe


def _longest(before: dict[float, float], after: dict[float, float]) -> float:
    """Upper bound of the highest bucket that grew, in seconds."""
    return max((bound for bound, count in after.items() if count > before.get(bound, 0.0)), default=0.0)


def _end(service: ServedProcess, shutdown_seconds: float) -> str:
    seconds = service.terminate()
    expect(seconds <= shutdown_seconds + 2, f"the process took {seconds:.1f} s to end after SIGTERM")
    return f"ended in {seconds:.1f} s"


def _ms(seconds: Sequence[float]) -> str:
    return " ".join(f"{each * 1000:.0f}" for each in seconds)
