"""Tells when something below a folder has changed: by file events, by polling where there are none."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

from watchfiles import awatch

from service.core.choices import Watch

log = logging.getLogger(__name__)
logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it tells of every write to every file

_QUIET_MS = 200
"""After so long without another change a burst is over. Wakes the process as often, whether anything changes or not."""
_POLL_MS = 1000
_SILENT = ("9p", "afs", "ceph", "cifs", "fuse", "glusterfs", "lustre", "nfs", "smb", "virtiofs")
"""How file systems begin that others write to without this kernel being told."""


async def changes(folder: Path, how: Watch, stop: asyncio.Event) -> AsyncIterator[None]:
    """Yield once when the folder is being watched, then after each burst of changes, until `stop` is set."""
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
        # What is watched is only what changes after the first burst has been asked for.
        first = asyncio.ensure_future(anext(bursts, None))
        await asyncio.sleep(0)
        yield
        try:
            if await first is not None:
                yield
            async for _ in bursts:
                yield
        except (OSError, RuntimeError) as error:  # the limit on watches is reached, or the folder is not there
            if polling:
                log.error("%s cannot be watched, new versions need a restart: %s", folder, error)
                return
            log.warning("%s gives no file events and is polled instead: %s", folder, error)
            polling = True


def file_system(folder: Path) -> str:
    """Type of the file system that a folder lies on, by Linux's table of mounts; "" where that is not known."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    folder, kind, longest = folder.resolve(), "", 0
    for line in lines:  # of several mounts on one place the last is on top
        place, _, source = line.partition(" - ")
        mount = Path(place.split()[4].replace("\\040", " "))
        if folder.is_relative_to(mount) and len(mount.parts) >= longest:
            kind, longest = source.split()[0], len(mount.parts)
    return kind
