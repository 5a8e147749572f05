"""deploy/nginx.conf in a real nginx, in front of the real service."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.certificates import make_certificate
from tests.support.process import running
from tests.support.service import TIMEOUT

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
SITE = (Path(__file__).parents[2] / "deploy" / "nginx.conf").read_text(encoding="utf-8")
NAME = "vision.example.org"

pytestmark = pytest.mark.skipif(
    NGINX is None or shutil.which("openssl") is None, reason="needs nginx and openssl (Debian: nginx-light, openssl)"
)

MAIN = """\
daemon off;
pid {folder}/pid;
error_log stderr notice;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


@contextmanager
def proxy(folder: Path, *services: str) -> Iterator[httpx.Client]:
    """nginx with the shipped site on a free port, in front of services (HOST:PORT); a client of it."""
    make_certificate(folder, NAME)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    site = SITE
    for shipped, here in (
        ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        ("server 127.0.0.1:8000;", " ".join(f"server {service};" for service in services)),
        (f"/etc/ssl/certs/{NAME}.pem", f"{folder}/certificate.pem"),
        (f"/etc/ssl/private/{NAME}.key", f"{folder}/key.pem"),
    ):
        assert site.count(shipped) == 1, shipped
        site = site.replace(shipped, here)
    (folder / "site.conf").write_text(site)
    # As root, nginx runs its workers as another user, which cannot write to this folder.
    user = "user root;\n" if os.getuid() == 0 else ""
    (folder / "main.conf").write_text(user + MAIN.format(folder=folder))
    command = [str(NGINX), "-e", "stderr", "-c", str(folder / "main.conf")]
    tested = subprocess.run([*command, "-t"], capture_output=True, text=True)
    assert tested.returncode == 0, tested.stderr
    assert "warn" not in tested.stderr
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        # It listens before it starts its workers. Its other lines fit into the pipe.
        assert any("start worker process " in line for line in process.stderr)
        # From another address than that of the proxy, so that the log shows which of the two it has.
        transport = httpx.HTTPTransport(
            local_address="127.0.0.2", verify=ssl.create_default_context(cafile=folder / "certificate.pem")
        )
        with httpx.Client(base_url=f"https://127.0.0.1:{port}", transport=transport, timeout=TIMEOUT) as client:
            yield client
    finally:
        process.terminate()
        process.communicate(timeout=TIMEOUT)


@pytest.mark.slow
def test_classification_through_the_proxy(
    tiny_repository: Path, photographs: list[tuple[str, bytes]], tmp_path: Path
) -> None:
    _, photograph = photographs[0]
    larger = photograph + bytes(
        2_000_000
    )  # above the default limit of nginx; bytes behind the end of a JPEG are not read
    with running("--repository", tiny_repository, "--log-format", "json", "--trusted-proxies", "127.0.0.1") as server:
        with proxy(tmp_path, server.url.removeprefix("http://")) as client:
            direct = httpx.post(f"{server.url}/v1/classify", content=photograph).json()["results"]
            for body in (photograph, larger):
                answer = client.post("/v1/classify", content=body)
                assert answer.status_code == 200, answer.text
                assert answer.json()["results"] == direct
            assert client.get("/metrics").status_code == 404
            assert client.get("/readyz").json()["ready"]
        logged = [json.loads(line) for line in server.end().splitlines()]
    proxied = next(line for line in logged if line.get("request_id") == answer.headers["X-Request-Id"])
    assert proxied["caller"] == "127.0.0.2"
    assert re.fullmatch("[0-9a-f]{32}", proxied["request_id"])


@pytest.mark.slow
def test_proxy_retries_on_another_instance(
    tiny_repository: Path, photographs: list[tuple[str, bytes]], tmp_path: Path
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # and does not listen
        gone = f"127.0.0.1:{silent.getsockname()[1]}"
        with (
            running("--repository", tiny_repository, "--executor", "simulated:0") as server,
            proxy(tmp_path, gone, server.url.removeprefix("http://")) as client,
        ):
            answers = [client.post("/v1/classify", content=photographs[0][1]) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 6
