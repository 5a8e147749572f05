"""The pages `/`, `/docs` (the API) and `/studies`: static files of the package; and example images."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from service.core.errors import NotFound
from service.core.settings import Settings, shipped_repository

_SHOWN = {".jpg", ".jpeg", ".png", ".webp", ".gif"}
"""Suffixes of the image formats that browsers show."""
_HEADERS = {
    # No other origins, nothing inline; blob: is the image of the user, data: an activation map.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # The browser requests each file again and gets 304: a new release is visible at once.
    "Cache-Control": "no-cache",
}

router = APIRouter(include_in_schema=False)


class _Page(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        return response


_page = _Page(directory=Path(str(resources.files("service"))) / "page")


def install(app: FastAPI, settings: Settings) -> None:
    """Add the page, its files and the examples."""
    app.state.examples = {path.name: path for path in example_files(settings)}
    app.include_router(router)
    app.mount("/page", _page)


def example_files(settings: Settings) -> list[Path]:
    """The images that the page offers as examples, sorted by name."""
    shipped = shipped_repository()
    served = any((settings.repository_folder / model.name).is_dir() for model in shipped.iterdir())
    folder = settings.examples or (shipped.with_name("examples") if served else None)
    return [] if folder is None else sorted(path for path in folder.iterdir() if path.suffix.lower() in _SHOWN)


@router.get("/")
async def index(request: Request) -> Response:
    return await _page.get_response("index.html", request.scope)


@router.get("/docs")
async def docs(request: Request) -> Response:
    return await _page.get_response("docs.html", request.scope)


@router.get("/studies")
async def studies(request: Request) -> Response:
    return await _page.get_response("studies.html", request.scope)


@router.get("/examples")
async def list_examples(request: Request) -> list[str]:
    return list(request.app.state.examples)


@router.get("/examples/{name}")
async def show_example(request: Request, name: str) -> Response:
    path = request.app.state.examples.get(name)
    if path is None:
        raise NotFound(f"there is no example {name!r}; /examples lists them")
    return FileResponse(path, headers=_HEADERS)
