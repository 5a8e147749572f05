"""A remote backend gives what the registry gives, and no version is used after it was reported gone."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.app import create_app
from service.core.errors import DeadlineExceeded, NotFound, NotYetAvailable, ServiceError
from service.core.settings import Settings
from service.messages.inference import InferenceRequest
from service.processes import WorkerSide
from service.supervisor.launch import Worker
from service.telemetry.sheet import Sheet
from tests.support.remote import TIMEOUT, pair, run


def images(count: int, shape: tuple[int, ...]) -> list[np.ndarray]:
    return list(np.random.default_rng(count).integers(0, 256, (count, *shape), dtype=np.uint8))


def request(pixels: list[np.ndarray], *outputs: str, seconds: float = TIMEOUT) -> InferenceRequest:
    return InferenceRequest(pixels, frozenset(outputs), time.monotonic() + seconds)


@pytest.mark.parametrize("count", [1, 3, 40])
def test_results_are_those_of_the_registry(tiny_repository: Path, count: int) -> None:
    async def test() -> None:
        async with pair(tiny_repository) as both:
            client = await both.client()
            model, own = client.hold(), both.registry.hold()
            assert (model.labels, model.preprocess, model.outputs) == (own.labels, own.preprocess, own.outputs)
            pixels = images(count, own.preprocess.shape)
            wanted = request(pixels, *own.outputs)
            remote, local = await client.submit(model.key, wanted), await both.registry.submit(own.key, wanted)
            assert remote.outputs.keys() == local.outputs.keys() == set(own.outputs)
            for name in own.outputs:
                np.testing.assert_allclose(remote.outputs[name], local.outputs[name], rtol=1e-4, atol=1e-5)
            assert model.classifier is not None
            assert own.classifier is not None
            np.testing.assert_array_equal(model.classifier.weight, own.classifier.weight)
            np.testing.assert_array_equal(model.classifier.bias, own.classifier.bias)

    run(test)


def test_calls_are_those_of_the_registry(tiny_repository: Path) -> None:
    async def test() -> None:
        async with pair(tiny_repository) as both:
            client, registry = await both.client(), both.registry
            model = client.hold()
            await client.submit(model.key, request(images(2, model.preprocess.shape), "probabilities"))
            assert await client.statistics(model.key) == await registry.statistics(model.key)
            assert (await client.statistics(model.key)).inferences == 2
            assert await client.statuses() == await registry.statuses()
            assert await client.versions("tiny") == await registry.versions("tiny")
            assert await client.plan_status(model.key) == await registry.plan_status(model.key)
            assert await client.not_ready() == await registry.not_ready() == []
            assert await client.degraded() == await registry.degraded()
            assert str(fails(lambda: client.catalog.find("other"))) == str(
                fails(lambda: registry.catalog.find("other"))
            )
            assert type(fails(lambda: client.catalog.find("tiny", "7"))) is NotFound
            with pytest.raises(NotFound) as error:
                await client.load("other")
            assert str(error.value) == str(fails(lambda: registry.catalog.find("other")))

    run(test)


def fails(call: Callable[[], object]) -> ServiceError:
    with pytest.raises(ServiceError) as error:
        call()
    return error.value


def test_versions_are_not_used_after_they_were_reported_gone(tiny_repository: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    shutil.copytree(tiny_repository, repository)

    async def test() -> None:
        async with pair(repository) as both:
            first, second = await both.client(), await both.client()
            held = second.hold()
            await first.unload("tiny")
            assert isinstance(fails(second.hold), ServiceError)
            # A request that held the version before is still computed.
            await second.submit(held.key, request(images(1, held.preprocess.shape), "logits"))
            states = [status.state for status in await first.versions("tiny")]
            assert states == ["UNLOADING"]
            second.release(held.key)
            while [status.state for status in await first.versions("tiny")] != ["UNAVAILABLE"]:
                both.changed.clear()
                await both.changed.wait()
            await first.load("tiny")
            assert second.hold().key != held.key

    run(test)


def test_requests_end_at_their_deadline_and_when_the_engine_process_ends(tiny_repository: Path) -> None:
    async def test() -> None:
        async with pair(tiny_repository, executor="simulated:500") as both:
            client = await both.client()
            model = client.hold()
            pixels = images(1, model.preprocess.shape)
            with pytest.raises(DeadlineExceeded):
                await client.submit(model.key, request(pixels, "logits", seconds=0.05))
            waiting = asyncio.create_task(client.submit(model.key, request(pixels, "logits")))
            await asyncio.sleep(0)
            both.server.close()
            with pytest.raises(NotYetAvailable, match="try again"):
                await waiting
            with pytest.raises(NotYetAvailable):
                client.hold()
            assert await client.not_ready()
            client.release(model.key)

    run(test)


def test_the_engine_frees_what_a_lost_worker_held(tiny_repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with pair(tiny_repository) as both:
            client = await both.client()
            client.hold()
            assert both.registry._held
            released, release = asyncio.Event(), both.registry.release

            def release_and_tell(key: int) -> None:
                release(key)
                released.set()

            monkeypatch.setattr(both.registry, "release", release_and_tell)
            await both.clients.pop().close()
            await released.wait()
            assert not both.registry._held
            again = await both.client()
            assert again.hold().name == "tiny"

    run(test)


def test_held_version_is_described_after_it_was_reported_gone(tiny_repository: Path, tmp_path: Path) -> None:
    async def test() -> None:
        repository = shutil.copytree(tiny_repository, tmp_path / "repository")
        async with pair(repository) as both:
            client = await both.client()
            model = client.hold()
            await client.unload("tiny")
            with pytest.raises(ServiceError):
                client.catalog.find("tiny")
            assert (await client.statistics(model.key)).inferences == 0
            assert await client.plan_status(model.key) is None
            client.release(model.key)
            with pytest.raises(ServiceError, match="its log has the reason"):
                await client.statistics(model.key)

    run(test)


def test_worker_knows_the_models_before_it_accepts_requests(tiny_repository: Path) -> None:
    async def test() -> None:
        async with pair(tiny_repository) as both:
            settings, sheet, unused = Settings(repository=tiny_repository), Sheet("worker-1"), Any
            means = Worker(1, settings, sheet, [sheet], both.listening.getsockname(), unused, None)  # type: ignore[arg-type]
            side = WorkerSide(means, settings)
            app = create_app(settings, None, side)
            async with app.router.lifespan_context(app):
                assert side.backend.hold().name == "tiny"

    run(test)
