"""The platforms of other machines: their GPUs and their TensorRT."""

from __future__ import annotations

import ctypes
import sys
from types import ModuleType
from typing import Any

import pytest

from models.runtime import cuda_driver, tensorrt_runtime
from models.runtime.cuda_driver import Device, NoDevice
from models.runtime.engine_plan import ComputeCapability, Platform
from models.runtime.tensorrt_runtime import NoTensorRT

H100 = ("NVIDIA H100 80GB HBM3", (9, 0))
L4 = ("NVIDIA L4", (8, 9))


class Driver:
    """libcuda as ctypes gives it."""

    def __init__(self, *gpus: tuple[str, tuple[int, int]], broken: str | None = None) -> None:
        self._gpus = gpus
        self._broken = broken

    def __getattribute__(self, name: str) -> Any:
        function = object.__getattribute__(self, name)
        return (lambda *_: 999) if name == object.__getattribute__(self, "_broken") else function

    def cuInit(self, flags: int) -> int:
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = len(self._gpus)
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name: Any, length: int, device: Any) -> int:
        name.value = self._gpus[device.value][0].encode()[: length - 1]
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
        # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h
        value._obj.value = self._gpus[device.value][1][{75: 0, 76: 1}[attribute]]
        return 0

    def cuGetErrorString(self, status: int, text: Any) -> int:
        text._obj.value = b"unknown error"
        return 0


def install(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)


def test_gpus_of_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Driver(H100, L4))
    assert cuda_driver.devices() == [
        Device("NVIDIA H100 80GB HBM3", ComputeCapability(9, 0)),
        Device("NVIDIA L4", ComputeCapability(8, 9)),
    ]
    assert cuda_driver.device(1).name == "NVIDIA L4"
    with pytest.raises(NoDevice, match="there is no GPU 2, only 0, 1"):
        cuda_driver.device(2)


def test_without_a_driver() -> None:
    with pytest.raises(NoDevice, match=r"^no NVIDIA driver: libnothing\.so is not installed$"):
        cuda_driver.devices("libnothing.so")


def test_driver_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Driver())
    with pytest.raises(NoDevice, match="no GPU for this process"):
        cuda_driver.devices()


@pytest.mark.parametrize(
    "function", ["cuInit", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetName", "cuDeviceGetAttribute"]
)
def test_driver_that_fails(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Driver(H100, broken=function))
    with pytest.raises(NoDevice, match=rf"{function}: unknown error \(999\)"):
        cuda_driver.devices()


def have(monkeypatch: pytest.MonkeyPatch, name: str, version: str) -> ModuleType:
    """Install a module that `find_spec` and `import_module` find."""
    module = ModuleType(name)
    module.__dict__.update(__version__=version, __spec__=object())
    monkeypatch.setitem(sys.modules, name, module)
    return module


def test_one_platform_per_kind_of_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Driver(L4, L4, H100))
    have(monkeypatch, "tensorrt", "11.4.0.106")
    have(monkeypatch, "tensorrt_rtx", "1.7.1.116")
    l4 = Platform("tensorrt", "11.4.0.106", ComputeCapability(8, 9), "NVIDIA L4")
    h100 = Platform("tensorrt", "11.4.0.106", ComputeCapability(9, 0), "NVIDIA H100 80GB HBM3")
    assert tensorrt_runtime.platforms() == [l4, h100]
    assert [found.flavour for found in tensorrt_runtime.platforms("tensorrt_rtx")] == ["tensorrt_rtx"] * 2
    assert (l4.tag, tensorrt_runtime.platforms("tensorrt_rtx")[1].tag) == ("sm89-trt11.4", "sm90-rtx1.7")


def test_without_a_gpu_tensorrt_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Driver())
    monkeypatch.setattr(tensorrt_runtime, "load", lambda flavour: pytest.fail("TensorRT was imported"))
    with pytest.raises(NoDevice):
        tensorrt_runtime.platforms()


def test_without_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_runtime.importlib.util, "find_spec", lambda name: None)  # type: ignore[attr-defined]
    with pytest.raises(NoTensorRT, match="tensorrt or tensorrt_rtx is not installed"):
        tensorrt_runtime.load()
    with pytest.raises(NoTensorRT, match="tensorrt_rtx is not installed"):
        tensorrt_runtime.load("tensorrt_rtx")


def test_tensorrt_without_its_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> ModuleType:
        raise OSError("libnvinfer.so.11: cannot open shared object file")

    have(monkeypatch, "tensorrt", "11.4.0.106")
    monkeypatch.setattr(tensorrt_runtime.importlib, "import_module", broken)  # type: ignore[attr-defined]
    with pytest.raises(NoTensorRT, match=r"installed but cannot be loaded: libnvinfer\.so\.11"):
        tensorrt_runtime.load()
