"""The JSON of `/v1`.

Pydantic validates requests. The schemas of responses are documentation only: `encode` writes the results of the
pipeline without a validation, which would take three quarters of the time to build a response.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

from models.artifact.manifest import Accuracy, LesionBlock, Precision
from service.http.problem_details import Problem, problem
from service.inference.results import Classification, ImageResult, Prediction, Timing
from service.messages.model import ConfigProvenance
from service.messages.status import ModelStatus, PlanStatus, VersionStatus

_SLICE_PREDICTIONS = 64
_NO_PREDICTIONS = b'"predictions":[]'


class _V1Schema(BaseModel):
    model_config = ConfigDict(frozen=True)


class PredictionJson(_V1Schema):
    label: str
    index: int
    probability: float
    cam: list[list[float]] | None = None
    """Class activation map [h][w]: contribution of each position to the logit of the class."""
    cam_png: str | None = None
    """The map as a PNG, in base64."""


class ImageInfoJson(_V1Schema):
    """The image as it was sent, upright."""

    width: int
    height: int
    format: str
    region: tuple[float, float, float, float] | None = None
    """Left, top, right and bottom, in pixels, of the input of the network; set with activation maps."""


class ImageResultJson(_V1Schema):
    """Predictions, best first, or the error of the image."""

    predictions: list[PredictionJson] | None = None
    image: ImageInfoJson | None = None
    embedding: list[float] | None = None
    """The pooled features, before the classifier."""
    error: Problem | None = None


class TimingJson(_V1Schema):
    """Milliseconds per stage of the request, and the size of the largest batch with one of its images."""

    decode_ms: float
    queue_ms: float
    inference_ms: float
    extras_ms: float | None = None
    """Time to make embeddings and activation maps, if requested."""
    batch_size: int
    total_ms: float


class ClassificationJson(_V1Schema):
    model: str
    version: str
    results: list[ImageResultJson]
    timing: TimingJson


def encode(answer: Classification) -> bytes:
    """Write a response as JSON, a `ClassificationJson`."""
    return to_json(
        {
            "model": answer.model,
            "version": answer.version,
            "results": [image_json(result) for result in answer.results],
            "timing": _timing(answer.timing),
        }
    )


def encode_line(result: ImageResult, index: int, model: str, version: str) -> bytes:
    """Write a JSON line: an `ImageResultJson`, the position of the image in the request, and the model."""
    return to_json({**image_json(result), "index": index, "model": model, "version": version}) + b"\n"


def encode_slices(answer: Classification) -> Iterator[bytes]:
    """As `encode`, in slices that take milliseconds each."""
    yield to_json({"model": answer.model, "version": answer.version})[:-1] + b',"results":['
    for position, result in enumerate(answer.results):
        if position:
            yield b","
        yield from _image_slices(result, {})
    yield b'],"timing":' + to_json(_timing(answer.timing)) + b"}"


def encode_line_slices(result: ImageResult, index: int, model: str, version: str) -> Iterator[bytes]:
    """As `encode_line`, in slices that take milliseconds each."""
    yield from _image_slices(result, {"index": index, "model": model, "version": version})
    yield b"\n"


def _image_slices(result: ImageResult, more: Mapping[str, Any]) -> Iterator[bytes]:
    """`image_json` with more fields, as JSON."""
    rest = to_json({**image_json(replace(result, predictions=())), **more})
    if not result.predictions:
        yield rest
        return
    before, after = rest.split(_NO_PREDICTIONS, 1)
    yield before + _NO_PREDICTIONS[:-1]
    step = 1 if result.predictions[0].cam_png is not None else _SLICE_PREDICTIONS
    for start in range(0, len(result.predictions), step):
        part = to_json([_prediction(item) for item in result.predictions[start : start + step]])[1:-1]
        yield b"," + part if start else part
    yield b"]" + after


def image_json(result: ImageResult) -> dict[str, Any]:
    """The fields of an `ImageResultJson` that are set."""
    if result.error is not None:
        return {"error": problem(result.error).model_dump(exclude_none=True)}
    fields: dict[str, Any] = {"predictions": [_prediction(item) for item in result.predictions]}
    if result.image is not None:
        image: dict[str, Any] = {
            "width": result.image.width,
            "height": result.image.height,
            "format": result.image.format,
        }
        if result.image.region is not None:
            image["region"] = result.image.region
        fields["image"] = image
    if result.embedding is not None:
        fields["embedding"] = result.embedding
    return fields


def _prediction(item: Prediction) -> dict[str, Any]:
    fields: dict[str, Any] = {"label": item.label, "index": item.index, "probability": item.probability}
    if item.cam is not None:
        fields["cam"] = item.cam
    if item.cam_png is not None:
        fields["cam_png"] = base64.b64encode(item.cam_png).decode()
    return fields


def _timing(timing: Timing) -> Mapping[str, float]:
    fields = {"decode_ms": timing.decode_ms, "queue_ms": timing.queue_ms, "inference_ms": timing.inference_ms}
    if timing.extras_ms is not None:
        fields["extras_ms"] = timing.extras_ms
    return {**fields, "batch_size": timing.batch_size, "total_ms": timing.total_ms}


class ModelInfo(_V1Schema):
    """The current version of a model, and the state of all versions."""

    name: str
    version: str
    labels: list[str]
    input_size: tuple[int, int]
    mode: str
    architecture: str
    executor: str
    precision: Precision
    threads: int
    """Threads of each instance; on a GPU, threads of the host."""
    single_image_threads: int
    """Threads of the instance for a single image; 0 without such an instance."""
    concurrent_batches: int
    """Batches that are computed at the same time."""
    max_batch: int
    """Most images in a batch."""
    config: ConfigProvenance
    """Origin of the values above: the settings, a profile of resnet-serve tune, or the default rule."""
    accuracy: Accuracy | None
    cam: bool
    """Whether the model has class activation maps."""
    outputs: list[str]
    """Outputs of the graph; `layer1` and so on if the features of these layers can be requested."""
    lesions: list[LesionBlock] | None = Field(default=None, exclude_if=lambda value: value is None)
    """Blocks that `POST /v1/models/{model}/lesion` can delete, from the input to the output; absent without the file
    for it."""
    engine: PlanStatus | None = None
    """State of the engine; absent if none was built and none is needed."""
    versions: list[VersionStatus]
    lone_threads: int = Field(deprecated="is now single_image_threads")  # words: allow
    lanes: int = Field(deprecated="is now concurrent_batches")  # words: allow
    chosen: ConfigProvenance = Field(deprecated="is now config")


class ModelList(_V1Schema):
    models: list[ModelInfo]
    not_loaded: list[ModelStatus] | None = Field(default=None, exclude_if=lambda value: value is None)
    """With a limit of memory: models that are loaded at their next request."""


class Readiness(_V1Schema):
    ready: bool
    reasons: list[str] = []
    """Reasons why the service does not answer requests."""
    degraded: list[str] | None = None
    """Limitations although the service answers requests, such as a lost device."""
    models: list[ModelStatus] | None = None
    """State of every version, with the query parameter `verbose`."""
