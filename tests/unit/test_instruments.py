"""Counters and histograms of the event loop collect the same samples as those of prometheus_client."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Counter as ReferenceCounter
from prometheus_client import Histogram as ReferenceHistogram
from prometheus_client.parser import text_string_to_metric_families

from service.telemetry.instruments import LoopCounter, LoopHistogram
from service.telemetry.shared_series import SharedSeries
from service.telemetry.sheet import Sheet

BOUNDS = (0.0, 0.25, 0.5, 1.0, 10.0)

PROCESSES = st.integers(0, 2)
VALUES = st.lists(st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(BOUNDS) | st.floats(0, 20)))


def samples(registry: CollectorRegistry) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = generate_latest(registry).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


@given(VALUES)
def test_histograms_collect_the_samples_of_the_library(values: list[tuple[str, float]]) -> None:
    ours, reference_registry = CollectorRegistry(), CollectorRegistry()
    histogram = LoopHistogram("seconds", "Time.", BOUNDS, ("model", "stage"))
    ours.register(histogram)
    reference = ReferenceHistogram("seconds", "Time.", ("model", "stage"), buckets=BOUNDS, registry=reference_registry)
    for model, value in values:
        histogram.labels(model, "decode").observe(value)
        reference.labels(model, "decode").observe(value)
    assert samples(ours) == samples(reference_registry)


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 100))))
def test_counters_collect_the_samples_of_the_library(amounts: list[tuple[str, int]]) -> None:
    ours, reference_registry = CollectorRegistry(), CollectorRegistry()
    counter = LoopCounter("images", "Images.", ("model", "status"))
    ours.register(counter)
    reference = ReferenceCounter("images", "Images.", ("model", "status"), registry=reference_registry)
    for model, amount in amounts:
        counter.labels(model, "200").inc(amount)
        reference.labels(model, "200").inc(amount)
    assert samples(ours) == samples(reference_registry)


def shared_series() -> list[SharedSeries]:
    """The series of three processes."""
    sheets = [Sheet(f"worker-{number}", values=1000, text_bytes=10_000) for number in range(3)]
    return [SharedSeries(sheet, sheets) for sheet in sheets]


@given(
    st.lists(st.tuples(PROCESSES, st.sampled_from(["a", "b"]), st.sampled_from(BOUNDS) | st.floats(0, 20))), PROCESSES
)
def test_shared_histograms_collect_the_samples_of_the_library(
    values: list[tuple[int, str, float]], reader: int
) -> None:
    ours, reference_registry = CollectorRegistry(), CollectorRegistry()
    histograms = [LoopHistogram("seconds", "Time.", BOUNDS, ("model",), shared) for shared in shared_series()]
    ours.register(histograms[reader])
    reference = ReferenceHistogram("seconds", "Time.", ("model",), buckets=BOUNDS, registry=reference_registry)
    for process, model, value in values:
        histograms[process].labels(model).observe(value)
        reference.labels(model).observe(value)
    assert samples(ours) == pytest.approx(samples(reference_registry))


@given(st.lists(st.tuples(PROCESSES, st.sampled_from(["a", "b"]), st.integers(0, 2**40))), PROCESSES)
def test_shared_counters_collect_the_samples_of_the_library(amounts: list[tuple[int, str, int]], reader: int) -> None:
    ours, reference_registry = CollectorRegistry(), CollectorRegistry()
    counters = [LoopCounter("images", "Images.", ("model",), shared) for shared in shared_series()]
    ours.register(counters[reader])
    reference = ReferenceCounter("images", "Images.", ("model",), registry=reference_registry)
    for process, model, amount in amounts:
        counters[process].labels(model).inc(amount)
        reference.labels(model).inc(amount)
    assert samples(ours) == samples(reference_registry)


def test_labels_make_empty_buckets_once() -> None:
    registry = CollectorRegistry()
    histogram = LoopHistogram("seconds", "Time.", BOUNDS, ("model",))
    registry.register(histogram)
    series = histogram.labels("a")
    assert histogram.labels("a") is series
    assert samples(registry)["seconds_count", frozenset({("model", "a")})] == 0


def test_labels_make_a_zero_count_once() -> None:
    registry = CollectorRegistry()
    counter = LoopCounter("images", "Images.", ("model",))
    registry.register(counter)
    count = counter.labels("a")
    assert counter.labels("a") is count
    assert samples(registry)["images_total", frozenset({("model", "a")})] == 0
