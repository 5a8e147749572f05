"""The JSON of the Open Inference Protocol, as far as it is used here."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from service.core.priority import Priority


class _Schema(BaseModel):
    # Clients of other servers send parameters that mean nothing here.
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class Error(_Schema):
    error: str


class InputParameters(_Schema):
    binary_data_size: NonNegativeInt | None = None
    shared_memory_region: str | None = None


class InputTensor(_Schema):
    name: str
    shape: Annotated[list[NonNegativeInt], Field(max_length=8)]
    datatype: str
    parameters: InputParameters = InputParameters()
    data: Any = None


class OutputParameters(_Schema):
    binary_data: bool | None = None
    classification: NonNegativeInt = 0
    shared_memory_region: str | None = None


class RequestedOutput(_Schema):
    name: str
    parameters: OutputParameters = OutputParameters()


class RequestParameters(_Schema):
    binary_data_output: bool = False
    timeout: Annotated[int, Field(ge=0, le=3_600_000_000)] = 0
    """Microseconds; 0 is the server's default."""
    priority: NonNegativeInt = 0
    """1 comes before 2, as everywhere; 0 is the default, and means 1."""

    @property
    def urgency(self) -> Priority:
        return Priority.interactive if self.priority <= 1 else Priority.bulk


class InferRequest(_Schema):
    id: str | None = None
    parameters: RequestParameters = RequestParameters()
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=1)]
    outputs: list[RequestedOutput] = []


class OutputTensor(_Schema):
    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class InferResponse(_Schema):
    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


class ServerMetadata(_Schema):
    name: str
    version: str
    extensions: list[str]


class TensorMetadata(_Schema):
    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(_Schema):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ConfigInput(_Schema):
    name: str
    data_type: str
    format: str
    dims: list[int]


class ConfigOutput(_Schema):
    name: str
    data_type: str
    dims: list[int]


class DynamicBatching(_Schema):
    preferred_batch_size: list[int]
    max_queue_delay_microseconds: int


class ModelConfig(_Schema):
    name: str
    platform: str
    max_batch_size: int
    input: list[ConfigInput]
    output: list[ConfigOutput]
    dynamic_batching: DynamicBatching
    parameters: dict[str, dict[str, str]]


class Count(_Schema):
    count: int
    ns: int


class InferenceStatistics(_Schema):
    success: Count
    fail: Count
    queue: Count
    compute_input: Count
    compute_infer: Count
    compute_output: Count
    cache_hit: Count
    cache_miss: Count


class BatchStatistics(_Schema):
    batch_size: int
    compute_input: Count
    compute_infer: Count
    compute_output: Count


class VersionStatistics(_Schema):
    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferenceStatistics
    batch_stats: list[BatchStatistics]


class ModelStatistics(_Schema):
    model_stats: list[VersionStatistics]


class IndexRequest(_Schema):
    ready: bool = False
    """Tell only of what is ready."""


class IndexEntry(_Schema):
    name: str
    version: str
    state: str
    reason: str


class ControlRequest(_Schema):
    parameters: dict[str, Any] = {}
