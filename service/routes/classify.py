"""`/v1`: images in, labels out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from models.manifest import MODEL_NAME
from service.errors import ServiceError
from service.extras import Cam, Extras
from service.pipeline import Pipeline
from service.registry import Registry
from service.repository import LoadedModel
from service.routes.body import read_images
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
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": description}
    for status, description in {
        400: "Malformed request",
        404: "No such model or version",
        413: "Too many bytes, pixels or images",
        415: "Content-Type not taken",
        422: "Not a usable image",
        500: "Inference failed",
        503: "Overloaded (with Retry-After), or not ready",
        504: "Time limit passed",
    }.items()
}


async def _classify(
    request: Request,
    name: str | None,
    version: str | None,
    k: int,
    timeout_ms: float | None,
    extras: Extras,
    inline_errors: bool,
) -> Response:
    """The path of a request, top to bottom: find the model, read the images, classify, answer."""
    pipeline: Pipeline = request.app.state.pipeline
    registry = pipeline.registry
    with pipeline.metrics.in_flight.track_inprogress():
        try:
            name = registry.find(name, version).name
            files = await read_images(request, pipeline.settings.max_images)
            # Only now: another version may have taken over while the body was on its way.
            with registry.use(name, version) as model:
                extras.check_size(model, len(files), k)
                seconds = (timeout_ms or pipeline.settings.timeout_ms) / 1000
                answer = await pipeline.classify(model, files, k, seconds, extras, inline_errors=inline_errors)
        except ServiceError as error:
            pipeline.metrics.request(name if name in registry.current else "", error.status)
            raise
    return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")


@router.post("/classify", response_model=Classification, responses=_ERRORS, openapi_extra=_BODY)
async def classify(
    request: Request,
    top_k: TopK = 5,
    timeout_ms: TimeoutMs = None,
    embedding: WithEmbedding = False,
    cam: WithCam = "false",
    errors: Errors = "status",
) -> Response:
    """Classify images with the default model."""
    return await _classify(request, None, None, top_k, timeout_ms, Extras(embedding, _CAM[cam]), errors == "inline")


@router.post("/models/{model}/classify", response_model=Classification, responses=_ERRORS, openapi_extra=_BODY)
async def classify_with_model(
    request: Request,
    model: ModelName,
    top_k: TopK = 5,
    timeout_ms: TimeoutMs = None,
    embedding: WithEmbedding = False,
    cam: WithCam = "false",
    errors: Errors = "status",
) -> Response:
    """Classify images with the served version of a model."""
    return await _classify(request, model, None, top_k, timeout_ms, Extras(embedding, _CAM[cam]), errors == "inline")


@router.post(
    "/models/{model}/versions/{version}/classify",
    response_model=Classification,
    responses=_ERRORS,
    openapi_extra=_BODY,
)
async def classify_with_version(
    request: Request,
    model: ModelName,
    version: VersionNumber,
    top_k: TopK = 5,
    timeout_ms: TimeoutMs = None,
    embedding: WithEmbedding = False,
    cam: WithCam = "false",
    errors: Errors = "status",
) -> Response:
    """Classify images with one version of a model."""
    return await _classify(request, model, version, top_k, timeout_ms, Extras(embedding, _CAM[cam]), errors == "inline")


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
        max_batch=model.engine.max_batch,
        accuracy=model.artifact.accuracy,
        cam=model.classifier is not None,
        versions=registry.versions(model.name),
    )
