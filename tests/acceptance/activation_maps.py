"""Measures what must be true of activation maps and the page: `python -m tests.acceptance.activation_maps [LINE…]`."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles

import httpx
import numpy as np
import onnx
import torch
from PIL import Image

from export.build import build
from models.runtime.onnxruntime import ort
from models.training.evaluate import normalise
from tests.acceptance.report import run
from tests.acceptance.screenshots import DOCS, SIZES
from tests.acceptance.server import serve
from tests.support.networks import make_checkpoint
from tests.support.tiny import cut

ROOT = Path(__file__).parents[2]
PHOTOGRAPHS = sorted((ROOT / "export" / "photographs").glob("*.jpg"))
_MAPS_MS = 3.0
_REPEATS = 60


def line_1() -> tuple[bool, str]:
    """Maps and embeddings of several networks over HTTP against PyTorch, and sums of maps against logits."""
    worst = {"maps": 0.0, "embeddings": 0.0, "sum and bias to logit": 0.0}
    names = ("resnet50", "resnet18", "preact-resnet20", "linear-join-resnet20", "tiny")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            made = make_checkpoint(name, classes=20)
            made.save(Path(folder) / "checkpoint.safetensors")
            build(Path(folder) / "checkpoint.safetensors", Path(folder) / "repository", name, allow_unfused=True)
            model = made.model()
            weight, bias = model.classifier.weight.detach(), model.classifier.bias.detach().numpy()
            with serve("--repository", str(Path(folder) / "repository")) as server:
                for path in PHOTOGRAPHS:
                    data = path.read_bytes()
                    pixels = torch.from_numpy(cut(data).copy())[None].permute(0, 3, 1, 2)
                    with torch.inference_mode():
                        features = model.features(normalise(pixels, made.preprocess))
                        logits = model(normalise(pixels, made.preprocess))[0].numpy()
                        maps = torch.einsum("ck,kyx->cyx", weight, features[0]).numpy() / features[0, 0].numel()
                    answer = httpx.post(f"{server.url}/v1/classify?cam=true&embedding=true&top_k=20", content=data)
                    (result,) = answer.json()["results"]
                    embedding = features.mean((2, 3))[0].numpy()
                    worst["embeddings"] = max(worst["embeddings"], np.abs(result["embedding"] - embedding).max())
                    for item in result["predictions"]:
                        values, index = np.array(item["cam"]), item["index"]
                        worst["maps"] = max(worst["maps"], np.abs(values - maps[index]).max())
                        error = abs(values.sum() + bias[index] - logits[index])
                        worst["sum and bias to logit"] = max(worst["sum and bias to logit"], error)
    figures = ", ".join(f"{name} {error:.1e}" for name, error in worst.items())
    return max(worst.values()) <= 1e-4, f"largest differences (at most 1e-4) of {', '.join(names)}: {figures}"


def line_2() -> tuple[bool, str]:
    """A ResNet-50 at 224: what unread outputs cost the graph, and what maps add to a request."""
    with tempfile.TemporaryDirectory() as folder:
        made = make_checkpoint("resnet50", size=224, classes=1000)
        made.save(Path(folder) / "checkpoint.safetensors")
        version = build(Path(folder) / "checkpoint.safetensors", Path(folder) / "repository", "resnet50")
        bare = Path(folder) / "bare.onnx"
        onnx.utils.extract_model(version / "model.onnx", bare, ["images"], ["probabilities"])
        unread = _milliseconds(
            {name: _forward(path) for name, path in (("all", version / "model.onnx"), ("bare", bare))}
        )
        data = PHOTOGRAPHS[1].read_bytes()
        # Noise of the network and of other requests stays out: one request after the other, the kinds in turn.
        kinds = {"": "neither", "embedding=true": "embedding", "cam=true": "values", "cam=overlay": "overlay"}
        with (
            serve("--repository", str(Path(folder) / "repository"), "--max-batch", "1") as server,
            httpx.Client() as client,
        ):
            url = f"{server.url}/v1/classify?top_k=5&"

            def send(query: str) -> Callable[[], object]:
                return lambda: client.post(url + query, content=data).raise_for_status()

            cost = _milliseconds({kind: send(query) for query, kind in kinds.items()})
            picture = _milliseconds({"picture": send("cam=picture")}, repeats=5)["picture"]
    added = {kind: cost[kind] - cost["neither"] for kind in ("embedding", "values", "overlay")}
    more = unread["all"] / unread["bare"] - 1
    holds = added["values"] < _MAPS_MS and added["overlay"] < _MAPS_MS and more < 0.01
    figures = ", ".join(f"{kind} {value:+.2f} ms" for kind, value in added.items())
    return holds, (
        f"graph with outputs that are not read against one without them: {unread['all']:.2f} and {unread['bare']:.2f} "
        f"ms, {more:+.2%} (under 1 %); a request takes {cost['neither']:.1f} ms, at top_k = 5 {figures} "
        f"(maps under {_MAPS_MS:.0f}), pictures {picture - cost['neither']:+.0f} ms"
    )


def _forward(path: Path) -> Callable[[], object]:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    return lambda: session.run(["probabilities"], {"images": images})


def _milliseconds(calls: dict[str, Callable[[], object]], repeats: int = _REPEATS) -> dict[str, float]:
    """Milliseconds of each call, all in turn: the lower quartile, which other work on the machine disturbs less."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    return {name: 1000 * quantiles(values, n=4)[0] for name, values in seconds.items()}


def line_3() -> tuple[bool, str]:
    """The page in Chromium; the tests say what is done there."""
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/e2e/test_browser.py"], cwd=ROOT, capture_output=True, text=True
    )
    summary = tests.stdout.strip().splitlines()[-1]
    in_ci = "chromium" in (ROOT / ".ci" / "run").read_text()
    holds = tests.returncode == 0 and "passed" in summary and "skipped" not in summary and in_ci
    return holds, f"{summary}; .ci/run installs Chromium: {in_ci}"


def line_4() -> tuple[bool, str]:
    """The screenshots are there, of the right size, and shown."""
    pages = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/architecture.md")]
    found = []
    for size, (width, _, scale) in SIZES.items():
        for scheme in ("light", "dark"):
            path = DOCS / f"page-{size}-{scheme}.png"
            with Image.open(path) as image:
                found.append(image.width == width * scale)
    shown = {name for page in pages for name in re.findall(r"page-\w+-\w+\.png", page)}
    holds = all(found) and len(found) == len(shown) == 4
    return holds, f"{len(found)} screenshots, shown: {sorted(shown)}"


if __name__ == "__main__":
    run({1: line_1, 2: line_2, 3: line_3, 4: line_4})
