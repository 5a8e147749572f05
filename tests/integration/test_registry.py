"""Versions that are added, fail, replace others and are removed while requests are answered."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from models.artifact import manifest
from service.core.errors import NotFound, ServiceError, Unavailable
from service.core.settings import Settings
from service.core.version_policy import VersionPolicies
from service.executors import simulated
from service.executors.base import Source
from service.executors.onnxruntime_cpu import OnnxRuntimeCpuExecutor
from service.executors.simulated import SimulatedExecutor
from service.messages.inference import InferenceRequest
from service.registry import load_queue
from service.registry.loader import Loader
from service.registry.registry import Registry
from service.registry.repository import LoadError
from service.registry.version import LoadedVersion
from service.telemetry.metrics import Metrics
from tests.support.service import TIMEOUT, Client, serve
from tests.support.tiny import renumber

Photographs = list[tuple[str, bytes]]
Scenario = Callable[[Registry, Path], Awaitable[None]]


def add(repo: Path, number: int, name: str = "tiny") -> Path:
    """Add a version atomically: version 1 under another number."""
    (repo / name).mkdir(exist_ok=True)
    staging = repo / name / ".partial"
    shutil.copytree(repo / ".original", staging)
    renumber(staging, number, name)
    return staging.rename(repo / name / str(number))


def remove(repo: Path, number: int, name: str = "tiny") -> None:
    shutil.rmtree(repo / name / str(number))


def wrong_hash(version: Path) -> None:
    with (version / "model.onnx").open("ab") as file:
        file.write(b"\0")


def half_a_manifest(version: Path) -> None:
    content = (version / "manifest.json").read_bytes()
    (version / "manifest.json").write_bytes(content[: len(content) // 2])


def wrong_golden(version: Path) -> None:
    with np.load(version / "golden.npz") as file:
        content = dict(file)
    np.savez(version / "golden.npz", images=content["images"][..., ::-1], logits=content["logits"])
    described = json.loads((version / "manifest.json").read_text())
    described["golden_sha256"] = manifest.sha256(version / "golden.npz")
    (version / "manifest.json").write_text(json.dumps(described))


FAULTS: dict[Callable[[Path], None], str] = {
    wrong_hash: "not what the manifest describes",
    half_a_manifest: "Invalid JSON",
    wrong_golden: "wrong outputs for the golden images",
}


@pytest.fixture
def repo(tiny_repository: Path, tmp_path: Path) -> Path:
    """A repository with `tiny` version 1, which a test may change."""
    repo = shutil.copytree(tiny_repository, tmp_path / "repository")
    shutil.copytree(repo / "tiny" / "1", repo / ".original")
    return repo


def play(repo: Path, scenario: Scenario, **options: Any) -> None:
    """Play a scenario on a registry that has loaded the repository; only `refresh` reads it again."""

    async def run() -> None:
        options.setdefault("executor", "simulated:0")
        registry = Registry(Settings(repository=repo, **options), Metrics())
        await registry.start()
        try:
            async with asyncio.timeout(TIMEOUT):
                await scenario(registry, repo)
        finally:
            await registry.close()

    asyncio.run(run())


def served(registry: Registry, name: str = "tiny") -> list[str]:
    return [model.version for model in registry.catalog.served(name)]


async def states(registry: Registry, name: str = "tiny") -> dict[str, str]:
    return {status.version: status.state for status in await registry.versions(name)}


def refused(registry: Registry, version: str) -> ServiceError:
    with pytest.raises(ServiceError) as error:
        registry.catalog.find("tiny", version)
    return error.value


@pytest.mark.parametrize(
    ("text", "model", "found", "expected"),
    [
        ("latest", "a", {1, 2, 10}, [10, 2, 1]),
        ("all", "a", {1, 2, 10}, [10, 2, 1]),
        ("1,10", "a", {1, 2, 10}, [10, 1]),
        ("3", "a", {1, 2}, []),
        ("latest a=2", "a", {1, 2, 3}, [2]),
        ("a=2 all", "b", {1, 2}, [2, 1]),
    ],
)
def test_policy_selects_candidates(text: str, model: str, found: set[int], expected: list[int]) -> None:
    assert VersionPolicies(text).of(model).candidates(found) == expected


@pytest.mark.parametrize("text", ["newest", "1,", "0", "1 ,2", "a=", "../a=all", "a=latest,1", "\u0661"])
def test_invalid_policy_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not latest, all, or version numbers|not a valid model name"):
        Settings(versions=text)


@pytest.mark.parametrize(
    ("text", "expected"), [("latest", ["4"]), ("all", ["1", "2", "4"]), ("1,2", ["1", "2"]), ("tiny=2,3", ["2"])]
)
def test_policy_selects_the_served_versions(text: str, expected: list[str], repo: Path) -> None:
    async def scenario(registry: Registry, repo: Path) -> None:
        assert served(registry) == expected
        assert registry.catalog.find().version == expected[-1]
        for number in ("1", "2", "4"):
            if number in expected:
                assert registry.catalog.find("tiny", number).version == number
            else:
                assert isinstance(refused(registry, number), NotFound)
                assert (await states(registry))[number] == "UNAVAILABLE"

    add(repo, 2)
    add(repo, 4)
    play(repo, scenario, versions=text)


def test_newer_version_replaces_an_older_one(repo: Path) -> None:
    async def scenario(registry: Registry, repo: Path) -> None:
        assert served(registry) == ["1"]
        add(repo, 2)
        await registry.refresh()
        assert served(registry) == ["2"]
        add(repo, 10)
        await registry.refresh()
        assert served(registry) == ["10"]
        remove(repo, 10)
        await registry.refresh()
        assert served(registry) == ["2"]
        remove(repo, 2)
        remove(repo, 1)
        await registry.refresh()
        assert served(registry) == []
        assert isinstance(refused(registry, "1"), NotFound)
        assert await registry.not_ready()

    play(repo, scenario)


def test_metric_shows_the_served_versions(repo: Path) -> None:
    metrics = Metrics()

    async def shown() -> set[str]:
        text = (await metrics.render()).decode()
        return set(re.findall(r'^resnet_model_info{.*model="tiny".*version="(\d+)"} 1.0$', text, re.MULTILINE))

    async def scenario() -> None:
        registry = Registry(Settings(repository=repo, executor="simulated:0"), metrics)
        await registry.start()
        assert await shown() == {"1"}
        add(repo, 2)
        await registry.refresh()
        assert await shown() == {"2"}
        await registry.close()

    asyncio.run(scenario())


def test_default_model_stays_while_it_is_served(repo: Path) -> None:
    async def scenario(registry: Registry, repo: Path) -> None:
        assert registry.catalog.find().name == "tiny"
        add(repo, 1, name="another")
        await registry.refresh()
        assert list(registry.catalog.current()) == ["another", "tiny"]
        assert registry.catalog.find().name == "tiny"
        shutil.rmtree(repo / "tiny")
        await registry.refresh()
        assert registry.catalog.find().name == "another"

    play(repo, scenario)


@pytest.mark.parametrize("spoil", FAULTS)
def test_old_version_continues_if_the_new_one_fails(
    spoil: Callable[[Path], None], repo: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(registry: Registry, repo: Path) -> None:
        old = registry.catalog.find()
        newer = add(repo, 2)
        spoil(newer)
        await registry.refresh()
        assert registry.catalog.find() is old
        assert await states(registry) == {"1": "READY", "2": "UNAVAILABLE"}
        assert FAULTS[spoil] in str((await registry.versions("tiny"))[1].reason)
        assert FAULTS[spoil] in caplog.text
        error = refused(registry, "2")
        assert isinstance(error, Unavailable)
        assert FAULTS[spoil] in str(error)
        assert await registry.not_ready() == []

        caplog.clear()
        await registry.refresh()
        assert caplog.text == "", "a failed version is tried again only when its files change"

        shutil.rmtree(newer)
        add(repo, 2)
        await registry.refresh()
        assert served(registry) == ["2"]
        assert (await registry.versions("tiny"))[1].reason is None

    play(repo, scenario, executor="onnxruntime-cpu", max_batch=1)


def test_older_version_serves_if_the_newest_fails_at_start(repo: Path) -> None:
    async def scenario(registry: Registry, repo: Path) -> None:
        assert served(registry) == ["2"]
        assert await states(registry) == {"1": "UNAVAILABLE", "2": "READY", "3": "UNAVAILABLE"}

    add(repo, 2)
    wrong_hash(add(repo, 3))
    play(repo, scenario)


def test_removed_version_continues_if_all_others_fail(repo: Path) -> None:
    async def scenario(registry: Registry, repo: Path) -> None:
        wrong_hash(add(repo, 2))
        remove(repo, 1)
        await registry.refresh()
        assert served(registry) == ["1"]
        add(repo, 3)
        await registry.refresh()
        assert served(registry) == ["3"]

    play(repo, scenario)


def test_versions_continue_while_the_repository_is_missing(repo: Path) -> None:
    async def scenario(registry: Registry, repo: Path) -> None:
        repo.rename(repo.with_name("away"))
        await registry.refresh()
        assert served(registry) == ["1"]
        repo.with_name("away").rename(repo)
        await registry.refresh()
        assert served(registry) == ["1"]

    play(repo, scenario)


def test_version_with_new_content_is_loaded_again(repo: Path) -> None:
    async def scenario(registry: Registry, repo: Path) -> None:
        old = registry.catalog.find()
        path = repo / "tiny" / "1" / "manifest.json"
        described = json.loads(path.read_text())
        path.write_text(json.dumps({**described, "labels": [f"renamed {index}" for index in range(5)]}))
        await registry.refresh()
        assert registry.catalog.find() is not old
        assert registry.catalog.find().labels[0] == "renamed 0"
        half_a_manifest(repo / "tiny" / "1")
        await registry.refresh()
        assert registry.catalog.find().labels[0] == "renamed 0"
        assert "an older content is served" in str((await registry.versions("tiny"))[0].reason)

    play(repo, scenario)


def test_request_keeps_its_version_until_the_end(repo: Path) -> None:
    async def scenario(registry: Registry, repo: Path) -> None:
        image = np.zeros((32, 32, 3), np.uint8)
        request = InferenceRequest([image], frozenset({"logits"}), time.monotonic() + TIMEOUT)
        old = registry.hold()
        add(repo, 2)
        await registry.refresh()
        assert registry.catalog.find().version == "2"
        assert isinstance(refused(registry, "1"), NotFound)
        assert await states(registry) == {"1": "UNLOADING", "2": "READY"}
        result = await registry.submit(old.key, request)
        assert result.outputs["logits"].shape == (1, 5)
        registry.release(old.key)
        await registry._models["tiny"].unloads.wait()
        assert await states(registry) == {"1": "UNAVAILABLE", "2": "READY"}

    play(repo, scenario)


def test_old_version_serves_while_the_new_one_loads(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, leave = Event(), Event()
    load = Loader.load

    def slow(loader: Loader, folder: Path) -> LoadedVersion:
        if folder.name == "2":
            entered.set()
            assert leave.wait(TIMEOUT)
        return load(loader, folder)

    async def scenario(registry: Registry, repo: Path) -> None:
        add(repo, 2)
        refreshing = asyncio.create_task(registry.refresh())
        try:
            assert await asyncio.to_thread(entered.wait, TIMEOUT)
            assert await states(registry) == {"1": "READY", "2": "LOADING"}
            assert (await registry.versions("tiny"))[1].reason is None
            assert registry.catalog.find().version == "1"
            assert "being loaded" in str(refused(registry, "2"))
        finally:
            leave.set()
        await refreshing
        assert registry.catalog.find().version == "2"

    monkeypatch.setattr(Loader, "load", slow)
    play(repo, scenario)


@pytest.mark.parametrize("first_fails", [False, True])
def test_a_load_is_not_taken_for_one_that_was_dropped(
    first_fails: bool, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model is unloaded and loaded again while it is being loaded for the first time."""
    entered = [Event(), Event()]
    leave = [Event(), Event()]
    executors: list[CountedExecutor] = []
    load = Loader.load

    class CountedExecutor(SimulatedExecutor):
        def __init__(self, source: Source) -> None:
            super().__init__(source)
            self.closed = False
            executors.append(self)

        def close(self) -> None:
            super().close()
            self.closed = True

    calls = iter((0, 1))

    def slow(loader: Loader, folder: Path) -> LoadedVersion:
        call = next(calls)
        entered[call].set()
        assert leave[call].wait(TIMEOUT)
        if first_fails and call == 0:
            raise LoadError("no memory in this moment")
        return load(loader, folder)

    async def run() -> None:
        registry = Registry(Settings(repository=repo, executor="simulated:0"), Metrics())
        async with asyncio.timeout(TIMEOUT):
            starting = asyncio.create_task(registry.start())
            assert await asyncio.to_thread(entered[0].wait, TIMEOUT)
            (first,) = registry._models["tiny"]._loads
            await registry.unload("tiny")
            again = asyncio.create_task(registry.load("tiny"))
            assert await asyncio.to_thread(entered[1].wait, TIMEOUT)
            leave[0].set()
            await first
            assert await states(registry) == {"1": "LOADING"}
            assert [executor.closed for executor in executors] == ([] if first_fails else [True])
            leave[1].set()
            await again
            await starting
            assert served(registry) == ["1"]
            assert [executor.closed for executor in executors] == ([False] if first_fails else [True, False])
            await registry.close()
        assert all(executor.closed for executor in executors)

    monkeypatch.setattr(simulated, "EXECUTOR", CountedExecutor)
    monkeypatch.setattr(load_queue, "_TURN_SECONDS", 0.0)
    monkeypatch.setattr(Loader, "load", slow)
    try:
        asyncio.run(run())
    finally:
        for event in leave:
            event.set()


def test_failed_load_closes_its_executors(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[OnnxRuntimeCpuExecutor] = []

    async def scenario(registry: Registry, repo: Path) -> None:
        wrong_golden(add(repo, 2))
        await registry.refresh()
        assert len(closed) == 1

    def close(executor: OnnxRuntimeCpuExecutor) -> None:
        closed.append(executor)
        real(executor)

    real = OnnxRuntimeCpuExecutor.close
    monkeypatch.setattr(OnnxRuntimeCpuExecutor, "close", close)
    play(repo, scenario, executor="onnxruntime-cpu", max_batch=1, threads=1, instances=1)
    assert len(closed) == 2


def test_unload_and_load_by_name(repo: Path) -> None:
    async def scenario(registry: Registry, repo: Path) -> None:
        await registry.unload("tiny")
        assert served(registry) == []
        reason = "tiny was unloaded: POST /v2/repository/models/tiny/load serves it again"
        assert await registry.not_ready() == [reason]
        add(repo, 2)
        await registry.refresh()
        assert set((await states(registry)).values()) <= {"UNAVAILABLE", "UNLOADING"}
        await registry.load("tiny")
        assert served(registry) == ["2"]
        wrong_hash(add(repo, 3))
        with pytest.raises(Unavailable, match="not what the manifest describes"):
            await registry.load("tiny")
        assert served(registry) == ["2"]
        for call in (registry.load, registry.unload, registry.versions):
            with pytest.raises(NotFound):
                await call("resnet")

    play(repo, scenario)


def test_links_out_of_the_repository_are_refused(repo: Path, tmp_path: Path) -> None:
    async def scenario(registry: Registry, repo: Path) -> None:
        assert served(registry) == ["2"]
        for number in ("3", "4"):
            assert "leads out of the repository" in str(refused(registry, number))

    outside = shutil.copytree(add(repo, 3), tmp_path / "outside")
    remove(repo, 3)
    (repo / "tiny" / "3").symlink_to(outside)
    weights = add(repo, 4) / "model.onnx"
    weights.unlink()
    weights.symlink_to(outside / "model.onnx")
    moved = add(repo, 2).rename(repo / ".kept")
    (repo / "tiny" / "2").symlink_to(moved)
    play(repo, scenario)


def test_name_with_the_suffix_encoded_is_refused(repo: Path) -> None:
    async def scenario(registry: Registry, repo: Path) -> None:
        assert list(registry.catalog.current()) == ["tiny"]
        assert "reserved for the second name" in str((await registry.versions("tiny-encoded"))[0].reason)

    add(repo, 1, name="tiny-encoded")
    play(repo, scenario)


@contextmanager
def following(repo: Path) -> Iterator[Client]:
    with serve(Settings(repository=repo, executor="simulated:1", max_batch=4)) as client:
        yield client


@pytest.mark.slow
def test_no_request_fails_while_versions_change(repo: Path, photographs: Photographs) -> None:
    """The service watches the repository; requests are sent without a pause until each version has answered."""
    content = photographs[0][1]
    with following(repo) as client:

        async def until(version: str) -> None:
            async with asyncio.timeout(TIMEOUT):
                while True:
                    answers = await asyncio.gather(
                        *(client.http.post("/v1/classify", content=content) for _ in range(8))
                    )
                    assert {answer.status_code for answer in answers} == {200}
                    if {answer.json()["version"] for answer in answers} == {version}:
                        return

        for number in (2, 3):
            add(repo, number)
            client.portal.call(until, str(number))
            remove(repo, number - 1)
        remove(repo, 3)
        add(repo, 1)
        client.portal.call(until, "1")
        assert client.get("/v1/models/tiny").json()["version"] == "1"
        ready = client.get("/readyz?verbose").json()
        assert ready["ready"]
        (model,) = ready["models"]
        assert {"version": "1", "state": "READY"} in model["versions"]


def test_restored_content_clears_the_reason(repo: Path) -> None:
    async def scenario(registry: Registry, repo: Path) -> None:
        served = registry.catalog.find()
        version, kept = repo / "tiny" / "1", repo / ".kept"
        version.rename(kept)
        shutil.copytree(kept, version)
        half_a_manifest(version)
        await registry.refresh()
        assert "an older content is served" in str((await registry.versions("tiny"))[0].reason)
        shutil.rmtree(version)
        kept.rename(version)
        await registry.refresh()
        assert registry.catalog.find() is served
        assert (await registry.versions("tiny"))[0].reason is None

    play(repo, scenario)


def test_model_is_loaded_again_while_its_old_version_is_unloading(repo: Path) -> None:
    async def scenario(registry: Registry, repo: Path) -> None:
        old = registry.hold()
        await registry.unload("tiny")
        assert await states(registry) == {"1": "UNLOADING"}
        await registry.load("tiny")
        assert await states(registry) == {"1": "READY"}
        assert registry.catalog.find().key != old.key
        request = InferenceRequest([np.zeros((32, 32, 3), np.uint8)], frozenset({"logits"}), time.monotonic() + TIMEOUT)
        assert (await registry.submit(old.key, request)).batch_size == 1
        registry.release(old.key)
        await asyncio.sleep(0)
        assert await states(registry) == {"1": "READY"}

    play(repo, scenario)


def test_held_version_is_unavailable_after_close(repo: Path) -> None:
    async def run() -> None:
        registry = Registry(Settings(repository=repo, executor="simulated:0"), Metrics())
        await registry.start()
        held = registry.hold()
        await registry.close()
        request = InferenceRequest([np.zeros((32, 32, 3), np.uint8)], frozenset({"logits"}), time.monotonic() + TIMEOUT)
        with pytest.raises(Unavailable):
            await registry.submit(held.key, request)
        registry.release(held.key)

    asyncio.run(run())
