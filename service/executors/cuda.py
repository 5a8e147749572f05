"""CUDA engines of this project: kernels, weights and a launch plan from the engine cache, on one GPU.

    manifest ──► driver ──► GPU ──► engine cache ──► kernels, weights ──► programs ──► graphs

It needs the NVIDIA driver and cuda-bindings, and no compiler: `resnet-export engines` has compiled the kernels. The
plan was checked when the file was read, and the kernels' parameters are checked when they are loaded, so no launch can
touch memory that the plan does not give it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, cast, get_args

from models.artifact.manifest import Precision
from models.runtime import cuda_driver
from models.runtime.cuda_driver import NoDevice
from models.runtime.cuda_engine import cache
from models.runtime.cuda_engine.file import CudaEngine
from models.runtime.cuda_engine.plan import LaunchPlan
from models.runtime.cuda_engine.plan import Precision as EnginePrecision
from models.runtime.engine_cache import EngineCacheError, PlanDamaged
from service.executors.base import ExecutorError, Source
from service.executors.gpu.streams import CudaExecutor, opened

if TYPE_CHECKING:
    from models.runtime.cuda.device import CudaDevice
    from models.runtime.cuda.program import LoadedEngine

ARTIFACTS: Mapping[Precision, tuple[str, Precision]] = {
    "float16": ("onnx", "float32"),
    "bfloat16": ("onnx", "float32"),
    "int8": ("onnx", "int8"),
}
DEVICE = "gpu"


class CudaEngineExecutor(CudaExecutor):
    """Runs the engine that was built for the architecture of a GPU; `argument` is the number of the GPU.

    Raises:
        ExecutorError: there is no GPU, no engine for it, or the driver does not load the engine.
    """

    def __init__(self, source: Source) -> None:
        refusals = NoDevice, EngineCacheError, RuntimeError  # cuda-bindings raise it if the driver lacks a function
        with opened("cuda", source.argument, *refusals) as device:
            engine = _find(source, device.index)
            _check_signature(engine.plan, source)
            super().__init__(device, engine.plan.batches)
            self.plan = engine.plan
            loaded = _load(device, engine)
            self._open_streams(source.manifest.preprocess.shape, lambda stream: CudaProgram(device, stream, loaded))


class CudaProgram:
    """The launches of each batch size on one stream."""

    capturable = True

    def __init__(self, device: CudaDevice, stream: int, engine: LoadedEngine) -> None:
        self._device = device
        self._stream = stream
        self._engine = engine
        self.outputs: Mapping[str, tuple[int, ...]] = {output.name: output.row for output in engine.plan.outputs}
        self.launches: dict[int, Sequence[Callable[[], None]]] = {}
        """Functions that enqueue one kernel each, in the order of the plan, by batch size."""

    def bind(self, rows: int, addresses: Mapping[str, int]) -> Callable[[], None]:
        from models.runtime.cuda.program import PlacedProgram  # its bindings need not be installed without a GPU

        program = next(program for program in self._engine.plan.programs if program.batch == rows)
        placed = PlacedProgram(self._device, self._stream, self._engine, program, addresses)
        self.launches[rows] = placed.launches

        def enqueue() -> None:
            for launch in placed.launches:
                launch()

        return enqueue


def _load(device: CudaDevice, engine: CudaEngine) -> LoadedEngine:
    from models.runtime.cuda.program import LoadedEngine

    cubins = [engine.cubin(number) for number in range(len(engine.plan.cubins))]
    return LoadedEngine(device, engine.plan, cubins, engine.weights)


def _find(source: Source, index: int) -> CudaEngine:
    """The engine of a version for a GPU."""
    if source.precision not in get_args(EnginePrecision):
        raise ExecutorError(f"cuda does not compute in {source.precision}")
    precision = cast(EnginePrecision, source.precision)
    capability = cuda_driver.device(index).compute_capability
    return cache.find(source.cache, source.artifact.sha256, precision, capability)


def _check_signature(plan: LaunchPlan, source: Source) -> None:
    """Check that an engine has the images and outputs of a version."""
    image, outputs = tuple(source.manifest.preprocess.shape), tuple(output.name for output in plan.outputs)
    if plan.image != image or set(outputs) != set(source.manifest.outputs):
        raise PlanDamaged(
            f"the engine takes images of {plan.image} and gives {', '.join(outputs)}, the version {image} and "
            f"{', '.join(source.manifest.outputs)}: build it again"
        )


EXECUTOR = CudaEngineExecutor
