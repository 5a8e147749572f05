"""The GPUs of this machine, as the CUDA driver lists them.

Without a driver, TensorRT ends the process with a segmentation fault, so the driver is queried first. The query creates
no context and takes no memory on a device.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from importlib.util import find_spec

from models.runtime.engine_plan import ComputeCapability

_LIBRARY = "libcuda.so.1"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_NAME_BYTES = 256


class NoDevice(Exception):
    """There is no usable GPU; the message is one line with the reason."""


@dataclass(frozen=True)
class Device:
    name: str
    compute_capability: ComputeCapability


def version(library: str = _LIBRARY) -> str:
    """The version of CUDA that the driver supports, such as 13.0.

    Raises:
        NoDevice: there is no driver, or it fails.
    """
    driver, number = _load(library), ctypes.c_int()
    _check(driver, driver.cuDriverGetVersion(ctypes.byref(number)), "cuDriverGetVersion")
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def devices(library: str = _LIBRARY) -> list[Device]:
    """The GPUs that this process may use, in the driver's order.

    Raises:
        NoDevice: there is no driver, no GPU, or the driver fails.
    """
    driver = _load(library)
    _check(driver, driver.cuInit(0), "cuInit")
    count = ctypes.c_int()
    _check(driver, driver.cuDeviceGetCount(ctypes.byref(count)), "cuDeviceGetCount")
    if not count.value:
        raise NoDevice("the NVIDIA driver has no GPU for this process")
    return [_device(driver, index) for index in range(count.value)]


def device(index: int) -> Device:
    """The GPU with an index.

    Raises:
        NoDevice: there is no driver, no GPU, or no GPU with this index.
    """
    found = devices()
    if index >= len(found):
        raise NoDevice(f"there is no GPU {index}, only {', '.join(map(str, range(len(found))))}")
    return found[index]


def has_bindings() -> bool:
    """Whether the package cuda-bindings is installed, which computing on a GPU needs."""
    try:
        return find_spec("cuda.bindings") is not None
    except ModuleNotFoundError:
        return False


def _load(library: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(library)
    except OSError:
        raise NoDevice(f"no NVIDIA driver: {library} is not installed") from None


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
