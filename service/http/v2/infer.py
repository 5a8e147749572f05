"""`POST /v2/…/infer`: find the model, read the tensor, decode it if it is image files, compute, answer."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from models.artifact.manifest import OUTPUTS
from models.imaging.preprocess import UInt8Array
from service.core.errors import BadRequest, DeadlineExceeded, ServiceError
from service.core.naming import ENCODED
from service.core.priority import Priority
from service.core.threads import run_python
from service.decoding.decoder import DecodedFile
from service.http import query
from service.http.connection_state import hold_response
from service.http.content import json_text
from service.http.content.images_body import read
from service.http.disconnect import cancel_on_disconnect
from service.http.openapi import errors
from service.http.v2 import json_body, model_names, tensors
from service.http.v2.model_names import ModelName
from service.http.v2.responses import respond
from service.http.v2.schemas import Error, InferRequest, InferResponse, InputParameters, InputTensor, RequestedOutput
from service.inference.pipeline import Pipeline
from service.messages.inference import InferenceResult
from service.messages.model import ServedModel
from service.telemetry import request_context

router = APIRouter(prefix="/v2")

DEFAULT_OUTPUT = "probabilities"
"""Output of a request that names none, and the only one in the metadata: clients written for classifiers refuse a model
with several outputs, and perf_analyzer requests all of them."""
_INSTEAD_OF_QUERY = {
    "top_k": 'request {"name": "probabilities", "parameters": {"classification": N}} in outputs',
    "timeout_ms": "use parameters.timeout in the JSON, in microseconds",
    "timeout": "use parameters.timeout in the JSON, in microseconds",
    "priority": "use parameters.priority in the JSON",
    "embedding": 'request {"name": "embedding"} in outputs',
    "cam": "heat maps are at /v1/classify",
    "errors": "errors of single images are at /v1/classify",
}
_MAX_VALUES = 4096
"""Most values that are read from JSON, or classes that are written, on the event loop."""


async def infer(request: Request, model_name: ModelName) -> Response:
    """Compute the tensor in the body: pixels for NAME, image files for NAME-encoded."""
    pipeline: Pipeline = request.app.state.pipeline
    if request.scope["query_string"]:
        query.refuse(request, _INSTEAD_OF_QUERY)
    model = pipeline.backend.catalog.find(model_name.model, model_name.version)
    context = request_context.current()
    context.model, context.version = model.name, model.version
    # Before the body is read, which may be large. Its priority and time limit are in the body.
    pipeline.check_admission(model, 1, math.inf, Priority.interactive)
    length = json_body.json_length(request)
    started = time.monotonic()
    content = await read(request)
    received = time.monotonic()
    context.stage("read", started, received - started)
    with cancel_on_disconnect(request.scope):
        body, raw = await _parse(pipeline, content, length, model_name)
        return await _answer(request, model_name, body, raw, received)


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
        name=tensors.FILES, shape=[1], datatype="BYTES", parameters=InputParameters(binary_data_size=len(element))
    )
    return InferRequest(inputs=[whole]), memoryview(element)


async def _answer(
    request: Request, model_name: ModelName, body: InferRequest, raw: memoryview, received: float
) -> Response:
    pipeline: Pipeline = request.app.state.pipeline
    deadline = received + (body.parameters.timeout / 1e6 or pipeline.settings.timeout_ms / 1e3)
    outputs, priority = _check_outputs(body.outputs), body.parameters.request_priority
    names = frozenset(output.name for output in outputs)
    # The version is leased only now: another one may have replaced it while the body was read.
    lease = pipeline.lease(model_name.model, model_name.version)
    with lease as model:
        _check_model_has(names, model)
        context = request_context.current()
        context.version, context.priority = model.version, priority
        files, images = await _read_tensor(pipeline, model_name, model, body.inputs[0], raw)
        started = time.monotonic()
        lease.admit(len(files) or len(images), deadline - started, priority)
        if files:
            decoded = await pipeline.decode(files, model.preprocess, deadline, priority)
            images = [image.pixels for image in map(_good, range(len(decoded)), decoded)]
        decode = time.monotonic() - started
        result = await pipeline.infer(model, images, names, deadline, priority, decode)
        context.images += len(images)
        answer = InferResponse(model_name=model_name.name, model_version=model.version, id=body.id, outputs=[])
        hold_response(request.scope, sum(output.nbytes for output in result.outputs.values()))
        return await respond(answer, await _write(outputs, result, model, body.parameters.binary_data_output))


async def _read_tensor(
    pipeline: Pipeline, model_name: ModelName, model: ServedModel, tensor: InputTensor, raw: memoryview
) -> tuple[Sequence[bytes], Sequence[UInt8Array]]:
    """The image files, or the images, in a request."""
    max_images = pipeline.settings.max_images
    if model_name.encoded:
        return tensors.read_files(tensor, raw, max_images), ()
    read_images = partial(tensors.read_images, tensor, raw, model.preprocess.shape, max_images)
    in_json = tensor.data is not None and math.prod(tensor.shape) > _MAX_VALUES
    return (), list(await run_python(read_images) if in_json else read_images())


async def _write(
    outputs: Sequence[RequestedOutput], result: InferenceResult, model: ServedModel, binary: bool
) -> list[tensors.Encoded]:
    written = []
    for output in outputs:
        values = result.outputs[output.name]
        write = partial(tensors.write, output, values, model.labels, binary)
        classes = len(values) * min(output.parameters.classification, len(model.labels))
        written.append(await run_python(write) if classes > _MAX_VALUES else write())
    return written


def _check_outputs(outputs: list[RequestedOutput]) -> list[RequestedOutput]:
    for output in outputs:
        if output.name not in OUTPUTS:
            raise BadRequest(f"there is no output {output.name!r}; there are: {', '.join(OUTPUTS)}")
        if output.parameters.shared_memory_region is not None:
            raise BadRequest("shared memory is not supported: outputs are in the body")
        if output.parameters.classification and output.name not in ("logits", "probabilities"):
            raise BadRequest(f"{output.name} has no classes: request the classification of logits or probabilities")
    if len({output.name for output in outputs}) < len(outputs):
        raise BadRequest("an output is requested twice")
    return outputs or [RequestedOutput(name=DEFAULT_OUTPUT)]


def _check_model_has(names: frozenset[str], model: ServedModel) -> None:
    if absent := names - set(model.outputs):
        raise BadRequest(
            f"{model.name} version {model.version} has no {', '.join(sorted(absent))}, only "
            f"{', '.join(model.outputs)}: it was imported from an ONNX file without that output"
        )


def _good(index: int, image: DecodedFile | ServiceError) -> DecodedFile:
    """The decoded image. A tensor has no place for an error, so one bad image fails its request."""
    if isinstance(image, ServiceError):
        raise type(image)(f"image {index}: {image}")
    return image


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """A JSON schema without references: FastAPI publishes only the schemas of bodies that it reads itself."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
        return {key: _inlined(value, definitions) for key, value in schema.items()}
    return [_inlined(item, definitions) for item in schema] if isinstance(schema, list) else schema


_SCHEMA = InferRequest.model_json_schema()
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
            "application/json": {"schema": _inlined(_SCHEMA, _SCHEMA.pop("$defs"))},
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
