"""The parts of every version: validated artifacts, golden images, classifier weights and the manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from export import fusion
from export.errors import BuildError
from export.lint import check_portable
from export.samples import GOLDEN_IMAGES, Samples, evenly_spaced
from export.verify import OnnxRunner, check_parity, measure_accuracy
from models.artifact import classifier_head, golden, manifest
from models.artifact.classifier_head import Classifier
from models.artifact.manifest import OUTPUTS, Artifact, Manifest, Precision, Quantization
from models.artifact.parity import Float32Array
from models.imaging.preprocess import UInt8Array
from models.validation import first_error


@dataclass(frozen=True)
class ArtifactValidator:
    """Runs each artifact, checks it, and describes it for the manifest."""

    samples: Samples
    logits: Float32Array
    """Reference logits of `samples.parity`, float32 [n, classes]."""
    allow_unfused: bool
    outputs: tuple[str, ...] = OUTPUTS
    """Outputs that portable graphs must have."""

    def describe(
        self, path: Path, format: str, precision: Precision, quantization: Quantization | None = None
    ) -> Artifact:
        """The entry of an artifact in the manifest, with parity, fusion and accuracy.

        Raises:
            ParityError, BuildError: the artifact may not be served.
        """
        if format == "onnx":
            check_portable(path, self.outputs)
        runner, test = OnnxRunner(path), self.samples.test
        artifact = Artifact(
            file=path.name,
            format=format,
            precision=precision,
            sha256=manifest.sha256(path),
            parity=check_parity(runner, self.samples.parity, self.logits, precision),
            fusion=fusion.reports(path, (format, precision), all_runtimes=not self.allow_unfused),
            accuracy=None if test is None else measure_accuracy(runner, test),
            quantization=quantization,
        )
        if not self.allow_unfused:
            check_fused(artifact)
        return artifact


def check_fused(artifact: Artifact) -> None:
    """Check that every runtime that can fuse residual additions computes all of them inside its convolutions.

    Raises:
        BuildError: a runtime leaves an addition unfused.
    """
    for runtime, report in artifact.fusion.items():
        if report.unfused and fusion.RUNTIMES[runtime].fuses[artifact.format, artifact.precision]:
            first = report.unfused[0]
            raise BuildError(
                f"{artifact.file}: {runtime} leaves {len(report.unfused)} of {report.residual_adds} residual additions "
                f"unfused, the first {first.node}: {first.reason}; --allow-unfused writes the version all the same"
            )


def describe_version(
    folder: Path, images: UInt8Array, logits: Float32Array, classifier: Classifier | None, **fields: Any
) -> None:
    """Write golden images, classifier weights and, last, the manifest.

    Args:
        folder: folder of the version, with its artifacts.
        images: images to choose the golden ones from, uint8 [n, H, W, C].
        logits: reference logits of all of them, float32 [n, classes].
        classifier: weights of the last layer; None if they are not known.
        fields: the other fields of the manifest.

    Raises:
        BuildError: a field is invalid, such as a label that is no text.
    """
    chosen = evenly_spaced(np.arange(len(images)), GOLDEN_IMAGES)
    golden.write(folder / manifest.GOLDEN_FILE, images[chosen], logits[chosen])
    if classifier is not None:
        classifier_head.write(folder / manifest.CLASSIFIER_FILE, classifier)
        fields["classifier_sha256"] = manifest.sha256(folder / manifest.CLASSIFIER_FILE)
    golden_sha256 = manifest.sha256(folder / manifest.GOLDEN_FILE)
    try:
        described = Manifest(schema=manifest.SCHEMA, golden_sha256=golden_sha256, **fields)
    except ValidationError as error:
        raise BuildError(f"no manifest can be written: {first_error(error)}") from error
    (folder / manifest.FILE_NAME).write_text(described.to_json(), encoding="utf-8")
