"""API keys and their scopes, admin paths, and CORS."""

from __future__ import annotations

import logging
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from service.core.api_keys import ApiKeyStore, KeyFileError
from service.core.errors import Forbidden, Unauthorized
from service.core.settings import Settings
from tests.support.api_keys import KEYS, OPERATOR, ROOT, WEB, write_keys
from tests.support.service import Client, serve

Photographs = list[tuple[str, bytes]]


@pytest.fixture(scope="module")
def guarded(tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    write_keys(path, KEYS)
    with serve(Settings(repository=tiny_repository, executor="simulated:0", api_keys=path, admin=True)) as client:
        yield client


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


CLASSIFY = [
    ("POST", "/v1/classify"),
    ("POST", "/v1/models/tiny/classify"),
    ("POST", "/v1/models/tiny/versions/1/classify"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/tiny"),
    ("GET", "/v2"),
    ("GET", "/v2/models/tiny"),
    ("GET", "/v2/models/tiny-encoded/versions/1/config"),
    ("GET", "/v2/models/tiny/ready"),
    ("GET", "/v2/models/stats"),
    ("POST", "/v2/models/tiny-encoded/infer"),
    ("POST", "/v2/repository/index"),
]
ADMIN = [("POST", "/v2/repository/models/tiny/unload"), ("POST", "/v2/repository/models/tiny/load")]
OPEN = [
    "/healthz",
    "/readyz",
    "/readyz?verbose",
    "/metrics",
    "/docs",
    "/studies",
    "/openapi.json",
    "/v2/health/live",
    "/v2/health/ready",
]


def request(client: Client, method: str, path: str, data: bytes, headers: dict[str, str]) -> Any:
    if method == "GET":
        return client.request(method, path, headers=headers)
    content = b"" if "repository" in path else data
    return client.post(path, content=content, headers={"inference-header-content-length": "0", **headers})


@pytest.mark.parametrize(("method", "path"), CLASSIFY + ADMIN)
def test_each_path_needs_its_scope(method: str, path: str, guarded: Client, photographs: Photographs) -> None:
    _, data = photographs[0]
    may, may_not = (WEB, OPERATOR) if (method, path) in CLASSIFY else (OPERATOR, WEB)
    for headers in (bearer(may), {"x-api-key": may}, bearer(ROOT)):
        assert request(guarded, method, path, data, headers).status_code == 200
    for headers in ({}, bearer("wrong"), bearer(may + "x"), {"authorization": f"Basic {may}"}, {"x-api-key": ""}):
        refused = request(guarded, method, path, data, headers)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
    lacking = request(guarded, method, path, data, bearer(may_not))
    assert lacking.status_code == 403
    told = lacking.json()["error" if path.startswith("/v2") else "detail"]
    assert "scope" in told
    assert may_not not in told
    assert guarded.post(ADMIN[1][1], headers=bearer(OPERATOR)).status_code == 200


@pytest.mark.parametrize("path", OPEN)
def test_probes_and_documentation_need_no_key(path: str, guarded: Client) -> None:
    assert guarded.get(path).status_code == 200


def test_a_model_is_unloaded_and_loaded_by_an_admin(guarded: Client, photographs: Photographs) -> None:
    def classify() -> int:
        return guarded.post("/v1/classify", content=photographs[0][1], headers=bearer(WEB)).status_code

    def control(what: str, name: str = "tiny", **options: Any) -> Any:
        return guarded.post(f"/v2/repository/models/{name}/{what}", headers=bearer(OPERATOR), **options)

    assert classify() == 200
    assert control("unload", json={"parameters": {"unload_dependents": False}}).status_code == 200
    assert classify() == 503
    assert guarded.get("/readyz").status_code == 503
    assert control("load", name="tiny-encoded").status_code == 200
    assert classify() == 200
    for name, status in (("resnet", 404), (".hidden", 400), ("..%2f..%2fetc", 404)):
        assert control("load", name=name).status_code == status
        assert control("unload", name=name).status_code == status
    for parameters in ({"config": "{}"}, {"file:1/model.onnx": "AAAA"}, {"url": "http://example.org/model"}):
        refused = control("load", json={"parameters": parameters})
        assert refused.status_code == 400
        assert "as they are in the repository" in refused.json()["error"]


def test_admin_paths_exist_only_with_the_setting(tiny_repository: Path, tmp_path: Path) -> None:
    write_keys(tmp_path / "keys.toml", KEYS)
    settings = Settings(repository=tiny_repository, executor="simulated:0", api_keys=tmp_path / "keys.toml")
    with serve(settings) as client:
        for method, path in ADMIN:
            assert client.request(method, path, headers=bearer(ROOT)).status_code == 404
        assert not [path for path in client.get("/openapi.json").json()["paths"] if path.endswith("load")]


def test_admin_needs_keys() -> None:
    with pytest.raises(ValidationError, match="admin needs api_keys"):
        Settings(admin=True)


def test_changed_key_file_applies_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys.toml"
    write_keys(path, KEYS[:1])
    ring = ApiKeyStore(path)
    assert ring.check(WEB, "classify").name == "web"
    with pytest.raises(Forbidden, match="'web' lacks the scope 'admin'"):
        ring.check(WEB, "admin")
    write_keys(path, KEYS[1:])
    with pytest.raises(Unauthorized):
        ring.check(WEB, "classify")
    assert ring.check(OPERATOR, "admin").name == "operator"
    for broken in ("[[key", 'key = "x"', ""):
        path.write_text(broken)
        assert ring.check(OPERATOR, "admin").name == "operator"
    path.unlink()
    assert ring.check(OPERATOR, "admin").name == "operator"
    assert caplog.text.count("the API keys stay as they were") == 4
    assert WEB not in caplog.text


GOOD = f'[[key]]\nname = "a"\nscopes = ["classify"]\nsha256 = "{"0" * 64}"\n'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[[key", "cannot be read"),
        ("", "key: Field required"),
        (GOOD.replace("classify", "everything"), "key.0.scopes"),
        (GOOD.replace("0" * 64, "secret"), "key.0.sha256"),
        (GOOD + GOOD, "two keys have the same name"),
        (GOOD + 'key = "secret"\n', "Extra inputs"),
    ],
)
def test_invalid_key_file_is_refused(content: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "keys.toml").write_text(content)
    with pytest.raises(KeyFileError, match=rf"keys\.toml: .*({reason})"):
        ApiKeyStore(tmp_path / "keys.toml")
    with pytest.raises(KeyFileError, match="cannot be read"):
        ApiKeyStore(tmp_path / "missing.toml")


def test_the_command_makes_a_key(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service.cli.api_key", 'the "web"', "admin"],
        capture_output=True,
        text=True,
        check=True,
    )
    secret = done.stderr.split()[-1]
    assert secret not in done.stdout
    assert tomllib.loads(done.stdout)["key"][0]["name"] == 'the "web"'
    (tmp_path / "keys.toml").write_text(done.stdout, encoding="utf-8-sig")  # as editors on Windows do
    ring = ApiKeyStore(tmp_path / "keys.toml")
    assert ring.check(secret, "admin").name == 'the "web"'
    with pytest.raises(Forbidden):
        ring.check(secret, "classify")


ORIGIN = "https://example.org"
PREFLIGHT = {
    "origin": ORIGIN,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}


def test_other_origins_are_allowed_only_if_set(client: Client, tiny_repository: Path) -> None:
    closed = client.request("GET", "/v1/models", headers={"origin": ORIGIN})
    assert not [name for name in closed.headers if name.startswith("access-control")]
    assert client.request("OPTIONS", "/v1/classify", headers=PREFLIGHT).status_code == 405
    settings = Settings(repository=tiny_repository, executor="simulated:0", cors_origins=f"https://a.example {ORIGIN}")
    with serve(settings) as client:
        allowed = client.request("OPTIONS", "/v1/classify", headers=PREFLIGHT)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == ORIGIN
        answer = client.request("GET", "/v1/models", headers={"origin": ORIGIN})
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert {"Cache-Status", "Server-Timing"} <= set(answer.headers["access-control-expose-headers"].split(", "))
        for method in ("PUT", "DELETE"):
            asked = PREFLIGHT | {"access-control-request-method": method}
            assert client.request("OPTIONS", "/v1/models/tiny/rollout", headers=asked).status_code == 200
        other = client.request("GET", "/v1/models", headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


def test_each_key_has_a_rate_of_its_own(tiny_repository: Path, tmp_path: Path, photographs: Photographs) -> None:
    write_keys(tmp_path / "keys.toml", KEYS)
    settings = Settings(
        repository=tiny_repository,
        executor="simulated:0",
        api_keys=tmp_path / "keys.toml",
        rate_limit=0.001,
        rate_burst=1,
    )
    with serve(settings) as client:

        def status(secret: str | None) -> int:
            headers = {} if secret is None else bearer(secret)
            return client.post("/v1/classify", content=photographs[0][1], headers=headers).status_code

        # A request without a key does not count against any rate.
        assert [status(secret) for secret in (None, WEB, WEB, ROOT, ROOT, None)] == [401, 200, 429, 200, 429, 401]
        refused = client.request("GET", "/v2/models/tiny", headers=bearer(WEB))
        assert (refused.status_code, list(refused.json())) == (429, ["error"])
        assert int(refused.headers["retry-after"]) > 900


def test_the_log_names_the_key(guarded: Client, photographs: Photographs, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="service")
    assert guarded.post("/v1/classify", content=photographs[0][1], headers=bearer(WEB)).status_code == 200
    (line,) = (entry for entry in caplog.records if entry.name == "service.http.access_log")
    assert line.__dict__["fields"]()["caller"] == "web"
