"""The JSON of the Open Inference Protocol: the parts that are used here."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, FailFast, Field, NonNegativeInt

from service.core.priority import Priority


class _V2Schema(BaseModel):
    # Clients of other servers send parameters that have no meaning here.
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class Error(_V2Schema):
    error: str


class InputParameters(_V2Schema):
    binary_data_size: NonNegativeInt | None = None
    shared_memory_region: str | None = None


class InputTensor(_V2Schema):
    name: str
    shape: Annotated[list[NonNegativeInt], Field(max_length=8), FailFast()]
    datatype: str
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = None


class OutputParameters(_V2Schema):
    binary_data: bool | None = None
    classification: NonNegativeInt = 0
    shared_memory_region: str | None = None


class RequestedOutput(_V2Schema):
    name: str
    parameters: OutputParameters = OutputParameters()


class RequestParameters(_V2Schema):
    binary_data_output: bool = False
    timeout: Annotated[int, Field(ge=0, le=3_600_000_000)] = 0
    """Microseconds; 0 for the default of the service."""
    priority: NonNegativeInt = 0
    """1 is computed before 2, as in Triton; 0 is the default, and means 1."""

    @property
    def request_priority(self) -> Priority:
        """The priority as the service has it."""
        return Priority.interactive if self.priority <= 1 else Priority.bulk


class InferRequest(_V2Schema):
    id: str | None = None
    parameters: RequestParameters = RequestParameters()
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=1), FailFast()]
    outputs: Annotated[list[RequestedOutput], Field(max_length=16), FailFast()] = []


class OutputTensor(_V2Schema):
    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class InferResponse(_V2Schema):
    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


class ServerMetadata(_V2Schema):
    name: str
    version: str
    extensions: list[str]


class TensorMetadata(_V2Schema):
    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(_V2Schema):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ConfigInput(_V2Schema):
    name: str
    data_type: str
    format: str
    dims: list[int]


class ConfigOutput(_V2Schema):
    name: str
    data_type: str
    dims: list[int]


class DynamicBatching(_V2Schema):
    preferred_batch_size: list[int]
    max_queue_delay_microseconds: int


class ModelConfig(_V2Schema):
    name: str
    platform: str
    max_batch_size: int
    input: list[ConfigInput]
    output: list[ConfigOutput]
    dynamic_batching: DynamicBatching
    parameters: dict[str, dict[str, str]]


class CountJson(_V2Schema):
    count: int
    ns: int


class InferenceStatistics(_V2Schema):
    success: CountJson
    fail: CountJson
    queue: CountJson
    compute_input: CountJson
    compute_infer: CountJson
    compute_output: CountJson
    cache_hit: CountJson
    cache_miss: CountJson


class BatchStatistics(_V2Schema):
    batch_size: int
    compute_input: CountJson
    compute_infer: CountJson
    compute_output: CountJson


class VersionStatistics(_V2Schema):
    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferenceStatistics
    batch_stats: list[BatchStatistics]


class ModelStatistics(_V2Schema):
    model_stats: list[VersionStatistics]


class IndexRequest(_V2Schema):
    ready: bool = False
    """List only versions that are ready."""


class IndexEntry(_V2Schema):
    name: str
    version: str
    state: str
    reason: str


class ControlRequest(_V2Schema):
    parameters: dict[str, Any] = {}
