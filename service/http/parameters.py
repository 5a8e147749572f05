"""Routes of the hot path: FastAPI documents them, and does not stand between a request and its function.

FastAPI's own way to call a function goes through its middlewares and its router, looks for each parameter on its own,
and opens stacks for dependencies of which there are none. Here the parameters are one pydantic model, validated at
once, and the request does not even come to FastAPI.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.request_body import path

Place = Literal["path", "query"]
Parameters = TypeVar("Parameters", bound=BaseModel)
Endpoint = Callable[[Request], Awaitable[Response]]
Handler = Callable[[Request, Exception], Awaitable[Response]]


class Direct(APIRoute):
    """A route whose function takes the request and gives a response, and nothing else.

    It has to be added to the application itself: a router that is included calls its routes in FastAPI's own way.
    """

    def __init__(self, path: str, endpoint: Any, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.direct = not self.dependencies
        """Those of API keys, for example, are FastAPI's business."""
        if self.direct:
            self.app = self._call

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


class Json(Response):
    """JSON as bytes. Starlette's own way puts the same headers together in three times the time.

    Args:
        body: JSON.
    """

    def __init__(self, body: bytes) -> None:
        self.status_code = 200
        self.background = None
        self.body = body
        self.raw_headers = [(b"content-length", str(len(body)).encode()), (b"content-type", b"application/json")]


class Shortcut:
    """ASGI middleware before FastAPI: hands requests to the functions of direct routes.

    What those raise is answered by FastAPI's handlers.

    Args:
        app: FastAPI's own way, for everything else.
        fastapi: holds the routes, and the handlers.
    """

    def __init__(self, app: ASGIApp, fastapi: FastAPI) -> None:
        self._app = app
        self._handlers: Mapping[Any, Any] = fastapi.exception_handlers
        self._paths: dict[tuple[str, str], Endpoint] = {}
        self._patterns: dict[str, list[tuple[re.Pattern[str], Endpoint]]] = {}
        """By method, of the paths with parameters."""
        for route in fastapi.routes:
            if isinstance(route, Direct) and route.direct:
                for method in route.methods or ():
                    if route.param_convertors:
                        self._patterns.setdefault(method, []).append((route.path_regex, route.endpoint))
                    else:
                        self._paths[method, route.path] = route.endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked, method = path(scope), scope["method"]
        endpoint = self._paths.get((method, asked)) or self._matching(scope, method, asked)
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            response = await endpoint(request)
            await response(scope, receive, send)
        except Exception as error:
            problem = await self._handler(error)(request, error)
            error.__traceback__ = None  # its frames hold the error in turn
            await problem(scope, receive, send)  # of an answer that has begun, the server breaks it off

    def _matching(self, scope: Scope, method: str, asked: str) -> Endpoint | None:
        for pattern, endpoint in self._patterns.get(method, ()):
            if found := pattern.match(asked):
                scope["path_params"] = found.groupdict()
                return endpoint
        return None

    def _handler(self, error: Exception) -> Handler:
        """Of the nearest class; there is one of all exceptions."""
        handler: Handler = next(self._handlers[kind] for kind in type(error).__mro__ if kind in self._handlers)
        return handler


def parse(kind: type[Parameters], place: Place, values: Mapping[str, str]) -> Parameters:
    """A request's parameters.

    Raises:
        RequestValidationError: as FastAPI would.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        raise RequestValidationError([{**problem, "loc": (place, *problem["loc"])} for problem in problems]) from None


def document(kind: type[BaseModel], place: Place) -> list[dict[str, Any]]:
    """OpenAPI's `parameters` for the fields of a model."""
    fields = kind.model_json_schema()["properties"]
    return [
        {
            "name": name,
            "in": place,
            "required": place == "path",
            "description": schema.pop("description"),
            "schema": schema,
        }
        for name, schema in fields.items()
    ]
