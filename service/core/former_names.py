"""Former names of settings, which work for one release."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

log = logging.getLogger(__name__)

RENAMED = {
    "client_seconds": "client_timeout_seconds",
    "copies": "instances",
    "idle_seconds": "keep_alive_seconds",
    "lone_threads": "single_image_threads",
    "max_held_bytes": "max_buffered_body_bytes",
    "queue_size": "max_in_flight_images",
}
"""Current name of each setting that was renamed."""


def rename_flags(arguments: Sequence[str]) -> list[str]:
    """Replace former flags, such as `--queue-size`, in the arguments of a command line."""
    return [_rename_flag(argument) for argument in arguments]


def _rename_flag(argument: str) -> str:
    flag, equals, value = argument.partition("=")
    current = RENAMED.get(flag.removeprefix("--").replace("-", "_"))
    if not flag.startswith("--") or current is None:
        return argument
    renamed = "--" + current.replace("_", "-")
    _warn(flag, renamed)
    return renamed + equals + value


class FormerEnvironment(PydanticBaseSettingsSource):
    """Reads former environment variables, such as RESNET_SERVE_QUEUE_SIZE."""

    def __call__(self) -> dict[str, Any]:
        prefix = str(self.config.get("env_prefix"))
        values = {}
        for former, current in RENAMED.items():
            variable = prefix + former.upper()
            if (value := os.environ.get(variable)) is not None:
                _warn(variable, prefix + current.upper())
                values[current] = value
        return values

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Nothing: the whole environment is read at once."""
        return None, field_name, False


def _warn(former: str, current: str) -> None:
    log.warning("%s is now %s; the former name works until the next release", former, current)
