"""Surroundings of the process: variables, users, folders, files for TLS, and a network without the internet."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from service.core.settings import Settings, shipped_repository
from tests.acceptance.faults.case import check, expect
from tests.acceptance.faults.served import ROOT, serve
from tests.support.browser import chromium, visit

SCRIPTS = Path(sys.executable).parent
IMAGE = shipped_repository().with_name("examples") / "trouser.png"
MODEL = shipped_repository() / "fashion-mnist-resnet20"
PACKAGES = ("models", "service", "export")

KUBERNETES = {
    "RESNET_SERVE_SERVICE_HOST": "10.43.7.9",
    "RESNET_SERVE_SERVICE_PORT": "8000",
    "RESNET_SERVE_SERVICE_PORT_HTTP": "8000",
    "RESNET_SERVE_PORT": "tcp://10.43.7.9:8000",
    "RESNET_SERVE_PORT_8000_TCP": "tcp://10.43.7.9:8000",
    "RESNET_SERVE_PORT_8000_TCP_PROTO": "tcp",
    "RESNET_SERVE_PORT_8000_TCP_PORT": "8000",
    "RESNET_SERVE_PORT_8000_TCP_ADDR": "10.43.7.9",
}
STRANGER = 54_321
"""Number of a user without an entry in the user database."""


@dataclass(frozen=True)
class Done:
    """A command that has ended, or was ended after its time."""

    status: int | None
    """None if it still ran."""
    output: str
    """Standard output and standard error."""


def run(
    command: Sequence[object],
    folder: Path,
    *,
    variables: Mapping[str, str] | None = None,
    without: Sequence[str] = (),
    as_stranger: bool = False,
    seconds: float = 120.0,
) -> Done:
    """Run a command in a folder, with changes to an environment that has no settings of the service.

    `as_stranger` runs it as a user without an entry in the user database, who may read all files, if this user is root.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RESNET_SERVE_")}
    environment |= {"PYTHONPATH": str(ROOT), "COLUMNS": "200", **(variables or {})}
    for name in without:
        environment.pop(name, None)
    user: list[object] = []
    if as_stranger and os.getuid() == 0:
        may_read = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
        user = ["setpriv", "--reuid", STRANGER, "--regid", STRANGER, "--clear-groups", *may_read]
    line = [str(part) for part in (*user, *command)]
    log = folder / "output"
    with log.open("w") as stream:
        process = subprocess.Popen(
            line, cwd=folder, env=environment, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL
        )
        try:
            status: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
            process.terminate()
            process.wait()
    return Done(status, log.read_text(errors="replace"))


def one_error(done: Done, pattern: str) -> None:
    """Require that a command refused to run with one line."""
    lines = [line for line in done.output.splitlines() if line.startswith("error: ")]
    expect(done.status == 2, f"status {done.status}: {done.output[-500:]}")
    expect("Traceback" not in done.output and len(lines) == 1, f"not one line: {done.output[-500:]}")
    expect(re.search(pattern, lines[0]), f"{lines[0]!r} does not say {pattern!r}")


@check(16, "variables of a Kubernetes Service named resnet-serve")
def kubernetes(folder: Path) -> str:
    """Without `--port`, so that the variable counts. Another service may have the default port of this machine."""
    done = run([SCRIPTS / "resnet-serve"], folder, variables=KUBERNETES, seconds=8.0)
    expect("Traceback" not in done.output, done.output[-500:])
    expect(re.search(r"listening on http://127.0.0.1:8000|[Aa]ddress already in use", done.output), done.output[-500:])
    ignored = re.findall(r"(RESNET_SERVE_\w+)\S* is ignored", done.output)
    expect(ignored == ["RESNET_SERVE_PORT"], f"lines in the log: {ignored}")
    told = run([sys.executable, "-P", "-m", "service.cli.healthcheck"], folder, variables=KUBERNETES)
    expect("tcp://" not in told.output, f"the health check requests {told.output}")
    return "ignored with one line, port 8000"


@check(16, "empty variables")
def empty_variables(folder: Path) -> str:
    empty = {f"RESNET_SERVE_{name.upper()}": "" for name in Settings.model_fields}
    with serve(ready=True, **empty) as service:
        (model,) = httpx.get(f"{service.url}/v1/models").json()["models"]
        expect(model["executor"] == "onnxruntime-cpu", f"executor {model['executor']}")
        answer = httpx.post(f"{service.url}/v1/classify", content=IMAGE.read_bytes())
        expect(answer.status_code == 200, f"status {answer.status_code}")
    return f"{len(empty)} empty variables mean the defaults"


@check(16, "a user without a home folder")
def no_home(folder: Path) -> str:
    folder.chmod(0o777)
    without = ("HOME", "XDG_CACHE_HOME")
    homes: tuple[tuple[str, Mapping[str, str]], ...] = (("no HOME", {}), ("unwritable", {"HOME": "/proc/none"}))
    for title, variables in homes:
        for command in (
            [SCRIPTS / "resnet-classify", IMAGE],
            [SCRIPTS / "resnet-export", "verify", shipped_repository()],
            [sys.executable, "-P", "-c", "from service import executors; executors.find('openvino')"],
        ):
            done = run(command, folder, variables=variables, without=without, as_stranger=True)
            expect(done.status == 0, f"{title}: {command}: {done.output[-500:]}")
        tune = [SCRIPTS / "resnet-serve", "tune", MODEL]
        one_error(
            run(tune, folder, variables=variables, without=without, as_stranger=True), "cannot be written.*--cache"
        )
        start = [SCRIPTS / "resnet-serve", "--port", "0"]
        done = run(start, folder, variables=variables, without=without, as_stranger=True, seconds=8.0)
        expect("Traceback" not in done.output and '"ready"' in done.output, f"{title}: {done.output[-500:]}")
    return f"as user {STRANGER}: classify, verify and serve work, tune says one line"


@check(16, "other folders named models, service and export")
def other_folders(folder: Path) -> str:
    commands = (
        [SCRIPTS / "resnet-export", "tune", "--help"],
        [SCRIPTS / "resnet-serve", "tune", "--help"],
        [SCRIPTS / "resnet-classify", IMAGE],
        [SCRIPTS / "resnet-train", "--list"],
        [SCRIPTS / "resnet-export", "inspect", shipped_repository()],
        [sys.executable, "-P", "-m", "service.cli.api_key", "web"],
    )
    for kind in ("empty folders", "packages"):
        for package in PACKAGES:
            (folder / package).mkdir(exist_ok=True)
            if kind == "packages":
                (folder / package / "__init__.py").write_text("raise SystemExit('the wrong package')")
        for command in commands:
            done = run(command, folder)
            expect(done.status == 0, f"{kind}: {command}: {done.output[-500:]}")
    return f"{len(commands)} commands find their own packages"


@check(16, "settings of a server beside resnet-classify")
def settings_of_a_server(folder: Path) -> str:
    command = [SCRIPTS / "resnet-classify", IMAGE, "--format", "csv"]
    alone = run(command, folder)
    values = {
        "PORT": "x",
        "EXECUTOR": "none",
        "MODEL": "none",
        "REPOSITORY": "/none",
        "VERSIONS": "7",
        "PRECISION": "int8",
        "MAX_IMAGES": "1",
        "MAX_PIXELS": "1",
        "TIMEOUT_MS": "0.001",
        "SSL_CERTFILE": "/none",
        "QUEUE_SIZE": "x",
    }
    beside = run(command, folder, variables={f"RESNET_SERVE_{name}": value for name, value in values.items()})
    expect((alone.status, alone.output) == (0, beside.output), f"{alone.output!r} and {beside.output!r}")
    return f"{len(values)} variables change nothing"


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@check(16, "wrong files for TLS")
def wrong_tls(folder: Path) -> str:
    folder.chmod(0o777)
    for name in ("a", "b"):
        files = ("-keyout", f"{name}.key", "-out", f"{name}.pem")
        openssl(folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=x", *files)
    openssl(folder, "pkey", "-in", "a.key", "-aes256", "-passout", "pass:x", "-out", "locked.key")
    (folder / "noise.pem").write_bytes(os.urandom(2000))
    (folder / "cut.pem").write_bytes((folder / "a.pem").read_bytes()[:700])
    mistakes = {
        ("none.pem", "a.key"): "ssl_certfile: none.pem cannot be read",
        ("noise.pem", "a.key"): "ssl_certfile: noise.pem has no certificate",
        ("cut.pem", "a.key"): "ssl_certfile: cut.pem .*damaged",
        ("a.pem", "noise.pem"): "ssl_keyfile: noise.pem has no private key",
        ("a.pem", "b.key"): "ssl_keyfile: the key in b.key belongs to another certificate",
        ("a.pem", "none.key"): "ssl_keyfile: none.key cannot be read",
        ("a.pem", "."): "ssl_keyfile: . cannot be read",
        ("a.pem", "locked.key"): "ssl_keyfile: locked.key is encrypted",
        ("b.key", "b.pem"): "ssl_certfile: b.key has no certificate",
    }
    for (certificate, key), pattern in mistakes.items():
        options = ["--port", "0", "--ssl-certfile", certificate, "--ssl-keyfile", key]
        one_error(run([SCRIPTS / "resnet-serve", *options], folder, seconds=30.0), pattern)
    return f"{len(mistakes)} mistakes, one line each"


@check(16, "pages without the internet, and code of other origins")
def pages_without_internet(folder: Path) -> str:
    resolve_nothing = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    with serve() as service, chromium(resolve_nothing) as browser:
        for path, ready in (("/", "#model option"), ("/docs", ".opblock")):
            with visit(browser, service.url + path, ready) as visitor:
                expect(visitor.errors == [], f"{path}: {visitor.errors}")
                expect(visitor.hosts == {f"127.0.0.1:{service.port}"}, f"{path} loads from {visitor.hosts}")
            policy = httpx.get(service.url + path).headers.get("content-security-policy", "")
            sources = {source for directive in policy.split(";") for source in directive.split()[1:]}
            expect(sources and sources <= {"'self'", "'none'", "blob:", "data:"}, f"{path}: the policy is {policy!r}")
            expect("script-src 'self'" in policy, f"{path}: the policy is {policy!r}")
        expect(httpx.get(f"{service.url}/redoc").status_code == 404, "/redoc loads from another host")
    return "/ and /docs load from their own origin only"
