"""Triton's configuration of a model, read with the protobuf of Triton's own client."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from google.protobuf import text_format
from onnx import TensorProto

TYPES = {TensorProto.UINT8: "TYPE_UINT8", TensorProto.FLOAT: "TYPE_FP32"}


def protobuf() -> ModuleType:
    """`tritonclient.grpc.model_config_pb2`, without the package around it, which needs grpc."""
    package = importlib.util.find_spec("tritonclient")
    assert package is not None and package.submodule_search_locations
    file = Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_config(path: Path) -> Any:
    """A ModelConfig."""
    return text_format.Parse(path.read_text(), protobuf().ModelConfig())
