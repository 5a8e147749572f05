"""An engine process at full load: clients that send it decoded images, without HTTP and without decoding.

    python -m tests.acceptance.workers.full_load ADDRESS REQUESTS SECONDS

keeps that many requests of one image in flight for some seconds, and prints how many were answered.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.imaging.preprocess import UInt8Array
from service.core.priority import Priority
from service.messages.inference import InferenceRequest
from service.remote.client import RemoteBackend
from tests.support.worker_processes import sockets

_LISTENS = 0x10000
"""Flag of a listening socket in /proc/net/unix."""
_OUTPUTS = frozenset({"probabilities"})
_DEADLINE_SECONDS = 60.0


def find_address(engine: int) -> str:
    """The socket on which an engine process takes connections, with @ in the place of the first byte."""
    own = sockets(engine)
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        _, _, _, flags, _, _, inode, *name = line.split()
        if inode in own and int(flags, 16) & _LISTENS:
            return name[0]
    raise RuntimeError("the engine process does not listen")


def send(engine: int, clients: int, in_flight: int, seconds: int) -> int:
    """Send requests from several processes. Returns how many were answered."""
    command = [sys.executable, "-m", __name__, find_address(engine), str(in_flight), str(seconds)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(clients)]
    return sum(int(each.communicate()[0]) for each in running)


async def _drive(address: str, in_flight: int, seconds: float) -> int:
    backend = RemoteBackend(b"\0" + address[1:].encode())
    backend.start()
    await backend.connected()
    model = backend.hold()
    arena = backend.connection.arena
    generator = np.random.default_rng(0)
    images = []
    for _ in range(in_flight):  # each has its place in the shared memory, as after decoding
        image = arena.share(arena.take(model.preprocess.shape))
        image[:] = generator.integers(0, 256, image.shape, np.uint8)
        images.append(image)
    end = time.monotonic() + seconds
    counts = await asyncio.gather(*(_ask(backend, model.key, [image], end) for image in images))
    await backend.close()
    return sum(counts)


async def _ask(backend: RemoteBackend, key: int, images: Sequence[UInt8Array], end: float) -> int:
    """Send one request after the other. Returns how many were answered."""
    answered = 0
    while time.monotonic() < end:
        deadline = time.monotonic() + _DEADLINE_SECONDS
        await backend.submit(key, InferenceRequest(images, _OUTPUTS, deadline, Priority.interactive, 0.0, False))
        answered += 1
    return answered


if __name__ == "__main__":
    print(asyncio.run(_drive(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))))
