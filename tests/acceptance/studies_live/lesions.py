"""Line 2: ResNet-56 and plain-56 without one block, three seeds; and blocks deleted from the network that is served.

The trained networks are those of `resnet-study degradation`, plain56-seed0.safetensors, residual56-seed0.safetensors
and so on, in the folder STUDIES_CHECKPOINTS (runs/studies/pieces by default). Where they are not, the figures are those
that `resnet-study lesion` wrote to docs/studies/lesion.json. FASHION_MNIST is the folder of the data set.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from models.studies import deletion, lesion
from models.training import checkpoint
from models.training.checkpoint import Checkpoint
from models.training.device import best_device
from models.training.evaluate import predict
from tests.support.lesions import scaled
from tests.support.networks import make_checkpoint
from tests.support.process import running

ROOT = Path(__file__).parents[3]
CHECKPOINTS = Path(os.environ.get("STUDIES_CHECKPOINTS", ROOT / "runs" / "studies" / "pieces"))
DATA = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
SEED = int(os.environ.get("STUDIES_LIVE_SEED", "31"))
SEEDS = 3
RESULT = ROOT / "docs" / "studies" / "lesion.json"
IMAGES = 1_000
CHANCE = 0.10
MOST_FALL = 0.10
NEAR_CHANCE = 0.10
"""Accuracy above that of guessing."""
SERVED = {"resnet56": 1, "preact-resnet20": 3}
"""Channels by architecture."""
REQUESTS = 12
TOLERANCE = 1e-4


def check() -> tuple[bool, str]:
    """Measure the networks without each block, and compare the served ones with PyTorch."""
    served, difference = _check_served()
    trained, figure = _check_trained()
    return trained and served, f"{figure}; served answers differ from PyTorch's by at most {difference:.1e}"


def _check_trained() -> tuple[bool, str]:
    """Judge the accuracy without one block: measured where the trained networks are, else as committed."""
    paths = {
        family: [CHECKPOINTS / f"{family}56-seed{seed}.safetensors" for seed in range(SEEDS)]
        for family in lesion.FAMILIES
    }
    trained = all(path.is_file() for files in paths.values() for path in files)
    found, source = (_measure(paths), "measured") if trained else (_committed(), "the committed study")
    if any(len(seeds) < SEEDS for seeds in found.values()):
        return False, f"{source} has fewer than {SEEDS} networks of 56 layers of each family"
    falls = [whole - kept for whole, kept in found["residual"]]
    left = [kept for _, kept in found["plain"]]
    fall, rest = float(np.mean(falls)), float(np.mean(left))
    figure = (
        f"{source}: without one block ResNet-56 falls by {100 * fall:.1f} points ({100 * min(falls):.1f} to "
        f"{100 * max(falls):.1f}), and plain-56 to {rest:.1%} ({min(left):.1%} to {max(left):.1%}; chance {CHANCE:.0%})"
    )
    return fall < MOST_FALL and rest < CHANCE + NEAR_CHANCE, figure


def _measure(paths: dict[str, list[Path]]) -> dict[str, list[tuple[float, float]]]:
    """The accuracy with all blocks, and the mean without one, of each network by its family."""
    found: dict[str, list[tuple[float, float]]] = {}
    for family, files in paths.items():
        for seed, path in enumerate(files):
            loaded = checkpoint.load(path)
            model = loaded.model().eval().to(best_device())
            images = lesion.images_for(loaded, DATA, IMAGES)
            whole, each = deletion.accuracy(model, images), deletion.without_each(model, images)
            kept = np.array([each[place] for place in deletion.fixed_shape(model)], float)
            print(
                f"  {family}-56 seed {seed}: {whole:.1%}; without one block {kept.mean():.1%} "
                f"({kept.min():.1%} to {kept.max():.1%})",
                flush=True,
            )
            found.setdefault(family, []).append((whole, float(kept.mean())))
    return found


def _committed() -> dict[str, list[tuple[float, float]]]:
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    if result["settings"]["layers"] != 56:
        return {family: [] for family in lesion.FAMILIES}
    found: dict[str, list[tuple[float, float]]] = {}
    for family in lesion.FAMILIES:
        numbers = result["numbers"][family]
        for whole, without in zip(numbers["whole"], numbers["without_each"], strict=True):
            kept = [without[place] for place in numbers["fixed_shape"]]
            found.setdefault(family, []).append((whole, float(np.mean(kept))))
    return found


def _check_served() -> tuple[bool, float]:
    """Compare random lesions of random images, in one process and with two workers."""
    rng, worst = np.random.default_rng(SEED), 0.0
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "repository"
        networks = {}
        for arch, channels in SERVED.items():
            networks[arch] = make_checkpoint(arch, channels=channels, seed=SEED)
            networks[arch].save(Path(folder) / "checkpoint.safetensors")
            command = [sys.executable, "-m", "export", "build", f"{folder}/checkpoint.safetensors", "--lesions"]
            # TensorRT for RTX, if it is installed, leaves two additions of the pre-activation network unfused.
            options = ["--repository", str(repository), "--name", arch, "--allow-unfused"]
            subprocess.run([*command, *options], cwd=ROOT, check=True, capture_output=True)
        for workers in (1, 2):
            with running("--repository", repository, "--workers", workers) as server:
                for request in range(REQUESTS):
                    arch = list(SERVED)[request % len(SERVED)]
                    error = _compare(server.url, arch, networks[arch], rng)
                    worst = max(worst, error)
            print(f"  {workers} workers: {REQUESTS} answers, the largest difference up to here {worst:.1e}", flush=True)
    return worst <= TOLERANCE, worst


def _compare(url: str, arch: str, trained: Checkpoint, rng: np.random.Generator) -> float:
    """The largest difference of a probability, with all blocks and without random ones."""
    blocks = sum(1 for stage in trained.model().stages for _ in stage.children())
    deleted = rng.choice(blocks, rng.integers(1, 1 + blocks // 2), replace=False)
    shape = (*rng.integers(20, 200, 2), 3)
    image = Image.fromarray(rng.integers(0, 256, shape, np.uint8)).convert(trained.preprocess.mode)
    file = io.BytesIO()
    image.save(file, "PNG")
    query = {"deleted": ",".join(str(place + 1) for place in deleted), "top_k": str(len(trained.labels))}
    response = httpx.post(f"{url}/v1/models/{arch}/lesion", content=file.getvalue(), params=query, timeout=60)
    response.raise_for_status()
    answer = response.json()
    gates = np.ones(blocks, np.float32)
    gates[deleted] = 0
    assert [block["gate"] for block in answer["blocks"]] == gates.tolist()
    pixels = trained.preprocess.apply(image)[None].copy()
    worst = 0.0
    for field, factors in (("whole", np.ones_like(gates)), ("predictions", gates)):
        expected = predict(scaled(trained, factors), pixels, trained.preprocess).softmax(1)[0].numpy()
        actual = {each["index"]: each["probability"] for each in answer[field]}
        worst = max(worst, *(abs(actual[index] - value) for index, value in enumerate(expected)))
    return worst
