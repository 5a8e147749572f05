"""`manifest.json`: the description of one version, with labels, preprocessing, artifacts and provenance.

`export` writes it and `service` reads it. Imports no torch.
"""

from __future__ import annotations

import codecs
import hashlib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from models.files import git_lfs_problem
from models.imaging.preprocess import Preprocess
from models.validation import first_error

FILE_NAME = "manifest.json"
GOLDEN_FILE = "golden.npz"
CLASSIFIER_FILE = "classifier.npz"

INPUT = "images"
"""Input of every graph: uint8 [N, H, W, C]."""
OUTPUTS = ("logits", "probabilities", "embedding", "feature_map")
"""Outputs of every graph of this project: float32 [N, classes], [N, classes], [N, features] and [N, features, h, w].
An imported graph may lack the last one or the last two."""
LESION_FILE = "model.lesion.onnx"
LESION_INPUT = "gates"
"""Second input of that file only: float32 [blocks], a factor for the residual branch of each block."""
LAYER_OUTPUTS = ("layer1", "layer2", "layer3", "layer4")
"""Optional outputs: the pooled features of each stage, float32 [N, channels of the stage]."""

SCHEMA: Literal[1] = 1
MODEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
"""Pattern of a model's name, which is also its folder's."""
VERSION = r"^[1-9][0-9]{0,17}$"
"""Pattern of a version's number, which is also its folder's name."""
SHA256 = r"^[0-9a-f]{64}$"

Precision = Literal["float32", "float16", "bfloat16", "int8"]


class ManifestError(ValueError):
    """The manifest is missing, not valid, or disagrees with the files beside it."""


class _ManifestPart(BaseModel):
    # Unknown keys are ignored, so an older reader can read the manifest of a newer `export`.
    model_config = ConfigDict(frozen=True, extra="ignore")


class Architecture(_ManifestPart):
    """A name in the table of architectures, with its arguments."""

    name: str
    num_classes: PositiveInt
    in_channels: PositiveInt = 3
    options: dict[str, Any] = {}
    """Options `shortcut`, `norm`, `zero_gamma` of the network."""
    multiply_adds: PositiveInt | None = None
    """Multiply-adds per image of its convolutions and linear layers; None if they were not counted."""


class UnfusedAdd(_ManifestPart):
    """A residual addition that a runtime computes on its own."""

    node: str
    reason: str


class FusionReport(_ManifestPart):
    """How one runtime computes the residual additions."""

    residual_adds: int
    """Number of additions of two computed tensors in the model."""
    fused: int
    """Number that the runtime computes inside a convolution kernel."""
    unfused: tuple[UnfusedAdd, ...] = ()


class Parity(_ManifestPart):
    """Agreement of an artifact with the eager PyTorch model."""

    logit_error: float
    """Largest difference of a logit, relative to the standard deviation of the eager logits."""
    logit_rms_error: float
    """Root mean square of the differences, relative to the same standard deviation."""
    top1_agreement: float
    """Share of images with the same first class."""
    images: PositiveInt


class Accuracy(_ManifestPart):
    """Accuracy of an artifact on images of the test split that no choice was made on."""

    top1: float
    top5: float | None = None
    images: PositiveInt
    calibration_error: float | None = None
    """Expected calibration error (Guo et al. 2017)."""


class TemperatureFit(_ManifestPart):
    """The images that the temperature was fitted on; the quantisation of int8 artifacts is chosen on the same."""

    source: str
    """Kind of images, for people."""
    images: PositiveInt
    errors: NonNegativeInt
    """Images that the network misclassifies."""
    likeliest: PositiveFloat
    """Temperature with the highest likelihood. Below 1 it is used only if there are enough errors."""


class Quantization(_ManifestPart):
    """How an int8 artifact was made."""

    calibration: str
    """Calibration method of the activation ranges."""
    float_layers: tuple[str, ...] = ()
    """Convolutions kept in float, because rounding them costs accuracy."""
    selection_images: PositiveInt
    """Number of images that the choice was made on."""
    selection_loss: float | None = None
    """Share of these images by which top-1 fell."""
    trials: PositiveInt
    """Number of quantised models that were measured."""


class Artifact(_ManifestPart):
    """One model file, in one format and precision."""

    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    format: str
    precision: Precision
    sha256: Annotated[str, Field(pattern=SHA256)]
    requires: str | None = None
    """Requirement of the file beyond its format."""
    fusion: dict[str, FusionReport] = {}
    parity: Parity | None = None
    accuracy: Accuracy | None = None
    quantization: Quantization | None = None


class LesionBlock(_ManifestPart):
    """A residual block of a network."""

    name: str
    """For people, such as "stage 1, block 2"."""
    changes_shape: bool
    """Whether its shortcut changes the shape, so that more than an identity remains without the branch."""


class Lesion(_ManifestPart):
    """The graph in which blocks can be deleted. It is none of `artifacts`, because it has another input."""

    artifact: Artifact
    blocks: Annotated[tuple[LesionBlock, ...], Field(min_length=1)]
    """In the order of the gates, from the input to the output of the network."""


class EnsembleMember(_ManifestPart):
    """A network of an ensemble, whose graph averages the probabilities of its members."""

    architecture: Architecture
    preprocess: Preprocess
    """Its mean and standard deviation may differ from those of other members; the rest is the same."""
    temperature: PositiveFloat = 1.0
    """Calibration temperature of this member, before the average."""
    temperature_fit: TemperatureFit | None = None


class Manifest(_ManifestPart):
    """Content of `manifest.json`."""

    schema_version: Literal[1] = Field(SCHEMA, alias="schema")
    name: Annotated[str, Field(pattern=MODEL_NAME)]
    version: PositiveInt
    architecture: Architecture
    labels: tuple[str, ...]
    preprocess: Preprocess
    temperature: PositiveFloat = 1.0
    """Calibration temperature: probabilities = softmax(logits / temperature)."""
    temperature_fit: TemperatureFit | None = None
    """None if the temperature was not fitted, or by a version of `export` that did not record it."""
    members: tuple[EnsembleMember, ...] = ()
    """Members of an ensemble, whose logits are the logarithm of the average of their probabilities."""
    artifacts: tuple[Artifact, ...]
    lesion: Lesion | None = None
    """None for a version without the file."""
    outputs: tuple[str, ...] = OUTPUTS
    """Outputs of the graphs: at least logits and probabilities, in the order of `OUTPUTS` and `LAYER_OUTPUTS`."""
    golden_sha256: Annotated[str, Field(pattern=SHA256)]
    classifier_sha256: Annotated[str, Field(pattern=SHA256)] | None = None
    """None for a version without the file, which is served without class activation maps."""
    provenance: dict[str, Any] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if len(self.labels) != self.architecture.num_classes:
            raise ValueError(f"{len(self.labels)} labels for {self.architecture.num_classes} classes")
        if self.preprocess.channels != self.architecture.in_channels:
            raise ValueError(
                f"preprocessing gives {self.preprocess.channels} channels, "
                f"the network takes {self.architecture.in_channels}"
            )
        if not self.artifacts:
            raise ValueError("no artifact is listed")
        return self

    @property
    def files(self) -> tuple[Artifact, ...]:
        """All graphs: the artifacts, and the one in which blocks can be deleted."""
        return self.artifacts if self.lesion is None else (*self.artifacts, self.lesion.artifact)

    def to_json(self) -> str:
        return self.model_dump_json(by_alias=True, indent=2) + "\n"


def find_versions(path: Path) -> list[Path]:
    """The version folders in a repository or a model, sorted by model and number, or `path` if it is a version folder.

    Raises:
        ManifestError: there are none.
    """
    for pattern in (FILE_NAME, f"*/{FILE_NAME}", f"*/*/{FILE_NAME}"):
        folders = [file.parent.resolve() for file in path.glob(pattern)]
        if found := [folder for folder in folders if re.fullmatch(VERSION, folder.name)]:
            return sorted(found, key=lambda version: (version.parent.name, int(version.name)))
    raise ManifestError(
        f"{path}: holds no exported model: resnet-export build CHECKPOINT --repository FOLDER --name NAME writes one"
    )


def read(version: Path) -> Manifest:
    """The manifest of a version folder in a repository.

    Raises:
        ManifestError: it is missing, not valid, of another schema, or of another model or version than its folders.
    """
    manifest, path = read_moved(version), version / FILE_NAME
    if (manifest.name, str(manifest.version)) != (version.parent.name, version.name):
        raise ManifestError(
            f"{path}: describes {manifest.name} version {manifest.version}, "
            f"but lies in {version.parent.name}/{version.name}"
        )
    return manifest


def read_moved(version: Path) -> Manifest:
    """The manifest of a version folder that may lie anywhere, under any name.

    Raises:
        ManifestError: it is missing, not valid, or of another schema.
    """
    path = version / FILE_NAME
    try:
        return Manifest.model_validate_json(path.read_bytes().removeprefix(codecs.BOM_UTF8))
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise ManifestError(f"{path}: {first_error(error)}") from error


def check_hash(path: Path, expected: str) -> None:
    """Compare a file with the SHA-256 in the manifest.

    Raises:
        ManifestError: the file is missing or has other content.
    """
    try:
        actual = sha256(path)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}") from error
    if problem := git_lfs_problem(path):
        raise ManifestError(problem)
    if actual != expected:
        raise ManifestError(
            f"{path}: its content is not what the manifest describes "
            f"(SHA-256 {actual[:12]}…, expected {expected[:12]}…): copy or export the version again"
        )


def sha256(path: Path) -> str:
    """SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
