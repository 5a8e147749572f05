"""Counters, histograms and gauges without locks, for values that only the event loop records and collects.

Those of prometheus_client take one or two locks per value, which costs 4 % of the throughput of a ResNet-20.
With several processes, the values are in the sheet of the process, and each process collects those of all sheets.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from service.telemetry.shared_series import SharedSeries


class Count:
    """The count of one set of labels."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, amount: int = 1) -> None:
        """Add to the count."""
        self.value += amount


class SharedCount(Count):
    """A count in the sheet of this process, in doubles [1]: exact below 2**53."""

    __slots__ = ("_shared",)

    def __init__(self, shared: memoryview[float]) -> None:
        self._shared = shared

    def inc(self, amount: int = 1) -> None:
        """Add to the count."""
        self._shared[0] += amount


class LoopCounter(Collector):
    """A counter with the interface of `prometheus_client.Counter`.

    Args:
        name: name of the metric, without `_total`.
        text: description for `/metrics`.
        labels: names of the labels.
        shared: series of all processes; None if there is one process.
    """

    def __init__(self, name: str, text: str, labels: Sequence[str], shared: SharedSeries | None = None) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._shared = shared
        self._counts: dict[tuple[str, ...], Count] = {}

    def labels(self, *values: str) -> Count:
        """The count with these values of the labels."""
        if values not in self._counts:
            shared = self._shared
            count = Count() if shared is None else SharedCount(shared.series(self._name, values, 1))
            return self._counts.setdefault(values, count)
        return self._counts[values]

    def collect(self) -> Iterator[Metric]:
        """All counts, for the registry."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        if self._shared is not None:
            for values, (total,) in self._shared.totals(self._name).items():
                family.add_metric(values, total)
        else:
            for values, count in list(self._counts.items()):  # a thread that loads a model may add one
                family.add_metric(values, count.value)
        yield family


class CountedElsewhere:
    """Follows a number that is counted elsewhere since the start of the process.

    Args:
        count: follows the number.
        read: gives the number.
    """

    def __init__(self, count: Count, read: Callable[[], int]) -> None:
        self._count, self._read = count, read
        self._seen = 0

    def update(self) -> None:
        """Add the increase since the last call."""
        now = self._read()
        self._count.inc(now - self._seen)
        self._seen = now


class Buckets:
    """The histogram of one set of labels.

    Args:
        bounds: upper bounds of the buckets, ascending, infinity included.
    """

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * len(bounds)
        """Number of values per bucket, without those of the buckets below."""
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Record a value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


class SharedBuckets(Buckets):
    """A histogram in the sheet of this process, in doubles: the number of values per bucket, then the sum."""

    __slots__ = ("_shared",)

    def __init__(self, bounds: Sequence[float], shared: memoryview[float]) -> None:
        self._bounds = bounds
        self._shared = shared

    def observe(self, value: float) -> None:
        """Record a value."""
        self._shared[bisect_left(self._bounds, value)] += 1
        self._shared[-1] += value


class LoopHistogram(Collector):
    """A histogram with the interface of `prometheus_client.Histogram`.

    Args:
        name: name of the metric.
        text: description for `/metrics`.
        bounds: upper bounds of the buckets, ascending.
        labels: names of the labels.
        shared: series of all processes; None if there is one process.
    """

    def __init__(
        self,
        name: str,
        text: str,
        bounds: Sequence[float],
        labels: Sequence[str],
        shared: SharedSeries | None = None,
    ) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._bounds = (*bounds, math.inf)
        self._shared = shared
        self._buckets: dict[tuple[str, ...], Buckets] = {}

    def labels(self, *values: str) -> Buckets:
        """The buckets with these values of the labels."""
        if values not in self._buckets:
            bounds, shared = self._bounds, self._shared
            if shared is None:
                buckets = Buckets(bounds)
            else:
                buckets = SharedBuckets(bounds, shared.series(self._name, values, len(bounds) + 1))
            return self._buckets.setdefault(values, buckets)
        return self._buckets[values]

    def collect(self) -> Iterator[Metric]:
        """All buckets, for the registry."""
        names = [floatToGoString(bound) for bound in self._bounds]  # type: ignore[no-untyped-call]
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, counts, total in self._read():
            family.add_metric(values, list(zip(names, accumulate(counts), strict=True)), total)
        yield family

    def _read(self) -> Iterator[tuple[Sequence[str], Sequence[float], float]]:
        """Labels, number of values per bucket, and their sum."""
        if self._shared is not None:
            for values, (*counts, total) in self._shared.totals(self._name).items():
                yield values, counts, total
        else:
            for values, buckets in list(self._buckets.items()):  # a thread that loads a model may add one
                yield values, buckets.counts, buckets.sum


class LoopGauge(Collector):
    """A gauge that is read at each scrape.

    Args:
        name: name of the metric.
        text: description for `/metrics`.
        labels: names of the labels.
        shared: series of all processes; None if there is one process.
        combine: combines the values of several processes.
    """

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str],
        shared: SharedSeries | None = None,
        combine: Callable[[Iterable[float]], float] = sum,
    ) -> None:
        self.name = name
        self._text, self._labels = text, labels
        self._shared, self._combine = shared, combine
        self._functions: dict[tuple[str, ...], Callable[[], float]] = {} if labels else {(): float}
        self._read_all: Callable[[], Mapping[tuple[str, ...], float]] = dict
        self._values: dict[tuple[str, ...], float] = {}

    def watch(self, function: Callable[[], float], *values: str) -> None:
        """Read the value with these values of the labels from a function."""
        self._functions[values] = function

    def watch_all(self, read: Callable[[], Mapping[tuple[str, ...], float]]) -> None:
        """Read values by labels, all of them, from a function."""
        self._read_all = read

    def read(self) -> dict[tuple[str, ...], float]:
        """The values of this process, by labels. On the event loop."""
        self._values = {values: function() for values, function in self._functions.items()} | dict(self._read_all())
        return self._values

    def collect(self) -> Iterator[Metric]:
        """All values as they were last read, for the registry."""
        family = GaugeMetricFamily(self.name, self._text, labels=self._labels)
        found = self._values if self._shared is None else self._shared.gauges(self.name, self._combine)
        for values, value in found.items():
            family.add_metric(values, value)
        yield family
