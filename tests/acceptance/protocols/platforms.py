"""Line 5: the compatibility routes answer as their platforms' documents say, by recorded requests.

A service of the shipped model with all platforms, in the environment that Vertex AI sets, gets the requests of
`tests/data/compat`. The expected classes come from `resnet-classify`, which runs no server. The shipped images have the
size of the model's input, so their pixels are also those of requests with pixels.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import httpx
import numpy as np
from PIL import Image

from service.core.settings import shipped_repository
from tests.acceptance.server import Server, free_port, serve, wait_until
from tests.support.exchanges import PLATFORMS, Expected, difference, read, request_of

MODEL = "fashion-mnist-resnet20"
ALL = ",".join(PLATFORMS)


def check() -> tuple[bool, str]:
    wrong, count = 0, 0
    with _platform_service() as server:
        for image in sorted(shipped_repository().with_name("examples").glob("*.png")):
            expected = _expected(image)
            for platform in PLATFORMS:
                for exchange in read(platform)[1]:
                    found = _exchange(server, exchange, expected)
                    print(f"{platform}, {image.name}: {exchange['document']}: {found or 'as recorded'}")
                    wrong += bool(found)
                    count += 1
    open_by_default = _open_by_default()
    print(f"routes that answer without --compat: {open_by_default or 'none'}")
    starts = _starts_as_platforms_start_it()
    print(f"`docker run IMAGE serve` with SAGEMAKER_BIND_TO_PORT: {'answers there' if starts else 'does not answer'}")
    holds = not wrong and not open_by_default and starts
    return holds, f"{count - wrong} of {count} recorded exchanges; off by default; started as SageMaker does"


def _exchange(server: Server, exchange: dict[str, object], expected: Expected) -> str:
    method, path, options = request_of(exchange, expected)
    return difference(exchange, httpx.request(method, server.url + path, **options), expected)


@contextmanager
def _platform_service() -> Iterator[Server]:
    with mock.patch.dict(os.environ, read("vertex")[0]), serve("--compat", ALL) as server:
        yield server


def _expected(image: Path) -> Expected:
    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "out.jsonl"
        command = [sys.executable, "-m", "service.cli.classify", str(image), "--top-k", "10", "--format", "jsonl"]
        subprocess.run([*command, "--output", str(output)], check=True, stdout=subprocess.DEVNULL)
        predictions: Sequence[dict[str, object]] = json.loads(output.read_text())["predictions"]
    content = image.read_bytes()
    with Image.open(io.BytesIO(content)) as opened:
        pixels = np.asarray(opened.convert("L"))[:, :, None]
    classes = [(str(each["label"]), int(str(each["index"])), float(str(each["probability"]))) for each in predictions]
    return Expected(MODEL, content, pixels.tolist(), classes)


def _open_by_default() -> list[str]:
    """Paths of platforms that a service without `--compat` answers."""
    with serve() as server:
        paths = {request_of(each, Expected(MODEL, b"", [], []))[:2] for name in PLATFORMS for each in read(name)[1]}
        return [path for method, path in sorted(paths) if httpx.request(method, server.url + path).status_code < 404]


def _starts_as_platforms_start_it() -> bool:
    """Whether `resnet-serve serve`, with the port in the environment, answers SageMaker's health check."""
    port = free_port()
    environment = {"SAGEMAKER_BIND_TO_PORT": str(port), "RESNET_SERVE_COMPAT": "sagemaker", "RESNET_SERVE_PORT": "8000"}
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "serve"], env=os.environ | environment, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(Server(process, f"http://127.0.0.1:{port}"), "/ping")
        return True
    except (TimeoutError, RuntimeError):
        return False
    finally:
        process.terminate()
        process.wait(30)
