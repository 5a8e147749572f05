"""`tuning.json`: the profile of one model version on one machine, with all measurements and the best of them.

`resnet-serve tune` writes it into the engine cache and the service reads it. Imports no torch.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from models.artifact.manifest import Manifest, Precision
from models.files import atomic_write
from models.runtime import cuda_driver
from models.runtime.cuda_driver import NoDevice
from models.runtime.engine_cache import tuning_file
from models.validation import first_error

_RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx-cu13")
"""Packages whose versions decide how fast a model is computed."""

_WORTHWHILE = 0.95
"""Share of the best throughput from which on a larger batch is not worth its latency."""
_HANDOVER_SECONDS = 0.00015
"""Time that the service needs per batch beside the executor, to form it and to pass it on and back. Measured as the
CPU time per image of batches of one, less that of batches of eight, with a small network under load."""


class TuningError(Exception):
    """The profile cannot be used; the message is one line with the reason."""


class NotTuned(TuningError):
    """There is no profile."""


class _ProfilePart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Host(_ProfilePart):
    """The machine that measurements are valid for."""

    cpu: str = Field(validation_alias=AliasChoices("cpu", "processor"))
    """Name of the CPU model. Profiles before version 0.2 call it `processor`."""
    cpus: PositiveInt
    """CPUs that the process may use."""
    devices: tuple[str, ...] = ()
    """Names of the GPUs."""
    runtimes: dict[str, str] = {}
    """Versions of the installed runtimes, by package."""

    @classmethod
    def here(cls, cpus: int) -> Self:
        """This machine, with the number of CPUs that the process may use."""
        try:
            devices = tuple(device.name for device in cuda_driver.devices())
        except NoDevice:
            devices = ()
        return cls(cpu=cpu_name(), cpus=cpus, devices=devices, runtimes=_installed_runtimes())

    def differences(self, other: Host) -> list[str]:
        """One text per difference to another machine: `… there, … here`."""
        pairs: list[tuple[str, object, object]] = [
            ("CPU", self.cpu, other.cpu),
            ("number of CPUs", self.cpus, other.cpus),
            ("GPUs", ", ".join(self.devices), ", ".join(other.devices)),
        ]
        for name in sorted(self.runtimes.keys() | other.runtimes.keys()):
            pairs.append((name, self.runtimes.get(name), other.runtimes.get(name)))
        return [f"{name}: {own or 'none'} there, {its or 'none'} here" for name, own, its in pairs if own != its]


class Measurement(_ProfilePart):
    """One executor in one precision, with a number of threads, at one batch size."""

    executor: str
    precision: Precision
    threads: PositiveInt
    batch: PositiveInt
    instances: PositiveInt = Field(default=1, validation_alias=AliasChoices("instances", "copies"))
    """Instances that computed batches at the same time. Profiles before version 0.2 call them `copies`."""
    images_per_second: PositiveFloat
    """Throughput of all instances together."""
    latency_ms: PositiveFloat
    """Median time of a batch. Under load, a request also waits for the batch before its own."""
    accuracy_loss: float
    """Share of images by which top-1 falls against float32; if no accuracy was measured, the share of images with
    another first class."""
    rounds: PositiveInt
    """Number of times it was measured, in turn with all others."""
    disturbed: bool = False
    """Whether other processes used the CPUs in most of these rounds."""


class Bounds(_ProfilePart):
    """Limits that the best measurement must keep."""

    max_latency_ms: PositiveFloat | None = None
    max_accuracy_loss: NonNegativeFloat = 0.01

    def allow(self, measured: Measurement) -> bool:
        """Whether a measurement keeps the limits."""
        fast = self.max_latency_ms is None or measured.latency_ms <= self.max_latency_ms
        return fast and measured.accuracy_loss <= self.max_accuracy_loss


class TuningProfile(_ProfilePart):
    """Content of `tuning.json`."""

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
        """The engine with the highest throughput within the bounds, at its smallest batch that is nearly as fast.

        Args:
            executor: consider only this executor; None considers all, as for the other arguments.
            precision: consider only this precision.
            threads: consider only this number of threads.
            max_batch: consider no larger batches.
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
        """Throughput relative to ONNX Runtime on the CPU in float32 at the same batch, with its best threads."""
        base = [
            row.images_per_second
            for row in self.measurements
            if (row.executor, row.precision, row.batch) == ("onnxruntime-cpu", "float32", measured.batch)
        ]
        return measured.images_per_second / max(base) if base else None

    def to_json(self) -> str:
        return self.model_dump_json(by_alias=True, indent=2) + "\n"


def smallest_worthwhile(seconds: Mapping[int, float]) -> int:
    """The smallest batch size with nearly the best throughput in the service, from the seconds of a batch by size."""
    rates = {size: size / (taken + _HANDOVER_SECONDS) for size, taken in seconds.items()}
    best = max(rates.values())
    return min(size for size, rate in rates.items() if rate >= _WORTHWHILE * best)


def engine_of(measured: Measurement) -> tuple[str, Precision, int]:
    """Executor, precision and threads of a measurement."""
    return measured.executor, measured.precision, measured.threads


def key(described: Manifest) -> str:
    """The hash that a version's profile is stored under: the hash of its float32 file."""
    return next((item for item in described.artifacts if item.precision == "float32"), described.artifacts[0]).sha256


def hashes(described: Manifest) -> dict[str, str]:
    """SHA-256 of every artifact of a version, by its file name."""
    return {artifact.file: artifact.sha256 for artifact in described.artifacts}


def write(cache: Path, described: Manifest, profile: TuningProfile) -> Path:
    """Store a profile in place of an older one, and return its file.

    Raises:
        OSError: the file cannot be written.
    """
    path = tuning_file(cache, key(described))
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, profile.to_json().encode())
    return path


def read(cache: Path, described: Manifest, host: Host) -> TuningProfile:
    """The profile of a version on this machine.

    Raises:
        NotTuned: there is no profile.
        TuningError: the profile cannot be read, or was measured on another machine or with other files.
    """
    path = tuning_file(cache, key(described))
    try:
        profile = TuningProfile.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise NotTuned("there is no profile for this machine: run resnet-serve tune") from None
    except OSError as error:
        raise TuningError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise TuningError(f"{path}: {first_error(error)}") from error
    if different := profile.host.differences(host):
        raise TuningError(f"{path}: was measured on another machine: {'; '.join(different)}")
    present = hashes(described)
    changed = sorted(
        name for name in profile.artifacts.keys() | present.keys() if profile.artifacts.get(name) != present.get(name)
    )
    if changed:
        raise TuningError(f"{path}: was measured with other files than this version has: {', '.join(changed)}")
    return profile


def cpu_name() -> str:
    """Name of the CPU model, if the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _installed_runtimes() -> dict[str, str]:
    found = {}
    for name in _RUNTIMES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
