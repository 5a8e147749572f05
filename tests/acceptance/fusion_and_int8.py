"""Fusion and int8, line by line: `python -m tests.acceptance.fusion_and_int8 [LINE…]`.

Needs Debian's `dataset-fashion-mnist`, the `cpu`, `openvino`, `train` and `dev` extras and `tensorrt-rtx-cu13`. Line 3
times: nothing else should run on the machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import httpx
import numpy as np

from benchmarks import engines
from export import fusion
from export.build import build
from export.verify import verify_version
from models.artifact import manifest
from models.artifact.manifest import ManifestError, Precision
from models.artifact.parity import ParityError
from models.data import Subset, load
from service import executors
from service.executors.base import Source, compute
from tests.acceptance.report import run
from tests.acceptance.server import serve
from tests.support.networks import make_checkpoint

ROOT = Path(__file__).parents[2]
PRETRAINED = ROOT / "models" / "pretrained"
SHIPPED = PRETRAINED / "repository" / "fashion-mnist-resnet20" / "1"
CHECKPOINT = PRETRAINED / "fashion-mnist-resnet20.safetensors"
DATA = Path("/usr/share/datasets/fashion-mnist")

SIZES = {"resnet18": 224, "resnet50": 224, "resnet152": 224, "resnet20": 32, "resnet56": 32}


@cache
def _exported(arch: str) -> Path:
    """A version of a network in every precision."""
    folder = Path(mkdtemp(prefix="fusion-"))
    classes = 1000 if SIZES[arch] == 224 else 10
    make_checkpoint(arch, size=SIZES[arch], classes=classes).save(folder / "checkpoint.safetensors")
    return build(folder / "checkpoint.safetensors", folder / "repository", arch, float16=True, int8=True)


def line_1() -> tuple[bool, str]:
    """Every architecture in every precision, and every addition fused where the runtime can."""
    wrong = [name for name in ("openvino", "tensorrt_rtx") if not _installed(name)]
    for arch in SIZES:
        for artifact in manifest.read(_exported(arch)).artifacts:
            assert artifact.parity is not None
            print(f"  {arch} {artifact.file}: logit rms error {artifact.parity.logit_rms_error:.1e}", end="")
            for runtime, report in artifact.fusion.items():
                expected = fusion.RUNTIMES[runtime].fuses[artifact.format, artifact.precision]
                print(f"; {runtime} {report.fused} of {report.residual_adds}", end="")
                if (report.fused == report.residual_adds) != expected:
                    wrong.append(f"{arch} {artifact.file} {runtime}")
            print(flush=True)
        kinds = {(artifact.format, artifact.precision) for artifact in manifest.read(_exported(arch)).artifacts}
        wanted = {("onnx", "float32"), ("onnx", "float16"), ("onnx", "int8"), ("onnx-onnxruntime", "int8")}
        wrong += [f"{arch} {kind}" for kind in wanted - kinds]
    return not wrong, f"{len(SIZES)} networks in 4 artifacts each; missing or not as expected: {wrong or 'none'}"


def line_2() -> tuple[bool, str]:
    """Top-1 of the shipped model over the test images that no choice was made on, by the executors that serve."""
    whole = load(DATA, "test")
    test = Subset(whole, np.arange(1, len(whole.labels), 2))
    kinds: list[tuple[str, Precision]] = [
        ("onnxruntime-cpu", "float32"),
        ("onnxruntime-cpu", "int8"),
        ("openvino", "int8"),
    ]
    top1 = {kind: _top1(*kind, test.images(np.arange(len(test.labels))), test.labels) for kind in kinds}
    losses = {name: top1[kinds[0]] - top1[name, "int8"] for name in ("onnxruntime-cpu", "openvino")}
    figures = ", ".join(f"{name} {precision} {100 * value:.2f} %" for (name, precision), value in top1.items())
    return max(losses.values()) <= 0.002, f"{figures} of {len(test.labels)} images"


def _top1(name: str, precision: Precision, images: np.typing.NDArray[np.uint8], labels: object) -> float:
    described, runtime = manifest.read(SHIPPED), executors.find(name)
    executor = runtime.make(Source(SHIPPED, described, runtime.select_artifact(described, precision), precision, 2))
    found = []
    for first in range(0, len(images), 50):
        found.append(compute(executor, images[first : first + 50], frozenset({"logits"}))["logits"].argmax(1))
    executor.close()
    return float((np.concatenate(found) == labels).mean())


def line_3() -> tuple[bool, str]:
    """The best int8 engine against ONNX Runtime in float32."""
    rows = list(engines.measure(_exported("resnet50"), (1, 8), 2))
    for row in rows:
        print(f"  batch {row.batch}: {row.engine} {row.images_per_second:.1f}/s, {row.ratio:.2f} x", flush=True)
    best = {batch: max(r.ratio for r in rows if r.batch == batch and "int8" in r.engine) for batch in (1, 8)}
    return best[1] >= 3.0 and best[8] >= 3.5, f"batch 1: {best[1]:.2f} x (3.0), batch 8: {best[8]:.2f} x (3.5)"


def line_4() -> tuple[bool, str]:
    """Any damaged or interrupted file gives a typed error and no half-written version; the old version is served."""
    wrong: list[str] = []
    with TemporaryDirectory() as folder:
        base = Path(folder)
        for title, spoil in _damages():
            version = Path(shutil.copytree(SHIPPED, base / title / SHIPPED.parent.name / "1"))
            spoil(version)
            try:
                verify_version(version)
                wrong.append(f"{title}: not found")
            except (ManifestError, ParityError) as error:
                print(f"  {title}: {error}", flush=True)
                if "\n" in str(error):
                    wrong.append(f"{title}: more than one line")
        repository = base / "repository"
        shutil.copytree(SHIPPED.parent, repository / SHIPPED.parent.name)
        with serve("--repository", str(repository)) as server:
            wrong += _interrupted_builds(repository)
            # A service in float32 reads no other graphs.
            damages = [item for item in _damages() if "fp16" not in item[0] and "int8" not in item[0]]
            for number, (title, spoil) in enumerate(damages, 2):
                _add_version(repository, number, spoil)
                if not _refused(server.url, number):
                    wrong.append(f"{title}: served")
                if not _answers_with(server.url, "1"):
                    wrong.append(f"{title}: version 1 is gone")
    return not wrong, f"{len(list(_damages()))} damages, 3 builds that broke off; wrong: {wrong or 'none'}"


def _damages() -> list[tuple[str, Callable[[Path], object]]]:
    def flip(name: str) -> Callable[[Path], object]:
        def spoil(version: Path) -> None:
            data = bytearray((version / name).read_bytes())
            data[len(data) // 2] ^= 1
            (version / name).write_bytes(data)

        return spoil

    def change(version: Path) -> None:
        described = json.loads((version / "manifest.json").read_text())
        (version / "manifest.json").write_text(json.dumps({**described, "labels": described["labels"][:-1]}))

    def truncate(version: Path) -> None:
        path = version / "model.onnx"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        # Even if the manifest holds the hash of the damaged file.
        described = json.loads((version / "manifest.json").read_text())
        described["artifacts"][0]["sha256"] = manifest.sha256(path)
        (version / "manifest.json").write_text(json.dumps(described))

    files = ("model.onnx", "golden.npz", "classifier.npz", "model.fp16.onnx", "model.int8-ort.onnx", "model.int8.onnx")
    return [
        *((f"a bit flipped in {name}", flip(name)) for name in files),
        ("a wrong number of labels", change),
        ("a truncated ONNX file", truncate),
    ]


def _add_version(repository: Path, number: int, spoil: Callable[[Path], object]) -> None:
    model = repository / SHIPPED.parent.name
    staging = Path(shutil.copytree(SHIPPED, model / ".staging"))
    described = json.loads((staging / "manifest.json").read_text())
    (staging / "manifest.json").write_text(json.dumps({**described, "version": number}))
    spoil(staging)
    staging.rename(model / str(number))


def _refused(url: str, number: int) -> bool:
    """Whether the service says that it does not serve a version, and why."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        models = httpx.get(f"{url}/readyz?verbose").json()["models"]
        for version in (version for model in models for version in model["versions"]):
            if version["version"] == str(number) and version["state"] == "UNAVAILABLE" and version["reason"]:
                return True
            if version["version"] == str(number) and version["state"] == "READY":
                return False
        time.sleep(0.05)
    return False


def _answers_with(url: str, version: str) -> bool:
    image = (PRETRAINED / "examples" / "trouser.png").read_bytes()
    answer = httpx.post(f"{url}/v1/classify", content=image, headers={"Content-Type": "image/png"})
    return answer.status_code == 200 and answer.json()["version"] == version


def _interrupted_builds(repository: Path) -> list[str]:
    """A full disk, a file too large, and a process that is killed while it writes."""
    wrong = []
    model = repository / SHIPPED.parent.name
    command = [sys.executable, "-m", "export", "build", str(CHECKPOINT), "--name", model.name, "--int8", "--float16"]
    # Each file of the version is smaller than the limit but one: the write fails with "File too large".
    limited = subprocess.run(
        [*command, "--repository", str(repository)],
        capture_output=True, text=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500_000,) * 2),
    )  # fmt: skip
    wrong += _check_failed("a file too large", limited, model)
    with TemporaryDirectory() as folder:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", folder], capture_output=True)
        if mounted.returncode:
            wrong.append("a full disk: could not mount a small file system")
        else:
            full = subprocess.run([*command, "--repository", folder], capture_output=True, text=True)
            wrong += _check_failed("a full disk", full, Path(folder) / model.name)
            subprocess.run(["umount", folder], check=True)
    killed = subprocess.Popen([*command, "--repository", str(repository)], stderr=subprocess.DEVNULL)
    while not list(model.glob(".partial-*/model.fp16.onnx")):
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    if [path.name for path in model.iterdir() if not path.name.startswith(".")] != ["1"]:
        wrong.append("a killed build left a version")
    build(CHECKPOINT, repository, "other")
    build(CHECKPOINT, repository, model.name)
    if list(model.glob(".partial-*")):
        wrong.append("what a killed build left is not removed by the next")
    shutil.rmtree(model / "2")
    shutil.rmtree(repository / "other")
    return wrong


def _check_failed(title: str, done: subprocess.CompletedProcess[str], model: Path) -> list[str]:
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    print(f"  {title}: {errors}", flush=True)
    left = sorted(path.name for path in model.iterdir()) if model.exists() else []
    good = done.returncode == 2 and len(errors) == 1 and left in ([], ["1"]) and "Traceback" not in done.stderr
    return [] if good else [f"{title}: exit code {done.returncode}, {errors}, left {left}"]


def line_5() -> tuple[bool, str]:
    """The same checkpoint exported from two checkouts in two folders."""
    hashes = []
    with TemporaryDirectory() as folder:
        for name in ("first", "another/deeper"):
            checkout = Path(folder) / name
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(checkout)], check=True)
            command = [sys.executable, "-m", "export", "build", str(CHECKPOINT), "--name", "m", "--repository", "out"]
            subprocess.run(
                [*command, "--data", str(DATA), "--float16", "--int8"],
                cwd=checkout, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(checkout)},
            )  # fmt: skip
            files = sorted((checkout / "out" / "m" / "1").glob("*.onnx"))
            hashes.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files})
    same = [name for name, value in hashes[0].items() if hashes[1].get(name) == value]
    return len(same) == len(hashes[0]) == 4, f"byte-identical: {', '.join(same)}"


def line_6() -> tuple[bool, str]:
    """The shipped model, and the packages that serving needs."""
    described = manifest.read(SHIPPED)
    int8 = {a.file: a.accuracy.top1 for a in described.artifacts if a.precision == "int8" and a.accuracy is not None}
    parities = verify_version(SHIPPED)
    with TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), folder], check=True)
        process = subprocess.Popen(["make", "serve", "PORT=8765"], cwd=folder, start_new_session=True)
        try:
            end = time.monotonic() + 300
            while time.monotonic() < end:
                try:
                    if httpx.get("http://127.0.0.1:8765/readyz").is_success:
                        break
                except httpx.TransportError:
                    time.sleep(0.1)
            answers = _answers_with("http://127.0.0.1:8765", "1")
            packages = subprocess.run([f"{folder}/.venv/bin/pip", "list"], capture_output=True, text=True).stdout
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)
    absent = [name for name in ("torch", "openvino", "onnx ") if f"\n{name}" not in packages]
    holds = len(int8) == 2 and answers and len(absent) == 3 and len(parities) == 4
    return holds, f"{int8}; `make serve` answers without torch, openvino, onnx: {answers and len(absent) == 3}"


def _installed(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None


if __name__ == "__main__":
    run({1: line_1, 2: line_2, 3: line_3, 4: line_4, 5: line_5, 6: line_6})
