"""Platforms whose routes the service answers beside its own, with the setting `compat`."""

from __future__ import annotations

import logging
import os
import re
from typing import Any

log = logging.getLogger(__name__)

PLATFORMS = ("kserve-v1", "sagemaker", "torchserve", "vertex")

_PORT_VARIABLES = {"sagemaker": "SAGEMAKER_BIND_TO_PORT", "vertex": "AIP_HTTP_PORT"}
"""Environment variables in which a platform names the port that it calls."""

_OWN_PATHS = re.compile(r"/|/(?:v1/(?:classify|models|embeddings)|v2|docs|examples|metrics|openapi\.json|page)(?:/.*)?")
"""Paths that the service answers in another form."""
_PATH = re.compile(r"/[A-Za-z0-9._~:/-]*")


def parse(text: str) -> tuple[str, ...]:
    """The platforms in a text, which has commas or blanks between their names.

    Raises:
        ValueError: one of them is unknown.
    """
    names = tuple(dict.fromkeys(re.split(r"[,\s]+", text.strip()))) if text.strip() else ()
    for name in names:
        if name not in PLATFORMS:
            raise ValueError(f"there is no platform {name!r}; there are: {', '.join(PLATFORMS)}")
    return names


def vertex_health_path() -> str:
    """Path of Vertex AI's health check.

    Raises:
        ValueError: the environment names a path that cannot be used.
    """
    return _path("AIP_HEALTH_ROUTE", "/health")


def vertex_predict_path() -> str:
    """Path of Vertex AI's predictions; errors are those of `vertex_health_path`."""
    return _path("AIP_PREDICT_ROUTE", "/predict")


def _path(variable: str, default: str) -> str:
    path = os.environ.get(variable) or default
    if not _PATH.fullmatch(path):
        raise ValueError(f"{variable} is {path!r}, which is no path: begin it with /, without special characters")
    if _OWN_PATHS.fullmatch(path):
        raise ValueError(f"{variable} is {path}, a path of the service itself: set another one, such as {default}")
    return path


def port(compat: str) -> tuple[str, str] | None:
    """The port that a platform calls, and the environment variable that names it; None if none does.

    Args:
        compat: names of platforms, which may be unknown.
    """
    for name in re.split(r"[,\s]+", compat):
        variable = _PORT_VARIABLES.get(name, "")
        if value := os.environ.get(variable):
            return value, variable
    return None


def use_port(values: dict[str, Any]) -> dict[str, Any]:
    """Replace the port in settings by the one that a platform calls, and warn if it is another one than was set.

    Args:
        values: the settings by name, not validated yet.
    """
    named = port(str(values.get("compat") or ""))
    if named is None:
        return values
    if str(values.get("port", named[0])) != named[0]:
        log.warning("port %s is not used: the service listens on port %s, which %s names", values["port"], *named)
    return values | {"port": named[0]}
