"""Line 4: the container images `engines` and `gpu-slim`, without a GPU. Needs podman, as `tests.acceptance.compose`."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[3]
BASE = "docker.io/library/python:3.11-slim"
LIMIT_MEGABYTES = 700
NAME = "resnet-serve-cuda-acceptance"
URL = "http://127.0.0.1:8000"
IMAGE = (ROOT / "models" / "pretrained" / "examples" / "ankle-boot.png").read_bytes()
ABSENT = ("torch", "tensorrt", "tensorrt_rtx", "triton", "nvidia.cudnn")
_IMPORTS = f"""
import importlib.util, json
def found(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
print(json.dumps([name for name in {ABSENT!r} if found(name)]))
"""


def check() -> tuple[bool, str]:
    """Build both images; build engines into a volume, then serve from it without a GPU."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "resnet-serve"
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        for target in ("gpu-slim", "engines"):
            # Where layers are whole copies (the storage driver vfs), one for each step would fill the disk.
            build = ["podman", "build", "--layers=false", "--format", "docker", "--target", target]
            subprocess.run([*build, "--tag", f"{NAME}:{target}", clone], check=True)
    try:
        added = (_size(f"{NAME}:gpu-slim") - _size(BASE)) / 1e6
        present = json.loads(_podman(*_run("gpu-slim", "--entrypoint", "python"), "-c", _IMPORTS).splitlines()[-1])
        build_arguments = ("/repository", "--runtime", "cuda", "--compute-capability", "9.0")
        built = [_podman(*_run("engines"), *build_arguments).count(f"{word}: ") for word in ("built", "kept")]
        label, model = _serve()
    finally:
        _podman("image", "rm", "--force", f"{NAME}:gpu-slim", f"{NAME}:engines")
        _podman("volume", "rm", "--force", f"{NAME}-cache")
    holds = (
        added < LIMIT_MEGABYTES
        and present == []
        and built[0] > 0
        and built[0] == built[1]
        and (label, model["executor"], model["engine"]["state"]) == ("Ankle boot", "onnxruntime-cpu", "UNUSABLE")
    )
    return holds, (
        f"gpu-slim adds {added:.0f} MB (limit {LIMIT_MEGABYTES}), of {', '.join(ABSENT)} it has {present or 'none'}; "
        f"engines built {built[0]} and kept {built[1]}; without a GPU it serves {label!r} by {model['executor']}: "
        f"{model['engine']['reason']}; not run: a container on a GPU"
    )


def _serve() -> tuple[str, dict[str, Any]]:
    """How the image classifies, and what it says of its model."""
    subcommand, *options = _run("gpu-slim")
    options.remove("--rm")
    try:
        detached = ("--detach", "--name", NAME, "--publish", "127.0.0.1:8000:8000")
        _podman(subcommand, *detached, *options)
        model = _wait("/v1/models").json()["models"][0]
        answer = httpx.post(f"{URL}/v1/classify?top_k=1", content=IMAGE).raise_for_status().json()
        return str(answer["results"][0]["predictions"][0]["label"]), model
    finally:
        _podman("rm", "--force", NAME)


def _run(target: str, *options: str) -> tuple[str, ...]:
    """Arguments of podman that run an image as docker-compose.yml does, but for the GPU."""
    limits = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
    volume = ("--volume", f"{NAME}-cache:/cache")
    return ("run", "--rm", *limits, "--no-healthcheck", *volume, *options, f"{NAME}:{target}")


def _wait(path: str, seconds: float = 90.0) -> httpx.Response:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            response = httpx.get(URL + path)
            if response.is_success and httpx.get(URL + "/readyz").is_success:
                return response
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise TimeoutError(f"{path} did not answer within {seconds:.0f} s")


def _size(image: str) -> int:
    return int(_podman("image", "inspect", "--format", "{{.Size}}", image))


def _podman(*arguments: str) -> str:
    done = subprocess.run(["podman", *arguments], capture_output=True, text=True)
    return (done.stdout + done.stderr).strip()
