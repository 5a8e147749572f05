"""The methods beside inference: state, metadata, statistics and the repository."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from google.protobuf import json_format

from service.core.errors import NotFound, Unavailable
from service.grpc import wire
from service.grpc.calls import Call, Respond
from service.grpc.infer import read_model_name
from service.grpc.protocol import message
from service.inference.pipeline import Pipeline
from service.open_inference import metadata, repository, statistics
from service.open_inference.model_name import ModelName

_Answer = Callable[[Any], Awaitable[dict[str, Any]]]
"""Gives the fields of a response to a request, a message."""


class Queries:
    """Answers the methods.

    Args:
        pipeline: has the models.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._backend = pipeline.backend

    def responders(self) -> dict[str, Respond]:
        """Functions that answer the methods for clients, by method."""
        answers: dict[str, _Answer] = {
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._statistics,
            "RepositoryIndex": self._index,
        }
        return self._make(answers)

    def probes(self) -> dict[str, Respond]:
        """The same for the methods that need no key."""
        return self._make({"ServerLive": self._live, "ServerReady": self._ready})

    def control(self) -> dict[str, Respond]:
        """The same for the methods of admins."""
        return self._make({"RepositoryModelLoad": self._load, "RepositoryModelUnload": self._unload})

    def _make(self, answers: dict[str, _Answer]) -> dict[str, Respond]:
        return {method: self._responder(method, answer) for method, answer in answers.items()}

    def _responder(self, method: str, answer: _Answer) -> Respond:
        request, response = message(f"{method}Request"), message(f"{method}Response")
        max_bytes = self._pipeline.settings.max_json_bytes

        async def respond(call: Call, data: bytes) -> bytes:
            fields = await answer(await wire.parse(request, data, max_bytes))
            written: bytes = json_format.ParseDict(fields, response()).SerializeToString()
            return written

        return respond

    async def _live(self, request: Any) -> dict[str, Any]:
        return {"live": True}

    async def _ready(self, request: Any) -> dict[str, Any]:
        return {"ready": not await self._pipeline.not_ready()}

    async def _model_ready(self, request: Any) -> dict[str, Any]:
        try:
            metadata.check_ready(self._backend, _name(request))
        except (NotFound, Unavailable):
            return {"ready": False}
        return {"ready": True}

    async def _server_metadata(self, request: Any) -> dict[str, Any]:
        return asdict(metadata.server_metadata())

    async def _model_metadata(self, request: Any) -> dict[str, Any]:
        await metadata.ensure_loaded(self._pipeline, _name(request))
        return asdict(metadata.model_metadata(self._backend, _name(request)))

    async def _model_config(self, request: Any) -> dict[str, Any]:
        await metadata.ensure_loaded(self._pipeline, _name(request))
        return {"config": asdict(metadata.model_config(self._backend, _name(request), self._pipeline.settings))}

    async def _statistics(self, request: Any) -> dict[str, Any]:
        if not request.name:
            return asdict(await statistics.all_statistics(self._backend))
        return asdict(await statistics.model_statistics(self._backend, _name(request)))

    async def _index(self, request: Any) -> dict[str, Any]:
        return {"models": [asdict(entry) for entry in await repository.list_versions(self._backend, request.ready)]}

    async def _load(self, request: Any) -> dict[str, Any]:
        await self._backend.load(_controlled(request))
        return {}

    async def _unload(self, request: Any) -> dict[str, Any]:
        await self._backend.unload(_controlled(request))
        return {}


def _name(request: Any) -> ModelName:
    return read_model_name(request.name, request.version)


def _controlled(request: Any) -> str:
    """Name of the model to load or unload."""
    name = read_model_name(request.model_name, "")
    repository.check_parameters(request.parameters)
    return name.model
