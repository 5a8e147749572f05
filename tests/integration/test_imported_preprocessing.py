"""Preprocessing in the files beside imported weights: pixels are those of the library, or the import says what to give.

The references are transformers' own classes.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from typer.testing import CliRunner

from export.__main__ import app
from export.errors import ForeignWeights
from export.importing import Imported, ImportOverrides, import_weights, torchvision, transformers
from export.importing.labels import resolve_labels
from export.writing import write
from models import architectures
from models.artifact.manifest import Architecture
from models.imaging.preprocess import Preprocess
from models.training.checkpoint import Checkpoint

STATISTICS = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
CROP = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """A ResNet-18 by transformers' names."""
    state = architectures.build("resnet18", 3).state_dict()
    return {transformers.rename(key): value for key, value in state.items()}


def imported(folder: Path, weights: dict[str, Tensor], config: dict[str, Any], **overrides: Any) -> Imported:
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(
        json.dumps({"model_type": "resnet", "id2label": {"0": "a", "1": "b", "2": "c"}})
    )
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    return import_weights(folder / "model.safetensors", "resnet18", ImportOverrides(preprocess=overrides))


def normalised(preprocess: Preprocess, image: Image.Image) -> Any:
    values = (preprocess.apply(image) / 255 - np.array(preprocess.mean)) / np.array(preprocess.std)
    return values.transpose(2, 0, 1)


@pytest.mark.parametrize(
    ("processor", "options"),
    [
        (BitImageProcessorPil, {**CROP, **STATISTICS}),
        (BitImageProcessorPil, {**CROP, "do_normalize": False}),
        (BitImageProcessorPil, {}),
        (ViTImageProcessorPil, {"size": {"height": 160, "width": 224}, **STATISTICS}),
        (ConvNextImageProcessorPil, {"size": {"shortest_edge": 224}, "crop_pct": 0.9, **STATISTICS}),
        (ConvNextImageProcessorPil, {}),
    ],
    ids=["Bit", "Bit, not normalised", "Bit, defaults", "ViT", "ConvNext", "ConvNext, defaults"],
)
def test_pixels_are_those_of_transformers(
    processor: Any, options: dict[str, Any], weights: dict[str, Tensor], tmp_path: Path
) -> None:
    theirs = processor(**options)
    preprocess = imported(tmp_path, weights, json.loads(theirs.to_json_string())).checkpoint.preprocess
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8))
    expected = theirs(image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(normalised(preprocess, image), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "processor"),
    [
        ({"feature_extractor_type": "ViTFeatureExtractor", "size": 224}, ViTImageProcessorPil()),
        ({"image_processor_type": "BitImageProcessor"}, BitImageProcessorPil()),
        (
            {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 224, "resample": 3, "image_mean": 0.5},
            ConvNextImageProcessorPil(size={"shortest_edge": 224}),
        ),
        ({"size": 224, "crop_pct": 0.875}, ConvNextImageProcessorPil(size={"shortest_edge": 224}, crop_pct=0.875)),
    ],
    ids=["an integer of ViT", "nothing but Bit", "an integer of ConvNext", "no class"],
)
def test_fields_that_are_left_out_are_those_of_the_class(
    config: dict[str, Any], processor: Any, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    preprocess = imported(tmp_path, weights, config).checkpoint.preprocess
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8))
    expected = processor(image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(normalised(preprocess, image), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message", "given"),
    [
        ({"do_rescale": False}, "do_rescale is false.*give --mean and --std", {"mean": (0.5,) * 3, "std": (0.25,) * 3}),
        (
            {"rescale_factor": 1 / 127.5},
            r"rescale_factor is 0\.00784314 and not 1/255.*give --mean and --std",
            {"mean": (0.5,) * 3, "std": (0.25,) * 3},
        ),
        ({"do_resize": False}, "do_resize False.*give --size and --resize", {"size": (224, 224), "resize": 256}),
        ({"do_center_crop": False}, "its size .*give --size and --resize", {"size": (224, 224), "resize": None}),
        (
            {
                "image_processor_type": "DeiTImageProcessor",
                "size": 256,
                "image_mean": [0.5] * 3,
                "image_std": [0.5] * 3,
            },
            "its size .*give --size and --resize",
            {"size": (224, 224), "resize": 256},
        ),
        (
            {"image_processor_type": "DeiTImageProcessor", "resample": None, **STATISTICS},
            "has no resample: give --interpolation",
            {"interpolation": "bilinear"},
        ),
    ],
)
def test_unsupported_preprocessing_must_be_given(
    change: dict[str, Any], message: str, given: dict[str, Any], weights: dict[str, Tensor], tmp_path: Path
) -> None:
    config = {"image_processor_type": "BitImageProcessor", **CROP, "do_center_crop": True, **change}
    config.setdefault("resample", 3)
    with pytest.raises(ForeignWeights, match=message):
        imported(tmp_path, weights, config)
    preprocess = imported(tmp_path, weights, config, **given).checkpoint.preprocess
    assert {name: getattr(preprocess, name) for name in given} == given


def test_reversed_channels_are_refused(weights: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(ForeignWeights, match="do_flip_channel_order is not supported"):
        imported(tmp_path, weights, {"do_flip_channel_order": True, "size": 224})


@pytest.mark.parametrize("layout", ["timm", "transformers"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_written_preprocessing_is_read_again(layout: str, mode: str, tmp_path: Path) -> None:
    channels = {"L": 1, "RGB": 3}[mode]
    stated = Preprocess.model_validate(
        {
            "size": (200, 200), "resize": 230, "interpolation": "lanczos", "mode": mode, "mean": (0.4,) * channels,
            "std": (0.2,) * channels, "odd_margins": "down" if layout == "transformers" else "even",
        }
    )  # fmt: skip
    network = architectures.build("resnet18", 3, channels)
    architecture = Architecture(name="resnet18", num_classes=3, in_channels=channels)
    write(Checkpoint(architecture, ("a", "b", "c"), stated, network.state_dict()), layout, tmp_path / "out")
    read = import_weights(tmp_path / "out" / "model.safetensors").checkpoint
    assert (read.preprocess, read.labels) == (stated, ("a", "b", "c"))


def test_grey_weights_need_a_mean_without_a_configuration(tmp_path: Path) -> None:
    network = architectures.build("resnet18", 3, 1)
    save_file(
        {transformers.rename(key): value for key, value in network.state_dict().items()}, tmp_path / "a.safetensors"
    )
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    with pytest.raises(ForeignWeights, match="give --mean and --std"):
        import_weights(tmp_path / "a.safetensors", overrides=ImportOverrides(labels=tmp_path / "labels.txt"))


@pytest.mark.parametrize("config", [{"input_size": [3, 10**9, 10**9]}, {"input_size": [3, 224, 224], "crop_pct": 1e-7}])
def test_absurd_sizes_are_refused(config: dict[str, Any], tmp_path: Path) -> None:
    state = architectures.build("resnet18", 3).state_dict()
    save_file({torchvision.rename(key): value for key, value in state.items()}, tmp_path / "model.safetensors")
    described = {"architecture": "resnet18", "label_names": ["a", "b", "c"], "pretrained_cfg": config}
    (tmp_path / "config.json").write_text(json.dumps(described))
    with pytest.raises(ForeignWeights, match=r"preprocessing: (size|resize)\S*: .* less than or equal to 16384"):
        import_weights(tmp_path / "model.safetensors")


@pytest.mark.parametrize("option", ["--size", "--resize"])
def test_absurd_options_are_refused(option: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["import", "weights.pth", "-o", f"{tmp_path}/a.safetensors", option, "16385"])
    assert (done.exit_code, f"Invalid value for '{option}'" in done.output) == (2, True)


def test_label_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ForeignWeights, match=r"label 1 \(beside the weights\) is '\\ud800', no text"):
        resolve_labels(tmp_path / "weights.pth", 2, None, ["a", "\ud800"])


@pytest.mark.parametrize("numbers", [(1, 2, 3), (0, 1, 3)])
def test_numbers_of_classes_begin_with_zero(
    numbers: tuple[int, ...], weights: dict[str, Tensor], tmp_path: Path
) -> None:
    save_file(weights, tmp_path / "model.safetensors")
    named = {str(number): name for number, name in zip(numbers, "abc", strict=True)}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "resnet", "id2label": named}))
    with pytest.raises(ForeignWeights, match="id2label do not begin with 0 or have gaps: give --labels"):
        import_weights(tmp_path / "model.safetensors", "resnet18")
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    given = ImportOverrides(labels=tmp_path / "labels.txt")
    assert import_weights(tmp_path / "model.safetensors", "resnet18", given).checkpoint.labels == ("a", "b", "c")


def test_folder_is_empty_again_after_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stated = Preprocess(size=(224, 224), resize=256, mean=(0.5,) * 3, std=(0.5,) * 3)
    weights = architectures.build("resnet18", 2).state_dict()
    made = Checkpoint(Architecture(name="resnet18", num_classes=2), ("a", "b"), stated, weights)
    replaced, failing = os.replace, ""

    def full(source: str, path: Path) -> None:
        if path.name == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        replaced(source, path)

    monkeypatch.setattr(os, "replace", full)
    for name in ("model.safetensors", "config.json", "preprocessor_config.json"):
        failing = name
        with pytest.raises(OSError, match="No space left"):
            write(made, "transformers", tmp_path / "out")
        assert list((tmp_path / "out").iterdir()) == []
    failing = ""
    assert len(write(made, "transformers", tmp_path / "out")) == 3
