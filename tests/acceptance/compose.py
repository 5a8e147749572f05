"""Deployment with Compose: images, monitoring, export into the running service, and what docs/deployment.md says.

    python -m tests.acceptance.compose [LINE ...]

Needs the `cpu`, `train` and `dev` extras, podman with podman-compose and the network that containers share (Debian:
podman, buildah, netavark, aardvark-dns, iptables), an image `python:3.11-slim` or a registry to get it from, promtool
and prometheus (Debian's package prometheus), git, the ports 8000 and 9090, and for line 4 15 GB of disk. Containers and
volumes have a project of their own, and are removed at the end; images stay. The first run builds images for minutes.

The image of Prometheus that Compose names is exchanged for one with Debian's Prometheus in it; that of Grafana, where
it cannot be pulled, for one that does nothing. The dashboard is not looked at, its queries are sent to Prometheus.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Thread, Timer
from typing import Any

import httpx
import numpy as np
from PIL import Image

from tests.acceptance.client import open_loop, post_all
from tests.acceptance.report import run
from tests.support.monitoring import panel_queries, rule_queries

ROOT = Path(__file__).parents[2]
IMAGE = (ROOT / "models" / "pretrained" / "examples" / "ankle-boot.png").read_bytes()
PROJECT = "resnet-serve-acceptance"
BASE = "docker.io/library/python:3.11-slim"
URL = "http://127.0.0.1:8000"
PROMETHEUS = "http://127.0.0.1:9090"
MEGABYTE = 1_000_000
GRACE_SECONDS = 40.0


def line_1() -> tuple[bool, str]:
    """From a clean clone: up, a classified image, non-root and read-only, down without a lost answer; image sizes."""
    with _compose() as (compose, _):
        compose.run("up --build --detach")
        _wait()
        label, faults = _label(IMAGE), _confinement()
        lost, answered, seconds = _stop_under_load(compose)
    with _compose() as (compose, clone):
        # A batch takes a second: when the end comes, most of what was accepted waits for its turn.
        settings = {"EXECUTOR": "simulated:1000", "MAX_BATCH": "8", "TIMEOUT_MS": "60000"}
        (clone / ".env").write_text("".join(f"RESNET_SERVE_{name}={value}\n" for name, value in settings.items()))
        compose.run("up --detach")
        _wait()
        queued, queue_seconds = _stop_with_a_queue(compose)
    with _compose() as (compose, clone):
        (clone / ".env").write_text("TARGET=openvino\n")
        compose.run("up --build --detach")
        _wait()
        executor = _wait("/v1/models").json()["models"][0]["executor"]
        by_openvino = _label(IMAGE)
    added = {target: (_size(f"resnet-serve:{target}") - _size(BASE)) / MEGABYTE for target in ("cpu", "openvino")}
    holds = (
        (label, by_openvino, executor, faults) == ("Ankle boot", "Ankle boot", "openvino", "")
        and (lost, queued) == (0, 64)
        and max(seconds, queue_seconds) < GRACE_SECONDS
        and added["cpu"] < 350
        and added["openvino"] < 550
    )
    return holds, (
        f"{label!r}, by {executor} {by_openvino!r}; {faults or 'user 10001, root read-only, no compiler, no torch'}; "
        f"stop under load in {seconds:.1f} s: {answered} answered, {lost} lost; down with 64 accepted in "
        f"{queue_seconds:.1f} s (at most {GRACE_SECONDS:.0f}): {queued} answered; added to the base: "
        f"cpu {added['cpu']:.0f} MB (under 350), openvino {added['openvino']:.0f} MB (under 550)"
    )


def line_2() -> tuple[bool, str]:
    """promtool is content; Prometheus finds the service by itself; every query of dashboard and rules has data."""
    with _compose() as (compose, clone):
        configuration = clone / "deploy" / "prometheus" / "prometheus.yml"
        check = subprocess.run(["promtool", "check", "config", configuration], capture_output=True, text=True)
        _write_override(clone)
        compose.run("up --build --detach cpu")
        compose.run("--profile monitoring up --build --detach prometheus")
        _wait()
        queries = [*panel_queries(), *rule_queries()]
        silent = asyncio.run(_ask_until_all_answer(queries))
        targets = httpx.get(f"{PROMETHEUS}/api/v1/targets").json()["data"]["activeTargets"]
    health = [target["health"] for target in targets]
    holds = check.returncode == 0 and not silent and health == ["up"] and len(queries) > 40
    return holds, (
        f"promtool: {'content' if check.returncode == 0 else check.stdout + check.stderr}; targets: {health}; "
        f"{len(queries)} queries, without data: {'; '.join(silent) or 'none'}"
    )


def line_3() -> tuple[bool, str]:
    """A tiny model is trained and exported in containers; the service that runs serves it, and its next version."""
    with _compose() as (compose, clone):
        compose.run("up --build --detach")
        started = _process_start()
        _write_colours(clone / "runs" / "colours")
        red = (clone / "runs" / "colours" / "test" / "red" / "0.png").read_bytes()
        compose.run(
            'run --rm --build --user "$(id -u):$(id -g)" --entrypoint resnet-train export '
            "--arch tiny --data /runs/colours --out /runs/tiny --size 32 --epochs 4"
        )
        answers = []
        for version in ("1", "2"):
            compose.run("run --rm export build /runs/tiny/model.safetensors --repository /repository --name tiny")
            _wait(f"/v2/models/tiny/versions/{version}/ready")
            answers.append(_label(red, f"/v1/models/tiny/versions/{version}/classify"))
        same = _process_start() == started
    return answers == ["red", "red"] and same, (
        f"a red square is {answers[0]!r} by version 1, {answers[1]!r} by version 2; "
        f"the service {'was not' if same else 'was'} restarted"
    )


def _process_start() -> str:
    found = re.search(r"^process_start_time_seconds (\S+)$", _wait("/metrics").text, re.MULTILINE)
    assert found is not None
    return found[1]


def line_4() -> tuple[bool, str]:
    """The Compose file is valid; the gpu image is built, finds what CUDA needs, builds engines, serves without a GPU.

    In the place of TensorRT, which its vendor alone has, comes TensorRT for RTX: it builds engines without a GPU.
    """
    schema = ["--builtin-schema", "vendor.compose-spec", str(ROOT / "docker-compose.yml")]
    valid = subprocess.run([sys.executable, "-m", "check_jsonschema", *schema]).returncode == 0
    free = shutil.disk_usage("/var/lib").free
    if free < 15e9:
        return False, f"the gpu image needs 15 GB of disk to be built, {free / 1e9:.0f} GB are free"
    with _gpu_image() as image:
        size = _size(image)
        providers, missing, cuda = _podman(*_confined(image, "python"), "-c", _CUDA_LIBRARIES).splitlines()[-3:]
        build = (*_confined(image, "resnet-export"), "engines", "/repository", "--compute-capability", "8.9")
        first, second = (re.findall("^(built|kept):", _podman(*build), re.MULTILINE) for _ in range(2))
        label, model = _serve_without_a_gpu(image)
    holds = (
        valid
        and "CUDAExecutionProvider" in providers
        and missing.startswith("libcuda.so.1:")  # of the driver, which comes with the machine
        and cuda == "cudaErrorInsufficientDriver"
        and (first, second) == (["built"] * 2, ["kept"] * 2)
        and (label, model["executor"], model["engine"]["state"]) == ("Ankle boot", "onnxruntime-cpu", "UNUSABLE")
    )
    return holds, (
        f"valid: {valid}; gpu image of {size / 1e9:.1f} GB has {providers}, lacks '{missing}', without a driver "
        f"cuda-bindings say {cuda}; engines in the volume: first {first}, then {second}; it serves {label!r} by "
        f"{model['executor']}: {model['engine']['reason']}; not executed: the installation of TensorRT (its vendor's "
        "index), the reservation of a device, and everything on a GPU"
    )


_CUDA_LIBRARIES = """
import ctypes, pathlib, onnxruntime
from cuda.bindings import runtime
print(*onnxruntime.get_available_providers())
onnxruntime.preload_dlls()
try:
    ctypes.CDLL(str(pathlib.Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"))
    print("nothing")
except OSError as error:
    print(error)
print(runtime.cudaGetDeviceCount()[0].name)
"""


@contextmanager
def _gpu_image() -> Iterator[str]:
    """The image gpu of what is committed; removed at the end, with its cache: it takes gigabytes."""
    tag = "resnet-serve:gpu-acceptance"
    with _compose() as (_, clone):
        # Where layers are whole copies (the storage driver vfs), one for each step would fill the disk.
        build = ["podman", "build", "--layers=false", "--format", "docker", "--target", "gpu", "--tag", tag]
        subprocess.run([*build, "--build-arg", "TENSORRT=tensorrt-rtx-cu13", clone], check=True)
    try:
        yield tag
    finally:
        _podman("image", "rm", tag)
        _podman("volume", "rm", f"{PROJECT}-gpu-cache")


def _confined(image: str, entrypoint: str) -> tuple[str, ...]:
    """Arguments of podman that run an image as docker-compose.yml does, but for the GPU."""
    limits = (
        "--read-only",
        "--tmpfs",
        "/tmp",
        "--cap-drop",
        "ALL",
        "--security-opt",
        "no-new-privileges",
        "--no-healthcheck",
    )
    return ("run", "--rm", *limits, "--volume", f"{PROJECT}-gpu-cache:/cache", "--entrypoint", entrypoint, image)


def _serve_without_a_gpu(image: str) -> tuple[str, dict[str, Any]]:
    """How the image classifies, and what it says of its model."""
    name = f"{PROJECT}_gpu"
    subcommand, *options = _confined(image, "resnet-serve")
    try:
        _podman(subcommand, "--detach", "--name", name, "--publish", "127.0.0.1:8000:8000", *options)
        _wait()
        return _label(IMAGE), _wait("/v1/models").json()["models"][0]
    finally:
        _podman("rm", "--force", name)


def line_5() -> tuple[bool, str]:
    """The commands of docs/deployment.md, one after the other in a clean clone, `docker compose` being podman's."""
    with _compose() as (compose, clone):
        _write_override(clone)
        commands = _commands((clone / "docs" / "deployment.md").read_text(encoding="utf-8"))
        for command in commands:
            if status := compose.shell(command):
                return False, f"`{command}` ended with {status}"
    grafana = "" if _grafana_is_here() else "; Grafana's image is out of reach: a container that sleeps"
    return len(commands) > 10, f"{len(commands)} commands, each ended with 0{grafana}"


class Compose:
    """podman-compose in a clone, under the name `docker compose`."""

    def __init__(self, clone: Path) -> None:
        self._clone = clone
        folder = clone / ".bin"
        folder.mkdir(exist_ok=True)
        # Docker lets `run` name a service of any profile, podman-compose only one of a profile that is named.
        (folder / "docker").write_text(
            '#!/bin/sh\nshift\n[ "$1" != run ] || export COMPOSE_PROFILES=export\nexec podman-compose "$@"\n'
        )
        (folder / "docker").chmod(0o755)
        path = f"{folder}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "COMPOSE_PROJECT_NAME": PROJECT, "BUILDAH_FORMAT": "docker"}

    def shell(self, command: str) -> int:
        """Run a command in the clone; its exit status."""
        print(f"$ {command}", flush=True)
        command = f"set -o pipefail; {command}"
        return subprocess.run(["bash", "-c", command], cwd=self._clone, env=self.environment).returncode

    def run(self, arguments: str) -> None:
        """Run `docker compose`."""
        if status := self.shell(f"docker compose {arguments}"):
            raise RuntimeError(f"docker compose {arguments} ended with {status}")


@contextmanager
def _compose() -> Iterator[tuple[Compose, Path]]:
    """A clean clone of what is committed; its containers and volumes are removed at the end."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "resnet-serve"
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        compose = Compose(clone)
        try:
            yield compose, clone
        finally:
            compose.shell("docker compose --profile monitoring --profile export down --volumes >/dev/null 2>&1")


def _podman(*arguments: str) -> str:
    done = subprocess.run(["podman", *arguments], capture_output=True, text=True)
    return (done.stdout + done.stderr).strip()


def _wait(path: str = "/readyz", seconds: float = 90.0) -> httpx.Response:
    """Ask until there is success."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            response = httpx.get(URL + path)
            if response.is_success:
                return response
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise TimeoutError(f"{path} did not answer within {seconds:.0f} s")


def _label(image: bytes, path: str = "/v1/classify") -> str:
    answer = httpx.post(f"{URL}{path}?top_k=1", content=image).raise_for_status().json()
    return str(answer["results"][0]["predictions"][0]["label"])


def _size(image: str) -> int:
    return int(_podman("image", "inspect", "--format", "{{.Size}}", image))


def _confinement() -> str:
    """Rights that the container has and should not have; empty if there are none."""
    container = f"{PROJECT}_cpu_1"
    faults = []
    if not re.search(r"^Uid:\s+10001\s+10001", _podman("exec", container, "cat", "/proc/1/status"), re.MULTILINE):
        faults.append("it does not run as user 10001")
    for place in ("/", "/opt/resnet-serve", "/repository", "/etc"):
        if "Read-only" not in _podman("exec", container, "touch", f"{place}/written"):
            faults.append(f"{place} can be written")
    if found := _podman("exec", container, "sh", "-c", "command -v cc gcc c++ clang ld make; true"):
        faults.append(f"it holds {found}")
    if "No module named 'torch'" not in _podman("exec", container, "python", "-c", "import torch"):
        faults.append("it holds torch")
    return "; ".join(faults)


def _stop_under_load(compose: Compose) -> tuple[int, int, float]:
    """The end while requests come: how many that the service logged were not answered, how many were, seconds.

    `stop` is the part of `down` that asks the service to end; the log is gone with the container.
    """
    seconds = 0.0
    before = len(_logged())

    def down() -> None:
        nonlocal seconds
        started = time.monotonic()
        compose.run("stop")
        seconds = time.monotonic() - started

    timer = Timer(2.0, down)
    timer.start()
    answers = asyncio.run(open_loop(f"{URL}/v1/classify", IMAGE, rate=200, seconds=6))
    timer.join()
    statuses = _logged()[before:]
    answered = sum(answer.status != 0 for answer in answers)
    cut_off = sum(status not in (200, 503) for status in statuses)
    return abs(len(statuses) - answered) + cut_off, sum(answer.status == 200 for answer in answers), seconds


def _logged() -> list[int]:
    """The status of each request to classify, from the service's log."""
    lines = _podman("logs", f"{PROJECT}_cpu_1").splitlines()
    return [json.loads(line)["status"] for line in lines if '"path":"/v1/classify"' in line]


def _stop_with_a_queue(compose: Compose) -> tuple[int, float]:
    """`down` when 64 requests are accepted and most wait: how many are answered, and seconds."""
    seconds = 0.0

    def down() -> None:
        nonlocal seconds
        while "resnet_requests_in_flight 64.0" not in httpx.get(f"{URL}/metrics").text:
            time.sleep(0.05)
        started = time.monotonic()
        compose.run("down")
        seconds = time.monotonic() - started

    stopping = Thread(target=down)
    stopping.start()
    answers = asyncio.run(post_all(f"{URL}/v1/classify?top_k=1", [IMAGE] * 64, connections=64))
    stopping.join()
    return sum(answer.status == 200 for answer in answers), seconds


def _write_override(clone: Path) -> None:
    """An image with Debian's Prometheus, and what has Compose take it; all else is as in docker-compose.yml."""
    folder = clone / "prometheus-of-debian"
    folder.mkdir()
    binary = shutil.which("prometheus")
    if binary is None:
        raise FileNotFoundError("prometheus is not installed (Debian's package prometheus)")
    shutil.copy(binary, folder / "prometheus")
    lines = (
        f"FROM {BASE}",
        "COPY prometheus /bin/prometheus",
        "RUN mkdir /prometheus && chown 65534:65534 /prometheus",
        "USER 65534:65534",
        'ENTRYPOINT ["/bin/prometheus"]',
    )
    (folder / "Dockerfile").write_text("\n".join(lines))
    services: dict[str, Any] = {"prometheus": {"image": "prometheus-of-debian", "build": str(folder)}}
    if not _grafana_is_here():
        (folder / "Dockerfile.grafana").write_text(f'FROM {BASE}\nENTRYPOINT ["sleep", "infinity"]\n')
        build = {"context": str(folder), "dockerfile": "Dockerfile.grafana"}
        services["grafana"] = {"image": "in-the-place-of-grafana", "build": build}
    (clone / "docker-compose.override.yml").write_text(json.dumps({"services": services}))


@cache
def _grafana_is_here() -> bool:
    """Whether the image that Compose names can be had."""
    found = re.search(r"image: (\S+/grafana:\S+)", (ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    assert found is not None
    return subprocess.run(["podman", "pull", "--quiet", found[1]], capture_output=True).returncode == 0


async def _ask_until_all_answer(queries: Sequence[tuple[str, str]], seconds: float = 180.0) -> list[str]:
    """Send the service requests of every kind until each query has data; those that have none in the end."""
    end = time.monotonic() + seconds
    silent = list(queries)
    async with httpx.AsyncClient() as client:
        while silent and time.monotonic() < end:
            for parameters in ("", "?cam=overlay", "?timeout_ms=0.001", "?top_k=0"):
                await client.post(f"{URL}/v1/classify{parameters}", content=IMAGE)
            await asyncio.gather(*(client.post(f"{URL}/v1/classify", content=IMAGE) for _ in range(20)))
            await asyncio.sleep(0.5)
            silent = [(title, query) for title, query in silent if not await _has_data(client, query)]
    return [f"{title}: {query}" for title, query in silent]


async def _has_data(client: httpx.AsyncClient, query: str) -> bool:
    try:
        answer = (await client.get(f"{PROMETHEUS}/api/v1/query", params={"query": query})).json()
    except httpx.TransportError:
        return False
    if answer["status"] != "success":
        raise ValueError(f"{query}: {answer['error']}")
    samples = answer["data"]["result"]
    return bool(samples) and all(math.isfinite(float(sample["value"][1])) for sample in samples)


def _write_colours(folder: Path) -> None:
    """Classes that a small network learns within seconds: red and blue squares, with noise."""
    noise = np.random.default_rng(0)
    for split, count in (("train", 128), ("test", 16)):
        for name, channel in (("red", 0), ("blue", 2)):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = noise.integers(0, 96, (32, 32, 3), np.uint8)
                pixels[..., channel] += 150
                Image.fromarray(pixels).save(folder / split / name / f"{index}.png")


def _commands(text: str) -> list[str]:
    """The lines of a document's shell blocks, in their order; a backslash at the end continues a line."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line]


if __name__ == "__main__":
    run({1: line_1, 2: line_2, 3: line_3, 4: line_4, 5: line_5})
