"""`/v1`: images in, labels out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response

from models.manifest import MODEL_NAME
from service import record
from service.extras import Cam, Extras
from service.pipeline import Pipeline
from service.presence import while_connected
from service.priority import Priority
from service.registry import Registry
from service.repository import LoadedModel
from service.routes import ndjson
from service.routes.body import read_images
from service.routes.ndjson import Lines
from service.schemas import Classification, ClassifyRequest, ModelInfo, ModelList, Problem

router = APIRouter(prefix="/v1")

ModelName = Annotated[str, Path(pattern=MODEL_NAME, description="Name of a model in the repository.")]
VersionNumber = Annotated[str, Path(pattern=r"^[1-9][0-9]{0,17}$", description="Version of the model.")]
TopK = Annotated[int, Query(ge=1, description="Classes to answer for each image; at most all of them.")]
TimeoutMs = Annotated[
    float | None, Query(gt=0, le=3_600_000, description="Time limit for the request, instead of the server's default.")
]
WithEmbedding = Annotated[bool, Query(description="Answer the pooled features of each image too.")]
WithCam = Annotated[
    Literal["false", "true", "values", "overlay", "picture"],
    Query(
        description="Answer a class activation map for each class too: as numbers (`values`, or `true`), as a "
        "transparent PNG to lay over the image (`overlay`), or as a PNG of the image with the map over it (`picture`)."
    ),
]
Errors = Annotated[
    Literal["status", "inline"],
    Query(description="Of an only image that cannot be used: the status, or 200 with the error in its place."),
]
_CAM = {"false": None, "true": Cam.values} | {kind.value: kind for kind in Cam}

PriorityName = Annotated[
    Priority, Query(description="Interactive requests pass bulk ones, which get at least a tenth of the service.")
]

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
_LINES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "JSON; with Accept: application/x-ndjson a line for each image, as soon as it is done",
        "content": {ndjson.MEDIA_TYPE: {"schema": {"type": "string"}}},
    }
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": description}
    for status, description in {
        400: "Malformed request",
        404: "No such model or version",
        408: "Body sent too slowly",
        413: "Too many bytes, pixels or images",
        415: "Content-Type not taken",
        422: "Not a usable image",
        429: "More requests than the caller's rate (with Retry-After)",
        500: "Inference failed",
        503: "Overloaded (with Retry-After), or not ready",
        504: "Time limit passed",
    }.items()
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What the query of a request asks for, beside the model."""

    k: int
    timeout_ms: float | None
    extras: Extras
    inline_errors: bool
    priority: Priority


async def _asked(
    top_k: TopK = 5,
    timeout_ms: TimeoutMs = None,
    embedding: WithEmbedding = False,
    cam: WithCam = "false",
    errors: Errors = "status",
    priority: PriorityName = Priority.interactive,
) -> Asked:
    # Not a plain function: FastAPI would run that in a thread.
    return Asked(top_k, timeout_ms, Extras(embedding, _CAM[cam]), errors == "inline", priority)


AskedOf = Annotated[Asked, Depends(_asked)]


async def _classify(request: Request, name: str | None, version: str | None, asked: Asked) -> Response:
    """The path of a request, top to bottom: find the model, read the images, classify, answer."""
    pipeline: Pipeline = request.app.state.pipeline
    registry, k, extras, priority = pipeline.registry, asked.k, asked.extras, asked.priority
    seconds = (asked.timeout_ms or pipeline.settings.timeout_ms) / 1000
    found = registry.find(name, version)
    noted = record.current()
    noted.model, noted.version, noted.priority = found.name, found.version, priority
    found.engine.admission.check(1, seconds, priority)  # before the body is read
    started = time.monotonic()
    files = await read_images(request, pipeline.settings.max_images)
    noted.stage("read", started, time.monotonic() - started)
    # Only now: another version may have taken over while the body was on its way.
    admitted = registry.admit(found.name, version, len(files), seconds, priority)
    if ndjson.MEDIA_TYPE in request.headers.get("accept", ""):
        return Lines(admitted, lambda model: pipeline.classify_each(model, files, k, seconds, extras, priority))
    async with while_connected(request.scope):
        with admitted as model:
            extras.check_size(model, len(files), k)
            answer = await pipeline.classify(
                model, files, k, seconds, extras, priority, inline_errors=asked.inline_errors
            )
    return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")


@router.post("/classify", response_model=Classification, responses=_LINES | _ERRORS, openapi_extra=_BODY)
async def classify(request: Request, asked: AskedOf) -> Response:
    """Classify images with the default model."""
    return await _classify(request, None, None, asked)


@router.post("/models/{model}/classify", response_model=Classification, responses=_LINES | _ERRORS, openapi_extra=_BODY)
async def classify_with_model(request: Request, model: ModelName, asked: AskedOf) -> Response:
    """Classify images with the served version of a model."""
    return await _classify(request, model, None, asked)


@router.post(
    "/models/{model}/versions/{version}/classify",
    response_model=Classification,
    responses=_LINES | _ERRORS,
    openapi_extra=_BODY,
)
async def classify_with_version(request: Request, model: ModelName, version: VersionNumber, asked: AskedOf) -> Response:
    """Classify images with one version of a model."""
    return await _classify(request, model, version, asked)


@router.get("/models")
async def list_models(request: Request) -> ModelList:
    """What is loaded."""
    registry: Registry = request.app.state.pipeline.registry
    return ModelList(models=[_info(registry, model) for model in registry.current.values()])


@router.get("/models/{model}", responses={status: _ERRORS[status] for status in (400, 404, 503)})
async def show_model(request: Request, model: ModelName) -> ModelInfo:
    """What is loaded of one model."""
    registry: Registry = request.app.state.pipeline.registry
    return _info(registry, registry.find(model))


def _info(registry: Registry, model: LoadedModel) -> ModelInfo:
    described = model.manifest
    return ModelInfo(
        name=model.name,
        version=model.version,
        labels=list(described.labels),
        input_size=described.preprocess.size,
        mode=described.preprocess.mode,
        architecture=described.architecture.name,
        executor=model.executor,
        precision=model.precision,
        threads=model.choice.threads,
        max_batch=model.engine.max_batch,
        chosen=model.choice.chosen,
        accuracy=model.artifact.accuracy,
        cam=model.classifier is not None,
        engine=registry.engine_status(model),
        versions=registry.versions(model.name),
    )
