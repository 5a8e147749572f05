"""Writes the int8 files of a version."""

from __future__ import annotations

from pathlib import Path

import onnx

from export.formats import onnx as onnx_format
from export.quantization import qdq
from export.quantization.calibrate import calibrate
from export.quantization.search import Selection, search
from export.version import ArtifactValidator
from models.artifact.manifest import Artifact
from models.imaging.preprocess import UInt8Array


def write_int8(
    source: Path, folder: Path, calibration: UInt8Array, selection: Selection, validator: ArtifactValidator
) -> list[Artifact]:
    """Write two int8 files, one for ONNX Runtime on CPUs and one for TensorRT and OpenVINO.

    Args:
        source: float32 file of `formats.onnx`.
        folder: folder of the version.
        calibration: images to calibrate on, uint8 [n, H, W, C].
        selection: images to choose the quantisation on.
        validator: validates the files.

    Raises:
        ParityError, BuildError: a file may not be served.
    """
    ranges = calibrate(source, qdq.activations(onnx.load(source)), calibration)
    artifacts = []
    for file, format, scheme in (
        ("model.int8-ort.onnx", "onnx-onnxruntime", qdq.ONNXRUNTIME),
        ("model.int8.onnx", "onnx", qdq.PORTABLE),
    ):
        model, quantization = search(source, scheme, ranges, selection)
        onnx_format.save(model, folder / file)
        artifacts.append(validator.describe(folder / file, format, "int8", quantization))
    return artifacts
