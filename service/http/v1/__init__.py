"""`/v1`: images in, labels out."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI, params

from service.http.openapi import Responses
from service.http.v1 import classify, models


def install(app: FastAPI, dependencies: Sequence[params.Depends] = (), responses: Responses | None = None) -> None:
    """Add `/v1`.

    Args:
        app: the application.
        dependencies: checks that every request passes first.
        responses: answers of these checks, for the documentation.
    """
    classify.install(app, dependencies, responses)
    app.include_router(models.router, dependencies=dependencies, responses=responses)
