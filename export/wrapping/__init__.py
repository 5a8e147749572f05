"""Imports an ONNX classifier of another project as a version of a model.

If the graph before the logits has pooled features and a last feature map, they become outputs; otherwise the version
lacks them. The written file is compared with the original one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from export.complexity import count_multiply_adds
from export.errors import ForeignWeights
from export.formats import onnx as onnx_format
from export.importing.labels import resolve_labels
from export.importing.layout import IMAGENET_MEAN, IMAGENET_STD, MODES, make_preprocess
from export.provenance import tools
from export.samples import from_photographs
from export.staging import staged_version
from export.version import ArtifactValidator, describe_version
from export.wrapping.graph import Original, read, with_logits, wrap
from models.artifact import manifest
from models.artifact.manifest import OUTPUTS, Architecture
from models.artifact.parity import Float32Array
from models.imaging.preprocess import Preprocess, UInt8Array
from models.runtime.onnxruntime import ort

_DEFAULT_SIZE = 224


@dataclass(frozen=True)
class ImportedVersion:
    """An imported version, and the parts that it lacks."""

    version: Path
    absent: tuple[str, ...]
    """Outputs that it lacks."""
    maps: bool
    """Whether it has class activation maps."""


def import_onnx(
    path: Path, repository: Path, name: str, labels: Path | None, overrides: dict[str, Any]
) -> ImportedVersion:
    """Write the next version of a model from an ONNX file.

    Args:
        path: ONNX file with images as input, float32 [N, C, H, W] or [N, H, W, C], and logits or probabilities as
            output.
        repository: folder of models; created if it does not exist.
        name: name of the model in the repository.
        labels: names of the classes. Default: ImageNet-1k's, for 1,000 classes.
        overrides: fields of `Preprocess`; the others are those of ImageNet.

    Raises:
        ForeignWeights: the file is no such classifier, or needs further options.
        BuildError: the graph has operators of a single runtime, or the version cannot be written.
        ParityError: the written file computes other logits than the original.
    """
    original = read(path)
    preprocess = _preprocess(path, original, overrides)
    used = from_photographs(preprocess)
    images = used.parity
    wrapped = wrap(original, preprocess)
    reference = _reference(path, original, preprocess, images)
    names, _ = resolve_labels(path, reference.shape[1], labels)
    validator = ArtifactValidator(used, reference, allow_unfused=True, outputs=wrapped.outputs)
    architecture = Architecture(
        name="onnx",
        num_classes=len(names),
        in_channels=original.channels,
        multiply_adds=count_multiply_adds(wrapped.model),
    )
    with staged_version(repository / name) as (folder, number):
        onnx_format.save(wrapped.model, folder / "model.onnx")
        describe_version(
            folder,
            images,
            reference,
            original.head.classifier,
            name=name,
            version=number,
            architecture=architecture,
            labels=names,
            preprocess=preprocess,
            artifacts=(validator.describe(folder / "model.onnx", "onnx", "float32"),),
            outputs=wrapped.outputs,
            provenance=_provenance(path),
        )
    absent = tuple(output for output in OUTPUTS if output not in wrapped.outputs)
    return ImportedVersion(repository / name / str(number), absent, original.head.classifier is not None)


def _preprocess(path: Path, original: Original, overrides: dict[str, Any]) -> Preprocess:
    size = overrides.get("size") or original.size or (_DEFAULT_SIZE, _DEFAULT_SIZE)
    if original.size not in (None, size):
        raise ForeignWeights(f"{path}: takes images of {original.size}, not {size}")
    if original.channels == 1 and not {"mean", "std"} <= overrides.keys():
        raise ForeignWeights(f"{path}: takes grey images, which have no default normalisation: give --mean and --std")
    defaults = {
        "resize": round(max(size) * 256 / 224),
        "interpolation": "bilinear",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "mode": MODES[original.channels],
    }
    return make_preprocess({**defaults, **overrides, "size": size})


def _reference(path: Path, original: Original, preprocess: Preprocess, images: UInt8Array) -> Float32Array:
    """Logits [n, classes] of the original file, for images that are normalised by numpy and computed one by one."""
    normalised = (images / 255 - np.array(preprocess.mean)) / np.array(preprocess.std)
    if original.channels_first:
        normalised = normalised.transpose(0, 3, 1, 2)
    given = normalised.astype(np.float32)
    try:
        session = ort.InferenceSession(with_logits(original), providers=["CPUExecutionProvider"])
        rows = [session.run(None, {original.input: image[None]})[0] for image in given]
    except Exception as error:  # the runtime's exceptions have no common base
        first = str(error).splitlines()[0]
        raise ForeignWeights(f"{path}: ONNX Runtime cannot compute it: {first}") from error
    logits: Float32Array = np.concatenate(rows)
    if logits.shape != (len(images), logits.shape[-1]):
        raise ForeignWeights(f"{path}: gives {list(rows[0].shape)} for an image, not one row of logits")
    return logits


def _provenance(path: Path) -> dict[str, object]:
    return {
        "imported": {"layout": "onnx", "file": path.name, "sha256": manifest.sha256(path)},
        "tools": tools(onnx, ort),
    }
