"""The GPU report without a GPU, and its steps with a fake GPU and a real service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks import timing
from benchmarks.cudnn_baseline import ceilings
from benchmarks.cudnn_baseline import executor as cudnn_baseline
from benchmarks.gpu import decoder as gpu_decoder
from benchmarks.gpu import engine, engine_step, steps
from benchmarks.gpu import executors as gpu_executors
from benchmarks.gpu import service as gpu_service
from benchmarks.gpu.__main__ import STEPS
from benchmarks.gpu.executors import GpuRow, Kind
from benchmarks.gpu.report import GpuReport, NotDone
from benchmarks.serve.server import ServerFailed
from models.artifact.manifest import Precision
from models.runtime import cuda_driver
from service.executors.base import ExecutorError
from service.executors.gpu.gpu_jpeg import JpegDecoder
from service.registry.repository import LoadError
from tests.support import fake_gpu, fake_torch
from tests.support.gpu import why_not

PRECISIONS: tuple[Precision, ...] = ("float32", "float16", "bfloat16")


@pytest.mark.slow
@pytest.mark.skipif(why_not() is None, reason="this machine has a GPU")
def test_report_without_a_gpu(tmp_path: Path) -> None:
    command = [str(steps.ROOT / "benchmarks" / "gpu.sh"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHON": sys.executable})
    assert done.returncode == 0, done.stderr
    report = (tmp_path / "report.md").read_text()
    assert report.startswith("# GPU report: no GPU\n")
    _, missing = report.split("## Not done\n\n")
    reasons = {line.partition(": ")[2] for line in missing.strip().splitlines()}
    assert reasons == {why_not()}
    assert len(missing.strip().splitlines()) == len(STEPS)


@pytest.fixture
def versions(tiny_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """A version to measure on a fake GPU, in this process, with the shortest times."""
    version = tiny_repository / "tiny" / "1"
    fake = fake_gpu.install(monkeypatch)
    fake.build_engines(version, tmp_path)
    monkeypatch.setattr(gpu_executors, "default_folder", lambda: tmp_path)
    monkeypatch.setattr(gpu_executors, "BATCHES", (1, 32, 64))
    monkeypatch.setattr(steps, "in_own_process", lambda function, kind: function(kind))
    monkeypatch.setattr(timing, "_SECONDS", 0.0)
    monkeypatch.setattr("service.executors.names", lambda: ["onnxruntime-cuda", "openvino", "tensorrt"])
    yield [version]
    assert fake.cuda.allocations == 0


def test_step_engine_runs_to_its_end(full_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ceilings, both engines, cuDNN and ONNX Runtime, with a table of the layers, on a fake GPU."""
    version = full_repository / "tiny" / "1"
    fake = fake_gpu.install(monkeypatch)
    fake.build_cuda_engines(version, tmp_path)
    monkeypatch.setattr(gpu_executors, "default_folder", lambda: tmp_path)
    monkeypatch.setattr(engine_step, "default_folder", lambda: tmp_path)
    monkeypatch.setattr(engine_step, "in_own_process", lambda function, argument, *_: function(argument))
    monkeypatch.setattr(engine, "SECONDS", 0.0)
    monkeypatch.setattr(engine, "SINGLE_IMAGES", 3)
    monkeypatch.setattr(engine, "COPY_BYTES", 4096)
    fake_torch.install(monkeypatch, fake.cuda)
    monkeypatch.setattr(cudnn_baseline, "BATCHES", (1, 4))
    monkeypatch.setattr(ceilings, "matrix_ceilings", lambda: {"float16": 1e15, "int8": 2e15})
    report = GpuReport(cuda_driver.devices())
    text = "\n".join(engine_step.measure_engine([version], tmp_path, report))
    assert report.missing == []
    assert "- copy on the device, read and written: " in text
    measured = ("cuda | float16", "cuda | int8", "cuDNN baseline | float16", "onnxruntime-cuda | float16")
    assert all(f"| {name} | 1 | 2 | " in text for name in measured)
    assert text.count("| network | convolution | network | ") == 2  # a layer of each engine
    content = json.loads((tmp_path / "engine.json").read_text())
    layers = {each["precision"]: each["layers"] for each in content["results"] if each["executor"] == "cuda"}
    assert {precision: [layer["name"] for layer in found] for precision, found in layers.items()} == {
        "float16": ["prepare", "network"],
        "int8": ["prepare", "network"],
    }
    assert all(layer["seconds"] > 0 for found in layers.values() for layer in found)
    assert (fake.cuda.allocations, fake.driver.loaded) == (0, 0)


def test_engine_that_is_missing_is_reported(
    full_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_gpu.install(monkeypatch)
    monkeypatch.setattr(gpu_executors, "default_folder", lambda: tmp_path)
    monkeypatch.setattr(engine_step, "default_folder", lambda: tmp_path)
    monkeypatch.setattr(engine_step, "in_own_process", lambda function, argument, *_: function(argument))
    monkeypatch.setattr(engine_step, "find_spec", lambda name: None)
    monkeypatch.setattr(engine, "COPY_BYTES", 4096)
    monkeypatch.setattr(engine, "SECONDS", 0.0)
    monkeypatch.setattr(engine, "SINGLE_IMAGES", 3)
    report = GpuReport(cuda_driver.devices())
    with pytest.raises(NotDone, match="no CUDA engine could be measured"):
        list(engine_step.measure_engine([full_repository / "tiny" / "1"], tmp_path, report))
    assert any(line.startswith("cuda float16: no engine, and no compiler for one") for line in report.missing)


def test_floor_is_the_slower_of_memory_and_arithmetic() -> None:
    layer = engine.LayerTime("conv", "convolution 3x3", ("k",), 4e-6, traffic=2_000_000, operations=3_000_000_000)
    assert layer.floor(1e12, 1e15) == pytest.approx(3e-6)
    assert layer.floor(1e12, 2e15) == pytest.approx(2e-6)
    assert layer.floor(1e12, None) == pytest.approx(2e-6)


@pytest.mark.slow
def test_every_executor_is_checked_and_measured(versions: list[Path], tmp_path: Path) -> None:
    report = GpuReport(cuda_driver.devices())
    lines = list(steps.examine_all(versions, tmp_path, report))
    assert lines[:2] == [
        "- tiny, onnxruntime-cuda float32: golden images within its bound on every bucket and stream",
        "- tiny, tensorrt float32: golden images within its bound on every bucket and stream",
    ]
    rows = json.loads((tmp_path / "engines.json").read_text())
    assert [(row["executor"], row["batch"]) for row in rows] == [
        *(("onnxruntime-cuda", batch) for batch in (1, 32, 64)),
        *(("tensorrt", batch) for batch in (1, 32)),  # of which its engine takes no more
    ]
    assert all(row["one_stream"] > 0 and row["all_streams"] > 0 for row in rows)
    assert (tmp_path / "engines.png").read_bytes().startswith(b"\x89PNG")
    text = report.text()
    assert text.startswith(f"# GPU report: {fake_gpu.NAME}")
    assert "- tiny, tensorrt int8: tiny version 1 has no file that tensorrt computes int8 from" in text


def test_wrong_answers_are_reported_and_not_measured(
    versions: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: object) -> None:
        raise LoadError("the golden images differ")

    monkeypatch.setattr(gpu_executors, "check_golden", wrong)
    lines = list(steps.examine_all(versions, tmp_path, GpuReport([])))
    assert "- tiny, tensorrt float32: **the golden images differ**" in lines
    assert not (tmp_path / "engines.json").exists()


@pytest.mark.slow
def test_other_runtimes_are_measured_after_a_crash(
    versions: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_own_process(function: Callable[[Kind], object], kind: Kind) -> object:
        return gpu_executors.in_own_process(os._exit, 3) if kind.executor == "onnxruntime-cuda" else function(kind)

    monkeypatch.setattr(steps, "in_own_process", in_own_process)
    report = GpuReport([])
    text = "\n".join(steps.examine_all(versions, tmp_path, report))
    assert "- tiny, tensorrt float32: golden images within" in text
    assert "- tiny, onnxruntime-cuda float32: ProcessFailed: the process ended without a result" in report.text()


@pytest.mark.slow
def test_hanging_process_is_killed() -> None:
    with pytest.raises(gpu_executors.ProcessFailed, match="no result within"):
        gpu_executors.in_own_process(wait_for_ever, None, 0.2)


def wait_for_ever(_: None) -> None:
    threading.Event().wait()


@pytest.mark.slow
@pytest.mark.skipif(why_not() is None, reason="this machine has a GPU")
def test_result_of_another_process_is_returned(tiny_repository: Path) -> None:
    with pytest.raises(ExecutorError, match="tensorrt needs an NVIDIA GPU: no NVIDIA driver"):
        gpu_executors.in_own_process(gpu_executors.load, Kind(tiny_repository / "tiny" / "1", "tensorrt", "float32"))


@pytest.mark.slow
def test_service_is_loaded_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_service, "_SECONDS", 0.3)
    monkeypatch.setattr(gpu_service, "_CLIENTS", (2,))
    image = steps.ROOT / "models" / "pretrained" / "examples" / "trouser.png"
    alone, many = gpu_service.load(Kind(steps.SHIPPED, "onnxruntime-cpu", "float32"), [image.read_bytes()])
    assert (alone.clients, alone.images) == (2, 1)
    assert many.images == 64
    for seen in (alone, many):
        assert seen.failed == 0
        assert seen.images_per_second > 0
        assert 0 < seen.p50_ms <= seen.p99_ms


@pytest.mark.slow
def test_service_with_another_executor_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_service, "_SECONDS", 0.1)
    kind = Kind(steps.SHIPPED, "tensorrt", "float32")  # for which there is no engine
    with pytest.raises(ServerFailed, match="the service took onnxruntime-cpu instead of tensorrt"):
        list(gpu_service.load(kind, [b"image"]))


def test_fastest_precision_is_served(tmp_path: Path) -> None:
    version = tmp_path / "model" / "1"
    kinds = [Kind(version, name, precision) for name in ("cuda", "tensorrt") for precision in PRECISIONS]
    rates: dict[Precision, float] = {"float32": 10.0, "float16": 30.0, "bfloat16": 20.0}
    rows = [
        GpuRow("model", "cuda", precision, batch, 1.0, 1.0, rate * batch)
        for precision, rate in rates.items()
        for batch in (1, 8)
    ]
    assert steps._fastest(kinds, rows) == [Kind(version, "cuda", "float16")]
    assert steps._fastest(kinds, []) == kinds


@pytest.mark.slow
def test_decoders_are_compared_and_timed(photographs: list[tuple[str, bytes]], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a decoder on the CPU in place of the one on the GPU."""
    pytest.importorskip("nvidia.nvimgcodec", reason="nvidia-nvimgcodec-cu13 is not installed")
    monkeypatch.setattr(gpu_decoder, "JpegDecoder", lambda gpu, most: JpegDecoder(None, most))
    monkeypatch.setattr(gpu_decoder, "_SECONDS", 0.01)
    monkeypatch.setattr(steps, "in_own_process", lambda function, argument, *_: function(argument))
    lines = list(steps.examine_decoder())
    count = len(photographs)
    assert lines[0].startswith(
        f"{count} of {count} photographs are decoded there; the pixels differ from Pillow's by 0"
    )
    assert [line.split(" | ")[:3] for line in lines[4:]] == [
        ["| GPU", str(threads), str(together)] for threads in (1, 2) for together in (1, 8, 32)
    ] + [["| CPUs", str(len(os.sched_getaffinity(0))), "1"]]


@pytest.mark.slow
def test_service_without_a_model_is_not_measured(tmp_path: Path) -> None:
    (tmp_path / "model" / "1").mkdir(parents=True)
    (tmp_path / "model" / "1" / "manifest.json").write_text("{}")
    with pytest.raises(ServerFailed, match=r"not ready: model: .*manifest\.json"):
        list(gpu_service.load(Kind(tmp_path / "model" / "1", "onnxruntime-cpu", "float32"), [b"image"]))
