"""Images in object storage: which a folder has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from models.imaging.image_files import Skipped, following, has_image_name
from models.imaging.sorted_entries import Entry, sort_entries
from service.core.object_storage import StorageError, message, open_url


def exists(url: str) -> bool:
    """Whether there is a folder or a file.

    Raises:
        StorageError: the storage cannot be read.
    """
    system, path = open_url(url)
    try:
        return bool(system.exists(path))
    except Exception as error:
        raise StorageError(f"{url}: cannot be read: {message(error)}") from error


def find_image_urls(url: str, skipped: Skipped, after: str | None = None) -> Iterator[str]:
    """URLs of the images in a folder, in the order of `find_images`; the URL itself if it is that of a file.

    A storage lists a folder as a whole, so the memory grows with the number of files in one folder.

    Args:
        url: folder or file.
        skipped: collects what is left out.
        after: URL of an image in the folder; only the images behind it are given.

    Raises:
        StorageError: the storage cannot be read.
    """
    system, root = open_url(url)
    # A list may have millions of files: one request each, to see that it is no folder, would take hours.
    listed = [] if has_image_name(url.rpartition("/")[2]) else _list(system, root, url)
    if not listed:
        if after is None:
            yield url
        return
    parts = [] if after is None else after.removeprefix(f"{url}/").split("/")
    stack = [following(_wanted(listed, url, skipped), "", parts)]
    del listed
    while stack:
        if (found := next(stack[-1], None)) is None:
            stack.pop()
        elif found.is_folder:
            place = f"{url}/{found.path}"
            entries = _list(system, f"{root.rstrip('/')}/{found.path}", place)
            stack.append(following(_wanted(entries, place, skipped), found.path, found.after))
        else:
            yield f"{url}/{found.path}"


def _wanted(entries: Iterable[Entry], url: str, skipped: Skipped) -> Iterator[Entry]:
    """The images and folders among the entries of a folder, sorted."""
    found: list[Entry] = []
    for name, is_folder in entries:
        if name.startswith("."):
            skipped.add("hidden", f"{url}/{name}")
        elif not is_folder and not has_image_name(name):
            skipped.add("without the suffix of an image", f"{url}/{name}")
        else:
            found.append((name, is_folder))
    return sort_entries(found)


def _list(system: Any, folder: str, url: str) -> list[Entry]:
    """The entries of a folder; none if it is a file."""
    try:
        listed = system.ls(folder, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except Exception as error:  # the packages of the providers raise errors of any class
        raise StorageError(f"{url}: cannot be read: {message(error)}") from error
    own = folder.strip("/")
    # An object that stands for the folder, or the file itself, has the path that was listed.
    places = ((entry["name"].strip("/"), entry["type"] == "directory") for entry in listed)
    return [(place.rpartition("/")[2], is_folder) for place, is_folder in places if place != own]
