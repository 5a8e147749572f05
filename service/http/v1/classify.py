"""`/v1`: images in, labels out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request, params
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from models.artifact.manifest import MODEL_NAME
from service.core.priority import Priority
from service.http.disconnect import cancel_on_disconnect
from service.http.images_body import read_images
from service.http.openapi import Responses, errors
from service.http.parameters import Direct, Json, document, parse
from service.http.request_body import header
from service.http.v1 import ndjson
from service.http.v1.ndjson import Lines
from service.http.v1.schemas import ClassificationJson, ClassifyRequest, Problem, encode
from service.inference.optional_outputs import Cam, OptionalOutputs
from service.inference.pipeline import Pipeline
from service.telemetry import request_context

_NAME = Field(pattern=MODEL_NAME, description="Name of a model in the repository.")
ModelName = Annotated[str, _NAME]


class ModelPath(BaseModel):
    """The path of a request that names a model."""

    model: ModelName


class VersionPath(ModelPath):
    """The path of a request that names a version."""

    version: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,17}$", description="Version of the model.")]


class ClassifyQuery(BaseModel):
    """The query of a request."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    top_k: Annotated[int, Field(ge=1)] = 5
    """Classes to answer for each image; at most all of them."""
    timeout_ms: Annotated[float, Field(gt=0, le=3_600_000)] | None = None
    """Time limit for the request, instead of the server's default."""
    embedding: bool = False
    """Answer the pooled features of each image too."""
    cam: Literal["false", "true", "values", "overlay", "picture"] = "false"
    """Answer a class activation map for each class too: as numbers (`values`, or `true`), as a transparent PNG to lay
    over the image (`overlay`), or as a PNG of the image with the map over it (`picture`)."""
    errors: Literal["status", "inline"] = "status"
    """Of an only image that cannot be used: the status, or 200 with the error in its place."""
    priority: Literal["interactive", "bulk"] = "interactive"
    """Interactive requests pass bulk ones, which get at least a tenth of the service."""

    @cached_property
    def extras(self) -> OptionalOutputs:
        return OptionalOutputs(self.embedding, _CAM[self.cam])

    @cached_property
    def urgency(self) -> Priority:
        return Priority(self.priority)


_CAM = {"false": None, "true": Cam.values} | {kind.value: kind for kind in Cam}
DEFAULT_QUERY = ClassifyQuery()

_BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
# FastAPI publishes the schemas of bodies that it reads itself; this one is read here, so it may refer to none.
_JSON = ClassifyRequest.model_json_schema()
_JSON["properties"]["images"]["items"] = _JSON.pop("$defs")["Base64Image"]
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One image file as it is, any number of files in a form, or JSON with base64.",
        "content": {
            "image/*": _BINARY,
            "application/octet-stream": _BINARY,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"image": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
            "application/json": {"schema": _JSON},
        },
    }
}
_LINES: Responses = {
    200: {
        "description": "JSON; with Accept: application/x-ndjson a line for each image, as soon as it is done",
        "content": {ndjson.MEDIA_TYPE: {"schema": {"type": "string"}}},
    }
}
_ERRORS = errors(Problem, 400, 404, 408, 413, 415, 422, 429, 500, 503, 504)


async def _classify(request: Request, name: str | None = None, version: str | None = None) -> Response:
    """The path of a request, top to bottom: find the model, read the images, classify, answer."""
    pipeline: Pipeline = request.app.state.pipeline
    query = request.scope["query_string"]
    asked = parse(ClassifyQuery, "query", request.query_params) if query else DEFAULT_QUERY
    k, extras, priority = asked.top_k, asked.extras, asked.urgency
    seconds = (asked.timeout_ms or pipeline.settings.timeout_ms) / 1000
    found = pipeline.backend.find(name, version)
    context = request_context.current()
    context.model, context.version, context.priority = found.name, found.version, priority
    pipeline.check_admission(found, 1, seconds, priority)  # before the body is read
    started = time.monotonic()
    files = await read_images(request, pipeline.settings.max_images)
    context.stage("read", started, time.monotonic() - started)
    # Only now: another version may have taken over while the body was on its way.
    admitted = pipeline.admit(found.name, version, len(files), seconds, priority)
    if ndjson.MEDIA_TYPE in header(request.scope, b"accept"):
        return Lines(admitted, lambda model: pipeline.classify_each(model, files, k, seconds, extras, priority))
    with cancel_on_disconnect(request.scope), admitted as model:
        extras.check_size(model, len(files), k)
        inline = asked.errors == "inline"
        answer = await pipeline.classify(model, files, k, seconds, extras, priority, inline_errors=inline)
    return Json(encode(answer))


async def classify(request: Request) -> Response:
    """Classify images with the default model."""
    return await _classify(request)


async def classify_with_model(request: Request) -> Response:
    """Classify images with the served version of a model."""
    named = parse(ModelPath, "path", request.path_params)
    return await _classify(request, named.model)


async def classify_with_version(request: Request) -> Response:
    """Classify images with one version of a model."""
    named = parse(VersionPath, "path", request.path_params)
    return await _classify(request, named.model, named.version)


def install(app: FastAPI, dependencies: Sequence[params.Depends] = (), responses: Responses | None = None) -> None:
    """Add `/v1`, with what every request is checked by, and the answers that this documents."""
    for path, endpoint, named in (
        ("/v1/classify", classify, None),
        ("/v1/models/{model}/classify", classify_with_model, ModelPath),
        ("/v1/models/{model}/versions/{version}/classify", classify_with_version, VersionPath),
    ):
        in_path = [] if named is None else document(named, "path")
        app.router.add_api_route(
            path,
            endpoint,
            methods=["POST"],
            response_model=ClassificationJson,
            dependencies=dependencies,
            responses=_LINES | _ERRORS | (responses or {}),
            openapi_extra={"parameters": [*in_path, *document(ClassifyQuery, "query")], **_BODY},
            route_class_override=Direct,
        )
