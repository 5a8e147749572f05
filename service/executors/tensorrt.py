"""TensorRT, or TensorRT for RTX if only that is installed: engines from the engine cache, on one GPU.

    manifest ──► driver ──► version and GPU ──► engine cache ──► runtime ──► contexts ──► graphs

Each step checks its condition before the next one: without a driver, or with a plan for another GPU, a TensorRT runtime
ends the process or reports an unhelpful error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from models.artifact.manifest import INPUT, Precision
from models.runtime import cuda_driver, engine_cache, tensorrt_runtime
from models.runtime.cuda_driver import NoDevice
from models.runtime.engine_cache import EngineCacheError
from models.runtime.engine_plan import BatchRange, Plan
from models.runtime.tensorrt_runtime import NoTensorRT
from service.executors.base import Source
from service.executors.gpu.streams import CudaExecutor, opened

if TYPE_CHECKING:
    from models.runtime.cuda.device import CudaDevice

ARTIFACTS: Mapping[Precision, tuple[str, Precision]] = {
    "float32": ("onnx", "float32"),
    "float16": ("onnx", "float16"),
    "int8": ("onnx", "int8"),
}
DEVICE = "gpu"


class TensorRTError(Exception):
    """A function of TensorRT returned None or False; the message has the reason from its log."""


class TensorRtExecutor(CudaExecutor):
    """Runs an engine that was built for this machine; `argument` is the number of the GPU.

    Raises:
        ExecutorError: there is no GPU, TensorRT or engine for it, or TensorRT cannot load the engine.
    """

    def __init__(self, source: Source) -> None:
        refusals = NoDevice, NoTensorRT, EngineCacheError, TensorRTError
        with opened("tensorrt", source.argument, *refusals) as device:
            trt, plan, content = _find(source, device.index)
            super().__init__(device, buckets(plan.batches))
            self._load(trt, plan, content, source)

    def _load(self, trt: Any, plan: Plan, content: bytes, source: Source) -> None:
        log = _make_log(trt)
        self._runtime = log.given(trt.Runtime(log), "a runtime")
        # A version-compatible plan contains a runtime, which is code. The hash shows that the plan is the one built
        # here.
        self._runtime.engine_host_code_allowed = plan.version_compatible
        self._engine = log.given(self._runtime.deserialize_cuda_engine(content), f"an engine from {plan.name}")
        outputs = source.manifest.outputs
        _check_signature(trt, self._engine, outputs)
        image = source.manifest.preprocess.shape
        self._open_streams(
            image, lambda stream: _TensorRtProgram(trt, log, self._engine, plan, self._cuda, stream, image, outputs)
        )

    def close(self) -> None:
        super().close()
        self._engine = self._runtime = None


class _TensorRtProgram:
    """One context per bucket. The contexts of a stream share memory, because only one of them computes at a time."""

    capturable = True

    def __init__(
        self,
        trt: Any,
        log: Any,
        engine: Any,
        plan: Plan,
        device: CudaDevice,
        stream: int,
        image: tuple[int, ...],
        outputs: Sequence[str],
    ) -> None:
        self._trt = trt
        self._log = log
        self._engine = engine
        self._plan = plan
        self._stream = stream
        self._image = image
        self.outputs: Mapping[str, tuple[int, ...]] = {
            name: tuple(engine.get_tensor_shape(name))[1:] for name in outputs
        }
        self._size = max(1, engine.device_memory_size_v2)
        self._memory = device.allocate(self._size)

    def bind(self, rows: int, addresses: Mapping[str, int]) -> Callable[[], None]:
        log, stream = self._log, self._stream
        context = log.given(
            self._engine.create_execution_context(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED),
            "a context",
        )
        profile = _profile(self._plan.batches, rows)
        log.check(context.set_optimization_profile_async(profile, stream), f"profile {profile}")
        context.set_device_memory(self._memory, self._size)
        log.check(context.set_input_shape(INPUT, (rows, *self._image)), f"a batch of {rows}")
        for name, address in addresses.items():
            log.check(context.set_tensor_address(name, address), f"the address of {name}")
        log.check(not context.infer_shapes(), f"the shapes of a batch of {rows}")

        def enqueue() -> None:
            log.check(context.execute_async_v3(stream), f"a batch of {rows}")

        return enqueue


def buckets(batches: tuple[BatchRange, ...]) -> tuple[int, ...]:
    """Batch sizes to compute in: those that the kernels of the engine were selected for, and the powers of two
    between."""
    largest = max(batch.max for batch in batches)
    chosen = {size for batch in batches for size in (batch.opt, batch.max)}
    chosen |= {size for size in (1 << power for power in range(largest.bit_length())) if _covered(batches, size)}
    return tuple(sorted(chosen))


def _covered(batches: tuple[BatchRange, ...], size: int) -> bool:
    return any(batch.min <= size <= batch.max for batch in batches)


def _profile(batches: tuple[BatchRange, ...], rows: int) -> int:
    """Index of the profile that takes this number of rows and is optimised for the nearest one."""
    fitting = [index for index, batch in enumerate(batches) if batch.min <= rows <= batch.max]
    return min(fitting, key=lambda index: abs(batches[index].opt - rows))


def _find(source: Source, index: int) -> tuple[Any, Plan, bytes]:
    """The TensorRT module, and the plan that it can run on a GPU."""
    trt = tensorrt_runtime.load()
    here = tensorrt_runtime.platform_of(trt, cuda_driver.device(index))
    plan, content = engine_cache.find(source.cache, source.artifact.sha256, source.precision, here)
    return trt, plan, content


def _check_signature(trt: Any, engine: Any, outputs: Sequence[str]) -> None:
    found = {
        name: engine.get_tensor_dtype(name)
        for name in (engine.get_tensor_name(index) for index in range(engine.num_io_tensors))
    }
    if found != {INPUT: trt.DataType.UINT8, **dict.fromkeys(outputs, trt.DataType.FLOAT)}:
        raise TensorRTError(
            f"the engine has other inputs and outputs than the graph of the version: {', '.join(found)}"
        )


def _make_log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        """Keeps error messages: the functions of TensorRT only return that they failed."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self._errors = [*self._errors[-9:], " ".join(message.split())]

        def given(self, value: Any, what: str) -> Any:
            self.check(value is not None, what)
            return value

        def check(self, holds: bool, what: str) -> None:
            if not holds:
                reason = self._errors[0] if self._errors else "its log has no reason"
                self._errors = []
                raise TensorRTError(f"TensorRT does not return {what}: {reason}")

    return Log()


EXECUTOR = TensorRtExecutor
