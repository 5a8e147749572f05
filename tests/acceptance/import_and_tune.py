"""Weights that people have, and tuning: `python -m tests.acceptance.import_and_tune [LINE…]`.

Needs the `cpu`, `openvino`, `train` and `dev` extras, `timm` with `torchvision`, and what `make_assets.py` of the
benchmark of other servers makes (`PEERS`, by default ~/.cache/serving-peers): a ResNet-50 in torchvision's layout, its
ONNX file, and photographs of scikit-image. Line 4 times: nothing else should run on the machine.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.artifact import parity
from models.artifact.parity import Float32Array
from models.runtime.onnxruntime import ort
from models.runtime.tuning import TuningProfile
from tests.acceptance.report import run
from tests.acceptance.server import serve
from tests.acceptance.weights.named_networks import logits, settle
from tests.support.networks import make_checkpoint

PEERS = Path(os.environ.get("PEERS", Path.home() / ".cache" / "serving-peers"))
WEIGHTS, REFERENCE = PEERS / "models" / "resnet50.safetensors", PEERS / "models" / "resnet50.onnx"
MEAN, STD = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
MOST_DIFFERENT = 1e-3
"""Largest difference of a log-probability, relative to their spread over the photographs."""

_KEPT: list[object] = []
"""Operators last as long as what has defined them."""

Case = tuple[Path, Sequence[str], Callable[[list[bytes]], Float32Array]]
"""A file of weights, options of `import`, and what gives the reference's logits for image files."""


def line_3() -> tuple[bool, str]:
    """Three layouts from import through build to an answer over HTTP; and what is refused."""
    _define_operators_of_torchvision()
    files = [path.read_bytes() for path in sorted((PEERS / "images" / "resnet50").glob("*.jpg"))]
    figures, wrong = [], []
    with TemporaryDirectory() as folder:
        for name, make in (("torchvision", _peers), ("transformers", _transformers), ("timm", _timm)):
            weights, options, reference = make(Path(folder) / name, files)
            served = _served(weights, options, Path(folder) / name, files)
            expected = torch.from_numpy(reference(files)).log_softmax(1).numpy()
            agreement = parity.compare(np.log(served), expected)
            figures.append(f"{name} {agreement.logit_error:.1e}")
            print(f"  {name}: {agreement} {len(set(expected.argmax(1).tolist()))} different classes", flush=True)
            if agreement.logit_error > MOST_DIFFERENT or agreement.top1_agreement < 1:
                wrong.append(name)
        wrong += _not_refused(Path(folder))
    return not wrong, (
        f"log-probabilities of {len(files)} photographs over HTTP against the references': {', '.join(figures)} of "
        f"their spread; 7 files refused; wrong: {wrong or 'none'}"
    )


def _served(weights: Path, options: Sequence[str], folder: Path, files: list[bytes]) -> Float32Array:
    """Probabilities [n, 1000] out of the service's JSON."""
    checkpoint, repository = folder / "checkpoint.safetensors", folder / "repository"
    for command in (
        ["import", str(weights), "--arch", "resnet50", "-o", str(checkpoint), *options],
        ["build", str(checkpoint), "--repository", str(repository), "--name", "imported"],
    ):
        print(_export(*command).stdout, end="", flush=True)
    with serve("--repository", str(repository), "--cache", str(folder / "cache")) as server:
        rows = []
        for file in files:
            headers = {"Content-Type": "image/jpeg"}
            answer = httpx.post(f"{server.url}/v1/classify?top_k=1000", content=file, headers=headers, timeout=60)
            row = np.empty(1000)
            for item in answer.raise_for_status().json()["results"][0]["predictions"]:
                row[item["index"]] = item["probability"]
            rows.append(row)
    return np.stack(rows)


def _export(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-m", "export", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done


def _peers(folder: Path, files: list[bytes]) -> Case:
    session = ort.InferenceSession(REFERENCE, providers=["CPUExecutionProvider"])

    def logits(files: list[bytes]) -> Float32Array:
        images = [_prepared(file, Image.Resampling.BILINEAR) for file in files]
        return np.concatenate([session.run(["logits"], {"input": image[None]})[0] for image in images])

    return WEIGHTS, (), logits


def _prepared(data: bytes, resample: Image.Resampling) -> Float32Array:
    """The evaluation transform of ImageNet, in Pillow's own operations: float32 [3, 224, 224]."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = (256 * side // min(image.size) for side in image.size)
    left, top = (width - 224) // 2, (height - 224) // 2
    image = image.resize((width, height), resample).crop((left, top, left + 224, top + 224))
    pixels: Float32Array = ((np.asarray(image) / 255 - MEAN) / STD).astype(np.float32)
    return pixels.transpose(2, 0, 1)


def _transformers(folder: Path, files: list[bytes]) -> Case:
    """A random network with the statistics of a trained one, and the library's own preprocessing."""
    from transformers import ResNetConfig, ResNetForImageClassification
    from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil

    processor = ConvNextImageProcessorPil(
        size={"shortest_edge": 224}, crop_pct=0.875, image_mean=MEAN.tolist(), image_std=STD.tolist()
    )
    torch.manual_seed(0)
    model = ResNetForImageClassification(ResNetConfig(num_labels=1000))

    def prepare(file: bytes) -> Tensor:
        image = Image.open(io.BytesIO(file)).convert("RGB")
        return torch.from_numpy(processor(image, return_tensors="np")["pixel_values"][0])

    forward: Callable[[Tensor], Tensor] = lambda images: model(images).logits  # noqa: E731
    settle(model, model.classifier[1], forward, torch.stack([prepare(file) for file in files]))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder / "model.safetensors", (), lambda files: logits(forward, [prepare(file) for file in files])


def _timm(folder: Path, files: list[bytes]) -> Case:
    """timm's own network, transform and configuration; of `a1_in1k`, whose crop is another than torchvision's."""
    timm = importlib.import_module("timm")
    torch.manual_seed(0)
    model = timm.create_model("resnet50.a1_in1k", pretrained=False)
    data = importlib.import_module("timm.data")
    transform = data.create_transform(**data.resolve_data_config(model=model))

    def prepare(file: bytes) -> Tensor:
        image: Tensor = transform(Image.open(io.BytesIO(file)).convert("RGB"))
        return image

    settle(model, model.fc, model, torch.stack([prepare(file) for file in files]))
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    importlib.import_module("timm.models._hub").save_config_for_hf(model, str(folder / "config.json"))
    return folder / "model.safetensors", (), lambda files: logits(model, [prepare(file) for file in files])


def _define_operators_of_torchvision() -> None:
    """timm needs torchvision, and a CPU-only torch cannot load its wheel's operators; for an import their names do."""
    if torch.version.cuda is not None:
        return
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("the reference needs timm and torchvision: pip install timm torchvision")
    text = (Path(found.origin).parent / "_meta_registrations.py").read_text()
    library: Any = torch.library
    operators = library.Library("torchvision", "DEF")
    _KEPT.append(operators)
    for name in sorted(set(re.findall(r'register_fake\("torchvision::(\w+)"', text))):
        operators.define(f"{name}() -> ()")


class _Payload:
    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self._mark}",)


def _not_refused(folder: Path) -> list[str]:
    """Files that `import` took, refused without the right reason, or ran the code of."""
    state, mark = load_file(WEIGHTS), folder / "ran"
    without = {key: value for key, value in state.items() if key != "layer3.2.bn2.running_var"}
    save_file(without, folder / "missing.safetensors")
    save_file({**state, "layer3.9.conv1.weight": torch.zeros(1)}, folder / "more.safetensors")
    torch.save({**state, "payload": _Payload(mark)}, folder / "code.pth")
    (folder / "code.pkl").write_bytes(pickle.dumps(_Payload(mark)))
    (folder / "labels.txt").write_text("cat\ndog\n")
    (folder / "text.pth").write_text("no weights")
    cases = [
        (("missing.safetensors", "resnet50"), "1 missing: layer3.2.bn2.running_var"),
        (("more.safetensors", "resnet50"), "1 left over: layer3.9.conv1.weight"),
        ((str(WEIGHTS), "resnet101"), "they are those of a resnet50: --arch resnet50"),
        (("code.pth", "resnet50"), "asks for posix.system"),
        (("code.pkl", "resnet50"), "holds more than tensors"),
        (("text.pth", "resnet50"), "is neither safetensors nor what torch.save writes"),
        ((str(WEIGHTS), "resnet50", "--labels", str(folder / "labels.txt")), "1000 classes, but there are 2 labels"),
    ]
    wrong = []
    for (file, arch, *options), reason in cases:
        command = [sys.executable, "-m", "export", "import", file, "--arch", arch, "-o", "out.safetensors", *options]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=_environment())
        print(f"  {done.stderr.strip()}", flush=True)
        one_line = done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
        if done.returncode != 2 or not one_line or reason not in done.stderr or (folder / "out.safetensors").exists():
            wrong.append(f"{file} as {arch}")
    if mark.exists():
        wrong.append("code in a pickle ran")
    return wrong


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def line_4() -> tuple[bool, str]:
    """Tune a ResNet-50, and start the service after it."""
    with TemporaryDirectory() as folder:
        base = Path(folder)
        make_checkpoint("resnet50", size=224, classes=1000).save(base / "checkpoint.safetensors")
        repository, cache = base / "repository", base / "cache"
        build = ["build", str(base / "checkpoint.safetensors"), "--repository", str(repository), "--name", "resnet50"]
        _export(*build, "--int8")
        return _tuned(repository, cache)


def _tuned(repository: Path, cache: Path) -> tuple[bool, str]:
    # The network is random: that its first class changes on some of 60 views is no loss of accuracy.
    options = ["--cache", str(cache), "--seconds", "150", "--max-accuracy-loss", "0.3"]
    command = [sys.executable, "-m", "service", "tune", str(repository / "resnet50"), *options]
    subprocess.run(command, check=True)
    (file,) = cache.glob("*/tuning.json")
    profile = TuningProfile.model_validate_json(file.read_bytes())
    best = profile.best()
    if best is None:
        return False, "nothing keeps within the bounds"
    ratio = profile.ratio(best) or 0.0
    with serve("--repository", str(repository), "--cache", str(cache)) as server:
        shown = httpx.get(f"{server.url}/v1/models/resnet50").json()
    used = (shown["executor"], shown["precision"], shown["threads"], shown["max_batch"])
    follows = used == (best.executor, best.precision, best.threads, best.batch)
    holds = best.precision == "int8" and ratio >= 3.5 and follows and shown["config"]["executor"] == "tuned"
    plotted = all(file.with_suffix(suffix).exists() for suffix in (".png", ".svg"))
    disturbed = sum(row.disturbed for row in profile.measurements)
    return holds and plotted, (
        f"{best.executor} {best.precision}, threads {best.threads}, batch {best.batch}: "
        f"{best.images_per_second:.1f}/s, {ratio:.2f} x (3.5); disturbed: {disturbed} of {len(profile.measurements)}; "
        f"the service uses {used}: {json.dumps(shown['chosen'])}"
    )


if __name__ == "__main__":
    run({3: line_3, 4: line_4})
