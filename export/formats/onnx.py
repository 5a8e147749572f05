"""ONNX in float32 or half precision, with standard operators only, so that any runtime can load it."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import onnx
import torch
from torch import Tensor

from export.graph import ServingGraph
from models.artifact.manifest import INPUT
from models.imaging.preprocess import Preprocess

OPSET = 20
NO_INPUTS: Mapping[str, Tensor] = MappingProxyType({})


def write(
    graph: ServingGraph, preprocess: Preprocess, path: Path, further_inputs: Mapping[str, Tensor] = NO_INPUTS
) -> None:
    """Export with a dynamic batch dimension. The bytes depend on the weights only, not on machine or folder.

    Args:
        graph: the network.
        preprocess: has the shape of the images.
        path: file to write.
        further_inputs: an example of each input after the images, by name, in the order of the arguments of `forward`.
    """
    example = torch.zeros(2, *preprocess.shape, dtype=torch.uint8)
    with _quiet():
        program = torch.onnx.export(
            graph.eval(),
            (example, *further_inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT, *further_inputs],
            output_names=list(graph.outputs),
            dynamic_shapes=({0: torch.export.Dim("N")}, *(None for _ in further_inputs)),
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    model = _without_origins(program.model_proto)
    onnx.checker.check_model(model, full_check=True)
    save(model, path)


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a model; the same model gives the same bytes."""
    path.write_bytes(model.SerializeToString(deterministic=True))


def _without_origins(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove stack traces and source paths."""
    model.ClearField("metadata_props")
    model.ClearField("doc_string")
    model.graph.ClearField("metadata_props")
    model.graph.ClearField("doc_string")
    for item in (*model.graph.node, *model.graph.initializer, *model.graph.value_info, *model.graph.input,
                 *model.graph.output):  # fmt: skip
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    return model


@contextlib.contextmanager
def _quiet():  # type: ignore[no-untyped-def]
    """Suppress the exporter's progress lines and its warnings about internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
