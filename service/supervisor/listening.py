"""The sockets that the parent binds for clients, and that the workers inherit."""

from __future__ import annotations

import errno
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
    return _open_all(host, port, listens=True)


def check_port(host: str, port: int) -> None:
    """End the process, with a line of the log, if one of the addresses of a host cannot be bound."""
    close_all(_open_all(host, port, listens=False))


def close_all(sockets: Sequence[socket.socket]) -> None:
    """Close sockets of this process; those of other processes stay open."""
    for each in sockets:
        each.close()


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[Any, ...]]]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _open_all(host: str, port: int, *, listens: bool) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for family, address in _addresses(host, port):
            if port == 0 and sockets:
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            sockets.append(_open(family, address, listens=listens))
    except OSError as error:
        advice = "choose another one with --port, or end the program that has it"
        if error.errno != errno.EADDRINUSE:
            advice = "check --host and --port"
        log.error("cannot listen at port %d of %s: %s: %s", port, host or "all addresses", error.strerror, advice)
        sys.exit(_START_FAILURE)
    return sockets


def _open(family: socket.AddressFamily, address: tuple[Any, ...], *, listens: bool) -> socket.socket:
    # asyncio sets TCP_NODELAY only for connections whose protocol is given.
    opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind(address)
        if listens:
            opened.setblocking(False)
            opened.listen(_BACKLOG)
    except OSError:
        opened.close()
        raise
    return opened
