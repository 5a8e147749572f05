"""API keys, and the file that lists them."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

WEB, OPERATOR, ROOT = (secrets.token_urlsafe(32) for _ in range(3))
KEYS = (("web", WEB, ["classify"]), ("operator", OPERATOR, ["admin"]), ("root", ROOT, ["admin", "classify"]))


def write_keys(path: Path, keys: Sequence[tuple[str, str, list[str]]]) -> None:
    """A file of keys, put in place in one step."""
    entries = [
        f'[[key]]\nname = "{name}"\nscopes = {scopes}\nsha256 = "{hashlib.sha256(secret.encode()).hexdigest()}"\n'
        for name, secret, scopes in keys
    ]
    staging = path.with_suffix(".partial")
    staging.write_text("\n".join(entries))
    os.replace(staging, path)
