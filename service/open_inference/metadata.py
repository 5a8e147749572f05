"""Metadata of the server, and inputs and outputs of its models."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

from models.artifact.manifest import INPUT
from service.core.settings import Settings
from service.inference.pipeline import Pipeline
from service.messages.backend import Backend
from service.messages.model import ServedModel
from service.open_inference.inputs import FILES
from service.open_inference.model_name import ModelName
from service.open_inference.outputs import DEFAULT_OUTPUT

_EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
)


@dataclass(frozen=True)
class ServerMetadata:
    name: str
    version: str
    extensions: list[str]


@dataclass(frozen=True)
class TensorMetadata:
    name: str
    datatype: str
    shape: list[int]


@dataclass(frozen=True)
class ModelMetadata:
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


@dataclass(frozen=True)
class ConfigInput:
    name: str
    data_type: str
    format: str
    dims: list[int]


@dataclass(frozen=True)
class ConfigOutput:
    name: str
    data_type: str
    dims: list[int]


@dataclass(frozen=True)
class DynamicBatching:
    preferred_batch_size: list[int]
    max_queue_delay_microseconds: int


@dataclass(frozen=True)
class ModelConfig:
    name: str
    platform: str
    max_batch_size: int
    input: list[ConfigInput]
    output: list[ConfigOutput]
    dynamic_batching: DynamicBatching
    parameters: dict[str, dict[str, str]]


def server_metadata() -> ServerMetadata:
    """Name, version and extensions of the server."""
    return ServerMetadata(name="resnet-serve", version=version("resnet-serve"), extensions=list(_EXTENSIONS))


async def ensure_loaded(pipeline: Pipeline, model_name: ModelName) -> None:
    """Load a model that is not in memory, with a limit of memory; errors are those of `ModelLookup`."""
    await pipeline.lookup.ensure_loaded(model_name.model, model_name.version, pipeline.settings.timeout_ms / 1000)


def check_ready(backend: Backend, model_name: ModelName) -> None:
    """Check that a model takes requests, the first of which may load it; errors are those of `find`."""
    if backend.catalog.not_loaded(model_name.model, model_name.version) is None:
        find(backend, model_name)


def find(backend: Backend, model_name: ModelName) -> ServedModel:
    """The version of a request.

    Raises:
        NotFound: there is no such model or version.
        Unavailable: the version is not served.
    """
    return backend.catalog.find(model_name.model, model_name.version)


def model_metadata(backend: Backend, model_name: ModelName) -> ModelMetadata:
    """Inputs and outputs, with the batch as their first dimension; errors are those of `find`."""
    model = find(backend, model_name)
    name, datatype, shape = _input(model, model_name)
    classes = len(model.labels)
    return ModelMetadata(
        name=model_name.name,
        versions=[served.version for served in backend.catalog.served(model_name.model)],
        platform=_platform(model),
        inputs=[TensorMetadata(name=name, datatype=datatype, shape=[-1, *shape])],
        outputs=[TensorMetadata(name=DEFAULT_OUTPUT, datatype="FP32", shape=[-1, classes])],
    )


def model_config(backend: Backend, model_name: ModelName, settings: Settings) -> ModelConfig:
    """Inputs, outputs and batching in the form of Triton's model configuration, without the batch dimension.

    Args:
        backend: has the model.
        model_name: the model.
        settings: limits.

    Raises:
        NotFound: there is no such model or version.
        Unavailable: the version is not served.
    """
    model = find(backend, model_name)
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


def _input(model: ServedModel, model_name: ModelName) -> tuple[str, str, list[int]]:
    """Name, datatype and shape of one element of the batch."""
    return (FILES, "BYTES", [1]) if model_name.encoded else (INPUT, "UINT8", list(model.preprocess.shape))


def _platform(model: ServedModel) -> str:
    return f"{model.executor.partition(':')[0]}_{model.artifact_format}"
