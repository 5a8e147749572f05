"""From a checkpoint to one version of a model repository, validated before it becomes visible."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxscript
import torch

from export import samples
from export.formats import onnx as onnx_format
from export.formats.lesion import check_shortcuts, write_lesion
from export.graph import ServingGraph
from export.provenance import tools
from export.quantization.artifacts import write_int8
from export.quantization.search import Selection
from export.staging import staged_version
from export.temperature import choose_temperature
from export.version import ArtifactValidator, describe_version
from models.architectures import ResNet
from models.architectures.complexity import count_multiply_adds
from models.artifact import manifest
from models.artifact.classifier_head import Classifier
from models.artifact.manifest import LAYER_OUTPUTS, OUTPUTS, Artifact, Precision
from models.artifact.parity import Float32Array
from models.imaging.preprocess import UInt8Array
from models.runtime.onnxruntime import ort
from models.training import checkpoint
from models.training.checkpoint import Checkpoint
from models.training.evaluate import predict

_BATCH = 64
_FLOAT_FILES: dict[Precision, tuple[str, torch.dtype]] = {
    "float32": ("model.onnx", torch.float32),
    "float16": ("model.fp16.onnx", torch.float16),
}


def build(
    checkpoint_path: Path,
    repository: Path,
    name: str,
    data: Path | None = None,
    *,
    float16: bool = False,
    int8: bool = False,
    layers: bool = False,
    lesions: bool = False,
    allow_unfused: bool = False,
    by_position: bool = False,
) -> Path:
    """Write the next version of a model, which appears only once it is complete and validated; gives its folder.

    Args:
        checkpoint_path: safetensors file of `resnet-train`.
        repository: folder of models; created if it does not exist.
        name: name of the model in the repository.
        data: folder of a data set, used in the checkpoint's geometry to fit the temperature, to calibrate int8, to
            compare artifacts and to measure accuracy. By default, shipped photographs are used; the temperature is 1.
        float16: also write a file in half precision, for GPUs.
        int8: also write two int8 files, one for ONNX Runtime on CPUs and one for TensorRT and OpenVINO.
        layers: the files also have the outputs `LAYER_OUTPUTS`, the pooled features of each stage.
        lesions: also write `model.lesion.onnx`, in which blocks can be deleted.
        allow_unfused: write the version even if a runtime leaves a residual addition outside its convolutions.
        by_position: match the classes of the data set by their order, not by their names.

    Raises:
        CheckpointError: the file is no usable checkpoint.
        DataError: the folder is no usable data set, or has other classes than the checkpoint.
        ParityError: an artifact computes other logits than the checkpoint.
        BuildError: an addition is not fused, `lesions` is set for a plain network, or the folder cannot be written.
    """
    trained, model = _load(checkpoint_path, lesions)
    used = samples.find(trained, data, by_position)
    outputs = OUTPUTS + LAYER_OUTPUTS[: len(model.stages) if layers else 0]
    validator = ArtifactValidator(used, eager_logits(model, used.parity, trained), allow_unfused, outputs)
    selection = Selection(used.selection, eager_logits(model, used.selection, trained), used.selection_labels)
    temperature, fit = choose_temperature(selection.logits, selection.labels, used.selection_source)
    with staged_version(repository / name) as (folder, number):
        write = partial(_write_float, trained, model, temperature, folder, validator)
        artifacts = [write(precision) for precision in _FLOAT_FILES if float16 or precision == "float32"]
        artifacts += write_int8(folder / "model.onnx", folder, used.calibration, selection, validator) if int8 else []
        describe_version(
            folder,
            used.parity,
            validator.logits,
            _classifier(model),
            name=name,
            version=number,
            **network_fields(trained, model),
            temperature=temperature,
            temperature_fit=fit,
            artifacts=tuple(artifacts),
            lesion=write_lesion(model, trained.preprocess, temperature, folder, used) if lesions else None,
            outputs=outputs,
            provenance=_provenance(trained, checkpoint_path),
        )
    return repository / name / str(number)


def _load(path: Path, lesions: bool) -> tuple[Checkpoint, ResNet]:
    """A checkpoint and its network, which must have shortcuts for lesions."""
    trained = checkpoint.load(path)
    model = trained.model()
    if lesions:
        check_shortcuts(model)
    return trained, model


def _classifier(model: ResNet) -> Classifier:
    return Classifier(*(values.detach().numpy() for values in (model.classifier.weight, model.classifier.bias)))


def network_fields(trained: Checkpoint, model: ResNet) -> dict[str, Any]:
    """The fields of the manifest from the checkpoint; the multiply-adds of the architecture are counted."""
    multiply_adds = count_multiply_adds(model, trained.preprocess.channels, trained.preprocess.size)
    architecture = trained.architecture.model_copy(update={"multiply_adds": multiply_adds})
    return {"architecture": architecture, "labels": trained.labels, "preprocess": trained.preprocess}


def _write_float(
    trained: Checkpoint,
    model: ResNet,
    temperature: float,
    folder: Path,
    validator: ArtifactValidator,
    precision: Precision,
) -> Artifact:
    file, dtype = _FLOAT_FILES[precision]
    graph = ServingGraph(model, trained.preprocess, temperature, dtype, validator.outputs)
    onnx_format.write(graph, trained.preprocess, folder / file)
    return validator.describe(folder / file, "onnx", precision)


def eager_logits(model: ResNet, images: UInt8Array, trained: Checkpoint) -> Float32Array:
    """Logits of the eager model, float32 [n, classes], of images, uint8 [n, H, W, C]."""
    batches = [images[first : first + _BATCH] for first in range(0, len(images), _BATCH)]
    return np.concatenate([predict(model, batch, trained.preprocess).numpy() for batch in batches])


def _provenance(trained: Checkpoint, path: Path) -> dict[str, object]:
    return {
        "checkpoint_sha256": manifest.sha256(path),
        "dataset": trained.training.get("dataset"),
        "training": {key: value for key, value in trained.training.items() if key != "dataset"},
        "tools": tools(torch, onnx, onnxscript, ort),
    }
