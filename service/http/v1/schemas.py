"""What the API takes and gives, as JSON.

Pydantic checks what comes in. Answers to images are plain dataclasses: to check each field of what was computed here
would take three quarters of the time in which an answer is built.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter

from models.artifact.manifest import Accuracy, Precision


class _Schema(BaseModel):
    model_config = ConfigDict(frozen=True)


@dataclass(slots=True, kw_only=True)
class Prediction:
    label: str
    index: int
    probability: float
    cam: list[list[float]] | None = None
    """Class activation map [h][w]: what each position adds to the logit of the class, which is their sum and a bias."""
    cam_png: str | None = None
    """The map drawn, as base64 of a PNG."""


@dataclass(slots=True, kw_only=True)
class ImageInfo:
    """The image as it was sent, upright."""

    width: int
    height: int
    format: str
    region: tuple[float, float, float, float] | None = None
    """Left, top, right and bottom, in pixels, of the part that the network was given; told with activation maps."""


class Problem(_Schema):
    """RFC 9457 problem details."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    request_id: str | None = None
    """Of the request that failed, as in the header X-Request-Id and the log."""


@dataclass(slots=True, kw_only=True)
class ImageResult:
    """Predictions, best first, or the reason why there are none."""

    predictions: list[Prediction] | None = None
    image: ImageInfo | None = None
    embedding: list[float] | None = None
    """The pooled features, before the classifier."""
    error: Problem | None = None


@dataclass(slots=True, kw_only=True)
class StreamedResult(ImageResult):
    """One line of an answer in lines: they come in the order in which the images are done."""

    index: int
    """Position of the image in the request."""
    model: str
    version: str

    @classmethod
    def of(cls, result: ImageResult, index: int, model: str, version: str) -> StreamedResult:
        parts = {name: getattr(result, name) for name in ImageResult.__slots__}  # `fields` takes three times as long
        return cls(**parts, index=index, model=model, version=version)

    def line(self) -> bytes:
        return _STREAMED_RESULT.dump_json(self, exclude_none=True) + b"\n"


@dataclass(slots=True, kw_only=True)
class Timing:
    """Milliseconds that the request spent, and the largest batch that it was part of."""

    decode_ms: float
    queue_ms: float
    inference_ms: float
    extras_ms: float | None = None
    """Making embeddings and activation maps ready, where they were asked for."""
    batch_size: int
    total_ms: float


@dataclass(slots=True, kw_only=True)
class Classification:
    model: str
    version: str
    results: list[ImageResult]
    timing: Timing

    def json(self) -> bytes:
        return _CLASSIFICATION.dump_json(self, exclude_none=True)


_STREAMED_RESULT = TypeAdapter(StreamedResult)
_CLASSIFICATION = TypeAdapter(Classification)


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


State = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]


class VersionStatus(_Schema):
    """One version that is in the repository or still in memory."""

    version: str
    state: State
    reason: str | None = None
    """Why it is not served."""
    accuracy: Accuracy | None = None


class ModelStatus(_Schema):
    name: str
    versions: list[VersionStatus]


Origin = Literal["set", "tuned", "default rule"]


class Chosen(_Schema):
    """Where each setting comes from: from the settings, from measurements on this machine, or from the default rule."""

    executor: Origin
    precision: Origin
    threads: Origin
    max_batch: Origin
    reason: str
    """What was measured, or why no measurement is used."""


class EngineStatus(_Schema):
    """The TensorRT engine of a version in the engine cache."""

    state: Literal["READY", "BUILDING", "UNUSABLE", "FAILED"]
    """It fits this machine; does not, and another is being built; cannot be built here; or could not be."""
    reason: str | None = None
    """Why TensorRT does not serve the version: what the engine was built for, and what is here."""


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
    chosen: Chosen
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
