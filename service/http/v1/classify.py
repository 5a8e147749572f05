"""`POST /v1/…/classify`: images in, labels out.

The routes are plain Starlette routes of the application: as FastAPI routes they have 8 % less throughput with a
ResNet-20. `documentation` describes them to FastAPI.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from service.http.api_keys import ApiKeyCheck
from service.http.connection_state import hold_response
from service.http.content.images_body import ClassifyRequest, read_images
from service.http.disconnect import cancel_on_disconnect
from service.http.openapi import Responses, body_schema, errors
from service.http.problem_details import Problem
from service.http.request_body import header
from service.http.v1 import ndjson
from service.http.v1.ndjson import NdjsonResponse, Results
from service.http.v1.parameters import (
    DEFAULT_QUERY,
    ClassifyQuery,
    ModelName,
    ModelPath,
    VersionNumber,
    parse,
    parse_query,
)
from service.http.v1.schemas import ClassificationJson, encode, encode_slices
from service.http.v1.slices import in_slices, response_bytes
from service.inference.leases import Lease
from service.inference.pipeline import Pipeline
from service.messages.model import ServedModel
from service.telemetry import request_context

PATHS = ("/v1/classify", "/v1/models/{model}/classify", "/v1/models/{model}/versions/{version}/classify")


def routes(pipeline: Pipeline, key_check: ApiKeyCheck | None) -> list[Route]:
    """The routes, to be added before all others.

    Args:
        pipeline: classifies.
        key_check: lets requests with an API key pass; None if no key is needed.
    """
    endpoint = ClassifyEndpoint(pipeline, key_check)
    return [Route(path, endpoint, methods=["POST"]) for path in PATHS]


_LONG_LINE = 1024
"""Predictions in a line that take long to write."""


class JsonResponse(Response):
    """JSON as bytes. Starlette's own headers take three times as long."""

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        length = str(len(self.body)).encode()
        self.raw_headers = [(b"content-length", length), (b"content-type", b"application/json")]


class ClassifyEndpoint:
    """ASGI endpoint of the routes."""

    def __init__(self, pipeline: Pipeline, key_check: ApiKeyCheck | None) -> None:
        self._pipeline = pipeline
        self._key_check = key_check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._key_check is not None:
            await self._key_check.require_api_key(scope)
        response = await self._classify(Request(scope, receive))
        await response(scope, receive, send)

    async def _classify(self, request: Request) -> Response:
        """Find the model, read the images, classify them, answer."""
        pipeline, scope = self._pipeline, request.scope
        name, version = _model(scope["path_params"])
        query = parse_query(request.query_params) if scope["query_string"] else DEFAULT_QUERY
        outputs, priority = query.optional_outputs, query.priority
        seconds = (query.timeout_ms or pipeline.settings.timeout_ms) / 1000
        seconds = await pipeline.lookup.ensure_loaded(name, version, seconds)
        model = pipeline.find(name, version)
        context = request_context.current()
        context.model, context.version, context.priority = model.name, model.version, priority
        pipeline.check_admission(model, 1, seconds, priority)  # before the body is read
        started = time.monotonic()
        files, seconds = await read_images(request, pipeline.settings, seconds)
        context.stage("read", started, time.monotonic() - started)
        lines = ndjson.MEDIA_TYPE in header(scope, b"accept")
        digest = None
        if pipeline.cache is not None and not lines:
            digest = await pipeline.cache.digest(files)
        seconds = await pipeline.lookup.ensure_loaded(model.name, version, seconds, first=False)
        if digest is not None and (cached := self._find_cached(model.name, version, files, digest, query)) is not None:
            return cached
        # The version is leased only now: another one may have replaced it while the body was read.
        admitted = pipeline.admit(model.name, version, len(files), seconds, priority)
        if lines:
            return self._lines(admitted, files, query, seconds)
        with cancel_on_disconnect(scope), admitted as leased:
            if outputs:
                outputs.check_size(leased, len(files), query.top_k)
            answer = await pipeline.classify(
                leased, files, query.top_k, seconds, outputs, priority, inline_errors=query.errors == "inline"
            )
            if outputs.is_large(leased, len(files), query.top_k):
                hold_response(scope, sum(map(response_bytes, answer.results)))
                return StreamingResponse(in_slices(encode_slices(answer)), media_type="application/json")
        body = encode(answer)
        # The stable version may have computed in the place of the version that the key names.
        if (
            digest is None
            or answer.version != leased.version
            or any(result.error is not None for result in answer.results)
        ):
            return JsonResponse(body)
        return self._store(leased, digest, query, body)

    def _find_cached(
        self, name: str, version: str | None, files: Sequence[bytes], digest: bytes, query: ClassifyQuery
    ) -> Response | None:
        """The response that an equal request has got from the version of this one."""
        assert self._pipeline.cache is not None
        model = self._pipeline.find(name, version)
        body = self._pipeline.cache.get((model.key, digest, (query.top_k, query.optional_outputs)))
        if body is None:
            return None
        context = request_context.current()
        context.version = model.version
        context.images += len(files)
        return _with_cache_status(JsonResponse(body), b"resnet-serve; hit")

    def _store(self, model: ServedModel, digest: bytes, query: ClassifyQuery, body: bytes) -> Response:
        assert self._pipeline.cache is not None
        stored = self._pipeline.cache.put((model.key, digest, (query.top_k, query.optional_outputs)), body)
        status = b"resnet-serve; fwd=uri-miss; stored" if stored else b"resnet-serve; fwd=uri-miss"
        return _with_cache_status(JsonResponse(body), status)

    def _lines(self, admitted: Lease, files: Sequence[bytes], query: ClassifyQuery, seconds: float) -> Response:
        outputs = query.optional_outputs

        def classify_each(leased: ServedModel) -> Results:
            outputs.check(leased)
            outputs.check_size(leased, len(files), query.top_k)
            return self._pipeline.classify_each(leased, files, query.top_k, seconds, outputs, query.priority)

        return NdjsonResponse(admitted, classify_each, large=outputs.cam is not None or query.top_k > _LONG_LINE)


def _with_cache_status(response: Response, status: bytes) -> Response:
    """Add Cache-Status (RFC 9211)."""
    response.raw_headers.append((b"cache-status", status))
    return response


def _model(path_params: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Name and version of the model that the path names."""
    if not path_params:
        return None, None
    path = parse(ModelPath, path_params)
    return path.model, path.version


_BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One image file as it is, any number of files in a form, or JSON with base64.",
        "content": {
            "image/*": _BINARY,
            "application/octet-stream": _BINARY,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"image": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
            "application/json": {"schema": body_schema(ClassifyRequest)},
        },
    }
}
_LINES: Responses = {
    200: {
        "description": "JSON; with Accept: application/x-ndjson one line per image, as soon as it is computed",
        "content": {ndjson.MEDIA_TYPE: {"schema": {"type": "string"}}},
    }
}
_ERRORS = errors(Problem, 400, 404, 408, 413, 415, 422, 429, 500, 503, 504)

_Query = Annotated[ClassifyQuery, Query()]


def documentation(key_check: ApiKeyCheck | None) -> APIRouter:
    """A router that describes the routes in the OpenAPI document and answers no request."""

    async def classify(query: _Query) -> None:
        """Classify images with the default model."""

    async def classify_with_model(model: Annotated[ModelName, Path()], query: _Query) -> None:
        """Classify images with the current version of a model."""

    async def classify_with_version(
        model: Annotated[ModelName, Path()], version: Annotated[VersionNumber, Path()], query: _Query
    ) -> None:
        """Classify images with one version of a model."""

    described = APIRouter(tags=["classification"])
    endpoints: Sequence[Callable[..., Any]] = (classify, classify_with_model, classify_with_version)
    for path, endpoint in zip(PATHS, endpoints, strict=True):
        described.add_api_route(
            path,
            endpoint,
            methods=["POST"],
            response_model=ClassificationJson,
            responses=_LINES | _ERRORS,
            openapi_extra=BODY,
        )
    router = APIRouter()
    router.include_router(described, **({} if key_check is None else key_check.options(Problem)))
    return router
