"""Metadata of the server, and inputs and outputs of its models."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.http.v2 import model_names
from service.inference.pipeline import Pipeline
from service.open_inference import metadata
from service.open_inference.metadata import ModelConfig, ModelMetadata, ServerMetadata
from service.open_inference.model_name import ModelName

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])


@router.get("")
async def server() -> ServerMetadata:
    """Name, version and extensions of the server."""
    return metadata.server_metadata()


async def model_ready(request: Request, model_name: ModelName) -> Response:
    """200 if the model is served."""
    metadata.check_ready(_pipeline(request).backend, model_name)
    return Response()


async def model_metadata(request: Request, model_name: ModelName) -> ModelMetadata:
    """Inputs and outputs, with the batch as their first dimension."""
    await metadata.ensure_loaded(_pipeline(request), model_name)
    return metadata.model_metadata(_pipeline(request).backend, model_name)


async def model_config(request: Request, model_name: ModelName) -> ModelConfig:
    """Inputs, outputs and batching in the form of Triton's model configuration, without the batch dimension."""
    pipeline = _pipeline(request)
    await metadata.ensure_loaded(pipeline, model_name)
    return metadata.model_config(pipeline.backend, model_name, pipeline.settings)


def _pipeline(request: Request) -> Pipeline:
    pipeline: Pipeline = request.app.state.pipeline
    return pipeline


model_names.add(router, "GET", "", model_metadata, response_model=ModelMetadata)
model_names.add(router, "GET", "/ready", model_ready, response_class=Response)
model_names.add(router, "GET", "/config", model_config, response_model=ModelConfig)
