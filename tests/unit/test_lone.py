"""Who computes an image that comes alone, and who computes the others."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from models.imaging.preprocess import UInt8Array
from service.core.settings import Settings
from service.engine.lone import lend
from service.executors.base import Executor, ExecutorError, Float32Array, compute
from tests.support.held_executor import HeldExecutor, image
from tests.support.service import serve
from tests.support.timed import Clock, TimedExecutor
from tests.support.tiny import Eager

LOGITS = frozenset({"logits"})


IMAGES = np.zeros((3, 1, 1, 1), np.uint8)


def no_more(threads: int, copies: int, *, alone: bool = False) -> list[Executor]:
    raise AssertionError


def one() -> int:
    return 1


class OnCpu(HeldExecutor):
    device = "cpu"


class Loaded:
    """Two executors, and one for lone images."""

    def __init__(self) -> None:
        self.lone = OnCpu()
        self.others = [OnCpu(), OnCpu()]
        self.asked: list[tuple[int, int, bool]] = []
        self.inside = 1
        self.executors, self.threads = lend(self._load, 4, self.others, IMAGES, 8, lambda: self.inside)

    def _load(self, threads: int, copies: int, *, alone: bool = False) -> list[Executor]:
        self.asked.append((threads, copies, alone))
        return [self.lone]

    def compute(self, index: int, *values: int) -> Float32Array:
        """Logits [n, 1] of images, by one of the executors."""
        images: UInt8Array = np.stack([image(value) for value in values])
        return compute(self.executors[index], images, LOGITS)["logits"]


def test_an_image_that_comes_alone_is_lent_to_the_other() -> None:
    loaded = Loaded()
    assert loaded.asked == [(4, 1, True)]
    assert loaded.threads == 4
    loaded.lone.release()
    assert_allclose(loaded.compute(0, 7), [[7.5]])
    loaded.others[1].release()
    assert_allclose(loaded.compute(1, 8, 9), [[8.5], [9.5]])
    assert (loaded.lone.batches, loaded.others[0].batches, loaded.others[1].batches) == ([[7]], [], [[8, 9]])


def test_an_image_that_comes_beside_others_is_not() -> None:
    loaded = Loaded()
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(loaded.compute, 0, 1)
        asyncio.run(loaded.lone.started())
        loaded.others[1].release(2)
        assert_allclose(loaded.compute(1, 2), [[2.5]])
        loaded.lone.release()
        assert_allclose(first.result(), [[1.5]])
        second = threads.submit(loaded.compute, 0, 3, 4)
        asyncio.run(loaded.others[0].started())
        assert_allclose(loaded.compute(1, 5), [[5.5]])
        loaded.others[0].release()
        second.result()
    assert loaded.lone.batches == [[1]]


def test_an_image_that_comes_while_others_are_decoded_is_not() -> None:
    loaded = Loaded()
    loaded.inside = 2
    loaded.others[0].release()
    assert_allclose(loaded.compute(0, 7), [[7.5]])
    loaded.inside = 1
    loaded.lone.release()
    loaded.compute(0, 8)
    assert (loaded.lone.batches, loaded.others[0].batches) == ([[8]], [[7]])


def test_one_that_failed_is_over() -> None:
    loaded = Loaded()
    loaded.others[0].release()
    with pytest.raises(RuntimeError, match="no kernel"):
        loaded.compute(0, 666, 1)
    loaded.lone.release()
    loaded.compute(0, 2)
    assert loaded.lone.batches == [[2]]


def test_the_last_that_is_closed_closes_it() -> None:
    loaded = Loaded()
    loaded.executors[0].close()
    assert loaded.others[0].closed_after == 0
    assert loaded.lone.closed_after is None
    loaded.executors[1].close()
    assert loaded.lone.closed_after == 0


def test_a_gpu_has_none() -> None:
    with pytest.raises(ExecutorError, match="on held"):
        lend(no_more, 4, [HeldExecutor()], IMAGES, 8, one)


def test_none_is_wanted() -> None:
    others: list[Executor] = [OnCpu(), OnCpu()]
    assert lend(no_more, 0, others, IMAGES, 8, one) == (others, 0)


@pytest.mark.parametrize(
    ("busy", "alone", "copies", "cpus", "threads"),
    [
        (0.0019, 0.0010, 2, 2, 2),
        (0.0019, 0.0010, 8, 64, 8),
        (0.0019, 0.0018, 2, 2, 0),  # not worth it
        (0.0021, 0.0010, 2, 2, 0),  # too large
        (0.0019, 0.0010, 1, 2, 0),  # has all processors already
        (0.0019, 0.0010, 2, 1, 0),  # there are no others
    ],
)
def test_a_small_network_has_one_where_an_image_then_takes_less(
    busy: float, alone: float, copies: int, cpus: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    clock.install(monkeypatch)
    loaded: list[TimedExecutor] = []

    def load(threads: int, copies: int, *, alone: bool = False) -> list[Executor]:
        assert (copies, alone) == (1, True)
        loaded.append(TimedExecutor({1: quick}, clock, threads=threads))
        return [*loaded]

    quick = alone
    others: list[Executor] = [TimedExecutor({1: busy}, clock) for _ in range(copies)]
    executors, given = lend(load, None, others, IMAGES, cpus, one)
    assert given == threads
    assert (executors == others) == (threads == 0)
    assert [each.closed for each in loaded] == [threads == 0] * len(loaded)
    compute(executors[0], IMAGES[:1], LOGITS)  # the first run takes longer
    before = clock.now
    compute(executors[0], IMAGES[:1], LOGITS)
    assert clock.now - before == pytest.approx(alone if threads else busy)
    assert [each.threads for each in loaded] in ([], [threads or cpus])


@pytest.mark.parametrize(("device", "computes"), [("cuda:0", True), ("cpu", False)])
def test_what_is_no_processor_has_none(device: str, computes: bool) -> None:
    others: list[Executor] = [TimedExecutor({}, Clock(), device, computes) for _ in range(2)]
    assert lend(no_more, None, others, IMAGES, 8, one) == (others, 0)


def test_served(tiny_repository: Path, photographs: list[tuple[str, bytes]], eager: Eager) -> None:
    """By ONNX Runtime, with one thread and with two."""
    settings = Settings(repository=tiny_repository, threads=1, instances=2, single_image_threads=2)
    images = [data for _, data in photographs]
    with serve(settings) as client:
        alone = client.post("/v1/classify?top_k=1", content=images[0], headers={"Content-Type": "image/png"}).json()
        many = client.post("/v1/classify?top_k=1", files=[("image", data) for data in images]).json()
    for result, data in zip(alone["results"] + many["results"], [images[0], *images], strict=True):
        (best,) = result["predictions"]
        assert best["index"] == int(eager(data).argmax())
        assert best["probability"] == pytest.approx(float(eager(data).max()), abs=1e-5)
