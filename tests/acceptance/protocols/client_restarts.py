"""Line 6: the client survives a service that is restarted under it, loses no image of 10,000, and keeps the order.

Every image is another one: noise, whose first pixels are its number. The expected classes come from `resnet-classify`,
which needs no service. The service is killed three times with SIGKILL and ended three times with SIGTERM for each
client while it classifies, and started again at the same port.
"""

from __future__ import annotations

import asyncio
import io
import json
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from threading import Thread

import numpy as np
from PIL import Image

from resnet_serve_client import AsyncClient, Classification, Client
from tests.acceptance.server import free_port

IMAGES = 10_000
SIGNALS = (signal.SIGKILL, signal.SIGTERM) * 3
LARGEST_DIFFERENCE = 1e-4
"""Of a probability between batches of different sizes."""

Expected = list[tuple[int, float]]
"""Most likely class of each image, and its probability."""


class RestartedService:
    """`resnet-serve` at one port. `restart` ends it and starts it again, while others wait for nothing."""

    def __init__(self) -> None:
        self.port = free_port()
        self.ended = Counter[str]()
        self._restarts: list[Thread] = []
        self._process = self._start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "service", "--port", str(self.port), "--log-level", "error"]
        return subprocess.Popen(command)

    def restart(self, number: signal.Signals) -> None:
        """Send the signal now, and start the service again when it has ended."""
        self._process.send_signal(number)
        thread = Thread(target=self._start_again, args=(number,))
        self._restarts.append(thread)
        thread.start()

    def _start_again(self, number: signal.Signals) -> None:
        status = self._process.wait()
        self.ended[f"{number.name} -> {status}"] += 1
        self._process = self._start()

    def settle(self) -> None:
        """Wait until all restarts are done."""
        while self._restarts:
            self._restarts.pop().join()

    def close(self) -> None:
        self.settle()
        self._process.kill()
        self._process.wait()


def check() -> tuple[bool, str]:
    files = _make_images()
    expected = _classify_offline(files)
    classes = Counter(index for index, _ in expected)
    distinct = len({(index, round(probability, 4)) for index, probability in expected})
    print(f"{len(set(files))} different images; classes by resnet-classify: {dict(sorted(classes.items()))}")
    print(f"{distinct} different results, so that another order is seen")
    holds, figures = len(set(files)) == IMAGES and len(classes) > 1, []
    for name, classify in (("Client", _synchronous), ("AsyncClient", _asynchronous)):
        service = RestartedService()
        try:
            results = classify(service, files)
        finally:
            service.close()
        missing, wrong = IMAGES - len(results), _count_wrong(results, expected)
        restarts = sum(service.ended.values())
        print(f"{name}: {len(results)} results, {wrong} of them wrong; the service ended: {dict(service.ended)}")
        holds &= not missing and not wrong and restarts == len(SIGNALS)
        figures.append(f"{name} {len(results)} of {IMAGES} in order, {wrong} wrong, {restarts} restarts")
    return holds, "; ".join(figures)


def _make_images() -> list[bytes]:
    """PNG files of random pieces of gratings, so that they belong to several classes."""
    random = np.random.default_rng(28)
    files = []
    for number in range(IMAGES):
        pixels = random.integers(0, 256, (7, 7), np.uint8).repeat(4, axis=0).repeat(4, axis=1)
        pixels[random.integers(4, 28) :] = 0
        pixels[:, : random.integers(0, 12)] = 0
        pixels[0, :4] = np.frombuffer(number.to_bytes(4, "little"), np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        files.append(file.getvalue())
    return files


def _classify_offline(files: Sequence[bytes]) -> Expected:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "images"
        folder.mkdir()
        for number, content in enumerate(files):
            (folder / f"{number:05}.png").write_bytes(content)
        output = Path(name) / "out.jsonl"
        command = [
            sys.executable,
            "-m",
            "service.cli.classify",
            str(folder),
            "--format",
            "jsonl",
            "--output",
            str(output),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        rows = [json.loads(line) for line in output.read_text().splitlines()]
    rows.sort(key=lambda row: str(row["file"]))
    return [(row["predictions"][0]["index"], row["predictions"][0]["probability"]) for row in rows]


def _restarts(service: RestartedService, number: int) -> None:
    """End the service at equal distances in the input."""
    step = IMAGES // (len(SIGNALS) + 1)
    if number and number % step == 0 and number // step <= len(SIGNALS):
        service.settle()
        service.restart(SIGNALS[number // step - 1])


def _synchronous(service: RestartedService, files: Sequence[bytes]) -> list[Classification]:
    def images() -> Iterator[bytes]:
        for number, content in enumerate(files):
            _restarts(service, number)
            yield content

    with Client(service.url) as client:
        return list(client.classify_many(images(), batch=16, concurrency=4))


def _asynchronous(service: RestartedService, files: Sequence[bytes]) -> list[Classification]:
    async def images() -> AsyncIterator[bytes]:
        for number, content in enumerate(files):
            await asyncio.to_thread(_restarts, service, number)
            yield content

    async def classify() -> list[Classification]:
        async with AsyncClient(service.url) as client:
            return [result async for result in client.classify_many(images(), batch=16, concurrency=4)]

    return asyncio.run(classify())


def _count_wrong(results: Sequence[Classification], expected: Expected) -> int:
    """Results with an error, or with another probability of the expected class; classes may change places at a tie."""
    wrong = 0
    for result, (index, probability) in zip(results, expected, strict=False):
        found = {each.index: each.probability for each in result.predictions}
        wrong += abs(found.get(index, -1.0) - probability) > LARGEST_DIFFERENCE
    return wrong
