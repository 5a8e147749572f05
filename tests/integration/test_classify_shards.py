"""`resnet-classify` in shards: rows are exact after any interruption, on this machine and in object storage.

Object storage is the file system of fsspec in memory; tests.acceptance.clusters takes S3, and SIGKILL.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import importlib.util
import io
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import typer
from typer.testing import CliRunner, Result

from service.cli.classify import classify
from service.cli.shards.destination import LocalFolder, UrlFolder
from tests.support.tiny import Eager

Photographs = list[tuple[str, bytes]]
BAD = ("a/03.png", "b/deep/04.png", "b/deep/05.png", "z.png")
"""Files that are no images, such as all files of a shard, and the last file."""
NEEDS_PYARROW = pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="needs the extra parquet")


def run(*arguments: object, input: str | None = None) -> Result:
    app = typer.Typer()
    app.command()(classify)
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=input, catch_exceptions=False)


@pytest.fixture
def folder(tmp_path: Path, photographs: Photographs) -> Path:
    """12 photographs and 4 bad files, in folders."""
    names = [*(f"a/{number:02}.jpg" for number in range(6)), *(f"b/deep/{number:02}.jpg" for number in range(6))]
    root = tmp_path / "images"
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(photographs[number % len(photographs)][1])
    for name in BAD:
        (root / name).write_bytes(b"no image")
    return root


@pytest.fixture
def bucket() -> Iterator[str]:
    """URL of an empty folder in object storage."""
    url = f"memory://{uuid.uuid4().hex}"
    yield url
    system = fsspec.filesystem("memory")
    if system.exists(url):
        system.rm(url, recursive=True)


def upload(folder: Path, url: str) -> None:
    system = fsspec.filesystem("memory")
    for path in folder.rglob("*"):
        if path.is_file():
            system.pipe_file(f"{url}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def content(place: str, name: str) -> bytes:
    with fsspec.open(f"{place}/{name}") as file:
        return bytes(file.read())


def names_in(place: str) -> set[str]:
    system, root = fsspec.core.url_to_fs(place)
    return {entry["name"].rpartition("/")[2] for entry in system.ls(root, detail=True)}


def parse(data: bytes, format_: str) -> list[dict[str, Any]]:
    if format_ == "csv":
        return list(csv.DictReader(io.StringIO(data.decode())))
    if format_ == "jsonl":
        return [json.loads(line) for line in data.splitlines()]
    import pyarrow.parquet

    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()
    return rows


def read_results(place: str, format_: str) -> tuple[list[tuple[str, int]], list[str]]:
    """The files with their first class, and the files that failed, as the complete manifest lists them."""
    manifest = json.loads(content(place, "manifest.json"))
    assert manifest["complete"]
    assert sum(shard["files"] for shard in manifest["shards"]) == manifest["files"]
    predictions, failed, listed = [], [], {"manifest.json"}
    for shard in manifest["shards"]:
        for key in ("predictions", "errors"):
            if (entry := shard[key]) is None:
                continue
            data = content(place, entry["name"])
            assert (hashlib.sha256(data).hexdigest(), len(data)) == (entry["sha256"], entry["bytes"])
            rows = parse(data, format_)
            assert len(rows) == entry["rows"]
            listed.add(entry["name"])
            if key == "errors":
                assert all(row["error"] for row in rows)
                failed += [row["file"] for row in rows]
            else:
                first = [row["predictions"][0] if format_ == "jsonl" else row for row in rows]
                predictions += [(row["file"], int(best["index"])) for row, best in zip(rows, first, strict=True)]
    assert names_in(place) == listed
    return predictions, failed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format_", "remote"),
    [("csv", False), ("jsonl", True), pytest.param("parquet", False, marks=NEEDS_PYARROW)],
)
def test_rows_are_exact_wherever_the_work_is_interrupted(
    format_: str,
    remote: bool,
    folder: Path,
    bucket: str,
    tmp_path: Path,
    tiny_repository: Path,
    eager: Eager,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One change of the storage fails in each run, before or after its effect; the next run continues.

    Each run tells of the link that cannot be read, also those that begin behind it.
    """
    (folder / "a" / "00-self.jpg").symlink_to("00-self.jpg")
    place = bucket if remote else str(tmp_path / "results")
    kind: Any = UrlFolder if remote else LocalFolder
    plan = {"calls": 0, "before": 0}

    def failing(method: Any) -> Any:
        def call(*arguments: Any) -> None:
            plan["calls"] -= 1
            if plan["calls"] or not plan["before"]:
                method(*arguments)
            if not plan["calls"]:
                raise OSError("the storage is away")

        return call

    for name in ("put", "write", "remove"):
        monkeypatch.setattr(kind, name, failing(getattr(kind, name)))
    command = (folder, "--repository", tiny_repository, "--format", format_, "--output-folder", place)
    for attempt in range(100):
        plan = {"calls": attempt // 2 % 6 + 1, "before": attempt % 2}
        result = run(*command, "--files-per-shard", 2)
        if "the storage is away" not in result.stderr:
            break
        assert result.exit_code == 2
    assert attempt >= 6
    assert result.exit_code == 1
    assert "4 of 16 files could not be classified" in result.stderr
    assert result.stderr.count("00-self.jpg: cannot be read") == 1
    predictions, failed = read_results(place, format_)
    good = sorted(path for path in folder.rglob("*.jpg") if path.is_file())
    assert predictions == [(str(path), int(eager(path.read_bytes()).argmax())) for path in good]
    assert failed == [str(folder / name) for name in BAD]
    before = content(place, "manifest.json")
    result = run(*command)
    assert "00-self.jpg: cannot be read" in result.stderr
    assert result.exit_code == 1  # nothing is left to do, and files that failed count again
    assert content(place, "manifest.json") == before


def test_files_that_come_and_go_between_two_runs(
    folder: Path, tmp_path: Path, tiny_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list on standard input, with a file twice: the work continues at the same place of the list."""
    last = folder / "b" / "deep" / "05.jpg"
    listed = f"{last}\n{folder / 'a'}\n{last}\n{folder / 'b'}\n"
    place = tmp_path / "results"
    options = ("--repository", tiny_repository, "--format", "csv", "--output-folder", place, "--files-per-shard", 4)
    put = LocalFolder.put

    def fail_third(destination: LocalFolder, path: Path, name: str) -> None:
        if name == "part-00002.csv":
            raise OSError("no more room")
        put(destination, path, name)

    with monkeypatch.context() as patched:
        patched.setattr(LocalFolder, "put", fail_third)
        assert run("-", *options, input=listed).exit_code == 2
    done = json.loads((place / "manifest.json").read_bytes())["shards"][-1]["last"]
    assert (done["name"], done["entry"]) == (str(folder / "a" / "05.jpg"), 1)
    assert run("-", *options, input=f"{last}\n").exit_code == 2
    (folder / "a" / "05.jpg").unlink()
    (folder / "b" / "deep" / "00.jpg").rename(folder / "b" / "deep" / "00-new.jpg")
    assert run("-", *options, input=listed).exit_code == 1
    predictions, failed = read_results(str(place), "csv")
    rest = ["00-new.jpg", *(f"{number:02}.jpg" for number in range(1, 6))]
    assert [name for name, _ in predictions] == [
        str(last), *(f"{folder}/a/{number:02}.jpg" for number in range(6)), str(last),
        *(f"{folder}/b/deep/{name}" for name in rest),
    ]  # fmt: skip
    assert failed == [str(folder / name) for name in BAD[:3]]


@pytest.mark.slow
def test_other_options_and_damaged_results_are_refused(
    folder: Path, tmp_path: Path, tiny_repository: Path, photographs: Photographs
) -> None:
    place = tmp_path / "results"
    command = (folder, "--repository", tiny_repository, "--format", "csv", "--output-folder", place)
    assert run(*command, "--files-per-shard", 5).exit_code == 1
    manifest, part = place / "manifest.json", place / "part-00001.csv"
    document = json.loads(manifest.read_bytes())
    assert (document["model"], document["version"], document["top_k"]) == ("tiny", "1", 1)
    expected = hashlib.sha256((tiny_repository / "tiny" / "1" / "manifest.json").read_bytes()).hexdigest()
    assert document["model_sha256"] == expected

    def refused(message: str, *options: object) -> None:
        result = run(*command, *options)
        assert result.exit_code == 2, result.output
        assert message in result.stderr

    refused("its results have top_k 1, and this run has 2", "--top-k", 2)
    refused("executor onnxruntime-cpu, and this run has simulated:0", "--executor", "simulated:0")
    refused("has no such version", "--model-version", 7)
    refused("--format table is for the terminal", "--format", "table")
    refused("--embedding cannot continue", "--embedding", "x.npy")
    manifest.write_text(json.dumps({**document, "version": "2"}))
    refused("its results have version 2, and this run has 1")
    manifest.write_bytes(json.dumps(document).encode())
    kept = part.read_bytes()
    part.write_bytes(kept[:-1])
    refused("part-00001.csv: is not the file that manifest.json lists")
    part.write_bytes(kept)
    descriptor = os.open(place, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    refused("another process writes to it")
    os.close(descriptor)
    for damaged in (b"", b"[]", b'{"schema": 1, "shards": [{}]}', b"\xff"):
        manifest.write_bytes(damaged)
        refused("is no manifest of resnet-classify")
    manifest.unlink()
    refused("has part-00003.csv and no manifest.json: give an empty folder")
    assert run(folder, "--format", "parquet").exit_code == 2


def test_images_and_models_in_object_storage(
    folder: Path, tmp_path: Path, bucket: str, tiny_repository: Path, eager: Eager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of a folder at a URL, and of a list of URLs, are those of the same files on this machine."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (folder / ".hidden.jpg").write_bytes(b"x")
    upload(folder, f"{bucket}/images")
    upload(tiny_repository, f"{bucket}/models")
    options = ("--repository", f"{bucket}/models", "--format", "csv")
    good = sorted(folder.rglob("[0-9]*.jpg"))
    result = run(f"{bucket}/images", *options, "--output-folder", f"{bucket}/results", "--files-per-shard", 3)
    assert result.exit_code == 1, result.output
    assert "1 hidden" in result.stderr
    predictions, failed = read_results(f"{bucket}/results", "csv")
    urls = {str(path): f"{bucket}/images/{path.relative_to(folder).as_posix()}" for path in folder.rglob("*.*")}
    assert predictions == [(urls[str(path)], int(eager(path.read_bytes()).argmax())) for path in good]
    assert failed == [f"{bucket}/images/{name}" for name in BAD]
    listed = [urls[str(good[0])], str(good[1]), f"{bucket}/images/missing.jpg", f"{bucket}/images/b"]
    result = run("-", *options, input="\n".join(listed))
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["file"] for row in rows] == [
        *listed[:3], *sorted(url for url in urls.values() if "/b/deep/" in url)
    ]  # fmt: skip
    assert [row["error"] for row in rows[:3]] == ["", "", "the file cannot be read: no such file"]
    for path, message in (
        (f"{bucket}/nothing", "there is no such file or folder"),
        ("nope://bucket/images", "Protocol not known: nope"),
        ("s3://key:secret@bucket/images", "would be written to the log"),
    ):
        result = run(path, *options)
        assert result.exit_code == 2
        assert message in result.stderr


def test_storage_that_goes_away_is_no_bad_file(
    folder: Path, bucket: str, tiny_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work stops, keeps its results, and continues; expired credentials are such a case."""
    upload(folder, f"{bucket}/images")
    system = fsspec.filesystem("memory")
    read = type(system).cat_file
    for error in (ConnectionError("connection refused"), PermissionError("the token has expired")):
        with monkeypatch.context() as patched:
            patched.setattr("service.cli.offline.CHUNK", 4)
            reads = {"left": 6}  # in the middle of a chunk

            def cat_file(self: Any, path: str, error: Exception = error, reads: dict[str, int] = reads) -> bytes:
                reads["left"] -= "/images/" in path
                if reads["left"] < 0 and "/images/" in path:
                    raise error
                return bytes(read(self, path))

            patched.setattr(type(system), "cat_file", cat_file)
            command = (f"{bucket}/images", "--repository", tiny_repository, "--format", "csv")
            result = run(*command, "--output-folder", f"{bucket}/results")
        assert result.exit_code == 2
        assert str(error) in result.stderr
        assert not json.loads(content(f"{bucket}/results", "manifest.json"))["complete"]
    assert run(*command, "--output-folder", f"{bucket}/results").exit_code == 1
    predictions, failed = read_results(f"{bucket}/results", "csv")
    assert len(predictions) == 12
    assert failed == [f"{bucket}/images/{name}" for name in BAD]
