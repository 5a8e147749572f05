"""gRPC's own services: health, and reflection for clients such as grpcurl."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

import grpc
from grpc.aio import EOF
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from service.core.errors import NotFound, ServiceError
from service.grpc import protocol, wire
from service.grpc.calls import Access, Call, Calls
from service.grpc.codes import code_of
from service.grpc.draining import SERVICE_ENDS, Draining
from service.inference.pipeline import Pipeline

_LOOK_SECONDS = 1.0
_MAX_BYTES = 4096
"""Largest request."""
_REFLECTION = ("grpc.reflection.v1.ServerReflection", reflection.SERVICE_NAME)
"""The two versions of the service have the same messages."""
_NO_CHECK = Access()


class Health:
    """The health service: the state of the server, under its own name and that of the protocol.

    Args:
        pipeline: knows whether it can answer.
        calls: counts the calls.
        draining: ends `Watch` when the service ends.
    """

    def __init__(self, pipeline: Pipeline, calls: Calls, draining: Draining) -> None:
        self._pipeline = pipeline
        self._calls = calls
        self._draining = draining

    def handlers(self) -> Mapping[str, Any]:
        """The handlers by method."""
        return {
            "Check": self._calls.unary(f"/{protocol.HEALTH}/Check", _NO_CHECK, self._check),
            "Watch": grpc.stream_stream_rpc_method_handler(self._watch),
        }

    async def _check(self, call: Call, data: bytes) -> bytes:
        status = await self._status(await wire.parse(HealthCheckRequest, data, _MAX_BYTES))
        if status == HealthCheckResponse.SERVICE_UNKNOWN:
            raise NotFound(f"the server has no such service; there is: {protocol.SERVICE}")
        written: bytes = HealthCheckResponse(status=status).SerializeToString()
        return written

    async def _watch(self, _: Any, context: Any) -> None:
        try:
            data = await self._calls.in_time(self._draining.read(context))
            if data is SERVICE_ENDS:
                return
            request = await wire.parse(HealthCheckRequest, b"" if data is EOF else bytes(data), _MAX_BYTES)
        except ServiceError as error:
            await self._draining.linger(context)
            await context.abort(code_of(error), str(error))
        sent = None
        while True:
            status = await self._status(request)
            if status != sent:
                await context.write(HealthCheckResponse(status=status).SerializeToString())
                sent = status
            if self._draining.begun:
                return
            # No event tells it: the state is that of the models, the devices and the decoder threads together.
            await self._draining.wait(_LOOK_SECONDS)

    async def _status(self, request: Any) -> Any:
        if request.service not in ("", protocol.SERVICE):
            return HealthCheckResponse.SERVICE_UNKNOWN
        if self._draining.begun or await self._pipeline.not_ready():
            return HealthCheckResponse.NOT_SERVING
        return HealthCheckResponse.SERVING


def reflection_handlers(draining: Draining) -> Mapping[str, Mapping[str, Any]]:
    """The handlers of reflection by service and method."""
    services = (protocol.SERVICE, protocol.HEALTH, *_REFLECTION)
    servicer = reflection.aio.ReflectionServicer(services, protocol.pool())

    async def reflect(_: Any, context: Any) -> None:
        async def requests() -> AsyncIterator[Any]:
            while (data := await draining.read(context)) not in (EOF, SERVICE_ENDS):
                yield await wire.parse(ServerReflectionRequest, data, _MAX_BYTES)

        try:
            async with aclosing(servicer.ServerReflectionInfo(requests(), None)) as responses:
                async for response in responses:
                    await context.write(response.SerializeToString())
        except ServiceError as error:
            await draining.linger(context)
            await context.abort(code_of(error), str(error))

    handler = grpc.stream_stream_rpc_method_handler(reflect)
    return {service: {"ServerReflectionInfo": handler} for service in _REFLECTION}
