"""Reads image files: from this machine, and from object storage."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from service.core.errors import UnprocessableImage
from service.core.object_storage import StorageError, is_url, message, open_url

Content = bytes | UnprocessableImage
"""Content of a file, or why it cannot be read."""

_THREADS = 32
"""Requests to a storage at the same time."""


class ContentReader:
    """Reads files by path or URL, those of a storage at the same time: it answers a request after many milliseconds.

    Args:
        folder: folder that relative paths start at. Default: the working directory.
    """

    def __init__(self, folder: str = "") -> None:
        self._folder = folder
        self._threads = ThreadPoolExecutor(_THREADS, "read")  # starts its threads when a URL is read
        self._readable: str | None = None
        """A URL that could be read."""

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(cancel_futures=True)

    def read(self, names: Sequence[str]) -> list[Content]:
        """The content of each file; the reason in place of a file that does not exist, or that may not be read.

        Raises:
            StorageError: the storage cannot be read, or gives no file any more, as with expired credentials.
        """
        urls = [name for name in names if is_url(name)]
        from_urls = iter(self._read_urls(urls) if urls else ())
        return [next(from_urls) if is_url(name) else _read(os.path.join(self._folder, name)) for name in names]

    def _read_urls(self, urls: Sequence[str]) -> list[Content]:
        contents = list(self._threads.map(_read_url, urls))
        readable = [url for url, content in zip(urls, contents, strict=True) if isinstance(content, bytes)]
        self._readable = readable[-1] if readable else self._readable
        refused = [content for content in contents if isinstance(content, PermissionError)]
        if refused and not self._gives_files(len(urls)):
            raise StorageError(f"{urls[0]}: cannot be read: {message(refused[0])}")
        return [
            UnprocessableImage(f"the file cannot be read: {message(content)}")
            if isinstance(content, OSError)
            else content
            for content in contents
        ]

    def _gives_files(self, requested: int) -> bool:
        """Whether a file that could be read before still can; without one, whether a single file was requested."""
        return requested == 1 if self._readable is None else isinstance(_read_url(self._readable), bytes)


def _read(path: str) -> Content:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        return UnprocessableImage(f"the file cannot be read: {error.strerror}")
    except MemoryError:
        return UnprocessableImage("the file is larger than the memory")


def _read_url(url: str) -> bytes | OSError:
    system, path = open_url(url)
    try:
        return bytes(system.cat_file(path))
    except FileNotFoundError:
        return FileNotFoundError("no such file")
    except (PermissionError, IsADirectoryError) as error:
        return error
    except Exception as error:  # the packages of the providers raise errors of any class
        raise StorageError(f"{url}: cannot be read: {message(error)}") from error
