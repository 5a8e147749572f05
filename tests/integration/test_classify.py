"""`resnet-classify` gives the results of the service."""

from __future__ import annotations

import base64
import csv
import importlib.util
import io
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from service.cli.classify import classify
from service.cli.embedding_files import NpzFile
from service.cli.file_list import ImageFile
from service.inference.results import ImageResult
from tests.support.service import Client
from tests.support.tiny import Eager

Photographs = list[tuple[str, bytes]]


def run(*arguments: object, input: str | None = None) -> Result:
    app = typer.Typer()
    app.command()(classify)
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=input, catch_exceptions=False)


@pytest.fixture
def folder(tmp_path: Path, photographs: Photographs, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The photographs at different depths below the working directory, with other files."""
    monkeypatch.chdir(tmp_path)
    folders = [Path("images"), Path("images/a"), Path("images/b/c")]
    for place in folders:
        place.mkdir(parents=True)
    for number, (name, data) in enumerate(photographs):
        (folders[number % 3] / name).write_bytes(data)
    (folders[0] / "notes.txt").write_text("no image")
    (folders[1] / "folder.jpg").mkdir()
    return folders[0]


def found(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.jpg") if path.is_file())


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_csv_has_a_line_for_each_image_and_class(folder: Path, tiny_repository: Path, eager: Eager) -> None:
    result = run(folder, "--repository", tiny_repository, "--format", "csv", "--top-k", 2)
    assert result.exit_code == 0, result.output
    table = rows(result.stdout)
    assert [(row["file"], row["rank"]) for row in table] == [
        (str(path), rank) for path in found(folder) for rank in ("1", "2")
    ]
    for row in table:
        expected = eager(Path(row["file"]).read_bytes())
        index = int(row["index"])
        assert float(row["probability"]) == pytest.approx(expected[index], abs=1e-5)
        assert float(row["probability"]) == pytest.approx(np.sort(expected)[-int(row["rank"])], abs=1e-5)
        assert row["label"] == f"class {index}"
        assert row["error"] == ""


def test_json_lines_equal_the_responses_of_the_service(
    folder: Path, tiny_repository: Path, eager: Eager, client: Client
) -> None:
    result = run(folder, "--repository", tiny_repository, "--format", "jsonl", "--top-k", 5)
    assert result.exit_code == 0, result.output
    answers = lines(result.stdout)
    assert [answer["file"] for answer in answers] == [str(path) for path in found(folder)]
    for answer in answers:
        data = Path(answer["file"]).read_bytes()
        served = client.post("/v1/classify", content=data).json()["results"][0]
        assert answer["image"] == served["image"]
        by_class = {prediction["label"]: prediction["probability"] for prediction in answer["predictions"]}
        assert by_class == pytest.approx(
            {prediction["label"]: prediction["probability"] for prediction in served["predictions"]}, abs=1e-5
        )
        assert by_class == pytest.approx(
            {f"class {index}": float(value) for index, value in enumerate(eager(data))}, abs=1e-5
        )


def test_table(folder: Path, tiny_repository: Path, eager: Eager) -> None:
    result = run(*found(folder), "--repository", tiny_repository)
    assert result.exit_code == 0, result.output
    for path in found(folder):
        (line,) = [line for line in result.stdout.splitlines() if path.name in line]
        expected = eager(path.read_bytes())
        assert f"class {expected.argmax()} " in line
        assert float(line.split("%")[0].split()[-1]) == pytest.approx(100 * expected.max(), abs=0.011)


def test_an_output_file(folder: Path, tiny_repository: Path) -> None:
    result = run(folder, "--repository", tiny_repository, "--format", "csv", "--output", "answers.csv")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert [row["file"] for row in rows(Path("answers.csv").read_text())] == [str(path) for path in found(folder)]


@pytest.mark.parametrize("format_", ["csv", "jsonl", "table"])
def test_bad_files_are_named_and_the_others_classified(
    format_: str, folder: Path, tiny_repository: Path, eager: Eager
) -> None:
    good = found(folder)
    (folder / "cut.jpg").write_bytes(good[0].read_bytes()[:3000])
    (folder / "empty.png").touch()
    result = run(folder, "--repository", tiny_repository, "--format", format_)
    assert result.exit_code == 1
    assert f"2 of {len(good) + 2} files" in result.stderr
    if format_ == "csv":
        failed = {row["file"]: row["error"] for row in rows(result.stdout) if row["rank"] == "0"}
        answered = {row["file"]: int(row["index"]) for row in rows(result.stdout) if row["rank"] == "1"}
    elif format_ == "jsonl":
        failed = {line["file"]: line["error"]["detail"] for line in lines(result.stdout) if "error" in line}
        answered = {
            line["file"]: line["predictions"][0]["index"] for line in lines(result.stdout) if "error" not in line
        }
    else:
        for name in ("cut.jpg", "empty.png", *(path.name for path in good)):
            assert sum(name in line for line in result.stdout.splitlines()) == 1
        return
    assert failed.keys() == {str(folder / "cut.jpg"), str(folder / "empty.png")}
    assert "whole file" in failed[str(folder / "cut.jpg")]
    assert "empty" in failed[str(folder / "empty.png")]
    assert answered == {str(path): int(eager(path.read_bytes()).argmax()) for path in good}


def test_single_bad_file(folder: Path, tiny_repository: Path) -> None:
    result = run(folder / "notes.txt", "--repository", tiny_repository, "--format", "jsonl")
    assert result.exit_code == 1
    (answer,) = lines(result.stdout)
    assert answer["file"] == str(folder / "notes.txt")
    assert answer["error"]["status"] == 422


def test_a_file_that_cannot_be_read(folder: Path, tiny_repository: Path) -> None:
    """Also not for the superuser: /proc/self/mem has nothing at address 0."""
    good = found(folder)[0]
    result = run("/proc/self/mem", good, "--repository", tiny_repository, "--format", "jsonl")
    assert result.exit_code == 1
    unreadable, answer = lines(result.stdout)
    assert unreadable["file"] == "/proc/self/mem"
    assert "cannot be read: Input/output error" in unreadable["error"]["detail"]
    assert answer["file"] == str(good)
    assert answer["predictions"]


def test_more_files_than_are_in_flight_keep_their_order(
    tmp_path: Path, tiny_repository: Path, photographs: Photographs, eager: Eager
) -> None:
    for number, choice in enumerate(np.random.default_rng(0).integers(len(photographs), size=150)):
        (tmp_path / f"{number:03}.jpg").write_bytes(photographs[choice][1])
    result = run(tmp_path, "--repository", tiny_repository, "--format", "jsonl", "--top-k", 5)
    assert result.exit_code == 0, result.output
    answers = lines(result.stdout)
    assert [Path(answer["file"]).name for answer in answers] == [f"{number:03}.jpg" for number in range(150)]
    for answer in answers:
        expected = eager(Path(answer["file"]).read_bytes())
        for prediction in answer["predictions"]:
            assert prediction["probability"] == pytest.approx(expected[prediction["index"]], abs=1e-5)


def test_wrong_paths_exit_with_2(folder: Path, tiny_repository: Path) -> None:
    (folder / "b" / "none").mkdir()
    good, repository = found(folder)[0], ["--repository", tiny_repository]
    for arguments, message in (
        ([folder / "missing.jpg", *repository], "missing.jpg: there is no such file"),
        ([folder / "b" / "none", *repository], "there are no image files"),
        ([good, "--repository", folder / "missing"], "missing: there is no such folder"),
        ([good, "--repository", folder / "b"], "b holds no model"),
        ([good, *repository, "--model", "resnet"], "no model resnet is served; there is: tiny"),
        ([good, *repository, "--output", folder / "missing" / "answers.csv"], "No such file"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2, result.output
        assert message in result.stderr
        assert result.stdout == ""


@pytest.mark.parametrize("arguments", [[], ["--top-k", "0", "x"], ["--format", "xml", "x"], ["--nope", "x"]])
def test_wrong_command_line_exits_with_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


@pytest.mark.slow
def test_names_that_are_not_utf8_or_too_long_are_scored_to_the_end(
    tmp_path: Path, tiny_repository: Path, photographs: Photographs
) -> None:
    """The three formats, maps and embeddings have a result for each file, under a name that leads back to it."""
    folder = tmp_path / "images"
    folder.mkdir()
    files = [folder / os.fsdecode(b"caf\xe9.jpg"), folder / f"{'n' * 250}.jpg", folder / "z.jfif"]
    for path in files:
        path.write_bytes(photographs[0][1])
    for format_ in ("table", "csv", "jsonl"):
        output, embeddings = tmp_path / f"answers.{format_}", tmp_path / "embeddings.npz"
        options = ("--format", format_, "--output", output, "--cam", tmp_path / "maps", "--embedding", embeddings)
        result = run(folder, "--repository", tiny_repository, *options)
        assert result.exit_code == 0, result.output
    answers = lines((tmp_path / "answers.jsonl").read_text())
    assert [os.fsencode(answer["file"]) for answer in answers] == [os.fsencode(path) for path in files]
    assert len(rows((tmp_path / "answers.csv").read_text())) == len(files)
    assert (tmp_path / "answers.table").read_text().count("class ") == len(files)
    assert len(list((tmp_path / "maps").iterdir())) == len(files)
    with np.load(tmp_path / "embeddings.npz") as kept:
        assert kept["files"].tolist() == [str(path) for path in files]


def test_skipped_files_are_named_with_the_reason(folder: Path, tiny_repository: Path) -> None:
    (folder / ".hidden.jpg").write_bytes(b"x")
    (folder / "nowhere.jpg").symlink_to("missing")
    (folder / "round").symlink_to("..")
    result = run(folder, "--repository", tiny_repository, "--format", "csv")
    assert result.exit_code == 0, result.output
    assert [row["file"] for row in rows(result.stdout)] == [str(path) for path in found(folder) if path.name[0] != "."]
    for part in ("1 hidden", "1 linked to nothing", "1 linked to a folder around it", "1 without the suffix"):
        assert part in result.stderr


@pytest.mark.parametrize("end", ["\n", "\r\n", "\0"])
def test_list_on_standard_input(end: str, folder: Path, tiny_repository: Path) -> None:
    """Files, folders and one that does not exist; with the mark that editors on Windows write."""
    listed = [found(folder / "b")[0], folder / "a", folder / "missing.jpg"]
    content = "\ufeff" + "".join(f"{path}{end}" for path in listed)
    result = run("-", "--repository", tiny_repository, "--format", "csv", input=content)
    assert result.exit_code == 1, result.output
    table = {row["file"]: row["error"] for row in rows(result.stdout)}
    assert list(table) == [str(path) for path in (listed[0], *found(folder / "a"), listed[2])]
    assert [name for name, error in table.items() if "No such file" in error] == [str(folder / "missing.jpg")]


def test_executor_and_precision_of_the_options(
    folder: Path, tiny_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The simulated executor gives the first class; the settings of a server on this machine are ignored."""
    monkeypatch.setenv("RESNET_SERVE_MAX_IN_FLIGHT_IMAGES", "1")
    monkeypatch.setenv("RESNET_SERVE_EXECUTOR", "none")
    good, repository = found(folder)[0], ("--repository", tiny_repository, "--format", "csv")
    simulated = rows(run(good, *repository, "--executor", "simulated:0").stdout)
    assert float(simulated[0]["probability"]) != float(rows(run(good, *repository).stdout)[0]["probability"])
    for options, message in (
        (("--executor", "nope"), "no executor is named 'nope'"),
        (("--precision", "int9"), "--precision: Input should be 'float32'"),
        (("--precision", "int8"), "has no file that onnxruntime-cpu computes int8 from"),
    ):
        result = run(good, *repository, *options)
        assert result.exit_code == 2, result.output
        assert message in result.stderr


@pytest.mark.parametrize("format_", ["jsonl", "table"])
def test_ctrl_c_keeps_the_results_so_far(
    format_: str, folder: Path, tiny_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C arrives with the 40th result, when the images of further chunks are being classified."""
    source = found(folder)[0].absolute()
    many = [folder / "many" / f"{number:03}.jpg" for number in range(300)]
    (folder / "many").mkdir()
    for path in many:
        path.symlink_to(source)
    written = NpzFile.write

    def write(sink: NpzFile, file: ImageFile, result: ImageResult) -> None:
        written(sink, file, result)
        if file.name == str(many[39]):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(NpzFile, "write", write)
    options = ("--repository", tiny_repository, "--format", format_, "--embedding", "embeddings.npz")
    result = run(folder / "many", *options)
    assert result.exit_code == 130, result.output
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    (done,) = re.findall(r"stopped: (\d+)(?: of 300)? files are done", result.stderr)
    assert 40 <= int(done) < 300
    with np.load("embeddings.npz") as kept:
        assert kept["files"].tolist() == [str(path) for path in many[: int(done)]]
    if format_ == "jsonl":
        assert [answer["file"] for answer in lines(result.stdout)] == [str(path) for path in many[: int(done)]]
    else:
        assert sum(".jpg" in line for line in result.stdout.splitlines()) == int(done)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_one_line(folder: Path, tiny_repository: Path) -> None:
    Path("full.npz").symlink_to("/dev/full")
    for option in (("--output", "/dev/full", "--format", "csv"), ("--embedding", "full.npz")):
        result = run(folder, "--repository", tiny_repository, *option)
        assert result.exit_code == 2
        assert "No space left on device" in result.stderr


@pytest.mark.slow
def test_maps_are_written_to_the_folders_of_the_images(
    folder: Path, tiny_repository: Path, tmp_path: Path, client: Client
) -> None:
    result = run(folder, "--repository", tiny_repository, "--cam", tmp_path / "maps", "--top-k", 2, "--format", "jsonl")
    assert result.exit_code == 0, result.output
    assert "cam" not in result.stdout
    written = {path.relative_to(tmp_path / "maps").as_posix() for path in (tmp_path / "maps").rglob("*.*")}
    expected = set()
    for answer in lines(result.stdout):
        path = Path(answer["file"])
        for rank, prediction in enumerate(answer["predictions"], start=1):
            name = f"{path.relative_to(folder).as_posix()}.{rank}-{prediction['label'].replace(' ', '-')}.png"
            expected.add(name)
            served = client.post("/v1/classify?cam=picture&top_k=2", content=path.read_bytes()).json()
            picture = base64.b64decode(served["results"][0]["predictions"][rank - 1]["cam_png"])
            difference = as_array(picture) - as_array((tmp_path / "maps" / name).read_bytes())
            assert np.abs(difference).max() <= 3  # rounding differs with the size of the batch
    assert written == expected


def as_array(png: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.asarray(Image.open(io.BytesIO(png))).astype(np.int64)


def read_npz(path: Path, files: list[Path]) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as kept:
        return dict(zip(kept["files"].tolist(), kept["embeddings"], strict=True))


def read_npy(path: Path, files: list[Path]) -> dict[str, Any]:
    """A row per file, in their order."""
    values = np.load(path, mmap_mode="r")
    return {str(file): row for file, row in zip(files, values, strict=True) if not np.isnan(row).any()}


def read_parquet(path: Path, files: list[Path]) -> dict[str, Any]:
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(path)
    assert [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)] == [3, 2, 2, 2]
    rows = file.read().to_pylist()
    assert [row["file"] for row in rows] == [str(path) for path in files]
    assert str(file.schema_arrow.field("embedding").type).startswith("fixed_size_list<element: float>[16]")
    for row in rows:
        assert (row["embedding"] is None) == (row["label"] is None) == (row["probability"] is None)
        assert (row["error"] is None) != (row["embedding"] is None)
    return {row["file"]: np.array(row["embedding"], np.float32) for row in rows if row["error"] is None}


NEEDS_PYARROW = pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="needs the extra parquet")


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(read_npz, id=".npz"),
        pytest.param(read_npy, id=".npy"),
        pytest.param(read_parquet, id=".parquet", marks=NEEDS_PYARROW),
    ],
)
def test_embeddings_are_written_with_their_files(
    read: Callable[[Path, list[Path]], dict[str, Any]],
    request: pytest.FixtureRequest,
    folder: Path,
    tiny_repository: Path,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Files that fail come first, between the others, and last: more in a row than a row group has."""
    monkeypatch.setattr("service.cli.embedding_files._GROUP_ROWS", 2)
    bad = [folder / name for name in ("0.png", "1.png", "a/zz.png")]
    for path in bad:
        path.write_bytes(b"no image")
    embeddings = Path("embeddings").with_suffix(request.node.callspec.id)
    result = run(folder, "--repository", tiny_repository, "--embedding", embeddings, "--format", "jsonl")
    assert result.exit_code == 1
    files = [Path(line["file"]) for line in lines(result.stdout)]
    assert set(files) == {*bad, *found(folder)}
    written = read(embeddings, files)
    assert written.keys() == {str(path) for path in found(folder)}
    for name, row in written.items():
        served = client.post("/v1/classify?embedding=true", content=Path(name).read_bytes()).json()
        assert row.dtype == np.float32
        np.testing.assert_allclose(row, served["results"][0]["embedding"], atol=1e-5)


@NEEDS_PYARROW
def test_files_without_any_embedding(folder: Path, tiny_repository: Path) -> None:
    for suffix in (".npz", ".npy", ".parquet"):
        run(folder / "notes.txt", "--repository", tiny_repository, "--embedding", f"none{suffix}")
    assert np.load("none.npy").shape == (1, 0)
    assert np.load("none.npz")["embeddings"].shape == (0, 0)
    import pyarrow.parquet

    (row,) = pyarrow.parquet.read_table("none.parquet").to_pylist()
    assert (row["file"], row["embedding"]) == (str(folder / "notes.txt"), None)
    assert "not an image" in row["error"]


def test_embeddings_that_cannot_be_written_exit_with_2(
    folder: Path, tiny_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for options, message in (
        (("--embedding", "x.csv"), "x.csv: the name of a file of embeddings ends in .npy, .npz, .parquet"),
        (("--embedding", "x.parquet"), "-e '.[parquet]'"),
        (("--layer", 1), "add --embedding FILE"),
        (("--embedding", "x.npy", "--layer", 1), "layer: tiny version 1 has no layer1: export its checkpoint again"),
    ):
        result = run(folder, "--repository", tiny_repository, *options)
        assert result.exit_code == 2, result.output
        assert message in result.stderr


def test_long_tables_are_printed_in_parts(folder: Path, tiny_repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.cli.sinks.MAX_ROWS", 2)
    result = run(*found(folder)[:4], "--repository", tiny_repository)
    assert [result.stdout.count(text) for text in ("probability", ".jpg")] == [2, 4]


def test_unwritable_output_exits_with_2(folder: Path, tiny_repository: Path) -> None:
    for option in ("--cam", "--embedding"):
        result = run(folder, "--repository", tiny_repository, option, "images/notes.txt/x.npz")
        assert result.exit_code == 2
        assert "notes.txt" in result.output
