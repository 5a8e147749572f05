"""API keys: which clients may classify, and which may load and unload models.

The file holds names, scopes and SHA-256 sums, never a key. A plain sum is enough: a key is 256 random bits, which no
attacker guesses however fast the hash is; salts and slow hashes are for passwords. `service.cli.api_key` makes a key.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.types import Scope

from models.artifact.manifest import SHA256
from models.files import decode_text
from models.validation import first_error
from service.core.errors import Forbidden, Unauthorized
from service.core.rate_limit import Rates
from service.http.openapi import errors
from service.http.request_body import header

log = logging.getLogger(__name__)

KeyScope = Literal["classify", "admin"]

_DOCUMENTATION = (
    Security(HTTPBearer(auto_error=False, description="Authorization: Bearer KEY")),
    Security(APIKeyHeader(name="X-API-Key", auto_error=False)),
)
"""Dependencies that document the two ways to send a key, and check nothing."""


class KeyFileError(ValueError):
    """The file of keys is not valid; the message gives the reason."""


class Key(BaseModel):
    """One entry of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(min_length=1)]
    scopes: frozenset[KeyScope]
    sha256: Annotated[str, Field(pattern=SHA256)]


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: list[Key]

    @model_validator(mode="after")
    def _unique(self) -> _KeyFile:
        if len({key.name for key in self.key}) < len(self.key):
            raise ValueError("two keys have the same name")
        return self


class ApiKeyStore:
    """The keys of a TOML file, which is read again after each change.

    If the file becomes invalid, the keys stay as they were, and the log has an error.

    Args:
        path: the file.

    Raises:
        KeyFileError: the file is not valid at the start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys: tuple[Key, ...] = ()
        self._fingerprint = self._stat()
        self._keys = self._read()

    def check(self, secret: str, scope: KeyScope) -> Key:
        """Find the entry of a key.

        Raises:
            Unauthorized: there is no such key.
            Forbidden: the key lacks the scope.
        """
        self._refresh()
        digest = hashlib.sha256(secret.encode()).hexdigest()
        # All keys are compared in constant time, so that the duration tells nothing about the keys.
        matches = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        if not matches:
            raise Unauthorized("no such API key")
        if scope not in matches[0].scopes:
            raise Forbidden(f"the API key {matches[0].name!r} lacks the scope {scope!r}")
        return matches[0]

    def _refresh(self) -> None:
        if (fingerprint := self._stat()) == self._fingerprint:
            return
        self._fingerprint = fingerprint
        try:
            self._keys = self._read()
            log.info("%s: %d keys", self._path, len(self._keys))
        except KeyFileError as error:
            log.error("the API keys stay as they were: %s", error)

    def _stat(self) -> tuple[int, ...]:
        """A value that changes with the file. Takes microseconds, so that every request can check it."""
        try:
            status = os.stat(self._path)
        except OSError:
            return ()
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> tuple[Key, ...]:
        try:
            return tuple(_KeyFile.model_validate(tomllib.loads(decode_text(self._path.read_bytes()))).key)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise KeyFileError(f"{self._path}: cannot be read: {error}") from error
        except ValidationError as error:
            raise KeyFileError(f"{self._path}: {first_error(error)}") from error


class ApiKeyCheck:
    """Lets a request pass that has a key with a scope, and counts it against the rate of the key.

    Args:
        store: the keys.
        scope: scope that the key needs.
        rates: request rate per key; None for no limit.
    """

    def __init__(self, store: ApiKeyStore, scope: KeyScope, rates: Rates | None) -> None:
        self._store = store
        self._scope = scope
        self._rates = rates

    async def require_api_key(self, scope: Scope) -> None:
        """Check a request, and set the name of its key as `caller` in its ASGI scope.

        Raises:
            Unauthorized: no key, or one that does not exist.
            Forbidden: the key lacks the scope.
            TooManyRequests: the key is above its rate.
        """
        secret = _secret(scope)
        if secret is None:
            raise Unauthorized("an API key is needed: send it as `Authorization: Bearer KEY` or as `X-API-Key: KEY`")
        name = scope["caller"] = self._store.check(secret, self._scope).name
        if self._rates is not None:
            await self._rates.take(name)

    def options(self, error: type[BaseModel]) -> dict[str, Any]:
        """Options for `include_router` that check and document a FastAPI router.

        Args:
            error: schema of the errors of the router.
        """

        async def require_api_key(request: Request) -> None:
            await self.require_api_key(request.scope)

        return {"dependencies": [*_DOCUMENTATION, Depends(require_api_key)], "responses": errors(error, 401, 403)}


def _secret(scope: Scope) -> str | None:
    kind, _, credentials = header(scope, b"authorization").partition(" ")
    if kind.lower() == "bearer" and credentials:
        return credentials
    return header(scope, b"x-api-key") or None
