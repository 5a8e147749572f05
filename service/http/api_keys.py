"""API keys: who may classify, and who may load and unload models.

The file holds names, scopes and SHA-256 sums, never a key. A plain sum is enough: keys are 256 random bits, which no
one guesses however fast the hash is; salts and slow hashes are for passwords.

    python -m service.auth NAME [SCOPE ...]     makes a key, and prints what to put into the file
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import secrets
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.artifact.manifest import SHA256
from service.core.errors import Forbidden, Unauthorized
from service.http.openapi import errors
from service.http.rate_limit import RateLimiter

log = logging.getLogger(__name__)

Scope = Literal["classify", "admin"]

_bearer = HTTPBearer(auto_error=False, description="Authorization: Bearer KEY")
_header = APIKeyHeader(name="X-API-Key", auto_error=False)


class KeyFileError(ValueError):
    """The file of keys cannot be used; the message says why."""


class Key(BaseModel):
    """One line of the file: a key by its sum."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(min_length=1)]
    scopes: frozenset[Scope]
    sha256: Annotated[str, Field(pattern=SHA256)]


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: list[Key]

    @model_validator(mode="after")
    def _unique(self) -> _KeyFile:
        if len({key.name for key in self.key}) < len(self.key):
            raise ValueError("two keys have one name")
        return self


class ApiKeyStore:
    """The keys of a TOML file, read again when it changes.

    A file that has become unreadable leaves the keys as they were, and says so in the log.

    Raises:
        KeyFileError: the file cannot be used to begin with.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys: tuple[Key, ...] = ()
        self._seen = self._look()
        self._keys = self._read()

    def check(self, secret: str, scope: Scope) -> Key:
        """The key whose secret this is.

        Raises:
            Unauthorized: no such key.
            Forbidden: it lacks the scope.
        """
        self._refresh()
        digest = hashlib.sha256(secret.encode()).hexdigest()
        # Every key is compared, so that the time tells nothing of which one came close.
        found = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        if not found:
            raise Unauthorized("no such API key")
        if scope not in found[0].scopes:
            raise Forbidden(f"the API key {found[0].name!r} lacks the scope {scope!r}")
        return found[0]

    def _refresh(self) -> None:
        if (seen := self._look()) == self._seen:
            return
        self._seen = seen
        try:
            self._keys = self._read()
            log.info("%s: %d keys", self._path, len(self._keys))
        except KeyFileError as error:
            log.error("the API keys stay as they were: %s", error)

    def _look(self) -> tuple[int, ...]:
        """Changes when the file does; a look costs microseconds, and a key that is taken away is refused at once."""
        try:
            status = os.stat(self._path)
        except OSError:
            return ()
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> tuple[Key, ...]:
        try:
            return tuple(_KeyFile.model_validate(tomllib.loads(self._path.read_text(encoding="utf-8"))).key)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise KeyFileError(f"{self._path}: cannot be read: {error}") from error
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise KeyFileError(f"{self._path}: {place + ': ' if place else ''}{first['msg']}") from error


def require_api_key(
    ring: ApiKeyStore | None, rates: RateLimiter | None, scope: Scope, error: type[BaseModel]
) -> dict[str, Any]:
    """What a router is included with to let only keys with a scope through; nothing where there are no keys.

    Args:
        ring: the keys.
        rates: requests a second that each key may send; None sets no limit.
        scope: what a key needs.
        error: schema of the router's errors, for the documentation.
    """
    if ring is None:
        return {}

    async def check(
        request: Request,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
        header: Annotated[str | None, Security(_header)],
    ) -> None:
        secret = bearer.credentials if bearer is not None else header
        if secret is None:
            raise Unauthorized("an API key is needed: send it as `Authorization: Bearer KEY` or as `X-API-Key: KEY`")
        name = request.scope["caller"] = ring.check(secret, scope).name
        if rates is not None:
            rates.take(name)

    return {"dependencies": [Depends(check)], "responses": errors(error, 401, 403)}


def make(name: str, scopes: list[str]) -> tuple[str, str]:
    """A new key, and what stands for it in the file."""
    secret = secrets.token_urlsafe(32)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return secret, f'[[key]]\nname = {json.dumps(name)}\nscopes = {json.dumps(scopes)}\nsha256 = "{digest}"\n'


if __name__ == "__main__":
    if len(sys.argv) < 2 or not set(sys.argv[2:]) <= set(get_args(Scope)):
        sys.exit(f"usage: python -m service.auth NAME [SCOPE ...]   scopes: {', '.join(get_args(Scope))}")
    made, entry = make(sys.argv[1], sys.argv[2:] or ["classify"])
    print(f"the key, which is shown only here: {made}", file=sys.stderr)
    print(entry, end="")
