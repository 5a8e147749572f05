"""Routes of the hot path: FastAPI documents them, and does not stand between a request and its function.

FastAPI's own way to call a function looks for each parameter on its own, and opens stacks for dependencies of which
there are none. Here the parameters are one pydantic model, validated at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope, Send

Place = Literal["path", "query"]
Parameters = TypeVar("Parameters", bound=BaseModel)


class Direct(APIRoute):
    """A route whose function takes the request and gives a response, and nothing else.

    It has to be added to the application itself: a router that is included calls its routes in FastAPI's own way.
    """

    def __init__(self, path: str, endpoint: Any, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        if not self.dependencies:  # those of API keys, for example, are FastAPI's business
            self.app = self._call

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


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
