"""Liveness, readiness and metrics, for orchestrators and Prometheus."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse, Response

from service.http import query
from service.http.openapi import errors
from service.http.problem_details import Problem
from service.http.v1.schemas import Readiness
from service.inference.pipeline import Pipeline

router = APIRouter(tags=["health and metrics"])

Verbose = Annotated[
    str | None, Query(description="If present, with any value, the response has the state of every version.")
]


@router.get("/healthz", response_class=PlainTextResponse)
async def healthz() -> str:
    """200 while the process is alive."""
    return "ok\n"


@router.get(
    "/readyz",
    dependencies=[query.only("verbose")],
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "Not ready"}, **errors(Problem, 400)},
)
async def readyz(request: Request, verbose: Verbose = None) -> Response:
    """200 if images are classified, with the devices that are lost; 503 while models load or if no engine works."""
    pipeline: Pipeline = request.app.state.pipeline
    reasons, backend = await pipeline.not_ready(), pipeline.backend
    models = None if verbose is None else await backend.statuses()
    answer = Readiness(ready=not reasons, reasons=reasons, degraded=await backend.degraded() or None, models=models)
    return Response(answer.model_dump_json(exclude_none=True), 503 if reasons else 200, media_type="application/json")


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Metrics in the text format of Prometheus."""
    async with request.app.state.one_rendering:  # each takes a thread, and up to half a second of its time
        content = await request.app.state.metrics.render()
    return Response(content, media_type=CONTENT_TYPE_LATEST)
