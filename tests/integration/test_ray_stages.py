"""The stages of `resnet-classify --on ray`, without Ray: one after the other, with pickled rows as between workers."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from models.imaging.image_files import Skipped
from service.cli.classify import classify
from service.cli.file_list import STANDARD_INPUT, FileList, ImageFile
from service.cli.ray_data.compute import Compute, describe
from service.cli.ray_data.stages import Chunk, ChunkDecoder, find_problem, first_row, walk
from service.cli.ray_data.workers import DECODING_CPU, ENGINE_CPU, ActorPlan, plan_workers
from service.core.errors import Overloaded, UnprocessableImage
from service.inference.results import ImageResult
from service.messages.model import ServedModel
from service.scoring.settings import ScoringError
from tests.support.tiny import Eager, Photographs


@pytest.fixture
def folder(tmp_path: Path, photographs: Photographs, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images in the working directory: 9 photographs, a bad file, and files that are no images."""
    monkeypatch.chdir(tmp_path)
    folder = Path("images")
    (folder / "deep").mkdir(parents=True)
    for number in range(9):
        (folder / ("deep" if number % 2 else "") / f"{number}.jpg").write_bytes(photographs[number % 6][1])
    (folder / "bad.png").write_bytes(b"no image")
    (folder / "notes.txt").touch()
    return folder


@pytest.fixture
def model(tiny_repository: Path) -> ServedModel:
    model: ServedModel = pickle.loads(describe({"repository": str(tiny_repository)}))
    return model


def chunks_of(files: FileList, size: int, after: ImageFile | None = None) -> list[Chunk]:
    """The chunks of a walk on another machine, whose working directory is another one."""
    batch = {name: [value] for name, value in first_row(files, after, size).items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir("/")
        return [Chunk.from_row({name: values[0] for name, values in row.items()}) for row in walk(batch)]


def score(chunks: Sequence[Chunk], model: ServedModel, repository: Path, here: str) -> list[ImageResult]:
    compute = Compute({"repository": str(repository), "threads": 1, "top_k": 2})
    decode = ChunkDecoder(model.preprocess, here)
    rows = [compute(decode(chunk.to_row())) for chunk in chunks]
    return [result for row in rows for result in Chunk.from_row(row).results]


@pytest.mark.parametrize("size", [1, 4, 64])
def test_stages_give_the_results_of_the_files(
    size: int, folder: Path, model: ServedModel, tiny_repository: Path, eager: Eager
) -> None:
    chunks = chunks_of(FileList([str(folder)]), size)
    assert [len(chunk.files) for chunk in chunks] == [size] * (10 // size) + [10 % size] * (10 % size > 0) + [0]
    files = [file for chunk in chunks for file in chunk.files]
    results = score(chunks, model, tiny_repository, str(folder.parent.absolute()))
    assert [file.name for file in files] == sorted(
        (str(path) for path in folder.rglob("*.*") if path.suffix != ".txt"), key=lambda name: name.split("/")
    )
    for file, result in zip(files, results, strict=True):
        if file.name.endswith("bad.png"):
            assert isinstance(result.error, UnprocessableImage)
            continue
        probabilities = eager(Path(file.name).read_bytes())
        assert [each.index for each in result.predictions] == (-probabilities).argsort(kind="stable")[:2].tolist()
        assert result.predictions[0].probability == pytest.approx(probabilities.max(), abs=1e-5)


def test_chunks_tell_what_is_before_them_and_what_the_walk_left_out(folder: Path) -> None:
    chunks = chunks_of(FileList([str(folder)]), 4)
    assert [chunk.before for chunk in chunks] == [None, *(chunk.files[-1] for chunk in chunks[:-1])]
    skipped = Skipped()
    for chunk in chunks:
        skipped.merge(chunk.skipped)
    expected = Skipped()
    names = [file.name for file in FileList([str(folder)]).walk(expected)]
    assert names == [file.name for chunk in chunks for file in chunk.files]
    assert skipped.counts == expected.counts and sum(skipped.counts.values()) == 1
    after = chunks[1].files[1]
    rest = [file.name for chunk in chunks_of(FileList([str(folder)]), 3, after) for file in chunk.files]
    assert rest == names[names.index(after.name) + 1 :]


def test_list_on_standard_input_comes_with_the_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["images/8.jpg", "images/missing.jpg", "images/deep/1.jpg"]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO("\n".join(names).encode())))
    chunks = chunks_of(FileList([STANDARD_INPUT]), 2)
    assert [file.name for chunk in chunks for file in chunk.files] == names


def test_errors_of_files_survive_pickling() -> None:
    error = Overloaded(7, "memory")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.retry_after, again.reason) == (Overloaded, str(error), 7, "memory")


@pytest.mark.parametrize(
    ("executor", "threads", "nodes", "expected"),
    [
        ("onnxruntime-cpu", 1, [{"CPU": 1}, {"CPU": 1}, {}], (2, 1, 0)),
        ("onnxruntime-cpu", 4, [{"CPU": 8}, {"CPU": 7}, {"CPU": 2}], (3, 4, 0)),
        ("onnxruntime-cpu", 16, [{"CPU": 2}, {"CPU": 4}], (1, 4, 0)),
        ("onnxruntime-cuda", 4, [{"CPU": 8, "GPU": 2}, {"CPU": 8}], (2, 1, 1)),
    ],
)
def test_plan_of_workers(
    executor: str,
    threads: int,
    nodes: list[dict[str, float]],
    expected: tuple[int, int, int],
    model: ServedModel,
) -> None:
    workers = plan_workers(replace(model, executor=executor, threads=threads), nodes)
    assert (workers.actors, workers.threads, workers.gpus) == expected
    assert workers.cpus == pytest.approx(ENGINE_CPU * workers.threads)
    if not workers.gpus:
        assert _decoders(workers, nodes) >= 1


def _decoders(workers: ActorPlan, nodes: list[dict[str, float]]) -> int:
    """Processes that can decode while all actors run."""
    free = sum(node.get("CPU", 0) for node in nodes) - workers.actors * workers.cpus
    return int(free / DECODING_CPU + 1e-6)


@pytest.mark.parametrize(
    ("executor", "nodes", "error"),
    [("onnxruntime-cpu", [{}], "no CPU"), ("onnxruntime-cuda", [{"CPU": 2}], "needs a GPU")],
)
def test_cluster_without_what_the_model_needs(
    executor: str, nodes: list[dict[str, float]], error: str, model: ServedModel
) -> None:
    with pytest.raises(ScoringError, match=error):
        plan_workers(replace(model, executor=executor), nodes)


def test_machine_that_cannot_take_part(tmp_path: Path) -> None:
    assert "install the same version" in (find_problem("0.0.0", []) or "")
    from importlib.metadata import version

    own = version("resnet-serve")
    assert find_problem(own, [str(tmp_path)]) is None
    assert "a folder that all machines share" in (find_problem(own, [f"{tmp_path}/other"]) or "")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--on", "spark"], "--on is ray or ray://HOST:PORT"),
        (["--on", "ray://user@host:1"], "--on is ray or ray://HOST:PORT"),
        (["--on", "ray", "--embedding", "out.npy"], "leave out --on"),
    ],
)
def test_options_that_do_not_go_together(options: list[str], error: str, folder: Path) -> None:
    app = typer.Typer()
    app.command()(classify)
    result = CliRunner().invoke(app, [str(folder), *options])
    assert result.exit_code == 2
    assert error in result.stderr


def test_ray_that_is_not_installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "service.cli.ray_data.scoring", raising=False)
    monkeypatch.delitem(sys.modules, "service.cli.ray_data.cluster", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    app = typer.Typer()
    app.command()(classify)
    result = CliRunner().invoke(app, [str(folder), "--on", "ray"])
    assert result.exit_code == 2
    assert "-e '.[ray]'" in result.stderr


def test_cluster_that_does_not_answer(folder: Path, tiny_repository: Path) -> None:
    pytest.importorskip("ray")
    app = typer.Typer()
    app.command()(classify)
    result = CliRunner().invoke(app, [str(folder), "--repository", str(tiny_repository), "--on", "ray://127.0.0.1:1"])
    assert result.exit_code == 2
    assert "no Ray cluster answers at ray://127.0.0.1:1: " in " ".join(result.stderr.split())
