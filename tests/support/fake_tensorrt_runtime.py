"""A TensorRT whose plans are ONNX files and whose kernels are those of ONNX Runtime on the CPU.

It has what the executor uses, under the names that TensorRT 10 and 11 have, and is as strict: no stream, no address or
no shape, and it says no. Its contexts work on the streams of `tests.fake_cuda`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, IntEnum
from types import ModuleType
from typing import Any

import numpy as np

from models.runtime.onnxruntime import ort
from tests.support.fake_cuda import FakeRuntime, Work, as_array

MEMORY = 4096
"""Bytes that a context needs on the device."""


class FakeTensorRT(ModuleType):
    """Stands in for the module `tensorrt`.

    Args:
        cuda: where its kernels run.
        profiles: (smallest, largest) batch of each optimisation profile.
    """

    def __init__(self, cuda: FakeRuntime, profiles: tuple[tuple[int, int], ...]) -> None:
        super().__init__("tensorrt")
        self.__version__ = "11.4.0.106"
        self.cuda = cuda
        self.profiles = profiles
        self.refuse: set[str] = set()
        """Functions that say no."""
        self.recordable = True
        self.contexts: list[Any] = []
        fake = self

        class ILogger:
            ERROR = 1

            def __init__(self) -> None:
                self.made = True

        class DataType(Enum):
            FLOAT = 0
            UINT8 = 5

        class ExecutionContextAllocationStrategy(IntEnum):
            STATIC = 0
            USER_MANAGED = 2

        class Runtime:
            def __init__(self, logger: Any) -> None:
                assert logger.made
                self.engine_host_code_allowed = False
                self._logger = logger

            def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
                if "deserialize_cuda_engine" in fake.refuse:
                    self._logger.log(1, "Version tag does not match.")
                    return None
                return ICudaEngine(serialized_engine)

        class ICudaEngine:
            device_memory_size_v2 = MEMORY

            def __init__(self, content: bytes) -> None:
                self.session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
                self.tensors = [*self.session.get_inputs(), *self.session.get_outputs()]
                self.num_io_tensors = len(self.tensors)

            def get_tensor_name(self, index: int) -> str:
                name: str = self.tensors[index].name
                return name

            def get_tensor_dtype(self, name: str) -> DataType:
                (kind,) = (tensor.type for tensor in self.tensors if tensor.name == name)
                return {"tensor(uint8)": DataType.UINT8, "tensor(float)": DataType.FLOAT}[kind]

            def get_tensor_shape(self, name: str) -> tuple[int, ...]:
                (shape,) = (tensor.shape for tensor in self.tensors if tensor.name == name)
                return (-1, *shape[1:])

            def create_execution_context(self, strategy: ExecutionContextAllocationStrategy) -> Any:
                assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED
                if "create_execution_context" in fake.refuse:
                    return None
                context = IExecutionContext(self)
                fake.contexts.append(context)
                return context

        class IExecutionContext:
            def __init__(self, engine: ICudaEngine) -> None:
                self.engine = engine
                self._profile = 0
                self._memory = 0
                self._shape: tuple[int, ...] | None = None
                self._addresses: dict[str, int] = {}

            def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
                self._profile = profile_index
                return profile_index < len(fake.profiles)

            def set_device_memory(self, memory: int, size: int) -> None:
                fake.cuda.device_memory(memory, size)
                assert size >= MEMORY
                self._memory = memory

            def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
                smallest, largest = fake.profiles[self._profile]
                self._shape = shape
                return smallest <= shape[0] <= largest

            def set_tensor_address(self, name: str, memory: int) -> bool:
                self._addresses[name] = memory
                return True

            def infer_shapes(self) -> list[str]:
                return [] if self._shape else ["images"]

            def execute_async_v3(self, stream_handle: int) -> bool:
                if "execute_async_v3" in fake.refuse or not (self._memory and self._shape):
                    return False
                if not fake.recordable:
                    fake.cuda.refuse_recording(stream_handle)
                fake.cuda.enqueue(stream_handle, Work("compute", self._kernels(self._shape)))
                return True

            def _kernels(self, shape: tuple[int, ...]) -> Callable[[], None]:
                # Shape and addresses are fixed when it is enqueued, and so in a graph.
                addresses = dict(self._addresses)

                def compute() -> None:
                    session = self.engine.session
                    images = as_array(addresses["images"], shape, np.uint8)
                    names = [output.name for output in session.get_outputs()]
                    for name, value in zip(names, session.run(names, {"images": images}), strict=True):
                        as_array(addresses[name], value.shape, np.float32)[...] = value

                return compute

        self.ILogger = ILogger
        self.DataType = DataType
        self.ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
        self.Runtime = Runtime
        self.ICudaEngine = ICudaEngine
        self.IExecutionContext = IExecutionContext
