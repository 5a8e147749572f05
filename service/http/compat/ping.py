"""`GET /ping`, the health check of SageMaker and of TorchServe: one answer for both.

SageMaker reads the status only; TorchServe's clients also read the JSON.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from service.inference.pipeline import Pipeline


class Ping(BaseModel):
    status: str
    """Healthy or Unhealthy."""


def router(path: str, unhealthy: int) -> APIRouter:
    """The route.

    Args:
        path: path of the route.
        unhealthy: status while no image can be classified; 500 in TorchServe's documentation.
    """
    ping_router = APIRouter(tags=["health and metrics"])

    @ping_router.get(path, response_model=Ping, responses={unhealthy: {"model": Ping, "description": "Not ready"}})
    async def ping(request: Request) -> Response:
        """200 if images are classified."""
        pipeline: Pipeline = request.app.state.pipeline
        if await pipeline.not_ready():
            return JSONResponse({"status": "Unhealthy"}, unhealthy)
        return JSONResponse({"status": "Healthy"})

    return ping_router
