"""The series of all processes of the service: written to the sheet of this process, and read from all sheets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

from prometheus_client import ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.telemetry.sheet import Labels, Sheet


class SharedSeries:
    """Writes the series of this process, and adds up those of all processes.

    Args:
        sheet: sheet of this process, which has begun it.
        sheets: sheets of all processes.
    """

    def __init__(self, sheet: Sheet, sheets: Sequence[Sheet]) -> None:
        self._sheet = sheet
        self._sheets = sheets
        self._running: Sequence[Sheet] = ()
        self._gauges: dict[str, dict[Labels, memoryview[float]]] = {}

    @property
    def workers(self) -> int:
        """Number of workers: one of the processes is the engine process."""
        return len(self._sheets) - 1

    def amount(self, name: str, label: str) -> SharedAmount:
        """An amount that each process states for itself."""
        return SharedAmount(self._sheet, self._sheets, name, label)

    def series(self, name: str, labels: Labels, size: int) -> memoryview[float]:
        """The values of a counter or histogram of this process, as doubles [size]."""
        return self._sheet.series(name, labels, size)

    def beat(self, gauges: Iterable[tuple[str, Mapping[Labels, float]]]) -> None:
        """Write a heartbeat and all gauges of this process: the name and the values by labels of each."""
        self._sheet.beat()
        for name, values in gauges:
            places = self._gauges.setdefault(name, {})
            for labels in places.keys() - values.keys():
                places[labels][0] = math.nan
            for labels, value in values.items():
                if labels not in places:
                    places[labels] = self._sheet.series(name, labels, 1, gauge=True)
                places[labels][0] = value

    def find_running(self) -> None:
        """Find the processes that run. Their gauges and figures of the kernel are collected until the next call."""
        self._running = [sheet for sheet in self._sheets if sheet.is_running()]

    def totals(self, name: str) -> dict[Labels, list[float]]:
        """Counts of all processes, also of those that have ended, by labels."""
        totals: dict[Labels, list[float]] = {}
        for sheet in self._sheets:
            for labels, values in sheet.read(name).items():
                others = totals.get(labels)
                totals[labels] = [*values] if others is None else list(map(sum, zip(others, values, strict=True)))
        return totals

    def gauges(self, name: str, combine: Callable[[Iterable[float]], float]) -> dict[Labels, float]:
        """Gauges of the processes that run, combined by labels."""
        found: dict[Labels, list[float]] = {}
        for sheet in self._running:
            for labels, (value,) in sheet.read(name).items():
                found.setdefault(labels, []).append(value)
        return {labels: combine(values) for labels, values in found.items()}

    def running(self) -> Iterator[tuple[str, int]]:
        """Name and id of each process that runs."""
        return ((sheet.name, sheet.pid) for sheet in self._running)


class SharedAmount:
    """An amount that each process states for itself, and of which the sum is wanted at once, such as images in flight.

    Args:
        sheet: sheet of this process.
        sheets: sheets of all processes.
        name: name of the series.
        label: value of its label.
    """

    def __init__(self, sheet: Sheet, sheets: Sequence[Sheet], name: str, label: str) -> None:
        self._name, self._labels = name, (label,)
        self._own = sheet.series(name, self._labels, 1, gauge=True)
        self._others: dict[Sheet, memoryview[float] | None] = {each: None for each in sheets if each is not sheet}

    def state(self, amount: float) -> None:
        """State the amount of this process."""
        self._own[0] = amount

    def elsewhere(self) -> float:
        """The sum of the other processes."""
        total = 0.0
        for sheet, values in self._others.items():
            if values is None:
                values = self._others[sheet] = sheet.find(self._name, self._labels)
            if values is not None and sheet.pid and values[0] > 0:  # NaN, before the process states it
                total += values[0]
        return total


class ProcessesCollector(Collector):
    """The figures that the kernel has of each process, with its name as the label `process`."""

    def __init__(self, shared: SharedSeries) -> None:
        self._shared = shared

    def collect(self) -> Iterator[Metric]:
        """The metrics of `ProcessCollector`, for all processes that run."""
        families: dict[str, Metric] = {}
        for name, pid in self._shared.running():
            for metric in ProcessCollector(pid=partial(int, pid), registry=None).collect():
                family = families.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                for sample in metric.samples:
                    family.add_sample(sample.name, {"process": name}, sample.value)
        yield from families.values()
