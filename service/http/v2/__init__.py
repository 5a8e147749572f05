"""`/v2`: the Open Inference Protocol, as tritonclient and perf_analyzer speak it.

Every model has two names: `NAME` takes pixels as the graph takes them, straight to the engine, and `NAME-encoded` takes
image files, which go through the very decoder of `/v1`.
"""

from __future__ import annotations

from fastapi import APIRouter

from service.http.v2 import health, infer, metadata, repository, statistics
from service.http.v2.json_body import LENGTH_HEADER
from service.http.v2.schemas import Error

__all__ = ["LENGTH_HEADER", "Error", "admin", "probes", "router"]

router = APIRouter()
# A model may be called `stats`: the statistics of all models come first, as they do in Triton.
router.include_router(statistics.router)
router.include_router(metadata.router)
router.include_router(infer.router)
router.include_router(repository.index)

admin = repository.control
probes = health.router
