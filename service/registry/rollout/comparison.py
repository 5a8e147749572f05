"""The results of a version and of its shadow for the same images, compared."""

from __future__ import annotations

import base64
import io
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from PIL import Image

from models.artifact.parity import Float32Array
from models.imaging.preprocess import UInt8Array
from service.messages.inference import InferenceResult
from service.messages.status import DifferingImage
from service.registry.version import Version
from service.telemetry.agreement import Agreement
from service.telemetry.instruments import Count


class Differing(NamedTuple):
    """An image to which a shadow gives another label than the version that has answered."""

    pixels: UInt8Array
    first: tuple[str, float]
    """Label and probability by the version that has answered."""
    second: tuple[str, float]
    """Those by the shadow."""


@dataclass(slots=True)
class Comparison:
    """Counts of a version and a shadow, since both are loaded."""

    agreement: Agreement
    counted: Callable[[str], Count]
    """Gives the metric of an outcome."""
    keeps: Callable[[], int]
    """Gives the number of differing images that are kept."""
    differing: deque[Differing] = field(default_factory=deque)
    """Images with another label first, the last ones."""
    waiting: int = 0
    dropped: int = 0
    failed: int = 0

    def keep(self, image: Differing) -> None:
        """Keep an image, if the policy says so."""
        self.differing.append(image)
        while len(self.differing) > self.keeps():
            self.differing.popleft()

    def drop(self) -> None:
        """Take note that an image is not computed."""
        self.dropped += 1
        self.counted("dropped").inc()


class ComparedImage:
    """An image that a shadow computes, as a `ShadowImage`.

    Args:
        version: has answered.
        shadow: computes the image.
        comparison: counts the outcome.
        pixels: the image.
        row: probabilities by the version.
        result: the result of the version.
    """

    __slots__ = ("_comparison", "_row", "_shadow", "_times", "_version", "pixels")

    def __init__(
        self,
        version: Version,
        shadow: Version,
        comparison: Comparison,
        pixels: UInt8Array,
        row: Float32Array,
        result: InferenceResult,
    ) -> None:
        self.pixels = pixels.copy()  # the caller may free its own
        self._row = row.copy()  # of one image, instead of the outputs of the whole batch
        self._times = result.inference_seconds, result.batch_size
        self._version, self._shadow, self._comparison = version, shadow, comparison

    def done(self, found: InferenceResult | None) -> None:
        """As `ShadowImage.done`."""
        comparison = self._comparison
        comparison.waiting -= 1
        if found is None:
            comparison.failed += 1
            comparison.counted("failed").inc()
            return
        other = found.outputs["probabilities"][0]
        agrees = comparison.agreement.add(self._row, other)
        if not agrees:
            comparison.keep(Differing(self.pixels, _best(self._version, self._row), _best(self._shadow, other)))
        comparison.agreement.add_times(self._times, (found.inference_seconds, found.batch_size))
        comparison.counted("agreed" if agrees else "differed").inc()

    def drop(self) -> None:
        """As `ShadowImage.drop`."""
        self._comparison.waiting -= 1
        self._comparison.drop()


def _best(version: Version, probabilities: Float32Array) -> tuple[str, float]:
    index = int(probabilities.argmax())
    return version.served.labels[index], float(probabilities[index])


def _png(pixels: UInt8Array) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()


def describe_all(kept: list[tuple[str, str, Differing]]) -> list[DifferingImage]:
    """The part of a response about some images, each with its version and its shadow."""
    return [
        DifferingImage(
            version=version,
            shadow=shadow,
            label=image.first[0],
            probability=image.first[1],
            shadow_label=image.second[0],
            shadow_probability=image.second[1],
            png=_png(image.pixels),
        )
        for version, shadow, image in kept
    ]
