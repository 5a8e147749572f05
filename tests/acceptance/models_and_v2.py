"""Models, versions and the Open Inference Protocol: real clients, and versions that change under load.

    python -m tests.acceptance.models_and_v2 [LINE ...]

Needs the `cpu`, `train` and `dev` extras; line 1 also `perf_analyzer`, on the PATH or in PERF_ANALYZER, and line 4
`strace`. Line 2 takes more than a minute, line 5 several.
"""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import tritonclient.http as triton
from PIL import Image

from export.build import build
from models.artifact import manifest
from tests.acceptance.report import run
from tests.acceptance.server import Server, free_port, serve, wait_until
from tests.support.api_keys import KEYS, OPERATOR, WEB, write_keys
from tests.support.api_keys import ROOT as ROOT_KEY
from tests.support.networks import make_checkpoint
from tests.support.openapi import fuzz

ROOT = Path(__file__).parents[2]
PRETRAINED = ROOT / "models" / "pretrained"
MODEL = "fashion-mnist-resnet20"
EXAMPLE = (PRETRAINED / "examples" / "ankle-boot.png").read_bytes()
LENGTH = "Inference-Header-Content-Length"
CONNECTIONS = 32
SECONDS = 60
ROUNDS = 10


@dataclass
class Load:
    """Responses of the service: the status and version of each, and the times of request and response."""

    answers: list[tuple[float, float, int, str]] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    stop: asyncio.Event = field(default_factory=asyncio.Event)


async def _connection(server: Server, path: str, body: bytes, load: Load) -> None:
    target = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(target.hostname, target.port)
    head = f"POST {path} HTTP/1.1\r\nHost: {target.netloc}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    try:
        while not load.stop.is_set():
            asked = time.monotonic()
            writer.write(head + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = next(line for line in answer.split("\r\n") if line.startswith("content-length:"))
            content = json.loads(await reader.readexactly(int(length.partition(":")[2])))
            status = int(answer.split(" ", 2)[1])
            load.answers.append((asked, time.monotonic(), status, content.get("version", content.get("detail"))))
    except Exception as error:
        load.errors[f"{type(error).__name__}: {error}"] += 1
    finally:
        writer.close()


def _copy(repository: Path, number: int) -> None:
    """Version 1 under another number, put in place as export does it: in one step."""
    model = repository / "model"
    staging = Path(shutil.copytree(model / "1", model / f".partial-{number}"))
    path = staging / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": number}))
    staging.rename(model / str(number))


async def _until(client: httpx.AsyncClient, number: int, states: set[str | None]) -> float:
    """When a version was first reported in one of the states (None: not at all), in `time.monotonic` seconds."""
    while True:
        answer = await client.get("/v1/models/model")
        status = next((each for each in answer.json()["versions"] if each["version"] == str(number)), None)
        if (None if status is None else status["state"]) in states:
            return time.monotonic()
        await asyncio.sleep(0.02)


@contextmanager
def _large_model() -> Iterator[Path]:
    """A repository with a ResNet-18 of 45 MB, so that one that is not freed shows."""
    with tempfile.TemporaryDirectory() as folder:
        make_checkpoint("resnet18", size=64).save(Path(folder) / "checkpoint.safetensors")
        build(Path(folder) / "checkpoint.safetensors", Path(folder) / "repository", "model")
        yield Path(folder) / "repository"


def _resources(server: Server) -> tuple[float, int]:
    """Resident megabytes, and open descriptors."""
    process = Path("/proc") / str(server.process.pid)
    resident = int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    return resident, len(list((process / "fd").iterdir()))


async def _under_load(server: Server, repository: Path, body: bytes, seconds: float, rounds: int) -> Load:
    """Load from all connections while versions come and go; the times at which they were reported gone are checked."""
    load = Load()
    clients = [asyncio.create_task(_connection(server, "/v1/classify", body, load)) for _ in range(CONNECTIONS)]
    started = time.monotonic()
    gone: dict[str, float] = {}
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        for turn in range(rounds):
            first, second = 2 * turn + 2, 2 * turn + 3
            _copy(repository, first)
            await _until(client, first, {"READY"})
            _copy(repository, second)
            await _until(client, second, {"READY"})
            shutil.rmtree(repository / "model" / str(second))
            gone[str(second)] = await _until(client, second, {None})
            shutil.rmtree(repository / "model" / str(first))
            gone[str(first)] = await _until(client, first, {None})
            print(f"  round {turn + 1}: {time.monotonic() - started:.0f} s, {_resources(server)}", flush=True)
        await asyncio.sleep(max(0.0, started + seconds - time.monotonic()))
    load.stop.set()
    await asyncio.gather(*clients)
    late = [version for _, received, _, version in load.answers if received > gone.get(version, received)]
    load.errors.update(f"version {version} after it was gone" for version in late)
    return load


def line_2() -> tuple[bool, str]:
    """32 connections for 60 s while versions are added, replaced and removed ten times: nothing fails or leaks."""
    body = (ROOT / "export" / "photographs" / "cat.jpg").read_bytes()
    with _large_model() as repository, serve("--repository", str(repository)) as server:
        ready = _resources(server)
        asyncio.run(_under_load(server, repository, body, 5, 0))
        before = _resources(server)
        load = asyncio.run(_under_load(server, repository, body, SECONDS, ROUNDS))
        time.sleep(1)  # the connections are closed
        after = _resources(server)
    statuses = Counter(status for _, _, status, _ in load.answers)
    slowest = max(received - asked for asked, received, _, _ in load.answers)
    versions = len({version for _, _, _, version in load.answers})
    back = all(now <= 1.1 * then for now, then in zip(after, before, strict=True))
    holds = statuses.keys() == {200} and not load.errors and back and versions > ROUNDS
    return holds, (
        f"{len(load.answers)} answers {dict(statuses)} from {versions} versions, slowest {slowest:.2f} s, "
        f"errors {dict(load.errors) or 'none'}; MB and descriptors when ready {ready}, under load before {before}, "
        f"after {after}"
    )


def line_1() -> tuple[bool, str]:
    """tritonclient on every path, perf_analyzer to its end on both names, and the bits of /v1/classify."""
    launcher = os.environ.get("PERF_ANALYZER") or shutil.which("perf_analyzer")
    if launcher is None:
        raise RuntimeError("perf_analyzer is not on the PATH: set PERF_ANALYZER")
    with tempfile.TemporaryDirectory() as folder, _guarded(Path(folder)) as server:
        asked = _ask_everything(server)
        equal = _same_bits(server)
        rates, complaints = [], []
        for name in (MODEL, MODEL + "-encoded"):
            command = [launcher, "-m", name, "-u", server.url.removeprefix("http://"), "-H", f"X-API-Key:{ROOT_KEY}"]
            if name != MODEL:
                data = Path(folder) / "data.json"
                element = len(EXAMPLE).to_bytes(4, "little") + EXAMPLE
                content = {"b64": base64.b64encode(element).decode()}
                data.write_text(json.dumps({"data": [{"image": {"content": content, "shape": [1]}}]}))
                command += ["--input-data", str(data)]
            done = subprocess.run([*command, "--concurrency-range", "8"], capture_output=True, text=True)
            printed = done.stdout + done.stderr
            rate = re.search(r"throughput: ([\d.]+) infer/sec", printed)
            rates.append(f"{float(rate[1]):.0f}/s" if rate else "none")
            served = re.search(r"Server:\s+Inference count: [1-9]", printed)
            if done.returncode or not rate or not served or re.search("error|fail|warn", printed, re.IGNORECASE):
                complaints.append(printed)
    return equal and not complaints, (
        f"{asked} calls of tritonclient, perf_analyzer {' and '.join(rates)}, complaints {complaints or 'none'}, "
        f"bits equal to /v1/classify's: {equal}"
    )


def _ask_everything(server: Server) -> int:
    """Every call that tritonclient.http has for the paths of the protocol; raises where one is refused or wrong."""
    client = triton.InferenceServerClient(server.url.removeprefix("http://"), concurrency=4)
    calls = 0

    def check(answer: Any) -> None:
        nonlocal calls
        calls += 1
        if not answer:
            raise RuntimeError(f"call {calls} answered {answer!r}")

    check(client.is_server_live(headers=_key()))
    check(client.is_server_ready(headers=_key()))
    check("statistics" in client.get_server_metadata(headers=_key())["extensions"])
    check(all(entry["state"] == "READY" for entry in client.get_model_repository_index(headers=_key())))
    for name in (MODEL, MODEL + "-encoded"):
        client.unload_model(name, headers=_key())
        check(not client.is_model_ready(name, headers=_key()))
        client.load_model(name, headers=_key())
        for version in ("", "1"):
            check(client.is_model_ready(name, version, headers=_key()))
            check(client.get_model_metadata(name, version, headers=_key())["inputs"])
            check(client.get_model_config(name, version, headers=_key())["max_batch_size"])
            check(client.get_inference_statistics(name, version, headers=_key())["model_stats"])
            for binary, compression in itertools.product((True, False), (None, "gzip", "deflate")):
                if name != MODEL and not binary:
                    continue  # JSON carries no files
                output = triton.InferRequestedOutput("probabilities", binary_data=binary)
                options: dict[str, Any] = {
                    "outputs": [output],
                    "model_version": version,
                    "headers": _key(),
                    "timeout": 10_000_000,
                }
                options["request_compression_algorithm"] = compression
                now = client.infer(name, [_tensor(name, binary)], **options).as_numpy("probabilities")
                later = client.async_infer(name, [_tensor(name, binary)], **options).get_result()
                check(np.array_equal(now, later.as_numpy("probabilities")))
        classes = triton.InferRequestedOutput("probabilities", class_count=2)
        best = client.infer(name, [_tensor(name)], outputs=[classes], headers=_key()).as_numpy("probabilities")
        check(best[0][0].decode().endswith(":9:Ankle boot"))
    check(len(client.get_inference_statistics(headers=_key())["model_stats"]) == 2)
    client.close()
    return calls


def _key() -> dict[str, str]:
    """A dictionary for each call: the client writes its Content-Encoding into it."""
    return {"X-API-Key": ROOT_KEY}


def _tensor(name: str, binary: bool = True) -> triton.InferInput:
    if name == MODEL:
        pixels = np.array(Image.open(io.BytesIO(EXAMPLE)))[None, ..., None]
        tensor = triton.InferInput("images", list(pixels.shape), "UINT8")
        tensor.set_data_from_numpy(pixels, binary_data=binary)
    else:
        tensor = triton.InferInput("image", [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[EXAMPLE]], np.object_))
    return tensor


def _same_bits(server: Server) -> bool:
    client = triton.InferenceServerClient(server.url.removeprefix("http://"))
    answer = httpx.post(f"{server.url}/v1/classify?top_k=10", content=EXAMPLE, headers=_key()).json()
    predictions = sorted(answer["results"][0]["predictions"], key=lambda prediction: prediction["index"])
    expected = np.array([[prediction["probability"] for prediction in predictions]], np.float32)
    given = [
        client.infer(name, [_tensor(name)], headers=_key()).as_numpy("probabilities")
        for name in (MODEL, MODEL + "-encoded")
    ]
    client.close()
    return all(np.array_equal(values, expected) for values in given)


@contextmanager
def _guarded(folder: Path) -> Iterator[Server]:
    """A server with keys and admin paths."""
    write_keys(folder / "keys.toml", KEYS)
    with serve("--admin", "--api-keys", str(folder / "keys.toml")) as server:
        yield server


def line_3() -> tuple[bool, str]:
    """A wrong golden file, a wrong hash, half a manifest: the old version is still served, and the reason is shown."""
    told = {}
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(shutil.copytree(PRETRAINED / "repository", Path(folder) / "repository"))
        model = repository / MODEL
        with serve("--repository", str(repository)) as server, httpx.Client(base_url=server.url) as client:
            for number, (fault, spoil) in enumerate(FAULTS.items(), start=2):
                staging = Path(shutil.copytree(model / "1", model / ".partial"))
                path = staging / "manifest.json"
                path.write_text(json.dumps({**json.loads(path.read_text()), "version": number}))
                spoil(staging)
                staging.rename(model / str(number))
                status = None
                while status is None or status["state"] == "LOADING":
                    ready = client.get("/readyz?verbose").json()
                    status = next(
                        (each for each in ready["models"][0]["versions"] if each["version"] == str(number)), None
                    )
                    answer = client.post("/v1/classify", content=EXAMPLE)
                    if answer.status_code != 200 or answer.json()["version"] != "1":
                        raise RuntimeError(f"answered {answer.text}")
                index = client.post("/v2/repository/index").json()
                reason = next(entry["reason"] for entry in index if entry["version"] == str(number))
                named = client.post(f"/v1/models/{MODEL}/versions/{number}/classify", content=EXAMPLE)
                told[fault] = (status["state"], reason == status["reason"] != "", named.status_code)
    expected = ("UNAVAILABLE", True, 503)
    return all(each == expected for each in told.values()), f"version 1 answered throughout; told: {told}"


def _half_a_manifest(version: Path) -> None:
    content = (version / "manifest.json").read_bytes()
    (version / "manifest.json").write_bytes(content[: len(content) // 2])


def _wrong_hash(version: Path) -> None:
    with (version / "model.onnx").open("ab") as file:
        file.write(b"\0")


def _wrong_golden(version: Path) -> None:
    with np.load(version / "golden.npz") as file:
        content = dict(file)
    np.savez(version / "golden.npz", images=content["images"][:, ::-1], logits=content["logits"])
    path = version / "manifest.json"
    described = {**json.loads(path.read_text()), "golden_sha256": manifest.sha256(version / "golden.npz")}
    path.write_text(json.dumps(described))


FAULTS = {"golden": _wrong_golden, "hash": _wrong_hash, "manifest": _half_a_manifest}

_NESTED = b'{"inputs":' + b"[" * 10_000_000
_INFER = f"/v2/models/{MODEL}/infer"
_LOAD = "/v2/repository/models/%s/load"
_REQUESTS: list[tuple[str, str, bytes, dict[str, str], int]] = [
    ("no key", "/v1/classify", b"", {"X-API-Key": ""}, 401),
    ("a wrong key", "/v1/classify", b"", {"X-API-Key": "wrong"}, 401),
    ("a wrong key under /v2", _INFER, b"", {"X-API-Key": "wrong"}, 401),
    ("classify without the scope", "/v1/classify", b"", {"X-API-Key": OPERATOR}, 403),
    ("load without the scope", _LOAD % MODEL, b"", {"X-API-Key": WEB}, 403),
    ("../ as the path", "/v1/models/../../../etc/passwd/classify", b"", {}, 404),
    ("../ as a version", f"/v1/models/{MODEL}/versions/../classify", b"", {}, 400),
    ("../ as a model to load", _LOAD % "../../etc", b"", {}, 404),
    (".. as a model to load", _LOAD % "..", b"", {}, 400),
    ("encoded slashes", "/v1/models/..%2f..%2fetc%2fpasswd/classify", b"", {}, 404),
    ("doubly encoded slashes", "/v1/models/..%252f..%252fetc/classify", b"", {}, 400),
    ("encoded slashes to load", _LOAD % "..%2f..%2fetc", b"", {}, 404),
    ("a NUL in the model", "/v1/models/a%00b/classify", b"", {}, 400),
    ("a URL to load", _LOAD % MODEL, b'{"parameters": {"config": "http://example.org"}}', {}, 400),
    ("a file to load", _LOAD % MODEL, b'{"parameters": {"file:1/model.onnx": "AAAA"}}', {}, 400),
    ("10 MB of nesting under /v1", "/v1/classify", _NESTED, {"Content-Type": "application/json"}, 400),
    ("10 MB of nesting under /v2", _INFER, _NESTED, {}, 400),
    ("10 MB of nesting to load", _LOAD % MODEL, _NESTED, {}, 400),
    ("a length beyond the body", _INFER, b"{}", {LENGTH: "1000000"}, 400),
    ("a length short of the JSON", _INFER, b'{"inputs": []}', {LENGTH: "5"}, 400),
    ("a negative length", _INFER, b"{}", {LENGTH: "-2"}, 400),
    ("a length that overflows", _INFER, b"{}", {LENGTH: "18446744073709551618"}, 400),
    ("no length for binary", _INFER, b'{"inputs": []}\0\0\0', {}, 400),
]


def line_4() -> tuple[bool, str]:
    """Each hostile request gets its documented status, opens no file elsewhere, and the next request works."""
    wrong, opened = [], set()
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(shutil.copytree(PRETRAINED / "repository", Path(folder) / "repository"))
        secret = shutil.copytree(repository / MODEL, Path(folder) / "secret")
        (repository / "link").symlink_to(secret)
        (repository / MODEL / "2").symlink_to(secret / "1")
        trace = Path(folder) / "trace"
        with _traced(Path(folder), repository, trace) as server:
            before = trace.stat().st_size
            for name, path, content, headers, expected in _REQUESTS:
                status = asyncio.run(_raw(server, path, content, {"X-API-Key": ROOT_KEY, **headers}))
                following = asyncio.run(_raw(server, "/v1/classify", EXAMPLE, {"X-API-Key": ROOT_KEY}))
                if (status, following) != (expected, 200):
                    wrong.append(f"{name}: {status} instead of {expected}, then {following}")
            with trace.open() as file:
                file.seek(before)
                opened = set(re.findall(r'open(?:at)?\([^"]*"([^"]+)"[^=]*= \d', file.read()))
        everything = trace.read_text()
    allowed = (
        str(repository),
        f"{folder}/keys.toml",
        "/proc/self/mountinfo",
        "/usr/",
        "/lib/",
        sys.prefix,
        f"{ROOT}/service",
    )
    outside = {path for path in opened if path.startswith("/") and not path.startswith(allowed)}
    leaked = f"{secret}/1/model.onnx" in everything
    return not wrong and not outside and not leaked, (
        f"{len(_REQUESTS)} requests, not as documented: {wrong or 'none'}; files opened outside the repository: "
        f"{sorted(outside) or 'none'}, behind a link: {leaked}"
    )


@contextmanager
def _traced(folder: Path, repository: Path, trace: Path) -> Iterator[Server]:
    """The server with every file that it opens written down."""
    write_keys(folder / "keys.toml", KEYS)
    port = free_port()
    command = [
        "strace",
        "-D",
        "-f",
        "-qq",
        "-e",
        "trace=open,openat",
        "-o",
        str(trace),
        sys.executable,
        "-m",
        "service",
    ]
    options = ["--repository", repository, "--admin", "--api-keys", folder / "keys.toml", "--port", port]
    process = subprocess.Popen([*command, *(str(option) for option in options)])
    server = Server(process, f"http://127.0.0.1:{port}")
    try:
        wait_until(server)
        yield server
    finally:
        process.terminate()
        process.wait(30)


async def _raw(server: Server, path: str, body: bytes, headers: dict[str, str]) -> int:
    """The status of a request whose path is sent as it is: other clients would tidy it."""
    target = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(target.hostname, target.port)
    lines = [f"POST {path} HTTP/1.1", f"Host: {target.netloc}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    try:
        async with asyncio.timeout(60):
            answer = await reader.read()
    finally:
        writer.close()
    return int(answer.split(b" ", 2)[1])


def line_5() -> tuple[bool, str]:
    """schemathesis over every operation, with models that are there and models that are not: no 500, nothing new."""
    found = []
    with tempfile.TemporaryDirectory() as folder, _guarded(Path(folder)) as server:
        key = ["--header", f"X-API-Key: {ROOT_KEY}"]
        for parameters in ({}, {"model": MODEL, "version": "1"}, {"model": MODEL + "-encoded", "version": "1"}):
            kept = ["--exclude-path-regex", "unload"] if parameters else []  # or nothing would be left to ask
            found.append(fuzz(server.url, 200, *key, *kept, parameters=parameters, folder=Path(folder)))
        operations = httpx.get(f"{server.url}/openapi.json").json()["paths"]
        counted = httpx.get(f"{server.url}/metrics").text
    for printed in filter(None, found):
        print(printed)
    failed = re.findall(r'^resnet_requests_total{.*status="500".*} (\S+)', counted, re.MULTILINE)
    return not any(found) and not failed, (
        f"{sum(map(len, operations.values()))} operations, up to 200 requests each, three times: "
        f"{sum(map(bool, found))} runs with findings, answers with 500: {failed or 'none'}"
    )


if __name__ == "__main__":
    run({1: line_1, 2: line_2, 3: line_3, 4: line_4, 5: line_5})
