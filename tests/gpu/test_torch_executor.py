"""PyTorch on a fake GPU: the default device, captured graphs, the order in which objects are freed, and errors."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch

from export.build import build
from models.artifact import parity
from models.artifact.golden import read as golden_of
from models.artifact.manifest import GOLDEN_FILE
from models.runtime.cuda import device as cuda
from service import executors
from service.executors.base import DeviceLost, Executor, ExecutorError, compute
from tests.support import fake_gpu
from tests.support.fake_cuda import FakeRuntime
from tests.support.fake_gpu import FakeGpu
from tests.support.fake_torch import FakeTorch
from tests.support.networks import make_checkpoint
from tests.support.tiny import Golden, source_of

LOGITS = frozenset({"logits"})


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    return fake_gpu.install(monkeypatch)


def load(repository: Path, name: str = "torch:0") -> Executor:
    runtime = executors.find(name)
    return runtime.make(source_of(repository / "tiny" / "1", runtime))


def parameters(function: object) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]  # type: ignore[arg-type]


def test_the_fake_has_the_signatures_of_the_real_one() -> None:
    mine, theirs = FakeTorch(FakeRuntime()), torch
    names = set(vars(mine.cuda)) - {"ExternalStream", "CUDAGraph"}
    assert len(names) == 6
    for name in names:
        found = parameters(getattr(mine.cuda, name))
        assert found == parameters(getattr(theirs.cuda, name))[: len(found)], name
    assert parameters(mine.cuda.ExternalStream) == parameters(theirs.cuda.ExternalStream.__new__)[:2]
    assert parameters(mine.cuda.CUDAGraph.replay) == parameters(theirs.cuda.CUDAGraph.replay)
    assert theirs.version.cuda is None or theirs.version.cuda.startswith("1")
    for name in ("cudnn_convolution_relu", "cudnn_convolution_add_relu"):
        schema = getattr(theirs.ops.aten, name).default._schema
        mine_too = [name for name in parameters(getattr(mine, name)) if name != "geometry"]
        assert len(mine_too) + len(("stride", "padding", "dilation", "groups")) == len(schema.arguments)
        assert mine_too[1:] == [argument.name for argument in schema.arguments][1 : len(mine_too)]
    assert isinstance(theirs.backends.cudnn.allow_tf32, bool)


@pytest.mark.parametrize(("available", "device"), [(True, "cuda:0"), (False, "cpu")])
def test_default_device_is_a_gpu_if_pytorch_can_use_one(
    available: bool, device: str, gpu: FakeGpu, tiny_repository: Path
) -> None:
    gpu.torch.cuda.is_available = lambda: available
    executor = load(tiny_repository, "torch")
    assert executor.device == device
    executor.close()


@pytest.mark.slow
def test_one_graph_per_bucket_and_stream_and_no_tf32(gpu: FakeGpu, tiny_repository: Path) -> None:
    executor = load(tiny_repository)
    assert len(gpu.torch.graphs) == executor.concurrent_batches * len(executor.buckets)
    assert gpu.torch.backends.cudnn.allow_tf32 is False
    executor.close()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-20, whose nine blocks have two shortcuts that only pad and stride."""
    folder = tmp_path_factory.mktemp("torch")
    make_checkpoint("resnet20", size=32).save(folder / "resnet20.safetensors")
    build(folder / "resnet20.safetensors", folder / "repository", "tiny")
    return folder / "repository"


@pytest.mark.slow
def test_every_residual_addition_is_fused(gpu: FakeGpu, repository: Path) -> None:
    executor = load(repository)
    passes = gpu.torch.fused["add_relu"] // 9
    # The stem, and the first convolution of each block.
    assert gpu.torch.fused == {"add_relu": 9 * passes, "relu": 10 * passes}
    assert passes > executor.concurrent_batches * len(executor.buckets)
    executor.close()


@pytest.mark.slow
def test_convolution_without_a_fused_kernel_is_computed(gpu: FakeGpu, repository: Path) -> None:
    gpu.torch.fuses = False
    executor = load(repository)
    images, logits = golden_of(repository / "tiny" / "1" / GOLDEN_FILE)
    parity.check(compute(executor, images, LOGITS)["logits"], logits, "float32")
    assert not gpu.torch.fused
    executor.close()


def test_graphs_are_freed_before_their_memory(
    gpu: FakeGpu, tiny_repository: Path, golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = load(tiny_repository)
    compute(executor, golden[0], LOGITS)
    left: list[int] = []
    close = cuda.CudaDevice.close

    def count_and_close(device: cuda.CudaDevice) -> None:
        left.append(len(gpu.torch.graphs))
        close(device)

    monkeypatch.setattr(cuda.CudaDevice, "close", count_and_close)
    executor.close()
    assert left == [0]
    assert gpu.torch.emptied
    assert gpu.cuda.allocations == 0


def test_pytorch_without_cuda_is_an_error(gpu: FakeGpu, tiny_repository: Path) -> None:
    gpu.torch.version.cuda = None
    with pytest.raises(ExecutorError, match="torch:0 needs a PyTorch that is built for CUDA"):
        load(tiny_repository)


def test_error_of_pytorch_is_an_executor_error(
    gpu: FakeGpu, tiny_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gpu.torch.cuda, "graph", refuse)
    with pytest.raises(ExecutorError, match="torch: CUDA out of memory"):
        load(tiny_repository)
    assert gpu.cuda.allocations == 0


def test_lost_device_raises_device_lost(
    gpu: FakeGpu, tiny_repository: Path, golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = load(tiny_repository)
    gpu.cuda.lost.add(0)
    with pytest.raises(DeviceLost, match="illegal memory access"):
        compute(executor, golden[0], LOGITS)

    def refuse() -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(gpu.torch.cuda, "empty_cache", refuse)
    executor.close()
