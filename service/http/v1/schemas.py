"""The JSON of `/v1`.

Pydantic validates requests. The schemas of responses are documentation only: `encode` writes the results of the
pipeline without a validation, which would take three quarters of the time to build a response.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import to_json

from models.artifact.manifest import Accuracy, Precision
from service.http.problem_details import Problem, problem
from service.inference.results import Classification, ImageResult, Prediction, Timing
from service.messages.model import ConfigProvenance
from service.messages.status import EngineStatus, ModelStatus, VersionStatus


class _Schema(BaseModel):
    model_config = ConfigDict(frozen=True)


class PredictionJson(_Schema):
    label: str
    index: int
    probability: float
    cam: list[list[float]] | None = None
    """Class activation map [h][w]: what each position adds to the logit of the class, which is their sum and a bias."""
    cam_png: str | None = None
    """The map drawn, as base64 of a PNG."""


class ImageInfoJson(_Schema):
    """The image as it was sent, upright."""

    width: int
    height: int
    format: str
    region: tuple[float, float, float, float] | None = None
    """Left, top, right and bottom, in pixels, of the part that the network was given; told with activation maps."""


class ImageResultJson(_Schema):
    """Predictions, best first, or the error of the image."""

    predictions: list[PredictionJson] | None = None
    image: ImageInfoJson | None = None
    embedding: list[float] | None = None
    """The pooled features, before the classifier."""
    error: Problem | None = None


class TimingJson(_Schema):
    """Milliseconds that the request spent, and the largest batch that it was part of."""

    decode_ms: float
    queue_ms: float
    inference_ms: float
    extras_ms: float | None = None
    """Time to prepare embeddings and activation maps, if the request asked for them."""
    batch_size: int
    total_ms: float


class ClassificationJson(_Schema):
    model: str
    version: str
    results: list[ImageResultJson]
    timing: TimingJson


def encode(answer: Classification) -> bytes:
    """An answer as JSON, a `ClassificationJson`."""
    return to_json(
        {
            "model": answer.model,
            "version": answer.version,
            "results": [image_json(result) for result in answer.results],
            "timing": _timing(answer.timing),
        }
    )


def encode_line(result: ImageResult, index: int, model: str, version: str) -> bytes:
    """One line of an answer in lines: an `ImageResultJson`, the position of the image in the request, and the model."""
    return to_json({**image_json(result), "index": index, "model": model, "version": version}) + b"\n"


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


def _from_base64(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        # pydantic's own type skips characters that are not base64, and so takes damaged text for other bytes.
        return base64.b64decode("".join(value.split()), validate=True)
    except ValueError as error:
        raise ValueError(f"not base64 ({error}); of a data: URL, send what stands behind the comma") from None


class Base64Image(_Schema):
    base64: Annotated[
        bytes, BeforeValidator(_from_base64), Field(json_schema_extra={"format": "byte", "contentEncoding": "base64"})
    ]


class ClassifyRequest(_Schema):
    """Images in JSON. A third larger than the same files as multipart/form-data, and slower to read."""

    images: list[Base64Image] = Field(min_length=1)


class ModelInfo(_Schema):
    """The version that answers those who name none, and the state of all versions."""

    name: str
    version: str
    labels: list[str]
    input_size: tuple[int, int]
    mode: str
    architecture: str
    executor: str
    precision: Precision
    threads: int
    """Processors that compute a batch together; on a GPU, those of the host."""
    lone_threads: int
    """Processors that compute an image that comes alone; 0 if it is computed like others."""
    lanes: int
    """Batches that are computed at the same time."""
    max_batch: int
    chosen: ConfigProvenance
    accuracy: Accuracy | None
    cam: bool
    """Whether it gives class activation maps."""
    engine: EngineStatus | None = None
    """Absent where none was built and none is asked for."""
    versions: list[VersionStatus]


class ModelList(_Schema):
    models: list[ModelInfo]


class Readiness(_Schema):
    ready: bool
    reasons: list[str] = []
    """What keeps the service from answering."""
    degraded: list[str] | None = None
    """What is lost although the service answers, such as one of several devices."""
    models: list[ModelStatus] | None = None
    """Every version and its state, for those who ask with `verbose`."""
