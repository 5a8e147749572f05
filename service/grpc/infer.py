"""ModelInfer: reads the request, has it computed by `open_inference`, and writes the response."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from functools import partial
from math import prod
from typing import Any

from models.artifact.manifest import VERSION
from service.core.errors import BadRequest
from service.core.settings import Settings
from service.grpc import wire
from service.grpc.calls import Call, Calls
from service.grpc.protocol import message
from service.inference.pipeline import Pipeline
from service.open_inference import infer as inference
from service.open_inference.inputs import Input
from service.open_inference.model_name import NAME_PATTERN, ModelName
from service.open_inference.outputs import WantedOutput

_RAW_INPUTS = 7
"""Number of the field raw_input_contents."""
_MAX_DIMENSIONS = 8
_MAX_OUTPUTS = 16
_LENGTH_BYTES = 4
"""Least bytes of an element of BYTES: its length."""
_WANTS_FINAL, _FINAL = "triton_enable_empty_final_response", "triton_final_response"
"""Parameters of Triton's clients: each request has one response, which is the last one."""
_CONTENTS = {"UINT8": "uint_contents", "BYTES": "bytes_contents"}


def read_model_name(name: str, version: str) -> ModelName:
    """Read the model of a request.

    Raises:
        BadRequest: the name or the version cannot be one.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise BadRequest(f"model: String should match pattern '{NAME_PATTERN}'")
    if version and not re.fullmatch(VERSION, version):
        raise BadRequest(f"version: String should match pattern '{VERSION}'")
    return ModelName.of(name, version or None)


class Infer:
    """Answers requests to compute a tensor.

    Args:
        pipeline: computes.
        calls: counts the bytes of responses.
    """

    def __init__(self, pipeline: Pipeline, calls: Calls) -> None:
        self._pipeline = pipeline
        self._settings: Settings = pipeline.settings
        self._calls = calls
        self._request = message("ModelInferRequest")
        self._response = message("ModelInferResponse")
        self._output = message("ModelInferResponse").InferOutputTensor

    async def respond(self, call: Call, data: bytes) -> bytes:
        """Answer a serialised request with a serialised response.

        Raises:
            ServiceError: as of `open_inference.infer`.
        """
        response: bytes = (await self.compute(call, data)).SerializeToString()
        return response

    async def compute(self, call: Call, data: bytes) -> Any:
        """As `respond`, with a response that is not serialised yet."""
        received = time.monotonic()
        head, raw = wire.cut_out(data, _RAW_INPUTS)
        request = await wire.parse(self._request, head, self._settings.max_json_bytes)
        model_name = read_model_name(request.model_name, request.model_version)
        await inference.begin(self._pipeline, model_name)
        computed = await inference.infer(
            self._pipeline,
            model_name,
            self._translate(request, raw, received, call.deadline()),
            partial(self._calls.hold, call),
        )
        response = self._response(
            model_name=model_name.name,
            model_version=computed.version,
            id=request.id,
            outputs=[
                self._output(name=output.name, datatype=output.datatype, shape=output.shape)
                for output in computed.outputs
            ],
            raw_output_contents=[bytes(output.raw) for output in computed.outputs],
        )
        if _WANTS_FINAL in request.parameters:
            response.parameters[_FINAL].bool_param = True
        return response

    def _translate(
        self, request: Any, raw: list[memoryview], received: float, deadline: float
    ) -> inference.TensorRequest:
        """The request without its form over gRPC.

        Args:
            request: the message, without raw_input_contents.
            raw: the raw_input_contents.
            received: time at which the message was complete, `time.monotonic` seconds.
            deadline: that of the call, `time.monotonic` seconds.

        Raises:
            BadRequest: the request is not valid.
            PayloadTooLarge: there are too many values.
        """
        if len(request.inputs) != 1:
            raise BadRequest(f"inputs: the request has {len(request.inputs)} inputs, and the model takes 1")
        if len(request.outputs) > _MAX_OUTPUTS:
            raise BadRequest(f"outputs: the request has {len(request.outputs)} outputs, at most {_MAX_OUTPUTS}")
        timeout, priority = _number(request.parameters, "timeout"), _number(request.parameters, "priority")
        if timeout > inference.MAX_TIMEOUT:
            raise BadRequest(f"parameters.timeout: {timeout} microseconds, at most {inference.MAX_TIMEOUT}")
        tensor = _read_input(request.inputs[0], raw)
        _check_contents(tensor, self._settings.max_images)
        limit = received + (timeout / 1e6 or self._settings.timeout_ms / 1e3)
        return inference.TensorRequest(
            tensor,
            [_read_output(output) for output in request.outputs],
            min(limit, deadline),
            inference.request_priority(priority),
        )


def _read_input(tensor: Any, raw: list[memoryview]) -> Input:
    if "shared_memory_region" in tensor.parameters:
        raise BadRequest("shared memory is not supported: send the tensor in the body")
    shape = list(tensor.shape[: _MAX_DIMENSIONS + 1])
    if len(shape) > _MAX_DIMENSIONS:
        raise BadRequest(f"{tensor.name}: has more than {_MAX_DIMENSIONS} dimensions")
    if any(size < 0 for size in shape):
        raise BadRequest(f"{tensor.name}: has shape {shape}: a request names the exact size of each dimension")
    if len(raw) > 1:
        raise BadRequest(f"raw_input_contents: has {len(raw)} elements, for 1 input")
    typed = tensor.HasField("contents") and tensor.contents.ByteSize() > 0
    if typed == bool(raw):
        raise BadRequest(f"{tensor.name}: needs either contents or raw_input_contents")
    if raw:
        return Input(tensor.name, tensor.datatype, shape, raw[0])
    field = _CONTENTS.get(tensor.datatype)
    values = () if field is None else getattr(tensor.contents, field)
    return Input(tensor.name, tensor.datatype, shape, values=values)


def _check_contents(tensor: Input, max_images: int) -> None:
    """Check that a tensor of too many images has them, as its shape may be the mistake."""
    if not tensor.shape or tensor.shape[0] <= max_images:
        return
    needed, unit = prod(tensor.shape), "values"
    if tensor.raw is not None:
        needed, unit = needed * (_LENGTH_BYTES if tensor.datatype == "BYTES" else 1), "bytes"
    given = len(tensor.raw if tensor.raw is not None else tensor.values or ())
    if given < needed:
        raise BadRequest(f"{tensor.name}: {given} {unit} for shape {list(tensor.shape)}, which needs {needed}")


def _read_output(output: Any) -> WantedOutput:
    if "shared_memory_region" in output.parameters:
        raise BadRequest("shared memory is not supported: outputs are in the body")
    return WantedOutput(output.name, _number(output.parameters, "classification"))


def _number(parameters: Mapping[str, Any], name: str) -> int:
    """The value of a parameter that is a number; 0 without it.

    Raises:
        BadRequest: it is no number, or below 0.
    """
    if name not in parameters:
        return 0
    parameter = parameters[name]
    kind = parameter.WhichOneof("parameter_choice")
    value: int = getattr(parameter, kind) if kind in ("int64_param", "uint64_param") else -1
    if value < 0:
        raise BadRequest(f"parameters.{name}: is no whole number from 0: send it as int64_param or uint64_param")
    return value
