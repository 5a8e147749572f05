"""The statistics extension: counts of each version since it was loaded."""

from __future__ import annotations

from dataclasses import dataclass

from service.core.naming import ENCODED
from service.inference.leases import holding
from service.messages.backend import Backend
from service.messages.model import ServedModel
from service.open_inference.model_name import ModelName
from service.telemetry.statistics import Duration


@dataclass(frozen=True)
class TimedCount:
    count: int
    ns: int


@dataclass(frozen=True)
class InferenceStatistics:
    success: TimedCount
    fail: TimedCount
    queue: TimedCount
    compute_input: TimedCount
    compute_infer: TimedCount
    compute_output: TimedCount
    cache_hit: TimedCount
    cache_miss: TimedCount


@dataclass(frozen=True)
class BatchStatistics:
    batch_size: int
    compute_input: TimedCount
    compute_infer: TimedCount
    compute_output: TimedCount


@dataclass(frozen=True)
class VersionStatistics:
    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferenceStatistics
    batch_stats: list[BatchStatistics]


@dataclass(frozen=True)
class ModelStatistics:
    model_stats: list[VersionStatistics]


_NEVER = TimedCount(count=0, ns=0)


async def all_statistics(backend: Backend) -> ModelStatistics:
    """Statistics of every served version. The two names of a model share their counts."""
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


async def model_statistics(backend: Backend, model_name: ModelName) -> ModelStatistics:
    """Statistics of one version, or of every served version of the model.

    Raises:
        NotFound: there is no such model or version.
        Unavailable: the version is not served.
    """
    model = backend.catalog.find(model_name.model, model_name.version)
    models = [model] if model_name.version else backend.catalog.served(model_name.model)
    with holding(backend, models) as held:
        return ModelStatistics(model_stats=[await _statistics(backend, model_name.name, model) for model in held])


async def _statistics(backend: Backend, name: str, model: ServedModel) -> VersionStatistics:
    counted = await backend.statistics(model.key)
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
            compute_output=TimedCount(count=counted.success.count, ns=0),
            cache_hit=_NEVER,
            cache_miss=_NEVER,
        ),
        batch_stats=[
            BatchStatistics(
                batch_size=size,
                compute_input=TimedCount(count=duration.count, ns=0),
                compute_infer=_count(duration),
                compute_output=TimedCount(count=duration.count, ns=0),
            )
            for size, duration in sorted(counted.batches.items())
        ],
    )


def _count(duration: Duration) -> TimedCount:
    return TimedCount(count=duration.count, ns=duration.ns)
