"""A limited number of requests per second is traced."""

from __future__ import annotations

import pytest

from service.telemetry.tracing import TraceSelector
from tests.support.clock import Clock

PLAIN = {"headers": [(b"host", b"service")]}
TRACED = {
    "headers": [(b"host", b"service"), (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]
}


def traced(selector: TraceSelector, requests: int) -> int:
    return sum(not selector.exclude(PLAIN) for _ in range(requests))


@pytest.mark.parametrize("per_second", [0.5, 1, 10])
def test_number_per_second_is_limited(per_second: float) -> None:
    clock = Clock()
    selector = TraceSelector(per_second, clock)
    traced(selector, 100)
    count = 0
    for _ in range(1000):
        clock.now += 0.1
        count += traced(selector, 7)
    assert count == pytest.approx(100 * per_second, abs=1)


def test_pause_does_not_add_up() -> None:
    clock = Clock()
    selector = TraceSelector(10, clock)
    clock.now = 1000.0
    assert traced(selector, 100) == pytest.approx(10, abs=1)


def test_request_with_a_traceparent_is_traced_in_any_case() -> None:
    selector = TraceSelector(1, Clock())
    traced(selector, 100)
    assert not any(selector.exclude(TRACED) for _ in range(100))


def test_zero_traces_every_request() -> None:
    assert traced(TraceSelector(0, Clock()), 100) == 100
