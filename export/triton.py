"""`config.pbtxt`, with which NVIDIA's Triton loads the folder of a model.

Triton reads `<model>/config.pbtxt` and `<model>/<version>/model.onnx`, and ignores the other files.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto

from models.files import atomic_write

FILE_NAME = "config.pbtxt"

_FILE = "model.onnx"
_MAX_BATCH = 128
"""The limit of the service for one request; the graph supports any batch."""
_TYPES: dict[int, str] = {TensorProto.UINT8: "TYPE_UINT8", TensorProto.FLOAT: "TYPE_FP32"}


def write_configuration(version: Path) -> Path:
    """Write the configuration of a model beside its versions, from the float32 file of one of them.

    Args:
        version: folder of a version.

    Returns:
        The file.

    Raises:
        OSError: the file cannot be written.
    """
    path = version.parent / FILE_NAME
    atomic_write(
        path, configuration_of(version.parent.name, onnx.load(version / _FILE, load_external_data=False).graph).encode()
    )
    return path


def configuration_of(name: str, graph: onnx.GraphProto) -> str:
    """A ModelConfig of Triton as text.

    Args:
        name: name of the model; by `manifest.MODEL_NAME` it needs no quoting.
        graph: graph with the batch as the first dimension of all tensors.
    """
    tensors = [("input", value) for value in graph.input] + [("output", value) for value in graph.output]
    return "\n".join(
        [
            f'name: "{name}"',
            'backend: "onnxruntime"',
            f'default_model_filename: "{_FILE}"',
            f"max_batch_size: {_MAX_BATCH}",
            *(_tensor(kind, value) for kind, value in tensors),
            "# Waiting requests form a batch; there is no delay to wait for more.",
            "dynamic_batching { }",
            "",
        ]
    )


def _tensor(kind: str, value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    dims = ", ".join(str(size.dim_value or -1) for size in tensor.shape.dim[1:])  # without the batch, which Triton adds
    return f'{kind} {{\n  name: "{value.name}"\n  data_type: {_TYPES[tensor.elem_type]}\n  dims: [ {dims} ]\n}}'
