"""Augmentations of torchvision and timm, from their wheels, fed with given random numbers. Neither is installed."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import subprocess
import sys
import types
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


class Numbers:
    """Stands in for `torch` in a module, and answers its random functions with given numbers of [0, 1)."""

    def __init__(self, numbers: Sequence[float]) -> None:
        self._numbers = iter(numbers)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def tensor(self, values: Any, **options: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64, **options)

    def randint(self, low: int, high: int | tuple[int, ...] | None = None, size: Any = None, **_: Any) -> torch.Tensor:
        first, count = (low, high - low) if isinstance(high, int) else (0, low)
        return torch.tensor([first + int(next(self._numbers) * count)])

    def empty(self, _: int) -> Any:
        return types.SimpleNamespace(uniform_=self._uniform)

    def _uniform(self, low: float, high: float) -> torch.Tensor:
        return torch.tensor([float(low) + next(self._numbers) * (float(high) - float(low))], dtype=torch.float64)

    def randperm(self, count: int) -> torch.Tensor:
        return torch.tensor([next(self._numbers) for _ in range(count)], dtype=torch.float64).argsort(stable=True)

    def rand(self, _: int) -> torch.Tensor:
        return torch.tensor([next(self._numbers)], dtype=torch.float64)


@contextmanager
def fed(module: Any, numbers: Sequence[float]) -> Iterator[None]:
    """Feed the random functions of a module with numbers."""
    original = module.torch
    module.torch = Numbers(numbers)
    try:
        yield
    finally:
        module.torch = original


class References:
    """The modules of the two packages that need nothing but torch, NumPy and Pillow.

    Args:
        folder: the wheels are loaded and unpacked there.
    """

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*command, "-d", str(folder), "torchvision", "timm"], check=True)
        for wheel in list(folder.glob("*.whl")):
            zipfile.ZipFile(wheel).extractall(folder)
        # The package itself loads kernels that only one version of torch has; its transforms need none of them.
        package = types.ModuleType("torchvision")
        package.__path__ = [str(folder / "torchvision")]
        package.__spec__ = importlib.machinery.ModuleSpec("torchvision", None, is_package=True)
        sys.modules["torchvision"] = package
        self.policies: Any = importlib.import_module("torchvision.transforms.autoaugment")
        self.transforms: Any = importlib.import_module("torchvision.transforms.transforms")
        self.mixup: Any = _module(folder / "timm" / "data" / "mixup.py")


def _module(path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
