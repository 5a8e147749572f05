"""Values that the original graph gives for images, in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from export.errors import ForeignWeights
from export.wrapping.graph import Original, Wrapped, with_output
from export.wrapping.values import OriginalValues
from models.artifact.manifest import INPUT
from models.artifact.parity import Float32Array
from models.imaging.preprocess import Preprocess, UInt8Array
from models.runtime.onnxruntime import ort
from models.validation import first_line


def original_values(path: Path, original: Original, preprocess: Preprocess, images: UInt8Array) -> OriginalValues:
    """The output of the file, and the logits in float32, for images that are normalised by numpy."""
    given = original.input
    pixels = images if given.is_integer else (images / 255 - np.array(preprocess.mean)) / np.array(preprocess.std)
    if original.bgr:
        pixels = pixels[..., ::-1]
    if given.channels_first:
        pixels = pixels.transpose(0, 3, 1, 2)
    kinds = (given.kind, given.kind if given.is_integer else TensorProto.FLOAT)
    models = (with_output(original.file, original.head.output), with_output(original.model, original.head.logits))
    output, logits = (
        _rows(path, original, model, pixels.astype(helper.tensor_dtype_to_np_dtype(kind)))
        for model, kind in zip(models, kinds, strict=True)
    )
    return OriginalValues(output, logits)


def wrapped_probabilities(path: Path, original: Original, wrapped: Wrapped, images: UInt8Array) -> Float32Array:
    """Probabilities of the wrapped graph, float32 [n, classes], computed in one batch."""
    try:
        session = _session(wrapped.model.SerializeToString())
        found: Float32Array = session.run(["probabilities"], {INPUT: images})[0]
    except Exception as error:
        fixed = f"batches of {original.input.batch}" if original.input.batch else "single images"
        raise ForeignWeights(
            f"{path}: computes {fixed} only: export it for any batch size, as torch.onnx.export does with "
            "dynamic_shapes=({0: 'batch'},), or with dynamic_axes if dynamo=False"
        ) from error
    return found


def _rows(path: Path, original: Original, model: bytes, images: np.ndarray[Any, Any]) -> Float32Array:
    """The output of a model, float32 [n, classes], for images that are computed one by one."""
    copies = original.input.batch or 1
    try:
        session = _session(model)
        # A file for a batch size gets the same image in all places.
        values = [session.run(None, {original.input.name: np.repeat(image[None], copies, 0)})[0] for image in images]
    except Exception as error:  # the runtime's exceptions have no common base
        raise ForeignWeights(f"{path}: ONNX Runtime cannot compute it: {first_line(error)}") from error
    shape = values[0].shape
    if len(shape) < 2 or shape[0] != copies:
        raise ForeignWeights(f"{path}: gives {list(shape)} for {copies} images, not a row of values for each")
    if sum(length > 1 for length in shape[1:]) > 1:
        raise ForeignWeights(
            f"{path}: gives {list(shape[1:])} per image, values of several places as of a detector or a "
            "segmentation: only classifiers of whole images are supported"
        )
    return np.stack([value[0].reshape(-1) for value in values]).astype(np.float32)


def _session(content: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors are raised as exceptions
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
