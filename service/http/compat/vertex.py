"""Vertex AI: health and predict routes at the paths that the platform names in the environment.

https://cloud.google.com/vertex-ai/docs/predictions/custom-container-requirements. Instances, parameters and predictions
also have the form of Vertex AI's own image classifiers, so their clients work unchanged:
https://cloud.google.com/vertex-ai/docs/image-data/classification/get-predictions
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt
from pydantic_core import to_json
from starlette.responses import Response

from service.core import platforms
from service.core.errors import Unavailable
from service.core.priority import Priority
from service.core.settings import Settings
from service.http.compat import kserve
from service.http.compat.instances import InstancesRequest, images_of
from service.http.compat.predict import Images, PredictCall, PredictQuery, respond
from service.http.openapi import body_schema, errors
from service.http.v1.parameters import TimeoutMs
from service.inference.pipeline import Pipeline
from service.inference.results import Classification

_OPEN = ("/healthz", "/readyz")
"""Routes of the service that also are a health check for Vertex AI."""


class Parameters(BaseModel):
    """Options of a request."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, use_attribute_docstrings=True)

    max_predictions: Annotated[PositiveInt, Field(alias="maxPredictions")] = 10
    """Number of classes per image."""
    confidence_threshold: Annotated[NonNegativeFloat, Field(alias="confidenceThreshold")] = 0.0
    """Leave out classes with a lower probability."""
    timeout_ms: TimeoutMs | None = None
    """Time limit of the request, instead of the default of the service."""
    priority: Priority = Priority.interactive
    """Interactive requests are computed before bulk requests."""


class VertexRequest(InstancesRequest):
    """Images to classify, and options."""

    parameters: Parameters | None = None


class VertexPrediction(BaseModel):
    """The classes of one image, the most probable first."""

    ids: list[str]
    """Indices of the classes."""
    displayNames: list[str]
    confidences: list[float]


class VertexResponse(BaseModel):
    predictions: list[VertexPrediction]


def probe_router() -> APIRouter:
    """The health check, which needs no API key."""
    router = APIRouter(tags=["Vertex AI"])
    if (path := platforms.vertex_health_path()) not in _OPEN:
        router.add_api_route(
            path, health, response_class=Response, responses=errors(kserve.KServeError, 503), name="vertex_health"
        )
    return router


def predict_router() -> APIRouter:
    """Predictions."""
    router = APIRouter(tags=["Vertex AI"])
    router.add_api_route(
        platforms.vertex_predict_path(),
        predict,
        methods=["POST"],
        name="vertex_predict",
        response_model=VertexResponse,
        responses=errors(kserve.KServeError, 400, 408, 413, 415, 422, 429, 500, 503, 504),
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/json": {"schema": body_schema(VertexRequest)}}}
        },
    )
    return router


async def health(request: Request) -> Response:
    """200 if images are classified."""
    pipeline: Pipeline = request.app.state.pipeline
    if reasons := await pipeline.not_ready():
        raise Unavailable("; ".join(reasons))
    return Response()


async def predict(request: Request) -> Response:
    """Classify images with the default model. One image that fails makes its request fail."""
    call = await PredictCall.begin(request, None, PredictQuery())
    images, parameters = await call.read_json(VertexRequest, _read)
    call.use(
        PredictQuery(top_k=parameters.max_predictions, timeout_ms=parameters.timeout_ms, priority=parameters.priority)
    )
    return await respond(request.scope, await call.classify(images), partial(_write, parameters.confidence_threshold))


def _read(request: VertexRequest, settings: Settings) -> tuple[Images, Parameters]:
    return images_of(request, settings), request.parameters or Parameters()


def _write(threshold: float, answer: Classification) -> bytes:
    """A `VertexResponse`, with the classes whose probability is at least the threshold."""
    kept = [[item for item in each.predictions if item.probability >= threshold] for each in answer.results]
    predictions = [
        {
            "ids": [str(item.index) for item in items],
            "displayNames": [item.label for item in items],
            "confidences": [item.probability for item in items],
        }
        for items in kept
    ]
    return to_json({"predictions": predictions})
