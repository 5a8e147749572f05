"""The statistics extension: counts of each version since it was loaded."""

from __future__ import annotations

from fastapi import APIRouter, Request

from service.core.naming import ENCODED
from service.http.v2 import model_names
from service.http.v2.model_names import ModelName
from service.http.v2.schemas import BatchStatistics, CountJson, InferenceStatistics, ModelStatistics, VersionStatistics
from service.inference.leases import holding
from service.messages.backend import Backend
from service.messages.model import ServedModel
from service.telemetry.statistics import Duration

router = APIRouter(prefix="/v2")

_NEVER = CountJson(count=0, ns=0)


@router.get("/models/stats")
async def all_statistics(request: Request) -> ModelStatistics:
    """Statistics of every served version. The two names of a model share their counts."""
    backend: Backend = request.app.state.pipeline.backend
    names = list(backend.catalog.current())
    with holding(backend, [model for name in names for model in backend.catalog.served(name)]) as models:
        return ModelStatistics(
            model_stats=[
                await _statistics(backend, name, model)
                for served in names
                for name in (served, served + ENCODED)
                for model in models
                if model.name == served
            ]
        )


async def model_statistics(request: Request, model_name: ModelName) -> ModelStatistics:
    """Statistics of one version, or of every served version of the model."""
    backend: Backend = request.app.state.pipeline.backend
    model = backend.catalog.find(model_name.model, model_name.version)
    models = [model] if model_name.version else backend.catalog.served(model_name.model)
    with holding(backend, models) as held:
        return ModelStatistics(model_stats=[await _statistics(backend, model_name.name, model) for model in held])


async def _statistics(backend: Backend, name: str, model: ServedModel) -> VersionStatistics:
    counted = await backend.statistics(model.key)
    answered = CountJson(count=counted.success.count, ns=0)
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
                compute_input=CountJson(count=duration.count, ns=0),
                compute_infer=_count(duration),
                compute_output=CountJson(count=duration.count, ns=0),
            )
            for size, duration in sorted(counted.batches.items())
        ],
    )


def _count(duration: Duration) -> CountJson:
    return CountJson(count=duration.count, ns=duration.ns)


model_names.add(router, "GET", "/stats", model_statistics, response_model=ModelStatistics)
