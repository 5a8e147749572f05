"""Which engines this machine can run: its GPUs, and the TensorRT that is installed beside them."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import get_args

from models.runtime import cuda_driver
from models.runtime.cuda_driver import Device
from models.runtime.engine_cache import Flavour, Machine


class NoTensorRT(Exception):
    """No TensorRT can be used; the message is one line that says why."""


def here(flavour: Flavour | None = None) -> list[Machine]:
    """One for each kind of GPU, in the driver's order.

    The driver is asked before TensorRT is imported: without a GPU none of it is touched.

    Args:
        flavour: as for `load`.

    Raises:
        NoDevice: there is no GPU to use.
        NoTensorRT: there is none for it.
    """
    devices = cuda_driver.devices()
    module = load(flavour)
    return list(dict.fromkeys(machine(module, device) for device in devices))


def machine(module: ModuleType, device: Device) -> Machine:
    """What a GPU is with a module out of `Flavour`."""
    return Machine(flavour_of(module), module.__version__, device.compute_capability, device.name)


def flavour_of(module: ModuleType) -> Flavour:
    """Raises ValueError for a module that is no TensorRT."""
    for flavour in get_args(Flavour):
        if module.__name__ == flavour:
            found: Flavour = flavour
            return found
    raise ValueError(f"{module.__name__} is neither of {', '.join(get_args(Flavour))}")


def load(flavour: Flavour | None = None) -> ModuleType:
    """Import TensorRT, or where it is not installed TensorRT for RTX.

    Raises:
        NoTensorRT: not installed, or its libraries cannot be loaded.
    """
    wanted: tuple[Flavour, ...] = get_args(Flavour) if flavour is None else (flavour,)
    for name in wanted:
        if importlib.util.find_spec(name) is not None:
            try:
                return importlib.import_module(name)
            except Exception as error:  # whatever bindings raise whose libraries are not there
                raise NoTensorRT(f"the package {name} is installed but cannot be loaded: {error}") from error
    raise NoTensorRT(f"the package {' or '.join(wanted)} is not installed")
