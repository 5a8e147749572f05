"""The files of a version beside its artifacts: golden images, classifier weights and manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from export.samples import GOLDEN_IMAGES, evenly_spaced
from models.artifact import classifier_head, golden, manifest
from models.artifact.classifier_head import Classifier
from models.artifact.manifest import Manifest
from models.artifact.parity import Float32Array
from models.imaging.preprocess import UInt8Array


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
    """
    chosen = evenly_spaced(np.arange(len(images)), GOLDEN_IMAGES)
    golden.write(folder / manifest.GOLDEN_FILE, images[chosen], logits[chosen])
    if classifier is not None:
        classifier_head.write(folder / manifest.CLASSIFIER_FILE, classifier)
    described = Manifest(
        schema=manifest.SCHEMA,
        golden_sha256=manifest.sha256(folder / manifest.GOLDEN_FILE),
        classifier_sha256=None if classifier is None else manifest.sha256(folder / manifest.CLASSIFIER_FILE),
        **fields,
    )
    (folder / manifest.FILE_NAME).write_text(described.to_json(), encoding="utf-8")
