"""TensorRT for RTX builds engines without a GPU, and tells in its log what it made of the graph."""

from __future__ import annotations

from pathlib import Path

import tensorrt_rtx

from export.formats.tensorrt import Options, build
from export.fusion.tensorrt import read_log
from models.artifact.manifest import FusionReport
from models.runtime.engine_plan import BatchRange

_OPTIONS = Options((BatchRange(min=1, opt=8, max=32),))  # what is fused is the same in every profile


def report(path: Path) -> FusionReport:
    """Build an engine and read the log.

    Raises:
        EngineError: the graph was refused, or the log does not tell its layers.
    """
    return read_log(build(tensorrt_rtx, path, _OPTIONS).layers, path)
