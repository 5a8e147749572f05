"""Watches a folder for changes: by file events, or by polling if the file system has none."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

from watchfiles import awatch

from service.core.choices import Watch

log = logging.getLogger(__name__)
logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it logs every write to every file

_QUIET_MS = 200
"""A burst of changes ends after this time without another change. The process also wakes up once per interval."""
_POLL_MS = 1000
_SILENT = ("9p", "afs", "ceph", "cifs", "fuse", "glusterfs", "lustre", "nfs", "smb", "virtiofs")
"""Prefixes of file systems that other machines write to without events in this kernel."""


async def changes(folder: Path, how: Watch, stop: asyncio.Event) -> AsyncIterator[None]:
    """Yield once when the watch has begun, then after each burst of changes, until `stop` is set."""
    if how == "off":
        yield
        await stop.wait()
        return
    polling = how == "poll" or file_system(folder).startswith(_SILENT)
    while not stop.is_set():
        bursts = awatch(
            folder,
            watch_filter=None,
            stop_event=stop,
            step=_QUIET_MS,
            force_polling=polling,
            poll_delay_ms=_POLL_MS,
            ignore_permission_denied=True,
        )
        # Only changes after the first call of `anext` are reported.
        first = asyncio.ensure_future(anext(bursts, None))
        await asyncio.sleep(0)
        yield
        try:
            if await first is not None:
                yield
            async for _ in bursts:
                yield
        except (OSError, RuntimeError) as error:  # the limit on watches is reached, or the folder is missing
            if polling:
                log.error("%s cannot be watched, so new versions need a restart: %s", folder, error)
                return
            log.warning("%s has no file events and is polled instead: %s", folder, error)
            polling = True


def file_system(folder: Path) -> str:
    """Type of the file system of a folder, from the mount table of Linux; "" if it is unknown."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    folder, kind, longest = folder.resolve(), "", 0
    for line in lines:  # of several mounts on one point, the last is visible
        mounted, _, source = line.partition(" - ")
        mount = Path(mounted.split()[4].replace("\\040", " "))
        if folder.is_relative_to(mount) and len(mount.parts) >= longest:
            kind, longest = source.split()[0], len(mount.parts)
    return kind
