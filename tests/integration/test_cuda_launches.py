"""Compiled engines on a fake driver, which reads their cubins: launches follow the plan. Kernels do not compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from models.artifact.manifest import Precision
from models.runtime.cuda_engine import cache as cuda_cache
from models.runtime.cuda_engine.file import CudaEngine
from service import executors
from service.executors.base import compute
from tests.support import fake_gpu, tiny
from tests.support.fake_cubins import Compute, Launched, Observer
from tests.support.fake_gpu import FakeGpu
from tests.support.followed_plan import FollowedPlan
from tests.support.interpreter.process import AVAILABLE, WHY_NOT
from tests.support.tiny import source_of

VERSION = tiny.FOLDER / tiny.REPOSITORY / "tiny" / "1"
FILES: dict[Precision, str] = {"float16": "model.onnx", "int8": "model.int8.onnx"}
BATCHES = (1, 4)

pytestmark = pytest.mark.skipif(not AVAILABLE, reason=WHY_NOT)


@pytest.fixture(scope="module", params=FILES)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CudaEngine]:
    """An engine for compute capability 9.0."""
    from export.kernels.build import build

    precision: Precision = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield build(VERSION / FILES[precision], precision, "sm_90", BATCHES)  # type: ignore[arg-type]


@pytest.mark.slow
def test_executor_launches_compiled_engines(
    engine: CudaEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = fake_gpu.install(monkeypatch)
    gpu.driver.observer = followed = FollowedPlan(gpu.cuda, engine)
    cuda_cache.write(tmp_path, engine)
    runtime = executors.find("cuda:0")
    (executor,) = runtime.load(source_of(VERSION, runtime, engine.plan.precision, tmp_path))
    assert {batch for _, batch in followed.passes} == set(BATCHES)
    assert len({stream for stream, _ in followed.passes}) == executor.concurrent_batches
    launches = sum(len(program.launches) for program in engine.plan.programs)
    assert len(gpu.driver.launches) == 2 * executor.concurrent_batches * launches  # run once, and captured
    answer = compute(executor, np.zeros((3, *engine.plan.image), np.uint8), frozenset({"logits"}))
    assert answer["logits"].shape == (3, 5)
    executor.close()
    assert (gpu.cuda.allocations, gpu.driver.loaded) == (0, 0)


class _Clock(Observer):
    """A launch takes a microsecond per block."""

    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu

    def enqueued(self, launched: Launched) -> Callable[[Compute], None]:
        def run(compute: Compute) -> None:
            self._gpu.cuda.clock += 0.001 * launched.grid[0]

        return run


@pytest.mark.slow
@pytest.mark.parametrize("precision", FILES)
def test_compiled_candidates_are_measured(
    precision: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver reads the parameters of their cubins, and encodes their tensor maps."""
    from export.kernels.build import build
    from export.kernels.measuring import measuring
    from export.kernels.measuring.candidates import candidates

    gpu = fake_gpu.install(monkeypatch)
    gpu.driver.observer = _Clock(gpu)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    monkeypatch.setattr(measuring, "candidates", lambda problem, wanted: candidates(problem, wanted)[:4])
    arguments = VERSION / FILES[precision], precision, "sm_90", BATCHES
    engine = build(*arguments, measuring.Measuring(tmp_path))  # type: ignore[arg-type]
    measured = [
        (launch.tile_origin.microseconds, launch.grid[0])
        for program in engine.plan.programs
        for launch in program.launches
        if launch.tile_origin is not None
    ]
    assert len(measured) == len(BATCHES) * sum(layer.kind.startswith("convolution") for layer in engine.plan.layers)
    assert all(microseconds == pytest.approx(blocks) for microseconds, blocks in measured)
    assert any(launched.name == "convolution_tma" for launched in gpu.driver.launches)
    cuda_cache.write(tmp_path, engine)
    gpu.driver.observer = followed = FollowedPlan(gpu.cuda, engine)
    runtime = executors.find("cuda:0")
    (executor,) = runtime.load(source_of(VERSION, runtime, precision, tmp_path))
    assert {batch for _, batch in followed.passes} == set(BATCHES)
    executor.close()
    assert (gpu.cuda.allocations, gpu.driver.loaded) == (0, 0)


@pytest.mark.slow
def test_cubin_of_another_gpu_is_refused(engine: CudaEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = fake_gpu.install(monkeypatch)
    gpu.cuda.capability = (8, 0)
    status, _ = gpu.driver.cuLibraryLoadData(bytes(engine.cubin(0)), [], [], 0, [], [], 0)
    assert status.name == "CUDA_ERROR_NO_BINARY_FOR_GPU"
