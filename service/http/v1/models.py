"""`GET /v1/models`: the models that are served, and their cards."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from service.http.openapi import errors
from service.http.problem_details import Problem
from service.http.v1.parameters import ModelName, VersionNumber
from service.http.v1.schemas import ModelInfo, ModelList
from service.inference.leases import holding
from service.inference.pipeline import Pipeline
from service.messages.backend import Backend
from service.messages.model import ServedModel

router = APIRouter(prefix="/v1", tags=["models"])


class Markdown(Response):
    """Text in Markdown."""

    media_type = "text/markdown"


@router.get("/models")
async def list_models(request: Request) -> ModelList:
    """List the models that are served."""
    pipeline: Pipeline = request.app.state.pipeline
    backend = pipeline.backend
    with holding(backend, backend.catalog.current().values()) as models:
        listed = [await _info(backend, model) for model in models]
    if pipeline.settings.memory_limit is None:
        return ModelList(models=listed)
    on_demand = {name for name, model in backend.catalog.models.items() if model.on_demand}
    not_loaded = [status for status in await backend.statuses() if status.name in on_demand]
    return ModelList(models=listed, not_loaded=not_loaded)


@router.get("/models/{model}", responses=errors(Problem, 400, 404, 503))
async def show_model(request: Request, model: ModelName) -> ModelInfo:
    """Describe one model."""
    backend: Backend = request.app.state.pipeline.backend
    await _ensure_loaded(request, model)
    with holding(backend, [backend.catalog.find(model)]) as (found,):
        return await _info(backend, found)


@router.get("/models/{model}/card", response_class=Markdown, responses=errors(Problem, 400, 404, 503))
async def show_card(request: Request, model: ModelName) -> Response:
    """The model card of the current version: its data, accuracy, preprocessing and licence, in Markdown."""
    backend: Backend = request.app.state.pipeline.backend
    await _ensure_loaded(request, model)
    return Markdown(backend.catalog.find(model).card)


@router.get(
    "/models/{model}/versions/{version}/card", response_class=Markdown, responses=errors(Problem, 400, 404, 503)
)
async def show_card_of_version(request: Request, model: ModelName, version: VersionNumber) -> Response:
    """The model card of one version, in Markdown."""
    backend: Backend = request.app.state.pipeline.backend
    await _ensure_loaded(request, model, version)
    return Markdown(backend.catalog.find(model, version).card)


async def _ensure_loaded(request: Request, model: str, version: str | None = None) -> None:
    pipeline: Pipeline = request.app.state.pipeline
    await pipeline.lookup.ensure_loaded(model, version, pipeline.settings.timeout_ms / 1000)


async def _info(backend: Backend, model: ServedModel) -> ModelInfo:
    return ModelInfo(
        name=model.name,
        version=model.version,
        labels=list(model.labels),
        input_size=model.preprocess.size,
        mode=model.preprocess.mode,
        architecture=model.architecture,
        executor=model.executor,
        precision=model.precision,
        threads=model.threads,
        single_image_threads=model.single_image_threads,
        concurrent_batches=model.concurrent_batches,
        max_batch=model.max_batch,
        config=model.provenance,
        accuracy=model.accuracy,
        cam=model.classifier is not None,
        outputs=list(model.outputs),
        lesions=list(model.lesion_blocks) or None,
        engine=await backend.plan_status(model.key),
        versions=await backend.versions(model.name),
        lone_threads=model.single_image_threads,
        lanes=model.concurrent_batches,
        chosen=model.provenance,
    )
