"""Line 3: the agreement that a shadow shows equals that computed offline on the same images."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import shutil
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
import onnxruntime
from PIL import Image

from models.artifact.traffic import TrafficPolicy, change_traffic
from service.core.settings import shipped_repository
from tests.acceptance.client import post_all
from tests.acceptance.faults.case import Failed
from tests.acceptance.faults.served import serve
from tests.acceptance.rollouts.versions import copy_versions
from tests.acceptance.workers.served import check_each
from tests.support.worker_processes import wait_until

NAME = "fashion-mnist-resnet20"
TEST_IMAGES = Path("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz")
IMAGES = 2_000
SWAPPED = ("Pullover", "Coat")


def check() -> tuple[bool, str]:
    """Two classes whose labels are swapped, and int8 against float32; with one process and with workers."""
    cases = {"two labels swapped": _swap_labels, "int8 against float32": _put_int8}
    return check_each(
        *(partial(_compare, name, change, workers) for workers in (1, 2) for name, change in cases.items())
    )


def _swap_labels(version: Path) -> None:
    described = _manifest(version)
    swap = dict(zip(SWAPPED, reversed(SWAPPED), strict=True))
    _write_manifest(version, {**described, "labels": [swap.get(label, label) for label in described["labels"]]})


def _put_int8(version: Path) -> None:
    """Have the int8 file in the place of the float32 one, with its own golden outputs."""
    shutil.copyfile(version / "model.int8.onnx", version / "model.onnx")
    with np.load(version / "golden.npz") as file:
        golden = dict(file)
    np.savez(version / "golden.npz", **{**golden, "logits": _compute(version, golden["images"])[0]})
    described = _manifest(version)
    for artifact in described["artifacts"]:
        if artifact["file"] == "model.onnx":
            artifact["sha256"] = sha256((version / "model.onnx").read_bytes()).hexdigest()
    described["golden_sha256"] = sha256((version / "golden.npz").read_bytes()).hexdigest()
    _write_manifest(version, described)


def _manifest(version: Path) -> Any:
    return json.loads((version / "manifest.json").read_text())


def _write_manifest(version: Path, described: Any) -> None:
    (version / "manifest.json").write_text(json.dumps(described))


def _compute(version: Path, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits and probabilities [n, classes] of a version's file, with ONNX Runtime alone."""
    session = onnxruntime.InferenceSession(version / "model.onnx")
    logits, probabilities = session.run(["logits", "probabilities"], {"images": images})
    return np.asarray(logits), np.asarray(probabilities)


def _compare(name: str, change: Callable[[Path], None], workers: int) -> str:
    with gzip.open(TEST_IMAGES) as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28, 1)
    images = images[np.random.default_rng().choice(len(images), IMAGES, replace=False)]
    with TemporaryDirectory(prefix="rollouts-") as folder:
        repository, traffic = Path(folder) / "repository", Path(folder) / "traffic.toml"
        first, second = copy_versions(shipped_repository() / NAME / "1", repository, 2)
        change(second)
        change_traffic(traffic, NAME, TrafficPolicy(weights={1: 1.0}, shadow={2: 1.0}))
        options = ("--repository", str(repository), "--traffic", str(traffic), "--workers", str(workers))
        with serve(*options) as service:
            found = _measure(service.url, [_png(image) for image in images])
        agrees, distances = _offline(first, second, images)
    agreement, distance = found["agreement"]["agreement"], found["agreement"]["distance"]
    text = (
        f"{name}, {workers} workers: {found['agreement']['agreed']} of {found['agreement']['images']} agree "
        f"({agreement['low']:.4f} to {agreement['high']:.4f}; offline {agrees.sum()} of {len(agrees)}), distance "
        f"{distance['value']:.5f} ({distance['low']:.5f} to {distance['high']:.5f}; offline {distances.mean():.5f})"
    )
    counted = (found["agreement"]["images"], found["dropped"], found["failed"]) == (IMAGES, 0, 0)
    within = agreement["low"] <= agrees.mean() <= agreement["high"]
    if not (counted and within and distance["low"] <= distances.mean() <= distance["high"]):
        raise Failed(text)
    return text


def _offline(first: Path, second: Path, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per image, whether both versions have the same best label, and the distance of their probabilities."""
    probabilities = []
    for version in (first, second):
        labels = _manifest(version)["labels"]
        values = _compute(version, images)[1].astype(np.float64)
        probabilities.append(values[:, np.argsort(labels)])
    one, two = probabilities
    return one.argmax(1) == two.argmax(1), np.abs(one - two).sum(1) / 2


def _measure(url: str, files: list[bytes]) -> Any:
    """Classify files, and wait until the shadow has computed all of them."""
    answers = asyncio.run(post_all(f"{url}/v1/models/{NAME}/classify", files, 8))
    if {answer.status for answer in answers} != {200}:
        raise Failed("an image was not classified")
    shadow: Any = None

    def is_complete() -> bool:
        nonlocal shadow
        (shadow,) = httpx.get(f"{url}/v1/models/{NAME}/rollout", timeout=30.0).json()["shadows"]
        return bool(shadow["waiting"] == 0)

    wait_until(is_complete, "the shadow has computed all images")
    return shadow


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0]).save(buffer, "PNG")
    return buffer.getvalue()
