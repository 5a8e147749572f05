"""URLs of object storage, which fsspec opens: s3://, gs://, az://, hf:// and others. The extra `storage` has fsspec."""

from __future__ import annotations

import functools
import re
from typing import Any

from models.extras import missing

_URL = re.compile(r"[a-z0-9+.-]+://")


class StorageError(OSError):
    """Object storage cannot be read or written; the message says why."""


def is_url(text: str) -> bool:
    """Whether a text is a URL, and not the path of a file."""
    return _URL.match(text) is not None


def check_url(url: str, noun: str) -> str:
    """Check a URL, and remove slashes at its end.

    Args:
        url: the URL.
        noun: the thing that it is the URL of, for the message.

    Raises:
        ValueError: the text is no such URL, or has a secret in it.
    """
    if not re.fullmatch(r"[a-z0-9+.-]+://[^?#\s]+", url):
        raise ValueError(f"the URL of {noun} is like s3://bucket/folder, without a query")
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise ValueError("a URL with a user or a key would be written to the log: use the provider's own settings")
    return url.rstrip("/")


def open_url(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it. The provider's own means give the credentials.

    Raises:
        StorageError: the package for this storage is not installed, or refuses the URL.
    """
    scheme, _, rest = url.partition("://")
    try:
        system = _open_system(f"{scheme}://{rest.partition('/')[0]}")
        return system, system._strip_protocol(url)
    except ImportError as error:
        # The package fsspec names the package of the storage that it lacks, such as s3fs.
        raise StorageError(missing(url, error.name, "storage") if error.name else f"{url}: {error}") from error
    except Exception as error:  # the packages of the providers raise errors of any class
        raise StorageError(f"{url}: cannot be opened: {message(error)}") from error


@functools.lru_cache(maxsize=64)
def _open_system(bucket: str) -> Any:
    import fsspec

    # The cache of listings would keep every name that was ever listed.
    return fsspec.core.url_to_fs(bucket, skip_instance_cache=True, use_listings_cache=False)[0]


def message(error: Exception) -> str:
    """The message of an error in one line, with its class if it has none."""
    return " ".join(str(error).split()) or type(error).__name__
