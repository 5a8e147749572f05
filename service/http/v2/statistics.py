"""The statistics extension: what each version has computed since it was loaded."""

from __future__ import annotations

from fastapi import APIRouter, Request

from service.http.v2 import model_names
from service.http.v2.model_names import Face
from service.http.v2.schemas import BatchStatistics, Count, InferenceStatistics, ModelStatistics, VersionStatistics
from service.registry.registry import Registry
from service.registry.repository import ENCODED, LoadedModel
from service.telemetry.statistics import Duration

router = APIRouter(prefix="/v2")

_NEVER = Count(count=0, ns=0)


@router.get("/models/stats")
async def all_statistics(request: Request) -> ModelStatistics:
    """Of every version that is served. The two names of a model share their figures."""
    registry: Registry = request.app.state.pipeline.registry
    return ModelStatistics(
        model_stats=[
            _statistics(name, model)
            for served in registry.current
            for name in (served, served + ENCODED)
            for model in registry.served(served)
        ]
    )


async def model_statistics(request: Request, face: Face) -> ModelStatistics:
    """Of one version, or of every version of the model that is served."""
    registry: Registry = request.app.state.pipeline.registry
    found = registry.find(face.model, face.version)
    models = [found] if face.version else registry.served(face.model)
    return ModelStatistics(model_stats=[_statistics(face.name, model) for model in models])


def _statistics(name: str, model: LoadedModel) -> VersionStatistics:
    counted = model.statistics
    answered = Count(count=counted.success.count, ns=0)
    return VersionStatistics(
        name=name,
        version=model.version,
        last_inference=round(counted.last_inference * 1000),
        inference_count=counted.inferences,
        execution_count=counted.executions,
        inference_stats=InferenceStatistics(
            success=_count(counted.success),
            fail=_count(counted.fail),
            queue=_count(counted.queue),
            compute_input=_count(counted.decode),
            compute_infer=_count(counted.infer),
            compute_output=answered,
            cache_hit=_NEVER,
            cache_miss=_NEVER,
        ),
        batch_stats=[
            BatchStatistics(
                batch_size=size,
                compute_input=Count(count=duration.count, ns=0),
                compute_infer=_count(duration),
                compute_output=Count(count=duration.count, ns=0),
            )
            for size, duration in sorted(counted.batches.items())
        ],
    )


def _count(duration: Duration) -> Count:
    return Count(count=duration.count, ns=duration.ns)


model_names.add(router, "GET", "/stats", model_statistics, response_model=ModelStatistics)
