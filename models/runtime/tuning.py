"""`tuning.json`: what was measured of one version on one machine, and what is best there.

Written by `resnet-export tune` into the engine cache and read by the service; imports no torch.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, ValidationError

from models.artifact.manifest import Manifest, Precision
from models.files import atomic_write
from models.runtime import cuda_driver
from models.runtime.cuda_driver import NoDevice
from models.runtime.engine_cache import tuning_file
from models.validation import first_error

_RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx-cu13")
"""Packages whose versions decide how fast a version of a model is. Not torch: who serves need not have it."""

_WORTHWHILE = 0.95
"""A larger batch is not worth its latency once a smaller one has this share of the best throughput."""
_HAND_OVER = 0.00015
"""Seconds that the service needs for a batch beside the executor's: to form it, hand it over, take it back. About
the processor time that batches of one cost an image more than batches of eight, with a small network under load."""


class TuningError(Exception):
    """There are no measurements that can be used; the message is one line that says why."""


class NotTuned(TuningError):
    """Nothing was measured."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Host(_Model):
    """What measurements hold for."""

    processor: str
    cpus: PositiveInt
    """Processors that could be used."""
    devices: tuple[str, ...] = ()
    """Names of the GPUs."""
    runtimes: dict[str, str] = {}
    """Versions of the packages that compute."""

    @classmethod
    def here(cls, cpus: int) -> Self:
        """This machine, of which a process may use so many processors."""
        try:
            devices = tuple(device.name for device in cuda_driver.devices())
        except NoDevice:
            devices = ()
        return cls(processor=_processor(), cpus=cpus, devices=devices, runtimes=_installed())

    def differences(self, other: Host) -> list[str]:
        """In words, what is another there: `… there, … here`."""
        pairs: list[tuple[str, object, object]] = [
            ("processor", self.processor, other.processor),
            ("number of processors", self.cpus, other.cpus),
            ("GPUs", ", ".join(self.devices), ", ".join(other.devices)),
        ]
        for name in sorted(self.runtimes.keys() | other.runtimes.keys()):
            pairs.append((name, self.runtimes.get(name), other.runtimes.get(name)))
        return [f"{what}: {mine or 'none'} there, {its or 'none'} here" for what, mine, its in pairs if mine != its]


class Measurement(_Model):
    """One executor in one precision, on so many threads, with batches of one size."""

    executor: str
    precision: Precision
    threads: PositiveInt
    batch: PositiveInt
    copies: PositiveInt = 1
    """Executors that computed such batches at the same time."""
    images_per_second: PositiveFloat
    """Of all of them."""
    latency_ms: PositiveFloat
    """Median time of a batch. Under load a request waits for the batch before its own, too."""
    accuracy_loss: float
    """Share of images by which top-1 falls against float32; where no accuracy was measured, the share of images with
    another first class."""
    rounds: PositiveInt
    """How often it was measured, in turn with all others."""
    disturbed: bool = False
    """Whether something else used the processors in most of these rounds."""


class Bounds(_Model):
    """What the best must keep within."""

    max_latency_ms: PositiveFloat | None = None
    max_accuracy_loss: NonNegativeFloat = 0.01

    def allow(self, measured: Measurement) -> bool:
        """Whether a measurement keeps within them."""
        fast = self.max_latency_ms is None or measured.latency_ms <= self.max_latency_ms
        return fast and measured.accuracy_loss <= self.max_accuracy_loss


class Tuning(_Model):
    schema_version: Literal[1] = Field(1, alias="schema")
    model: str
    version: PositiveInt
    artifacts: dict[str, str]
    """SHA-256 of each file that was measured, by its name."""
    host: Host
    created: datetime
    bounds: Bounds
    measurements: Annotated[tuple[Measurement, ...], Field(min_length=1)]

    def best(
        self,
        executor: str | None = None,
        precision: Precision | None = None,
        threads: int | None = None,
        max_batch: int | None = None,
    ) -> Measurement | None:
        """The most images a second within the bounds, and of that engine the smallest batch that is nearly as good.

        Args:
            executor: only this one; None for any, as for all others.
            precision: only this one.
            threads: only so many.
            max_batch: no larger batches.
        """
        allowed = [
            measured
            for measured in self.measurements
            if self.bounds.allow(measured)
            and executor in (None, measured.executor)
            and precision in (None, measured.precision)
            and threads in (None, measured.threads)
            and measured.batch <= (max_batch or measured.batch)
        ]
        if not allowed:
            return None
        top = max(allowed, key=lambda measured: measured.images_per_second)
        rows = {measured.batch: measured for measured in allowed if engine_of(measured) == engine_of(top)}
        return rows[smallest_worthwhile({batch: batch / row.images_per_second for batch, row in rows.items()})]

    def ratio(self, measured: Measurement) -> float | None:
        """Images a second, relative to ONNX Runtime on the CPU in float32 with the same batch, on its best threads."""
        base = [
            row.images_per_second
            for row in self.measurements
            if (row.executor, row.precision, row.batch) == ("onnxruntime-cpu", "float32", measured.batch)
        ]
        return measured.images_per_second / max(base) if base else None

    def to_json(self) -> str:
        return self.model_dump_json(by_alias=True, indent=2) + "\n"


def smallest_worthwhile(seconds: Mapping[int, float]) -> int:
    """The smallest of several sizes of batches, with the seconds that each takes, that has nearly the best throughput
    in the service."""
    rates = {size: size / (taken + _HAND_OVER) for size, taken in seconds.items()}
    best = max(rates.values())
    return min(size for size, rate in rates.items() if rate >= _WORTHWHILE * best)


def engine_of(measured: Measurement) -> tuple[str, Precision, int]:
    """All but the batch."""
    return measured.executor, measured.precision, measured.threads


def key(described: Manifest) -> str:
    """The hash that a version's measurements are kept under: that of its float32 file."""
    return next((item for item in described.artifacts if item.precision == "float32"), described.artifacts[0]).sha256


def hashes(described: Manifest) -> dict[str, str]:
    """SHA-256 of every file of a version that can be served, by its name."""
    return {artifact.file: artifact.sha256 for artifact in described.artifacts}


def write(cache: Path, described: Manifest, tuning: Tuning) -> Path:
    """Keep measurements in place of older ones.

    Raises:
        OSError: they cannot be written.
    """
    path = tuning_file(cache, key(described))
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, tuning.to_json().encode())
    return path


def read(cache: Path, described: Manifest, host: Host) -> Tuning:
    """The measurements of a version on this machine.

    Raises:
        NotTuned: there are none.
        TuningError: they cannot be read, or were made on another machine or of other files.
    """
    path = tuning_file(cache, key(described))
    try:
        tuning = Tuning.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise NotTuned("nothing was measured on this machine: resnet-export tune does") from None
    except OSError as error:
        raise TuningError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise TuningError(f"{path}: {first_error(error)}") from error
    if different := tuning.host.differences(host):
        raise TuningError(f"{path}: was measured elsewhere: {'; '.join(different)}")
    if changed := _changed(tuning.artifacts, hashes(described)):
        raise TuningError(f"{path}: was measured of other files than this version has: {', '.join(changed)}")
    return tuning


def _changed(measured: Mapping[str, str], there: Mapping[str, str]) -> list[str]:
    return sorted(name for name in measured.keys() | there.keys() if measured.get(name) != there.get(name))


def _processor() -> str:
    """The processor's own name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def _installed() -> dict[str, str]:
    found = {}
    for name in _RUNTIMES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
