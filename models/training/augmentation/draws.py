"""Random numbers of each image, from (seed, epoch, image, copy): no state, and nothing depends on batches or processes.

The numbers are those of SplitMix64: https://doi.org/10.1145/2660193.2660195 (Steele et al. 2014), applied as a hash to
the parts of the key, one after the other.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UInt64Array = NDArray[np.uint64]
FloatArray = NDArray[np.float64]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def split_mix(state: UInt64Array) -> UInt64Array:
    """The output of SplitMix64 for a state, before which the state is increased by its constant."""
    with np.errstate(over="ignore"):
        mixed = state + _GAMMA
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


@dataclass(frozen=True)
class Draws:
    """The random numbers of some images in one epoch."""

    seed: int
    epoch: int
    images: NDArray[np.int64]
    """Index of each image in the training images, int64 [n]."""
    repetitions: NDArray[np.int64]
    """Number of each copy of an image within the epoch, int64 [n]; see repeated augmentation."""

    def keys(self, purpose: str) -> UInt64Array:
        """A number of 64 bits for each image, uint64 [n]; another one for each purpose."""
        state = np.full(1, self.seed, np.uint64)
        for part in (self.epoch, zlib.crc32(purpose.encode()), self.images, self.repetitions):
            state = split_mix(state ^ np.atleast_1d(part).astype(np.uint64))
        return state

    def uniform(self, purpose: str, count: int = 1) -> FloatArray:
        """Numbers of [0, 1), float64 [n, count]; other ones for each purpose."""
        columns = split_mix(self.keys(purpose)[:, None] ^ np.arange(count, dtype=np.uint64))
        # 53 bits fill the fraction of a float64.
        return (columns >> np.uint64(11)).astype(np.float64) * 2.0**-53
