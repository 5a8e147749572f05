"""The part of CUDA that the project uses: memory, streams, events, graphs and kernels, through cuda-bindings.

Every function of `cuda.bindings` returns a tuple whose first member is a status. Here an error status becomes an
exception, and all allocations are freed together.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from cuda.bindings import driver as driver  # also for kernels.py
from cuda.bindings import nvrtc, runtime

from models.imaging.preprocess import UInt8Array
from models.runtime.cuda import CudaError
from models.runtime.engine_plan import ComputeCapability

log = logging.getLogger(__name__)

_THREAD_LOCAL = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal


class CudaDevice:
    """One GPU, and every object that was made on it; `close` frees them.

    Args:
        index: number of the GPU, in the order of the driver.

    Raises:
        CudaError: there is no such GPU, or no driver.
    """

    def __init__(self, index: int) -> None:
        self.name = f"cuda:{index}"
        self.index = index
        self._undo: list[tuple[Callable[..., Any], object]] = []
        self.use()

    def use(self) -> None:
        """Select the device in the calling thread; the selection belongs to the thread."""
        call(runtime.cudaSetDevice, self.index)
        # The capture mode belongs to the thread, too. In this mode captures in other threads, for a model that is being
        # loaded, do not restrict this thread; the mode in which ONNX Runtime captures otherwise would.
        call(runtime.cudaThreadExchangeStreamCaptureMode, _THREAD_LOCAL)

    def make_stream(self) -> int:
        """A stream that does not wait for the default stream."""
        stream = int(call(runtime.cudaStreamCreateWithFlags, runtime.cudaStreamNonBlocking))
        self._undo.append((runtime.cudaStreamDestroy, stream))
        return stream

    def allocate(self, size: int) -> int:
        """Allocate bytes on the device.

        Returns:
            Their address.
        """
        address = int(call(runtime.cudaMalloc, size))
        self._undo.append((runtime.cudaFree, address))
        return address

    def allocate_pinned(self, size: int) -> UInt8Array:
        """Allocate bytes of the host that the device copies from and to without the CPU, uint8 [size]."""
        # cudaHostAllocPortable: pinned for every device.
        address = int(call(runtime.cudaHostAlloc, size, runtime.cudaHostAllocPortable))
        self._undo.append((runtime.cudaFreeHost, address))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def upload(self, content: memoryview, stream: int) -> int:
        """Copy bytes of the host to new memory of the device, and wait for the copy.

        Returns:
            Their address.
        """
        address = self.allocate(len(content))
        # A copy from other memory may still be under way when the function returns.
        pinned = int(call(runtime.cudaHostAlloc, len(content), runtime.cudaHostAllocPortable))
        try:
            array = np.ctypeslib.as_array((ctypes.c_uint8 * len(content)).from_address(pinned))
            array[:] = np.frombuffer(content, np.uint8)
            self.copy_in(address, array, stream)
            self.synchronise(stream)
        finally:
            call(runtime.cudaFreeHost, pinned)
        return address

    def copy_in(self, target: int, source: np.ndarray[Any, Any], stream: int) -> None:
        """Enqueue a copy of contiguous pinned memory to the device."""
        kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        call(runtime.cudaMemcpyAsync, target, source.ctypes.data, source.nbytes, kind, stream)

    def copy_out(self, target: np.ndarray[Any, Any], source: int, stream: int) -> None:
        """Enqueue a copy from the device to contiguous pinned memory."""
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        call(runtime.cudaMemcpyAsync, target.ctypes.data, source, target.nbytes, kind, stream)

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Enqueue a copy of bytes on the device."""
        call(runtime.cudaMemcpyAsync, target, source, size, runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice, stream)

    def fill(self, target: int, value: int, size: int, stream: int) -> None:
        """Enqueue setting bytes on the device."""
        call(runtime.cudaMemsetAsync, target, value, size, stream)

    def synchronise(self, stream: int) -> None:
        """Wait until all work on a stream is done."""
        call(runtime.cudaStreamSynchronize, stream)

    def capture(self, stream: int, enqueue: Callable[[], None]) -> Callable[[], None]:
        """Capture the work that `enqueue` puts on a stream as a CUDA graph, without running it.

        Returns:
            A function that launches the graph on the stream.

        Raises:
            Exception: the work cannot be captured; the stream is unchanged.
        """
        # In the default mode other threads could not allocate meanwhile, as the JPEG decoder does.
        call(runtime.cudaStreamBeginCapture, stream, _THREAD_LOCAL)
        try:
            enqueue()
        except BaseException:
            runtime.cudaStreamEndCapture(stream)  # otherwise the stream stays in capture mode
            raise
        graph = call(runtime.cudaStreamEndCapture, stream)
        executable = call(runtime.cudaGraphInstantiate, graph, 0)
        call(runtime.cudaGraphDestroy, graph)
        self._undo.append((runtime.cudaGraphExecDestroy, executable))
        return lambda: call(runtime.cudaGraphLaunch, executable, stream)

    def make_event(self) -> Any:
        """An event that records the time at which a stream reaches it."""
        event = call(runtime.cudaEventCreate)
        self._undo.append((runtime.cudaEventDestroy, event))
        return event

    def record(self, event: Any, stream: int) -> None:
        """Enqueue an event."""
        call(runtime.cudaEventRecord, event, stream)

    def milliseconds(self, start: Any, end: Any) -> float:
        """Time between two events that a stream has passed."""
        return float(call(runtime.cudaEventElapsedTime, start, end))

    def compile(self, name: str, source: str, kernels: Sequence[str], options: Sequence[str] = ()) -> Kernels:
        """Compile CUDA C++ for this device, and load it.

        Args:
            name: name of the source, for messages.
            source: `extern "C" __global__` functions that take one address.
            kernels: names of the functions.
            options: options of the compiler, NVRTC.

        Raises:
            CudaError: the source cannot be compiled; the message has the log of the compiler.
        """
        self.use()
        library = self.load(_compile(name, source, self._capability(), options))
        return Kernels({kernel: call(driver.cuLibraryGetKernel, library, kernel.encode()) for kernel in kernels})

    def load(self, code: bytes) -> Any:
        """Load machine code: a cubin.

        Returns:
            The library, a `CUlibrary`.

        Raises:
            CudaError: the code is damaged, or for other GPUs or another driver.
        """
        library = call(driver.cuLibraryLoadData, code, [], [], 0, [], [], 0)
        self._undo.append((driver.cuLibraryUnload, library))
        return library

    def _capability(self) -> ComputeCapability:
        attribute = runtime.cudaDeviceAttr
        return ComputeCapability(
            *(
                call(runtime.cudaDeviceGetAttribute, name, self.index)
                for name in (attribute.cudaDevAttrComputeCapabilityMajor, attribute.cudaDevAttrComputeCapabilityMinor)
            )
        )

    def close(self) -> None:
        """Free all objects, the last first. On a lost device this fails, and is not needed."""
        failures = []
        while self._undo:
            function, value = self._undo.pop()
            try:
                self.use()
                call(function, value)
            except CudaError as error:
                failures.append(str(error))
        if failures:
            log.warning("%s: some objects were not freed: %s", self.name, failures[0])


class Kernels:
    """Functions of a library on a device."""

    def __init__(self, functions: Mapping[str, Any]) -> None:
        self._functions = functions

    def launch(self, name: str, grid: tuple[int, int], threads: int, argument: int, stream: int) -> None:
        """Enqueue a kernel on a stream.

        Args:
            name: name of the kernel.
            grid: blocks in x and y.
            threads: threads per block.
            argument: an address on the device.
            stream: the stream.
        """
        parameters = (argument,), (ctypes.c_void_p,)
        call(driver.cuLaunchKernel, self._functions[name], *grid, 1, threads, 1, 1, 0, stream, parameters, 0)


def lock_pages(address: int, size: int) -> None:
    """Let all devices copy from bytes of the host without the CPU.

    Raises:
        CudaError: the pages cannot be locked.
    """
    call(runtime.cudaHostRegister, address, size, runtime.cudaHostRegisterPortable)


def unlock_pages(address: int) -> None:
    """Undo `lock_pages`.

    Raises:
        CudaError: the device is lost.
    """
    call(runtime.cudaHostUnregister, address)


def _compile(name: str, source: str, capability: ComputeCapability, options: Sequence[str]) -> bytes:
    """Compile to machine code for one compute capability."""
    program = call(nvrtc.nvrtcCreateProgram, source.encode(), name.encode(), 0, [], [])
    try:
        flags = [f"--gpu-architecture=sm_{capability.major}{capability.minor}", *options]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(flags), [flag.encode() for flag in flags])
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            log = bytearray(call(nvrtc.nvrtcGetProgramLogSize, program))
            call(nvrtc.nvrtcGetProgramLog, program, log)
            raise CudaError(f"{name} cannot be compiled: {log.decode(errors='replace')}")
        code = bytearray(call(nvrtc.nvrtcGetCUBINSize, program))
        call(nvrtc.nvrtcGetCUBIN, program, code)
        return bytes(code)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def call(function: Callable[..., Any], *arguments: object) -> Any:
    """Call a function of `cuda.bindings`.

    Returns:
        The value behind the status, or None.

    Raises:
        CudaError: the status is an error.
    """
    status, *values = function(*arguments)
    check(status, function.__name__)
    return values[0] if values else None


def check(status: Any, name: str) -> None:
    """Raise the error that a function has returned.

    Raises:
        CudaError: the status is an error.
    """
    if status:
        raise CudaError(f"{name}: {_text(status)} ({int(status)})")


def _text(status: Any) -> str:
    if isinstance(status, driver.CUresult):
        _, text = driver.cuGetErrorString(status)
    elif isinstance(status, nvrtc.nvrtcResult):
        _, text = nvrtc.nvrtcGetErrorString(status)
    else:
        _, text = runtime.cudaGetErrorString(status)
    return (text or b"unknown error").decode()
