"""The gRPC server of a process, in the event loop of its HTTP server."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from service.core.api_keys import ApiKeyStore, KeyCheck
from service.core.body_memory import BodyMemory
from service.core.rate_limit import Rates
from service.grpc import protocol
from service.grpc.calls import Access, Call, Calls, Respond
from service.grpc.codes import Unsupported
from service.grpc.draining import Draining
from service.grpc.errors import GrpcError
from service.grpc.health import Health, reflection_handlers
from service.grpc.infer import Infer
from service.grpc.prepare import addresses
from service.grpc.queries import Queries
from service.grpc.stream import Stream
from service.inference.pipeline import Pipeline
from service.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from service.telemetry.tracing import Spans

_MAX_STREAMS = 1024
"""Calls at the same time over one connection; further ones wait in the client."""
_CONNECTION_SECONDS = 300
"""Age at which a connection to one of several workers ends after its calls: the next one may reach another worker."""


_LIBRARY_LOG = logging.getLogger("grpc._cython.cygrpc")
_MAX_OPTION = (1 << 31) - 1
_ADMIN = ("RepositoryModelLoad", "RepositoryModelUnload")


@dataclass(frozen=True)
class SharedLimits:
    """Limits of clients, over both protocols."""

    keys: ApiKeyStore | None
    """None if calls need no key."""
    rates: Rates | None
    """Limits the calls of each client; None for no limit."""
    memory: BodyMemory


class GrpcServer:
    """Serves a pipeline.

    Args:
        pipeline: answers the calls.
        metrics: counts them.
        limits: limits of clients.
        spans: makes spans of calls; None without tracing.

    Raises:
        GrpcError: the protocol was not compiled.
    """

    def __init__(self, pipeline: Pipeline, metrics: Metrics, limits: SharedLimits, spans: Spans | None) -> None:
        self._settings = pipeline.settings
        self._workers = metrics.workers
        self._max_connections = -(-self._settings.max_connections // metrics.workers)
        self._draining = Draining()
        self._stopped: asyncio.Task[None] | None = None
        self._server: Any = None
        self.port = self._settings.grpc_port
        calls = Calls(self._settings, metrics, spans, limits.memory)
        self._handlers = {
            protocol.SERVICE: _methods(pipeline, calls, limits, self._draining),
            protocol.HEALTH: Health(pipeline, calls, self._draining).handlers(),
            **reflection_handlers(self._draining),
        }

    async def start(self) -> None:
        """Listen.

        Raises:
            GrpcError: the port cannot be bound.
        """
        _LIBRARY_LOG.addFilter(_is_not_disconnect)  # a filter that is there already is not added again
        server = grpc.aio.server(
            options=list(self._options().items()),
            maximum_concurrent_rpcs=self._max_connections,
        )
        for service, handlers in self._handlers.items():
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        try:
            for family, host in addresses(self._settings.host, self.port or 0):
                address = f"[{host}]:{self.port}" if family == socket.AF_INET6 else f"{host}:{self.port}"
                self.port = self._add_port(server, address)
        except RuntimeError as error:
            raise GrpcError(f"grpc_port: {self._settings.host}:{self.port} cannot be bound: {error}") from error
        await server.start()
        self._server = server

    def _add_port(self, server: Any, address: str) -> int:
        certificate, key = self._settings.ssl_certfile, self._settings.ssl_keyfile
        if certificate is None:
            return int(server.add_insecure_port(address))
        pair = ((key or certificate).read_bytes(), certificate.read_bytes())
        return int(server.add_secure_port(address, grpc.ssl_server_credentials([pair])))

    def _options(self) -> dict[str, int]:
        """Options of grpcio's server."""
        settings = self._settings
        options = {
            "grpc.so_reuseport": 1,
            "grpc.max_receive_message_length": settings.max_body_bytes,
            "grpc.max_send_message_length": -1,
            "grpc.max_concurrent_streams": _MAX_STREAMS,
            "grpc.max_allowed_incoming_connections": self._max_connections,
            "grpc.max_connection_idle_ms": settings.keep_alive_seconds * 1000,
            "grpc.server_handshake_timeout_ms": round(settings.client_timeout_seconds * 1000),
        }
        if self._workers > 1:
            options["grpc.max_connection_age_ms"] = _CONNECTION_SECONDS * 1000
        return {name: min(value, _MAX_OPTION) for name, value in options.items()}

    def begin_shutdown(self) -> None:
        """Accept no more calls; those in flight have the time limit of the settings."""
        if self._server is not None and self._stopped is None:
            self._draining.begin()
            self._stopped = asyncio.create_task(self._server.stop(self._settings.shutdown_seconds))

    async def close(self) -> None:
        """Finish the calls in flight."""
        self.begin_shutdown()
        if self._stopped is not None:
            await self._stopped


def _methods(pipeline: Pipeline, calls: Calls, limits: SharedLimits, draining: Draining) -> Mapping[str, Any]:
    """The handlers of the protocol by method."""
    keys = limits.keys
    # With API keys, the rate limit applies per key, after authentication.
    by_address = limits.rates if keys is None else None
    client = Access(None if keys is None else KeyCheck(keys, "classify", limits.rates), by_address)
    admin = Access(None if keys is None else KeyCheck(keys, "admin", limits.rates), by_address)
    queries, infer = Queries(pipeline), Infer(pipeline, calls)
    access: dict[str, tuple[Access, Respond]] = {
        **{method: (Access(), respond) for method, respond in queries.probes().items()},
        **{method: (client, respond) for method, respond in queries.responders().items()},
        "ModelInfer": (client, infer.respond),
    }
    if pipeline.settings.admin:
        access |= {method: (admin, respond) for method, respond in queries.control().items()}
    path = f"/{protocol.SERVICE}/"
    handlers = {
        method: calls.unary(path + method, *access.get(method, (client, _unsupported)))
        for method in protocol.method_names()
    }
    stream = Stream(path + "ModelStreamInfer", client, calls, infer, draining)
    return {**handlers, "ModelStreamInfer": stream.handler()}


def _is_not_disconnect(record: logging.LogRecord) -> bool:
    """Leave out the error of a response whose client has disconnected: it is no error of the service."""
    return record.exc_info is None or not isinstance(record.exc_info[1], grpc.aio.InternalError)


async def _unsupported(call: Call, data: bytes) -> bytes:
    method = call.record.path.rpartition("/")[2]
    if method in _ADMIN:
        raise Unsupported("no models are loaded and unloaded on request: start the service with --admin and API keys")
    raise Unsupported(f"{method} is not supported: tensors are in messages, and traces and the log are set at start")
