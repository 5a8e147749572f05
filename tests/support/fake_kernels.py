"""CUDA C++ without a GPU: compiled for the CPU, where one thread of a kernel runs after the other.

Stands in for `cuda.bindings.nvrtc` and `cuda.bindings.driver`, with the functions that kernels need. Only for
kernels whose threads do not wait for one another.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from cuda.bindings import driver as real_driver
from cuda.bindings import nvrtc as real_nvrtc

from models.runtime.cuda import device as cuda
from tests.support.fake_cuda import FakeRuntime, Work

COMPILER = shutil.which("c++")
THREADS = 2
"""Of each block, whatever was requested: kernels must not depend on it, and this machine has no more to give."""

_BEFORE = """
#include <math.h>
#define __device__
#define __global__
struct Index { unsigned x, y, z; };
static thread_local Index blockIdx, blockDim, threadIdx, gridDim;
"""
_AFTER = """
extern "C" void launch_NAME(unsigned across, unsigned down, unsigned threads, TYPE argument) {
    gridDim = {across, down, 1};
    blockDim = {threads, 1, 1};
    for (blockIdx.y = 0; blockIdx.y < down; blockIdx.y++)
        for (blockIdx.x = 0; blockIdx.x < across; blockIdx.x++)
            for (threadIdx.x = 0; threadIdx.x < threads; threadIdx.x++) NAME(argument);
}
"""
_KERNEL = re.compile(r"__global__ void (?P<name>\w+)\((?P<type>[\w ]+\*)\w+\)")


class FakeNvrtc:
    """Stands in for the module `cuda.bindings.nvrtc`; its machine code is the path of a library."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.options: list[bytes] = []
        self._log = b""

    def __getattr__(self, name: str) -> Any:
        return _constant(real_nvrtc, name)

    def nvrtcCreateProgram(self, src: bytes, name: bytes, numHeaders: int, headers: Any, includeNames: Any) -> Any:
        return real_nvrtc.nvrtcResult.NVRTC_SUCCESS, src.decode()

    def nvrtcCompileProgram(self, prog: str, numOptions: int, options: list[bytes]) -> Any:
        assert numOptions == len(options)
        self.options = options
        after = [
            _AFTER.replace("NAME", found["name"]).replace("TYPE", found["type"]) for found in _KERNEL.finditer(prog)
        ]
        program = self.folder / "kernels.cpp"
        program.write_text(_BEFORE + prog + "".join(after))
        contraction = "off" if b"--fmad=false" in options else "fast"
        flags = ["-O2", "-march=native", "-shared", "-fPIC", f"-ffp-contract={contraction}"]
        done = subprocess.run(
            [str(COMPILER), *flags, "-o", str(self.folder / "kernels.so"), str(program)], capture_output=True
        )
        self._log = done.stderr
        result = real_nvrtc.nvrtcResult
        return (result.NVRTC_ERROR_COMPILATION if done.returncode else result.NVRTC_SUCCESS,)

    def nvrtcGetProgramLogSize(self, prog: str) -> Any:
        return real_nvrtc.nvrtcResult.NVRTC_SUCCESS, len(self._log)

    def nvrtcGetProgramLog(self, prog: str, log: bytearray) -> Any:
        log[:] = self._log
        return (real_nvrtc.nvrtcResult.NVRTC_SUCCESS,)

    def nvrtcGetCUBINSize(self, prog: str) -> Any:
        return real_nvrtc.nvrtcResult.NVRTC_SUCCESS, len(bytes(self.folder / "kernels.so"))

    def nvrtcGetCUBIN(self, prog: str, cubin: bytearray) -> Any:
        cubin[:] = bytes(self.folder / "kernels.so")
        return (real_nvrtc.nvrtcResult.NVRTC_SUCCESS,)

    def nvrtcDestroyProgram(self, prog: str) -> Any:
        return (real_nvrtc.nvrtcResult.NVRTC_SUCCESS,)


class FakeDriver:
    """Stands in for the module `cuda.bindings.driver`.

    Args:
        runtime: where the streams are.
    """

    def __init__(self, runtime: FakeRuntime) -> None:
        self.loaded = 0
        self._runtime = runtime

    def __getattr__(self, name: str) -> Any:
        return _constant(real_driver, name)

    def cuGetErrorString(self, error: Any) -> Any:
        return real_driver.CUresult.CUDA_SUCCESS, str(error.name).encode()

    def cuLibraryLoadData(
        self,
        code: bytes,
        jitOptions: Any,
        jitOptionsValues: Any,
        numJitOptions: int,
        libraryOptions: Any,
        libraryOptionValues: Any,
        numLibraryOptions: int,
    ) -> Any:
        self.loaded += 1
        return real_driver.CUresult.CUDA_SUCCESS, ctypes.CDLL(code.decode())

    def cuLibraryUnload(self, library: Any) -> Any:
        self.loaded -= 1
        return (real_driver.CUresult.CUDA_SUCCESS,)

    def cuLibraryGetKernel(self, library: Any, name: bytes) -> Any:
        try:
            return real_driver.CUresult.CUDA_SUCCESS, getattr(library, f"launch_{name.decode()}")
        except AttributeError:
            return real_driver.CUresult.CUDA_ERROR_NOT_FOUND, None

    def cuLaunchKernel(
        self,
        f: Any,
        gridDimX: int,
        gridDimY: int,
        gridDimZ: int,
        blockDimX: int,
        blockDimY: int,
        blockDimZ: int,
        sharedMemBytes: int,
        hStream: int,
        kernelParams: tuple[tuple[int], tuple[type]],
        extra: int,
    ) -> Any:
        assert (gridDimZ, blockDimY, blockDimZ, sharedMemBytes, extra) == (1, 1, 1, 0, 0)
        ((argument,), (kind,)) = kernelParams
        self._runtime.enqueue(hStream, Work("compute", lambda: f(gridDimX, gridDimY, THREADS, kind(argument))))
        return (real_driver.CUresult.CUDA_SUCCESS,)


def install(patch: pytest.MonkeyPatch, runtime: FakeRuntime) -> FakeDriver:
    """Have kernels be compiled and launched here; skips the test where there is no compiler."""
    if COMPILER is None:
        pytest.skip("needs a C++ compiler, c++")
    driver = FakeDriver(runtime)
    patch.setattr(cuda, "runtime", runtime)
    patch.setattr(cuda, "driver", driver)
    patch.setattr(cuda, "nvrtc", FakeNvrtc(Path(tempfile.mkdtemp())))
    return driver


def _constant(module: Any, name: str) -> Any:
    value = getattr(module, name)
    if callable(value) and not isinstance(value, type):
        raise AttributeError(f"the fake has no function {name}")
    return value
