"""Plans: engines that TensorRT has compiled, as the JSON beside them describes them. No torch, no TensorRT.

A plan runs only on the kind of GPU and with the version of TensorRT that it was built for, so its description is
compared with the platform first.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from models.artifact.manifest import SHA256, Artifact, FusionReport, Precision

Flavour = Literal["tensorrt", "tensorrt_rtx"]
"""Name of the Python module: TensorRT, or TensorRT for RTX. Neither reads plans of the other."""

Hardware = Literal["device", "compute-capability", "ampere+"]
"""GPUs that can run a plan: those of the same name, of the same compute capability, or of 8.0 and above."""

_SHORT_NAMES: dict[Flavour, str] = {"tensorrt": "trt", "tensorrt_rtx": "rtx"}
_NAMES: dict[Flavour, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT for RTX"}
_AMPERE = 8


class ComputeCapability(NamedTuple):
    """Compute capability of a GPU, such as 9.0."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    @property
    def sm(self) -> str:
        return f"sm{self.major}{self.minor}"

    @property
    def architecture(self) -> str:
        """The name that compilers give it, such as sm_90."""
        return f"sm_{self.major}{self.minor}"

    @classmethod
    def of_architecture(cls, name: str) -> ComputeCapability:
        """The compute capability of an architecture such as sm_90."""
        number = name.removeprefix("sm_")
        return cls(int(number[:-1]), int(number[-1]))

    @classmethod
    def parse(cls, text: str) -> ComputeCapability:
        """Parse text such as "9.0".

        Raises:
            ValueError: the text has another form.
        """
        if not re.fullmatch(r"[1-9][0-9]?\.[0-9]", text):
            raise ValueError(f"a compute capability is written as 9.0, not {text!r}")
        major, minor = text.split(".")
        return cls(int(major), int(minor))


@dataclass(frozen=True)
class Platform:
    """The runtime and the GPU that a plan is built for."""

    flavour: Flavour
    version: str
    """Full version of the runtime, such as 11.4.0.106."""
    compute_capability: ComputeCapability
    device: str | None = None
    """Name of the GPU; None for engines that are built for a GPU of another machine."""

    def __str__(self) -> str:
        device = "" if self.device is None else f" ({self.device})"
        return f"{_NAMES[self.flavour]} {self.version} and compute capability {self.compute_capability}{device}"

    @property
    def tag(self) -> str:
        """Part of file names, such as sm90-trt11.4."""
        return f"{self.compute_capability.sm}-{_SHORT_NAMES[self.flavour]}{'.'.join(self.version.split('.')[:2])}"


class BatchRange(BaseModel):
    """Batch sizes of one optimisation profile: smallest, largest, and the one that its kernels were chosen for."""

    model_config = ConfigDict(frozen=True)

    min: PositiveInt
    opt: PositiveInt
    max: PositiveInt


class Plan(BaseModel):
    """Description of a plan, written beside it as JSON."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: Literal[1] = Field(default=1, alias="schema")
    onnx_sha256: Annotated[str, Field(pattern=SHA256)]
    precision: Precision
    flavour: Flavour
    version: str
    compute_capability: ComputeCapability
    device: str | None = None
    version_compatible: bool = False
    """Whether later versions of the same major version can run it."""
    hardware: Hardware = "device"
    batches: tuple[BatchRange, ...]
    """The optimisation profiles, in the engine's order."""
    sha256: Annotated[str, Field(pattern=SHA256)]
    """SHA-256 of the plan's content."""
    fusion: FusionReport | None = None

    @classmethod
    def of(
        cls, content: bytes, artifact: Artifact, platform: Platform, batches: tuple[BatchRange, ...], **more: Any
    ) -> Plan:
        """Describe the content that a builder returned for an artifact and a platform; `more` are further fields."""
        return cls(
            onnx_sha256=artifact.sha256,
            precision=artifact.precision,
            batches=batches,
            sha256=hashlib.sha256(content).hexdigest(),
            **vars(platform),
            **more,
        )

    @property
    def built_for(self) -> Platform:
        return Platform(self.flavour, self.version, self.compute_capability, self.device)

    @property
    def name(self) -> str:
        """Name of the plan's file."""
        return f"{self.precision}-{self.built_for.tag}.plan"

    def fits(self, platform: Platform) -> bool:
        """Whether a platform can run the plan."""
        return self.flavour == platform.flavour and self._fits_version(platform) and self._fits_device(platform)

    def _fits_version(self, platform: Platform) -> bool:
        if self.version == platform.version or not self.version_compatible:
            return self.version == platform.version
        built_with, installed = _numbers(self.version), _numbers(platform.version)
        return built_with[:1] == installed[:1] and built_with <= installed

    def _fits_device(self, platform: Platform) -> bool:
        if self.hardware == "ampere+":
            return platform.compute_capability.major >= _AMPERE
        if self.compute_capability != platform.compute_capability:
            return False
        return self.hardware == "compute-capability" or self.device in (None, platform.device)

    def to_json(self) -> str:
        return self.model_dump_json(by_alias=True, indent=2) + "\n"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
