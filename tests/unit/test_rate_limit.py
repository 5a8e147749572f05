"""The rate limit with a clock that the test sets."""

from __future__ import annotations

import asyncio

import pytest

from service.core import rate_limit
from service.core.errors import TooManyRequests
from service.core.rate_limit import RateLimiter
from tests.support.clock import Clock


def taken(limiter: RateLimiter, caller: str, attempts: int) -> int:
    count = 0
    for _ in range(attempts):
        try:
            asyncio.run(limiter.take(caller))
        except TooManyRequests:
            continue
        count += 1
    return count


def test_burst_is_followed_by_the_rate() -> None:
    clock = Clock()
    limiter = RateLimiter(rate=4.0, burst=10, clock=clock)
    assert taken(limiter, "a", 100) == 10
    for _ in range(20):
        clock.now += 0.25
        assert taken(limiter, "a", 3) == 1
    clock.now += 1000.0
    assert taken(limiter, "a", 100) == 10


def test_clients_have_separate_rates() -> None:
    limiter = RateLimiter(rate=1.0, burst=3, clock=Clock())
    assert taken(limiter, "a", 100) == 3
    assert taken(limiter, "b", 100) == 3


@pytest.mark.parametrize(("rate", "burst", "retry_after"), [(0.2, 1, 5), (4.0, 1, 1), (1.0, 5, 1), (0.01, 2, 100)])
def test_retry_after_is_the_time_to_the_next_request(rate: float, burst: int, retry_after: int) -> None:
    clock = Clock()
    limiter = RateLimiter(rate, burst, clock)
    assert taken(limiter, "a", burst) == burst
    with pytest.raises(TooManyRequests, match=f"more than {rate:g} requests") as refused:
        asyncio.run(limiter.take("a"))
    assert refused.value.status == 429
    assert refused.value.headers == {"Retry-After": str(retry_after)}
    clock.now += retry_after
    asyncio.run(limiter.take("a"))


def test_idle_clients_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "_MANY_CLIENTS", 100)
    clock = Clock()
    limiter = RateLimiter(rate=1.0, burst=2, clock=clock)
    for caller in range(10_000):
        clock.now += 0.1
        asyncio.run(limiter.take(str(caller)))
    assert len(limiter._refilled_at) <= 101
    asyncio.run(limiter.take("busy"))
    asyncio.run(limiter.take("busy"))
    with pytest.raises(TooManyRequests):
        asyncio.run(limiter.take("busy"))
