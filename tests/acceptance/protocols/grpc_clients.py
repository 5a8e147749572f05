"""Line 1: Triton's clients over gRPC do all that its HTTP client does, on both names of a model.

tritonclient synchronous, asynchronous and streaming, with keys and admin calls; each answer is compared with HTTP's bit
for bit. Then `perf_analyzer -i grpc` on both names, unary and streaming, and reflection as grpcurl asks for it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.http as triton_http
from google.protobuf import descriptor_pool, json_format
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from PIL import Image
from tritonclient.utils import InferenceServerException

from tests.acceptance.faults.served import ROOT, ServedProcess, serve
from tests.acceptance.server import free_port
from tests.support.api_keys import KEYS, WEB, write_keys
from tests.support.api_keys import ROOT as ROOT_KEY

MODEL = "fashion-mnist-resnet20"
NAMES = (MODEL, MODEL + "-encoded")
KEY = {"x-api-key": ROOT_KEY}
SERVICES = {"inference.GRPCInferenceService", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"}
_EXAMPLES = sorted((ROOT / "models" / "pretrained" / "examples").glob("*.png"))


class Calls:
    """Counts calls, and compares answers with HTTP's."""

    def __init__(self) -> None:
        self.count = 0
        self.wrong: list[str] = []

    def check(self, holds: Any, what: str) -> None:
        """Count a call, and keep it if its answer is wrong."""
        self.count += 1
        if not holds:
            self.wrong.append(what)
            print(f"  wrong: {what}", flush=True)


def check() -> tuple[bool, str]:
    """All clients against one service."""
    launcher = os.environ.get("PERF_ANALYZER") or shutil.which("perf_analyzer")
    if launcher is None:
        raise RuntimeError("perf_analyzer is not on the PATH: set PERF_ANALYZER")
    calls = Calls()
    with _guarded() as (service, target):
        http = triton_http.InferenceServerClient(service.url.removeprefix("http://"))
        expected = {(name, kind): _over_http(http, name, kind) for name in NAMES for kind in KINDS}
        with triton.InferenceServerClient(target) as client:
            _states(calls, client, http)
            _inferences(calls, client, expected)
            _streams(calls, client, expected)
        asyncio.run(_asynchronous(calls, target, expected))
        _reflection(calls, target)
        runs = [_perf_analyzer(launcher, target, name, flags) for name in NAMES for flags in ((), ("--streaming",))]
        http.close()
        errors = [line for line in service.log.splitlines() if '"level":"error"' in line]
    for line in errors:
        print(f"  log: {line}")
    complaints = [printed for _, printed in runs if printed]
    for printed in complaints:
        print(printed)
    return not calls.wrong and not complaints and not errors, (
        f"{calls.count} calls of tritonclient, wrong: {calls.wrong or 'none'}; perf_analyzer -i grpc, raw and files, "
        f"unary and streaming: {', '.join(rate for rate, _ in runs)}, {len(complaints)} complaints"
    )


KINDS = ("probabilities", "logits", "embedding", "feature_map", "classes", "several")


def _outputs(kind: str, client: Any) -> list[Any]:
    if kind == "classes":
        return [client.InferRequestedOutput("probabilities", class_count=3)]
    names = ("logits", "embedding") if kind == "several" else (kind,)
    return [client.InferRequestedOutput(name) for name in names]


def _inputs(name: str, client: Any) -> list[Any]:
    if name == MODEL:
        pixels = np.stack([np.array(Image.open(path)) for path in _EXAMPLES])[..., None]
        tensor = client.InferInput("images", list(pixels.shape), "UINT8")
        tensor.set_data_from_numpy(pixels)
    else:
        files = np.array([[path.read_bytes()] for path in _EXAMPLES], np.object_)
        tensor = client.InferInput("image", list(files.shape), "BYTES")
        tensor.set_data_from_numpy(files)
    return [tensor]


def _values(result: Any, kind: str) -> bytes:
    """The outputs as bytes, in their order."""
    names = {"classes": ["probabilities"], "several": ["logits", "embedding"]}.get(kind, [kind])
    arrays = [result.as_numpy(name) for name in names]
    return b"".join(b"".join(array.ravel()) if array.dtype == np.object_ else array.tobytes() for array in arrays)


def _over_http(client: Any, name: str, kind: str) -> bytes:
    inputs, outputs = _inputs(name, triton_http), _outputs(kind, triton_http)
    return _values(client.infer(name, inputs, outputs=outputs, headers=dict(KEY)), kind)


def _states(calls: Calls, client: Any, http: Any) -> None:
    """All methods beside inference, compared with HTTP's, and load and unload."""

    def same(message: Any, expected: Any) -> bool:
        told = json_format.MessageToDict(
            message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        return _contains(told, expected)

    calls.check(client.is_server_live(headers=KEY), "live")
    calls.check(client.is_server_ready(), "ready")
    calls.check(same(client.get_server_metadata(headers=KEY), http.get_server_metadata(headers=KEY)), "server metadata")
    index = client.get_model_repository_index(headers=KEY)
    calls.check(same(index, {"models": http.get_model_repository_index(headers=KEY)}), "index")
    for name in NAMES:
        client.unload_model(name, headers=KEY)
        calls.check(not client.is_model_ready(name, headers=KEY), f"{name} is unloaded")
        client.load_model(name, headers=KEY)
        for version in ("", "1"):
            calls.check(client.is_model_ready(name, version, headers=KEY), f"{name} {version} ready")
            for method in ("get_model_metadata", "get_model_config", "get_inference_statistics"):
                expected = getattr(http, method)(name, version, headers=KEY)
                if method == "get_model_config":
                    expected = {"config": expected}
                told = getattr(client, method)(name, version, headers=KEY)
                calls.check(same(told, expected), f"{method} of {name} {version}")
    calls.check(len(client.get_inference_statistics(headers=KEY).model_stats) == 2, "all statistics")
    for code, call in {
        "UNAUTHENTICATED": lambda: client.get_model_metadata(MODEL),
        "PERMISSION_DENIED": lambda: client.unload_model(MODEL, headers={"x-api-key": WEB}),
        "UNIMPLEMENTED": lambda: client.get_system_shared_memory_status(headers=KEY),
    }.items():
        _refused(calls, code, call)


def _contains(told: Any, expected: Any) -> bool:
    """Whether JSON has all that other JSON has; protobuf writes numbers of 64 bits as strings."""
    if isinstance(expected, dict):
        return all(_contains(told.get(name), value) for name, value in expected.items())
    if isinstance(expected, list):
        return len(told) == len(expected) and all(map(_contains, told, expected))
    return str(told) == str(expected)


def _inferences(calls: Calls, client: Any, expected: dict[tuple[str, str], bytes]) -> None:
    for (name, kind), bits in expected.items():
        inputs, outputs = _inputs(name, triton), _outputs(kind, triton)
        for version, compression in (("", None), ("1", "gzip"), ("", "deflate")):
            options: dict[str, Any] = {"model_version": version, "outputs": outputs, "headers": KEY, "timeout": 10**7}
            now = client.infer(name, inputs, compression_algorithm=compression, request_id="7", priority=2, **options)
            calls.check(_values(now, kind) == bits, f"{name} {kind} {version} {compression}")
            calls.check(now.get_response().id == "7", f"id of {name} {kind}")
            answers: Queue[tuple[Any, Any]] = Queue()
            client.async_infer(name, inputs, lambda result, error, to=answers: to.put((result, error)), **options)
            later, error = answers.get(timeout=60)
            calls.check(error is None and _values(later, kind) == bits, f"{name} {kind} asynchronously: {error}")
    late: dict[str, Any] = {"headers": KEY, "client_timeout": 1e-4}
    _refused(calls, "DEADLINE_EXCEEDED", lambda: client.infer(MODEL, _inputs(MODEL, triton), **late))


def _refused(calls: Calls, code: str, call: Callable[[], object]) -> None:
    try:
        call()
        calls.check(False, f"no {code}")
    except InferenceServerException as error:
        status: Any = error
        calls.check(status.status() == f"StatusCode.{code}", f"{code}: {error}")


def _streams(calls: Calls, client: Any, expected: dict[tuple[str, str], bytes]) -> None:
    answers: Queue[tuple[Any, Any]] = Queue()
    client.start_stream(lambda result, error: answers.put((result, error)), headers=KEY)
    for number, (name, kind) in enumerate(expected):
        inputs, outputs = _inputs(name, triton), _outputs(kind, triton)
        client.async_stream_infer(name, inputs, outputs=outputs, request_id=str(number))
    client.async_stream_infer("nothing", _inputs(MODEL, triton))
    for number, ((name, kind), bits) in enumerate(expected.items()):
        result, error = answers.get(timeout=60)
        holds = error is None and result.get_response().id == str(number) and _values(result, kind) == bits
        calls.check(holds, f"stream: {name} {kind}: {error}")
    _, error = answers.get(timeout=60)
    calls.check("no model nothing is served" in str(error), f"stream: an error: {error}")
    client.stop_stream()


async def _asynchronous(calls: Calls, target: str, expected: dict[tuple[str, str], bytes]) -> None:
    async with triton_aio.InferenceServerClient(target) as client:
        calls.check(await client.is_server_ready(), "asynchronous: ready")
        calls.check((await client.get_model_config(MODEL, headers=KEY)).config.name == MODEL, "asynchronous: config")

        async def infer(name: str, kind: str) -> bytes:
            inputs, outputs = _inputs(name, triton), _outputs(kind, triton)
            return _values(await client.infer(name, inputs, outputs=outputs, headers=KEY), kind)

        for (name, kind), bits in expected.items():
            calls.check(await infer(name, kind) == bits, f"asynchronous: {name} {kind}")

        async def requests() -> AsyncIterator[dict[str, Any]]:
            for name, kind in expected:
                yield {"model_name": name, "inputs": _inputs(name, triton), "outputs": _outputs(kind, triton)}

        waiting = iter(expected.items())
        async for result, error in client.stream_infer(requests(), headers=KEY):
            (name, kind), bits = next(waiting)
            calls.check(error is None and _values(result, kind) == bits, f"asynchronous stream: {name} {kind}")
        calls.check(next(waiting, None) is None, "asynchronous stream: all are answered")


def _reflection(calls: Calls, target: str) -> None:
    """The services, their methods and their messages, as grpcurl lists and describes them."""
    with grpc.insecure_channel(target) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        listed = set(database.get_services())
        calls.check(listed >= SERVICES, f"services: {sorted(listed)}")
        pool = descriptor_pool.DescriptorPool(database)
        service = pool.FindServiceByName("inference.GRPCInferenceService")
        calls.check(len(service.methods) >= 20, "methods of the protocol")
        fields = pool.FindMessageTypeByName("inference.ModelInferRequest").fields_by_name
        calls.check("raw_input_contents" in fields, "fields of a message")
        print(f"  services: {', '.join(sorted(listed))}")


def _perf_analyzer(launcher: str, target: str, name: str, flags: tuple[str, ...]) -> tuple[str, str]:
    """The rate, and what was printed if it has complained."""
    with tempfile.TemporaryDirectory() as folder:
        command = [launcher, "-i", "grpc", "-m", name, "-u", target, "-H", f"x-api-key:{ROOT_KEY}", *flags]
        if name != MODEL:
            data, example = Path(folder) / "data.json", _EXAMPLES[0].read_bytes()
            content = {"b64": base64.b64encode(len(example).to_bytes(4, "little") + example).decode()}
            data.write_text(json.dumps({"data": [{"image": {"content": content, "shape": [1]}}]}))
            command += ["--input-data", str(data)]
        if flags:
            command += ["--async"]
        done = subprocess.run([*command, "--concurrency-range", "8"], capture_output=True, text=True)
    printed = done.stdout + done.stderr
    rate = re.search(r"throughput: ([\d.]+) infer/sec", printed)
    served = re.search(r"Server:\s+Inference count: [1-9]", printed)
    print(f"  perf_analyzer -i grpc {' '.join(flags)} {name}: {rate[1] if rate else 'no'} per second", flush=True)
    complains = done.returncode or not rate or not served or re.search("error|fail|warn", printed, re.IGNORECASE)
    return f"{float(rate[1]):.0f}/s" if rate else "none", printed if complains else ""


@contextmanager
def _guarded() -> Iterator[tuple[ServedProcess, str]]:
    """A service with keys and admin paths, and its address of gRPC."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        write_keys(Path(folder) / "keys.toml", KEYS)
        flags = ("--grpc-port", str(port), "--admin", "--api-keys", f"{folder}/keys.toml")
        with serve(*flags) as service:
            yield service, f"127.0.0.1:{port}"
