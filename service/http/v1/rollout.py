"""`/v1/models/{model}/rollout`: how the requests of a model are shared among its versions."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict

from models.artifact.traffic import TrafficPolicy
from service.http import query
from service.http.content import json_text
from service.http.content.images_body import read
from service.http.openapi import body_schema, errors
from service.http.problem_details import Problem
from service.http.v1.parameters import ModelName
from service.inference.leases import holding
from service.messages.backend import Backend
from service.messages.status import DifferingImage, ShadowStatus, VersionState

PATH = "/models/{model}/rollout"


class RolloutVersion(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    version: str
    state: VersionState
    reason: str | None
    """Why the version does not take requests, or what limits it."""
    share: float
    """Share of the requests without a version that the version gets now, from 0 to 1."""
    images: int
    """Images that the version has answered since it was loaded."""
    failures: int
    """Requests that the version has not answered since it was loaded."""


class Rollout(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    model: str
    policy: TrafficPolicy | None
    """None: the newest version that is served gets all requests without a version."""
    versions: list[RolloutVersion]
    """All versions in the repository or in memory, oldest first."""
    shadows: list[ShadowStatus]
    """Comparisons of each version that answers requests with each shadow, since both were loaded."""


router = APIRouter(prefix="/v1", tags=["rollouts"])
control = APIRouter(prefix="/v1", tags=["rollouts"])

_CONTROL_ERRORS = errors(Problem, 400, 404, 413, 429, 503)


@router.get(PATH, responses=errors(Problem, 400, 404, 503))
async def show_rollout(request: Request, model: ModelName) -> Rollout:
    """Describe how the requests of a model are shared among its versions."""
    query.refuse(request, {})
    return await _describe(request.app.state.pipeline.backend, model)


@router.get(PATH + "/images", responses=errors(Problem, 400, 404, 503))
async def show_images(request: Request, model: ModelName) -> list[DifferingImage]:
    """The images on which shadows differed last, newest first, if the policy keeps any."""
    query.refuse(request, {})
    backend: Backend = request.app.state.pipeline.backend
    if model not in backend.catalog.models:
        raise backend.catalog.not_found(model)
    return await backend.differing(model)


@control.put(
    PATH,
    responses=_CONTROL_ERRORS,
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": body_schema(TrafficPolicy)}}}
    },
)
async def set_rollout(request: Request, model: ModelName) -> Rollout:
    """Share the requests of a model among its versions; answered when those versions are loaded."""
    query.refuse(request, {})
    body = await read(request)
    policy = await json_text.parse(TrafficPolicy, memoryview(body), request.app.state.pipeline.settings)
    return await _set(request, model, policy)


@control.delete(PATH, responses=_CONTROL_ERRORS)
async def end_rollout(request: Request, model: ModelName) -> Rollout:
    """Remove the policy: the newest version gets all requests without a version."""
    query.refuse(request, {})
    return await _set(request, model, None)


async def _set(request: Request, model: str, policy: TrafficPolicy | None) -> Rollout:
    backend: Backend = request.app.state.pipeline.backend
    await backend.set_traffic(model, policy)
    return await _describe(backend, model)


async def _describe(backend: Backend, name: str) -> Rollout:
    model = backend.catalog.models.get(name)
    if model is None:
        raise backend.catalog.not_found(name)
    weights = {} if model.traffic is None else model.traffic.weights
    shares = {number: weight for number, weight in weights.items() if number in model.versions}
    if not any(shares.values()) and model.current is not None:
        shares = {int(model.current.version): 1.0}
    total = sum(shares.values())
    versions = []
    with holding(backend, model.versions.values()):
        for status in await backend.versions(name):
            served = model.versions.get(int(status.version))
            counts = None if served is None else await backend.statistics(served.key)
            versions.append(
                RolloutVersion(
                    version=status.version,
                    state=status.state,
                    reason=status.reason,
                    share=shares.get(int(status.version), 0.0) / total if total else 0.0,
                    images=0 if counts is None else counts.inferences,
                    failures=0 if counts is None else counts.fail.count,
                )
            )
    return Rollout(model=name, policy=model.traffic, versions=versions, shadows=await backend.shadows(name))
