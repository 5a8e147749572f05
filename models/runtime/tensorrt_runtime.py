"""The platforms of this machine that can run plans: its GPUs, and the TensorRT that is installed."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import cast, get_args

from models.runtime import cuda_driver
from models.runtime.cuda_driver import Device
from models.runtime.engine_plan import Flavour, Platform


class NoTensorRT(Exception):
    """TensorRT is not installed or cannot be loaded; the message is one line with the reason."""


def platforms(flavour: Flavour | None = None) -> list[Platform]:
    """One platform per kind of GPU, in the driver's order.

    The driver is queried first: without a GPU, TensorRT is not imported.

    Args:
        flavour: as for `load`.

    Raises:
        NoDevice: there is no usable GPU.
        NoTensorRT: TensorRT is not installed or cannot be loaded.
    """
    devices = cuda_driver.devices()
    module = load(flavour)
    return list(dict.fromkeys(platform_of(module, device) for device in devices))


def platform_of(module: ModuleType, device: Device) -> Platform:
    """The platform of a GPU and a module of `Flavour`."""
    return Platform(cast(Flavour, module.__name__), module.__version__, device.compute_capability, device.name)


def load(flavour: Flavour | None = None) -> ModuleType:
    """Import TensorRT or, if it is not installed, TensorRT for RTX; with `flavour`, that one only.

    Raises:
        NoTensorRT: the package is not installed, or its libraries cannot be loaded.
    """
    wanted: tuple[Flavour, ...] = get_args(Flavour) if flavour is None else (flavour,)
    for name in wanted:
        if importlib.util.find_spec(name) is not None:
            try:
                return importlib.import_module(name)
            except Exception as error:  # bindings without their libraries raise errors of any class
                raise NoTensorRT(f"the package {name} is installed but cannot be loaded: {error}") from error
    raise NoTensorRT(f"the package {' or '.join(wanted)} is not installed")
