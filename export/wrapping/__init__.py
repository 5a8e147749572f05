"""Imports an ONNX classifier of another project as a version of a model.

If the graph before the logits has pooled features and a last feature map, they become outputs; otherwise the version
lacks them. The written file is compared with the original one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from export.complexity import count_multiply_adds
from export.errors import BuildError, ForeignWeights
from export.formats import onnx as onnx_format
from export.importing.labels import resolve_labels
from export.importing.layout import IMAGENET_MEAN, IMAGENET_STD, MODES, make_preprocess
from export.provenance import tools
from export.samples import from_photographs
from export.staging import staged_version
from export.version import ArtifactValidator, describe_version
from export.wrapping.graph import Original, Wrapped, first_line, read, with_output, wrap
from export.wrapping.values import OriginalValues, check_probabilities, find_meaning
from models.artifact import manifest
from models.artifact.manifest import INPUT, OUTPUTS, Architecture
from models.artifact.parity import Float32Array, ParityError
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
    try:
        return _import(path, repository, name, labels, overrides)
    except (BuildError, ParityError, OSError):
        raise
    except Exception as error:  # onnx and the runtimes raise errors of any class for unusual graphs
        raise ForeignWeights(f"{path}: cannot be imported: {first_line(error)}") from error


def _import(path: Path, repository: Path, name: str, labels: Path | None, overrides: dict[str, Any]) -> ImportedVersion:
    original = read(path)
    preprocess = _preprocess(path, original, overrides)
    used = from_photographs(preprocess)
    images = used.parity
    values = _original_values(path, original, preprocess, images)
    head, reference = find_meaning(path, original.head, values)
    original = replace(original, head=head)
    wrapped = wrap(original, preprocess)
    check_probabilities(path, _probabilities(path, original, wrapped, images), values)
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


def _original_values(path: Path, original: Original, preprocess: Preprocess, images: UInt8Array) -> OriginalValues:
    """The output of the file, and the logits in float32, for images that are normalised by numpy."""
    normalised = (images / 255 - np.array(preprocess.mean)) / np.array(preprocess.std)
    if original.channels_first:
        normalised = normalised.transpose(0, 3, 1, 2)
    kinds = (original.kind, TensorProto.FLOAT)
    models = (with_output(original.file, original.head.output), with_output(original.model, original.head.logits))
    output, logits = (
        _rows(path, original, model, normalised.astype(helper.tensor_dtype_to_np_dtype(kind)))
        for model, kind in zip(models, kinds, strict=True)
    )
    return OriginalValues(output, logits)


def _rows(path: Path, original: Original, model: bytes, images: np.ndarray[Any, Any]) -> Float32Array:
    """The output of a model, float32 [n, classes], for images that are computed one by one."""
    copies = original.batch or 1
    try:
        session = _session(model)
        # A file for a batch size gets the same image in all places.
        values = [session.run(None, {original.input: np.repeat(image[None], copies, 0)})[0] for image in images]
    except Exception as error:  # the runtime's exceptions have no common base
        raise ForeignWeights(f"{path}: ONNX Runtime cannot compute it: {first_line(error)}") from error
    shape = values[0].shape
    if len(shape) < 2 or shape[0] != copies:
        raise ForeignWeights(f"{path}: gives {list(shape)} for {copies} images, not a row of values for each")
    return np.stack([value[0].reshape(-1) for value in values]).astype(np.float32)


def _probabilities(path: Path, original: Original, wrapped: Wrapped, images: UInt8Array) -> Float32Array:
    """Probabilities of the wrapped graph, float32 [n, classes], computed in one batch."""
    try:
        session = _session(wrapped.model.SerializeToString())
        found: Float32Array = session.run(["probabilities"], {INPUT: images})[0]
    except Exception as error:
        fixed = f"batches of {original.batch}" if original.batch else "single images"
        raise ForeignWeights(
            f"{path}: computes {fixed} only: export it for any batch size, as torch.onnx.export does with "
            "dynamic_shapes=({0: 'batch'},), or with dynamic_axes if dynamo=False"
        ) from error
    return found


def _session(content: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors are raised as exceptions
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _provenance(path: Path) -> dict[str, object]:
    return {
        "imported": {"layout": "onnx", "file": path.name, "sha256": manifest.sha256(path)},
        "tools": tools(onnx, ort),
    }
