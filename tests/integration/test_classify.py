"""`resnet-classify` gives the results of the service."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from service.cli.classify import classify
from service.cli.sinks import EmbeddingFile
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
    written = EmbeddingFile.write

    def write(sink: EmbeddingFile, path: Path, result: ImageResult) -> None:
        written(sink, path, result)
        if path == many[39]:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(EmbeddingFile, "write", write)
    options = ("--repository", tiny_repository, "--format", format_, "--embedding", "embeddings.npz")
    result = run(folder / "many", *options)
    assert result.exit_code == 130, result.output
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    (done,) = re.findall(r"stopped: (\d+) of 300 files are done", result.stderr)
    assert 40 <= int(done) < 300
    with np.load("embeddings.npz") as kept:
        assert kept["files"].tolist() == [str(path) for path in many[: int(done)]]
    if format_ == "jsonl":
        assert [answer["file"] for answer in lines(result.stdout)] == [str(path) for path in many[: int(done)]]
    else:
        assert sum(".jpg" in line for line in result.stdout.splitlines()) == int(done)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_one_line(folder: Path, tiny_repository: Path) -> None:
    for option in (("--output", "/dev/full", "--format", "csv"), ("--embedding", "/dev/full")):
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


def test_embeddings_are_written_with_their_files(
    folder: Path, tiny_repository: Path, tmp_path: Path, client: Client
) -> None:
    (folder / "broken.png").write_bytes(b"no image")
    result = run(folder, "--repository", tiny_repository, "--embedding", tmp_path / "embeddings.npz")
    assert result.exit_code == 1
    with np.load(tmp_path / "embeddings.npz", allow_pickle=False) as kept:
        assert kept["files"].tolist() == [str(path) for path in found(folder)]
        assert kept["embeddings"].dtype == np.float32
        for path, row in zip(found(folder), kept["embeddings"], strict=True):
            served = client.post("/v1/classify?embedding=true", content=path.read_bytes()).json()
            np.testing.assert_allclose(row, served["results"][0]["embedding"], atol=1e-5)


def test_unwritable_output_exits_with_2(folder: Path, tiny_repository: Path) -> None:
    for option in ("--cam", "--embedding"):
        result = run(folder, "--repository", tiny_repository, option, "images/notes.txt/x.npz")
        assert result.exit_code == 2
        assert "notes.txt" in result.output
