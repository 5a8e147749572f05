"""Augmentation: equal to torchvision for the same random numbers, and drawn for each image alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.data import ArrayDataset
from models.imaging.preprocess import Preprocess
from models.training.augmentation.batch import random_erasing, random_flip, random_shift
from models.training.augmentation.draws import Draws, FloatArray, split_mix
from models.training.augmentation.jitter import colour_jitter
from models.training.augmentation.mixing import Mixture, draw_mixture
from models.training.augmentation.pipeline import Pipeline
from models.training.augmentation.policies import rand_augment, trivial_augment
from models.training.augmentation.resized_crop import random_box, random_resized_crop
from models.training.input.sampling import BatchPlan, plan_epoch
from models.training.recipe import Recipe

RECORDED = np.load(Path(__file__).parents[1] / "data" / "torchvision_augmentation.npz")
"""Outputs of torchvision 0.28 for one image and given random numbers, as in tests/acceptance/training/formulas.py."""
PICTURE = Image.fromarray(RECORDED["image"])
OPERATIONS: dict[str, Callable[[FloatArray], Image.Image]] = {
    "trivial": lambda draws: trivial_augment(PICTURE, draws),
    "randaugment": lambda draws: rand_augment(PICTURE, 2, 21, draws),
    "crop": lambda draws: random_resized_crop(PICTURE, (8, 10), 0.08, draws),
    "jitter": lambda draws: colour_jitter(PICTURE, 0.4, draws),
}


def test_random_numbers_are_those_of_splitmix() -> None:
    """The first outputs for the seed 1234567, as published at https://rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64"""
    gamma = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + step * gamma) % 2**64 for step in range(5)], np.uint64)
    assert split_mix(states).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def draws_of(images: list[int], seed: int = 3, epoch: int = 2, repetitions: int = 0) -> Draws:
    return Draws(seed, epoch, np.array(images), np.full(len(images), repetitions))


def test_numbers_of_an_image_depend_on_nothing_but_its_key() -> None:
    together, alone = draws_of([5, 6, 7]).uniform("flip", 4), draws_of([6]).uniform("flip", 4)
    np.testing.assert_array_equal(together[1], alone[0])
    others = [
        draws_of([6], seed=4).uniform("flip", 4),
        draws_of([6], epoch=3).uniform("flip", 4),
        draws_of([6], repetitions=1).uniform("flip", 4),
        draws_of([7]).uniform("flip", 4),
        draws_of([6]).uniform("shift", 4),
    ]
    assert len({tuple(each[0]) for each in (alone, *others)}) == 6


def test_numbers_are_uniform() -> None:
    numbers = draws_of(list(range(10_000))).uniform("crop", 3)
    for column in numbers.T:
        counts = np.histogram(column, 20, (0, 1))[0]
        assert ((counts - 500) ** 2 / 500).sum() < 50  # chi-squared with 19 degrees of freedom: 43.8 at 0.1 %
    correlations = np.asarray(np.corrcoef(numbers.T))
    assert abs(correlations[np.triu_indices(3, 1)]).max() < 0.04


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_on_one_image_equal_torchvision(name: str) -> None:
    for draws, expected in zip(RECORDED[f"{name}_draws"], RECORDED[name], strict=True):
        np.testing.assert_array_equal(np.asarray(OPERATIONS[name](draws)), expected)


def test_erasing_equals_torchvision() -> None:
    draws = RECORDED["erasing_draws"]
    images = torch.from_numpy(RECORDED["image"]).permute(2, 0, 1).repeat(len(draws), 1, 1, 1)
    erased = random_erasing(images, 0.5, torch.full((3, 1, 1), 7, dtype=torch.uint8), draws)
    np.testing.assert_array_equal(erased.permute(0, 2, 3, 1).numpy(), RECORDED["erasing"])


def test_random_part_of_an_image_that_no_try_fits_is_the_middle() -> None:
    assert random_box(100, 10, 0.9, np.full(40, 0.5)) == (43, 0, 56, 10)
    assert random_box(10, 100, 0.9, np.full(40, 0.5)) == (0, 43, 10, 56)


IMAGES = torch.arange(4 * 2 * 6 * 5, dtype=torch.uint8).reshape(4, 2, 6, 5)


def test_random_shift_fills_with_zeros() -> None:
    draws = np.array([[0.0, 0.99], [0.5, 0.5], [0.3, 0.7], [0.99, 0.0]])
    padded = np.pad(IMAGES.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
    offsets = [(0, 4), (2, 2), (1, 3), (4, 0)]
    expected = [image[:, y : y + 6, x : x + 5] for image, (y, x) in zip(padded, offsets, strict=True)]
    np.testing.assert_array_equal(random_shift(IMAGES, 2, draws).numpy(), expected)


def test_random_flip_mirrors_half() -> None:
    flipped = random_flip(IMAGES, np.array([[0.1], [0.5], [0.49], [0.9]])).numpy()
    expected = IMAGES.numpy().copy()
    expected[[0, 2]] = expected[[0, 2], :, :, ::-1]
    np.testing.assert_array_equal(flipped, expected)


def test_mixed_images_and_labels_belong_together() -> None:
    """Image i is all 10 i: the values of a mixed image tell the shares of the two."""
    count, size = 7, (8, 12)
    images = torch.arange(count).float()[:, None, None, None].expand(count, 1, *size) * 10
    labels = torch.arange(count)
    mixture = draw_mixture(0.4, 1.0, size, draws_of(list(range(count))))
    assert mixture is not None
    mixed, targets = mixture.images(images), mixture.targets(labels, count)
    for index in range(count):
        partner = index if index == 6 else index ^ 1
        share = float(targets[index, index])
        assert targets[index].sum() == pytest.approx(1)
        assert float(mixed[index].mean()) == pytest.approx(10 * (share * index + (1 - share) * partner), abs=1e-4)
    assert any(len(image.unique()) == 2 for image in mixed)
    assert any(len(image.unique()) == 1 and float(image.mean()) % 10 for image in mixed)
    part = Mixture(*(each[2:6] for each in mixture))
    torch.testing.assert_close(part.images(images[2:6]), mixed[2:6])


def test_shares_of_mixup_have_the_moments_of_beta() -> None:
    mixture = draw_mixture(0.2, 0.0, (8, 8), draws_of(list(range(4000))))
    assert mixture is not None
    assert float(mixture.share.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(mixture.share.std()) == pytest.approx(math.sqrt(1 / (4 * 1.4)), abs=0.02)


RICH = Recipe(
    "tiny",
    epochs=6,
    batch_size=8,
    random_crop=0.3,
    crop_padding=1,
    auto_augment="trivialaugment",
    colour_jitter=0.3,
    erasing=0.5,
    mixup=0.2,
    cutmix=1.0,
    start_size=8,
    fixres_epochs=1,
)


def pipeline(recipe: Recipe, channels: int = 3) -> Pipeline:
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (16, 16, 20, channels), dtype=np.uint8)
    data = ArrayDataset("noise", ("a", "b"), np.arange(16) % 2, array)
    mean = (0.5,) * channels
    return Pipeline(data, recipe, Preprocess(**data.geometry.model_dump(), mean=mean, std=mean), blocks=2)


@pytest.mark.parametrize("channels", [1, 3])
def test_batch_is_the_same_in_parts(channels: int) -> None:
    """So several processes can read the parts."""
    source = pipeline(RICH, channels)
    (plan, _) = plan_epoch(source.data.labels, RICH, 1)
    whole = source.read(plan)
    parts = [source.read(BatchPlan(1, plan.indices[a:b], plan.repetitions[a:b])) for a, b in ((0, 2), (2, 8))]
    for name in ("images", "labels", "depth_draws"):
        torch.testing.assert_close(torch.cat([getattr(each, name) for each in parts]), getattr(whole, name))
    assert whole.mixture is not None
    torch.testing.assert_close(
        torch.cat([each.mixture.share for each in parts if each.mixture is not None]), whole.mixture.share
    )


def test_sizes_grow_and_end_as_in_the_test() -> None:
    source = pipeline(RICH)
    sizes = [source.size(epoch) for epoch in range(6)]
    assert sizes == [(8, 10), (8, 10), (12, 15), (16, 20), (16, 20), (16, 20)]
    (plan, _) = plan_epoch(source.data.labels, RICH, 5)
    last = source.read(plan)
    assert last.mixture is None
    plain = source.data.images(plan.indices).transpose(0, 3, 1, 2)
    for image, expected in zip(last.images.numpy(), plain, strict=True):
        assert np.array_equal(image, expected) or np.array_equal(image, expected[:, :, ::-1])


def test_copies_of_an_image_are_apart_and_augmented_each() -> None:
    recipe = replace(RICH, repeats=2, mixup=0.0, cutmix=0.0)
    source = pipeline(recipe)
    plans = plan_epoch(source.data.labels, recipe, 0)
    assert [len(plan.indices) for plan in plans] == [8, 8]
    for plan in plans:
        assert sorted(np.bincount(plan.indices, minlength=16).tolist())[-4:] == [2, 2, 2, 2]
        np.testing.assert_array_equal(plan.indices[:4], plan.indices[4:])
        assert plan.repetitions.tolist() == [0] * 4 + [1] * 4
    images = source.read(plans[0]).images
    assert not any(torch.equal(images[index], images[index + 4]) for index in range(4))
