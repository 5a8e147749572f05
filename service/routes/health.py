"""Liveness, readiness and metrics, for orchestrators and Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse, Response

from service.schemas import Readiness

router = APIRouter()


@router.get("/healthz", response_class=PlainTextResponse)
async def healthz() -> str:
    """Answers while the process is alive."""
    return "ok\n"


@router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness, "description": "Not ready"}})
async def readyz(request: Request) -> Response:
    """200 when images are classified; 503 while warming up or draining, or when no engine is alive."""
    reasons = request.app.state.pipeline.not_ready()
    answer = Readiness(ready=not reasons, reasons=reasons)
    return Response(answer.model_dump_json(), 503 if reasons else 200, media_type="application/json")


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Prometheus text format."""
    return Response(request.app.state.pipeline.metrics.render(), media_type=CONTENT_TYPE_LATEST)
