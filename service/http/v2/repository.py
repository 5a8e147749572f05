"""The repository extension: lists all versions, and lets admins load and unload models of the repository.

Models are loaded only from the repository, never from a path, a URL or a body in a request.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.http.openapi import errors
from service.http.v2 import json_body
from service.http.v2.model_names import Name
from service.http.v2.schemas import ControlRequest, Error, IndexRequest
from service.messages.backend import Backend
from service.open_inference import repository
from service.open_inference.model_name import ModelName
from service.open_inference.repository import IndexEntry

index = APIRouter(prefix="/v2/repository", tags=["Open Inference Protocol"])
control = APIRouter(prefix="/v2/repository", tags=["Open Inference Protocol"])

_CONTROL_ERRORS = errors(Error, 400, 404, 413, 415, 429, 503)


@index.post("/index", responses=errors(Error, 400, 413, 415))
async def repository_index(request: Request) -> list[IndexEntry]:
    """List every version in the repository or in memory, with the reason if it is not served."""
    body = await json_body.read_json(request, IndexRequest)
    return await repository.list_versions(request.app.state.pipeline.backend, body.ready)


@control.post("/models/{model}/load", response_class=Response, responses=_CONTROL_ERRORS)
async def load(request: Request, model: Name) -> Response:
    """Read the repository now, load failed versions again, and serve the model if it was unloaded."""
    await _check_parameters(request)
    backend: Backend = request.app.state.pipeline.backend
    await backend.load(ModelName.of(model).model)
    return Response()


@control.post("/models/{model}/unload", response_class=Response, responses=_CONTROL_ERRORS)
async def unload(request: Request, model: Name) -> Response:
    """Finish the requests of the model, and serve it under neither of its names until it is loaded again."""
    await _check_parameters(request)
    backend: Backend = request.app.state.pipeline.backend
    await backend.unload(ModelName.of(model).model)
    return Response()


async def _check_parameters(request: Request) -> None:
    body = await json_body.read_json(request, ControlRequest)
    repository.check_parameters(body.parameters)
