"""Kernels that were compiled elsewhere: cubins, their parameters, tensor maps, and launches by the driver's API.

A cubin has more parameters than its source: hidden pointers at the end, and a tensor map with the shape and strides
behind it. The driver knows their number and sizes, so they are compared before a kernel is launched.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

from models.runtime.cuda import CudaError
from models.runtime.cuda import device as cuda
from models.runtime.cuda_engine.plan import TENSOR_MAP_BYTES, TensorMap

_MAP_ALIGNMENT = 128
"""Alignment of a tensor map in host memory: CUDA 12 needs 64 bytes, CUDA 13 declares 128. Objects of the class
`CUtensorMap` of cuda-bindings lie at any multiple of 16, so the driver gets memory from here."""

_DEFAULT_SHARED_BYTES = 48 * 1024
_TENSOR_MAPS_SINCE = 12000
"""The version of CUDA that has tensor maps, as cuGetProcAddress takes it."""

_ELEMENTS = {"uint8": "UINT8", "float16": "FLOAT16", "bfloat16": "BFLOAT16", "float32": "FLOAT32"}
_SWIZZLES = {0: "NONE", 32: "32B", 64: "64B", 128: "128B"}

_Int, _Unsigned, _Address, _Array = ctypes.c_int, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p
_ENCODE_TILED = ctypes.CFUNCTYPE(
    _Int, _Array, _Int, _Unsigned, _Address, _Array, _Array, _Array, _Array, _Int, _Int, _Int, _Int
)
"""The type of cuTensorMapEncodeTiled."""


class Arguments:
    """The values of a kernel's parameters for one launch, in host memory where the driver reads them.

    Args:
        values: bytes of each value, in the order of the parameters.
    """

    def __init__(self, values: Sequence[bytes]) -> None:
        places, size = [], 0
        for value in values:
            places.append(size)
            size += -(-len(value) // _MAP_ALIGNMENT) * _MAP_ALIGNMENT
        self._memory, start = _aligned_memory(size)
        for place, value in zip(places, values, strict=True):
            ctypes.memmove(start + place, value, len(value))
        self._pointers = (ctypes.c_void_p * len(values))(*(start + place for place in places))
        self.address = ctypes.addressof(self._pointers)
        """Of an array with a pointer to each value. Valid as long as this object exists."""


class LoadedKernel:
    """A kernel of a library on the selected device.

    Args:
        library: as `CudaDevice.load` returns it.
        name: name of the function.
        parameters: bytes of each parameter.
        threads: threads per block.
        shared_bytes: dynamic shared memory of a block.

    Raises:
        CudaError: the library has no such function, it has other parameters, or the GPU has less shared memory.
    """

    def __init__(self, library: Any, name: str, parameters: Sequence[int], threads: int, shared_bytes: int) -> None:
        kernel = cuda.call(cuda.driver.cuLibraryGetKernel, library, name.encode())
        found = _parameter_bytes(kernel)
        if found != list(parameters):
            raise CudaError(f"the kernel {name} has parameters of {found} bytes, not {list(parameters)}")
        # The function is loaded now, not by its first launch: that may not happen while a graph is captured.
        self._function = cuda.call(cuda.driver.cuKernelGetFunction, kernel)
        self._threads = threads
        self._shared_bytes = shared_bytes
        if shared_bytes > _DEFAULT_SHARED_BYTES:
            attribute = cuda.driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            cuda.call(cuda.driver.cuFuncSetAttribute, self._function, attribute, shared_bytes)

    def launch(self, grid: tuple[int, int, int], arguments: Arguments, stream: int) -> None:
        """Enqueue the kernel on a stream; the driver copies the arguments.

        Args:
            grid: blocks in x, y and z.
            arguments: one value per parameter.
            stream: the stream.

        Raises:
            CudaError: the driver refuses the launch.
        """
        block = self._threads, 1, 1
        cuda.call(
            cuda.driver.cuLaunchKernel, self._function, *grid, *block, self._shared_bytes, stream, arguments.address, 0
        )


def encode_tensor_map(tensor_map: TensorMap, address: int) -> bytes:
    """Encode a tensor map for a place on the selected device.

    Args:
        tensor_map: its arguments.
        address: the address of the first element.

    Returns:
        The value of the parameter, 128 bytes.

    Raises:
        CudaError: the driver refuses the arguments, or is too old.
    """
    function = _find_encoder()
    driver, rank = cuda.driver, len(tensor_map.shape)
    memory, place = _aligned_memory(TENSOR_MAP_BYTES)
    status = function(
        place,
        int(getattr(driver.CUtensorMapDataType, f"CU_TENSOR_MAP_DATA_TYPE_{_ELEMENTS[tensor_map.element]}")),
        rank,
        address,
        (ctypes.c_uint64 * rank)(*tensor_map.shape),
        (ctypes.c_uint64 * (rank - 1))(*tensor_map.strides),
        (ctypes.c_uint32 * rank)(*tensor_map.box),
        (ctypes.c_uint32 * rank)(*[1] * rank),
        int(driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE),
        int(getattr(driver.CUtensorMapSwizzle, f"CU_TENSOR_MAP_SWIZZLE_{_SWIZZLES[tensor_map.swizzle]}")),
        int(driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_128B),
        int(driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
    )
    cuda.check(driver.CUresult(status), "cuTensorMapEncodeTiled")
    encoded = ctypes.string_at(place, TENSOR_MAP_BYTES)
    del memory
    return encoded


def _find_encoder() -> Callable[..., int]:
    address = cuda.call(cuda.driver.cuGetProcAddress, b"cuTensorMapEncodeTiled", _TENSOR_MAPS_SINCE, 0)
    if not address:
        raise CudaError("the NVIDIA driver has no cuTensorMapEncodeTiled: it is older than CUDA 12")
    return _ENCODE_TILED(int(address))


def _parameter_bytes(kernel: Any) -> list[int]:
    """Bytes of each parameter of a kernel, as the driver reads them from the cubin."""
    sizes: list[int] = []
    while True:
        status, _, size = cuda.driver.cuKernelGetParamInfo(kernel, len(sizes))
        if status == cuda.driver.CUresult.CUDA_ERROR_INVALID_VALUE:  # there is no further one
            return sizes
        cuda.check(status, "cuKernelGetParamInfo")
        sizes.append(int(size))


def _aligned_memory(size: int) -> tuple[Any, int]:
    """Host memory, and the address of `size` bytes in it that are aligned for a tensor map."""
    memory = ctypes.create_string_buffer(size + _MAP_ALIGNMENT)
    return memory, -(-ctypes.addressof(memory) // _MAP_ALIGNMENT) * _MAP_ALIGNMENT
