"""Versions of a model that share its requests, over HTTP."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from models.artifact.traffic import TrafficPolicy, change_traffic, read_traffic
from service.core.errors import NotYetAvailable
from service.core.settings import Settings
from service.registry import load_queue
from service.registry.loader import Loader
from service.registry.registry import Registry
from service.registry.version import LoadedVersion
from service.telemetry.metrics import Metrics
from tests.support.api_keys import KEYS, OPERATOR, WEB, write_keys
from tests.support.service import TIMEOUT, Client, serve
from tests.support.tiny import Photographs, renumber

ADMIN = {"authorization": f"Bearer {OPERATOR}"}
USER = {"authorization": f"Bearer {WEB}"}
PATH = "/v1/models/tiny/rollout"


@pytest.fixture
def traffic(tmp_path: Path) -> Path:
    return tmp_path / "traffic.toml"


@pytest.fixture
def client(tiny_repository: Path, tmp_path: Path, traffic: Path) -> Iterator[Client]:
    """Versions 1, 2 and 3 in the repository, of which the newest is served."""
    repository = tmp_path / "repository"
    for version in ("1", "2", "3"):
        renumber(shutil.copytree(tiny_repository / "tiny" / "1", repository / "tiny" / version), int(version))
    write_keys(tmp_path / "keys.toml", KEYS)
    settings = Settings(
        repository=repository, executor="simulated:0", api_keys=tmp_path / "keys.toml", admin=True, traffic=traffic
    )
    with serve(settings) as client:
        yield client


def put(client: Client, weights: dict[str, float], **options: Any) -> Any:
    return client.request("PUT", PATH, json={"weights": weights, **options}, headers=ADMIN)


def version_of(client: Client, data: bytes, headers: dict[str, str] | None = None) -> str:
    """The version that answers, which the header must name if there is a policy."""
    answer = client.post("/v1/classify", content=data, headers=USER | (headers or {}))
    assert answer.status_code == 200, answer.text
    version: str = answer.json()["version"]
    assert answer.headers.get("x-model-version", version) == version
    return version


def test_without_a_policy_the_newest_version_answers(client: Client, photographs: Photographs) -> None:
    answer = client.post("/v1/classify", content=photographs[0][1], headers=USER)
    assert answer.json()["version"] == "3"
    assert "x-model-version" not in answer.headers
    shown = client.request("GET", PATH, headers=USER).json()
    assert shown["policy"] is None
    assert [(each["version"], each["state"], each["share"]) for each in shown["versions"]] == [
        ("1", "UNAVAILABLE", 0.0), ("2", "UNAVAILABLE", 0.0), ("3", "READY", 1.0)
    ]  # fmt: skip


def test_requests_are_shared_and_a_request_id_keeps_its_version(client: Client, photographs: Photographs) -> None:
    data = photographs[0][1]
    shown = put(client, {"1": 3, "2": 1}).json()
    assert [(each["version"], each["state"], each["share"]) for each in shown["versions"]] == [
        ("1", "READY", 0.75), ("2", "READY", 0.25), ("3", shown["versions"][2]["state"], 0.0)
    ]  # fmt: skip
    assert shown["versions"][2]["state"] in ("UNLOADING", "UNAVAILABLE")
    chosen = {name: version_of(client, data, {"x-request-id": name}) for name in map(str, range(60))}
    assert set(chosen.values()) == {"1", "2"}
    for name, version in list(chosen.items())[:10]:
        assert version_of(client, data, {"x-request-id": name}) == version
    shown = client.request("GET", PATH, headers=USER).json()
    counts = Counter(chosen.values()) + Counter(list(chosen.values())[:10])
    assert {each["version"]: each["images"] for each in shown["versions"]} == {**counts, "3": 0}


def test_a_header_of_the_client_keeps_its_version(client: Client, photographs: Photographs) -> None:
    data = photographs[0][1]
    put(client, {"1": 1, "2": 1}, sticky_header="X-User")
    users = {name: version_of(client, data, {"x-user": name}) for name in map(str, range(20))}
    assert set(users.values()) == {"1", "2"}
    for name, version in users.items():
        assert version_of(client, data, {"X-User": name}) == version
    assert len({version_of(client, data) for _ in range(40)}) == 2


def test_a_request_can_name_a_version(client: Client, photographs: Photographs) -> None:
    data = photographs[0][1]
    put(client, {"1": 1, "2": 0})
    assert {version_of(client, data) for _ in range(10)} == {"1"}
    assert version_of(client, data, {"x-model-version": "2"}) == "2"
    for header, path, status, message in (
        ("3", "/v1/classify", 404, "version"),
        ("two", "/v1/classify", 400, "not a version number"),
        ("2", "/v1/models/tiny/versions/1/classify", 400, "leave one out"),
    ):
        refused = client.post(path, content=data, headers=USER | {"x-model-version": header})
        assert (refused.status_code, message in refused.json()["detail"]) == (status, True)
    same = client.post("/v1/models/tiny/versions/1/classify", content=data, headers=USER | {"x-model-version": "1"})
    assert same.json()["version"] == "1"


def test_the_policy_holds_for_the_open_inference_protocol(client: Client, photographs: Photographs) -> None:
    put(client, {"1": 1, "2": 1})
    data = photographs[0][1]
    length = len(data).to_bytes(4, "little")
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(data) + 4}}
    head = json.dumps({"inputs": [tensor]}).encode()
    for name in map(str, range(12)):
        headers = USER | {"inference-header-content-length": str(len(head)), "x-request-id": name}
        answer = client.post("/v2/models/tiny-encoded/infer", content=head + length + data, headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model_version"] == version_of(client, data, {"x-request-id": name})


def test_a_policy_is_kept_in_the_file_and_removed(client: Client, photographs: Photographs, traffic: Path) -> None:
    assert put(client, {"1": 9, "2": 1}).status_code == 200
    assert read_traffic(traffic)["tiny"].weights == {1: 9, 2: 1}
    ended = client.request("DELETE", PATH, headers=ADMIN)
    assert ended.json()["policy"] is None
    assert read_traffic(traffic) == {}
    assert version_of(client, photographs[0][1]) == "3"


def test_a_changed_file_applies(client: Client, photographs: Photographs, traffic: Path) -> None:
    traffic.write_text('[[model]]\nname = "tiny"\nweights = {2 = 1}\n')
    client.portal.call(client.registry.refresh)
    assert version_of(client, photographs[0][1]) == "2"
    traffic.write_text('[[model]]\nname = "tiny"\nweights = {2 = 0}\n')
    client.portal.call(client.registry.refresh)
    assert version_of(client, photographs[0][1]) == "2"
    assert "above 0" in str(client.get("/readyz?verbose").json())
    assert put(client, {"1": 1}).status_code == 503
    traffic.unlink()
    client.portal.call(client.registry.refresh)
    assert version_of(client, photographs[0][1]) == "3"
    assert client.get("/readyz?verbose").json().get("degraded", []) == []


def test_a_version_that_cannot_be_loaded_gets_no_requests(
    client: Client, photographs: Photographs, tmp_path: Path
) -> None:
    (tmp_path / "repository" / "tiny" / "2" / "model.onnx").write_bytes(b"no model")
    shown = put(client, {"1": 1, "2": 1}).json()
    assert [each["share"] for each in shown["versions"]] == [1.0, 0.0, 0.0]
    assert shown["versions"][1]["reason"]
    assert {version_of(client, photographs[0][1]) for _ in range(10)} == {"1"}
    assert "version 2 has a weight and is not served" in str(client.get("/readyz?verbose").json())


REFUSED = {
    "another version": ({"weights": {"9": 1}}, 400, "no version 9 in the repository"),
    "no weights": ({}, 400, "weights"),
    "no traffic": ({"weights": {"1": 0}}, 400, "above 0"),
    "an unknown key": ({"weights": {"1": 1}, "sticky": "X"}, 400, "sticky"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_invalid_policy_changes_nothing(case: str, client: Client, photographs: Photographs) -> None:
    body, status, message = REFUSED[case]
    refused = client.request("PUT", PATH, json=body, headers=ADMIN)
    assert refused.status_code == status
    assert message in refused.json()["detail"]
    assert client.request("GET", PATH, headers=USER).json()["policy"] is None


def test_only_admins_set_a_policy(client: Client) -> None:
    body = {"weights": {"1": 1}}
    assert client.request("PUT", PATH, json=body, headers=USER).status_code == 403
    assert client.request("PUT", PATH, json=body).status_code == 401
    assert client.request("DELETE", PATH, headers=USER).status_code == 403
    assert client.request("GET", PATH).status_code == 401
    assert client.post(PATH, headers=ADMIN).headers["allow"] == "DELETE, GET, PUT"
    for method in ("PUT", "DELETE"):
        assert client.request(method, "/v1/models/other/rollout", json=body, headers=ADMIN).status_code == 404
    assert client.request("GET", "/v1/models/other/rollout", headers=USER).status_code == 404


@pytest.fixture
def leave(monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    """Until it is set, the loads of version 1 do not end; the other versions are loaded beside them."""
    leave, load = Event(), Loader.load

    def slow(loader: Loader, folder: Path) -> LoadedVersion:
        assert folder.name != "1" or leave.wait(TIMEOUT)
        return load(loader, folder)

    monkeypatch.setattr(Loader, "load", slow)
    monkeypatch.setattr(load_queue, "_TURN_SECONDS", 0.0)
    yield leave
    leave.set()


async def until_served(registry: Registry, *versions: str) -> None:
    """Wait until exactly these versions take requests."""
    changed = asyncio.Event()
    registry.observe(changed.set)
    while {model.version for model in registry.catalog.served("tiny")} != {*versions}:
        await changed.wait()
        changed.clear()


@pytest.fixture
def play(tiny_repository: Path, tmp_path: Path, traffic: Path) -> Callable[..., None]:
    """Plays a scenario on a registry of versions 1, 2 and 3."""

    async def run(policy: TrafficPolicy, scenario: Callable[[Registry], Awaitable[None]], **options: Any) -> None:
        change_traffic(traffic, "tiny", policy)
        settings = Settings(repository=tmp_path / "repository", executor="simulated:0", traffic=traffic, **options)
        registry = Registry(settings, Metrics())
        async with asyncio.timeout(TIMEOUT):
            try:
                await scenario(registry)
            finally:
                await registry.close()

    for version in (1, 2, 3):
        copy = shutil.copytree(tiny_repository / "tiny" / "1", tmp_path / "repository" / "tiny" / str(version))
        renumber(copy, version)
    return lambda policy, scenario, **options: asyncio.run(run(policy, scenario, **options))


def test_no_other_version_answers_before_the_one_with_a_weight(play: Callable[..., None], leave: Event) -> None:
    async def scenario(registry: Registry) -> None:
        starting = asyncio.create_task(registry.start())
        await until_served(registry, "2", "3")
        with pytest.raises(NotYetAvailable):
            registry.catalog.find("tiny")
        assert registry.catalog.find("tiny", "3").version == "3"
        leave.set()
        await starting
        assert registry.catalog.find("tiny").version == "1"
        assert registry.catalog.current()["tiny"].version == "1"

    play(TrafficPolicy(weights={1: 1, 3: 0}, shadow={2: 1.0}), scenario)


def test_a_request_waits_for_a_version_with_a_weight(play: Callable[..., None], leave: Event) -> None:
    async def scenario(registry: Registry) -> None:
        await registry.start()
        waiting = asyncio.create_task(registry.demand("tiny", TIMEOUT))
        await until_served(registry, "2", "3")
        assert registry.catalog.not_loaded("tiny") == "tiny"
        assert registry.catalog.not_loaded("tiny", "1") == "tiny"
        assert registry.catalog.not_loaded("tiny", "3") is None
        assert registry.catalog.find("tiny", "3").version == "3"
        leave.set()
        await waiting
        assert registry.catalog.not_loaded("tiny") is None
        assert registry.catalog.find("tiny").version == "1"

    play(TrafficPolicy(weights={1: 1, 3: 0}, shadow={2: 1.0}), scenario, memory_limit=10**12)


def test_the_old_version_answers_until_the_new_one_with_a_weight(play: Callable[..., None], leave: Event) -> None:
    async def scenario(registry: Registry) -> None:
        await registry.start()
        assert registry.catalog.find("tiny").version == "3"
        change = TrafficPolicy(weights={1: 1}, shadow={2: 1.0})
        changing = asyncio.create_task(registry.set_traffic("tiny", change))
        await until_served(registry, "2", "3")
        assert registry.catalog.find("tiny").version == "3"
        leave.set()
        await changing
        assert registry.catalog.find("tiny").version == "1"
        assert [model.version for model in registry.catalog.served("tiny")] == ["1", "2"]

    play(TrafficPolicy(weights={3: 1}), scenario)


@pytest.mark.parametrize("memory_limit", [None, 10**12], ids=["at the start", "on demand"])
def test_another_version_answers_if_none_with_a_weight_can_be_loaded(
    play: Callable[..., None], tmp_path: Path, memory_limit: int | None
) -> None:
    async def scenario(registry: Registry) -> None:
        (tmp_path / "repository" / "tiny" / "1" / "model.onnx").write_bytes(b"no model")
        await registry.start()
        if memory_limit is not None:
            await registry.demand("tiny", TIMEOUT)
        assert registry.catalog.find("tiny").version == "3"

    play(TrafficPolicy(weights={1: 1, 3: 0}, shadow={2: 1.0}), scenario, memory_limit=memory_limit)


def test_versions_with_a_weight_are_loaded_first(play: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[str] = []
    load = Loader.load

    def note(loader: Loader, folder: Path) -> LoadedVersion:
        folders.append(folder.name)
        return load(loader, folder)

    async def scenario(registry: Registry) -> None:
        monkeypatch.setattr(Loader, "load", note)
        await registry.start()
        assert folders == ["2", "1", "3"]

    play(TrafficPolicy(weights={1: 1, 2: 1, 3: 0}), scenario)


def test_without_a_request_id_the_version_with_the_largest_weight_is_current(play: Callable[..., None]) -> None:
    async def scenario(registry: Registry) -> None:
        await registry.start()
        assert registry.catalog.find("tiny").version == "1"
        await registry.set_traffic("tiny", TrafficPolicy(weights={1: 1, 2: 2}))
        assert registry.catalog.find("tiny").version == "2"

    play(TrafficPolicy(weights={1: 2, 2: 1}), scenario)
