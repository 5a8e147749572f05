"""A network on the fake GPU whose logits are the values of an image, doubled; and an executor of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Thread

import numpy as np

from models.imaging.preprocess import UInt8Array
from models.runtime.cuda import device as cuda
from service.executors.gpu.streams import STREAMS, CudaExecutor
from tests.support.fake_cuda import FakeRuntime, Kind, Timeline, Work, as_array

IMAGE = (2, 2, 1)
BUCKETS = (1, 4, 8)
LOGITS = frozenset({"logits"})


class Doubling:
    """A network whose logits are an image's values, doubled; an embedding that is never requested."""

    def __init__(self, fake: FakeRuntime, stream: int, capturable: bool = True) -> None:
        self.outputs: Mapping[str, tuple[int, ...]] = {"logits": (4,), "embedding": (1,)}
        self.capturable = capturable
        self.bound: list[int] = []
        self.enqueued = 0
        self.recordable = True
        self._fake = fake
        self._stream = stream

    def bind(self, rows: int, addresses: Mapping[str, int]) -> Callable[[], None]:
        self.bound.append(rows)

        def compute() -> None:
            images = as_array(addresses["images"], (rows, 4), np.uint8)
            as_array(addresses["logits"], (rows, 4), np.float32)[...] = images * np.float32(2)

        def enqueue() -> None:
            self.enqueued += 1
            if not self.recordable:
                self._fake.refuse_recording(self._stream)
            self._fake.enqueue(self._stream, Work("compute", compute))

        return enqueue


def images(n: int, first: int = 0) -> UInt8Array:
    return (np.arange(n * 4, dtype=np.uint8) + first).reshape(n, *IMAGE)


class Executor(CudaExecutor):
    def __init__(self, fake: FakeRuntime, count: int = STREAMS) -> None:
        super().__init__(cuda.CudaDevice(0), BUCKETS)
        self.concurrent_batches = count
        self._open_streams(IMAGE, lambda stream: Doubling(fake, stream))


def virtual_seconds(fake: FakeRuntime, count: int, batches: int, work: dict[Kind, float]) -> float:
    """Virtual time of the batches, with one thread per stream, as in the engine."""
    fake.timeline = None  # nothing is measured before everything is ready
    executor = Executor(fake, count)
    fake.timeline = timeline = Timeline(work, count)

    def compute_all() -> None:
        try:
            for _ in range(batches // count):
                executor.run(executor.gather(list(images(8))), LOGITS)
        finally:
            timeline.leave()

    threads = [Thread(target=compute_all) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return timeline.end
