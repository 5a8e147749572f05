"""Metadata of the server, and inputs and outputs of its models."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter, Request
from starlette.responses import Response

from models.artifact.manifest import INPUT
from service.http.v2 import model_names, tensors
from service.http.v2.infer import DEFAULT_OUTPUT
from service.http.v2.model_names import ModelName
from service.http.v2.schemas import (
    ConfigInput,
    ConfigOutput,
    DynamicBatching,
    ModelConfig,
    ModelMetadata,
    ServerMetadata,
    TensorMetadata,
)
from service.messages.backend import Backend
from service.messages.model import ServedModel

router = APIRouter(prefix="/v2")

EXTENSIONS = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
]


@router.get("")
async def server() -> ServerMetadata:
    """Name, version and extensions of the server."""
    return ServerMetadata(name="resnet-serve", version=version("resnet-serve"), extensions=EXTENSIONS)


async def model_ready(request: Request, model_name: ModelName) -> Response:
    """200 if the model is served."""
    _find(request, model_name)
    return Response()


async def model_metadata(request: Request, model_name: ModelName) -> ModelMetadata:
    """Inputs and outputs, with the batch as their first dimension."""
    backend: Backend = request.app.state.pipeline.backend
    model = _find(request, model_name)
    name, datatype, shape = _input(model, model_name)
    classes = len(model.labels)
    return ModelMetadata(
        name=model_name.name,
        versions=[served.version for served in backend.catalog.served(model_name.model)],
        platform=_platform(model),
        inputs=[TensorMetadata(name=name, datatype=datatype, shape=[-1, *shape])],
        outputs=[TensorMetadata(name=DEFAULT_OUTPUT, datatype="FP32", shape=[-1, classes])],
    )


async def model_config(request: Request, model_name: ModelName) -> ModelConfig:
    """Inputs, outputs and batching in the form of Triton's model configuration, without the batch dimension."""
    settings = request.app.state.pipeline.settings
    model = _find(request, model_name)
    name, datatype, shape = _input(model, model_name)
    on_request = (output for output in model.outputs if output != DEFAULT_OUTPUT)
    return ModelConfig(
        name=model_name.name,
        platform=_platform(model),
        max_batch_size=settings.max_images,
        input=[
            ConfigInput(
                name=name,
                data_type="TYPE_STRING" if model_name.encoded else f"TYPE_{datatype}",
                format="FORMAT_NONE" if model_name.encoded else "FORMAT_NHWC",
                dims=shape,
            )
        ],
        output=[ConfigOutput(name=DEFAULT_OUTPUT, data_type="TYPE_FP32", dims=[len(model.labels)])],
        dynamic_batching=DynamicBatching(
            preferred_batch_size=[model.max_batch],
            max_queue_delay_microseconds=round(settings.max_delay_ms * 1000),
        ),
        parameters={"outputs_on_request": {"string_value": ",".join(on_request)}},
    )


def _find(request: Request, model_name: ModelName) -> ServedModel:
    backend: Backend = request.app.state.pipeline.backend
    return backend.catalog.find(model_name.model, model_name.version)


def _input(model: ServedModel, model_name: ModelName) -> tuple[str, str, list[int]]:
    """Name, datatype and shape of one element of the batch."""
    return (tensors.FILES, "BYTES", [1]) if model_name.encoded else (INPUT, "UINT8", list(model.preprocess.shape))


def _platform(model: ServedModel) -> str:
    return f"{model.executor.partition(':')[0]}_{model.artifact_format}"


model_names.add(router, "GET", "", model_metadata, response_model=ModelMetadata)
model_names.add(router, "GET", "/ready", model_ready, response_class=Response)
model_names.add(router, "GET", "/config", model_config, response_model=ModelConfig)
