"""`POST /v2/…/infer`: reads the body, has it computed by `open_inference`, and answers."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.core.errors import BadRequest, DeadlineExceeded
from service.core.naming import ENCODED
from service.http import query
from service.http.connection_state import hold_response
from service.http.content import json_text
from service.http.content.images_body import read
from service.http.disconnect import cancel_on_disconnect
from service.http.openapi import body_schema, errors
from service.http.v2 import json_body, model_names
from service.http.v2.responses import respond
from service.http.v2.schemas import Error, InferRequest, InferResponse, InputParameters, InputTensor
from service.inference.pipeline import Pipeline
from service.open_inference import infer as inference
from service.open_inference import inputs
from service.open_inference.inputs import FILES
from service.open_inference.model_name import ModelName
from service.open_inference.outputs import WantedOutput
from service.telemetry import request_context

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])

_INSTEAD_OF_QUERY = {
    "top_k": 'request {"name": "probabilities", "parameters": {"classification": N}} in outputs',
    "timeout_ms": "use parameters.timeout in the JSON, in microseconds",
    "timeout": "use parameters.timeout in the JSON, in microseconds",
    "priority": "use parameters.priority in the JSON",
    "embedding": 'request {"name": "embedding"} in outputs',
    "cam": "heat maps are at /v1/classify",
    "errors": "errors of single images are at /v1/classify",
}


async def infer(request: Request, model_name: ModelName) -> Response:
    """Compute the tensor in the body: pixels for NAME, image files for NAME-encoded."""
    pipeline: Pipeline = request.app.state.pipeline
    if request.scope["query_string"]:
        query.refuse(request, _INSTEAD_OF_QUERY)
    await inference.begin(pipeline, model_name)
    length = json_body.json_length(request)
    started = time.monotonic()
    content = await read(request)
    received = time.monotonic()
    request_context.current().stage("read", started, received - started)
    with cancel_on_disconnect(request.scope):
        body, raw = await _parse(pipeline, content, length, model_name)
        computed = await inference.infer(
            pipeline,
            model_name,
            _translate(body, raw, received, pipeline.settings.timeout_ms),
            partial(hold_response, request.scope),
        )
        answer = InferResponse(model_name=model_name.name, model_version=computed.version, id=body.id, outputs=[])
        return await respond(answer, computed.outputs)


async def _parse(
    pipeline: Pipeline, content: bytes, length: int | None, model_name: ModelName
) -> tuple[InferRequest, memoryview]:
    head, raw = json_body.split(content, length)
    if len(head) or not len(raw):
        try:
            async with asyncio.timeout(pipeline.settings.timeout_ms / 1e3):
                return await json_text.parse(InferRequest, head, pipeline.settings), raw
        except TimeoutError:
            raise DeadlineExceeded("the time limit passed while JSON was parsed: try again") from None
    if not model_name.encoded:
        raise BadRequest(
            f"a raw body is one image file, for {model_name.name}{ENCODED}; {model_name.name} needs JSON first"
        )
    element = len(raw).to_bytes(4, "little") + raw
    whole = InputTensor(
        name=FILES, shape=[1], datatype="BYTES", parameters=InputParameters(binary_data_size=len(element))
    )
    return InferRequest(inputs=[whole]), memoryview(element)


def _translate(body: InferRequest, raw: memoryview, received: float, timeout_ms: float) -> inference.TensorRequest:
    """The request without its form over HTTP.

    Args:
        body: the JSON.
        raw: the bytes behind the JSON.
        received: time at which the body was complete, `time.monotonic` seconds.
        timeout_ms: time limit of a request that sets none.

    Raises:
        BadRequest: the request is not valid.
    """
    binary = body.parameters.binary_data_output
    outputs = []
    for output in body.outputs:
        if output.parameters.shared_memory_region is not None:
            raise BadRequest("shared memory is not supported: outputs are in the body")
        wanted = output.parameters.binary_data
        outputs.append(
            WantedOutput(output.name, output.parameters.classification, binary if wanted is None else wanted)
        )
    deadline = received + (body.parameters.timeout / 1e6 or timeout_ms / 1e3)
    priority = inference.request_priority(body.parameters.priority)
    return inference.TensorRequest(_tensor(body.inputs[0], raw), outputs, deadline, priority, binary)


def _tensor(tensor: InputTensor, raw: memoryview) -> inputs.Input:
    if tensor.parameters.shared_memory_region is not None:
        raise BadRequest("shared memory is not supported: send the tensor in the body")
    size = tensor.parameters.binary_data_size
    if size is None:
        if len(raw) or tensor.data is None:
            raise BadRequest(f"{tensor.name}: needs either data, or binary_data_size and bytes behind the JSON")
        return inputs.Input(tensor.name, tensor.datatype, tensor.shape, values=tensor.data)
    if size != len(raw):
        raise BadRequest(f"{tensor.name}: binary_data_size is {size}, but {len(raw)} bytes are behind the JSON")
    return inputs.Input(tensor.name, tensor.datatype, tensor.shape, raw)


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_DOCUMENTATION = {
    "parameters": [
        {
            "name": json_body.LENGTH_HEADER,
            "in": "header",
            "description": "Bytes of the JSON at the start of the body, before raw tensors. 0: one image file.",
            "schema": {"type": "integer", "minimum": 0},
        }
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": body_schema(InferRequest)},
            "application/octet-stream": _BINARY,
        },
    },
}
model_names.add(
    router,
    "POST",
    "/infer",
    infer,
    response_model=InferResponse,
    responses={
        200: {"content": {"application/octet-stream": _BINARY}, "description": "Computed"},
        **errors(Error, 408, 413, 415, 422, 500, 504),
    },
    openapi_extra=_DOCUMENTATION,
)
