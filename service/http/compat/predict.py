"""One request of a platform to classify images: checks, reads the body, computes, and writes JSON."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response
from starlette.types import Scope

from models.artifact.manifest import INPUT
from service.core.errors import BadRequest, PayloadTooLarge, ServiceError, UnprocessableImage
from service.core.priority import Priority
from service.core.settings import Settings
from service.core.threads import run_python
from service.http import query
from service.http.connection_state import hold_response
from service.http.content import json_text
from service.http.content.images_body import parse_in_time, read, read_images
from service.http.disconnect import cancel_on_disconnect
from service.http.v1.parameters import ModelPath, TimeoutMs
from service.http.v1.slices import response_bytes
from service.inference.pipeline import Pipeline
from service.inference.results import Classification, ImageResult, make_result, make_timing
from service.inference.top_k import select_top_k
from service.messages.model import ServedModel
from service.open_inference import inputs
from service.telemetry import request_context

JSON_TYPE = "application/json"
_MAX_ON_EVENT_LOOP = 1024
"""Most predictions that are made or written on the event loop, in about 1 ms."""

_Schema = TypeVar("_Schema", bound=BaseModel)
_Parsed = TypeVar("_Parsed")
_Read = TypeVar("_Read")


class PredictQuery(BaseModel):
    """Query parameters."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    top_k: Annotated[int, Field(ge=1)] = 5
    """Number of classes per image; at most all classes of the model."""
    timeout_ms: TimeoutMs | None = None
    """Time limit of the request, instead of the default of the service."""
    priority: Priority = Priority.interactive
    """Interactive requests are computed before bulk requests."""


ONLY_QUERY = query.only(*PredictQuery.model_fields)
"""Dependency of a route: other query parameters are refused."""


@dataclass(frozen=True, slots=True)
class Images:
    """The images in a request: files, or pixels that fit the model. One of both is empty."""

    files: Sequence[bytes] = ()
    pixels: Sequence[Any] = ()
    """Nested lists of whole numbers [H][W][C] each, as in the JSON."""

    def __len__(self) -> int:
        return len(self.files) or len(self.pixels)


class PredictCall:
    """One request to classify images.

    Args:
        request: the request, whose body is not read yet.
        path: the model; its name is None for the default model.
        query: options.

    Raises:
        NotFound: there is no such model or version.
        Unavailable: the version is not served.
        Overloaded: one image is above the capacity, or would not be computed in time.
    """

    @classmethod
    async def begin(cls, request: Request, path: ModelPath | None, query: PredictQuery) -> PredictCall:
        """Begin a request whose model may have to be loaded first.

        Raises:
            ModelNotLoaded: the model cannot be loaded in time.
        """
        pipeline: Pipeline = request.app.state.pipeline
        name, version = (None, None) if path is None else (path.model, path.version)
        await pipeline.lookup.ensure_loaded(name, version, (query.timeout_ms or pipeline.settings.timeout_ms) / 1000)
        return cls(request, path, query)

    def __init__(self, request: Request, path: ModelPath | None, query: PredictQuery) -> None:
        self._request = request
        self._pipeline: Pipeline = request.app.state.pipeline
        self._version = None if path is None else path.version
        self._query = query
        model = self._pipeline.find(None if path is None else path.model, self._version)
        self._model = model.name
        context = request_context.current()
        context.model, context.version, context.priority = model.name, model.version, query.priority
        self._pipeline.check_admission(model, 1, self.seconds, query.priority)
        self._deadline = time.monotonic() + self.seconds

    @property
    def seconds(self) -> float:
        """Time limit of the request, from the last byte of its body."""
        return (self._query.timeout_ms or self.settings.timeout_ms) / 1000

    @property
    def settings(self) -> Settings:
        """Limits and defaults."""
        return self._pipeline.settings

    async def read_files(self, *, one: bool) -> Images:
        """Read image files.

        Args:
            one: whether the whole body is one file of any type; otherwise it is read as that of `/v1/classify`.

        Raises:
            BadRequest: the body has no image, or does not match its Content-Type.
            PayloadTooLarge: the body has too many bytes or images.
            UnsupportedMediaType: the Content-Type is not supported.
        """
        if one:
            return Images(files=[await self._received(read(self._request))])
        files, _ = await self._received(read_images(self._request, self.settings, self.seconds))
        return Images(files=files)

    async def read_json(self, schema: type[_Schema], convert: Callable[[_Schema, Settings], _Parsed]) -> _Parsed:
        """Read a body of JSON, and convert it in a thread.

        Raises:
            BadRequest: the JSON is not valid, or does not match the schema.
            PayloadTooLarge: the JSON is larger than a limit.
            DeadlineExceeded: the time limit passed.
        """
        body = await self._received(read(self._request))
        return await parse_in_time(partial(_convert, schema, convert), body, self.settings, self.seconds)

    async def _received(self, reading: Awaitable[_Read]) -> _Read:
        """Wait for the body; the time limit counts from its last byte."""
        started = time.monotonic()
        body = await reading
        received = time.monotonic()
        request_context.current().stage("read", started, received - started)
        self._deadline = received + self.seconds
        return body

    def use(self, query: PredictQuery) -> None:
        """Replace the options by those that the body has; the time limit counts from the last byte."""
        self._deadline += (query.timeout_ms or self.settings.timeout_ms) / 1000 - self.seconds
        self._query = query
        request_context.current().priority = query.priority

    async def classify(self, images: Images, *, inline_errors: bool = False) -> Classification:
        """Classify images.

        Args:
            images: at least one image.
            inline_errors: the error of an image is its result; otherwise it fails the request.

        Raises:
            ServiceError: the request is not valid, or was not computed.
        """
        seconds, priority = self._deadline - time.monotonic(), self._query.priority
        seconds = await self._pipeline.lookup.ensure_loaded(self._model, self._version, seconds, first=False)
        admitted = self._pipeline.admit(self._model, self._version, len(images), seconds, priority)
        with cancel_on_disconnect(self._request.scope), admitted as model:
            if images.pixels:
                answer = await self._classify_pixels(model, images.pixels)
            else:
                answer = await self._pipeline.classify(
                    model, images.files, self._query.top_k, seconds, priority=priority, inline_errors=True
                )
        if not inline_errors:
            for place, result in enumerate(answer.results):
                _raise_error(result, place, len(answer.results))
        return answer

    async def _classify_pixels(self, model: ServedModel, pixels: Sequence[Any]) -> Classification:
        shape = model.preprocess.shape
        tensor = inputs.Input(INPUT, "UINT8", [len(pixels), *shape], values=pixels)
        try:
            images = list(await run_python(inputs.read_images, tensor, shape, self.settings.max_images))
        except BadRequest as error:
            reason = str(error).removeprefix(f"{INPUT}: ")
            raise BadRequest(f"instances: {model.name} needs pixels {list(shape)} in each: {reason}") from None
        started = time.monotonic()
        outputs = frozenset({"probabilities"})
        model, result = await self._pipeline.infer(model, images, outputs, self._deadline, self._query.priority)
        best = await select_top_k(result.outputs["probabilities"], model.labels, self._query.top_k)
        request_context.current().images += len(images)
        return Classification(
            model=model.name,
            version=model.version,
            results=[make_result(predictions) for predictions in best],
            timing=make_timing(0.0, result, 0.0, time.monotonic() - started),
        )


def _convert(
    schema: type[_Schema], convert: Callable[[_Schema, Settings], _Parsed], body: bytes, settings: Settings
) -> _Parsed:
    return convert(json_text.parse_now(schema, memoryview(body), settings), settings)


def _raise_error(result: ImageResult, place: int, count: int) -> None:
    """Raise the error of an image, if it has one, with its place in the request."""
    error: ServiceError | None = result.error
    if isinstance(error, PayloadTooLarge | UnprocessableImage) and count > 1:
        raise type(error)(f"instance {place}: {error}")
    if error is not None:
        raise error


async def respond(
    scope: Scope, answer: Classification, write: Callable[[Classification], bytes], media_type: str = JSON_TYPE
) -> Response:
    """Make the response, a large one beside the event loop.

    Args:
        scope: scope of the request.
        answer: the answer.
        write: writes the body.
        media_type: type of the body.

    Raises:
        Overloaded: there is no memory for a large response.
    """
    if sum(len(result.predictions) for result in answer.results) <= _MAX_ON_EVENT_LOOP:
        return Response(write(answer), media_type=media_type)
    hold_response(scope, sum(map(response_bytes, answer.results)))
    return Response(await run_python(write, answer), media_type=media_type)
