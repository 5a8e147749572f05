"""Routes of other platforms, each over the same pipeline as `/v1`. The setting `compat` names the platforms."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from service.core import platforms
from service.http import problem_details
from service.http.problem_details import Problem

Options = Callable[[type[BaseModel]], dict[str, Any]]
"""Gives the options of `include_router` for routes with an API key, from the schema of their errors."""

PING = "/ping"
"""Path of the health check of SageMaker and TorchServe."""


def add_routes(app: FastAPI, compat: str, options: Options) -> None:
    """Add the routes of platforms.

    Args:
        app: the application.
        compat: names of the platforms, as in the settings.
        options: options of routes with an API key.
    """
    if not (names := platforms.parse(compat)):
        return
    # Not needed by default, and slow to import: FastAPI analyses each route.
    from service.http.compat import kserve, ping, sagemaker, torchserve, vertex

    if "kserve-v1" in names:
        app.include_router(kserve.router, **options(kserve.KServeError))
        problem_details.use_form(app, kserve.PATHS, kserve.error)
    if "sagemaker" in names:
        app.include_router(sagemaker.router, **options(Problem))
    if "torchserve" in names:
        app.include_router(torchserve.router, **options(torchserve.TorchServeError))
        problem_details.use_form(app, torchserve.PATHS, torchserve.error)
    if "sagemaker" in names or "torchserve" in names:
        app.include_router(ping.router(PING, 500 if "torchserve" in names else 503))
    if "vertex" in names:
        app.include_router(vertex.probe_router())
        app.include_router(vertex.predict_router(), **options(kserve.KServeError))
        problem_details.use_form(app, re.escape(platforms.vertex_predict_path()), kserve.error)


def probe_paths(compat: str) -> frozenset[str]:
    """Paths of health checks, which have no limits."""
    names = platforms.parse(compat)
    paths = {PING} if "sagemaker" in names or "torchserve" in names else set[str]()
    return frozenset(paths | ({platforms.vertex_health_path()} if "vertex" in names else set()))
