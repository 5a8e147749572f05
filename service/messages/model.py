"""A version that takes requests, as the answering side knows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.artifact.classifier_head import Classifier
from models.artifact.manifest import Accuracy, LesionBlock, Precision
from models.imaging.preprocess import Preprocess

Origin = Literal["set", "tuned", "default rule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigProvenance:
    """The origin of each value of the execution config: the settings, a tuned profile, or the default rule."""

    executor: Origin
    precision: Origin
    threads: Origin
    max_batch: Origin
    reason: str
    """The measurement that is used, or why none is used."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class ServedModel:
    """One version of a model, loaded and ready to compute."""

    key: int
    """Number of this loading: the same version has another key when it is loaded again."""
    name: str
    version: str
    labels: tuple[str, ...]
    architecture: str
    preprocess: Preprocess
    outputs: tuple[str, ...]
    """Names of the outputs that the graph has."""
    classifier: Classifier | None
    """Weights of the last layer, for class activation maps; None if the version or the executor cannot give any."""
    lesion_blocks: tuple[LesionBlock, ...] = ()
    """Blocks that can be deleted, from the input to the output; empty if the version has no graph for it."""
    executor: str
    precision: Precision
    """Precision of the arithmetic; the artifact may hold more."""
    artifact_format: str
    accuracy: Accuracy | None
    card: str
    """Model card in Markdown."""
    threads: int
    """Threads of each instance."""
    single_image_threads: int
    """Threads of the instance for a single image; 0 without such an instance."""
    concurrent_batches: int
    """Batches that are computed at the same time."""
    max_batch: int
    """Most images in a batch."""
    provenance: ConfigProvenance
