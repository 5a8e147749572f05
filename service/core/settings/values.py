"""Checks of the values of single settings."""

from __future__ import annotations

import os
import re
from ipaddress import ip_network
from pathlib import Path

from pydantic import ByteSize, TypeAdapter, ValidationError

from models.artifact.manifest import MODEL_NAME
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


def parse_bytes(value: object) -> object:
    """A number of bytes; a text may have a unit, such as 4GB (decimal) or 512MiB or 4Gi (binary).

    Raises:
        ValueError: the text is not a size.
    """
    if not isinstance(value, str):
        return value
    text = re.sub(r"(?<=[KMGT])i$", "iB", value.strip())
    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise ValueError(
            f"{value!r} is not a size: write bytes, or a number with a unit such as 4GB or 512MiB"
        ) from None


def check_names(text: str) -> str:
    """Check the names of models.

    Raises:
        ValueError: one of them is not a valid name.
    """
    for name in split_names(text):
        if not re.fullmatch(MODEL_NAME, name):
            raise ValueError(f"{name!r} is not a valid model name")
    return text


def split_names(text: str) -> list[str]:
    """The names in a text, which commas or blanks separate."""
    return text.replace(",", " ").split()
