"""The architecture of weights is found by their tensors, and by the names beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from export.errors import ForeignWeights
from export.importing import LAYOUTS
from export.importing.detect import detect
from export.importing.source import WeightsFile
from models.architectures import build

TIMM, TRANSFORMERS = LAYOUTS["timm"], LAYOUTS["transformers"]


def tensors(arch: str, layout: str) -> dict[str, Tensor]:
    """Tensors without values."""
    with torch.device("meta"):
        return {LAYOUTS[layout].rename(key): value for key, value in build(arch, 10).state_dict().items()}


def weights(arch: str, folder: Path, layout: str = "timm", **config: Any) -> WeightsFile:
    if config:
        (folder / "config.json").write_text(json.dumps({"pretrained_cfg": {}, **config}))
    return WeightsFile(folder / "model.safetensors", tensors(arch, layout))


@pytest.mark.parametrize("arch", ["resnet14t", "resnet10t", "resnet18d", "resnet26", "resnet20"])
def test_tensors_distinguish_architectures(arch: str, tmp_path: Path) -> None:
    assert detect(weights(arch, tmp_path), TIMM) == arch


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["resnet50c", "resnet50s", "resnext50_32x4d", "wide_resnet50_2"])
def test_tensors_distinguish_networks_of_the_same_depth(arch: str, tmp_path: Path) -> None:
    assert detect(weights(arch, tmp_path), TIMM) == arch


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("resnet18", "tv_resnet18"),
        ("resnet18", "resnet18.a1_in1k"),
        ("resnet50d", "gluon_resnet50_v1d"),
        ("resnet18", "resnet34"),  # the configuration of another file
        ("resnet18", "vit_tiny_patch16_224"),
    ],
)
def test_name_in_the_configuration(arch: str, name: str, tmp_path: Path) -> None:
    arguments = {"in_chans": 3, "num_classes": 10, "global_pool": "avg"}  # which timm writes for every network
    assert detect(weights(arch, tmp_path, architecture=name, model_args=arguments), TIMM) == arch


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"architecture": "resnetblur18"}, r"timm's resnetblur18, which has the tensors of resnet18 .* --onnx"),
        ({"architecture": "resnet18", "model_args": {"output_stride": 8}}, r"changes output_stride of resnet18"),
        ({"architecture": "resnet18", "global_pool": "max"}, r"changes global_pool of resnet18"),
    ],
)
def test_other_computation_with_the_same_tensors_is_refused(
    config: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ForeignWeights, match=reason):
        detect(weights("resnet18", tmp_path, **config), TIMM)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("layer1.0.se.fc1.weight", "seresnet18 has squeeze-and-excitation"),
        ("layer1.0.se.conv.weight", "seresnet18 has efficient channel attention"),
        ("layer1.0.other", "not the weights of an architecture of resnet-train --list, but of seresnet18"),
    ],
)
def test_unknown_networks_are_refused_by_name(name: str, reason: str, tmp_path: Path) -> None:
    source = weights("resnet18", tmp_path, architecture="seresnet18")
    source.tensors[name] = torch.zeros(1)
    with pytest.raises(ForeignWeights, match=rf"{reason}.*: export it to ONNX"):
        detect(source, TIMM)


@pytest.mark.parametrize(("first", "arch"), [(True, "resnet50-v1"), (False, "resnet50")])
def test_stride_in_the_configuration_of_transformers(first: bool, arch: str, tmp_path: Path) -> None:
    source = weights("resnet50", tmp_path, "transformers", model_type="resnet", downsample_in_bottleneck=first)
    assert detect(source, TRANSFORMERS) == arch
