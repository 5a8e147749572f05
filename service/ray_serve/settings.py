"""Settings of a replica of Ray Serve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from models.validation import first_error
from service.core.settings import Settings

_REFUSED = {
    "admin": (False, "a request to load a model reaches one replica only; each looks for new versions itself"),
    "grpc_port": (None, "its proxies take HTTP only"),
    "ssl_certfile": (None, "its proxies answer the clients; their certificate is ssl_certfile under http_options"),
    "workers": (1, "a replica is one process; min_replicas and max_replicas set how many there are"),
}
"""Settings that Ray Serve does not leave to the service: a value that changes nothing beside None, and the reason."""


class SettingsError(ValueError):
    """A setting is not valid, or cannot be used in Ray Serve."""


def make_settings(options: Mapping[str, Any]) -> Settings:
    """The settings of a replica: options, then environment variables.

    Args:
        options: settings by name.

    Raises:
        SettingsError: a setting is not valid, or cannot be used in Ray Serve.
    """
    try:
        settings = Settings(**options)
    except ValidationError as error:
        raise SettingsError(first_error(error)) from None
    for name, (unused, reason) in _REFUSED.items():
        if getattr(settings, name) not in (None, unused):
            raise SettingsError(f"{name} cannot be used in Ray Serve: {reason}. Remove it")
    return settings
