"""TorchServe: `POST /predictions/NAME` and `/predictions/NAME/VERSION`.

https://pytorch.org/serve/inference_api.html; the answer is the one of its handler `image_classifier`, whose classes are
`{label: probability}`.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.responses import Response

from service.core.errors import BadRequest
from service.http.compat.predict import ONLY_QUERY, PredictCall, PredictQuery, respond
from service.http.openapi import errors
from service.http.problem_details import Problem
from service.http.request_body import header
from service.http.v1.parameters import ModelName, ModelPath
from service.inference.results import Classification

PATHS = r"/predictions(/.*)?"
"""Regular expression of the paths whose errors have TorchServe's form."""

_TYPES = {
    404: "ModelNotFoundException",
    405: "MethodNotAllowedException",
    500: "InternalServerException",
    503: "ServiceUnavailableException",
}
_FORM = "multipart/form-data"
_BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}

# TorchServe's versions are numbers with a point, such as 1.0.
_Version = Annotated[str, Path(pattern=r"^[1-9][0-9]{0,17}(\.0)?$", description="Version of the model: 1 or 1.0.")]
_Query = Annotated[PredictQuery, Query()]

router = APIRouter(tags=["TorchServe"])


class TorchServeError(BaseModel):
    code: int
    type: str
    message: str


def error(problem: Problem) -> dict[str, Any]:
    """An error in TorchServe's form, a `TorchServeError`."""
    kind = _TYPES.get(problem.status, "BadRequestException" if problem.status < 500 else _TYPES[500])
    return {"code": problem.status, "type": kind, "message": problem.detail}


async def predict(request: Request, model: ModelName, query: _Query) -> Response:
    """Classify one image with the current version of a model."""
    return await _predict(request, ModelPath(model=model), query)


async def predict_with_version(request: Request, model: ModelName, version: _Version, query: _Query) -> Response:
    """Classify one image with one version of a model."""
    return await _predict(request, ModelPath(model=model, version=version.removesuffix(".0")), query)


async def _predict(request: Request, path: ModelPath, query: PredictQuery) -> Response:
    call = await PredictCall.begin(request, path, query)
    # Without a form, of any type: that of `curl --data-binary` is of another form, `curl -T` sends none.
    images = await call.read_files(one=not header(request.scope, b"content-type").lower().startswith(_FORM))
    if len(images) > 1:
        raise BadRequest("the form has several files: send one image per request, as data=@FILE")
    return await respond(request.scope, await call.classify(images), _write)


def _write(answer: Classification) -> bytes:
    """Write the probability of each label; of equal labels, the later ones have the index of the class behind them."""
    found: dict[str, float] = {}
    for item in answer.results[0].predictions:
        label = f"{item.label} ({item.index})" if item.label in found else item.label
        found[label] = item.probability
    return to_json(found)


for _path, _endpoint in (
    ("/predictions/{model}", predict),
    ("/predictions/{model}/{version}", predict_with_version),
):
    # `curl -T`, as in TorchServe's documentation, sends PUT. The first route answers both methods, so that a 405 allows
    # both. The others only document it: FastAPI gives the operations of one route the same id.
    for _methods in (["POST", "PUT"], ["POST"], ["PUT"]):
        router.add_api_route(
            _path,
            _endpoint,
            methods=_methods,
            dependencies=[ONLY_QUERY],
            include_in_schema=len(_methods) == 1,
            response_model=dict[str, float],
            responses=errors(TorchServeError, 400, 404, 408, 413, 415, 422, 429, 500, 503, 504),
            openapi_extra={"requestBody": {"required": True, "content": {"image/*": _BINARY, _FORM: _BINARY}}},
        )
