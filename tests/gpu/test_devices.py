"""Several executors behind one queue: which device computes a batch, and the loss of a device."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from threading import Barrier, Event, Lock

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from models.imaging.preprocess import UInt8Array
from service import executors
from service.core.errors import InferenceFailed, Unavailable
from service.core.settings import Settings
from service.engine.batch_queue import BatchQueue
from service.engine.engine import Engine
from service.executors import simulated
from service.executors.base import DeviceLost, ExecutorError, Float32Array, Source, padded_size
from service.messages.inference import InferenceRequest, InferenceResult
from service.telemetry.metrics import Metrics
from tests.support.service import TIMEOUT, Client, serve
from tests.support.tiny import source_of

LOGITS = frozenset({"logits"})


class Device:
    """Doubles the value of an image of one pixel; it is lost at a given batch."""

    computes = False

    def __init__(
        self, device: str, lost_at: int | None = None, concurrent: int = 1, buckets: Sequence[int] = ()
    ) -> None:
        self.device = device
        self.concurrent_batches = concurrent
        self.buckets = buckets
        self.batches: list[int] = []
        self.at_once = 0
        self.most_at_once = 0
        self.closed = False
        self.together = Barrier(1)
        self.meetings = 0
        """Number of first batches that wait for those of other devices."""
        self._lost_at = lost_at
        self._lock = Lock()

    def prepare(self, max_batch: int) -> None:
        """Do nothing."""

    def gather(self, images: Sequence[UInt8Array]) -> UInt8Array:
        return np.stack(images)

    def run(self, gathered: UInt8Array, outputs: frozenset[str]) -> dict[str, Float32Array]:
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            position = len(self.batches)
            self.batches.append(len(gathered))
        try:
            if position < self.meetings:
                self.together.wait(TIMEOUT)
            if self._lost_at is not None and position >= self._lost_at:
                raise DeviceLost("an illegal memory access was encountered")
            return {name: gathered.reshape(-1, 1).astype(np.float32) * 2 for name in outputs}
        finally:
            with self._lock:
                self.at_once -= 1

    def close(self) -> None:
        self.closed = True


def submit(engine: Engine, *values: int) -> asyncio.Task[InferenceResult]:
    images = [np.full((1, 1, 1), value, np.uint8) for value in values]
    return asyncio.create_task(engine.submit(InferenceRequest(images, LOGITS, time.monotonic() + TIMEOUT)))


def answers(result: InferenceResult) -> list[float]:
    return [float(value) for value in result.outputs["logits"][:, 0]]


def counted(metrics: Metrics) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(asyncio.run(metrics.render()).decode())
        for sample in family.samples
        if "model" in sample.labels and "le" not in sample.labels
    }


def test_all_streams_of_all_devices_compute_at_the_same_time() -> None:
    devices = [Device("cuda:0", concurrent=2), Device("cuda:1", concurrent=2)]
    together = Barrier(4)
    for device in devices:
        device.together, device.meetings = together, 4

    async def play() -> list[InferenceResult]:
        engine = Engine(devices, BatchQueue(100, 1), Metrics(), "model")
        engine.start()
        # Batches of one image: no batch ends before four are computed at the same time.
        results = await asyncio.gather(*(submit(engine, value) for value in range(8)))
        await engine.close()
        return results

    assert [answers(result) for result in asyncio.run(play())] == [[2.0 * value] for value in range(8)]
    assert [device.most_at_once for device in devices] == [2, 2]
    assert all(device.closed for device in devices)


def test_batch_of_a_lost_device_is_computed_on_another(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    broken, sound = Device("cuda:0", lost_at=0), Device("cuda:1")
    # No batch ends before both devices have one.
    broken.together = sound.together = Barrier(2)
    broken.meetings = sound.meetings = 1

    async def play() -> None:
        engine = Engine([broken, sound], BatchQueue(100, 1), metrics, "model")
        engine.start()
        first, second = submit(engine, 1), submit(engine, 2)
        assert [answers(await first), answers(await second)] == [[2.0], [4.0]]
        assert engine.alive
        assert engine.devices == 1
        assert engine.problems == ["cuda:0 is lost: an illegal memory access was encountered"]
        for value in range(10):
            assert answers(await submit(engine, value)) == [2.0 * value]
        await engine.close()

    asyncio.run(play())
    assert len(broken.batches) == 1
    assert len(sound.batches) == 12
    assert broken.closed
    assert sound.closed
    samples = counted(metrics)
    assert samples["resnet_devices_lost_total"] == samples["resnet_batches_retried_total"] == 1
    assert "cuda:0 is not used any more" in caplog.text


def test_batch_is_retried_once() -> None:
    devices = [Device(f"cuda:{index}", lost_at=0) for index in range(3)]

    async def play() -> None:
        engine = Engine(devices, BatchQueue(100, 8), Metrics(), "model")
        engine.start()
        with pytest.raises(InferenceFailed):
            await submit(engine, 1)
        assert engine.devices == 1
        await engine.close()

    asyncio.run(play())
    assert sum(len(device.batches) for device in devices) == 2


def test_requests_fail_when_the_last_device_is_lost() -> None:
    device = Device("cuda:0", lost_at=0)

    async def play() -> None:
        engine = Engine([device], BatchQueue(100, 1), Metrics(), "model")
        waiting = [submit(engine, value) for value in range(5)]
        engine.start()
        for task in waiting:
            with pytest.raises(Unavailable, match="cuda:0 is lost: an illegal memory access"):
                await task
        assert not engine.alive
        with pytest.raises(Unavailable, match="not running; cuda:0 is lost"):
            await submit(engine, 1)
        await engine.close()

    asyncio.run(play())
    assert device.batches == [1]


@pytest.mark.parametrize(
    ("n", "buckets", "size"),
    [(1, (1, 8), 1), (2, (1, 8), 8), (8, (1, 8), 8), (3, (2, 4, 8), 4), (5, (), 5), (33, (32, 64), 64)],
)
def test_batch_is_padded_to_the_smallest_bucket(n: int, buckets: tuple[int, ...], size: int) -> None:
    assert padded_size(n, buckets) == size
    assert all(bucket - n >= size - n for bucket in buckets if bucket >= n)


def test_wasted_rows_are_counted() -> None:
    metrics = Metrics()

    async def play() -> None:
        engine = Engine([Device("cuda:0", buckets=(1, 4, 8))], BatchQueue(100, 8), metrics, "model")
        engine.start()
        for size in (1, 3, 4, 5):
            await submit(engine, *range(size))
        await engine.close()

    asyncio.run(play())
    assert counted(metrics)["resnet_wasted_rows_total"] == 0 + 1 + 0 + 3


@pytest.fixture
def two_devices(tiny_repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Client, list[str]]]:
    """The service with two simulated devices; a test loses those in the list.

    While one is lost, the other computes only after the service has tried the lost one.
    """
    lost: list[str] = []
    tried = Event()
    numbers = count()

    class Numbered(simulated.SimulatedExecutor):
        def __init__(self, source: Source) -> None:
            super().__init__(source)
            self.device = f"simulated:{next(numbers)}"

        def run(self, gathered: UInt8Array, outputs: frozenset[str]) -> dict[str, Float32Array]:
            if self.device in lost:
                tried.set()
                raise DeviceLost("fell off the bus")
            assert not lost or tried.wait(TIMEOUT)
            return super().run(gathered, outputs)

    monkeypatch.setattr(simulated, "EXECUTOR", Numbered)
    with serve(Settings(repository=tiny_repository, executor="simulated:0,0", max_batch=1)) as client:
        yield client, lost


def test_readiness_reports_a_lost_device(
    two_devices: tuple[Client, list[str]], photographs: list[tuple[str, bytes]]
) -> None:
    client, lost = two_devices
    photograph = photographs[0][1]
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json().get("degraded")) == (200, None)
    assert 'resnet_devices{model="tiny"} 2.0' in client.get("/metrics").text

    lost.append("simulated:0")
    responses = client.post_together("/v1/classify", [{"content": photograph}] * 2)
    assert [response.status_code for response in responses] == [200, 200]
    ready = client.get("/readyz?verbose")
    assert ready.status_code == 200
    assert ready.json()["degraded"] == ["tiny: simulated:0 is lost: fell off the bus"]
    assert ready.json()["models"][0]["versions"][0]["state"] == "READY"
    assert "simulated:0 is lost" in ready.json()["models"][0]["versions"][0]["reason"]
    assert 'resnet_devices{model="tiny"} 1.0' in client.get("/metrics").text

    lost.append("simulated:1")
    assert client.post("/v1/classify", content=photograph).status_code == 503
    ready = client.get("/readyz")
    assert ready.status_code == 503
    assert "simulated:1 is lost: fell off the bus" in json.dumps(ready.json()["reasons"])
    assert client.post("/v1/classify", content=photograph).status_code == 503


def test_argument_per_device(tiny_repository: Path) -> None:
    version = tiny_repository / "tiny" / "1"
    two, wrong = executors.find("simulated:1,2"), executors.find("simulated:1,soon")
    assert len(two.load(source_of(version, two))) == 2
    with pytest.raises(ExecutorError, match="'soon'"):
        wrong.load(source_of(version, wrong))
