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
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.artifact.manifest import SHA256
from models.files import decode_text
from models.validation import first_error
from service.core.errors import Forbidden, Unauthorized
from service.core.rate_limit import Rates

log = logging.getLogger(__name__)

KeyScope = Literal["classify", "admin"]


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


class KeyCheck:
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

    def find_key(self, authorization: str, api_key: str) -> str:
        """The name of the key of a request.

        Args:
            authorization: its `Authorization`, or nothing.
            api_key: its `X-API-Key`, or nothing.

        Raises:
            Unauthorized: no key, or one that does not exist.
            Forbidden: the key lacks the scope.
        """
        kind, _, credentials = authorization.partition(" ")
        secret = credentials if kind.lower() == "bearer" and credentials else api_key
        if not secret:
            raise Unauthorized("an API key is needed: send it as `Authorization: Bearer KEY` or as `X-API-Key: KEY`")
        return self._store.check(secret, self._scope).name

    async def count(self, name: str) -> None:
        """Count a request against the rate of its key.

        Raises:
            TooManyRequests: the key is above its rate.
        """
        if self._rates is not None:
            await self._rates.take(name)
