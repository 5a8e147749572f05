"""Former settings, which are accepted for one release."""

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

ISOLATE_FLAGS = ("--isolate", "--no-isolate")
ISOLATE_VARIABLE = "ISOLATE"
_ISOLATE = "%s has no effect: with --workers above 1, all executors run in one process of their own"


def replace_former_flags(arguments: Sequence[str]) -> list[str]:
    """Rename former flags, such as `--queue-size`, in the arguments of a command line, and remove `--isolate`."""
    current = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        renamed = RENAMED.get(flag.removeprefix("--").replace("-", "_"))
        if flag in ISOLATE_FLAGS:
            log.warning(_ISOLATE, flag)
        elif flag.startswith("--") and renamed is not None:
            _warn(flag, "--" + renamed.replace("_", "-"))
            current.append("--" + renamed.replace("_", "-") + equals + value)
        else:
            current.append(argument)
    return current


class FormerEnvironment(PydanticBaseSettingsSource):
    """Reads former environment variables, such as RESNET_SERVE_QUEUE_SIZE."""

    def __call__(self) -> dict[str, Any]:
        prefix = str(self.config.get("env_prefix"))
        values = {}
        for former, current in RENAMED.items():
            variable = prefix + former.upper()
            if value := os.environ.get(variable):
                _warn(variable, prefix + current.upper())
                values[current] = value
        if proxies := os.environ.get("FORWARDED_ALLOW_IPS"):
            _warn("FORWARDED_ALLOW_IPS", prefix + "TRUSTED_PROXIES")
            values["trusted_proxies"] = proxies
        if os.environ.get(prefix + ISOLATE_VARIABLE):
            log.warning(_ISOLATE, prefix + ISOLATE_VARIABLE)
        return values

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Nothing: the whole environment is read at once."""
        return None, field_name, False


def _warn(former: str, current: str) -> None:
    log.warning("%s is now %s; the former name works until the next release", former, current)
