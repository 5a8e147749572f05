"""The processes of a service with workers, as the kernel shows them."""

from __future__ import annotations

import contextlib
import os
import re
import select
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from time import monotonic

from tests.support.service import TIMEOUT

_LISTENS, _CONNECTED = "0A", "01"
"""States of /proc/net/tcp."""
_ARENA = "/memfd:resnet-serve-images"


@dataclass(frozen=True)
class Processes:
    """Ids of the processes."""

    parent: int
    workers: Sequence[int]
    """Each has the listening socket."""
    engine: int
    """The child without it; 0 if there is none."""

    @property
    def all(self) -> list[int]:
        """The parent and all its children."""
        return [pid for pid in (self.parent, *self.workers, self.engine) if pid]


def find_processes(parent: int, port: int) -> Processes:
    """The processes of a service that listens on a port."""
    listening = {inode for inode, state, _ in _connections(port) if state == _LISTENS}
    inodes = {child: sockets(child) for child in children(parent)}
    workers = [child for child, own in inodes.items() if own & listening]
    others = [child for child, own in inodes.items() if own and not own & listening]
    return Processes(parent, workers, others[0] if others else 0)


def wait_for_workers(parent: int, port: int, workers: int) -> Processes:
    """Wait until that many workers are connected to an engine process."""
    found = find_processes(parent, port)

    def complete() -> bool:
        nonlocal found
        found = find_processes(parent, port)
        if len(found.workers) != workers or not found.engine:
            return False
        return all(arenas(worker) == 1 for worker in found.workers) and arenas(found.engine) == workers

    wait_until(complete, f"{workers} workers and an engine process")
    return found


def client_ports(pid: int, port: int) -> set[int]:
    """Ports of the clients that are connected to a process which listens on a port."""
    own = sockets(pid)
    return {client for inode, state, client in _connections(port) if state == _CONNECTED and inode in own}


def arenas(pid: int) -> int:
    """Number of memories for images that a process has open: a worker has one, the engine process one per worker."""
    found = set()  # a map has a descriptor of its own
    for number, link in links(pid).items():
        if link.startswith(_ARENA):
            with contextlib.suppress(OSError):
                found.add(os.stat(f"/proc/{pid}/fd/{number}").st_ino)
    return len(found)


def links(pid: int) -> dict[str, str]:
    """The open descriptors of a process: the file or socket of each number. Empty if the process has ended."""
    found = {}
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):  # closed meanwhile
                found[entry.name] = os.readlink(entry.path)
    return found


def sockets(pid: int) -> set[str]:
    """Inodes of the sockets of a process."""
    return {link[8:-1] for link in links(pid).values() if link.startswith("socket:[")}


def children(pid: int) -> list[int]:
    """Ids of the children of a process that run."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [child for child in map(int, text.split()) if state(child) not in "ZX"]


def state(pid: int) -> str:
    """State of a process as one letter; X if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, in user and system mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> float:
    """Resident memory of a process that no other process has mapped, and its share of the rest, in MB."""
    found = re.search(r"^Pss:\s+(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
    assert found is not None
    return int(found[1]) * 1024 / 1e6


def wait_until(holds: Callable[[], bool], what: str, seconds: float = TIMEOUT) -> float:
    """Wait until something holds. Returns the seconds that it took.

    Raises:
        TimeoutError: it does not hold in time.
    """
    started, pause = monotonic(), Event()
    while not holds():
        if monotonic() - started > seconds:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        pause.wait(0.01)
    return monotonic() - started


def wait_for_end(pidfds: Sequence[int], seconds: float = TIMEOUT) -> float:
    """Wait until processes have ended, and close their descriptors. Returns the seconds that it took.

    Raises:
        TimeoutError: one has not ended in time.
    """
    started = monotonic()
    for pidfd in pidfds:
        if not select.select([pidfd], [], [], max(0.0, started + seconds - monotonic()))[0]:
            raise TimeoutError(f"a process has not ended within {seconds:g} s")
        os.close(pidfd)
    return monotonic() - started


def _connections(port: int) -> list[tuple[str, str, int]]:
    """Inode, state and the other side's port of each TCP socket with a local port."""
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port:
                found.append((fields[9], fields[3], int(fields[2].rpartition(":")[2], 16)))
    return found
