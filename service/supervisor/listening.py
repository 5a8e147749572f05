"""The sockets that the parent binds for clients, and that the workers inherit."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Sequence
from typing import Any

log = logging.getLogger(__name__)

_BACKLOG = 2048
"""That of uvicorn."""
_START_FAILURE = 3
"""Exit status of uvicorn if it cannot listen."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Listen at each address of a host. Ends the process, with a line of the log, if one cannot be bound.

    Args:
        host: name or address; empty for all addresses.
        port: 0 selects a free port, the same for all addresses.
    """
    sockets: list[socket.socket] = []
    try:
        for family, address in _addresses(host, port):
            if port == 0 and sockets:
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            sockets.append(_bind(family, address))
    except OSError as error:
        log.error("%s", error)
        sys.exit(_START_FAILURE)
    return sockets


def close_all(sockets: Sequence[socket.socket]) -> None:
    """Close sockets of this process; those of other processes stay open."""
    for each in sockets:
        each.close()


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[Any, ...]]]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _bind(family: socket.AddressFamily, address: tuple[Any, ...]) -> socket.socket:
    # asyncio sets TCP_NODELAY only for connections whose protocol is given.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
    except OSError as error:
        listening.close()
        raise OSError(
            error.errno, f"error while attempting to bind on address {address}: {(error.strerror or '').lower()}"
        ) from None
    listening.setblocking(False)
    listening.listen(_BACKLOG)
    return listening
