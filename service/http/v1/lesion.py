"""`POST /v1/…/lesion`: one image, classified by a network with all its blocks and without some of them.

The lesion study of Veit et al. 2016 with the network that is served.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from service.core.errors import BadRequest
from service.core.priority import Priority
from service.http import query
from service.http.content.images_body import read_images
from service.http.disconnect import cancel_on_disconnect
from service.http.openapi import errors
from service.http.problem_details import Problem
from service.http.v1.classify import BODY
from service.http.v1.parameters import ModelName, TimeoutMs, VersionNumber
from service.http.v1.schemas import ImageInfoJson, PredictionJson, TimingJson
from service.inference.lesion import LesionPipeline, LesionResult, check_blocks
from service.telemetry import request_context

router = APIRouter(prefix="/v1", tags=["classification"])

_MAX_CHARACTERS = 8192


class LesionQuery(BaseModel):
    """Query parameters."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    deleted: Annotated[str, Field(pattern=r"^([0-9]{1,6}(,[0-9]{1,6})*)?$", max_length=_MAX_CHARACTERS)] = ""
    """Numbers of the deleted blocks, such as `3,7`. The first block after the input has number 1."""
    top_k: Annotated[int, Field(ge=1)] = 5
    """Number of classes in each list; at most all classes of the model."""
    timeout_ms: TimeoutMs | None = None
    """Time limit of the request, instead of the default of the service."""


class LesionBlockJson(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    number: int
    """From 1 at the input of the network."""
    name: str
    changes_shape: bool
    """Whether the shortcut of the block changes the shape of its input."""
    gate: float
    """Factor of the residual branch: 0 for a deleted block, of which the shortcut remains, otherwise 1."""


class LesionJson(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    model: str
    version: str
    blocks: list[LesionBlockJson]
    whole: list[PredictionJson]
    """Best classes with all blocks."""
    predictions: list[PredictionJson]
    """Best classes without the deleted blocks."""
    image: ImageInfoJson
    timing: TimingJson


_OPTIONS: dict[str, Any] = {
    "responses": errors(Problem, 400, 404, 408, 413, 415, 422, 429, 500, 503, 504),
    "openapi_extra": BODY,
    "response_model_exclude_none": True,
    "dependencies": [query.only(*LesionQuery.model_fields)],
}
_Query = Annotated[LesionQuery, Query()]


@router.post("/models/{model}/lesion", **_OPTIONS)
async def lesion(request: Request, model: ModelName, query: _Query) -> LesionJson:
    """Classify an image with the current version of a model, and without some of its blocks."""
    return await _answer(request, model, None, query)


@router.post("/models/{model}/versions/{version}/lesion", **_OPTIONS)
async def lesion_of_version(request: Request, model: ModelName, version: VersionNumber, query: _Query) -> LesionJson:
    """Classify an image with one version of a model, and without some of its blocks."""
    return await _answer(request, model, version, query)


async def _answer(request: Request, name: str, version: str | None, query: LesionQuery) -> LesionJson:
    lesions: LesionPipeline = request.app.state.lesions
    pipeline = lesions.pipeline
    seconds = (query.timeout_ms or pipeline.settings.timeout_ms) / 1000
    numbers = [int(number) for number in query.deleted.split(",") if number]
    context = request_context.current()
    context.priority = Priority.bulk
    with lesions.admitted():
        seconds = await pipeline.lookup.ensure_loaded(name, version, seconds)
        found = pipeline.find(name, version)
        context.model = found.name  # only now: each name is a series of the metrics
        check_blocks(found, numbers)  # before the body is read
        files, seconds = await read_images(request, pipeline.settings, seconds)
        if len(files) != 1:
            raise BadRequest(f"the request has {len(files)} images: send one")
        deadline = time.monotonic() + await pipeline.lookup.ensure_loaded(name, version, seconds, first=False)
        with cancel_on_disconnect(request.scope), pipeline.lease(name, version) as model:
            deleted = check_blocks(model, numbers)
            return _json(await lesions.compute(model, files[0], deleted, query.top_k, deadline))


def _json(found: LesionResult) -> LesionJson:
    blocks = [
        LesionBlockJson(
            number=place + 1,
            name=block.name,
            changes_shape=block.changes_shape,
            gate=0.0 if place in found.deleted else 1.0,
        )
        for place, block in enumerate(found.model.lesion_blocks)
    ]
    return LesionJson(
        model=found.model.name,
        version=found.model.version,
        blocks=blocks,
        whole=[PredictionJson.model_validate(each, from_attributes=True) for each in found.whole],
        predictions=[PredictionJson.model_validate(each, from_attributes=True) for each in found.without],
        image=ImageInfoJson.model_validate(found.image, from_attributes=True),
        timing=TimingJson.model_validate(found.timing, from_attributes=True),
    )
