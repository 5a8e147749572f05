"""Results for image files. `http` writes them as JSON, `cli` as tables and files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from service.core.errors import InferenceFailed, ServiceError
from service.decoding.decoder import DecodedFile
from service.messages.inference import InferenceResult


@dataclass(slots=True, kw_only=True)
class Prediction:
    """One class of an image."""

    label: str
    index: int
    """Index of the class."""
    probability: float
    cam: list[list[float]] | None = None
    """Class activation map [h][w]: contribution of each position to the logit of the class."""
    cam_png: bytes | None = None
    """The map as a PNG file."""


@dataclass(slots=True, kw_only=True)
class ImageInfo:
    """The image as it was sent, upright."""

    width: int
    """Pixels, as for `height`."""
    height: int
    format: str
    region: tuple[float, float, float, float] | None = None
    """Left, top, right and bottom, in pixels, of the part that the network was given; set with activation maps."""


@dataclass(slots=True, kw_only=True)
class ImageResult:
    """The predictions for one image, best first, or the error that the image failed with."""

    predictions: Sequence[Prediction] = ()
    image: ImageInfo | None = None
    embedding: list[float] | None = None
    """The pooled features, before the classifier, float [features]."""
    error: ServiceError | None = None


@dataclass(slots=True, kw_only=True)
class Timing:
    """The time of a request, by stage."""

    decode_ms: float
    queue_ms: float
    inference_ms: float
    extras_ms: float | None = None
    """Time to make embeddings and activation maps; None if the request wants none."""
    batch_size: int
    """Size of the largest batch that the images were in."""
    total_ms: float


@dataclass(slots=True, kw_only=True)
class Classification:
    """The results for all images of a request, in their order."""

    model: str
    version: str
    results: list[ImageResult]
    timing: Timing


NOT_FINITE = "the model computed values that are not finite for this image: use the model in float32, or another image"
"""Message of `InferenceFailed` for such an image."""


def make_result(predictions: Sequence[Prediction], image: ImageInfo | None = None) -> ImageResult:
    """The result of an image, from its predictions; the error if its probabilities are not finite.

    A softmax is finite for all classes of an image or for none, and JSON has no numbers that are not finite.
    """
    if not math.isfinite(predictions[0].probability):
        return ImageResult(error=InferenceFailed(NOT_FINITE))
    return ImageResult(predictions=predictions, image=image)


def make_results(images: Sequence[DecodedFile], best: Sequence[Sequence[Prediction]]) -> list[ImageResult]:
    """The results of images, from the predictions for each, as `make_result`."""
    return [
        make_result(predictions, ImageInfo(width=image.width, height=image.height, format=image.format))
        for image, predictions in zip(images, best, strict=True)
    ]


def with_errors(decoded: Sequence[object], results: Iterable[ImageResult]) -> list[ImageResult]:
    """The results of the images, with the errors of files that were not decoded in their places.

    Args:
        decoded: an error in place of each file that was not decoded.
        results: the results of the other files.
    """
    following = iter(results)
    return [ImageResult(error=each) if isinstance(each, ServiceError) else next(following) for each in decoded]


def fit_times(result: InferenceResult, seconds: float) -> InferenceResult:
    """A result whose times fit into the time that passed: times of batches that are computed together are sums."""
    remaining = seconds - result.queue_seconds
    computed = result.assembly_seconds + result.inference_seconds
    if computed <= remaining:
        return result
    scale = max(0.0, remaining / computed)
    return result._replace(
        queue_seconds=min(result.queue_seconds, seconds),
        assembly_seconds=result.assembly_seconds * scale,
        inference_seconds=result.inference_seconds * scale,
    )


def make_timing(
    decode_seconds: float, inference: InferenceResult, extras_seconds: float, total_seconds: float
) -> Timing:
    """The timing of a request; `extras_seconds` is 0 if the request wants no extras."""
    return Timing(
        decode_ms=_milliseconds(decode_seconds),
        queue_ms=_milliseconds(inference.queue_seconds),
        inference_ms=_milliseconds(inference.inference_seconds),
        extras_ms=_milliseconds(extras_seconds) if extras_seconds else None,
        batch_size=inference.batch_size,
        total_ms=_milliseconds(total_seconds),
    )


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1e6) / 1e3  # `round` to three digits takes three times as long
