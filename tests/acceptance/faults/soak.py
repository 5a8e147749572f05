"""Presses a served process for twenty minutes: `python -m tests.acceptance.faults.soak [--minutes M] [--seed N]`.

Clients that behave well ask all the time, and every request must be answered. Meanwhile versions come, fail and go,
clients leave in the middle of a request, connections take all file descriptors, and large images take memory.
"""

from __future__ import annotations

import http.client
import io
import random
import resource
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Lock, Thread

from PIL import Image

from tests.acceptance.faults.fuzz import MAX_SLOPE, MemoryWatch, make_parser
from tests.acceptance.faults.served import ROOT, ServedProcess, serve

TINY = ROOT / "tests" / "data" / "tiny" / "repository" / "tiny" / "1"
PERMITTED = {200, 429, 503, 504}
MAX_CONNECTIONS = 64
RECOVERY_SECONDS = 1.5
"""Time until connections are accepted again after descriptors ran out."""
WARM_UP = 0.25
SETTLE_SECONDS = 20.0
TIMEOUT = 40.0
_KEPT_VERSIONS = 3


class Soak:
    """The clients and the changes of one soak, each in a thread of its own.

    Args:
        service: the service under test.
        repository: its repository, with version 1 of the model `tiny`.
        seed: seed of all random choices.
    """

    def __init__(self, service: ServedProcess, repository: Path, seed: int) -> None:
        self._service = service
        self._model = repository / "tiny"
        self._seed = seed
        self._ended = Event()
        self._no_descriptors = Event()
        self._lock = Lock()
        self.counts: Counter[str] = Counter()
        self.lost: list[str] = []

    def run(self, seconds: float) -> None:
        """Run all threads for a time."""
        work: list[Callable[[random.Random], None]] = [
            *[self._ask] * 3,
            self._leave,
            self._change_versions,
            self._press_memory,
            self._press_connections,
            self._press_descriptors,
        ]
        threads = [Thread(target=self._repeat, args=(each, number)) for number, each in enumerate(work)]
        for thread in threads:
            thread.start()
        self._ended.wait(seconds)
        self._ended.set()
        for thread in threads:
            thread.join()

    def _repeat(self, work: Callable[[random.Random], None], number: int) -> None:
        rng = random.Random(self._seed + number)
        while not self._ended.is_set():
            try:
                work(rng)
            except Exception as error:
                self._lose(f"{work.__name__}: {type(error).__name__}: {error}")
                self._ended.wait(1.0)

    def _count(self, name: str) -> None:
        with self._lock:
            self.counts[name] += 1

    def _lose(self, reason: str) -> None:
        with self._lock:
            self.lost.append(reason)

    def _ask(self, rng: random.Random) -> None:
        """A client that behaves well, on one connection; a full service may refuse it with 503."""
        connection = http.client.HTTPConnection("127.0.0.1", self._service.port, timeout=TIMEOUT)
        for number in range(rng.randint(1, 200)):
            try:
                status, closed = self._classify(connection, _image(rng, 32))
            except (ConnectionResetError, BrokenPipeError):
                if number or not self._no_descriptors.is_set():
                    raise
                self._count("reset without descriptors")
                break
            self._count(f"asked {status}")
            if status not in PERMITTED:
                self._lose(f"status {status}")
            if closed or self._ended.is_set():
                break
        connection.close()

    def _classify(self, connection: http.client.HTTPConnection, image: bytes) -> tuple[int, bool]:
        connection.request("POST", "/v1/classify", image, {"Content-Type": "image/png"})
        response = connection.getresponse()
        response.read()
        return response.status, response.will_close

    def _leave(self, rng: random.Random) -> None:
        """Clients that leave before, in or after their request."""
        image = _image(rng, 64)
        head = f"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: {len(image)}\r\n\r\n".encode()
        request = head + image
        with self._service.connect() as connection:
            connection.sendall(request[: rng.randint(0, len(request))])
        self._count("left")
        self._ended.wait(0.02)

    def _change_versions(self, rng: random.Random) -> None:
        """A version comes, a damaged one fails, an old one goes."""
        versions = sorted(int(path.name) for path in self._model.iterdir() if path.name.isdigit())
        version = self._model / str(versions[-1] + 1)
        staging = self._model / ".staging"
        shutil.copytree(TINY, staging)
        manifest = staging / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"version": 1,', f'"version": {version.name},'))
        damaged = rng.choice(["manifest.json", "model.onnx", "golden.npz", None, None, None])
        if damaged is not None:
            (staging / damaged).write_bytes((staging / damaged).read_bytes()[: rng.randint(0, 200)])
        self._count("versions" if damaged is None else "damaged versions")
        staging.rename(version)
        for old in versions[1:-_KEPT_VERSIONS]:
            shutil.rmtree(self._model / str(old))
        self._ended.wait(rng.uniform(1.0, 4.0))

    def _press_memory(self, rng: random.Random) -> None:
        """Large images, several at once."""
        image = _image(rng, rng.choice([1500, 3000]))
        connections = [http.client.HTTPConnection("127.0.0.1", self._service.port, timeout=TIMEOUT) for _ in range(4)]
        try:
            for connection in connections:
                connection.request("POST", "/v1/classify", image, {"Content-Type": "image/png"})
            statuses = [connection.getresponse().status for connection in connections]
        except (ConnectionResetError, BrokenPipeError):
            if not self._no_descriptors.is_set():
                raise
            statuses = []
            self._count("reset without descriptors")
        for connection in connections:
            connection.close()
        for status in statuses:
            self._count(f"large {status}")
            if status not in PERMITTED:
                self._lose(f"status {status} of a large image")
        self._ended.wait(rng.uniform(1.0, 3.0))

    def _press_connections(self, rng: random.Random) -> None:
        """More connections than are permitted, which send nothing for a while."""
        connections = [self._service.connect() for _ in range(2 * MAX_CONNECTIONS)]
        self._count("crowds")
        self._ended.wait(rng.uniform(0.5, 1.0))
        for connection in connections:
            connection.close()
        self._ended.wait(rng.uniform(4.0, 8.0))

    def _press_descriptors(self, rng: random.Random) -> None:
        """Few descriptors are left, then none. The event loop then resets new connections, before any request."""
        pid = self._service.process.pid
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        self._no_descriptors.set()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (self._service.files() + rng.randint(0, 10), limits[1]))
        self._count("times without descriptors")
        self._ended.wait(rng.uniform(0.5, 1.0))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        self._ended.wait(RECOVERY_SECONDS)
        self._no_descriptors.clear()
        self._ended.wait(rng.uniform(4.0, 8.0))


def _image(rng: random.Random, size: int) -> bytes:
    target = io.BytesIO()
    Image.new("L", (size, size), rng.randrange(256)).save(target, "PNG")
    return target.getvalue()


def soak(minutes: float, seed: int) -> bool:
    """Run the soak. Prints PASS or FAIL with the figures; returns whether it holds."""
    with TemporaryDirectory(prefix="soak-") as folder:
        repository = Path(folder) / "repository"
        shutil.copytree(TINY, repository / "tiny" / "1")
        options = ("--repository", str(repository), "--max-connections", str(MAX_CONNECTIONS))
        with serve(*options) as service:
            Soak(service, repository, seed).run(5.0)
            time.sleep(SETTLE_SECONDS)
            files, threads = service.files(), service.threads()
            memory = MemoryWatch(service, WARM_UP * minutes * 60)
            run = Soak(service, repository, seed + 100)
            run.run(minutes * 60)
            slope = memory.end()
            time.sleep(SETTLE_SECONDS)
            left = service.files() - files, service.threads() - threads
            in_flight = service.metric("resnet_requests_in_flight")
            alive = service.process.poll() is None
    holds = alive and not run.lost and slope <= MAX_SLOPE and left[0] <= 0 and left[1] <= 0 and in_flight == 0
    for reason, count in Counter(run.lost).most_common(10):
        print(f"  lost: {reason} ({count} times)")
    counts = ", ".join(f"{name}: {count:,}" for name, count in sorted(run.counts.items()))
    print(
        f"{'PASS' if holds else 'FAIL'}  soak: seed {seed}, {minutes:g} minutes ({counts}), {len(run.lost)} lost, "
        f"memory {slope:+.2f} MB per minute, {left[0]:+d} descriptors, {left[1]:+d} threads, {in_flight:.0f} in flight",
        flush=True,
    )
    return holds


def main() -> None:
    """Run the soak. Exits with 1 if it does not hold."""
    arguments = make_parser(__doc__, minutes=20.0).parse_args()
    sys.exit(0 if soak(arguments.minutes, arguments.seed) else 1)


if __name__ == "__main__":
    main()
