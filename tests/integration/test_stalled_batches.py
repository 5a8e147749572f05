"""A batch that does not end: what the service says meanwhile, and that it ends nevertheless."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from service.core.settings import Settings
from service.engine import progress, workers
from service.engine.batch_queue import BatchQueue
from service.engine.engine import Engine
from service.engine.progress import BatchClock, StallDetector, stall_seconds
from service.executors.simulated import SimulatedExecutor
from service.messages.inference import InferenceRequest
from service.registry import health, registry
from service.telemetry.metrics import Metrics
from tests.support.held_executor import HeldExecutor, image
from tests.support.service import TIMEOUT, Client, serve
from tests.support.tiny import Photographs

RUN = SimulatedExecutor.run


@pytest.mark.parametrize(
    ("seconds_per_image", "max_batch", "expected"), [(0.001, 8, 10.0), (0.0, 32, 10.0), (0.3, 128, 768.0)]
)
def test_limit_follows_from_the_largest_batch(seconds_per_image: float, max_batch: int, expected: float) -> None:
    assert stall_seconds(seconds_per_image, max_batch) == pytest.approx(expected)


def test_one_stalled_device_of_several(caplog: pytest.LogCaptureFixture) -> None:
    first, second, single = BatchClock("cuda:0"), BatchClock("cuda:1"), BatchClock("cuda:0", single_image=True)
    stalls = StallDetector("tiny", 10.0)
    for clock in (first, second, single):
        stalls.add(clock)
    first.started = second.started = 100.0
    stalls.check(110.0)
    assert (stalls.reasons, stalls.all_stalled) == ([], False)
    second.started = 105.0
    for _ in range(2):
        stalls.check(111.0)
    assert (stalls.reasons, stalls.all_stalled) == (["cuda:0 has not finished a batch within 10 s"], False)
    stalls.check(116.0)
    assert stalls.all_stalled, "the thread for single images is no substitute"
    stalls.remove(first)
    second.started = float("inf")
    stalls.check(117.0)
    assert (stalls.reasons, stalls.all_stalled) == ([], False)
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.ERROR, logging.ERROR, logging.WARNING], "each change is logged once"


class StuckDriver:
    """Keeps every batch of the executor `simulated` until the test ends."""

    def __init__(self) -> None:
        self.entered, self.leave = Event(), Event()

    def run(self, executor: SimulatedExecutor, images: Any, outputs: Any) -> Any:
        self.entered.set()
        assert self.leave.wait(TIMEOUT)
        return RUN(executor, images, outputs)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[StuckDriver]:
    driver = StuckDriver()
    monkeypatch.setattr(progress, "MIN_STALL_SECONDS", 0.0)
    monkeypatch.setattr(registry, "_CHECK_SECONDS", 3600.0)  # the test itself calls for the check
    monkeypatch.setattr(registry, "_CLOSE_SECONDS", 0.1)
    monkeypatch.setattr(SimulatedExecutor, "run", lambda *arguments: driver.run(*arguments))
    yield driver
    driver.leave.set()


def check_progress(client: Client) -> None:
    client.portal.call(health.check_progress, client.registry._models)


def stalled(client: Client) -> float | None:
    client.get("/metrics")  # reads the gauges
    return client.service.metrics.registry.get_sample_value("resnet_devices_stalled", {"model": "tiny"})


def test_stalled_version_is_not_ready_until_its_batch_ends(
    driver: StuckDriver, tiny_repository: Path, photographs: Photographs
) -> None:
    content = photographs[0][1]
    reason = "cpu has not finished a batch within 0 s"
    with serve(Settings(repository=tiny_repository, executor="simulated:0")) as client:
        late = client.post("/v1/classify?timeout_ms=1000", content=content)
        assert late.status_code == 504
        assert driver.entered.wait(TIMEOUT)
        assert client.get("/readyz").status_code == 200
        check_progress(client)
        ready = client.get("/readyz?verbose")
        assert ready.status_code == 503
        assert ready.json()["reasons"] == [f"tiny: {reason}"]
        (version,) = ready.json()["models"][0]["versions"]
        assert (version["state"], version["reason"]) == ("UNAVAILABLE", reason)
        assert stalled(client) == 1
        refused = client.post("/v1/classify", content=content)
        assert refused.status_code == 503
        assert reason in refused.json()["detail"]
        driver.leave.set()
        client.portal.call(client.engine().close)  # ends once the batch has ended
        check_progress(client)
        assert stalled(client) == 0


def test_service_ends_in_spite_of_a_stalled_batch(
    driver: StuckDriver, tiny_repository: Path, photographs: Photographs
) -> None:
    with serve(Settings(repository=tiny_repository, executor="simulated:0")) as client:
        assert client.post("/v1/classify?timeout_ms=1000", content=photographs[0][1]).status_code == 504
        assert driver.entered.wait(TIMEOUT)
    assert not driver.leave.is_set()


def test_executor_of_a_stalled_batch_stays_open(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "_JOIN_SECONDS", 0.01)
    executor = HeldExecutor()

    async def play() -> None:
        engine = Engine([executor], BatchQueue(10, 1), Metrics(), "model", stall_seconds=0.0)
        engine.start()
        request = InferenceRequest([image(1)], frozenset({"logits"}), time.monotonic() + TIMEOUT)
        waiting = asyncio.create_task(engine.submit(request))
        await executor.started()
        async with asyncio.timeout(TIMEOUT):
            await engine.close()
        assert executor.closed_after is None
        assert "keeps its memory" in caplog.text
        executor.release()
        await waiting

    asyncio.run(play())
