"""Checks of settings that depend on each other."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.core.settings import Settings


def check_consistent(settings: Settings) -> None:
    """Check that settings do not contradict each other.

    Raises:
        ValueError: they do.
    """
    if settings.max_images > settings.max_in_flight_images:
        raise ValueError(
            f"max_images ({settings.max_images}) must not be above max_in_flight_images "
            f"({settings.max_in_flight_images}): raise max_in_flight_images"
        )
    if settings.admin and settings.api_keys is None:
        raise ValueError("admin needs api_keys: without keys every client could unload models")
    if settings.grpc_port and settings.grpc_port == settings.port:
        raise ValueError(f"grpc_port and port are both {settings.port}: gRPC needs a port of its own")
    if settings.ssl_keyfile is not None and settings.ssl_certfile is None:
        raise ValueError("ssl_keyfile needs ssl_certfile")
    if settings.memory_limit and sys.platform != "linux":
        raise ValueError("memory_limit needs Linux: other systems do not tell the memory of a process in the same way")
    if settings.pin and not settings.memory_limit:
        raise ValueError("pin needs memory_limit: without a limit all models stay in memory")
