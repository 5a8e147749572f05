"""Counters and histograms without locks, for values that only the event loop records and collects.

Those of prometheus_client take one or two locks per value, which costs 4 % of the throughput of a ResNet-20.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Count:
    """The count of one set of labels."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, amount: int = 1) -> None:
        """Add to the count."""
        self.value += amount


class LoopCounter(Collector):
    """A counter with the interface of `prometheus_client.Counter`.

    Args:
        name: name of the metric, without `_total`.
        text: description for `/metrics`.
        labels: names of the labels.
    """

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._counts: dict[tuple[str, ...], Count] = {}

    def labels(self, *values: str) -> Count:
        """The count with these values of the labels."""
        return self._counts.setdefault(values, Count())

    def collect(self) -> Iterator[Metric]:
        """All counts, for the registry."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, count in self._counts.items():
            family.add_metric(values, count.value)
        yield family


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


class LoopHistogram(Collector):
    """A histogram with the interface of `prometheus_client.Histogram`.

    Args:
        name: name of the metric.
        text: description for `/metrics`.
        bounds: upper bounds of the buckets, ascending.
        labels: names of the labels.
    """

    def __init__(self, name: str, text: str, bounds: Sequence[float], labels: Sequence[str]) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._bounds = (*bounds, math.inf)
        self._buckets: dict[tuple[str, ...], Buckets] = {}

    def labels(self, *values: str) -> Buckets:
        """The buckets with these values of the labels."""
        return self._buckets.setdefault(values, Buckets(self._bounds))

    def collect(self) -> Iterator[Metric]:
        """All buckets, for the registry."""
        names = [floatToGoString(bound) for bound in self._bounds]  # type: ignore[no-untyped-call]
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, buckets in self._buckets.items():
            family.add_metric(values, list(zip(names, accumulate(buckets.counts), strict=True)), buckets.sum)
        yield family
