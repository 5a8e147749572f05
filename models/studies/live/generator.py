"""The random numbers of the page: Philox2x32-10 and the transformation of Box and Muller.

Philox2x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") turns a counter of two 32-bit words
and a key of one into two random words. Here the key is the seed, and the counter is (pair, tensor): the two words of a
pair of normal numbers, of the first, second, ... tensor that a network draws. So each number is a function of its place
alone, in any language with 32-bit integers. `service/page/studies/generator.js` is the same, and
`tests/data/philox2x32.json` has numbers that both must give.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MULTIPLIER = np.uint64(0xD256D193)
_WEYL = np.uint64(0x9E3779B9)
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def words(first: NDArray[np.uint64], second: int, key: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The two random words for each counter (first, second); all values below 2^32."""
    left, right, round_key = first, np.full_like(first, second), np.uint64(key)
    for _ in range(_ROUNDS):
        product = left * _MULTIPLIER
        left, right = (product >> _HALF) ^ round_key ^ right, product & _LOW
        round_key = (round_key + _WEYL) & _LOW
    return left, right


class RandomTensors:
    """Draws one tensor after the other for a seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._tensor = 0

    def normal(self, *shape: int) -> NDArray[np.float64]:
        """The next tensor: independent normal numbers of variance 1, in row-major order."""
        count = int(np.prod(shape))
        first, second = words(np.arange((count + 1) // 2, dtype=np.uint64), self._tensor, self._seed)
        self._tensor += 1
        # A half keeps the logarithm finite.
        radius = np.sqrt(-2 * np.log((first + 0.5) / 2**32))
        angle = 2 * np.pi * ((second + 0.5) / 2**32)
        pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        return np.asarray(pairs.ravel()[:count].reshape(shape), np.float64)
