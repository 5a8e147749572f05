"""Checks of the values of single settings."""

from __future__ import annotations

import os
from ipaddress import ip_network
from pathlib import Path

from service.core import platforms
from service.core.object_storage import check_url
from service.core.version_policy import VersionPolicies


def check_folder(path: Path) -> Path:
    """Check that a folder can be read.

    Raises:
        ValueError: it cannot.
    """
    try:
        os.scandir(path).close()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    return path


def check_repository(value: object) -> object:
    """A folder as a path, or the URL of a folder in object storage.

    Raises:
        ValueError: the URL is not one, or has a secret in it.
    """
    if not isinstance(value, str) or "://" not in value:
        return value if isinstance(value, Path) else Path(str(value))
    return check_url(value, "a repository")


def check_versions(text: str) -> str:
    """Check the versions to serve.

    Raises:
        ValueError: they are not valid.
    """
    VersionPolicies(text)
    return text


def check_proxies(text: str) -> str:
    """Check the addresses of proxies.

    Raises:
        ValueError: one of them is not valid.
    """
    for proxy in text.replace(",", " ").replace("*", "").split():
        try:
            ip_network(proxy)
        except ValueError as error:
            raise ValueError(f"{error}: give addresses or networks, such as 10.0.0.7 or 172.16.0.0/12") from None
    return text


def check_compat(text: str) -> str:
    """Check the names of platforms, and the paths that the environment names for Vertex AI.

    Raises:
        ValueError: a name is unknown, or a path cannot be used.
    """
    if "vertex" in platforms.parse(text):
        platforms.vertex_health_path()
        platforms.vertex_predict_path()
    return text
