"""Liveness and readiness in the form of the protocol. Probes need no API key."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.core.errors import Unavailable
from service.http.openapi import errors
from service.http.v2.schemas import Error
from service.inference.pipeline import Pipeline

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])


@router.get("/health/live", response_class=Response)
async def live() -> Response:
    """200 while the process is alive."""
    return Response()


@router.get("/health/ready", response_class=Response, responses=errors(Error, 503))
async def ready(request: Request) -> Response:
    """200 if images are classified."""
    pipeline: Pipeline = request.app.state.pipeline
    if reasons := await pipeline.not_ready():
        raise Unavailable("; ".join(reasons))
    return Response()
