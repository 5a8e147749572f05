"""The images of each batch of an epoch, drawn from (seed, epoch)."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.data import Indices
from models.training.recipe import Recipe, RecipeError


class BatchPlan(NamedTuple):
    """The images of a batch, or a part of them that begins at an even position."""

    epoch: int
    indices: Indices
    repetitions: Indices
    """Number of each copy of an image, for images that occur several times in an epoch."""

    def share(self, accumulate: int, rank: int, count: int) -> BatchPlan:
        """The images of one of `count` processes: it takes its share of each part of the batch."""
        ranges = [
            np.arange(*_share(begin, end, rank, count)) for begin, end in batch_parts(len(self.indices), accumulate)
        ]
        chosen = np.concatenate(ranges)
        return BatchPlan(self.epoch, self.indices[chosen], self.repetitions[chosen])


def batch_parts(count: int, parts: int, rank: int = 0, processes: int = 1) -> list[tuple[int, int]]:
    """Begin and end of each part of a batch of `count` images, among the images of one of several processes.

    They begin at even positions, so that mixed images stay together. An image without a partner is in the last part: a
    part of one image would have no statistics.
    """
    bounds = [2 * (part * (count // 2) // parts) for part in range(parts)] + [count]
    shares = [_share(begin, end, rank, processes) for begin, end in itertools.pairwise(bounds) if end > begin]
    ends = [0, *itertools.accumulate(end - begin for begin, end in shares)]
    return list(itertools.pairwise(ends))


def _share(begin: int, end: int, rank: int, count: int) -> tuple[int, int]:
    """The range of one of `count` processes; it may be empty."""
    pairs = (end - begin + 1) // 2
    first, last = (begin + 2 * (each * pairs // count) for each in (rank, rank + 1))
    return min(first, end), min(last, end)


def plan_epoch(labels: NDArray[np.int64], recipe: Recipe, epoch: int) -> list[BatchPlan]:
    """The batches of an epoch; their number and sizes are the same in every epoch.

    One image that is left over joins the last batch, for batch normalisation needs two.
    """
    order, repetitions = _order(labels, recipe, epoch)
    bounds = [step * recipe.batch_size for step in range(steps_per_epoch(len(labels), recipe.batch_size))]
    ends = [*bounds[1:], len(order)]
    return [BatchPlan(epoch, order[a:b], repetitions[a:b]) for a, b in zip(bounds, ends, strict=True)]


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Number of batches of `count` images."""
    left_over = count % batch_size
    return max(1, count // batch_size + (left_over > 1))


def batch_size(count: int, size: int, step: int) -> int:
    """Number of images of a batch of an epoch of `count` images."""
    return size if step + 1 < steps_per_epoch(count, size) else count - step * size


def check_batches(count: int, recipe: Recipe) -> None:
    """Check that batch normalisation has more than one image to measure its statistics on.

    Raises:
        RecipeError: it has not.
    """
    part = min(count, recipe.batch_size) // recipe.accumulate
    if part < 2 and recipe.options.get("norm", "batch") == "batch":
        what = "one training image" if count < 2 else "batches of one image" if recipe.accumulate == 1 else "such parts"
        raise RecipeError(f"batch normalisation cannot train on {what}: give more images per batch, or --norm none")


def _order(labels: NDArray[np.int64], recipe: Recipe, epoch: int) -> tuple[Indices, Indices]:
    """The images of an epoch in their order, and the number of each copy."""
    generator = np.random.default_rng((recipe.seed, epoch))
    if recipe.balance == "sampling":
        counts = np.bincount(labels)
        order = generator.choice(len(labels), len(labels), p=1 / (np.count_nonzero(counts) * counts[labels]))
    else:
        order = generator.permutation(len(labels))
    if recipe.repeats > 1:
        order = _repeat(order, recipe.repeats, recipe.batch_size)
    return order, _count_copies(order)


def _repeat(order: Indices, repeats: int, batch_size: int) -> Indices:
    """Fill each batch with `repeats` repetitions of its first images (Hoffer et al. 2020); the epoch keeps its length.

    The repetitions of an image are a part of the batch apart, so mixup does not mix an image with itself. If the batch
    is no multiple of `repeats`, some of its images have one repetition less.
    """
    distinct = -(-batch_size // repeats)
    starts = range(0, -(-len(order) // batch_size) * distinct, distinct)
    batches = [np.tile(order[first : first + distinct], repeats)[:batch_size] for first in starts]
    return np.concatenate(batches)[: len(order)]


def _count_copies(order: Indices) -> Indices:
    """For each position the number of earlier positions with the same image."""
    ranked = np.argsort(order, kind="stable")
    values = order[ranked]
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    lengths = np.diff(np.r_[starts, len(order)])
    repetitions = np.empty_like(order)
    repetitions[ranked] = np.arange(len(order)) - np.repeat(starts, lengths)
    return repetitions
