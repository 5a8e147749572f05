"""The simulated queue against theory and against calculations by hand."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from benchmarks.serve.loads import poisson
from benchmarks.serve.queueing import Station, simulate, single_requests

AT_ENGINE = Station(front=[0.0], servers=1, batches={1: [1.0]}, max_batch=1)
AT_FRONT = Station(front=[1.0], servers=1, batches={1: [0.0]}, max_batch=1)


@pytest.mark.slow
@pytest.mark.parametrize("station", [AT_ENGINE, AT_FRONT])
@pytest.mark.parametrize("load", [0.3, 0.6])
def test_mean_wait_of_poisson_arrivals_and_a_constant_time(load: float, station: Station) -> None:
    times = simulate(poisson(load, 200_000, seed=1), station)
    assert statistics.fmean(times) - 1.0 == pytest.approx(load / (2 * (1 - load)), rel=0.03)


@pytest.mark.slow
def test_mean_wait_of_poisson_arrivals_and_an_exponential_time() -> None:
    draw = random.Random(2)
    drawn = [draw.expovariate(1.0) for _ in range(50_000)]
    station = Station(front=[0.0], servers=1, batches={1: drawn}, max_batch=1)
    times = simulate(poisson(0.5, 400_000, seed=3), station)
    assert statistics.fmean(times) - 1.0 == pytest.approx(1.0, rel=0.05)  # rho / (1 - rho)


def test_batches_form_while_one_is_computed() -> None:
    station = Station(front=[0.0], servers=1, batches={1: [1.0], 2: [1.5]}, max_batch=2)
    # 0 until 1; 0.1 and 0.2 together until 2.5; 0.3 until 3.5.
    assert simulate([0.0, 0.1, 0.2, 0.3], station) == pytest.approx([1.0, 2.4, 2.3, 3.2])


def test_concurrent_batches_and_servers_work_in_parallel() -> None:
    station = Station(front=[0.0], servers=1, batches={1: [1.0]}, max_batch=1, concurrent_batches=2)
    assert simulate([0.0, 0.0, 0.0], station) == pytest.approx([1.0, 1.0, 2.0])
    servers = Station(front=[1.0], servers=2, batches={1: [0.0]}, max_batch=1)
    assert simulate([0.0, 0.0, 0.0], servers) == pytest.approx([1.0, 1.0, 2.0])


def test_shared_servers_are_first_come_first_served() -> None:
    station = Station(
        front=[1.0], servers=1, batches={1: [2.0], 2: [3.0]}, max_batch=2, concurrent_batches=2, shared=True
    )
    # Both are decoded, one after the other, until 2; then computed together until 5. The last one comes meanwhile.
    assert simulate([0.0, 0.5, 2.5], station) == pytest.approx([5.0, 4.5, 8.0 - 2.5])


def test_number_of_shared_servers_is_the_limit() -> None:
    station = Station(front=[1.0], servers=2, batches={1: [2.0]}, max_batch=1, concurrent_batches=2, shared=True)
    # The third waits for a CPU until the first two are computed, although the first station is free.
    assert simulate([0.0, 0.0, 1.5], station) == pytest.approx([3.0, 3.0, 6.0 - 1.5])


def test_ready_batch_waits_for_a_slot_without_blocking_others() -> None:
    station = Station(front=[1.0], servers=2, batches={1: [5.0]}, max_batch=1, concurrent_batches=1, shared=True)
    # The second is decoded at 1.5 and waits for the engine until 6; the third is decoded meanwhile.
    assert simulate([0.0, 0.5, 2.0], station) == pytest.approx([6.0, 11.0 - 0.5, 16.0 - 2.0])


@pytest.mark.slow
@pytest.mark.parametrize("load", [0.3, 0.6])
def test_mean_wait_at_one_shared_server(load: float) -> None:
    """Both stations together are one server with a constant time, if no request overtakes another between them."""
    station = Station(front=[0.0], servers=1, batches={1: [1.0]}, max_batch=1, shared=True)
    times = simulate(poisson(load, 200_000, seed=1), station)
    assert statistics.fmean(times) - 1.0 == pytest.approx(load / (2 * (1 - load)), rel=0.03)


def test_unmeasured_batch_size_takes_the_time_of_the_nearest() -> None:
    station = Station(front=[0.0], servers=1, batches={1: [1.0], 8: [3.0]}, max_batch=8)
    assert simulate([0.0] * 6, station) == pytest.approx([3.0] * 6)


def test_draws_repeat() -> None:
    station = Station(front=[0.1, 0.2, 0.3], servers=2, batches={1: [0.1, 0.5], 2: [0.7]}, max_batch=2)
    arrivals = poisson(2.0, 100, seed=4)
    assert simulate(arrivals, station, 5) == simulate(arrivals, station, 5)
    assert simulate(arrivals, station, 5) != simulate(arrivals, station, 6)


def test_arrivals() -> None:
    arrivals = poisson(50.0, 200.0, seed=6)
    assert arrivals == sorted(arrivals)
    assert arrivals[0] > 0
    assert arrivals[-1] < 200.0
    assert len(arrivals) == pytest.approx(10_000, rel=0.03)


def test_single_requests_by_hand() -> None:
    starts = [0.0, 2.0, 2.5, 9.0, 6.0, 6.5]
    seconds = [1.0, 1.0, 4.0, 1.0, 1.0, 0.1]
    # The second and third meet, the fifth meets the third, and the sixth the fifth.
    assert single_requests(starts, seconds, 0.5) == pytest.approx({0: math.exp(0.5), 3: math.exp(0.5)})
    assert single_requests([], [], 1.0) == {}


def test_weighted_single_requests_have_the_mean_of_all() -> None:
    """If requests do not disturb each other, those without overlap are a sample of all, by their weights."""
    draw = random.Random(4)
    starts = poisson(0.5, 200_000, seed=5)
    seconds = [draw.uniform(0.0, 3.0) for _ in starts]
    weights = single_requests(starts, seconds, 0.5)
    weighted = sum(seconds[index] * weight for index, weight in weights.items()) / sum(weights.values())
    assert weighted == pytest.approx(1.5, rel=0.02)
    assert statistics.fmean(seconds[index] for index in weights) < 1.3


def test_draws_count_as_they_are_weighted() -> None:
    station = Station(front=[1.0, 9.0], servers=1, batches={1: [0.0]}, max_batch=1, weights=[1.0, 0.0])
    assert simulate([0.0, 20.0], station) == pytest.approx([1.0, 1.0])
