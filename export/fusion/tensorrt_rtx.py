"""Builds an engine with TensorRT for RTX, which needs no GPU, and reads its log."""

from __future__ import annotations

from pathlib import Path

import tensorrt_rtx

from export.formats.tensorrt import BuildOptions, build
from export.fusion.tensorrt import read_log
from models.artifact.manifest import FusionReport
from models.runtime.engine_plan import BatchRange

_OPTIONS = BuildOptions((BatchRange(min=1, opt=8, max=32),))  # fusion is the same in every profile


def report(path: Path) -> FusionReport:
    """Build an engine and read the log.

    Raises:
        EngineError: the graph was refused, or the log does not list its layers.
    """
    return read_log(build(tensorrt_rtx, path, _OPTIONS).layers, path)
