"""Augmentations and learning rates against their references: torchvision, timm, and the formulas of the papers."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from models.training.augmentation.batch import (
    ERASING_DRAWS,
    ERASING_TRIES,
    random_erasing,
    random_flip,
    random_shift,
)
from models.training.augmentation.draws import Draws, FloatArray
from models.training.augmentation.jitter import colour_jitter
from models.training.augmentation.mixing import draw_mixture
from models.training.augmentation.policies import rand_augment, trivial_augment
from models.training.augmentation.resized_crop import random_resized_crop
from models.training.optim.schedule import learning_rate
from models.training.recipes import make, names, read
from tests.acceptance.training.references import References, fed

IMAGES, DRAWN = 400, 10_000
SIZE = (24, 20)


def check() -> tuple[bool, str]:
    """Augmentations and learning rates against their references."""
    with tempfile.TemporaryDirectory() as folder:
        references = References(Path(folder))
        results = {
            **dict(_policies(references)),
            **dict(_transforms(references)),
            **dict(_mixing(references)),
            **dict(_rates()),
        }
    for name, problem in results.items():
        print(f"{name}: {problem or 'equal'}")
    wrong = [name for name, problem in results.items() if problem]
    return not wrong, f"{len(results) - len(wrong)} of {len(results)} equal their references"


def _pictures(mode: str) -> list[Image.Image]:
    rng = np.random.default_rng(5)
    shape = (30, 40) if mode == "L" else (30, 40, 3)
    # Smooth and noisy parts: equalising and stretching differ on them.
    waves = 120 * np.sin(np.arange(40) / 6)[:, None] if mode != "L" else 120 * np.sin(np.arange(40) / 6)
    return [
        Image.fromarray(np.clip(120 + waves * rng.random() + rng.normal(0, 25, shape), 0, 255).astype(np.uint8))
        for _ in range(IMAGES)
    ]


def _differing(pairs: Iterator[tuple[Image.Image, Image.Image]]) -> str | None:
    wrong = sum(not np.array_equal(np.asarray(ours), np.asarray(theirs)) for ours, theirs in pairs)
    return f"{wrong} of {IMAGES} images differ" if wrong else None


def _policies(references: References) -> Iterator[tuple[str, str | None]]:
    module = references.policies
    numbers = np.random.default_rng(1).random((IMAGES, 6))

    def trivial(mode: str) -> Iterator[tuple[Image.Image, Image.Image]]:
        for image, drawn in zip(_pictures(mode), numbers, strict=True):
            signs = [drawn[0], drawn[1], drawn[2]] if _has_magnitude(drawn[0]) else [drawn[0], drawn[2]]
            with fed(module, signs):
                yield trivial_augment(image, drawn[:3]), module.TrivialAugmentWide()(image)

    def randaugment(mode: str) -> Iterator[tuple[Image.Image, Image.Image]]:
        for image, drawn in zip(_pictures(mode), numbers, strict=True):
            fed_numbers = [number for each in (drawn[:3], drawn[3:]) for number in _randaugment_numbers(each)]
            with fed(module, fed_numbers):
                yield rand_augment(image, 2, 21, drawn), module.RandAugment(2, 21)(image)

    for mode in ("RGB", "L"):
        yield f"TrivialAugment {mode}", _differing(trivial(mode))
        yield f"RandAugment {mode}", _differing(randaugment(mode))


def _has_magnitude(operation: float) -> bool:
    return 0 < int(operation * 14) < 12


def _randaugment_numbers(drawn: FloatArray) -> list[float]:
    signed = 0 < int(drawn[0] * 14) < 10
    return [drawn[0], drawn[2]] if signed else [drawn[0]]


def _transforms(references: References) -> Iterator[tuple[str, str | None]]:
    module = references.transforms
    rng = np.random.default_rng(2)

    def crops() -> Iterator[tuple[Image.Image, Image.Image]]:
        transform = module.RandomResizedCrop(SIZE, scale=(0.08, 1.0), antialias=True)
        for image in _pictures("RGB"):
            drawn = rng.random(40)
            with fed(module, _crop_numbers(drawn, image.size)):
                yield random_resized_crop(image, SIZE, 0.08, drawn), transform(image)

    def jitters() -> Iterator[tuple[Image.Image, Image.Image]]:
        transform = module.ColorJitter(0.4, 0.4, 0.4)
        for image in _pictures("RGB"):
            drawn = rng.random(6)
            # The fourth place is that of the hue, which is not changed.
            with fed(module, [*_places(drawn[3:]), *drawn[:3]]):
                yield colour_jitter(image, 0.4, drawn), transform(image)

    yield "RandomResizedCrop", _differing(crops())
    yield "ColorJitter", _differing(jitters())
    yield "RandomErasing", _erasing(references, rng)
    yield "RandomCrop with padding", _shifts(references, rng)
    flips = random_flip(torch.arange(2.0).repeat(DRAWN, 1, 1, 1), rng.random((DRAWN, 1)))[:, 0, 0, 0]
    yield "flips of 10,000", _far(float(flips.mean()), 0.5, 0.5 / math.sqrt(DRAWN))


def _places(places: FloatArray) -> list[float]:
    """Numbers whose order is that of the operations: `randperm` gives the operation at each place."""
    return [*places.tolist(), 1.0]


def _crop_numbers(drawn: FloatArray, size: tuple[int, int]) -> list[float]:
    """The numbers that torchvision asks for: it draws top and left only of the first part that fits."""
    numbers: list[float] = []
    for area, aspect, top, left in drawn.reshape(-1, 4).tolist():
        numbers += [area, aspect]
        target = size[0] * size[1] * (0.08 + area * 0.92)
        ratio = math.exp(math.log(3 / 4) + aspect * (math.log(4 / 3) - math.log(3 / 4)))
        if round(math.sqrt(target * ratio)) <= size[0] and round(math.sqrt(target / ratio)) <= size[1]:
            return [*numbers, top, left]
    return numbers


def _erasing(references: References, rng: np.random.Generator) -> str | None:
    module, images = references.transforms, torch.zeros(IMAGES, 1, 30, 40)
    drawn = rng.random((IMAGES, ERASING_DRAWS))
    ours = random_erasing(images, 0.5, torch.ones(1, 1, 1), drawn)
    wrong = 0
    for image, numbers, result in zip(images, drawn, ours, strict=True):
        fed_numbers = [numbers[0]]
        for area, aspect, top, left in numbers[1:].reshape(ERASING_TRIES, 4):
            fed_numbers += [area, aspect]
            target = 30 * 40 * (0.02 + area * 0.31)
            ratio = math.exp(math.log(0.3) + aspect * (math.log(3.3) - math.log(0.3)))
            if round(math.sqrt(target * ratio)) < 30 and round(math.sqrt(target / ratio)) < 40:
                fed_numbers += [top, left]
                break
        with fed(module, fed_numbers):
            theirs = module.RandomErasing(p=0.5, value=1)(image.clone())
        wrong += not torch.equal(result, theirs)
    return f"{wrong} of {IMAGES} images differ" if wrong else None


def _shifts(references: References, rng: np.random.Generator) -> str | None:
    module, images = references.transforms, torch.rand(IMAGES, 3, 30, 40)
    drawn = rng.random((IMAGES, 2))
    ours = random_shift(images, 4, drawn)
    wrong = 0
    for image, numbers, result in zip(images, drawn, ours, strict=True):
        with fed(module, numbers.tolist()):
            wrong += not torch.equal(result, module.RandomCrop((30, 40), padding=4)(image))
    return f"{wrong} of {IMAGES} images differ" if wrong else None


def _mixing(references: References) -> Iterator[tuple[str, str | None]]:
    """Shares, rectangles and labels by timm's functions, for the numbers that were drawn; shares by Beta's moments."""
    timm = references.mixup
    height, width, classes = *SIZE, 5
    rng = np.random.default_rng(3)
    images, labels = torch.rand(DRAWN, 3, *SIZE), torch.from_numpy(rng.integers(0, classes, DRAWN))
    draws = Draws(7, 3, np.arange(DRAWN), np.zeros(DRAWN, np.int64))
    for name, mixup, cutmix, alpha in (("mixup", 0.2, 0.0, 0.2), ("CutMix", 0.0, 1.0, 1.0)):
        mixture = draw_mixture(mixup, cutmix, SIZE, draws)
        assert mixture is not None
        mixed, targets = mixture.images(images), mixture.targets(labels, classes)
        worst = 0.0
        for index in range(IMAGES):
            partner, share = index ^ 1, float(mixture.share[index])
            expected = images[index] * share + images[partner] * (1 - share)
            if name == "CutMix":
                top, bottom, left, right = mixture.box[index].tolist()
                expected = images[index].clone()
                expected[:, top:bottom, left:right] = images[partner, :, top:bottom, left:right]
                worst = max(worst, abs(share - (1 - (bottom - top) * (right - left) / (height * width))))
            pair = torch.stack([labels[index], labels[partner]])
            label = timm.mixup_target(pair, classes, lam=share)[0]
            worst = max(
                worst, float((mixed[index] - expected).abs().max()), float((targets[index] - label).abs().max())
            )
        yield name, f"differs by {worst:.1e}" if worst > 1e-6 else None
        if name == "mixup":
            shares = mixture.share.numpy()
            deviation = math.sqrt(1 / (4 * (2 * alpha + 1)))  # of Beta(alpha, alpha)
            yield "mean of mixup's shares", _far(float(shares.mean()), 0.5, deviation / math.sqrt(DRAWN))
            yield "deviation of mixup's shares", _far(float(shares.std()), deviation, 0.5 / math.sqrt(DRAWN))
        else:
            yield "rectangles of CutMix", _rectangles(references, mixture.box.numpy())


def _rectangles(references: References, boxes: np.ndarray[tuple[int, int], np.dtype[np.int64]]) -> str | None:
    """The mean area and the mean edges of timm's rectangles over as many draws."""
    np.random.seed(0)
    shares = np.random.default_rng(4).beta(1.0, 1.0, DRAWN)
    theirs = np.array([references.mixup.rand_bbox((1, 1, *SIZE), share) for share in shares])
    for ours, expected in zip(boxes.T, theirs.T, strict=True):
        deviation = math.hypot(ours.std(), expected.std()) / math.sqrt(DRAWN)
        if problem := _far(float(ours.mean()), float(expected.mean()), deviation):
            return problem
    return None


def _far(found: float, expected: float, deviation: float) -> str | None:
    return f"{found:.4f}, expected {expected:.4f}" if abs(found - expected) > 4 * deviation else None


def _rates() -> Iterator[tuple[str, str | None]]:
    """The learning rate of every step of each recipe, by the formulas of the papers, with 10 steps per epoch."""
    for name in names():
        recipe = make({**read(name), "arch": "resnet20"})
        warm, total = round(10 * recipe.warmup_epochs), 10 * recipe.epochs
        worst = 0.0
        for step in range(total):
            if step < warm:
                expected = recipe.peak_lr * (step + 1) / warm
            elif recipe.schedule == "step":
                expected = recipe.peak_lr * 0.1 ** ((step >= total / 2) + (step >= 0.75 * total))
            else:
                expected = recipe.peak_lr * math.cos(math.pi / 2 * (step - warm) / (total - warm)) ** 2
            found = learning_rate(
                step, peak=recipe.peak_lr, warmup_steps=warm, total_steps=total, schedule=recipe.schedule
            )
            worst = max(worst, abs(found - expected))
        yield f"learning rates of {name}", f"differ by {worst:.1e}" if worst > 1e-12 else None
