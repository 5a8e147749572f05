"""ONNX files of realistic networks, as `export` writes them: float32, and the portable int8 file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch

from export.formats import onnx as onnx_format
from export.graph import ServingGraph
from export.quantization import qdq
from export.quantization.calibrate import calibrate
from export.quantization.search import Selection, search
from export.samples import photographs
from export.verify import OnnxRunner
from models.artifact.manifest import LAYER_OUTPUTS, OUTPUTS
from models.imaging.preprocess import UInt8Array
from tests.support.networks import make_checkpoint

TEMPERATURE = 1.25


@dataclass(frozen=True)
class NetworkFiles:
    """The files of a network, and images for it."""

    float32: Path
    int8: Path
    images: UInt8Array

    def of(self, precision: str) -> Path:
        """The file that an engine of a precision is built from."""
        return self.int8 if precision == "int8" else self.float32


def write_network(
    arch: str,
    folder: Path,
    *,
    size: int = 32,
    channels: int = 3,
    classes: int = 10,
    layers: bool = False,
    keep_float: tuple[int, ...] = (),
    select: bool = False,
    **options: Any,
) -> NetworkFiles:
    """Write the files of an architecture.

    Args:
        arch: a row of the table of architectures.
        folder: where to write.
        size: height and width of the images.
        channels: channels of the images.
        classes: number of classes.
        layers: also write the pooled features of each stage.
        keep_float: numbers of the convolutions that the int8 file keeps in float.
        select: choose the quantisation as `export` does, so that the int8 file is one that it would write.
        options: further options of the network.
    """
    checkpoint = make_checkpoint(arch, size=size, channels=channels, classes=classes, **options)
    model, preprocess = checkpoint.model(), checkpoint.preprocess
    outputs = OUTPUTS + LAYER_OUTPUTS[: len(model.stages) if layers else 0]
    float32, int8 = folder / "model.onnx", folder / "model.int8.onnx"
    onnx_format.write(ServingGraph(model, preprocess, TEMPERATURE, torch.float32, outputs), preprocess, float32)
    images, graph = photographs(preprocess), onnx.load(float32)
    ranges = calibrate(float32, qdq.activations(graph), images)
    if select:
        selection = Selection(images, OnnxRunner(float32).logits(images), None)
        quantized, _ = search(float32, qdq.PORTABLE, ranges, selection)
    else:
        names = qdq.layers(graph)
        kept = frozenset(names[number] for number in keep_float)
        quantized = qdq.quantize(graph, ranges["minmax"], qdq.PORTABLE, kept)
    onnx_format.save(quantized, int8)
    return NetworkFiles(float32, int8, images)
