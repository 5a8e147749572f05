"""Checkpoints for other libraries: equal to the weights that were imported, or refused with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import ResNetConfig, ResNetForImageClassification
from typer.testing import CliRunner

from export.__main__ import app
from export.errors import BuildError
from export.importing import LAYOUTS, ImportOverrides, import_weights
from export.writing import write
from models.architectures import build
from models.artifact.manifest import Architecture
from models.imaging.preprocess import Preprocess
from models.training.checkpoint import Checkpoint

LABELS = ("cat", "rocket", "coffee")
IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CROPPED = Preprocess(size=(224, 224), resize=235, interpolation="bicubic", **IMAGENET)
GEOMETRIES = [
    *(
        Preprocess(size=(size, size), resize=resize, **IMAGENET)
        for size, resize in ((176, 185), (288, 303), (384, 400))
    ),
    Preprocess(size=(224, 224), interpolation="lanczos", **IMAGENET),
]


def check_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name


def made(arch: str, preprocess: Preprocess = CROPPED, channels: int = 3, **options: Any) -> Checkpoint:
    """A checkpoint without values."""
    with torch.device("meta"):
        weights = build(arch, 3, channels, **options).state_dict()
    architecture = Architecture(name=arch, num_classes=3, in_channels=channels, options=options)
    return Checkpoint(architecture, LABELS, preprocess, weights)


@pytest.mark.parametrize(
    ("arch", "layout", "output", "dtype", "counters"),
    [
        ("resnet18", "torchvision", "out.pth", torch.float32, False),
        ("resnet18", "torchvision", "out.safetensors", torch.bfloat16, True),
        ("resnet10t", "timm", "out", torch.float16, True),
    ],
)
def test_imported_weights_are_written_as_they_were(
    arch: str, layout: str, output: str, dtype: torch.dtype, counters: bool, tmp_path: Path
) -> None:
    """With their type, and without the counters that old files lack."""
    state = {
        LAYOUTS[layout].rename(key): value.to(dtype) if value.is_floating_point() else value + 7
        for key, value in build(arch, 3).state_dict().items()
        if counters or not key.endswith("num_batches_tracked")
    }
    save_file(state, tmp_path / "weights.safetensors")
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    overrides = ImportOverrides(layout, tmp_path / "labels.txt")
    import_weights(tmp_path / "weights.safetensors", arch, overrides).checkpoint.save(tmp_path / "own.safetensors")
    arguments = ["checkpoint", f"{tmp_path}/own.safetensors", "--layout", layout, "-o", f"{tmp_path}/{output}"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    path = tmp_path / output
    if path.suffix == ".pth":
        check_equal(torch.load(path, weights_only=True), state)
    else:
        check_equal(load_file(path / "model.safetensors" if path.is_dir() else path), state)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "first"), [("basic", False), ("bottleneck", True)])
def test_transformers_loads_what_is_written(kind: str, first: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = [64, 128, 256, 512] if kind == "basic" else [256, 512, 1024, 2048]
    depths = [2, 2, 2, 2] if kind == "basic" else [3, 4, 6, 3]
    config = ResNetConfig(
        hidden_sizes=sizes, depths=depths, layer_type=kind, downsample_in_bottleneck=first,
        id2label=dict(enumerate(LABELS)), label2id={label: index for index, label in enumerate(LABELS)},
    )  # fmt: skip
    reference = ResNetForImageClassification(config).eval()
    reference.save_pretrained(tmp_path / "given")
    arch = "resnet50-v1" if first else "resnet18"
    imported = import_weights(tmp_path / "given" / "model.safetensors", arch)
    write(imported.checkpoint, "transformers", tmp_path / "written")
    loaded, report = ResNetForImageClassification.from_pretrained(tmp_path / "written", output_loading_info=True)
    assert not any(report.values())
    check_equal(loaded.state_dict(), reference.state_dict())
    assert loaded.config.id2label == dict(enumerate(LABELS))
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded.eval()(images).logits, reference(images).logits)


@pytest.mark.parametrize("preprocess", [CROPPED, *GEOMETRIES], ids=str)
@pytest.mark.parametrize("layout", ["timm", "transformers"])
def test_preprocessing_is_read_again(layout: str, preprocess: Preprocess, tmp_path: Path) -> None:
    checkpoint = made("resnet18", preprocess)
    weights = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in checkpoint.weights.items()}
    write(Checkpoint(checkpoint.architecture, LABELS, preprocess, weights), layout, tmp_path / "out")
    imported = import_weights(tmp_path / "out" / "model.safetensors", "resnet18")
    assert (imported.layout, imported.checkpoint.labels) == (layout, LABELS)
    crop_of_transformers = {"odd_margins": "down"} if layout == "transformers" and preprocess.resize else {}
    assert imported.checkpoint.preprocess == preprocess.model_copy(update=crop_of_transformers)


@pytest.mark.parametrize(
    ("checkpoint", "layout", "reason"),
    [
        (made("preact-resnet20"), "timm", "its blocks have another order"),
        (made("linear-join-resnet18"), "torchvision", "its blocks have another order"),
        (made("plain18"), "timm", "its shortcuts are of option none"),
        (made("resnet20"), "timm", "its shortcuts are of option A"),
        (made("resnet20", shortcut="B"), "timm", "its stem has no stride"),
        (made("resnet18", norm="none"), "torchvision", "it has no normalisation"),
        (made("resnet18", shortcut="D"), "timm", "its shortcuts are of option D"),
        (made("resnet18d"), "torchvision", "its stem has three convolutions"),
        (made("resnet18", channels=1), "torchvision", "it takes grey images"),
        (made("resnet50-v1"), "torchvision", "its stride is in the first convolution"),
        (made("resnet10t"), "transformers", "its stem has three convolutions"),
        (made("resnext50_32x4d"), "transformers", "its 3x3 convolutions are wide or have groups"),
    ],
    ids=lambda value: value.architecture.name if isinstance(value, Checkpoint) else None,
)
def test_other_networks_are_refused(checkpoint: Checkpoint, layout: str, reason: str, tmp_path: Path) -> None:
    name = checkpoint.architecture.name
    with pytest.raises(BuildError, match=f"^{layout} has no network that computes {name}: {reason}"):
        write(checkpoint, layout, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("layout", "output", "reason"),
    [
        ("keras", "out", "no layout is named 'keras'; there are: torchvision, timm, transformers"),
        ("timm", "full", "already exists and is not empty"),
        ("torchvision", "out.onnx", r"a file of weights ends in \.safetensors"),
    ],
)
def test_unusable_outputs_are_refused(layout: str, output: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "config.json").write_text("{}")
    with pytest.raises(BuildError, match=reason):
        write(made("resnet18"), layout, tmp_path / output)
