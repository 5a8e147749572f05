"""The cuDNN baseline on a fake GPU, against ONNX Runtime: its logits, the fused kernels, the graphs, and errors."""

from __future__ import annotations

import inspect
from contextlib import closing
from pathlib import Path

import onnx
import pytest
import torch
from onnx import helper

from benchmarks.cudnn_baseline import executor as cudnn_baseline
from benchmarks.cudnn_baseline.executor import CudnnExecutor
from benchmarks.cudnn_baseline.network import Network
from export.formats import onnx as onnx_format
from export.graph import ServingGraph
from export.samples import photographs
from export.verify import OnnxRunner
from models.artifact import manifest, parity
from models.artifact.manifest import OUTPUTS
from service.executors.base import ExecutorError, compute
from tests.support import fake_gpu, fake_torch
from tests.support.fake_cuda import FakeRuntime
from tests.support.fake_gpu import FakeGpu
from tests.support.fake_torch import FakeTorch
from tests.support.networks import make_checkpoint
from tests.support.tiny import Golden

CPU = torch.device("cpu")
LOGITS = frozenset({"logits"})
ADDITIONS = {"resnet20": 9, "resnet18d": 8, "preact-resnet20": 0}
"""Residual additions with a ReLU behind them; a pre-activation block has a normalisation there."""
RELUS = {"resnet20": 1 + 9, "resnet18d": 3 + 8, "preact-resnet20": 1 + 9}
"""ReLUs behind a single convolution: of the stem, and of the first convolution of each block."""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    return fake_gpu.install(monkeypatch)


@pytest.fixture
def pytorch(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> FakeTorch:
    monkeypatch.setattr(cudnn_baseline, "BATCHES", (1, 16))
    return fake_torch.install(monkeypatch, gpu.cuda)


def write(arch: str, folder: Path) -> Path:
    """The float16 file of a network of 32 x 32 pixels."""
    checkpoint = make_checkpoint(arch)
    graph = ServingGraph(checkpoint.model(), checkpoint.preprocess, 1.25, torch.float16, OUTPUTS)
    onnx_format.write(graph, checkpoint.preprocess, folder / "model.fp16.onnx")
    return folder / "model.fp16.onnx"


def check(network: Network, path: Path, arch: str) -> None:
    images = photographs(make_checkpoint(arch).preprocess)[:8]
    logits = network(torch.from_numpy(images.copy()))["logits"].numpy()
    parity.check(logits, OnnxRunner(path).logits(images), "float16")


def parameters(function: object) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]  # type: ignore[arg-type]


def test_the_fake_has_the_signatures_of_the_real_one() -> None:
    mine, theirs = FakeTorch(FakeRuntime()), torch
    names = set(vars(mine.cuda)) - {"ExternalStream", "CUDAGraph"}
    assert len(names) == 4
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


@pytest.mark.slow
@pytest.mark.parametrize("arch", ADDITIONS)
def test_network_gives_the_logits_of_its_file(arch: str, pytorch: FakeTorch, tmp_path: Path) -> None:
    """Those of ONNX Runtime, with every addition and ReLU behind a convolution in its kernel."""
    path = write(arch, tmp_path)
    check(Network(path, OUTPUTS, CPU), path, arch)
    assert (pytorch.fused["add_relu"], pytorch.fused["relu"]) == (ADDITIONS[arch], RELUS[arch])


def test_convolution_without_a_fused_kernel_is_computed(pytorch: FakeTorch, tmp_path: Path) -> None:
    pytorch.fuses = False
    path = write("resnet20", tmp_path)
    check(Network(path, OUTPUTS, CPU), path, "resnet20")
    assert not pytorch.fused


def test_executor_gives_the_logits_of_the_file(pytorch: FakeTorch, full_repository: Path, golden: Golden) -> None:
    version = full_repository / "tiny" / "1"
    with closing(CudnnExecutor(version)) as executor:
        assert len(pytorch.graphs) == executor.concurrent_batches * len(executor.buckets)
        logits = compute(executor, golden[0], LOGITS)["logits"]
    parity.check(logits, OnnxRunner(version / "model.fp16.onnx").logits(golden[0]), "float16")
    error = parity.compare(logits, OnnxRunner(version / "model.onnx").logits(golden[0])).logit_error
    assert error > 1e-4  # it computes in float16
    assert not pytorch.graphs


def test_memory_is_freed_after_a_failed_capture(
    gpu: FakeGpu, pytorch: FakeTorch, full_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(pytorch.cuda, "graph", refuse)
    with pytest.raises(ExecutorError, match="cuDNN baseline: CUDA out of memory"):
        CudnnExecutor(full_repository / "tiny" / "1")
    assert gpu.cuda.allocations == 0


def test_pytorch_without_cuda_is_an_error(pytorch: FakeTorch, full_repository: Path) -> None:
    pytorch.version.cuda = None
    with pytest.raises(ExecutorError, match="the cuDNN baseline needs a PyTorch that is built for CUDA"):
        CudnnExecutor(full_repository / "tiny" / "1")


def test_version_without_a_float16_file_is_an_error(pytorch: FakeTorch, tiny_repository: Path) -> None:
    version = tiny_repository / "tiny" / "1"
    assert "float16" not in {artifact.precision for artifact in manifest.read(version).artifacts}
    with pytest.raises(ExecutorError, match=r"no file in float16 .* export it again with --float16"):
        CudnnExecutor(version)


def test_unknown_operator_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("Erf", ["images"], ["logits"])
    onnx.save(helper.make_model(helper.make_graph([node], "g", [], [])), tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="does not compute the operator Erf"):
        Network(tmp_path / "model.onnx", ["logits"], CPU)
