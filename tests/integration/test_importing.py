"""Weights in the layouts of other libraries give the same logits; unsupported files are refused with a reason."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetForImageClassification
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from typer.testing import CliRunner

from export.__main__ import app
from export.errors import ForeignWeights
from export.importing import LAYOUTS, Imported, ImportOverrides, import_weights, labels
from models.imaging.preprocess import Preprocess
from models.training import checkpoint
from tests.support.marks import slow_except

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Bottleneck(nn.Module):
    """torchvision's, with its names."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        if stride != 1 or inputs != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        shortcut = self.downsample(x) if hasattr(self, "downsample") else x
        return F.relu(self.bn3(self.conv3(y)) + shortcut)


class ResNet50(nn.Module):
    """The `resnet50` of torchvision and timm, written out here with their names."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for stage, depth in enumerate((3, 4, 6, 3), start=1):
            blocks = []
            for index in range(depth):
                width = 32 * 2**stage
                blocks.append(Bottleneck(inputs, width, 2 if stage > 1 and index == 0 else 1))
                inputs = 4 * width
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(2048, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


def trained(model: nn.Module) -> nn.Module:
    """With statistics that are not the initial ones."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.1)
    with torch.no_grad():
        model.train()(torch.randn(4, 3, 64, 64))
    return model.eval()


@pytest.fixture(scope="session")
def resnet50() -> ResNet50:
    torch.manual_seed(0)
    model = trained(ResNet50(3))
    assert isinstance(model, ResNet50)
    return model


@pytest.fixture(scope="session")
def hugging() -> ResNetForImageClassification:
    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", num_labels=3
    )
    return trained(ResNetForImageClassification(config))


@pytest.fixture
def names(tmp_path: Path) -> Path:
    (tmp_path / "labels.txt").write_text("cat\nrocket\ncoffee\n", encoding="utf-8-sig")
    return tmp_path / "labels.txt"


def check_logits(imported: Imported, reference: Callable[[Tensor], Tensor]) -> None:
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(imported.checkpoint.model()(images), reference(images), rtol=1e-4, atol=1e-4)


def write_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(values))


@pytest.mark.slow
@pytest.mark.parametrize(
    "suffix", slow_except(".pth", [".safetensors", ".pth", ".wrapped.pth", ".legacy.pth", ".parallel.safetensors"])
)
def test_torchvision_weights_give_the_same_logits(suffix: str, resnet50: ResNet50, names: Path, tmp_path: Path) -> None:
    path, state = tmp_path / f"weights{suffix}", resnet50.state_dict()
    if suffix == ".parallel.safetensors":
        state = {f"module.{key}": value for key, value in state.items()}
    if suffix.endswith(".safetensors"):
        save_file(state, path)
    else:
        content = {"state_dict": state, "epoch": 3} if "wrapped" in suffix else state
        torch.save(content, path, _use_new_zipfile_serialization="legacy" not in suffix)
    imported = import_weights(path, "resnet50", ImportOverrides(labels=names))
    assert imported.layout == "torchvision"
    assert imported.checkpoint.labels == ("cat", "rocket", "coffee")
    check_logits(imported, resnet50)


@pytest.mark.slow
def test_transformers_names_are_mapped(hugging: ResNetForImageClassification, tmp_path: Path) -> None:
    hugging.config.id2label = {0: "cat", 1: "rocket", 2: "coffee"}
    hugging.save_pretrained(tmp_path)
    write_json(tmp_path / "preprocessor_config.json", size={"shortest_edge": 288}, crop_pct=0.9, resample=2)
    imported = import_weights(tmp_path / "model.safetensors", "resnet18")
    assert imported.layout == "transformers"
    assert imported.checkpoint.labels == ("cat", "rocket", "coffee")
    prepared = imported.checkpoint.preprocess
    assert (prepared.size, prepared.resize, prepared.interpolation) == ((288, 288), 320, "bilinear")
    check_logits(imported, lambda images: hugging(images).logits)


@pytest.mark.slow
def test_imported_checkpoint_can_be_exported(resnet50: ResNet50, names: Path, tmp_path: Path) -> None:
    """By the command, and with what says where it is from."""
    save_file(resnet50.state_dict(), tmp_path / "weights.safetensors")
    arguments = ["import", f"{tmp_path}/weights.safetensors", "--arch", "resnet50", "--labels", str(names)]
    arguments += ["-o", f"{tmp_path}/out.safetensors", "--size", "160", "--mean", "0.5,0.5,0.5"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    written = checkpoint.load(tmp_path / "out.safetensors")
    assert written.architecture.name == "resnet50"
    assert written.training["imported"]["layout"] == "torchvision"
    prepared = written.preprocess
    assert (prepared.size, prepared.resize, prepared.mean, prepared.std) == ((160, 160), 183, (0.5,) * 3, IMAGENET[1])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            {"crop_pct": 0.95, "input_size": [3, 224, 224], "interpolation": "bicubic", "crop_mode": "center"},
            ((224, 224), 235, "bicubic", *IMAGENET),
        ),
        (
            {"crop_pct": 0.875, "input_size": [3, 256, 256], "interpolation": "bilinear",
             "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
            ((256, 256), 292, "bilinear", (0.5,) * 3, (0.25,) * 3),
        ),
    ],
)  # fmt: skip
def test_preprocessing_of_timm_is_read(
    config: dict[str, Any], expected: tuple[object, ...], resnet50: ResNet50, names: Path, tmp_path: Path
) -> None:
    """timm resizes to floor(size / crop_pct)."""
    save_file(resnet50.state_dict(), tmp_path / "model.safetensors")
    write_json(tmp_path / "config.json", architecture="resnet50", pretrained_cfg=config)
    imported = import_weights(tmp_path / "model.safetensors", "resnet50", ImportOverrides(labels=names))
    prepared = imported.checkpoint.preprocess
    assert imported.layout == "timm"
    assert (prepared.size, prepared.resize, prepared.interpolation, prepared.mean, prepared.std) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [
        "not JSON",
        "[1, 2]",
        '{"lr": 0.1, "model": "resnet50"}',
        '{"architecture": "vit_base_patch16_224", "pretrained_cfg": {"input_size": [3, 384, 384]}}',
        '{"architecture": "resnet18", "pretrained_cfg": {"label_names": ["a"]}}',
        '{"model_type": "vit", "hidden_act": "gelu", "id2label": {"a": "b"}}',
    ],
)
def test_config_of_another_project_is_ignored(content: str, resnet50: ResNet50, names: Path, tmp_path: Path) -> None:
    save_file(resnet50.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(content)
    imported = import_weights(tmp_path / "model.safetensors", "resnet50", ImportOverrides(labels=names))
    assert (imported.layout, imported.checkpoint.preprocess.resize) == ("torchvision", 256)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer2.3.conv2.weight": None}, r"1 missing: layer2\.3\.conv2\.weight"),
        (
            {"fc.bias": None, "layer9.0.conv1.weight": torch.zeros(1), "extra": torch.zeros(1)},
            r"1 missing: fc\.bias; 2 left over: extra, layer9\.0\.conv1\.weight",
        ),
        (
            {"layer1.0.conv2.weight": torch.zeros(128, 128, 3, 3)},
            r"1 of another shape: layer1\.0\.conv2\.weight \[128, 128, 3, 3\], not \[64, 64, 3, 3\]",
        ),
        ({"layer1.0.se.fc1.weight": torch.zeros(1)}, "this network has squeeze-and-excitation, .* --onnx"),
    ],
)
def test_mismatched_tensors_are_named(
    change: dict[str, Tensor | None], message: str, resnet50: ResNet50, names: Path, tmp_path: Path
) -> None:
    state = {key: value for key, value in {**resnet50.state_dict(), **change}.items() if value is not None}
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(ForeignWeights, match=message):
        import_weights(tmp_path / "weights.safetensors", "resnet50", ImportOverrides(labels=names))


def test_matching_architecture_is_suggested(hugging: ResNetForImageClassification, tmp_path: Path) -> None:
    save_file(hugging.state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(ForeignWeights, match=r"not the weights of resnet34 .*: they are those of a resnet18: --arch"):
        import_weights(tmp_path / "weights.safetensors", "resnet34")


@pytest.mark.parametrize(
    ("file", "values", "arch", "message"),
    [
        ("config.json", {"downsample_in_first_stage": True}, "resnet18", "downsample_in_first_stage is not"),
        ("config.json", {"hidden_act": "gelu"}, "resnet18", "hidden_act 'gelu' is not relu"),
        ("preprocessor_config.json", {"size": {"longest_edge": 300}}, "resnet18", "give --size and --resize"),
    ],
)
def test_config_beside_the_weights_is_checked(
    file: str, values: dict[str, Any], arch: str, message: str, hugging: ResNetForImageClassification, tmp_path: Path
) -> None:
    save_file(hugging.state_dict(), tmp_path / "weights.safetensors")
    write_json(tmp_path / file, **values)
    with pytest.raises(ForeignWeights, match=message):
        import_weights(tmp_path / "weights.safetensors", arch)


def test_network_with_the_same_tensors_is_refused(resnet50: ResNet50, tmp_path: Path) -> None:
    """timm's resnetaa50 blurs before it strides, which leaves no trace in the weights."""
    save_file(resnet50.state_dict(), tmp_path / "model.safetensors")
    write_json(tmp_path / "config.json", architecture="resnetaa50", pretrained_cfg={})
    with pytest.raises(ForeignWeights, match=r"timm's resnetaa50, which has the tensors of resnet50 .* --onnx"):
        import_weights(tmp_path / "model.safetensors", "resnet50")


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self._mark}",)


@pytest.mark.parametrize("protocol", [0, 2, 4, "zip"])
def test_code_in_a_pickle_does_not_run(protocol: int | str, tmp_path: Path) -> None:
    path, mark = tmp_path / "weights.pth", tmp_path / "ran"
    content = {"conv1.weight": Payload(mark)}
    if isinstance(protocol, int):
        path.write_bytes(pickle.dumps(content, protocol))
    else:
        torch.save(content, path)
    with pytest.raises(ForeignWeights, match=r"weights\.pth"):
        import_weights(path, "resnet50")
    assert not mark.exists()
    torch.load(path, weights_only=False) if protocol == "zip" else pickle.loads(path.read_bytes())
    assert mark.exists(), "the payload does nothing, so the test would see nothing"


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 and nothing more", b"\x80\x02junk"])
def test_unreadable_weights_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(ForeignWeights, match=r"weights\.pth: [^\n]+$"):
        import_weights(tmp_path / "weights.pth", "resnet50")


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        (ImportOverrides(), "has 3 classes without names: give --labels"),
        (ImportOverrides(labels=Path("four.json")), "has 3 classes, but there are 4 labels"),
        (ImportOverrides(layout="keras"), "no layout is named 'keras'; there are: transformers, timm, torchvision"),
    ],
)
def test_missing_or_wrong_options_are_named(
    wishes: ImportOverrides, message: str, resnet50: ResNet50, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("four.json").write_text('["a", "b", "c", "d"]')
    save_file(resnet50.state_dict(), "weights.safetensors")
    with pytest.raises(ForeignWeights, match=message):
        import_weights(Path("weights.safetensors"), "resnet50", wishes)


def test_unknown_layout_is_refused(tmp_path: Path) -> None:
    save_file({"dense.kernel": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(ForeignWeights, match=r"\(dense\.kernel, …\) are of no known layout"):
        import_weights(tmp_path / "weights.safetensors", "resnet50")


def test_options_name_every_layout() -> None:
    text = CliRunner().invoke(app, ["import", "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    assert all(name in text for name in LAYOUTS)


def test_imagenet_labels_are_the_default() -> None:
    """Known places: those of ImageNet-1k's synsets n01440764, n02123045, n04285008, n07920052 and n15075141."""
    names = labels.imagenet()
    assert len(names) == 1000
    assert [names[index] for index in (0, 281, 817, 967, 999)] == [
        "tench", "tabby", "sports car", "espresso", "toilet tissue",
    ]  # fmt: skip


@pytest.mark.parametrize("size", [(300, 400), (174, 266)], ids=["margin of 58.5", "margin of 83.5"])
def test_preprocessing_equals_that_of_transformers(size: tuple[int, int]) -> None:
    """A half of a pixel is rounded down on both sides of an even number, unlike in torchvision."""
    processor = ConvNextImageProcessorPil(
        size={"shortest_edge": 224}, crop_pct=0.875, image_mean=IMAGENET[0], image_std=IMAGENET[1]
    )
    statistics = {"mean": IMAGENET[0], "std": IMAGENET[1]}
    geometry = {"size": (224, 224), "resize": 256, "interpolation": "bicubic", "odd_margins": "down"}
    preprocess = Preprocess.model_validate_json(Preprocess.model_validate({**geometry, **statistics}).model_dump_json())
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))
    theirs = processor(image, return_tensors="np")["pixel_values"][0]
    ours = (preprocess.apply(image) / 255 - np.array(IMAGENET[0])) / np.array(IMAGENET[1])
    assert np.abs(theirs - ours.transpose(2, 0, 1)).max() < 1e-5
