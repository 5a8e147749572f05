"""A limit of memory: models are loaded at their first request, and the least recently used ones leave."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.core.process_memory import ServiceMemory
from service.core.settings import Settings
from service.executors import simulated
from service.executors.base import Source
from service.executors.simulated import SimulatedExecutor
from service.registry import model_versions, registry, version
from tests.support import api, split
from tests.support.service import TIMEOUT, Client, serve
from tests.support.tiny import Photographs, renumber

MODEL, BASE = 10_000_000, 100_000_000
"""Memory of each model, and of the service without models, as the stand-in for the kernel's figures says."""
RAW = {"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"}
NAMES = ("a", "b", "c", "d")


def copy_as(repository: Path, name: str, number: int = 1) -> Path:
    """A copy of `tiny`, under another name or as another version."""
    version = repository / name / str(number)
    partial = shutil.copytree(repository.parent / "original", repository / name / ".partial")
    renumber(partial, number, name)
    return partial.rename(version)


@pytest.fixture
def repository(tiny_repository: Path, tmp_path: Path) -> Path:
    """Four models of one version each."""
    shutil.copytree(tiny_repository / "tiny" / "1", tmp_path / "original")
    for name in NAMES:
        copy_as(tmp_path / "repository", name)
    return tmp_path / "repository"


class CountedExecutor(SimulatedExecutor):
    """Takes `MODEL` bytes from its first moment to `close`, as the stand-in for the kernel's figures counts them."""

    open = 0.0
    size: Mapping[str, float] = {}
    """Sizes that differ, by name of the model, in `MODEL` bytes."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._size = self.size.get(source.manifest.name, 1)
        CountedExecutor.open += self._size

    def close(self) -> None:
        super().close()
        CountedExecutor.open -= self._size


@pytest.fixture(params=["one process", "apart"])
def limited(request: Any, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Serves with room for a number of models."""
    monkeypatch.setenv(split.VARIABLE, "1" if request.param == "apart" else "0")
    monkeypatch.setattr(CountedExecutor, "open", 0)
    monkeypatch.setattr(CountedExecutor, "size", {})
    monkeypatch.setattr(simulated, "EXECUTOR", CountedExecutor)
    monkeypatch.setattr(ServiceMemory, "resident_bytes", lambda _: BASE + round(MODEL * CountedExecutor.open))

    def run(room: int, **options: Any) -> AbstractContextManager[Client]:
        # Beside the models, a margin is kept, and each load needs about 1.1 MB more.
        limit = BASE + MODEL * room + 7_000_000
        given = {"executor": "simulated:0", "min_residence_seconds": 0.0, "timeout_ms": 5000.0, **options}
        return serve(Settings(repository=repository, memory_limit=limit, **given))

    return run


def ask(client: Client, name: str, photographs: Photographs, **query: Any) -> httpx.Response:
    return client.post(f"/v1/models/{name}/classify", content=photographs[0][1], params=query)


def loaded(client: Client) -> list[str]:
    index = client.post("/v2/repository/index", json={"ready": True}).json()
    return [entry["name"] for entry in index if not entry["name"].endswith("-encoded")]


def counts(client: Client, metric: str) -> dict[str, float]:
    """The values of a counter by its one label."""
    return {key[1]: value for key, value in api.metrics(client).items() if key[0] == f"{metric}_total"}


Limited = Callable[..., AbstractContextManager[Client]]


def test_first_request_loads_and_the_least_recently_used_model_leaves(
    limited: Limited, photographs: Photographs
) -> None:
    with limited(2) as client:
        assert client.get("/readyz").status_code == 200
        assert loaded(client) == []
        index = client.post("/v2/repository/index").json()
        assert {entry["name"] for entry in index} == {*NAMES, *(f"{name}-encoded" for name in NAMES)}
        assert {(entry["state"], entry["reason"]) for entry in index} == {
            ("UNAVAILABLE", "not loaded: its first request loads it")
        }
        listed = client.get("/v1/models").json()
        assert [model["name"] for model in listed["not_loaded"]] == [*NAMES]
        assert client.get("/v2/models/a/ready").status_code == 200
        assert counts(client, "resnet_model_loads")["loaded"] == 0
        together = client.post_together("/v1/models/a/classify", [{"content": photographs[0][1]}] * 5)
        assert [answer.json()["model"] for answer in together] == ["a"] * 5
        assert all(answer.headers["Server-Timing"].startswith("load;dur=") for answer in together)
        assert "Server-Timing" not in ask(client, "a", photographs).headers
        assert counts(client, "resnet_model_loads")["loaded"] == 1
        for name in ("b", "a", "c"):
            assert ask(client, name, photographs).json()["model"] == name
        assert loaded(client) == ["a", "c"]
        assert client.post("/v2/models/d-encoded/infer", content=photographs[0][1], headers=RAW).status_code == 200
        assert loaded(client) == ["c", "d"]
        assert client.get("/v1/models/b").json()["name"] == "b"
        assert counts(client, "resnet_model_lookups") == {"hit": 2, "waited": 9, "refused": 0}
        assert counts(client, "resnet_model_evictions") == {"room": 3, "pressure": 0}
        values = api.metrics(client)
        assert values["resnet_models_loaded",] == 2
        assert values["resnet_memory_resident_bytes",] <= values["resnet_memory_limit_bytes",]


def test_default_model_is_the_first_by_name(limited: Limited, photographs: Photographs) -> None:
    with limited(1) as client:
        assert ask(client, "c", photographs).status_code == 200
        assert client.post("/v1/classify", content=photographs[0][1]).json()["model"] == "a"


def test_model_is_not_replaced_a_moment_after_its_load(limited: Limited, photographs: Photographs) -> None:
    with limited(1, min_residence_seconds=900) as client:
        assert ask(client, "a", photographs).status_code == 200
        for reason in ("the models that take the memory were loaded a moment ago", "others that are in use take"):
            answer = ask(client, "b", photographs)  # the second time, its cost is known
            api.check_problem(answer, 503, "model b is not loaded")
            assert reason in answer.json()["detail"]
            assert 890 <= int(answer.headers["Retry-After"]) <= 900
        assert ask(client, "a", photographs).status_code == 200
        assert counts(client, "resnet_model_lookups") == {"hit": 1, "waited": 1, "refused": 2}
        assert client.get("/readyz").status_code == 200


def test_pinned_models_are_loaded_at_the_start_and_stay(limited: Limited, photographs: Photographs) -> None:
    with limited(2, pin="b, c") as client:
        assert loaded(client) == ["b", "c"]
        answer = ask(client, "a", photographs)
        api.check_problem(answer, 503, "model a is not served: it takes about")
        assert "pinned models" in answer.json()["detail"]
        assert loaded(client) == ["b", "c"]


def test_loaded_by_an_admin_stays(limited: Limited, photographs: Photographs) -> None:
    with limited(2) as client:
        client.portal.call(client.pipeline.backend.load, "b")
        for name in ("a", "c", "d"):
            assert ask(client, name, photographs).status_code == 200
            assert loaded(client) == sorted(["b", name])
        client.portal.call(client.pipeline.backend.unload, "b")
        api.check_problem(ask(client, "b", photographs), 404, "no model b is served")


def test_request_keeps_its_model_until_the_end(limited: Limited, photographs: Photographs) -> None:
    with limited(1, timeout_ms=500.0) as client:
        assert ask(client, "a", photographs).status_code == 200
        lease = client.pipeline.lease("a")
        client.portal.call(lease.__enter__)
        answer = ask(client, "b", photographs)
        api.check_problem(answer, 503, "model b is")
        assert int(answer.headers["Retry-After"]) >= 1
        assert CountedExecutor.open == 1
        client.portal.call(lease.__exit__, None, None, None)
        answer = ask(client, "b", photographs, timeout_ms=5000)
        assert answer.json().get("model") == "b", answer.text
        assert CountedExecutor.open == 1


def test_model_that_exceeds_the_limit_is_refused(limited: Limited, photographs: Photographs) -> None:
    with limited(0) as client:
        answer = ask(client, "a", photographs)
        api.check_problem(answer, 503, "memory_limit is 107 MB: raise it")
        assert CountedExecutor.open == 0


def test_damaged_model_is_refused_at_its_first_request(
    limited: Limited, repository: Path, photographs: Photographs
) -> None:
    described = repository / "a" / "1" / "manifest.json"
    content = described.read_bytes()
    described.write_bytes(content[:100])
    with limited(2) as client:
        for _ in range(2):
            api.check_problem(ask(client, "a", photographs), 503, "model a is not served: ")
        assert ask(client, "b", photographs).status_code == 200
        described.write_bytes(content)
        client.portal.call(client.registry.refresh)
        assert ask(client, "a", photographs).status_code == 200


def test_new_versions_are_loaded_only_for_models_in_memory(
    limited: Limited, repository: Path, photographs: Photographs
) -> None:
    with limited(3, watch="off") as client:
        assert ask(client, "a", photographs).json()["version"] == "1"
        for name in ("a", "b"):
            copy_as(repository, name, 2)
        client.portal.call(client.registry.refresh)
        assert loaded(client) == ["a"]
        assert counts(client, "resnet_model_loads")["loaded"] == 2
        for name in ("a", "b"):
            assert ask(client, name, photographs).json()["version"] == "2"


def test_a_small_model_is_loaded_beside_a_large_one(
    limited: Limited, photographs: Photographs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CountedExecutor, "size", {"a": 2.0, "b": 0.5})
    with limited(3, min_residence_seconds=900) as client:
        for name in ("a", "b"):
            assert ask(client, name, photographs).status_code == 200
        assert loaded(client) == ["a", "b"]


def test_memory_of_requests_at_the_first_load_is_not_that_of_the_service(
    limited: Limited, photographs: Photographs, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    for module in (model_versions, version):
        monkeypatch.setattr(module, "time", clock)
    with limited(1) as client:
        CountedExecutor.open += 3
        api.check_problem(ask(client, "a", photographs), 503, "model a is not served: it takes about")
        CountedExecutor.open -= 3
        clock.now += 10  # after a load that failed, there is a pause
        assert ask(client, "a", photographs).status_code == 200


class Clock:
    """Stands for the module `time`."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_all_versions_of_a_pinned_model_count(limited: Limited, repository: Path, photographs: Photographs) -> None:
    copy_as(repository, "b", 2)
    with limited(2, pin="b", versions="all") as client:
        assert CountedExecutor.open == 2
        api.check_problem(ask(client, "a", photographs), 503, "model a is not served: it takes about")


def test_memory_of_requests_makes_models_leave(
    limited: Limited, photographs: Photographs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_CHECK_SECONDS", TIMEOUT)  # only the test has the memory measured
    with limited(3) as client:
        for name in ("a", "b", "c"):
            assert ask(client, name, photographs).status_code == 200
        kept = client.registry._residency
        assert kept is not None
        kept._measure = lambda: BASE + 2 * MODEL + round(MODEL * CountedExecutor.open)
        for left in (["b", "c"], ["c"], ["c"]):
            client.portal.call(kept.relieve)
            assert loaded(client) == left
        assert counts(client, "resnet_model_evictions") == {"room": 0, "pressure": 2}
