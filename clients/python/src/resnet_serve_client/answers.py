"""Typed answers of the service. Unknown fields are ignored, so that a newer service works with an older client."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resnet_serve_client.errors import ApiError, ClientError, InvalidAnswer, UnreadableImage, from_problem


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class of an image."""

    label: str
    index: int
    """Index of the class."""
    probability: float
    cam: tuple[tuple[float, ...], ...] | None = None
    """Class activation map [h][w]: contribution of each position to the logit of the class."""
    cam_png: bytes | None = None
    """The map as a PNG file."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """The image as it was sent, upright."""

    width: int
    """Pixels, as for `height`."""
    height: int
    format: str
    region: tuple[float, float, float, float] | None = None
    """Left, top, right and bottom, in pixels, of the part that the network sees; set with heat maps."""


@dataclass(frozen=True, slots=True)
class Classification:
    """The answer for one image: its classes, best first, or the error that it failed with."""

    predictions: tuple[Prediction, ...] = ()
    model: str | None = None
    version: str | None = None
    image: ImageInfo | None = None
    embedding: tuple[float, ...] | None = None
    """The pooled features, before the classifier."""
    error: ApiError | UnreadableImage | None = None
    request_id: str | None = None
    """Id of the request in the log of the service."""

    @property
    def best(self) -> Prediction:
        """The most likely class.

        Raises:
            ClientError: the error of the image.
        """
        if self.error is not None:
            raise self.error
        return self.predictions[0]


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """One version of a model."""

    version: str
    state: str
    """LOADING, READY, UNLOADING or UNAVAILABLE."""
    reason: str | None = None
    """Why the version is not served."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The current version of a model."""

    name: str
    version: str
    labels: tuple[str, ...]
    input_size: tuple[int, int]
    """Height and width in pixels."""
    architecture: str
    executor: str
    precision: str
    cam: bool
    """Whether the model has heat maps."""
    versions: tuple[VersionInfo, ...]
    fields: Mapping[str, Any]
    """All fields of the answer."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the service classifies images."""

    ready: bool
    reasons: tuple[str, ...] = ()
    """Why not."""
    degraded: tuple[str, ...] = ()
    """Limits of a service that is ready."""


def read_classification(content: bytes, count: int, request_id: str | None) -> list[Classification]:
    """Read the answer of `/v1/…/classify`.

    Args:
        content: the JSON.
        count: number of images in the request.
        request_id: id of the request.

    Raises:
        InvalidAnswer: the answer is not one of this API, or has another number of results.
    """
    answer = _read(content)
    try:
        results = [_result(result, answer, request_id) for result in answer["results"]]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _invalid(error) from error
    if len(results) != count:
        raise InvalidAnswer(f"the answer has {len(results)} results for {count} images")
    return results


def read_models(content: bytes) -> list[ModelInfo]:
    """Read the answer of `/v1/models`.

    Raises:
        InvalidAnswer: the answer is not one of this API.
    """
    try:
        return [_model(fields) for fields in _read(content)["models"]]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _invalid(error) from error


def read_model(content: bytes) -> ModelInfo:
    """Read the answer of `/v1/models/{model}`.

    Raises:
        InvalidAnswer: the answer is not one of this API.
    """
    try:
        return _model(_read(content))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _invalid(error) from error


def read_readiness(content: bytes) -> Readiness:
    """Read the answer of `/readyz`.

    Raises:
        InvalidAnswer: the answer is not one of this API.
    """
    answer = _read(content)
    try:
        return Readiness(bool(answer["ready"]), _texts(answer.get("reasons")), _texts(answer.get("degraded")))
    except (KeyError, TypeError) as error:
        raise _invalid(error) from error


def _read(content: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(content)
    except ValueError as error:
        raise InvalidAnswer(f"the answer is not JSON: {error}") from error
    if not isinstance(answer, dict):
        raise InvalidAnswer("the answer is not a JSON object: is this the URL of resnet-serve?")
    return answer


def _invalid(error: Exception) -> ClientError:
    return InvalidAnswer(f"the answer does not have the form of this API ({error!r}): is this the URL of resnet-serve?")


def _result(result: Mapping[str, Any], answer: Mapping[str, Any], request_id: str | None) -> Classification:
    model, version = str(answer["model"]), str(answer["version"])
    if result.get("error") is not None:
        error = from_problem(result["error"], request_id)
        return Classification(model=model, version=version, error=error, request_id=request_id)
    predictions = tuple(_prediction(fields) for fields in result["predictions"])
    if not predictions:
        raise ValueError("no predictions")
    embedding = result.get("embedding")
    return Classification(
        predictions=predictions,
        model=model,
        version=version,
        image=None if result.get("image") is None else _image(result["image"]),
        embedding=None if embedding is None else tuple(embedding),
        request_id=request_id,
    )


def _prediction(fields: Mapping[str, Any]) -> Prediction:
    cam, png = fields.get("cam"), fields.get("cam_png")
    return Prediction(
        label=str(fields["label"]),
        index=int(fields["index"]),
        probability=float(fields["probability"]),
        cam=None if cam is None else tuple(map(tuple, cam)),
        cam_png=None if png is None else base64.b64decode(png),
    )


def _image(fields: Mapping[str, Any]) -> ImageInfo:
    region = fields.get("region")
    left_top_right_bottom = None if region is None else (region[0], region[1], region[2], region[3])
    return ImageInfo(int(fields["width"]), int(fields["height"]), str(fields["format"]), left_top_right_bottom)


def _model(fields: Mapping[str, Any]) -> ModelInfo:
    height, width = fields["input_size"]
    return ModelInfo(
        name=str(fields["name"]),
        version=str(fields["version"]),
        labels=_texts(fields["labels"]),
        input_size=(int(height), int(width)),
        architecture=str(fields["architecture"]),
        executor=str(fields["executor"]),
        precision=str(fields["precision"]),
        cam=bool(fields["cam"]),
        versions=tuple(
            VersionInfo(str(each["version"]), str(each["state"]), each.get("reason")) for each in fields["versions"]
        ),
        fields=dict(fields),
    )


def _texts(values: Sequence[Any] | None) -> tuple[str, ...]:
    return tuple(str(value) for value in values or ())
