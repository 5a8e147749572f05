"""An ONNX classifier that was made elsewhere, as a version of a model.

Where the pooled features and the last feature map can be found, walking back from the logits, they become outputs;
where not, the version is without them. What was written is compared with the file as it came.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from export import fusion
from export.complexity import count_multiply_adds
from export.errors import ForeignWeights
from export.formats import onnx as onnx_format
from export.importing.labels import choose
from export.importing.layout import IMAGENET_MEAN, IMAGENET_STD, prepared
from export.lint import check_portable
from export.provenance import tools
from export.samples import GOLDEN_IMAGES, evenly_spaced, photographs
from export.staging import staged_version
from export.verify import OnnxRunner, check_parity
from export.wrapping.graph import Original, read, with_logits, wrap
from models.artifact import classifier_head, golden, manifest
from models.artifact.manifest import OUTPUTS, Architecture, Artifact, Manifest
from models.artifact.parity import Float32Array
from models.imaging.preprocess import Preprocess, UInt8Array

_DEFAULT_SIZE = 224
_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Adopted:
    """A version, and what could not be had for it."""

    version: Path
    absent: tuple[str, ...]
    """Outputs that it does not give."""
    maps: bool
    """Whether it gives class activation maps."""


def import_onnx(path: Path, repository: Path, name: str, labels: Path | None, wishes: dict[str, Any]) -> Adopted:
    """Write the next version of a model from an ONNX file.

    Args:
        path: takes images, float32 [N, C, H, W] or [N, H, W, C], and gives logits or probabilities.
        repository: folder of models; made if it is not there.
        name: of the model in the repository.
        labels: names of the classes. Default: ImageNet-1k's, for 1,000 of them.
        wishes: fields of `Preprocess`; what is not said is as for ImageNet.

    Raises:
        ForeignWeights: the file is no such classifier, or more must be said of it.
        BuildError: it holds what only one runtime knows, or the version cannot be written.
        ParityError: what was written does not compute what the file does.
    """
    original = read(path)
    preprocess = _preprocess(path, original, wishes)
    images = photographs(preprocess)
    wrapped = wrap(original, preprocess)
    reference = _reference(path, original, preprocess, images)
    names, _ = choose(path, reference.shape[1], labels)
    with staged_version(repository / name) as (folder, number):
        file = folder / "model.onnx"
        onnx_format.save(wrapped.model, file)
        check_portable(file, wrapped.outputs)
        artifact = Artifact(
            file=file.name,
            format="onnx",
            precision="float32",
            sha256=manifest.sha256(file),
            parity=check_parity(OnnxRunner(file), images, reference, "float32"),
            fusion=fusion.reports(file, ("onnx", "float32")),
        )
        chosen = evenly_spaced(np.arange(len(images)), GOLDEN_IMAGES)
        golden.write(folder / manifest.GOLDEN_FILE, images[chosen], reference[chosen])
        weights = original.head.classifier
        if weights is not None:
            classifier_head.write(folder / manifest.CLASSIFIER_FILE, weights)
        described = Manifest(
            schema=manifest.SCHEMA,
            name=name,
            version=number,
            architecture=Architecture(
                name="onnx",
                num_classes=len(names),
                in_channels=original.channels,
                multiply_adds=count_multiply_adds(wrapped.model),
            ),
            labels=names,
            preprocess=preprocess,
            artifacts=(artifact,),
            outputs=wrapped.outputs,
            golden_sha256=manifest.sha256(folder / manifest.GOLDEN_FILE),
            classifier_sha256=None if weights is None else manifest.sha256(folder / manifest.CLASSIFIER_FILE),
            provenance=_provenance(path),
        )
        (folder / manifest.FILE_NAME).write_text(described.to_json(), encoding="utf-8")
    absent = tuple(output for output in OUTPUTS if output not in wrapped.outputs)
    return Adopted(repository / name / str(number), absent, weights is not None)


def _preprocess(path: Path, original: Original, wishes: dict[str, Any]) -> Preprocess:
    size = wishes.get("size") or original.size or (_DEFAULT_SIZE, _DEFAULT_SIZE)
    if original.size not in (None, size):
        raise ForeignWeights(f"{path}: takes images of {original.size}, not {size}")
    if original.channels == 1 and not {"mean", "std"} <= wishes.keys():
        raise ForeignWeights(f"{path}: takes grey images, for which nothing is usual: give --mean and --std")
    usual = {
        "resize": round(max(size) * 256 / 224),
        "interpolation": "bilinear",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "mode": _MODES[original.channels],
    }
    return prepared({**usual, **wishes, "size": size})


def _reference(path: Path, original: Original, preprocess: Preprocess, images: UInt8Array) -> Float32Array:
    """Logits [n, classes] of the file as it came, from images that numpy has normalised, one by one."""
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
