"""Batches from a thread and from processes are the same, in the same order; errors stay one sentence."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.data import ArrayDataset, DataError, Indices
from models.imaging.preprocess import Preprocess, UInt8Array
from models.training import cache
from models.training.augmentation.pipeline import Pipeline
from models.training.input.sampling import plan_epoch
from models.training.loader import BatchLoader
from models.training.recipe import Recipe, RecipeError

RECIPE = Recipe("tiny", batch_size=8, mixup=0.2, auto_augment="trivialaugment")
PREPROCESS = Preprocess(size=(8, 8), mode="RGB", mean=(0.5,) * 3, std=(0.3,) * 3)


class Damaged(ArrayDataset):
    """The images from number 30 on cannot be read, or end the process that reads them."""

    fatal = False

    def images(self, indices: Indices) -> UInt8Array:
        if indices.max() >= 30:
            if self.fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            raise DataError("shard 7: is damaged")
        return super().images(indices)


def numbers(kind: type[ArrayDataset] = ArrayDataset) -> ArrayDataset:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (45, 8, 8, 3), dtype=np.uint8)
    return kind("numbers", ("a", "b"), np.arange(45) % 2, images)


@pytest.mark.slow
def test_processes_give_the_batches_of_a_thread_in_order() -> None:
    pipeline = Pipeline(numbers(), RECIPE, PREPROCESS)
    thread, processes = BatchLoader(pipeline, 0, False), BatchLoader(pipeline, 2, False)
    for epoch in range(2):
        plans = plan_epoch(pipeline.data.labels, RECIPE, epoch)[epoch:]
        expected, found = list(thread.batches(plans)), list(processes.batches(plans))
        assert len(expected) == len(found) == len(plans)
        for plan, one, other in zip(plans, expected, found, strict=True):
            assert torch.equal(one.labels, torch.from_numpy(pipeline.data.labels[plan.indices]))
            for field in ("images", "labels", "depth_draws"):
                assert torch.equal(getattr(one, field), getattr(other, field))
            assert one.mixture is not None and other.mixture is not None
            for part in ("opacity", "box", "share"):
                assert torch.equal(getattr(one.mixture, part), getattr(other.mixture, part))
    assert thread.waited > 0 and processes.waited > 0


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_error_of_a_file_is_raised_as_it_is(workers: int) -> None:
    pipeline = Pipeline(numbers(Damaged), replace(RECIPE, auto_augment="none"), PREPROCESS)
    loader = BatchLoader(pipeline, workers, False)
    with pytest.raises(DataError, match=r"\Ashard 7: is damaged\Z"):
        list(loader.batches(plan_epoch(pipeline.data.labels, RECIPE, 0)))


@pytest.mark.slow
def test_ended_process_is_an_error_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Damaged, "fatal", True)
    pipeline = Pipeline(numbers(Damaged), replace(RECIPE, auto_augment="none"), PREPROCESS)
    loader = BatchLoader(pipeline, 1, False)
    with pytest.raises(DataError, match=r"\Aa process that reads images has ended: give fewer --data-workers"):
        list(loader.batches(plan_epoch(pipeline.data.labels, RECIPE, 0)))


def test_cached_images_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(RECIPE, auto_augment="none")
    pipeline = Pipeline(numbers(), recipe, PREPROCESS)
    cached = cache.cache_images(pipeline)
    plans = plan_epoch(pipeline.data.labels, recipe, 0)
    expected = [pipeline.read(plan).images for plan in plans]
    monkeypatch.setattr(ArrayDataset, "images", None)
    assert all(torch.equal(cached.read(plan).images, images) for plan, images in zip(plans, expected, strict=True))


@pytest.mark.parametrize(
    ("recipe", "memory", "message"),
    [
        (replace(RECIPE, auto_augment="none"), 4800, "for 20 of the 45 images: train without --cache"),
        (RECIPE, 10**9, "leave out --random-crop, --auto-augment"),
    ],
)
def test_cache_that_does_not_fit_is_refused(
    recipe: Recipe, memory: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "available_memory", lambda: memory)
    with pytest.raises(RecipeError, match=message):
        cache.cache_images(Pipeline(numbers(), recipe, PREPROCESS))
