"""API keys in the headers of HTTP requests."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import BaseModel
from starlette.types import Scope

from service.core.api_keys import KeyCheck
from service.http.openapi import errors
from service.http.request_body import header

_DOCUMENTATION = (
    Security(HTTPBearer(auto_error=False, description="Authorization: Bearer KEY")),
    Security(APIKeyHeader(name="X-API-Key", auto_error=False)),
)
"""Dependencies that document the two ways to send a key, and check nothing."""


class ApiKeyCheck(KeyCheck):
    """`KeyCheck` for the ASGI scope of a request."""

    async def require_api_key(self, scope: Scope) -> None:
        """Check a request, and set the name of its key as `caller` in its ASGI scope.

        Raises:
            Unauthorized: no key, or one that does not exist.
            Forbidden: the key lacks the scope.
            TooManyRequests: the key is above its rate.
        """
        name = scope["caller"] = self.find_key(header(scope, b"authorization"), header(scope, b"x-api-key"))
        await self.count(name)

    def options(self, error: type[BaseModel]) -> dict[str, Any]:
        """Options for `include_router` that check and document a FastAPI router.

        Args:
            error: schema of the errors of the router.
        """

        async def require_api_key(request: Request) -> None:
            await self.require_api_key(request.scope)

        return {"dependencies": [*_DOCUMENTATION, Depends(require_api_key)], "responses": errors(error, 401, 403)}
