"""Checks before the gRPC server starts: of its packages, and of its port, which the workers share.

grpcio cannot take over a socket. So each server binds the port again, with SO_REUSEPORT, and a socket that does not
listen keeps the port for them. grpcio is imported only after the fork of a worker: its threads do not survive one.
"""

from __future__ import annotations

import logging
import socket
from importlib.util import find_spec

from models.extras import missing
from service.core.settings import Settings
from service.grpc.errors import GrpcError

log = logging.getLogger(__name__)

_PACKAGES = ("grpc", "google", "google.protobuf", "grpc_health", "grpc_reflection")


def addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
    """Family and IP address of each address of a host; all addresses for an empty one."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))


def check_packages() -> None:
    """Check that the extra is installed.

    Raises:
        GrpcError: it is not.
    """
    for package in _PACKAGES:
        if find_spec(package) is None:
            raise GrpcError(missing("--grpc-port", package, "grpc"))


class ReservedPort:
    """A port that no other service can bind.

    Args:
        settings: host and port; port 0 selects a free one.

    Raises:
        GrpcError: the port cannot be bound.
    """

    def __init__(self, settings: Settings) -> None:
        assert settings.grpc_port is not None
        self.port = settings.grpc_port
        self._sockets: list[socket.socket] = []
        try:
            for family, address in addresses(settings.host, self.port):
                # Without SO_REUSEPORT first: with it, the port could be that of another service of this user.
                with _bind(family, address, self.port, reuse=False) as tried:
                    self.port = tried.getsockname()[1]
                self._sockets.append(_bind(family, address, self.port, reuse=True))
        except OSError as error:
            self.close()
            raise GrpcError(
                f"grpc_port: {settings.host}:{self.port} cannot be bound: {error.strerror}: give another port, or end "
                "the program that has it"
            ) from error
        scheme = "grpc" if settings.ssl_certfile is None else "grpcs"
        for bound in self._sockets:
            log.info("gRPC is at %s://%s:%d", scheme, *bound.getsockname()[:2])

    def close(self) -> None:
        """Free the port, once no server uses it."""
        for bound in self._sockets:
            bound.close()


def reserve(settings: Settings) -> tuple[Settings, ReservedPort | None]:
    """Check and reserve what the gRPC server needs, if there is a port for it.

    Returns:
        The settings, with the port that was selected; and the object that keeps it.

    Raises:
        GrpcError: the extra is not installed, or the port cannot be bound.
    """
    if settings.grpc_port is None:
        return settings, None
    check_packages()
    reserved = ReservedPort(settings)
    return settings.model_copy(update={"grpc_port": reserved.port}), reserved


def _bind(family: socket.AddressFamily, address: str, port: int, reuse: bool) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if reuse else socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((address, port))
    except OSError:
        bound.close()
        raise
    return bound
