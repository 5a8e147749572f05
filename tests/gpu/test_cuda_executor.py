"""The executor of CUDA engines on a fake GPU: right answers by the plan's launches, and every refusal."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda.bindings import driver

from models.artifact import manifest
from models.artifact.manifest import Precision
from models.runtime.cuda_driver import Device
from models.runtime.cuda_engine import plan as plans
from models.runtime.cuda_engine.file import decode, encode
from models.runtime.engine_plan import ComputeCapability
from service import executors
from service.executors.base import DeviceLost, Executor, ExecutorError, compute
from tests.support import fake_gpu
from tests.support.fake_cubins import CubinDriver, cubin
from tests.support.fake_gpu import FakeGpu
from tests.support.followed_plan import FollowedPlan
from tests.support.onnx_engine import BATCHES, build_engine, functions, write_engine
from tests.support.tiny import source_of

LOGITS = frozenset({"logits"})


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    return fake_gpu.install(monkeypatch)


@pytest.fixture
def version(tiny_repository: Path) -> Path:
    return tiny_repository / "tiny" / "1"


def load(version: Path, cache: Path, precision: Precision = "float16", name: str = "cuda:0") -> Executor:
    runtime = executors.find(name)
    (executor,) = runtime.load(source_of(version, runtime, precision, cache))
    return executor


def golden(version: Path) -> tuple[Any, Any]:
    with np.load(version / "golden.npz") as arrays:
        return arrays["images"], arrays["logits"]


def test_fake_has_the_signatures_of_the_real_driver() -> None:
    names = [name for name in vars(CubinDriver) if name.startswith("cu")]
    assert {"cuLaunchKernel", "cuLibraryLoadData", "cuKernelGetParamInfo"} <= set(names)
    for name in names:
        mine = [
            each for each in inspect.signature(getattr(CubinDriver, name)).parameters.values() if each.name != "self"
        ]
        theirs = list(inspect.signature(getattr(driver, name)).parameters)
        named = [each.name for each in mine if each.kind is not inspect.Parameter.VAR_POSITIONAL]
        assert named == theirs[: len(named)] and len(named) in (len(theirs), len(mine) - 1), name


def test_answers_are_right_in_every_batch_size(gpu: FakeGpu, version: Path, tmp_path: Path) -> None:
    """Padded and full batches on both streams, by launches that follow the plan."""
    write_engine(tmp_path, version)
    gpu.driver.observer = FollowedPlan(gpu.cuda, build_engine(version))
    executor = load(version, tmp_path)
    assert (executor.device, tuple(executor.buckets)) == ("cuda:0", BATCHES)
    images, logits = golden(version)
    for _ in range(executor.concurrent_batches):
        for size in (1, 2, 4, 7, 32):
            order = np.arange(size) % len(images)
            answer = compute(executor, images[order], LOGITS)["logits"]
            np.testing.assert_allclose(answer, logits[order], atol=1e-4)
    executor.close()
    assert (gpu.cuda.allocations, gpu.driver.loaded) == (0, 0)


def test_all_outputs_are_those_of_the_version(gpu: FakeGpu, version: Path, tmp_path: Path) -> None:
    write_engine(tmp_path, version)
    names = frozenset(manifest.read(version).outputs)
    images, logits = golden(version)
    answer = compute(load(version, tmp_path), images[:2], names)
    assert answer.keys() == names
    np.testing.assert_allclose(answer["probabilities"].sum(axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(answer["logits"], logits[:2], atol=1e-4)


def test_each_batch_size_is_captured_once(gpu: FakeGpu, version: Path, tmp_path: Path) -> None:
    """A stream runs each program once to load it, and captures it; after that only graphs are launched."""
    write_engine(tmp_path, version)
    gpu.driver.observer = followed = FollowedPlan(gpu.cuda, build_engine(version))
    executor = load(version, tmp_path)
    streams = {stream for stream, _ in followed.passes}
    assert len(streams) == executor.concurrent_batches
    assert sorted(followed.passes) == sorted((stream, batch) for stream in streams for batch in BATCHES * 2)
    launched = len(gpu.driver.launches)
    gpu.cuda.calls.clear()
    compute(executor, golden(version)[0][:3], LOGITS)
    assert len(gpu.driver.launches) == launched
    assert gpu.cuda.calls.count("cudaGraphLaunch") == 1


def test_memory_outside_of_the_plan_is_noticed(gpu: FakeGpu, version: Path, tmp_path: Path) -> None:
    """The observer itself: a kernel that writes behind its pointer fails."""
    write_engine(tmp_path, version)
    gpu.driver.observer = FollowedPlan(gpu.cuda, build_engine(version))

    def prepare(launched: Any) -> None:
        launched.memory(launched.address(1) - 1, 1)

    gpu.driver.functions.update(functions(prepare=prepare))
    with pytest.raises(AssertionError, match="touches memory that the plan does not give it"):
        load(version, tmp_path)


@pytest.mark.parametrize(("precision", "source"), [("float16", "float32"), ("bfloat16", "float32"), ("int8", "int8")])
def test_engine_is_found_by_the_file_that_it_was_built_from(precision: Precision, source: str) -> None:
    assert executors.find("cuda:0").artifacts[precision] == ("onnx", source)


def test_float32_is_for_other_executors(version: Path) -> None:
    with pytest.raises(ExecutorError, match="cuda does not compute in float32"):
        source_of(version, executors.find("cuda:0"), "float32")


def test_missing_engine_is_an_error(gpu: FakeGpu, version: Path, tmp_path: Path) -> None:
    write_engine(tmp_path, version, "bfloat16")
    with pytest.raises(ExecutorError, match=r"cuda: no CUDA engine in float16 .* for compute capability 9\.0"):
        load(version, tmp_path)
    assert gpu.cuda.allocations == 0


def test_engine_of_another_architecture_is_not_loaded(gpu: FakeGpu, version: Path, tmp_path: Path) -> None:
    write_engine(tmp_path, version, architecture="sm_80")
    with pytest.raises(ExecutorError, match=r"float16-sm80-cuda2\.engine: built for other GPUs, this one has 9\.0"):
        load(version, tmp_path)
    assert gpu.driver.loaded == 0


def test_engine_of_another_version_of_the_format_is_not_loaded(
    gpu: FakeGpu, version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_engine(tmp_path, version)
    other = path.rename(path.with_name("float16-sm90-cuda7.engine"))
    with pytest.raises(ExecutorError, match="no CUDA engine in float16 has been built"):
        load(version, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(plans, "VERSION", 7)
        path.write_bytes(encode(build_engine(version)))  # under the name of this version
    other.unlink()
    with pytest.raises(ExecutorError, match=r"has version 7 of the format, not 2: build it again"):
        load(version, tmp_path)


def test_engine_under_the_name_of_another_is_not_loaded(gpu: FakeGpu, version: Path, tmp_path: Path) -> None:
    path = write_engine(tmp_path, version, "bfloat16")
    path.rename(path.with_name(path.name.replace("bfloat16", "float16")))
    with pytest.raises(ExecutorError, match="is the engine of another file, precision or GPU"):
        load(version, tmp_path)


@pytest.mark.parametrize("place", [0, 20, 100, -1], ids=["magic", "lengths", "plan", "code"])
def test_damaged_engine_is_not_loaded(gpu: FakeGpu, version: Path, tmp_path: Path, place: int) -> None:
    path = write_engine(tmp_path, version)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(ExecutorError, match=r"float16-sm90-cuda2\.engine: damaged: .*: build it again"):
        load(version, tmp_path)
    assert (gpu.cuda.allocations, gpu.driver.loaded) == (0, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cuda": 14000}, "cuLibraryLoadData: CUDA_ERROR_NO_BINARY_FOR_GPU"),
        ({"code": b"\x7fELF damaged"}, "cuLibraryLoadData: CUDA_ERROR_INVALID_IMAGE"),
        ({"code": cubin("sm_80", {})}, "cuLibraryLoadData: CUDA_ERROR_NO_BINARY_FOR_GPU"),
        ({"code": cubin("sm_90", {})}, "cuLibraryGetKernel: CUDA_ERROR_NOT_FOUND"),
        (
            {"code": cubin("sm_90", {"prepare": [8, 8, 4, 4, 4, 4]})},
            r"the kernel prepare has parameters of \[8, 8, 4, 4, 4, 4\] bytes, not \[8, 8, 4, 4, 4, 4, 8\]",
        ),
    ],
    ids=["newer driver", "no code", "code for another GPU", "no function", "other parameters"],
)
def test_refusal_of_the_driver_is_an_executor_error(
    gpu: FakeGpu, version: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """Nothing is launched, and nothing stays allocated."""
    write_engine(tmp_path, version, **changes)
    with pytest.raises(ExecutorError, match=message):
        load(version, tmp_path)
    assert (gpu.cuda.allocations, gpu.driver.loaded, gpu.driver.launches) == (0, 0, [])


@pytest.mark.parametrize(("capability", "fits"), [((9, 0), True), ((8, 6), False)], ids=str)
def test_shared_memory_of_a_block_is_that_of_the_gpu(
    gpu: FakeGpu,
    version: Path,
    tmp_path: Path,
    capability: tuple[int, int],
    fits: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu.cuda.capability = capability
    device = Device("Fake GPU", ComputeCapability(*capability))
    monkeypatch.setattr("models.runtime.cuda_driver.devices", lambda: [device])
    path = write_engine(tmp_path, version, architecture=f"sm_{capability[0]}{capability[1]}")
    first, second = decode(path.read_bytes()).plan.kernels
    assert second.binary is not None
    binary = second.binary.model_copy(update={"shared_bytes": 227 * 1024})
    rewrite(path, kernels=(first, second.model_copy(update={"binary": binary})))
    if fits:
        load(version, tmp_path).close()
    else:
        with pytest.raises(ExecutorError, match="cuFuncSetAttribute: CUDA_ERROR_INVALID_VALUE"):
            load(version, tmp_path)
    assert gpu.driver.loaded == 0


def rewrite(path: Path, **changes: Any) -> None:
    """Give the plan of an engine other parts."""
    engine = decode(path.read_bytes())
    path.write_bytes(encode(type(engine)(engine.plan.model_copy(update=changes), engine.data)))


def test_driver_without_tensor_maps_is_refused(gpu: FakeGpu, version: Path, tmp_path: Path) -> None:
    write_engine(tmp_path, version, cuda=11000)
    gpu.driver.cuda = 11080
    with pytest.raises(ExecutorError, match="cuGetProcAddress: CUDA_ERROR_NOT_FOUND"):
        load(version, tmp_path)


def test_engine_with_other_outputs_is_refused(gpu: FakeGpu, version: Path, tmp_path: Path) -> None:
    path = write_engine(tmp_path, version)
    rewrite(path, outputs=renamed(decode(path.read_bytes()).plan.outputs), programs=renamed_programs(path))
    with pytest.raises(ExecutorError, match="the engine takes images of"):
        load(version, tmp_path)


def renamed(outputs: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(
        output.model_copy(update={"name": "another"}) if output.name == "embedding" else output for output in outputs
    )


def renamed_programs(path: Path) -> tuple[Any, ...]:
    programs = decode(path.read_bytes()).plan.programs
    return tuple(program.model_copy(update={"buffers": renamed(program.buffers)}) for program in programs)


def test_lost_device_is_reported(gpu: FakeGpu, version: Path, tmp_path: Path) -> None:
    write_engine(tmp_path, version)
    executor = load(version, tmp_path)
    gpu.cuda.lost.add(0)
    with pytest.raises(DeviceLost, match="illegal memory access"):
        compute(executor, golden(version)[0][:1], LOGITS)
    executor.close()


def test_graph_that_cannot_be_captured_is_launched_kernel_by_kernel(
    gpu: FakeGpu, version: Path, tmp_path: Path
) -> None:
    write_engine(tmp_path, version)
    enqueue = gpu.cuda.enqueue

    def refuse(stream: int, work: Any) -> None:
        gpu.cuda.refuse_recording(stream)
        enqueue(stream, work)

    gpu.cuda.enqueue = refuse  # type: ignore[method-assign]
    executor = load(version, tmp_path)
    images, logits = golden(version)
    answer = compute(executor, images[:2], LOGITS)["logits"]
    np.testing.assert_allclose(answer, logits[:2], atol=1e-4)
    assert "cudaGraphLaunch" not in gpu.cuda.calls
