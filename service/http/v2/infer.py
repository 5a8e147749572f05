"""The path of an inference request: find the model, read the tensor, decode if it is files, compute, answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from models.artifact.manifest import OUTPUTS
from models.imaging.preprocess import UInt8Array
from service.core.errors import BadRequest, ServiceError
from service.decoding.decoder import DecodedFile
from service.http.disconnect import cancel_on_disconnect
from service.http.images_body import read
from service.http.openapi import errors
from service.http.v2 import json_body, model_names, tensors
from service.http.v2.model_names import ModelName
from service.http.v2.schemas import Error, InferRequest, InferResponse, InputParameters, InputTensor, RequestedOutput
from service.inference.pipeline import Pipeline
from service.messages.inference import InferenceResult
from service.messages.model import ServedModel
from service.telemetry import request_context

router = APIRouter(prefix="/v2")

DEFAULT_OUTPUT = "probabilities"
"""What is answered where a request names no output, and the only one that the metadata lists: clients written for
classifiers refuse a model with several, and perf_analyzer asks for every one of them."""


async def infer(request: Request, face: ModelName) -> Response:
    """Compute the tensor in the body: pixels for NAME, image files for NAME-encoded."""
    pipeline: Pipeline = request.app.state.pipeline
    found = pipeline.backend.find(face.model, face.version)
    context = request_context.current()
    context.model, context.version = found.name, found.version
    started = time.monotonic()
    content = await read(request)
    context.stage("read", started, time.monotonic() - started)
    asked, raw = await _parse(request, content, face)
    with cancel_on_disconnect(request.scope):
        return await _answer(pipeline, face, asked, raw)


async def _parse(request: Request, content: bytes, face: ModelName) -> tuple[InferRequest, memoryview]:
    head, raw = json_body.split(request, content)
    if len(head) or not len(raw):
        return await json_body.parse(InferRequest, head), raw
    if not face.encoded:
        raise BadRequest(f"a raw body is one image file, for {face.name}-encoded; {face.name} needs the JSON before it")
    element = len(raw).to_bytes(4, "little") + raw
    whole = InputTensor(
        name=tensors.FILES, shape=[1], datatype="BYTES", parameters=InputParameters(binary_data_size=len(element))
    )
    return InferRequest(inputs=[whole]), memoryview(element)


async def _answer(pipeline: Pipeline, face: ModelName, asked: InferRequest, raw: memoryview) -> Response:
    seconds = asked.parameters.timeout / 1e6 or pipeline.settings.timeout_ms / 1e3
    outputs, priority = _check_outputs(asked.outputs), asked.parameters.urgency
    names, max_images = frozenset(output.name for output in outputs), pipeline.settings.max_images
    # Only now: another version may have taken over while the body was on its way.
    with pipeline.lease(face.model, face.version) as model:
        _check_given(names, model)
        context = request_context.current()
        context.version, context.priority = model.version, priority
        preprocess, started = model.preprocess, time.monotonic()
        deadline = started + seconds
        files: Sequence[bytes] = ()
        images: Sequence[UInt8Array] = ()
        if face.encoded:
            files = tensors.read_files(asked.inputs[0], raw, max_images)
        else:
            images = list(tensors.read_images(asked.inputs[0], raw, preprocess.shape, max_images))
        with pipeline.admit_images(model, len(files) or len(images), seconds, priority):
            if files:
                decoded = await pipeline.decode(files, preprocess, deadline, priority)
                images = [image.pixels for image in map(_good, range(len(decoded)), decoded)]
            decode = time.monotonic() - started
            result = await pipeline.infer(model, images, names, deadline, priority, decode)
        context.images += len(images)
        return _respond(model, face, asked, outputs, result)


def _check_outputs(asked: list[RequestedOutput]) -> list[RequestedOutput]:
    for output in asked:
        if output.name not in OUTPUTS:
            raise BadRequest(f"there is no output {output.name!r}; there are: {', '.join(OUTPUTS)}")
        if output.parameters.shared_memory_region is not None:
            raise BadRequest("shared memory is not taken: outputs come in the body")
        if output.parameters.classification and output.name not in ("logits", "probabilities"):
            raise BadRequest(f"{output.name} has no classes: classification is of logits or probabilities")
    if len({output.name for output in asked}) < len(asked):
        raise BadRequest("an output is asked for twice")
    return asked or [RequestedOutput(name=DEFAULT_OUTPUT)]


def _check_given(names: frozenset[str], model: ServedModel) -> None:
    if absent := names - set(model.outputs):
        raise BadRequest(
            f"{model.name} version {model.version} does not give {', '.join(sorted(absent))}, only "
            f"{', '.join(model.outputs)}: it was made of an ONNX file from elsewhere"
        )


def _good(index: int, image: DecodedFile | ServiceError) -> DecodedFile:
    """The image; tensors have no place for an error, so one bad image fails its request."""
    if isinstance(image, ServiceError):
        raise type(image)(f"image {index}: {image}")
    return image


def _respond(
    model: ServedModel, face: ModelName, asked: InferRequest, outputs: list[RequestedOutput], result: InferenceResult
) -> Response:
    binary = asked.parameters.binary_data_output
    written = [tensors.write(output, result.outputs[output.name], model.labels, binary) for output in outputs]
    answer = InferResponse(
        model_name=face.name, model_version=model.version, id=asked.id, outputs=[output.tensor for output in written]
    )
    head = answer.model_dump_json(exclude_none=True).encode()
    raw = b"".join(output.raw for output in written)
    if not raw:
        return Response(head, media_type="application/json")
    return Response(
        head + raw, headers={json_body.LENGTH_HEADER: str(len(head))}, media_type="application/octet-stream"
    )


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """A JSON schema without references: FastAPI publishes only those of bodies that it reads itself."""
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
            "description": "Bytes of the JSON that the body begins with; raw tensors are behind it. 0: the body is one "
            "image file.",
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
