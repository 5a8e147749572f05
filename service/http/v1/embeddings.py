"""`POST /v1/embeddings`: pooled features of images, in the shape that OpenAI's clients speak.

https://platform.openai.com/docs/api-reference/embeddings. The `openai` package works unchanged, with `/v1` of the
service as its `base_url` and an API key of the service. Inputs are images in text instead of words.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, PositiveInt
from pydantic_core import to_json
from starlette.responses import Response, StreamingResponse

from models.artifact.parity import Float32Array
from service.core.errors import BadRequest, InferenceFailed, UnsupportedMediaType
from service.core.priority import Priority
from service.core.settings import Settings
from service.decoding.decoder import pixels_of
from service.http import query
from service.http.connection_state import hold_response
from service.http.content import image_text, json_text
from service.http.content.images_body import JSON, check_count, parse_in_time, read
from service.http.disconnect import cancel_on_disconnect
from service.http.openapi import body_schema, errors
from service.http.problem_details import EMBEDDINGS_PATH, OpenAIError
from service.http.request_body import header
from service.http.v1.parameters import Layer, ModelPath, TimeoutMs, parse
from service.http.v1.slices import in_slices
from service.inference.optional_outputs import check_embedding, embedding_output
from service.inference.pipeline import Pipeline
from service.inference.results import NOT_FINITE
from service.messages.model import ServedModel
from service.telemetry import request_context

_VERSION = "/versions/"
"""Between the name of a model and a version, as in the paths below /v1/models."""
_SMALL_VALUES = 8192
"""Most values in a response that is written on the event loop, in about 1 ms."""


class EmbeddingsRequest(BaseModel):
    """Images to embed. The fields below `user` are not in OpenAI's interface: its clients send them as `extra_body`."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    model: str
    """Name of a model, or `NAME/versions/NUMBER`."""
    input: Annotated[
        list[str],
        Field(min_length=1),
        FailFast(),
        BeforeValidator(
            lambda given: [given] if isinstance(given, str) else given, json_schema_input_type=str | list[str]
        ),
    ]
    """One image or several, each in base64 or as a `data:` URL. Other URLs are never fetched."""
    encoding_format: Literal["float", "base64"] = "float"
    """`base64` is that of the values as little-endian float32."""
    dimensions: PositiveInt | None = None
    """Keep the first values only, normalised again."""
    user: str | None = None
    """Accepted and not used."""
    normalize: bool | None = None
    """Scale each embedding to the length 1. Default: true with `dimensions`, otherwise false."""
    layer: Layer | None = None
    """The pooled features of this stage, if the version exports them, instead of the last ones."""
    timeout_ms: TimeoutMs | None = None
    """Time limit of the request, instead of the default of the service."""
    priority: Priority = Priority.interactive
    """Interactive requests are computed before bulk requests, which get at least a tenth of the capacity."""


class EmbeddingJson(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class UsageJson(BaseModel):
    """Number of images, in the place of tokens."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsJson(BaseModel):
    object: Literal["list"]
    data: list[EmbeddingJson]
    model: str
    """Name and version that computed: `NAME/versions/NUMBER`."""
    usage: UsageJson


router = APIRouter(tags=["embeddings"])


@router.post(
    EMBEDDINGS_PATH,
    response_model=EmbeddingsJson,
    responses=errors(OpenAIError, 400, 404, 408, 413, 415, 422, 429, 500, 503, 504),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": body_schema(EmbeddingsRequest)}},
        }
    },
)
async def embeddings(request: Request) -> Response:
    """Compute embeddings of images, as OpenAI's clients request them."""
    query.refuse(request, dict.fromkeys(EmbeddingsRequest.model_fields, "send it in the JSON"))
    kind = header(request.scope, b"content-type").partition(";")[0].strip().lower()
    if not JSON.fullmatch(kind):
        raise UnsupportedMediaType(f"Content-Type {kind!r} is not supported: send JSON as application/json")
    pipeline: Pipeline = request.app.state.pipeline
    default_seconds = pipeline.settings.timeout_ms / 1000
    body = await read(request)
    received = time.monotonic()
    asked, files = await parse_in_time(_parse, body, pipeline.settings, default_seconds)
    deadline = received + (default_seconds if asked.timeout_ms is None else asked.timeout_ms / 1000)
    name, _, version = asked.model.partition(_VERSION)
    path = parse(ModelPath, {"model": name} | ({"version": version} if _VERSION in asked.model else {}))
    context = request_context.current()
    context.priority = asked.priority
    seconds = await pipeline.lookup.ensure_loaded(path.model, path.version, deadline - time.monotonic())
    context.model = pipeline.find(path.model, path.version).name  # only now: each name is a series of the metrics
    with (
        cancel_on_disconnect(request.scope),
        pipeline.admit(path.model, path.version, len(files), seconds, asked.priority) as model,
    ):
        check_embedding(model, asked.layer)
        model, values = await _compute(pipeline, model, files, asked, deadline)
        context.images += len(values)
        slices = _write(_adjust(values, asked), asked.encoding_format, f"{model.name}{_VERSION}{model.version}")
        if values.size > _SMALL_VALUES:
            hold_response(request.scope, values.nbytes)
            return StreamingResponse(in_slices(slices), media_type="application/json")
        return Response(b"".join(slices), media_type="application/json")


def _parse(body: bytes, settings: Settings) -> tuple[EmbeddingsRequest, list[bytes]]:
    """The request, and its image files."""
    asked = json_text.parse_now(EmbeddingsRequest, memoryview(body), settings)
    check_count(len(asked.input), settings.max_images)
    return asked, [image_text.decode(text, f"input.{index}") for index, text in enumerate(asked.input)]


async def _compute(
    pipeline: Pipeline, model: ServedModel, files: list[bytes], asked: EmbeddingsRequest, deadline: float
) -> tuple[ServedModel, Float32Array]:
    """The version that has computed, and its pooled features, float32 [n, features].

    The response has no place for the error of an image, so one bad image fails the request.
    """
    started = time.monotonic()
    decoded = await pipeline.decode(files, model.preprocess, deadline, asked.priority)
    pixels = pixels_of(decoded, "input.{}")
    output = embedding_output(asked.layer)
    decode_seconds = time.monotonic() - started
    model, result = await pipeline.infer(model, pixels, frozenset({output}), deadline, asked.priority, decode_seconds)
    values = result.outputs[output]
    if not np.isfinite(values).all():
        raise InferenceFailed(NOT_FINITE)
    return model, values


def _adjust(values: Float32Array, asked: EmbeddingsRequest) -> Float32Array:
    """Embeddings [n, features] as they were requested: shortened, and scaled to the length 1."""
    features, dimensions = values.shape[1], asked.dimensions
    if dimensions is not None and dimensions > features:
        raise BadRequest(f"dimensions: the embedding has {features}, so it has no {dimensions}: lower it")
    values = values[:, :dimensions]
    if asked.normalize is False or (asked.normalize is None and dimensions is None):
        return values
    lengths = np.linalg.norm(values.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(values / np.where(lengths > 0, lengths, 1.0), np.float32)  # an embedding of zeros stays


def _write(values: Float32Array, encoding: Literal["float", "base64"], model: str) -> Iterator[bytes]:
    """The response, an `EmbeddingsJson`, in slices."""
    yield b'{"object":"list","data":['
    for index, row in enumerate(values):
        embedding: Any = row.tolist() if encoding == "float" else base64.b64encode(row.astype("<f4").tobytes()).decode()
        item = to_json({"object": "embedding", "index": index, "embedding": embedding})
        yield b"," + item if index else item
    usage = {"prompt_tokens": len(values), "total_tokens": len(values)}
    yield b"]," + to_json({"model": model, "usage": usage})[1:]
