"""The statistics extension: counts of each version since it was loaded."""

from __future__ import annotations

from fastapi import APIRouter, Request

from service.http.v2 import model_names
from service.open_inference import statistics
from service.open_inference.model_name import ModelName
from service.open_inference.statistics import ModelStatistics

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])


@router.get("/models/stats")
async def all_statistics(request: Request) -> ModelStatistics:
    """Statistics of every served version. The two names of a model share their counts."""
    return await statistics.all_statistics(request.app.state.pipeline.backend)


async def model_statistics(request: Request, model_name: ModelName) -> ModelStatistics:
    """Statistics of one version, or of every served version of the model."""
    return await statistics.model_statistics(request.app.state.pipeline.backend, model_name)


model_names.add(router, "GET", "/stats", model_statistics, response_model=ModelStatistics)
