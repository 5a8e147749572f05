"""Reads OpenVINO's execution graph, which names the layers of the model that each kernel computes."""

from __future__ import annotations

from pathlib import Path

from export.fusion import report_of
from models.artifact.manifest import FusionReport
from models.runtime.openvino_core import core

_FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}


def report(path: Path) -> FusionReport:
    """Read the execution graph of a model on the CPU."""
    compiled = core().compile_model(path, "CPU", _FLOAT32)
    kernels: dict[str, str] = {}
    for operation in compiled.get_runtime_model().get_ops():
        facts = operation.get_rt_info()
        kind = facts["layerType"].astype(str)
        # An operation of several kernels is in the names of each; the first kernel has the addition.
        for layer in facts["originalLayersNames"].astype(str).split(","):
            kernels.setdefault(layer, kind)
    return report_of(path, kernels, lambda kind: kind == "Convolution")
