"""A compiler of kernels for the fake driver: their code is a name, and each writes constants and takes a set time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from export.errors import EngineError
from export.kernels.compile import TRITON, Compiled
from export.kernels.packing.launches import KernelKey
from models.runtime.cuda_engine.cubin import Function
from models.runtime.cuda_engine.plan import Kernel
from tests.support.fake_cubins import Launched, cubin
from tests.support.fake_gpu import FakeGpu

_WRITTEN = 16
"""Elements that a kernel writes."""
_HALVES = {"*fp16": 0x3E00, "*bf16": 0x3FC0}
"""The bits of 1.5."""


@dataclass(frozen=True)
class Configuration:
    """The parts of a kernel by which tests tell kernels apart."""

    source: str
    rows: int
    columns: int
    depth: int
    warps: int
    stages: int

    @classmethod
    def of(cls, key: KernelKey | Kernel) -> Configuration:
        constants = dict(key.constants)
        rows, columns, depth = (int(constants.get(name) or 0) for name in ("BM", "BN", "BK"))
        return cls(key.source, rows, columns, depth, key.warps, key.stages)


def _never(configuration: Configuration) -> bool:
    return False


@dataclass
class FakeCompiler:
    """Stands in for Triton.

    Args:
        gpu: where the kernels run.
    """

    gpu: FakeGpu
    milliseconds: Callable[[Configuration, int], float] = lambda configuration, blocks: 1.0
    """Time of a launch with a number of blocks."""
    is_refused: Callable[[Configuration], bool] = _never
    """Whether a kernel cannot be compiled."""
    steps_off: Callable[[Configuration], int] = lambda configuration: 0
    """Difference of the values that a kernel writes, in steps of rounding."""
    is_idle: Callable[[Configuration], bool] = _never
    """Whether a kernel writes nothing."""
    before_launch: Callable[[Configuration], None] = lambda configuration: None
    compiled: list[KernelKey] = field(default_factory=list)
    launched: list[Configuration] = field(default_factory=list)
    """Convolutions that have run."""
    _numbers: dict[KernelKey, int] = field(default_factory=dict)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Have this process compile kernels here."""
        patch.setattr("export.kernels.compile.metadata.version", lambda name: TRITON)
        for module in ("compile", "measuring.measuring"):
            patch.setattr(f"export.kernels.{module}.attempt_all", self.attempt_all)

    def attempt_all(
        self, keys: Sequence[KernelKey], architecture: str, processes: int | None = None
    ) -> Iterator[Compiled | EngineError]:
        for key in keys:
            self.compiled.append(key)
            if self.is_refused(Configuration.of(key)):
                yield EngineError(f"{key.source} {key.block}: out of resource: shared memory")
            else:
                yield self._compile(key, architecture)

    def _compile(self, key: KernelKey, architecture: str) -> Compiled:
        name = f"kernel_{self._numbers.setdefault(key, len(self._numbers))}"
        sizes = [size for _, type in key.types for size in _sizes(type)] + [8, 8]
        self.gpu.driver.functions[name] = lambda launched: self._run(key, launched)
        boxes = tuple(
            (int(found[1]), int(found[2]))
            for _, type in key.types
            if (found := re.fullmatch(r"tensordesc<\w+\[(\d+), (\d+)\]>", type))
        )
        element = 1 if any("<i8" in type for _, type in key.types) else 2
        return Compiled(
            cubin=cubin(architecture, {name: sizes}),
            function=Function(name, tuple((8 * place, size) for place, size in enumerate(sizes)), 32, 0),
            shared_bytes=1024,
            swizzles=tuple(min(128, columns * element) for _, columns in boxes),
            boxes=boxes,
        )

    def _run(self, key: KernelKey, launched: Launched) -> None:
        configuration = Configuration.of(key)
        if not key.source.startswith("convolution"):
            return
        self.launched.append(configuration)
        self.before_launch(configuration)
        place = 0
        for name, type in key.types:
            if name in ("y", "z") and not self.is_idle(configuration):
                values = launched.array(place, (_WRITTEN,), np.int8 if type == "*i8" else np.uint16)
                values[:] = _HALVES.get(type, 7) + self.steps_off(configuration)
            place += len(_sizes(type))
        self.gpu.cuda.clock += self.milliseconds(configuration, launched.grid[0])


def _sizes(type: str) -> tuple[int, ...]:
    """Bytes of the parameters of an argument."""
    if type.startswith("tensordesc"):
        return 128, 4, 4, 8, 8
    return (8,) if type.startswith("*") else (4,)
