"""The messages and services of the protocol, from the file of descriptors that the build has compiled.

They are in a pool of their own: a client of the protocol registers the same names in the pool of the process.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from service.grpc.errors import GrpcError

SERVICE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"


@cache
def pool() -> descriptor_pool.DescriptorPool:
    """Descriptors of everything that the server speaks.

    Raises:
        GrpcError: the protocol was not compiled.
    """
    compiled = resources.files("service.grpc") / "proto" / "protocol.binpb"
    try:
        files = descriptor_pb2.FileDescriptorSet.FromString(compiled.read_bytes()).file
    except FileNotFoundError as error:
        raise GrpcError(
            f"{error.filename} is missing, which the build writes: install the project again, or in a clone run "
            "`python setup.py compile_protocol --inplace`"
        ) from error
    own = descriptor_pool.DescriptorPool()
    for file in (*files, *(_copy(module) for module in (health_pb2, reflection_pb2))):
        own.Add(file)
    return own


def _copy(module: Any) -> descriptor_pb2.FileDescriptorProto:
    return descriptor_pb2.FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)


@cache
def message(name: str) -> Any:
    """A message class of the protocol.

    Args:
        name: such as ModelInferRequest.
    """
    return message_factory.GetMessageClass(pool().FindMessageTypeByName(f"inference.{name}"))


def method_names() -> list[str]:
    """All methods of the service."""
    return [method.name for method in pool().FindServiceByName(SERVICE).methods]
