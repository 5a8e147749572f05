"""Cases 18, 19, 20 and 23: wrong probabilities, other classes, files of `torch.onnx.export`, checkpoints of tools."""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from PIL import Image

from export.errors import BuildError, ForeignWeights
from export.importing import ImportOverrides, import_weights, torchvision
from export.wrapping import OnnxOptions, import_onnx
from models.architectures import build as build_architecture
from models.artifact import manifest
from models.artifact.manifest import Manifest
from models.artifact.parity import ParityError
from models.imaging.preprocess import UInt8Array
from models.training.checkpoint import Checkpoint
from tests.acceptance.faults.case import check, expect
from tests.support.networks import make_checkpoint
from tests.support.onnx_classifiers import CLASSES, PROBABILITIES, REFUSED, classifier

ROOT = Path(__file__).parents[3]
IMAGES = 120

State = dict[str, torch.Tensor]


def run(module: str, *arguments: object, cwd: Path = ROOT) -> tuple[int, str]:
    """Exit code and output of a command; a traceback fails the case."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)], capture_output=True, text=True, cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "COLUMNS": "200", "TERM": "dumb"},
    )  # fmt: skip
    output = done.stdout + done.stderr
    expect("Traceback" not in output, f"{module} {arguments[0]} ends in a traceback:\n{output[-2000:]}")
    return done.returncode, output


def write_pictures(folder: Path, names: list[str], labels: list[int], pictures: UInt8Array) -> Path:
    """Pictures as PNG files in `folder/test/NAME`, without loss."""
    for number, (label, picture) in enumerate(zip(labels, pictures, strict=True)):
        target = folder / "test" / names[label] / f"{number:03}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(target)
    return folder


def crops(count: int, size: int) -> UInt8Array:
    """Cuts of the shipped photographs, uint8 [count, size, size, 3]."""
    rng = np.random.default_rng(0)
    files = sorted((ROOT / "export" / "photographs").glob("*.jpg"))
    found = []
    for index in range(count):
        photograph = Image.open(files[index % len(files)]).convert("RGB").resize((4 * size, 4 * size))
        left, top = (int(value) for value in rng.integers(0, 3 * size, 2))
        found.append(np.asarray(photograph.crop((left, top, left + size, top + size))))
    return np.stack(found)


def network(*labels: str) -> Checkpoint:
    """A network for 32 x 32 pixels, which are taken as they are."""
    made = make_checkpoint("tiny", classes=len(labels))
    return Checkpoint(made.architecture, labels, made.preprocess.model_copy(update={"resize": None}), made.weights)


def logits_of(checkpoint: Checkpoint, pictures: UInt8Array) -> torch.Tensor:
    """Logits [n, classes], with the normalisation written out."""
    mean, std = torch.tensor(checkpoint.preprocess.mean), torch.tensor(checkpoint.preprocess.std)
    inputs = (torch.from_numpy(pictures).float() / 255 - mean) / std
    with torch.inference_mode():
        return checkpoint.model()(inputs.permute(0, 3, 1, 2))  # type: ignore[no-any-return]


def built(folder: Path, checkpoint: Checkpoint, data: Path, *options: object) -> tuple[Manifest, str]:
    """The manifest of a version that `build` writes, and what it prints."""
    checkpoint.save(folder / "checkpoint.safetensors")
    code, output = run(
        "export", "build", folder / "checkpoint.safetensors", "--repository", folder / "repository", "--name", "m",
        "--data", data, *options,
    )  # fmt: skip
    expect(code == 0, f"build --data ends with {code}: {output}")
    newest = max((folder / "repository" / "m").iterdir(), key=lambda path: int(path.name))
    return manifest.read(newest), output


@check(18, "temperature: no sharpening without errors")
def temperature(folder: Path) -> str:
    """All images are right, then one in five is wrong: the temperature against a grid of likelihoods."""
    names = [f"class {index}" for index in range(4)]
    checkpoint = network(*names)
    pictures = crops(IMAGES, 32)
    logits = logits_of(checkpoint, pictures)
    right = logits.argmax(1)
    described, output = built(folder, checkpoint, write_pictures(folder / "right", names, right.tolist(), pictures))
    expect(described.temperature == 1, f"all images are right, and the temperature is {described.temperature}")
    expect("temperature   1, not 0.05: only 0 of " in output, f"build does not say why: {output}")
    code, shown = run("export", "inspect", folder / "repository")
    expect(code == 0 and "only 0 of " in shown, f"inspect does not say why: {shown}")

    wrong = torch.where(torch.arange(IMAGES) % 5 == 0, (right + 1) % 4, right)
    data = write_pictures(folder / "wrong", names, wrong.tolist(), pictures)
    described, _ = built(folder, checkpoint, data)
    # The folder lists the images by class; every second one is for choices.
    order = [number for label in range(4) for number in range(IMAGES) if wrong[number] == label]
    chosen, kept = torch.tensor(order[::2]), torch.tensor(order[1::2])
    grid = torch.exp(torch.linspace(-3, 3, 2001))
    losses = [torch.nn.functional.cross_entropy(logits[chosen] / value, wrong[chosen]).item() for value in grid]
    best = float(grid[int(np.argmin(losses))])
    expect(abs(described.temperature / best - 1) < 0.02, f"temperature {described.temperature}, the grid's is {best}")
    accuracy, fit = described.artifacts[0].accuracy, described.temperature_fit
    expected = float((logits[kept].argmax(1) == wrong[kept]).float().mean())
    expect(accuracy is not None and fit is not None, "the manifest records no accuracy or no images of the choice")
    assert accuracy is not None
    assert fit is not None
    apart = accuracy.images + fit.images == IMAGES and abs(accuracy.top1 - expected) < 1e-6
    expect(apart, f"top-1 {accuracy.top1} of {accuracy.images} images, not {expected} of those without a choice")
    return f"1 without errors; {described.temperature:.3f} with {fit.errors} (grid {best:.3f}), top-1 on the other half"


@check(18, "the shipped model: choices and accuracy on different images")
def shipped(folder: Path) -> str:
    """The record of the shipped model, and that the README shows its figures."""
    version = ROOT / "models" / "pretrained" / "repository" / "fashion-mnist-resnet20" / "1"
    described = manifest.read(version)
    fit, readme = described.temperature_fit, (ROOT / "README.md").read_text(encoding="utf-8")
    expect(fit is not None, "the manifest does not record the images of the choice")
    assert fit is not None
    figures = []
    for artifact in described.artifacts:
        accuracy = artifact.accuracy
        assert accuracy is not None
        apart = "training" in fit.source or accuracy.images <= 5000
        expect(apart, f"{artifact.file}: chosen on {fit.source}, accuracy on {accuracy.images} images")
        shown = f"{accuracy.top1:.2%}"
        expect(any(artifact.file in line and shown in line for line in readme.splitlines()), f"README lacks {shown}")
        figures.append(f"{artifact.precision} {shown}")
    code, output = run("export", "verify", version)
    expect(code == 0, f"verify ends with {code}: {output}")
    return f"{', '.join(figures)}; {fit.images} {fit.source}"


@check(19, "classes of another folder")
def other_classes(folder: Path) -> str:
    """Classes in another order, with other spelling, or other ones; by `resnet-evaluate` and `build --data`."""
    checkpoint = network("T-shirt/top", "Ankle boot", "bag", "coat")
    checkpoint.save(folder / "checkpoint.safetensors")
    pictures = crops(40, 32)
    right = logits_of(checkpoint, pictures).argmax(1).tolist()
    spelled = write_pictures(folder / "spelled", ["t-shirt_top", "ankle-boot", "Bag", "Coat"], right, pictures)
    code, output = run("models", "evaluate", folder / "checkpoint.safetensors", "--data", spelled)
    expect(code == 0 and "top-1 1.0000" in output, f"classes are not matched by name: {code}, {output}")
    described, _ = built(folder, checkpoint, spelled)
    accuracy = described.artifacts[0].accuracy
    expect(accuracy is not None and accuracy.top1 == 1, f"build does not match classes by name: {accuracy}")

    others = write_pictures(folder / "others", ["cat", "dog", "bird", "bag"], right, pictures)
    commands = (
        ("models", "evaluate", folder / "checkpoint.safetensors", "--data", others),
        ("export", "build", folder / "checkpoint.safetensors", "--repository", folder / "no", "--name", "m",
         "--data", others),
    )  # fmt: skip
    for command in commands:
        code, output = run(*map(str, command))
        named = all(f"'{name}'" in output for name in ("cat", "dog", "bird")) and output.count("\n") == 1
        expect(code == 2 and named, f"{command[1]} with other classes: exit code {code}: {output}")
    code, output = run("models", "evaluate", folder / "checkpoint.safetensors", "--data", others, "--by-position")
    expect(code == 0 and "top-1" in output, f"--by-position: exit code {code}: {output}")
    return "matched by name; unknown names are listed, exit code 2"


@check(18, "an ONNX file's probabilities: never a second softmax")
def onnx_probabilities(folder: Path) -> str:
    """Each graph with nodes behind the softmax, served by ONNX Runtime, against the file's own output."""
    (folder / "labels.txt").write_text("".join(f"class {index}\n" for index in range(CLASSES)))
    pictures = crops(12, 32)
    worst = 0.0
    for end in ("softmax", "pool", *PROBABILITIES):
        onnx.save(classifier(end), folder / "model.onnx")
        version = imported(folder, end)
        expected = file_probabilities(end, pictures)
        session = ort.InferenceSession(version / "model.onnx", providers=["CPUExecutionProvider"])
        found = session.run(["probabilities"], {"images": pictures})[0]
        error = float(np.abs(found - expected).max())
        expect(error <= 0.02, f"{end}: probabilities differ by {error:.3f}")
        worst = max(worst, error)
    for end, reason in REFUSED.items():
        onnx.save(classifier(end), folder / "model.onnx")
        code, output = run_import(folder, end)
        expect(code == 2 and output.count("\n") == 1, f"{end}: exit code {code}: {output}")
        expect(reason in output, f"{end}: refused without a reason: {output}")
    return f"{2 + len(PROBABILITIES)} graphs, largest difference {worst:.4f}; {len(REFUSED)} refused in one line"


@check(20, "files of torch.onnx.export for one image")
def exported_by_torch(folder: Path) -> str:
    """Both exporters with their defaults, several ways to flatten: batches are computed, or the reason is one line."""
    (folder / "labels.txt").write_text("".join(f"class {index}\n" for index in range(CLASSES)))
    pictures = crops(7, 32)
    done = []
    for dynamo in (True, False):
        for way in ("flatten", "view", "reshape", "squeeze"):
            torch.manual_seed(0)
            net = Net(way).eval()
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.onnx.export(net, (torch.zeros(1, 3, 32, 32),), folder / "model.onnx", dynamo=dynamo)
            name = f"{'new' if dynamo else 'old'}-{way}"
            if way == "squeeze":
                code, output = run_import(folder, name)
                one_line = code == 2 and output.count("\n") == 1 and "computes batches of 1 only" in output
                expect(one_line, f"{name}: exit code {code}: {output}")
                continue
            session = ort.InferenceSession(imported(folder, name) / "model.onnx", providers=["CPUExecutionProvider"])
            found = session.run(["logits"], {"images": pictures})[0]
            with torch.inference_mode():
                expected = net(torch.from_numpy(normalised(pictures))).numpy()
            expect(np.abs(found - expected).max() < 1e-3, f"{name}: other logits than the network")
            done.append(name)
    return f"{', '.join(done)} compute batches; squeeze() of the batch is refused in one line"


@check(20, "damaged and unusual ONNX files: no traceback")
def damaged_onnx(folder: Path) -> str:
    """Bytes changed at random in a good file, and fields removed: an error of one line, or a version."""
    rng = np.random.default_rng(0)
    labels = folder / "labels.txt"
    labels.write_text("".join(f"class {index}\n" for index in range(CLASSES)))
    refused = 0
    for number in range(150):
        data = bytearray(classifier("softmax cast" if number % 2 else "pool").SerializeToString())
        for _ in range(int(rng.integers(1, 6))):
            data[int(rng.integers(0, len(data)))] = int(rng.integers(0, 256))
        if number % 3 == 0:
            del data[int(rng.integers(0, len(data))) :]
        (folder / "model.onnx").write_bytes(data)
        try:
            import_onnx(folder / "model.onnx", folder / "repository", "m", OnnxOptions(labels, {"size": (32, 32)}))
        except (ForeignWeights, BuildError, ParityError) as error:
            expect("\n" not in str(error), f"an error of several lines: {error}")
            refused += 1
    return f"150 files, {refused} of them refused in one line each, the others written"


@check(23, "checkpoints as tools write them")
def checkpoints(folder: Path) -> str:
    """Every order of three wrappers, in every container, against the logits of the network."""
    torch.manual_seed(0)
    right, wrong = trained_resnet(), trained_resnet()
    (folder / "labels.txt").write_text("".join(f"class {index}\n" for index in range(CLASSES)))
    (folder / "config.json").write_text(json.dumps({"architecture": "their_net", "optimizer": "sgd", "id2label": 3}))
    images = torch.from_numpy(normalised(crops(4, 64)))
    with torch.inference_mode():
        expected = right(images)
    state, other = torchvision_names(right), torchvision_names(wrong)
    options = {"hyper_parameters": {"net": argparse.Namespace(lr=0.1), "path": Path("x")}, "epoch": 3}
    containers: dict[str, Callable[[State], object]] = {
        "plain": lambda weights: weights,
        "net": lambda weights: {"net": weights, "acc": 91.0},
        "weights": lambda weights: {"weights": weights},
        "lightning": lambda weights: {"state_dict": weights, **options},
        "nested": lambda weights: {"checkpoint": {"model": weights}, "optimizer": {"state": {0: torch.ones(3)}}},
        "ema_model": lambda weights: {"model": other, "ema_model": weights},
        "state_dict_ema": lambda weights: {"state_dict_ema": weights, "state_dict": other},
        "model_ema": lambda weights: {"model": other, "model_ema": {"n_averaged": torch.tensor(3), **weights}},
    }
    done = 0
    for container, put in containers.items():
        for parts in [(), *itertools.permutations(("_orig_mod", "module", "model")), ("net",), ("ema", "module")]:
            prefix = "".join(f"{part}." for part in parts)
            wrapped = {prefix + name: value for name, value in state.items()}
            loss = {"criterion.weight": torch.ones(CLASSES)} if "model" in parts or "net" in parts else {}
            torch.save(put({**wrapped, **loss}), folder / "weights.ckpt")
            found = import_weights(folder / "weights.ckpt", "resnet18", ImportOverrides(labels=folder / "labels.txt"))
            with torch.inference_mode():
                error = float((found.checkpoint.model()(images) - expected).abs().max())
            expect(error < 1e-3, f"{container} with {prefix!r}: logits differ by {error:.1e}")
            done += 1
    code, output = run(
        "export", "import", folder / "weights.ckpt", "--arch", "resnet18", "--labels", folder / "labels.txt",
        "-o", folder / "out.safetensors",
    )  # fmt: skip
    named = "model_ema.ema (a moving average) in weights.ckpt" in output
    expect(code == 0 and named, f"import ends with {code}: {output}")
    return f"{done} checkpoints give the network's logits; {lfs_pointers(folder)}"


def lfs_pointers(folder: Path) -> str:
    """Each command that takes a file names a pointer of Git LFS in one line."""
    pointer = folder / "pointer.safetensors"
    pointer.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 102540417\n")
    commands = (
        ("export", "import", pointer, "--arch", "resnet18", "-o", folder / "x"),
        ("export", "import", pointer, "--onnx", "--repository", folder / "r", "--name", "m"),
        ("export", "build", pointer, "--repository", folder / "r", "--name", "m"),
        ("models", "evaluate", pointer, "--data", folder),
    )
    for command in commands:
        code, output = run(*map(str, command))
        named = code == 2 and "pointer of Git LFS" in output and output.count("\n") == 1
        expect(named, f"{command[1]} of a pointer: exit code {code}: {output}")
    return f"a pointer of Git LFS is named by {len(commands)} commands"


def trained_resnet() -> torch.nn.Module:
    """A ResNet-18 whose statistics are not the initial ones."""
    model = build_architecture("resnet18", CLASSES)
    with torch.no_grad():
        model.train()(torch.randn(4, 3, 64, 64))
    return model.eval()


def torchvision_names(model: torch.nn.Module) -> State:
    """A state dict by torchvision's names."""
    return {torchvision.rename(key): value.clone() for key, value in model.state_dict().items()}


class Net(torch.nn.Module):
    """A convolution, global pooling and a linear layer, with a way to drop the spatial dimensions."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.conv, self.way = torch.nn.Conv2d(3, 8, 3, 2, 1), way
        self.norm, self.fc = torch.nn.BatchNorm2d(8), torch.nn.Linear(8, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pooled = torch.nn.functional.adaptive_avg_pool2d(self.norm(self.conv(images)).relu(), 1)
        ways = {
            "flatten": lambda: torch.flatten(pooled, 1),
            "view": lambda: pooled.view(pooled.size(0), -1),
            "reshape": lambda: pooled.reshape(-1, 8),
            "squeeze": lambda: pooled.squeeze().unsqueeze(0),
        }
        return self.fc(ways[self.way]())  # type: ignore[no-any-return]


def normalised(pictures: UInt8Array) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """ImageNet's normalisation, float32 [n, 3, H, W]."""
    mean, std = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
    return np.asarray(((pictures / 255 - mean) / std).transpose(0, 3, 1, 2), np.float32)


def file_probabilities(end: str, pictures: UInt8Array) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Probabilities that the file itself gives, scaled to a sum of 1."""
    session = ort.InferenceSession(classifier(end).SerializeToString(), providers=["CPUExecutionProvider"])
    given = normalised(pictures).astype(np.float16 if end == "half input" else np.float32)
    values = session.run(["y"], {"x": given})[0].astype(np.float64)
    if end in ("pool", "log softmax"):
        values = np.exp(values - values.max(1, keepdims=True))
    return np.asarray(values / values.sum(1, keepdims=True))


def run_import(folder: Path, name: str) -> tuple[int, str]:
    """`resnet-export import --onnx` of `model.onnx`."""
    return run(
        "export", "import", folder / "model.onnx", "--onnx", "--labels", folder / "labels.txt", "--repository",
        folder / "repository", "--name", name.replace(" ", "-"), "--size", 32, "--resize", 0,
    )  # fmt: skip


def imported(folder: Path, name: str) -> Path:
    """The version that the import writes."""
    code, output = run_import(folder, name)
    expect(code == 0, f"{name}: exit code {code}: {output}")
    return folder / "repository" / name.replace(" ", "-") / "1"
