"""Line 4: the Compose profile `engines` and the image `gpu-slim`, without a GPU. Needs podman: see compose.py above."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from pathlib import Path

import httpx

from tests.acceptance.compose import BASE, PROJECT, URL, Compose

ROOT = Path(__file__).parents[3]
LIMIT_MEGABYTES = 700
IMAGE = (ROOT / "models" / "pretrained" / "examples" / "ankle-boot.png").read_bytes()
TARGETS = ("gpu-slim", "engines")
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
    """Build engines into the volume, then serve from it without a GPU."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "resnet-serve"
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        (clone / ".env").write_text("TARGET=gpu-slim\n")
        compose = Compose(clone)
        try:
            compose.run("--profile engines up --build engines")
            engines = _in_volume("engines", "find", "/cache", "-name", "*.engine").split()
            compose.run("up --build --detach cpu")
            model = _wait("/v1/models").json()["models"][0]
            answer = httpx.post(f"{URL}/v1/classify?top_k=1", content=IMAGE).raise_for_status().json()
            label = answer["results"][0]["predictions"][0]["label"]
            seen = _in_volume("gpu-slim", "find", "/cache", "-name", "*.engine").split()
        finally:
            compose.shell("docker compose --profile engines down --volumes >/dev/null 2>&1")
    added = {target: (_size(f"resnet-serve:{target}") - _size(BASE)) / 1e6 for target in TARGETS}
    present = json.loads(_podman("run", "--rm", "--entrypoint", "python", "resnet-serve:gpu-slim", "-c", _IMPORTS))
    holds = (
        added["gpu-slim"] < LIMIT_MEGABYTES
        and present == []
        and len(engines) == 2
        and seen == engines
        and (label, model["executor"], model["engine"]["state"]) == ("Ankle boot", "onnxruntime-cpu", "UNUSABLE")
    )
    names = ", ".join(Path(engine).name for engine in engines)
    return holds, (
        f"gpu-slim adds {added['gpu-slim']:.0f} MB (limit {LIMIT_MEGABYTES}), engines {added['engines']:.0f} MB; of "
        f"{', '.join(ABSENT)} gpu-slim has {present or 'none'}; built into the cache: {names}; without a GPU it serves "
        f"{label!r} by {model['executor']}: {model['engine']['reason']}; not run: a container on a GPU"
    )


def _in_volume(target: str, *command: str) -> str:
    """Output of a command in an image that has the cache of the services."""
    name, *arguments = command
    volume = ("--volume", f"{PROJECT}_cache:/cache:ro")
    return _podman("run", "--rm", *volume, "--entrypoint", name, f"resnet-serve:{target}", *arguments)


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
    # Errors beside the output are of health checks, which podman cannot run everywhere.
    return subprocess.run(["podman", *arguments], capture_output=True, text=True, check=True).stdout.strip()
