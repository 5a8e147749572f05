"""A driver that loads cubins without a GPU, and refuses what the real one refuses.

Its cubins are texts that say for which GPU and driver they are, and which parameters their functions have; it reads the
parameters of real cubins, too. A function computes what a Python function of its name does, on the memory of
`tests.support.fake_cuda`; without one it does nothing.
"""

from __future__ import annotations

import ctypes
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from cuda.bindings import driver as real

from models.imaging.preprocess import UInt8Array
from models.runtime.cuda_engine.cubin import BadCubin, read_function
from models.runtime.cuda_engine.plan import TENSOR_MAP_BYTES
from tests.support.fake_cuda import OK, FakeRuntime, Work
from tests.support.fake_kernels import FakeDriver

SUCCESS = real.CUresult.CUDA_SUCCESS
INVALID = real.CUresult.CUDA_ERROR_INVALID_VALUE
LOST = real.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS

_ELF = b"\x7fELF"
_REAL = b"\x7fELF\x02"
_ELF_FLAGS = 48
"""Place of the flags in an ELF file of 64 bits; they have the architecture."""
_SHARED_BYTES = {(8, 0): 163 * 1024, (8, 6): 99 * 1024, (8, 9): 99 * 1024, (9, 0): 227 * 1024}
"""Dynamic shared memory that a block can have, by compute capability."""
_DEFAULT_SHARED_BYTES = 48 * 1024
_MAX_GRID = (2**31 - 1, 65_535, 65_535)
_MAX_THREADS = 1024

_MAP = struct.Struct("<4sBBBx Q5I4Q5H")
_MAP_MAGIC = b"TMAP"
_ELEMENTS: Mapping[int, Any] = {
    int(real.CUtensorMapDataType.CU_TENSOR_MAP_DATA_TYPE_UINT8): np.uint8,
    int(real.CUtensorMapDataType.CU_TENSOR_MAP_DATA_TYPE_FLOAT16): np.float16,
    int(real.CUtensorMapDataType.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16): np.uint16,
    int(real.CUtensorMapDataType.CU_TENSOR_MAP_DATA_TYPE_FLOAT32): np.float32,
}
_SWIZZLES = {0: 0, 1: 32, 2: 64, 3: 128}


def cubin(architecture: str, functions: Mapping[str, Sequence[int]], cuda: int = 12000) -> bytes:
    """A cubin.

    Args:
        architecture: the GPUs that it is for, such as sm_90.
        functions: bytes of each parameter, by the name of the function.
        cuda: the oldest version of CUDA whose driver reads it.
    """
    content = {"architecture": architecture, "functions": {name: list(sizes) for name, sizes in functions.items()}}
    return _ELF + json.dumps({**content, "cuda": cuda}).encode()


@dataclass(frozen=True)
class EncodedMap:
    """A tensor map, as its 128 bytes say."""

    element: Any
    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]

    @property
    def extent(self) -> int:
        """Bytes from the first element to the last."""
        size = np.dtype(self.element).itemsize
        steps = (size, *self.strides)
        extent: int = size + sum((length - 1) * step for length, step in zip(self.shape, steps, strict=True))
        return extent

    @classmethod
    def decode(cls, content: bytes) -> EncodedMap:
        magic, element, rank, _, address, *numbers = _MAP.unpack(content[: _MAP.size])
        assert magic == _MAP_MAGIC, "the argument is no tensor map"
        return cls(
            _ELEMENTS[element],
            address,
            tuple(each + 1 for each in numbers[:rank]),
            tuple(numbers[5 : 5 + rank - 1]),
            tuple(numbers[9 : 9 + rank]),
        )


@dataclass
class Launched:
    """A launch, as a kernel sees it."""

    name: str
    grid: tuple[int, int, int]
    threads: int
    values: tuple[bytes, ...]
    """Of each parameter."""
    stream: int
    memory: Callable[[int, int], UInt8Array]
    """Gives the bytes [size] at an address of the device."""

    def address(self, number: int) -> int:
        """The value of a pointer."""
        (value,) = struct.unpack("<Q", self.values[number])
        return int(value)

    def int32(self, number: int) -> int:
        (value,) = struct.unpack("<i", self.values[number])
        return int(value)

    def array(self, number: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        """The memory behind a pointer."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        found: np.ndarray[Any, Any] = self.memory(self.address(number), size).view(dtype).reshape(shape)
        return found

    def tensor(self, number: int) -> np.ndarray[Any, Any]:
        """The memory behind a tensor map, with the innermost dimension last."""
        encoded = EncodedMap.decode(self.values[number])
        memory = self.memory(encoded.address, encoded.extent).view(encoded.element)
        size = np.dtype(encoded.element).itemsize
        return np.lib.stride_tricks.as_strided(memory, encoded.shape[::-1], (size, *encoded.strides)[::-1])


@dataclass(eq=False)
class _Library:
    functions: Mapping[str, Sequence[int]]
    loaded: bool = True


class _RealFunctions(dict[str, Sequence[int]]):
    """Bytes of each parameter of the functions of a real cubin, by name."""

    def __init__(self, code: bytes) -> None:
        super().__init__()
        self._code = code

    def __contains__(self, name: object) -> bool:
        try:
            read_function(self._code, str(name))
        except BadCubin:
            return False
        return True

    def __getitem__(self, name: str) -> Sequence[int]:
        return [size for _, size in read_function(self._code, name).parameters]


@dataclass(eq=False)
class _Function:
    library: _Library
    name: str
    parameters: Sequence[int]
    shared_bytes: int = _DEFAULT_SHARED_BYTES


Compute = Callable[[Launched], None]


@dataclass
class Observer:
    """Follows launches; here it does nothing."""

    def enqueued(self, launched: Launched) -> Callable[[Compute], None]:
        """Called at a launch; returns a function that is called to compute it."""
        return lambda compute: compute(launched)


class CubinDriver(FakeDriver):
    """Stands in for the module `cuda.bindings.driver`, for kernels that were compiled elsewhere.

    Args:
        runtime: where the streams and the memory are.
        functions: the Python functions that compute, by name.
    """

    def __init__(self, runtime: FakeRuntime, functions: Mapping[str, Compute] | None = None) -> None:
        super().__init__(runtime)
        self.functions: dict[str, Compute] = dict(functions or {})
        self.cuda = 13000
        """Newest version of CUDA that it supports."""
        self.observer = Observer()
        self.launches: list[Launched] = []
        self._encoder = _ENCODE_TILED(self._encode)

    def cuLibraryLoadData(self, code: bytes, *options: Any) -> Any:
        assert options == ([], [], 0, [], [], 0)
        if not code.startswith(_ELF):
            return real.CUresult.CUDA_ERROR_INVALID_IMAGE, None
        if code.startswith(_REAL):
            return self._load_real(code)
        try:
            described = json.loads(code[len(_ELF) :])
        except ValueError:
            return real.CUresult.CUDA_ERROR_INVALID_IMAGE, None
        major, minor = self._runtime.capability
        if described["architecture"] != f"sm_{major}{minor}" or described["cuda"] > self.cuda:
            return real.CUresult.CUDA_ERROR_NO_BINARY_FOR_GPU, None
        self.loaded += 1
        return self._status(), _Library(described["functions"])

    def _load_real(self, code: bytes) -> Any:
        major, minor = self._runtime.capability
        (flags,) = struct.unpack_from("<I", code, _ELF_FLAGS)
        if 10 * major + minor not in (flags & 0xFF, flags >> 8 & 0xFF):  # by version of the format
            return real.CUresult.CUDA_ERROR_NO_BINARY_FOR_GPU, None
        self.loaded += 1
        return self._status(), _Library(_RealFunctions(code))

    def cuLibraryUnload(self, library: Any) -> Any:
        assert library.loaded
        library.loaded = False
        self.loaded -= 1
        return (self._status(),)

    def cuLibraryGetKernel(self, library: Any, name: bytes) -> Any:
        assert library.loaded
        if name.decode() not in library.functions:
            return real.CUresult.CUDA_ERROR_NOT_FOUND, None
        return self._status(), _Function(library, name.decode(), library.functions[name.decode()])

    def cuKernelGetParamInfo(self, kernel: Any, paramIndex: int) -> Any:
        if paramIndex >= len(kernel.parameters):
            return INVALID, 0, 0
        return self._status(), 0, kernel.parameters[paramIndex]

    def cuKernelGetFunction(self, kernel: Any) -> Any:
        return self._status(), kernel

    def cuFuncSetAttribute(self, hfunc: Any, attrib: Any, value: int) -> Any:
        assert attrib == real.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        if value > _SHARED_BYTES[self._runtime.capability]:
            return (INVALID,)
        hfunc.shared_bytes = value
        return (self._status(),)

    def cuGetProcAddress(self, symbol: bytes, cudaVersion: int, flags: int) -> Any:
        found = real.CUdriverProcAddressQueryResult.CU_GET_PROC_ADDRESS_SUCCESS
        if symbol != b"cuTensorMapEncodeTiled" or cudaVersion > self.cuda:
            return real.CUresult.CUDA_ERROR_NOT_FOUND, 0, found
        return self._status(), ctypes.cast(self._encoder, ctypes.c_void_p).value, found

    def cuLaunchKernel(self, f: Any, *arguments: Any) -> Any:
        if not isinstance(f, _Function):
            return super().cuLaunchKernel(f, *arguments)
        *sizes, shared_bytes, stream, address, extra = arguments
        grid, block = tuple(sizes[:3]), tuple(sizes[3:])
        if not f.library.loaded or not self._runtime.has_stream(stream):
            return (real.CUresult.CUDA_ERROR_INVALID_HANDLE,)
        fits = all(1 <= size <= most for size, most in zip(grid, _MAX_GRID, strict=True))
        if not fits or not 1 <= int(np.prod(block)) <= _MAX_THREADS or shared_bytes > f.shared_bytes:
            return (INVALID,)
        assert extra == 0 and block[1:] == (1, 1)
        values = _read_arguments(address, f.parameters)
        launched = Launched(f.name, grid, block[0], values, int(stream), self._runtime.device_memory)
        self.launches.append(launched)
        compute = self.observer.enqueued(launched)

        def work() -> None:
            assert f.library.loaded, "the kernel was unloaded before it ran"
            compute(self.functions.get(f.name, _nothing))

        self._runtime.enqueue(stream, Work("compute", work))
        return (self._status(),)

    def _encode(self, place: int, element: int, rank: int, address: int, *more: int) -> int:
        shape_at, strides_at, box_at, steps_at, interleave, swizzle, promotion, fill = more
        if place % 64 or not 1 <= rank <= 5 or element not in _ELEMENTS or swizzle not in _SWIZZLES:
            return int(INVALID)
        shape, strides = _numbers(shape_at, rank, ctypes.c_uint64), _numbers(strides_at, rank - 1, ctypes.c_uint64)
        box, steps = _numbers(box_at, rank, ctypes.c_uint32), _numbers(steps_at, rank, ctypes.c_uint32)
        inner = box[0] * np.dtype(_ELEMENTS[element]).itemsize
        holds = (
            address % 16 == 0
            and all(0 < each <= 2**32 for each in shape)
            and all(each % 16 == 0 and 0 < each < 2**40 for each in strides)
            and all(1 <= each <= 256 for each in box)
            and steps == [1] * rank
            and inner % 16 == 0
            and (swizzle == 0 or inner <= _SWIZZLES[swizzle])
            and (interleave, fill) == (0, 0)
            and promotion in range(4)
        )
        if not holds:
            return int(INVALID)
        numbers = [
            *(each - 1 for each in shape), *[0] * (5 - rank), *strides, *[0] * (5 - rank), *box, *[0] * (5 - rank)
        ]  # fmt: skip
        content = _MAP.pack(_MAP_MAGIC, element, rank, swizzle, address, *numbers)
        ctypes.memmove(place, content.ljust(TENSOR_MAP_BYTES, b"\0"), TENSOR_MAP_BYTES)
        return int(self._status())

    def _status(self) -> Any:
        return SUCCESS if self._runtime.status() == OK else LOST


_ENCODE_TILED = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_uint64,
    *[ctypes.c_void_p] * 4, *[ctypes.c_int] * 4,
)  # fmt: skip


def _nothing(launched: Launched) -> None:
    """Compute nothing, as a kernel without a Python function."""


def _read_arguments(address: int, sizes: Sequence[int]) -> tuple[bytes, ...]:
    """The value of each parameter, from the array of pointers that the driver gets."""
    pointers = (ctypes.c_void_p * len(sizes)).from_address(address)
    for pointer, size in zip(pointers, sizes, strict=True):
        assert size != TENSOR_MAP_BYTES or pointer % 64 == 0, "a tensor map is not aligned"
    return tuple(ctypes.string_at(pointer, size) for pointer, size in zip(pointers, sizes, strict=True))


def _numbers(address: int | None, count: int, kind: Any) -> list[int]:
    return list((kind * count).from_address(address)) if count and address else []
