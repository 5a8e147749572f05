"""The socket on which the engine process takes connections of workers.

Its name is chosen by the kernel and is no file. Any user of the machine can connect to it, so the engine process checks
whose process the other side is.
"""

from __future__ import annotations

import os
import socket
import struct

_CREDENTIALS = struct.Struct("3i")
_BACKLOG = 128


def listen() -> socket.socket:
    """A listening socket, which the parent keeps open while it replaces the engine process."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    listening.bind("")
    listening.listen(_BACKLOG)
    return listening


def is_own(connection: socket.socket) -> bool:
    """Whether the other side is a process of the same user."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(raw)
    return bool(user == os.geteuid())
