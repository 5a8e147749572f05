"""KServe's V1 protocol: `POST /v1/models/NAME:predict`.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol. The paths without `:predict` have
another shape in `/v1`, which stays.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.responses import Response

from service.http.compat.instances import InstancesRequest, PredictionsJson, images_of, named
from service.http.compat.predict import ONLY_QUERY, PredictCall, PredictQuery, respond
from service.http.openapi import body_schema, errors
from service.http.problem_details import Problem
from service.http.v1.parameters import ModelName, ModelPath
from service.inference.results import Classification

PATHS = r"/v1/models/[^/]+:predict"
"""Regular expression of the paths whose errors have the form of the protocol."""

router = APIRouter(tags=["KServe V1"])


class KServeError(BaseModel):
    error: str


def error(problem: Problem) -> dict[str, Any]:
    """An error in the form of the protocol, a `KServeError`."""
    return {"error": problem.detail}


def write(answer: Classification) -> bytes:
    """Write a `PredictionsJson`."""
    return to_json({"predictions": [named(result) for result in answer.results]})


@router.post(
    "/v1/models/{model}:predict",
    dependencies=[ONLY_QUERY],
    response_model=PredictionsJson,
    responses=errors(KServeError, 400, 404, 408, 413, 415, 422, 429, 500, 503, 504),
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": body_schema(InstancesRequest)}}}
    },
)
async def predict(request: Request, model: ModelName, query: Annotated[PredictQuery, Query()]) -> Response:
    """Classify images in JSON, as KServe's V1 protocol has it. One image that fails makes its request fail."""
    call = await PredictCall.begin(request, ModelPath(model=model), query)
    images = await call.read_json(InstancesRequest, images_of)
    return await respond(request.scope, await call.classify(images), write)


@router.get("/v1/models/{model}:predict", include_in_schema=False)
async def refuse_get(model: str) -> None:
    """Answer 405: `GET /v1/models/{model}` would match the path, and refuse the name."""
    raise HTTPException(405, headers={"Allow": "POST"})
