"""The TensorRT executor on a fake GPU: engines from the cache, several GPUs, and every error.

That no native runtime ends the process cannot be faked, so it is tested in other processes.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from export.formats.tensorrt import build
from models.artifact import manifest
from models.artifact.manifest import Precision
from models.runtime import engine_cache, tensorrt_runtime
from models.runtime.engine_plan import BatchRange, ComputeCapability, Plan
from service import executors
from service.core.settings import Settings
from service.executors.base import DeviceLost, Executor, ExecutorError, compute
from service.executors.tensorrt import buckets
from tests.support import fake_gpu
from tests.support.fake_gpu import BATCHES, FakeGpu
from tests.support.service import serve
from tests.support.tiny import source_of

LOGITS = frozenset({"logits"})


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    return fake_gpu.install(monkeypatch, devices=2)


@pytest.fixture
def version(tiny_repository: Path) -> Path:
    return tiny_repository / "tiny" / "1"


def load(version: Path, cache: Path, name: str = "tensorrt:0", precision: Precision = "float32") -> list[Executor]:
    runtime = executors.find(name)
    return runtime.load(source_of(version, runtime, precision, cache))


def test_buckets_cover_the_profiles() -> None:
    assert buckets(BATCHES) == (1, 2, 4, 8, 16, 32)
    assert buckets((BatchRange(min=1, opt=24, max=48),)) == (1, 2, 4, 8, 16, 24, 32, 48)
    assert buckets((BatchRange(min=8, opt=8, max=8),)) == (8,)


def test_one_context_per_bucket_and_stream(gpu: FakeGpu, version: Path, tmp_path: Path) -> None:
    gpu.build_engines(version, tmp_path)
    (executor,) = load(version, tmp_path)
    assert len(gpu.tensorrt.contexts) == executor.concurrent_batches * len(executor.buckets)
    executor.close()
    assert gpu.cuda.allocations == 0


def test_missing_engine_is_an_error(gpu: FakeGpu, version: Path, tmp_path: Path) -> None:
    with pytest.raises(ExecutorError, match=r"no engine in float32 has been built for TensorRT 11\.4"):
        load(version, tmp_path)
    assert gpu.cuda.allocations == 0


def test_engine_of_another_gpu_is_not_loaded(gpu: FakeGpu, version: Path, tmp_path: Path) -> None:
    gpu.build_engines(version, tmp_path, compute_capability=ComputeCapability(8, 6), device="Another GPU")
    gpu.tensorrt.Runtime = None  # type: ignore[assignment]
    with pytest.raises(ExecutorError, match=r"built for .*8\.6.*, this machine has .*9\.0"):
        load(version, tmp_path)


def test_damaged_engine_is_not_loaded(gpu: FakeGpu, version: Path, tmp_path: Path) -> None:
    gpu.build_engines(version, tmp_path)
    (plan,) = tmp_path.glob("*/float32-*.plan")
    plan.write_bytes(plan.read_bytes()[:-1])
    gpu.tensorrt.Runtime = None  # type: ignore[assignment]
    with pytest.raises(ExecutorError, match="its content is not what was built"):
        load(version, tmp_path)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("deserialize_cuda_engine", "does not return an engine from float32-.*: Version tag does not match"),
        ("create_execution_context", "does not return a context"),
        ("execute_async_v3", "does not return a batch of 32"),
    ],
)
def test_refusal_of_tensorrt_is_an_executor_error(
    gpu: FakeGpu, function: str, message: str, version: Path, tmp_path: Path
) -> None:
    gpu.build_engines(version, tmp_path)
    gpu.tensorrt.refuse.add(function)
    with pytest.raises(ExecutorError, match=message):
        load(version, tmp_path)
    assert gpu.cuda.allocations == 0


def test_batches_are_enqueued_without_graphs(gpu: FakeGpu, version: Path, tmp_path: Path) -> None:
    gpu.build_engines(version, tmp_path)
    gpu.tensorrt.recordable = False
    (executor,) = load(version, tmp_path)
    gpu.cuda.calls.clear()
    with np.load(version / "golden.npz") as golden:
        answer = compute(executor, golden["images"], LOGITS)["logits"]
        np.testing.assert_allclose(answer, golden["logits"], atol=1e-4)
    assert "cudaGraphLaunch" not in gpu.cuda.calls


def test_service_continues_on_one_of_two_gpus(
    gpu: FakeGpu, tiny_repository: Path, version: Path, tmp_path: Path, photographs: list[tuple[str, bytes]]
) -> None:
    gpu.build_engines(version, tmp_path)
    settings = Settings(repository=tiny_repository, executor="tensorrt:0,1", cache=tmp_path, max_batch=8)
    with serve(settings) as client:
        assert 'resnet_devices{model="tiny"} 2.0' in client.get("/metrics").text
        expected = client.post("/v1/classify", content=photographs[0][1]).json()["results"]
        gpu.cuda.lost.add(0)
        for _ in range(20):  # until each thread of the lost device has had a batch
            answer = client.post("/v1/classify", content=photographs[0][1])
            assert answer.status_code == 200
            assert answer.json()["results"] == expected
        assert client.get("/readyz").json()["degraded"] == [
            "tiny: cuda:0 is lost: cudaStreamSynchronize: an illegal memory access was encountered (700)"
        ]


@pytest.mark.slow
def test_max_batch_above_the_engine_falls_back(
    gpu: FakeGpu, tiny_repository: Path, version: Path, tmp_path: Path
) -> None:
    gpu.build_engines(version, tmp_path)
    with serve(Settings(repository=tiny_repository, executor="tensorrt", cache=tmp_path, max_batch=33)) as client:
        (model,) = client.get("/v1/models").json()["models"]
        assert model["executor"] == "onnxruntime-cuda"  # whose largest bucket is 64
        assert "max_batch is 33, and the executor computes at most 32" in model["engine"]["reason"]


def test_lost_device_raises_device_lost(gpu: FakeGpu, version: Path, tmp_path: Path) -> None:
    gpu.build_engines(version, tmp_path)
    (executor,) = load(version, tmp_path)
    with np.load(version / "golden.npz") as golden:
        images = golden["images"][:1]
    gpu.cuda.lost.add(0)
    with pytest.raises(DeviceLost):
        compute(executor, images, LOGITS)


SERVICE = """
import asyncio, sys, time
from pathlib import Path
import numpy as np
from models.runtime import cuda_driver
from models.runtime.cuda_driver import Device
from models.runtime.engine_plan import ComputeCapability
from service.app import Service
from service.core.settings import Settings
from service.messages.inference import InferenceRequest

repository, cache, pretend = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

async def ask():
    service = Service(Settings(repository=repository, cache=cache, executor="tensorrt"))
    await service.start()
    with service.pipeline.lease() as model:
        image = np.zeros(model.preprocess.shape, np.uint8)
        request = InferenceRequest([image], frozenset({"logits"}), time.monotonic() + 60)
        result = await service.registry.submit(model.key, request)
        print(model.executor, result.outputs["logits"].shape, await service.registry.plan_status(model.key))
    await service.close()

if pretend:
    cuda_driver.devices = lambda: [Device("GPU", ComputeCapability(8, 9))]
if pretend == "cuda":  # so that the runtime itself is reached, without a driver
    from models.runtime.cuda import device as cuda
    from tests.support.fake_cuda import FakeRuntime
    cuda.runtime = FakeRuntime()
asyncio.run(ask())
"""
NEEDS_RTX = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx-cu13 is not installed")


def put_plan(cache: Path, version: Path, content: bytes, capability: tuple[int, int] = (8, 9)) -> None:
    """Put an engine for TensorRT for RTX into the cache, with a valid description of any content."""
    artifact = manifest.read(version).artifacts[0]
    plan = Plan(
        schema=1,
        onnx_sha256=artifact.sha256,
        precision="float32",
        flavour="tensorrt_rtx",
        version=tensorrt_runtime.load("tensorrt_rtx").__version__,
        compute_capability=ComputeCapability(*capability),
        device="GPU",
        batches=(BatchRange(min=1, opt=8, max=8),),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    engine_cache.write(cache, plan, content)


@NEEDS_RTX
@pytest.mark.parametrize(
    ("plan", "pretend", "message"),
    [
        ("none", "", "no NVIDIA driver"),
        ("fitting", "", "no NVIDIA driver"),
        ("fitting", "driver", "cudaSetDevice: CUDA driver version is insufficient"),
        ("foreign", "cuda", "built for TensorRT for RTX .* and compute capability 12.0"),
        ("fitting", "cuda", "TensorRT does not return"),
        ("garbage", "cuda", "TensorRT does not return"),
    ],
)
def test_no_native_runtime_ends_the_process(
    plan: str, pretend: str, message: str, tiny_repository: Path, version: Path, tmp_path: Path
) -> None:
    """With the real TensorRT for RTX, without a driver or with a driver that only seems to exist."""
    if plan == "garbage":
        put_plan(tmp_path, version, b"ftrt" + bytes(range(256)) * 64)
    elif plan != "none":
        engine = build(tensorrt_runtime.load("tensorrt_rtx"), version / "model.onnx")
        put_plan(tmp_path, version, engine.content, (12, 0) if plan == "foreign" else (8, 9))
    done = subprocess.run(
        [sys.executable, "-c", SERVICE, str(tiny_repository), str(tmp_path), pretend], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("onnxruntime-cpu (1, 5)")
    assert re.search(message, done.stdout), done.stdout
