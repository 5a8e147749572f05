"""Who computes an image that comes alone, and who computes the others."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from models.preprocess import UInt8Array
from service.executors import Executor, ExecutorError, Float32Array, compute
from service.lone import lend
from service.settings import Settings
from tests.conftest import Eager, serve
from tests.test_engine import HeldExecutor, image

LOGITS = frozenset({"logits"})


class OnCpu(HeldExecutor):
    device = "cpu"


class Loaded:
    """Two executors, and one for lone images."""

    def __init__(self) -> None:
        self.lone = OnCpu()
        self.others = [OnCpu(), OnCpu()]
        self.asked: list[tuple[int, int]] = []
        self.executors = lend(self._load, 4, self.others)

    def _load(self, threads: int, copies: int) -> list[Executor]:
        self.asked.append((threads, copies))
        return [self.lone]

    def compute(self, index: int, *values: int) -> Float32Array:
        """Logits [n, 1] of images, by one of the executors."""
        images: UInt8Array = np.stack([image(value) for value in values])
        return compute(self.executors[index], images, LOGITS)["logits"]


def test_an_image_that_comes_alone_is_lent_to_the_other() -> None:
    loaded = Loaded()
    assert loaded.asked == [(4, 1)]
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
        lend(lambda threads, copies: [], 4, [HeldExecutor()])


def test_served(tiny_repository: Path, photographs: list[tuple[str, bytes]], eager: Eager) -> None:
    """By ONNX Runtime, with one thread and with two."""
    settings = Settings(repository=tiny_repository, threads=1, copies=2, lone_threads=2)
    images = [data for _, data in photographs]
    with serve(settings) as client:
        alone = client.post("/v1/classify?top_k=1", content=images[0], headers={"Content-Type": "image/png"}).json()
        many = client.post("/v1/classify?top_k=1", files=[("image", data) for data in images]).json()
    for result, data in zip(alone["results"] + many["results"], [images[0], *images], strict=True):
        (best,) = result["predictions"]
        assert best["index"] == int(eager(data).argmax())
        assert best["probability"] == pytest.approx(float(eager(data).max()), abs=1e-5)
