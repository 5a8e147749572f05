"""Agreement of two versions of a model that have computed the same images."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.artifact.parity import Float32Array

DISTANCES = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Upper bounds of the histogram of distances."""
_Z = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""
_FIRST_SECONDS = 1e-5
_GROWTH = 1.1
_TIMES = tuple(_FIRST_SECONDS * _GROWTH**power for power in range(180))
"""Upper bounds of the histogram of times, from 10 µs to 4 minutes: a quantile is at most 10 % too large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Times in the executor, in seconds."""

    median: float
    p99: float
    per_image: float
    """Mean time of a batch, divided by its images: the cost of an image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassAgreement:
    """Images that the first version gives one class."""

    label: str
    images: int
    agreed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementReport:
    """All counts of an `Agreement`."""

    images: int
    agreed: int
    agreement: Interval | None
    """Share of the images to which both give the same most probable class; None without images."""
    distance: Interval | None
    """Mean total variation distance of the probabilities, from 0 to 1; None without images."""
    distances: list[int]
    """Images by distance: up to each bound of `DISTANCES`."""
    classes: list[ClassAgreement]
    """Classes with images, those with the most disagreements first."""
    first: Times | None
    """Times of the version that has answered; None without images."""
    second: Times | None
    """Times of the version it is compared with."""


class _TimeCounts:
    """Counts of times."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._cost = 0.0

    def add(self, seconds: float, batch_size: int) -> None:
        self._counts[min(bisect_left(_TIMES, seconds), len(_TIMES) - 1)] += 1
        self._cost += seconds / batch_size

    def report(self) -> Times | None:
        images = self._counts.total()
        if not images:
            return None
        return Times(median=self._quantile(0.5), p99=self._quantile(0.99), per_image=self._cost / images)

    def _quantile(self, share: float) -> float:
        rank, seen = share * self._counts.total(), 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= rank:
                return _TIMES[bucket]
        raise AssertionError("a quantile of no times")


class Agreement:
    """Compares the probabilities of two versions, image by image. Its size depends on the classes only.

    Args:
        labels: classes of the first version, which answers.
        other_labels: classes of the second version.
    """

    def __init__(self, labels: Sequence[str], other_labels: Sequence[str]) -> None:
        self._labels = labels
        names = _numbered(labels)
        places = {name: place for place, name in enumerate(dict.fromkeys([*names, *_numbered(other_labels)]))}
        self._places = np.array([places[name] for name in _numbered(other_labels)])
        """Place of each class of the second version among the classes of both."""
        self._width = len(places)
        self._same = list(names) == list(_numbered(other_labels))
        self._images: Counter[int] = Counter()
        self._agreed: Counter[int] = Counter()
        self._distance = self._squares = 0.0
        self._distances: Counter[int] = Counter()
        self._times = _TimeCounts(), _TimeCounts()

    def add(self, first: Float32Array, second: Float32Array) -> bool:
        """Compare one image.

        Args:
            first: probabilities by the first version, float32 [classes].
            second: probabilities by the second version, float32 [its classes].

        Returns:
            Whether the most probable classes are the same.
        """
        if not self._same:
            aligned = np.zeros(self._width, np.float32)
            aligned[self._places] = second
            second, first = aligned, np.pad(first, (0, self._width - len(first)))
        best = int(first.argmax())
        agrees = best == int(second.argmax())
        distance = min(1.0, float(np.abs(first - second, dtype=np.float64).sum()) / 2)
        self._images[best] += 1
        self._agreed[best] += agrees
        self._distance += distance
        self._squares += distance * distance
        self._distances[min(bisect_left(DISTANCES, distance), len(DISTANCES) - 1)] += 1
        return agrees

    def add_times(self, first: tuple[float, int], second: tuple[float, int]) -> None:
        """Add the time in the executor, in seconds, and the number of images, of the batch of each version."""
        for counts, time in zip(self._times, (first, second), strict=True):
            counts.add(*time)

    def report(self) -> AgreementReport:
        """All counts so far."""
        images, agreed = self._images.total(), self._agreed.total()
        classes = [
            ClassAgreement(label=self._labels[index], images=count, agreed=self._agreed[index])
            for index, count in self._images.items()
        ]
        return AgreementReport(
            images=images,
            agreed=agreed,
            agreement=wilson(agreed, images) if images else None,
            distance=self._mean_distance(images) if images else None,
            distances=[self._distances[index] for index in range(len(DISTANCES))],
            classes=sorted(classes, key=lambda each: (each.agreed - each.images, each.label)),
            first=self._times[0].report(),
            second=self._times[1].report(),
        )

    def _mean_distance(self, images: int) -> Interval:
        mean = self._distance / images
        variance = max(0.0, self._squares - images * mean * mean) / max(1, images - 1)
        margin = _Z * math.sqrt(variance / images)
        return Interval(value=mean, low=max(0.0, mean - margin), high=min(1.0, mean + margin))


def _numbered(labels: Sequence[str]) -> list[tuple[str, int]]:
    """Labels that are unique: two classes of ImageNet have the name `crane`."""
    seen: Counter[str] = Counter()
    numbered = []
    for label in labels:
        numbered.append((label, seen[label]))
        seen[label] += 1
    return numbered


def wilson(successes: int, trials: int) -> Interval:
    """A proportion with its 95 % confidence interval (Wilson 1927), which stays between 0 and 1 for few trials."""
    share, square = successes / trials, _Z * _Z
    middle = (share + square / (2 * trials)) / (1 + square / trials)
    margin = _Z / (1 + square / trials) * math.sqrt(share * (1 - share) / trials + square / (4 * trials * trials))
    return Interval(value=share, low=max(0.0, middle - margin), high=min(1.0, middle + margin))
