"""The JSON of the Open Inference Protocol: the parts that are used here."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, FailFast, Field, NonNegativeInt

from service.open_inference.infer import MAX_TIMEOUT


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
    timeout: Annotated[int, Field(ge=0, le=MAX_TIMEOUT)] = 0
    """Microseconds; 0 for the default of the service."""
    priority: NonNegativeInt = 0
    """1 is computed before 2, as in Triton; 0 is the default, and means 1."""


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


class IndexRequest(_V2Schema):
    ready: bool = False
    """List only versions that are ready."""


class ControlRequest(_V2Schema):
    parameters: dict[str, Any] = {}
