"""Reads the images of a batch and augments them as the recipe says: all random numbers of a step are drawn here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from models.data import Dataset
from models.data.dataset import fill_images
from models.imaging.preprocess import Preprocess, UInt8Array
from models.training.augmentation import jitter, policies, resized_crop
from models.training.augmentation.batch import ERASING_DRAWS, random_erasing, random_flip, random_shift
from models.training.augmentation.draws import Draws
from models.training.augmentation.mixing import Mixture, draw_mixture
from models.training.input.sampling import BatchPlan
from models.training.optim.schedule import image_side
from models.training.recipe import Recipe


@dataclass(frozen=True)
class TrainingBatch:
    """Augmented images and their labels."""

    images: Tensor
    """uint8 [N, C, H, W]."""
    labels: Tensor
    """int64 [N]."""
    mixture: Mixture | None
    depth_draws: Tensor
    """Numbers of [0, 1) for stochastic depth, float32 [N, blocks]."""

    def pin_memory(self) -> TrainingBatch:
        """The batch in memory that a GPU copies from while this process continues."""
        return self._with(Tensor.pin_memory)

    def to(self, device: torch.device) -> TrainingBatch:
        """The batch on a device. Copies from pinned memory to a GPU do not wait for it."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def part(self, begin: int, end: int) -> TrainingBatch:
        """The images at some positions; `begin` must be even, so that mixed images stay together."""
        return self._with(lambda tensor: tensor[begin:end])

    def _with(self, change: Callable[[Tensor], Tensor]) -> TrainingBatch:
        """The batch with another form of each tensor."""
        mixture = None if self.mixture is None else Mixture(*map(change, self.mixture))
        return TrainingBatch(change(self.images), change(self.labels), mixture, change(self.depth_draws))


@dataclass(frozen=True)
class Pipeline:
    """The input of a training: `read` gives the batch of a plan, in any thread or process, in any order."""

    data: Dataset
    recipe: Recipe
    preprocess: Preprocess
    blocks: int = 0
    """Blocks of the network, for stochastic depth; 0 without it."""

    def read(self, plan: BatchPlan) -> TrainingBatch:
        """Read, cut and augment the images of a batch.

        Raises:
            DataError: an image cannot be read or decoded.
        """
        draws = Draws(self.recipe.seed, plan.epoch, plan.indices, plan.repetitions)
        testlike = is_testlike(self.recipe, plan.epoch)
        images = self._plain(plan) if testlike or not self.by_image else self._augmented(plan, draws)
        batch = torch.from_numpy(images).permute(0, 3, 1, 2)
        size = self.size(plan.epoch)
        if batch.shape[2:] != size:
            batch = F.interpolate(batch, size, mode="bilinear", antialias=True)
        return TrainingBatch(
            self._augment_batch(batch, draws, testlike),
            torch.from_numpy(self.data.labels[plan.indices]),
            None if testlike else draw_mixture(self.recipe.mixup, self.recipe.cutmix, size, draws),
            torch.from_numpy(draws.uniform("depth", self.blocks)).float(),
        )

    def size(self, epoch: int) -> tuple[int, int]:
        """Height and width of the images of an epoch."""
        recipe, (height, width) = self.recipe, self.preprocess.size
        if is_testlike(recipe, epoch):
            return height, width
        shorter = min(height, width)
        end = recipe.train_size or shorter
        side = image_side(epoch, recipe.epochs - recipe.fixres_epochs, recipe.start_size or end, end)
        return round(side * height / shorter), round(side * width / shorter)

    @property
    def by_image(self) -> bool:
        """Whether images are cut and changed one by one, which takes as long as decoding."""
        recipe = self.recipe
        return recipe.random_crop > 0 or recipe.auto_augment != "none" or recipe.colour_jitter > 0

    def _plain(self, plan: BatchPlan) -> UInt8Array:
        return self.data.images(plan.indices)

    def _augmented(self, plan: BatchPlan, draws: Draws) -> UInt8Array:
        """Images cut at random and changed one by one, uint8 [N, H, W, C]."""
        recipe, geometry, size = self.recipe, self.preprocess, self.size(plan.epoch)
        crops = draws.uniform("random crop", resized_crop.DRAWS)
        operations = draws.uniform("operations", policies.DRAWS_PER_OPERATION * max(1, recipe.ra_operations))
        jitters = draws.uniform("colour jitter", jitter.DRAWS)

        def make(position: int) -> UInt8Array:
            image = self.data.image(int(plan.indices[position]))
            if recipe.random_crop:
                image = resized_crop.random_resized_crop(image, size, recipe.random_crop, crops[position])
            else:
                image = Image.fromarray(geometry.apply(image).squeeze())
            if recipe.auto_augment == "trivialaugment":
                image = policies.trivial_augment(image, operations[position])
            elif recipe.auto_augment == "randaugment":
                image = policies.rand_augment(image, recipe.ra_operations, recipe.ra_magnitude, operations[position])
            if recipe.colour_jitter:
                image = jitter.colour_jitter(image, recipe.colour_jitter, jitters[position])
            return np.asarray(image, np.uint8).reshape(image.height, image.width, geometry.channels)

        height, width = size if recipe.random_crop else geometry.size
        return fill_images(len(plan.indices), (height, width, geometry.channels), make)

    def _augment_batch(self, images: Tensor, draws: Draws, testlike: bool) -> Tensor:
        recipe = self.recipe
        if not testlike:
            images = random_shift(images, recipe.crop_padding, draws.uniform("shift", 2))
        if recipe.flip:
            images = random_flip(images, draws.uniform("flip"))
        if testlike:
            return images
        fill = (torch.tensor(self.preprocess.mean) * 255).round().to(torch.uint8)[:, None, None]
        return random_erasing(images, recipe.erasing, fill, draws.uniform("erasing", ERASING_DRAWS))


def is_testlike(recipe: Recipe, epoch: int) -> bool:
    """Whether an epoch belongs to the last phase, with images as in the test (Touvron et al. 2019)."""
    return epoch >= recipe.epochs - recipe.fixres_epochs
