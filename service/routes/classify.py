"""`/v1`: images in, labels out."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from models.manifest import MODEL_NAME
from service import record
from service.pipeline import Pipeline
from service.presence import while_connected
from service.priority import Priority
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


async def _classify(
    request: Request, name: str | None, version: str | None, k: int, timeout_ms: float | None, priority: Priority
) -> Response:
    """The path of a request, top to bottom: find the model, read the images, classify, answer."""
    pipeline: Pipeline = request.app.state.pipeline
    model = pipeline.model(name, version)
    noted = record.current()
    noted.model, noted.version, noted.priority = model.name, model.version, priority
    seconds = (timeout_ms or pipeline.settings.timeout_ms) / 1000
    admission = model.engine.admission
    admission.check(1, seconds, priority)  # before the body is read
    started = time.monotonic()
    files = await read_images(request, pipeline.settings.max_images)
    noted.stage("read", started, time.monotonic() - started)
    admitted = admission.admit(len(files), seconds, priority)
    if ndjson.MEDIA_TYPE in request.headers.get("accept", ""):
        return Lines(model, pipeline.classify_each(model, files, k, seconds, priority), admitted)
    async with while_connected(request.scope):
        with admitted:
            answer = await pipeline.classify(model, files, k, seconds, priority)
    return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")


@router.post("/classify", response_model=Classification, responses=_LINES | _ERRORS, openapi_extra=_BODY)
async def classify(
    request: Request, top_k: TopK = 5, timeout_ms: TimeoutMs = None, priority: PriorityName = Priority.interactive
) -> Response:
    """Classify images with the default model."""
    return await _classify(request, None, None, top_k, timeout_ms, priority)


@router.post("/models/{model}/classify", response_model=Classification, responses=_LINES | _ERRORS, openapi_extra=_BODY)
async def classify_with_model(
    request: Request,
    model: ModelName,
    top_k: TopK = 5,
    timeout_ms: TimeoutMs = None,
    priority: PriorityName = Priority.interactive,
) -> Response:
    """Classify images with the served version of a model."""
    return await _classify(request, model, None, top_k, timeout_ms, priority)


@router.post(
    "/models/{model}/versions/{version}/classify",
    response_model=Classification,
    responses=_LINES | _ERRORS,
    openapi_extra=_BODY,
)
async def classify_with_version(
    request: Request,
    model: ModelName,
    version: VersionNumber,
    top_k: TopK = 5,
    timeout_ms: TimeoutMs = None,
    priority: PriorityName = Priority.interactive,
) -> Response:
    """Classify images with one version of a model."""
    return await _classify(request, model, version, top_k, timeout_ms, priority)


@router.get("/models")
async def list_models(request: Request) -> ModelList:
    """What is loaded."""
    return ModelList(models=[_info(model) for model in request.app.state.pipeline.models.values()])


@router.get("/models/{model}", responses={404: _ERRORS[404], 503: _ERRORS[503]})
async def show_model(request: Request, model: ModelName) -> ModelInfo:
    """What is loaded of one model."""
    return _info(request.app.state.pipeline.model(model))


def _info(model: LoadedModel) -> ModelInfo:
    described = model.manifest
    return ModelInfo(
        name=model.name,
        version=model.version,
        labels=list(described.labels),
        input_size=described.preprocess.size,
        mode=described.preprocess.mode,
        architecture=described.architecture.name,
        executor=model.executor,
        precision=model.artifact.precision,
        max_batch=model.engine.max_batch,
        accuracy=model.artifact.accuracy,
    )
