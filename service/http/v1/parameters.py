"""Path and query parameters of `/v1/…/classify`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.artifact.manifest import MODEL_NAME, VERSION
from models.validation import first_error
from service.core.errors import BadRequest
from service.core.priority import Priority
from service.http import query
from service.inference.optional_outputs import Cam, OptionalOutputs

ModelName = Annotated[str, Field(pattern=MODEL_NAME, description="Name of a model in the repository.")]
VersionNumber = Annotated[str, Field(pattern=VERSION, description="Version of the model.")]
Layer = Annotated[int, Field(ge=1)]
TimeoutMs = Annotated[float, Field(gt=0, le=3_600_000)]

_CAM = {"false": None, "true": Cam.values} | {kind.value: kind for kind in Cam}


class ModelPath(BaseModel):
    """Path parameters of a request to the current version of a model."""

    model: ModelName
    version: VersionNumber | None = None


class ClassifyQuery(BaseModel):
    """Query parameters."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    top_k: Annotated[int, Field(ge=1)] = 5
    """Number of classes in the result of each image; at most all classes of the model."""
    timeout_ms: TimeoutMs | None = None
    """Time limit of the request, instead of the default of the service."""
    embedding: bool = False
    """Also return the pooled features of each image."""
    layer: Layer | None = None
    """With `embedding`: the pooled features of this stage, if the version exports them, instead of the last ones."""
    cam: Literal["false", "true", "values", "overlay", "picture"] = "false"
    """Also return a class activation map for each class: as numbers (`values`, or `true`), as a transparent PNG to lay
    over the image (`overlay`), or as a PNG of the image with the map over it (`picture`)."""
    errors: Literal["status", "inline"] = "status"
    """For a single image that cannot be used: `status` is an error response, `inline` is 200 with the error in the
    result of the image."""
    priority: Priority = Priority.interactive
    """Interactive requests are computed before bulk requests, which get at least a tenth of the capacity."""

    @cached_property
    def optional_outputs(self) -> OptionalOutputs:
        return OptionalOutputs(self.embedding, _CAM[self.cam], self.layer)


DEFAULT_QUERY = ClassifyQuery()

_Parameters = TypeVar("_Parameters", bound=BaseModel)


def parse_query(values: Mapping[str, str]) -> ClassifyQuery:
    """Validate query parameters.

    Raises:
        BadRequest: a parameter is unknown or not valid.
    """
    query.check_names(values, ClassifyQuery.model_fields)
    parsed = parse(ClassifyQuery, values)
    if parsed.layer is not None and not parsed.embedding:
        raise BadRequest("layer: it selects the embedding: add embedding=true, or leave layer out")
    return parsed


def parse(schema: type[_Parameters], values: Mapping[str, str]) -> _Parameters:
    """Validate parameters.

    Raises:
        BadRequest: a parameter is not valid.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise BadRequest(first_error(error)) from None
