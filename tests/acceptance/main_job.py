"""The main job: train, export, serve, classify a real image.

    python -m tests.acceptance.main_job [LINE ...]

Needs the `cpu`, `train` and `dev` extras, git, make, and Fashion-MNIST in FASHION_MNIST
(default: where Debian's package dataset-fashion-mnist puts it). Line 1 installs into a fresh clone and takes minutes.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from safetensors.torch import load_file

from export.formats import onnx as onnx_format
from export.fusion import onnxruntime
from export.graph import ServingGraph
from export.samples import photographs
from export.verify import OnnxRunner, check_parity
from models.architectures import VARIANTS
from models.artifact.parity import ParityError
from models.data import load
from models.training import checkpoint
from models.training.evaluate import evaluate, predict
from tests.acceptance.client import Answer, post_all
from tests.acceptance.report import run
from tests.acceptance.server import Server, free_port, serve, wait_until
from tests.support.networks import make_checkpoint

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
PRETRAINED = ROOT / "models" / "pretrained"
CHECKPOINT = PRETRAINED / "fashion-mnist-resnet20.safetensors"


def line_1() -> tuple[bool, str]:
    """Fresh clone, empty pip cache: `make serve` answers within two minutes, no torch; `make test` passes."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        environment = {**os.environ, "PIP_CACHE_DIR": str(Path(folder) / "cache")}
        environment.pop("VIRTUAL_ENV", None)
        port = free_port()
        started = time.monotonic()
        make = subprocess.Popen(["make", "serve", f"PORT={port}"], cwd=clone, env=environment, start_new_session=True)
        try:
            server = Server(make, f"http://127.0.0.1:{port}")
            wait_until(server, seconds=300)
            image = next((clone / "models" / "pretrained" / "examples").glob("*.png")).read_bytes()
            answer = httpx.post(f"{server.url}/v1/classify", content=image, headers={"Content-Type": "image/png"})
            seconds = time.monotonic() - started
        finally:
            os.killpg(make.pid, signal.SIGTERM)
            make.wait(30)
        torch = list(clone.glob(".venv/lib/*/site-packages/torch"))
        tests = subprocess.run(["make", "test"], cwd=clone, env=environment, capture_output=True, text=True)
        summary = next((line for line in reversed(tests.stdout.splitlines()) if "passed" in line), tests.stdout[-300:])
        holds = answer.is_success and seconds <= 120 and not torch and tests.returncode == 0
        return holds, (
            f"first answer after {seconds:.0f} s (at most 120), torch installed: {bool(torch)}, make test: {summary}"
        )


def line_2() -> tuple[bool, str]:
    """10,000 PNGs over HTTP from 32 connections: the accuracy of resnet-evaluate, no error, real batches."""
    data = load(DATA, "test")
    trained = checkpoint.load(CHECKPOINT)
    expected = round(evaluate(trained.model(), data, trained.preprocess).top1 * len(data.labels))
    files = [_png(pixels) for pixels in data.images(np.arange(len(data.labels)))]
    with serve() as server:
        started = time.monotonic()
        answers = asyncio.run(post_all(f"{server.url}/v1/classify?top_k=1", files, connections=32))
        seconds = time.monotonic() - started
        mean_batch = server.metric("resnet_batch_size_sum") / server.metric("resnet_batch_size_count")
    errors = sum(answer.status != 200 for answer in answers)
    correct = sum(
        answer.status == 200 and json.loads(answer.body)["results"][0]["predictions"][0]["index"] == label
        for answer, label in zip(answers, data.labels, strict=True)
    )
    holds = errors == 0 and abs(correct - expected) <= 5 and mean_batch > 4
    return holds, (
        f"{correct} of {len(files)} right over HTTP, {expected} by resnet-evaluate (within 5), {errors} errors, "
        f"mean batch {mean_batch:.1f} (over 4), {len(files) / seconds:.0f} requests/s"
    )


def line_3() -> tuple[bool, str]:
    """The shipped model has 94.5 %; a run that is killed in mid-epoch and resumed equals one that is not."""
    data = load(DATA, "test")
    trained = checkpoint.load(CHECKPOINT)
    top1 = evaluate(trained.model(), data, trained.preprocess).top1
    with tempfile.TemporaryDirectory() as folder:
        subset = Path(folder) / "subset"
        _write_subset(subset, 6_000)
        straight, broken = Path(folder) / "straight", Path(folder) / "broken"
        _train(subset, straight).wait()
        for sign in (signal.SIGKILL, signal.SIGINT):
            process = _train(subset, broken, *(["--resume"] if broken.exists() else []))
            _wait_for_epoch(broken, 1, process)
            time.sleep(1.0)  # some batches into the second epoch
            process.send_signal(sign)
            process.wait()
        interrupted = not _epochs(broken) >= 2
        resumed = _train(subset, broken, "--resume").wait()
        first, second = (load_file(path / "model.safetensors") for path in (straight, broken))
        equal = first.keys() == second.keys() and all(bool((first[key] == second[key]).all()) for key in first)
    holds = top1 >= 0.945 and interrupted and resumed == 0 and equal
    return holds, (
        f"top-1 {top1:.2%} (at least 94.50 %); killed, then stopped in epoch 2 and resumed: weights equal to the "
        f"uninterrupted run's, bit for bit: {equal}"
    )


def line_4() -> tuple[bool, str]:
    """Every architecture: logits within 1e-4 of their spread, every addition fused; mistakes are caught."""
    worst, unfused, wrong = 0.0, [], []
    names = [name for name in VARIANTS if "1202" not in name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        for name in names:
            made = make_checkpoint(name, size=128 if VARIANTS[name].reduces_early else 32)
            onnx_format.write(ServingGraph(made.model(), made.preprocess), made.preprocess, path)
            images = photographs(made.preprocess)
            expected = predict(made.model(), images, made.preprocess).numpy()
            try:
                error = check_parity(OnnxRunner(path), images, expected, "float32").logit_error
            except ParityError as failure:
                wrong.append(f"{name}: {failure}")
                continue
            report = onnxruntime.report(path)
            adds = 0 if name.startswith("plain") else sum(VARIANTS[name].depths)
            if (report.residual_adds, report.fused) != (adds, adds):
                unfused.append(f"{name}: {report.fused} of {report.residual_adds}, expected {adds}")
            print(f"  {name}: error {error:.1e}, {report.fused} of {report.residual_adds} fused", flush=True)
            worst = max(worst, error)
        caught = _mistakes_caught(path)
    holds = not unfused and not wrong and worst <= 1e-4 and caught == 2
    return holds, (
        f"{len(names)} architectures, largest error {worst:.1e} of the spread (at most 1e-4), "
        f"not as expected: {wrong + unfused or 'none'}; swapped channels and wrong mean caught: {caught} of 2"
    )


def _mistakes_caught(path: Path) -> int:
    made = make_checkpoint("resnet50", size=128)
    images = photographs(made.preprocess)
    expected = predict(made.model(), images, made.preprocess).numpy()
    caught = 0
    for preprocess, given in (
        (made.preprocess, images[..., ::-1].copy()),
        (made.preprocess.model_copy(update={"mean": (0.5, 0.5, 0.5)}), images),
    ):
        onnx_format.write(ServingGraph(made.model(), preprocess), preprocess, path)
        try:
            check_parity(OnnxRunner(path), given, expected, "float32")
        except ParityError:
            caught += 1
    return caught


def line_5() -> tuple[bool, str]:
    """Fifty requests in flight at SIGTERM are answered, and the process ends with 0."""
    image = _example_files()[0].read_bytes()
    with serve("--executor", "simulated:1000", "--max-batch", "8") as server:

        async def fifty() -> list[Answer]:
            sending = asyncio.create_task(post_all(f"{server.url}/v1/classify", [image] * 50, connections=50))
            while await asyncio.to_thread(server.metric, "resnet_requests_in_flight") < 50:
                await asyncio.sleep(0.01)
            server.process.send_signal(signal.SIGTERM)
            return await sending

        answers = asyncio.run(fifty())
        code = server.process.wait(30)
    answered = sum(answer.status == 200 for answer in answers)
    return answered == 50 and code == 0, f"{answered} of 50 answered with 200, exit code {code}"


def line_6() -> tuple[bool, str]:
    """Three shipped images give the answers of the README."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    given = {}
    with serve() as server:
        for path in _example_files():
            headers = {"Content-Type": "image/png"}
            answer = httpx.post(f"{server.url}/v1/classify?top_k=1", content=path.read_bytes(), headers=headers).json()
            best = answer["results"][0]["predictions"][0]
            given[path.name] = f"{best['label']} {best['probability']:.2%}"
    documented = {
        name: f"{label} {probability}"
        for name, label, probability in re.findall(r"│ \S*?([\w-]+\.png)\s*│ (\S[^│]*?)\s*│\s*([\d.]+%) │", readme)
    }
    return len(given) == 3 and documented == given, f"answered {given}, README says {documented}"


def _png(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0]).save(buffer, "PNG")
    return buffer.getvalue()


def _example_files() -> list[Path]:
    return sorted((PRETRAINED / "examples").glob("*.png"))


def _write_subset(folder: Path, count: int) -> None:
    """The first training images, and all test images, as IDX files."""
    folder.mkdir()
    data = load(DATA, "train")
    images, labels = data.images(np.arange(count)), data.labels[:count].astype(np.uint8)
    for name, array in (("images-idx3", images[..., 0]), ("labels-idx1", labels)):
        header = bytes((0, 0, 8, array.ndim)) + b"".join(size.to_bytes(4, "big") for size in array.shape)
        (folder / f"train-{name}-ubyte").write_bytes(header + array.tobytes())
        source = DATA / f"t10k-{name}-ubyte.gz"
        shutil.copy(source, folder / source.name)


def _train(data: Path, out: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "models", "train", "--arch", "resnet20", "--data", str(data), "--out", str(out)]
    return subprocess.Popen([*command, "--epochs", "2", "--erasing", "0.25", *options], stderr=subprocess.DEVNULL)


def _epochs(out: Path) -> int:
    path = out / "metrics.jsonl"
    return len([json.loads(line) for line in path.read_text().splitlines()]) if path.exists() else 0


def _wait_for_epoch(out: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    while not (_epochs(out) >= count and (out / "state.safetensors").exists()):
        if process.poll() is not None:
            raise RuntimeError(f"training ended with {process.returncode}")
        time.sleep(0.05)


if __name__ == "__main__":
    run({1: line_1, 2: line_2, 3: line_3, 4: line_4, 5: line_5, 6: line_6})
