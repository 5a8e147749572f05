"""Images in `{"instances": [...]}`, the JSON of KServe, TensorFlow Serving and Vertex AI.

https://www.tensorflow.org/tfx/serving/api_rest#encoding_binary_values
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from service.core.errors import BadRequest
from service.core.settings import Settings
from service.http.compat.predict import Images
from service.http.content import image_text
from service.http.content.images_body import check_count
from service.inference.results import ImageResult

_BASE64_FIELDS = ("b64", "content", "data", "image", "image_bytes")
_FORMS = (
    'expected {"b64": "…"}, {"image": {"b64": "…"}} or {"data": "…"} with base64, or pixels in lists [height][width]'
    "[channels] that fit the model"
)


class InstancesRequest(BaseModel):
    """Images to classify: all in base64, or all as pixels."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    instances: Annotated[list[Any], Field(min_length=1, examples=[[{"b64": "…"}]])]
    """Objects with base64, as `{"b64": "…"}`, `{"image": {"b64": "…"}}` or `{"data": "…"}`; or nested lists of whole
    numbers from 0 to 255 [height][width][channels] that fit the model."""


class NamedPredictions(BaseModel):
    """The classes of one image, the most probable first."""

    labels: list[str]
    indices: list[int]
    probabilities: list[float]


class PredictionsJson(BaseModel):
    predictions: list[NamedPredictions]


def named(result: ImageResult) -> dict[str, Any]:
    """A `NamedPredictions`."""
    return {
        "labels": [item.label for item in result.predictions],
        "indices": [item.index for item in result.predictions],
        "probabilities": [item.probability for item in result.predictions],
    }


def images_of(request: InstancesRequest, settings: Settings) -> Images:
    """The images in a request.

    Raises:
        BadRequest: an instance is not an image.
        PayloadTooLarge: there are too many images.
    """
    instances = request.instances
    check_count(len(instances), settings.max_images)
    if isinstance(instances[0], list):
        if not all(isinstance(instance, list) for instance in instances):
            raise BadRequest("instances: some are pixels and some are objects: send two requests")
        return Images(pixels=instances)
    return Images(files=[_file(instance, index) for index, instance in enumerate(instances)])


def _file(instance: Any, index: int) -> bytes:
    text = _base64_of(instance)
    if text is None:
        raise BadRequest(f"instances.{index}: not an image: {_FORMS}")
    return image_text.decode(text, f"instances.{index}")


def _base64_of(instance: Any) -> str | None:
    """The base64 in an instance; other fields, such as `key`, are ignored."""
    if not isinstance(instance, dict):
        return None
    for value in instance.values():  # the name of the input is that of a model elsewhere
        if isinstance(value, dict) and isinstance(value.get("b64"), str):
            return str(value["b64"])
    return next((instance[name] for name in _BASE64_FIELDS if isinstance(instance.get(name), str)), None)
