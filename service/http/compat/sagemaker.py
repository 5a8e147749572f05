"""Amazon SageMaker: `POST /invocations`.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html. SageMaker passes the body, the
Content-Type, Accept and the custom attributes on, and no other header. It gives a response with another status than 200
to its client as `OriginalStatusCode` and `OriginalMessage`.
"""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request
from pydantic import BaseModel, FailFast
from pydantic_core import to_json
from starlette.responses import Response

from service.core.errors import BadRequest
from service.core.settings import Settings
from service.http.compat import kserve
from service.http.compat.instances import InstancesRequest, images_of, named
from service.http.compat.predict import Images, PredictCall, PredictQuery, respond
from service.http.content import image_text
from service.http.content.images_body import JSON, Base64Image, check_count
from service.http.openapi import body_schema, errors
from service.http.problem_details import Problem
from service.http.request_body import header
from service.http.v1.parameters import parse
from service.http.v1.schemas import ClassificationJson, encode, encode_line
from service.inference.results import Classification

router = APIRouter(tags=["SageMaker"])

_LINES = "application/jsonlines"
_IMAGE = "application/x-image"
_ATTRIBUTES = b"x-amzn-sagemaker-custom-attributes"
_BINARY = {"schema": {"type": "string", "format": "binary"}}


class InvocationRequest(BaseModel):
    """Images in JSON: `images` as in `/v1/classify`, or `instances` as in SageMaker's containers for TensorFlow."""

    images: Annotated[list[Base64Image], FailFast()] = []
    instances: list[Any] = []


@router.post(
    "/invocations",
    response_model=ClassificationJson,
    responses={
        200: {"description": "JSON; with Accept: application/jsonlines one line per image", "content": {_LINES: {}}},
        **errors(Problem, 400, 408, 413, 415, 422, 429, 500, 503, 504),
    },
    openapi_extra={
        "parameters": [
            {
                "name": "X-Amzn-SageMaker-Custom-Attributes",
                "in": "header",
                "description": "Options such as top_k=3&timeout_ms=500&priority=bulk; other text is ignored.",
                "schema": {"type": "string"},
            }
        ],
        "requestBody": {
            "required": True,
            "content": {
                "image/*": _BINARY,
                _IMAGE: _BINARY,
                "application/json": {"schema": body_schema(InvocationRequest)},
            },
        },
    },
)
async def invocations(request: Request) -> Response:
    """Classify images with the default model."""
    call = await PredictCall.begin(request, None, _query(header(request.scope, _ATTRIBUTES)))
    kind = header(request.scope, b"content-type").partition(";")[0].strip().lower()
    lines = header(request.scope, b"accept").partition(";")[0].strip().lower() == _LINES
    if JSON.fullmatch(kind):
        images, as_instances = await call.read_json(InvocationRequest, _images_of)
        answer = await call.classify(images, inline_errors=not as_instances)
    else:
        as_instances = False
        answer = await call.classify(await call.read_files(one=kind == _IMAGE))
    if lines:
        return await respond(request.scope, answer, _write_instances if as_instances else _write_lines, _LINES)
    return await respond(request.scope, answer, kserve.write if as_instances else encode)


def _query(attributes: str) -> PredictQuery:
    """The options in the custom attributes, whose text belongs to the user otherwise."""
    known = {name: value for name, value in parse_qsl(attributes) if name in PredictQuery.model_fields}
    return parse(PredictQuery, known)


def _images_of(request: InvocationRequest, settings: Settings) -> tuple[Images, bool]:
    """The images in JSON, and whether they are instances."""
    if bool(request.images) == bool(request.instances):
        raise BadRequest('the JSON needs either "images" or "instances": {"instances": [{"b64": "…"}]}')
    if request.instances:
        return images_of(InstancesRequest(instances=request.instances), settings), True
    images = request.images
    check_count(len(images), settings.max_images)
    return Images(
        [image_text.decode(each.base64, f"images.{index}.base64") for index, each in enumerate(images)]
    ), False


def _write_lines(answer: Classification) -> bytes:
    return b"".join(encode_line(each, index, answer.model, answer.version) for index, each in enumerate(answer.results))


def _write_instances(answer: Classification) -> bytes:
    return b"".join(to_json(named(each)) + b"\n" for each in answer.results)
