"""A repository in object storage. The file system is fsspec's own in memory; tests.acceptance.clusters takes S3."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from pydantic import ValidationError

from models.artifact import manifest
from service.core.settings import Settings
from service.registry.repository import find_versions
from service.registry.storage import StorageMirror
from tests.support.service import serve

Photographs = list[tuple[str, bytes]]


class Bucket:
    """A repository in the memory of fsspec."""

    def __init__(self) -> None:
        self.url = f"memory://{uuid.uuid4().hex}"
        self.system: Any = fsspec.filesystem("memory")

    def upload(self, source: Path, place: str, without: tuple[str, ...] = (), **changes: object) -> None:
        """Put the files of a version at MODEL/VERSION, the manifest last."""
        for path in sorted(source.iterdir(), key=lambda path: path.name == manifest.FILE_NAME):
            content = path.read_bytes()
            if path.name == manifest.FILE_NAME:
                content = json.dumps({**json.loads(content), **changes}).encode()
            if path.name not in without:
                self.write(f"{place}/{path.name}", content)

    def write(self, path: str, content: bytes) -> None:
        self.system.pipe_file(f"{self.url}/{path}", content)

    def delete(self, path: str) -> None:
        self.system.rm(f"{self.url}/{path}", recursive=True)


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    made = Bucket()
    yield made
    if made.system.exists(made.url):
        made.system.rm(made.url, recursive=True)


@pytest.fixture
def version(tiny_repository: Path) -> Path:
    return tiny_repository / "tiny" / "1"


@pytest.fixture
def mirror(bucket: Bucket, tmp_path: Path) -> StorageMirror:
    return StorageMirror(bucket.url, tmp_path / "copy")


def copied(tmp_path: Path) -> list[str]:
    return [f"{name}/{number}" for name, found in find_versions(tmp_path / "copy").items() for number in found]


def test_service_follows_the_bucket(
    bucket: Bucket, version: Path, tmp_path: Path, photographs: Photographs, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.upload(version, "tiny/1")
    settings = Settings(repository=bucket.url, cache=tmp_path)
    with serve(settings) as client:
        assert client.post("/v1/classify", content=photographs[0][1]).json()["version"] == "1"
        bucket.upload(version, "tiny/2", version=2)
        client.portal.call(client.registry.load, "tiny")
        assert client.post("/v1/classify", content=photographs[0][1]).json()["version"] == "2"

        def away(*_: object, **__: object) -> None:
            raise ConnectionError("the bucket is away")

        with monkeypatch.context() as patched:
            patched.setattr(type(bucket.system), "find", away)
            client.portal.call(client.registry.load, "tiny")
            assert client.post("/v1/classify", content=photographs[0][1]).json()["version"] == "2"
            assert client.get("/readyz").json()["degraded"] == [f"{bucket.url}: cannot be read: the bucket is away"]
        client.portal.call(client.registry.load, "tiny")
        assert "degraded" not in client.get("/readyz").json()


def test_a_half_uploaded_version_gets_no_place(
    bucket: Bucket, version: Path, mirror: StorageMirror, tmp_path: Path
) -> None:
    bucket.upload(version, "tiny/1", without=(manifest.FILE_NAME,))
    mirror.sync()
    assert (copied(tmp_path), mirror.problems) == ([], [])
    bucket.upload(version, "tiny/1", without=("model.onnx",))
    bucket.delete("tiny/1/model.onnx")
    mirror.sync()
    assert copied(tmp_path) == []
    assert mirror.problems == [f"{bucket.url}/tiny/1: model.onnx is missing: upload it"]
    bucket.write("tiny/1/model.onnx", b"half")
    mirror.sync()
    assert copied(tmp_path) == []
    assert "model.onnx is not the file that the manifest describes" in mirror.problems[0]
    bucket.upload(version, "tiny/1")
    mirror.sync()
    assert (copied(tmp_path), mirror.problems) == (["tiny/1"], [])
    assert not list((tmp_path / "copy" / ".incoming").iterdir())


def test_changed_and_removed_versions(bucket: Bucket, version: Path, mirror: StorageMirror, tmp_path: Path) -> None:
    bucket.upload(version, "tiny/1")
    bucket.upload(version, "other/3", name="other", version=3)
    mirror.sync()
    assert copied(tmp_path) == ["other/3", "tiny/1"]
    bucket.upload(version, "tiny/1", labels=["a", "b", "c", "d", "e"])
    bucket.delete("other")
    mirror.sync()
    assert copied(tmp_path) == ["tiny/1"]
    assert manifest.read(tmp_path / "copy" / "tiny" / "1").labels == ("a", "b", "c", "d", "e")


def test_an_empty_bucket_deletes_nothing(bucket: Bucket, version: Path, mirror: StorageMirror, tmp_path: Path) -> None:
    bucket.upload(version, "tiny/1")
    mirror.sync()
    bucket.delete("tiny")
    mirror.sync()
    assert copied(tmp_path) == ["tiny/1"]
    assert mirror.problems == [f"{bucket.url}: holds no version any more; the copies stay until it has one"]


def test_nothing_is_downloaded_twice(
    bucket: Bucket, version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.upload(version, "tiny/1")
    read: list[str] = []
    get_file = type(bucket.system).get_file

    def count(self: object, source: str, *rest: object, **options: object) -> None:
        read.append(source.rpartition("/")[2])
        get_file(self, source, *rest, **options)

    monkeypatch.setattr(type(bucket.system), "get_file", count)
    first = StorageMirror(bucket.url, tmp_path / "copy")
    first.sync()
    assert {"manifest.json", "model.onnx", "golden.npz"} <= set(read)
    read.clear()
    first.sync()
    assert read == []
    StorageMirror(bucket.url, tmp_path / "copy").sync()  # a service that starts again
    assert read == ["manifest.json"]


@pytest.mark.parametrize("name", ["../outside/1", "tiny/one", "tiny/1/deeper", ".hidden/1", "tiny/0"])
def test_only_places_of_versions_are_copied(
    name: str, bucket: Bucket, version: Path, mirror: StorageMirror, tmp_path: Path
) -> None:
    bucket.write("scratch", (version / "manifest.json").read_bytes())
    root = f"/{bucket.url.partition('://')[2]}"
    # Put past the file system, which would make another path of `..`.
    bucket.system.store[f"{root}/{name}/manifest.json"] = bucket.system.store.pop(f"{root}/scratch")
    mirror.sync()
    assert (copied(tmp_path), mirror.problems) == ([], [])
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("s3://key:secret@bucket/models", "would be written to the log"),
        ("s3://bucket/models?versionId=1", "without a query"),
    ],
)
def test_urls_with_secrets_or_queries_are_refused(url: str, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason) as raised:
        Settings(repository=url)
    assert "secret" not in str(raised.value.errors(include_input=False))


def test_a_protocol_without_its_package_is_named(tmp_path: Path) -> None:
    mirror = StorageMirror("abfs://container/models", tmp_path / "copy")
    mirror.sync()
    assert len(mirror.problems) == 1
    assert "adlfs" in mirror.problems[0]
