"""`/v2`: the Open Inference Protocol, for clients such as tritonclient and perf_analyzer.

Every model has two names: the input of `NAME` is the pixels that the graph takes, and the input of `NAME-encoded` is
image files, which the decoder of `/v1` decodes.
"""

from __future__ import annotations

from fastapi import APIRouter

from service.http.v2 import health, infer, metadata, repository, statistics
from service.http.v2.json_body import LENGTH_HEADER
from service.http.v2.schemas import Error

__all__ = ["LENGTH_HEADER", "Error", "admin", "probes", "router"]

router = APIRouter()
# Before the paths of models, as in Triton: a model may have the name `stats`.
router.include_router(statistics.router)
router.include_router(metadata.router)
router.include_router(infer.router)
router.include_router(repository.index)

admin = repository.control
probes = health.router
