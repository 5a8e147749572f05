"""The instance for a single image: which batches it computes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from threading import Semaphore

import pytest

from service.core.settings import Settings
from service.engine.batch_queue import BatchQueue
from service.engine.engine import Engine
from service.messages.inference import InferenceRequest, InferenceResult
from service.registry.loader import Loader
from service.registry.repository import LoadError
from service.telemetry.metrics import Metrics
from tests.support.held_executor import BROKEN, HeldExecutor, image
from tests.support.service import TIMEOUT, serve
from tests.support.tiny import Eager, Photographs

LOGITS = frozenset({"logits"})

Scenario = Callable[[Engine, HeldExecutor, HeldExecutor], Awaitable[None]]


def run(scenario: Scenario) -> tuple[list[list[int]], list[list[int]]]:
    """Play a scenario on an engine with one ordinary and one single-image instance. Returns the batches of each."""

    async def play() -> tuple[list[list[int]], list[list[int]]]:
        ordinary, single = HeldExecutor(), HeldExecutor()
        engine = Engine([ordinary], BatchQueue(100, 8, single_image=True), Metrics(), "model", single)
        engine.start()
        try:
            async with asyncio.timeout(TIMEOUT):
                await scenario(engine, ordinary, single)
        finally:
            for executor in (ordinary, single):
                executor.release(1000)
            await engine.close()
        assert ordinary.closed_after is not None and single.closed_after is not None
        return ordinary.batches, single.batches

    return asyncio.run(play())


def submit(engine: Engine, values: Sequence[int], only_in_flight: bool = True) -> asyncio.Task[InferenceResult]:
    images = [image(value) for value in values]
    request = InferenceRequest(images, LOGITS, time.monotonic() + TIMEOUT, only_in_flight=only_in_flight)
    return asyncio.create_task(engine.submit(request))


def logits(result: InferenceResult) -> list[float]:
    return [float(value) for value in result.outputs["logits"][:, 0]]


def test_single_image_runs_on_its_instance() -> None:
    async def scenario(engine: Engine, ordinary: HeldExecutor, single: HeldExecutor) -> None:
        single.release()
        assert logits(await submit(engine, [7])) == [7.5]

    assert run(scenario) == ([], [[7]])


@pytest.mark.parametrize(("values", "only_in_flight"), [([7, 8], True), ([7], False)])
def test_other_requests_run_on_an_ordinary_instance(values: list[int], only_in_flight: bool) -> None:
    async def scenario(engine: Engine, ordinary: HeldExecutor, single: HeldExecutor) -> None:
        ordinary.release()
        assert logits(await submit(engine, values, only_in_flight)) == [value + 0.5 for value in values]

    assert run(scenario) == ([values], [])


def test_single_image_runs_on_an_ordinary_instance_while_another_batch_is_computed() -> None:
    async def play() -> tuple[list[list[int]], list[list[int]]]:
        started = Semaphore(0)
        first, second, single = HeldExecutor(started), HeldExecutor(started), HeldExecutor()
        engine = Engine([first, second], BatchQueue(100, 8, single_image=True), Metrics(), "model", single)
        engine.start()
        async with asyncio.timeout(TIMEOUT):
            blocker = submit(engine, [1, 2])
            await first.started()  # or the second
            other = submit(engine, [3])
            await first.started()
            first.release()
            second.release()
            await asyncio.gather(blocker, other)
        await engine.close()
        return sorted(first.batches + second.batches), single.batches

    assert asyncio.run(play()) == ([[1, 2], [3]], [])


def test_failed_batch_does_not_count_as_computed_for_ever() -> None:
    async def scenario(engine: Engine, ordinary: HeldExecutor, single: HeldExecutor) -> None:
        ordinary.release()
        failed = submit(engine, [BROKEN, 1])
        await asyncio.wait([failed])
        assert failed.exception() is not None
        single.release()
        await submit(engine, [2])

    assert run(scenario) == ([[BROKEN, 1]], [[2]])


def test_instances_with_one_and_two_threads_agree(
    tiny_repository: Path, photographs: Photographs, eager: Eager
) -> None:
    settings = Settings(repository=tiny_repository, threads=1, instances=2, single_image_threads=2)
    images = [data for _, data in photographs]
    with serve(settings) as client:
        one = client.post("/v1/classify?top_k=1", content=images[0], headers={"Content-Type": "image/png"}).json()
        many = client.post("/v1/classify?top_k=1", files=[("image", data) for data in images]).json()
    for result, data in zip(one["results"] + many["results"], [images[0], *images], strict=True):
        (best,) = result["predictions"]
        assert best["index"] == int(eager(data).argmax())
        assert best["probability"] == pytest.approx(float(eager(data).max()), abs=1e-5)


def test_single_image_instance_needs_a_cpu(tiny_repository: Path) -> None:
    settings = Settings(repository=tiny_repository, executor="onnxruntime-cuda", single_image_threads=2)
    with pytest.raises(LoadError, match="single_image_threads is for executors on the CPU"):
        Loader(settings, Metrics()).load(tiny_repository / "tiny" / "1")
