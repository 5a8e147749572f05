"""The GPUs of this machine, asked of the CUDA driver alone.

A TensorRT runtime that is used without a driver ends the process with a segmentation fault, so this is asked first. It
makes no context and takes no memory on a device.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from models.runtime.engine_cache import ComputeCapability

_LIBRARY = "libcuda.so.1"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_NAME_BYTES = 256


class NoDevice(Exception):
    """There is no GPU to use; the message is one line that says why."""


@dataclass(frozen=True)
class Device:
    name: str
    compute_capability: ComputeCapability


def devices(library: str = _LIBRARY) -> list[Device]:
    """The GPUs that this process may use, in the driver's order.

    Raises:
        NoDevice: no driver, no GPU, or the driver fails.
    """
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        raise NoDevice(f"no NVIDIA driver: {library} is not there") from None
    _check(driver, driver.cuInit(0), "cuInit")
    count = ctypes.c_int()
    _check(driver, driver.cuDeviceGetCount(ctypes.byref(count)), "cuDeviceGetCount")
    if not count.value:
        raise NoDevice("the NVIDIA driver has no GPU for this process")
    return [_device(driver, index) for index in range(count.value)]


def device(index: int) -> Device:
    """The GPU with a number.

    Raises:
        NoDevice: no driver, no GPU, or none with this number.
    """
    there = devices()
    if index >= len(there):
        raise NoDevice(f"there is none with the number {index}, only {', '.join(map(str, range(len(there))))}")
    return there[index]


def _device(driver: ctypes.CDLL, index: int) -> Device:
    device = ctypes.c_int()
    _check(driver, driver.cuDeviceGet(ctypes.byref(device), index), "cuDeviceGet")
    name = ctypes.create_string_buffer(_NAME_BYTES)
    _check(driver, driver.cuDeviceGetName(name, _NAME_BYTES, device), "cuDeviceGetName")
    capability = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int()
        _check(driver, driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device), "cuDeviceGetAttribute")
        capability.append(value.value)
    return Device(name.value.decode(errors="replace"), ComputeCapability(*capability))


def _check(driver: ctypes.CDLL, status: int, function: str) -> None:
    if status:
        text = ctypes.c_char_p()
        driver.cuGetErrorString(status, ctypes.byref(text))
        reason = text.value.decode(errors="replace") if text.value else "unknown error"
        raise NoDevice(f"the NVIDIA driver does not work: {function}: {reason} ({status})")
