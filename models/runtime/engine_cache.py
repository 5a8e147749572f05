"""Engines that TensorRT has compiled, where they lie, and which of them this machine can run.

    cache/<SHA-256 of the ONNX file>/<precision>-sm90-trt11.4.plan      what the runtime reads
                                     <precision>-sm90-trt11.4.json      what it was built for
                                     tuning.json                        measurements, beside the float32 file's engines
    cache/timing-sm90-trt11.4.bin                                       what makes the next build quicker

A plan runs only where it was built, and a runtime that is handed one from elsewhere answers with a cryptic line or a
crash. So the description is compared with the machine first, and the plan with the description. `export` writes here
and `service` reads; imports neither torch nor TensorRT.

    EngineCacheError
    ├── PlanMissing      nothing was built
    ├── PlanForeign      built for something else; names both sides
    └── PlanDamaged      not what its description says, or without one
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from models.artifact.manifest import SHA256, Artifact, FusionReport, Precision
from models.files import atomic_write
from models.validation import first_error

TUNING_FILE = "tuning.json"
ENVIRONMENT = "RESNET_SERVE_CACHE"
"""The variable that sets the folder, for the service and for the commands that fill it."""

Flavour = Literal["tensorrt", "tensorrt_rtx"]
"""The Python module: TensorRT, or TensorRT for RTX. Neither reads the other's plans."""

Hardware = Literal["device", "compute-capability", "ampere+"]
"""What can run a plan: GPUs of the same name, of the same compute capability, or of 8.0 and above."""

_SHORT: dict[Flavour, str] = {"tensorrt": "trt", "tensorrt_rtx": "rtx"}
_LONG: dict[Flavour, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT for RTX"}
_AMPERE = 8


class EngineCacheError(Exception):
    """There is no engine that can be run; the message is one line that says why."""


class PlanMissing(EngineCacheError):
    """Nothing was built for this file and precision."""


class PlanDamaged(EngineCacheError):
    """A plan is not what its description says, or has none."""


class PlanForeign(EngineCacheError):
    """A plan was built for another machine or version.

    Args:
        plan: its description.
        machine: what would have to run it.
    """

    def __init__(self, plan: Plan, machine: Machine) -> None:
        super().__init__(f"{plan.name}: built for {plan.built_for}, this machine has {machine}")
        self.plan = plan
        self.machine = machine


class ComputeCapability(NamedTuple):
    """Of a GPU, such as 9.0."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    @property
    def sm(self) -> str:
        return f"sm{self.major}{self.minor}"

    @classmethod
    def parse(cls, text: str) -> ComputeCapability:
        """Of "9.0".

        Raises:
            ValueError: it is not written so.
        """
        if not re.fullmatch(r"[1-9][0-9]?\.[0-9]", text):
            raise ValueError(f"a compute capability is written as 9.0, not {text!r}")
        major, minor = text.split(".")
        return cls(int(major), int(minor))


@dataclass(frozen=True)
class Machine:
    """What a plan is tied to: a runtime, and the GPU that it drives."""

    flavour: Flavour
    version: str
    """All of it, such as 11.4.0.106."""
    compute_capability: ComputeCapability
    device: str | None = None
    """Name of the GPU; None where engines are built for one that is not here."""

    def __str__(self) -> str:
        device = "" if self.device is None else f" ({self.device})"
        return f"{_LONG[self.flavour]} {self.version} and compute capability {self.compute_capability}{device}"

    @property
    def tag(self) -> str:
        """Part of file names, such as sm90-trt11.4."""
        return f"{self.compute_capability.sm}-{_SHORT[self.flavour]}{'.'.join(self.version.split('.')[:2])}"


class BatchRange(BaseModel):
    """One optimisation profile: batches that it takes, and the one that its kernels were chosen for."""

    model_config = ConfigDict(frozen=True)

    min: PositiveInt
    opt: PositiveInt
    max: PositiveInt


class Plan(BaseModel):
    """The description of a plan, as it lies beside it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: Literal[1] = Field(default=1, alias="schema")
    onnx_sha256: Annotated[str, Field(pattern=SHA256)]
    precision: Precision
    flavour: Flavour
    version: str
    compute_capability: ComputeCapability
    device: str | None = None
    version_compatible: bool = False
    """Whether later versions of the same major one can run it."""
    hardware: Hardware = "device"
    batches: tuple[BatchRange, ...]
    """The optimisation profiles, in the engine's order."""
    sha256: Annotated[str, Field(pattern=SHA256)]
    """Of the plan."""
    fusion: FusionReport | None = None

    @classmethod
    def of(
        cls, content: bytes, artifact: Artifact, machine: Machine, batches: tuple[BatchRange, ...], **more: Any
    ) -> Plan:
        """The description of a plan that a machine's runtime takes."""
        return cls(
            onnx_sha256=artifact.sha256,
            precision=artifact.precision,
            flavour=machine.flavour,
            version=machine.version,
            compute_capability=machine.compute_capability,
            device=machine.device,
            batches=batches,
            sha256=hashlib.sha256(content).hexdigest(),
            **more,
        )

    @property
    def built_for(self) -> Machine:
        return Machine(self.flavour, self.version, self.compute_capability, self.device)

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.precision}-{self.built_for.tag}.plan"

    def fits(self, machine: Machine) -> bool:
        """Whether a machine can run it."""
        return self.flavour == machine.flavour and self._fits_version(machine) and self._fits_device(machine)

    def _fits_version(self, machine: Machine) -> bool:
        if self.version == machine.version or not self.version_compatible:
            return self.version == machine.version
        mine, its = _numbers(self.version), _numbers(machine.version)
        return mine[:1] == its[:1] and mine <= its

    def _fits_device(self, machine: Machine) -> bool:
        if self.hardware == "ampere+":
            return machine.compute_capability.major >= _AMPERE
        if self.compute_capability != machine.compute_capability:
            return False
        return self.hardware == "compute-capability" or self.device in (None, machine.device)

    def to_json(self) -> str:
        return self.model_dump_json(by_alias=True, indent=2) + "\n"


def default_folder() -> Path:
    """Where engines are kept if neither an option nor the environment says otherwise."""
    # The XDG base directory specification has relative paths ignored.
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (xdg if xdg.is_absolute() else Path.home() / ".cache") / "resnet-serve"


def tuning_file(cache: Path, onnx_sha256: str) -> Path:
    """Where the measurements of a version are, by the hash of its float32 ONNX file."""
    return cache / onnx_sha256 / TUNING_FILE


def timing_file(cache: Path, machine: Machine) -> Path:
    """TensorRT's timings of kernels on a machine, good for all models."""
    return cache / f"timing-{machine.tag}.bin"


def write(cache: Path, plan: Plan, content: bytes) -> Path:
    """Keep a plan, so that readers see it whole or not at all.

    Args:
        cache: folder; made if it is not there.
        plan: its description, with the hash of the content.
        content: what the builder gave.

    Returns:
        The plan's file.

    Raises:
        OSError: it cannot be written.
    """
    path = cache / plan.onnx_sha256 / plan.name
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path.parent, os.O_RDONLY)
    try:
        # Two that built the same engine must not mix their files.
        fcntl.flock(lock, fcntl.LOCK_EX)
        # The description goes first and comes last: without it nobody takes the plan.
        _description(path).unlink(missing_ok=True)
        atomic_write(path, content)
        atomic_write(_description(path), plan.to_json().encode())
    finally:
        os.close(lock)
    return path


def built(cache: Path, onnx_sha256: str, precision: Precision) -> list[Path]:
    """All plans that are there for a file and its precision, whatever they fit."""
    return sorted((cache / onnx_sha256).glob(f"{precision}-*.plan"))


def find(cache: Path, onnx_sha256: str, precision: Precision, machine: Machine) -> tuple[Plan, bytes]:
    """The plan that a machine can run.

    Args:
        cache: folder.
        onnx_sha256: of the file that it was built from.
        precision: of that file.
        machine: which has to run it.

    Returns:
        Its description, and its content, which is what the description says.

    Raises:
        PlanMissing: nothing was built for this file in this precision.
        PlanForeign: what was built is for other machines or versions.
        PlanDamaged: it is not what was written, or cannot be read.
    """
    plans = built(cache, onnx_sha256, precision)
    if not plans:
        raise PlanMissing(f"no engine in {precision} has been built for {machine}")
    errors: list[EngineCacheError] = []
    for path in plans:
        try:
            plan = read(path)
            if not plan.fits(machine):
                raise PlanForeign(plan, machine)
            if (plan.onnx_sha256, plan.precision) != (onnx_sha256, precision):
                raise PlanDamaged(f"{path.name}: its description is that of another engine: build it again")
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != plan.sha256:
                raise PlanDamaged(f"{path.name}: its content is not what was built: build it again")
            return plan, content
        except EngineCacheError as error:
            errors.append(error)
        except OSError as error:
            errors.append(PlanDamaged(f"{path.name}: cannot be read: {error.strerror}"))
    # A damaged plan may be the very one that was built for this machine.
    raise next((error for error in errors if isinstance(error, PlanDamaged)), errors[0])


def read(path: Path) -> Plan:
    """The description of a plan.

    Raises:
        PlanDamaged: there is none, or it is not valid.
    """
    try:
        return Plan.model_validate_json(_description(path).read_bytes())
    except FileNotFoundError:
        raise PlanDamaged(f"{path.name}: nothing beside it says what it was built for: build it again") from None
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else first_error(error)
        raise PlanDamaged(f"{path.name}: its description cannot be read: {reason}: build it again") from error


def _description(plan: Path) -> Path:
    return plan.with_suffix(".json")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
