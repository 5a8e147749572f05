"""Shadows: versions that compute what other versions have answered, while nothing else waits."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from models.artifact.traffic import TrafficPolicy, change_traffic
from service.core.settings import Settings
from service.engine.batch_queue import BatchQueue
from service.engine.engine import Engine
from service.engine.shadow_queue import ShadowQueue
from service.messages.inference import InferenceRequest, InferenceResult
from service.telemetry.metrics import Metrics
from tests.support.held_executor import BROKEN, HeldExecutor, image
from tests.support.service import Client, serve
from tests.support.tiny import Photographs, cut, renumber
from tests.support.worker_processes import wait_until

PATH = "/v1/models/tiny/rollout"


@pytest.fixture
def client(tiny_repository: Path, tmp_path: Path) -> Iterator[Client]:
    """Version 1 answers, and version 2, the same network, is its shadow."""
    repository = tmp_path / "repository"
    for number in (1, 2):
        renumber(shutil.copytree(tiny_repository / "tiny" / "1", repository / "tiny" / str(number)), number)
    traffic = tmp_path / "traffic.toml"
    change_traffic(traffic, "tiny", TrafficPolicy(weights={1: 1}, shadow={2: 1.0}))
    with serve(Settings(repository=repository, traffic=traffic)) as client:
        yield client


def count_outcomes(client: Client) -> dict[str, float]:
    """Images of shadows by outcome, from the metrics."""
    return {
        sample.labels["outcome"]: sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name == "resnet_shadow_images_total"
    }


def wait_for_images(client: Client, images: int) -> Any:
    """The comparison, once it has that many images."""

    shadow: Any = None

    def is_complete() -> bool:
        nonlocal shadow
        (shadow,) = client.get(PATH).json()["shadows"]
        return bool(shadow["agreement"]["images"] >= images)

    wait_until(is_complete, "the shadow has computed the images")
    return shadow


def test_a_shadow_computes_what_another_version_has_answered(client: Client, photographs: Photographs) -> None:
    for _, data in photographs:
        assert client.post("/v1/classify", content=data).json()["version"] == "1"
    shadow = wait_for_images(client, len(photographs))
    assert (shadow["version"], shadow["shadow"], shadow["share"], shadow["reason"]) == ("1", "2", 1.0, None)
    assert (shadow["waiting"], shadow["dropped"], shadow["failed"]) == (0, 0, 0)
    assert shadow["agreement"]["agreed"] == len(photographs)
    assert shadow["agreement"]["distance"]["value"] < 1e-5
    assert count_outcomes(client) == {"agreed": len(photographs)}
    predictions = [line for line in client.get("/metrics").text.splitlines() if line.startswith("resnet_images_total")]
    assert predictions == [f'resnet_images_total{{model="tiny"}} {len(photographs)}.0']


def test_images_on_which_a_shadow_differs_are_kept_as_many_as_the_policy_says(
    client: Client, photographs: Photographs, tmp_path: Path
) -> None:
    path = tmp_path / "repository" / "tiny" / "2" / "manifest.json"
    described = json.loads(path.read_text())
    path.write_text(json.dumps({**described, "labels": [f"not {label}" for label in described["labels"]]}))
    change_traffic(tmp_path / "traffic.toml", "tiny", TrafficPolicy(weights={1: 1}, shadow={2: 1.0}, keep_images=2))
    client.portal.call(client.registry.refresh)
    answers = []
    for count, (_, data) in enumerate(photographs, 1):
        answers.append(client.post("/v1/classify", content=data).json()["results"][0]["predictions"][0])
        wait_for_images(client, count)
    images = client.get(f"{PATH}/images").json()
    assert len(images) == 2
    for kept, answer, (_, data) in zip(images, reversed(answers), reversed(photographs), strict=False):
        assert (kept["version"], kept["shadow"]) == ("1", "2")
        assert (kept["label"], kept["shadow_label"]) == (answer["label"], f"not {answer['label']}")
        assert kept["probability"] == pytest.approx(answer["probability"], abs=1e-6)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(kept["png"])))), cut(data))
    assert client.get("/v1/models/other/rollout/images").status_code == 404


def test_another_preprocessing_is_not_compared(client: Client, photographs: Photographs, tmp_path: Path) -> None:
    path = tmp_path / "repository" / "tiny" / "2" / "manifest.json"
    path.write_text(path.read_text().replace('"resize": 36', '"resize": 40'))
    client.portal.call(client.registry.refresh)
    assert client.post("/v1/classify", content=photographs[0][1]).status_code == 200
    (shadow,) = client.get(PATH).json()["shadows"]
    assert "preprocessing" in shadow["reason"]
    assert (shadow["waiting"], shadow["agreement"]["images"]) == (0, 0)


class ShadowedImage:
    """An image that waits for a shadow."""

    def __init__(self, waiting: Waiting, value: int) -> None:
        self.pixels, self.done = image(value), waiting.results.put_nowait
        self._waiting, self._value = waiting, value

    def drop(self) -> None:
        self._waiting.dropped.put_nowait(self._value)


class Waiting:
    """An engine on a device, whose batches a test releases, and a queue of shadows."""

    def __init__(self, *devices: str, max_bytes: int = 1000) -> None:
        self.executors = [HeldExecutor() for _ in devices]
        for executor, device in zip(self.executors, devices, strict=True):
            executor.device = device
        self.engines = [
            Engine([executor], BatchQueue(100, 8), Metrics(), f"model {index}")
            for index, executor in enumerate(self.executors)
        ]
        self.queue = ShadowQueue(max_bytes, lambda: self.engines)
        self.results: asyncio.Queue[InferenceResult | None] = asyncio.Queue()
        self.dropped: asyncio.Queue[int] = asyncio.Queue()
        for engine in self.engines:
            engine.observe(self.queue.work)
            engine.start()

    def put(self, engine: int, value: int) -> None:
        self.queue.put(self.engines[engine], ShadowedImage(self, value))

    async def submit(self, engine: int, value: int) -> asyncio.Task[InferenceResult]:
        """Begin a request of a caller."""
        request = InferenceRequest([image(value)], frozenset({"probabilities"}), math.inf)
        task = asyncio.create_task(self.engines[engine].submit(request))
        await asyncio.sleep(0)
        return task

    async def close(self) -> None:
        for executor in self.executors:
            executor.release(100)
        for engine in self.engines:
            await engine.close()


def test_an_image_starts_only_while_its_device_is_idle() -> None:
    async def run() -> None:
        waiting = Waiting("a", "a")
        caller, shadow = waiting.executors
        first = await waiting.submit(0, 1)
        await caller.started()
        for value in (11, 12, 13):
            waiting.put(1, value)
        second = await waiting.submit(0, 2)  # waits behind the first
        caller.release()
        await first
        await caller.started()
        assert shadow.batches == []
        caller.release()
        await second
        await shadow.started()
        assert shadow.batches == [[11]]
        third = await waiting.submit(0, 3)  # while a shadow is computed, which delays one batch at most
        await caller.started()
        shadow.release()
        fourth = await waiting.submit(0, 4)
        await waiting.results.get()
        assert shadow.batches == [[11]]
        caller.release(2)
        await third
        await fourth
        shadow.release(2)
        await shadow.started()
        await shadow.started()
        assert (caller.batches, shadow.batches) == ([[1], [2], [3], [4]], [[11], [12], [13]])
        await waiting.close()

    asyncio.run(run())


def test_a_device_of_its_own_is_not_shared() -> None:
    async def run() -> None:
        waiting = Waiting("a", "b")
        caller, shadow = waiting.executors
        task = await waiting.submit(0, 1)
        await caller.started()
        waiting.put(1, 11)
        waiting.put(1, 12)
        await shadow.started()
        assert shadow.batches == [[11]]
        shadow.release(2)
        caller.release()
        await task
        await shadow.started()
        await waiting.results.get()
        await waiting.results.get()
        await waiting.close()

    asyncio.run(run())


def test_waiting_images_are_bounded_and_dropped_with_their_engine() -> None:
    async def run() -> None:
        size = image(0).nbytes
        waiting = Waiting("a", "a", max_bytes=3 * size)
        task = await waiting.submit(0, 1)
        await waiting.executors[0].started()
        for value in range(3):
            assert waiting.queue.has_room(size)
            waiting.put(1, value)
        assert not waiting.queue.has_room(size)
        waiting.executors[1].release(100)
        await waiting.engines[1].close()
        waiting.executors[0].release(100)
        await task
        assert [await waiting.dropped.get() for _ in range(3)] == [0, 1, 2]
        assert waiting.results.empty()
        assert (len(waiting.queue), waiting.queue.has_room(3 * size)) == (0, True)
        await waiting.close()

    asyncio.run(run())


def test_an_engine_without_waiting_images_is_not_kept() -> None:
    async def run() -> None:
        waiting = Waiting("a")
        waiting.executors[0].release(2)
        waiting.put(0, 1)
        waiting.put(0, 2)
        for _ in range(2):
            assert await waiting.results.get() is not None
        assert not waiting.queue._waiting
        await waiting.close()

    asyncio.run(run())


def test_images_of_versions_that_are_no_longer_shadows_are_dropped() -> None:
    async def run() -> None:
        waiting = Waiting("a", "a", "a")
        task = await waiting.submit(0, 1)
        await waiting.executors[0].started()
        waiting.put(1, 11)
        waiting.put(2, 12)
        waiting.queue.keep_only({waiting.engines[2]})
        assert await waiting.dropped.get() == 11
        for executor in waiting.executors:
            executor.release(100)
        await task
        assert await waiting.results.get() is not None
        assert [executor.batches for executor in waiting.executors] == [[[1]], [], [[12]]]
        assert waiting.dropped.empty()
        await waiting.close()

    asyncio.run(run())


def test_a_policy_without_a_shadow_drops_its_waiting_images(
    client: Client, photographs: Photographs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ShadowQueue, "_is_idle", lambda *_: False)  # the device is never idle
    for _, data in photographs[:3]:
        assert client.post("/v1/classify", content=data).status_code == 200
    assert client.get(PATH).json()["shadows"][0]["waiting"] == 3
    change_traffic(tmp_path / "traffic.toml", "tiny", TrafficPolicy(weights={1: 1}))
    client.portal.call(client.registry.refresh)
    assert count_outcomes(client) == {"dropped": 3}


def test_errors_are_results() -> None:
    async def run() -> None:
        waiting = Waiting("a", "a")
        task = await waiting.submit(0, 1)
        await waiting.executors[0].started()
        waiting.put(1, 5)
        waiting.put(1, BROKEN)
        for executor in waiting.executors:
            executor.release(100)
        await task
        first, second = await waiting.results.get(), await waiting.results.get()
        assert first is not None
        assert np.array_equal(first.outputs["probabilities"], [[5.5]])
        assert second is None
        await waiting.close()

    asyncio.run(run())


def test_pixels_are_copied(client: Client, photographs: Photographs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller may put its next image in their place."""
    first, second = (cut(data) for _, data in photographs[:2])
    is_idle = ShadowQueue._is_idle
    monkeypatch.setattr(ShadowQueue, "_is_idle", lambda *_: False)
    pixels = first.copy()
    served = client.portal.call(client.registry.hold, "tiny", "1")
    request = InferenceRequest([pixels], frozenset({"probabilities"}), math.inf)
    client.portal.call(client.registry.submit, served.key, request)
    pixels[...] = second
    monkeypatch.setattr(ShadowQueue, "_is_idle", is_idle)
    assert client.post("/v1/classify", content=photographs[0][1]).status_code == 200
    shadow = wait_for_images(client, 2)
    assert shadow["agreement"]["distance"]["value"] < 1e-5


def test_images_are_dropped_while_callers_wait_for_more_than_a_batch(
    client: Client, photographs: Photographs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "waiting", property(lambda engine: engine.max_batch + 1))
    assert client.post("/v1/classify", content=photographs[0][1]).status_code == 200
    assert count_outcomes(client) == {"dropped": 1}
