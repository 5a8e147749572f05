"""Calls of the service over gRPC, with the messages of Triton's own client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2

from models.imaging.preprocess import UInt8Array
from tests.support.service import Client

SERVICE = "/inference.GRPCInferenceService/"


def address(client: Client) -> str:
    """Address of gRPC of a service that has the setting `grpc_port`."""
    server: Any = client.app
    return f"127.0.0.1:{server.state.grpc.port}"


def pixels(images: UInt8Array, name: str = "tiny") -> Any:
    """A request to compute pixels."""
    request = service_pb2.ModelInferRequest(model_name=name)
    request.inputs.add(name="images", datatype="UINT8", shape=images.shape)
    request.raw_input_contents.append(images.tobytes())
    return request


def typed(request: Any) -> Any:
    """The same request with typed contents."""
    changed = service_pb2.ModelInferRequest()
    changed.CopyFrom(request)
    changed.inputs[0].contents.uint_contents.extend(request.raw_input_contents[0])
    del changed.raw_input_contents[:]
    return changed


def inputs(images: UInt8Array | Sequence[bytes]) -> list[triton.InferInput]:
    """The input of tritonclient: pixels, or image files."""
    if isinstance(images, np.ndarray):
        tensor = triton.InferInput("images", list(images.shape), "UINT8")
        tensor.set_data_from_numpy(images)
    else:
        tensor = triton.InferInput("image", [len(images), 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[file] for file in images], np.object_))
    return [tensor]


def failure(channel: grpc.Channel, method: str, data: bytes, **options: Any) -> grpc.RpcError:
    """The error of a call that fails."""
    try:
        channel.unary_unary(SERVICE + method)(data, **options)
    except grpc.RpcError as error:
        return error
    raise AssertionError(f"{method} was answered")
