"""The cache of responses."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.core.settings import Settings
from service.inference.response_cache import ResponseCache
from service.telemetry.metrics import Metrics
from tests.support import api
from tests.support.service import Client, serve
from tests.support.tiny import Eager, Photographs, renumber
from tests.support.two_versions import MOSTLY_2, failing, serve_two_versions

HIT, STORED = "resnet-serve; hit", "resnet-serve; fwd=uri-miss; stored"


@pytest.fixture
def repository(tiny_repository: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_repository, tmp_path / "repository")


@pytest.fixture
def caching(repository: Path) -> Iterator[Client]:
    with serve(Settings(repository=repository, response_cache=1_000_000, watch="off")) as client:
        yield client


def status(client: Client, content: bytes, query: str = "", **options: object) -> str | None:
    found: str | None = client.post(f"/v1/classify{query}", content=content, **options).headers.get("Cache-Status")
    return found


def test_equal_requests_get_the_same_response(caching: Client, photographs: Photographs, eager: Eager) -> None:
    data = photographs[0][1]
    first, again = (caching.post("/v1/classify", content=data) for _ in range(2))
    assert first.headers["Cache-Status"] == STORED
    assert again.headers["Cache-Status"] == HIT
    assert again.content == first.content
    api.check(again.json()["results"][0], data, eager)
    for query in ("?top_k=2", "?embedding=true", "?cam=values"):
        assert [status(caching, data, query) for _ in range(2)] == [STORED, HIT]
    assert status(caching, data, "?timeout_ms=9000&priority=bulk") == HIT
    assert status(caching, photographs[1][1]) == STORED
    assert status(caching, data, headers={"Accept": "application/x-ndjson"}) is None
    values = api.metrics(caching)
    assert values["resnet_response_cache_lookups_total", "hit"] == 5
    assert values["resnet_response_cache_lookups_total", "miss"] == 5
    assert values["resnet_response_cache_entries",] == 5
    assert values["resnet_images_total", "tiny"] == 11


def test_several_images_are_not_those_of_another_division(caching: Client, photographs: Photographs) -> None:
    (_, one), (_, other) = photographs[:2]
    assert caching.post("/v1/classify", **api.as_form(one, other)).headers["Cache-Status"] == STORED
    assert caching.post("/v1/classify", **api.as_form(other, one)).headers["Cache-Status"] == STORED
    assert caching.post("/v1/classify", **api.as_json(one, other)).headers["Cache-Status"] == HIT


def test_errors_are_not_kept(caching: Client, photographs: Photographs) -> None:
    for query, code in (("", 422), ("?errors=inline", 200)):
        for _ in range(2):
            answer = caching.post(f"/v1/classify{query}", content=b"no image")
            assert (answer.status_code, answer.headers.get("Cache-Status")) == (code, None)
    for _ in range(2):
        answer = caching.post("/v1/classify", **api.as_form(photographs[0][1], b"no image"))
        assert (answer.status_code, answer.headers.get("Cache-Status")) == (200, None)


def test_new_version_has_no_answers_of_the_old_one(caching: Client, repository: Path, photographs: Photographs) -> None:
    data = photographs[0][1]
    assert [status(caching, data) for _ in range(2)] == [STORED, HIT]
    renumber(shutil.copytree(repository / "tiny" / "1", repository / "tiny" / "2"), 2, "tiny")
    caching.portal.call(caching.registry.refresh)
    answer = caching.post("/v1/classify", content=data)
    assert (answer.json()["version"], answer.headers["Cache-Status"]) == ("2", STORED)


def test_an_answer_of_the_stable_version_is_not_kept_for_the_version_that_failed(
    tiny_repository: Path, tmp_path: Path, photographs: Photographs
) -> None:
    data = photographs[0][1]
    with serve_two_versions(tiny_repository, tmp_path, MOSTLY_2, response_cache=1_000_000) as client:
        with failing(client, 2):
            answer = client.post("/v1/classify", content=data)
            assert (answer.json()["version"], answer.headers.get("Cache-Status")) == ("1", None)
        for path in ("/v1/classify", "/v1/models/tiny/versions/2/classify"):
            assert client.post(path, content=data).json()["version"] == "2"
        assert client.post("/v1/models/tiny/versions/1/classify", content=data).json()["version"] == "1"


def test_least_recently_used_responses_leave() -> None:
    cache = ResponseCache(20_000, Metrics())
    keys = [(1, bytes([number]), ()) for number in range(12)]
    for key in keys[:8]:
        assert cache.put(key, bytes(1400))
    assert cache.get(keys[0]) is not None
    for key in keys[8:]:
        assert cache.put(key, bytes(1400))
    kept = [key in cache._responses for key in keys]
    assert kept == [True, False, False, *[True] * 9]
    assert not cache.put((2, b"", ()), bytes(2400))


def test_without_the_setting_nothing_is_kept(tiny_repository: Path, photographs: Photographs) -> None:
    with serve(Settings(repository=tiny_repository)) as client:
        assert [status(client, photographs[0][1]) for _ in range(2)] == [None, None]
        assert not [name for name, *_ in api.metrics(client) if "response_cache" in name]
