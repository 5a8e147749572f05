"""ONNX Runtime on a fake GPU: its options, the capture of its graphs, and batches without graphs."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from service import executors
from service.executors.base import Executor, ExecutorError, compute
from tests.support import fake_gpu
from tests.support.fake_gpu import FakeGpu
from tests.support.tiny import Golden, source_of

LOGITS = frozenset({"logits"})


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    return fake_gpu.install(monkeypatch)


def load(repository: Path) -> Executor:
    runtime = executors.find("onnxruntime-cuda:0")
    return runtime.make(source_of(repository / "tiny" / "1", runtime))


def test_each_session_has_a_stream_and_no_tf32(gpu: FakeGpu, tiny_repository: Path) -> None:
    executor = load(tiny_repository)
    assert len({options["user_compute_stream"] for options in gpu.onnxruntime.options}) == executor.concurrent_batches
    for options in gpu.onnxruntime.options:
        assert (options["device_id"], options["enable_cuda_graph"], options["use_tf32"]) == ("0", "1", "0")
    executor.close()


def test_graphs_are_captured_before_the_first_batch_for_every_thread(
    gpu: FakeGpu, tiny_repository: Path, golden: Golden
) -> None:
    executor = load(tiny_repository)
    recorded = gpu.onnxruntime.recorded
    assert sorted(recorded) == sorted(str(bucket) for bucket in [*executor.buckets] * executor.concurrent_batches)
    before = len(recorded)
    for _ in range(3):
        with ThreadPoolExecutor(4) as pool:
            for answer in pool.map(lambda n: compute(executor, golden[0][:n], LOGITS)["logits"], [1, 3, 8, 16]):
                np.testing.assert_allclose(answer, golden[1][: len(answer)], atol=1e-4)
    assert len(recorded) == before
    executor.close()


@pytest.mark.parametrize("refused", [{"capturable": False}, {"recording_fails": True}], ids=str)
def test_without_graphs_kernels_are_enqueued(
    refused: dict[str, bool],
    gpu: FakeGpu,
    tiny_repository: Path,
    golden: Golden,
    caplog: pytest.LogCaptureFixture,
) -> None:
    vars(gpu.onnxruntime).update(refused)
    with caplog.at_level(logging.WARNING):
        executor = load(tiny_repository)
    assert "model.onnx runs without CUDA graphs" in caplog.text
    assert gpu.onnxruntime.recorded == []
    np.testing.assert_allclose(compute(executor, golden[0], LOGITS)["logits"], golden[1], atol=1e-4)
    executor.close()
    assert gpu.cuda.allocations == 0


def test_error_of_the_runtime_is_an_executor_error(
    gpu: FakeGpu, tiny_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("out of memory")

    monkeypatch.setattr(fake_gpu._Session, "run_with_iobinding", refuse)
    with pytest.raises(ExecutorError, match="onnxruntime-cuda: out of memory"):
        load(tiny_repository)
    assert gpu.cuda.allocations == 0


def test_missing_cudnn_is_an_error(gpu: FakeGpu, tiny_repository: Path) -> None:
    gpu.onnxruntime.loads_cuda = False
    with pytest.raises(ExecutorError, match="CUDA 13 or cuDNN 9 is missing"):
        load(tiny_repository)
    assert gpu.cuda.allocations == 0


def test_package_without_cuda_is_an_error(gpu: FakeGpu, tiny_repository: Path) -> None:
    gpu.onnxruntime.providers = ("CPUExecutionProvider",)
    with pytest.raises(ExecutorError, match="onnxruntime-gpu instead of onnxruntime"):
        load(tiny_repository)
