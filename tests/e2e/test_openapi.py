"""Responses follow /openapi.json: schemathesis with a real server."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from service.core.platforms import PLATFORMS
from tests.support.api_keys import KEYS, ROOT, write_keys
from tests.support.openapi import fuzz
from tests.support.process import running

ALL = ",".join(PLATFORMS)


@pytest.mark.slow
def test_responses_follow_the_document(tiny_repository: Path, tmp_path: Path) -> None:
    write_keys(tmp_path / "keys.toml", KEYS)
    flags = ["--executor", "simulated:0", "--admin", "--api-keys", tmp_path / "keys.toml", "--compat", ALL]
    with running("--repository", tiny_repository, *flags) as server:
        # Without unload: no model would be left.
        options = ["--header", f"Authorization: Bearer {ROOT}", "--exclude-path-regex", "unload"]
        for parameters in ({"model": "tiny", "version": "1"}, {"model": "tiny-encoded"}):
            assert fuzz(server.url, 4, *options, parameters=parameters, folder=tmp_path) == ""
        assert httpx.get(f"{server.url}/healthz").status_code == 200
