"""Checkpoints as training tools write them: what each holds, and which network is right."""

from __future__ import annotations

import argparse
import functools
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parallel import DataParallel
from torch.optim.swa_utils import AveragedModel

from tests.support.foreign_networks import resnet18

CLASSES = 10


@functools.cache
def network(seed: int = 0, classes: int = CLASSES, channels: int = 3) -> nn.Module:
    """A network; 1 is the average of network 0 in the files that hold both."""
    return resnet18(classes, channels, seed)


def state(seed: int = 0, prefix: str = "") -> dict[str, Tensor]:
    """Its tensors, with a prefix to their names."""
    return {prefix + key: value for key, value in network(seed).state_dict().items()}


def optimiser() -> dict[str, Any]:
    """The state of an optimiser after a step."""
    model = network()
    used = torch.optim.AdamW(model.parameters(), lr=0.0)  # the step leaves the weights
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    used.step()
    return used.state_dict()


def _timm() -> dict[str, Any]:
    """https://github.com/huggingface/pytorch-image-models/blob/main/timm/utils/checkpoint_saver.py"""
    args = argparse.Namespace(model="resnet18", opt="lamb", output=Path("out"))
    return {"epoch": 7, "arch": "resnet18", "state_dict": state(0, "module."), "optimizer": optimiser(), "version": 2,
            "args": args, "amp_scaler": {"scale": 65536.0, "_growth_tracker": 3}, "state_dict_ema": state(1),
            "metric": 71.2}  # fmt: skip


def _lightning(prefix: str, **more: Any) -> dict[str, Any]:
    callbacks = {"ModelCheckpoint{'monitor': 'loss'}": {"best_model_score": torch.tensor(0.5), "best_k_models": {}}}
    return {"epoch": 3, "global_step": 99, "pytorch-lightning_version": "2.5.0", "callbacks": callbacks,
            "state_dict": {**state(0, prefix), "criterion.weight": torch.ones(CLASSES), **more},
            "optimizer_states": [optimiser()], "lr_schedulers": [], "loops": {"fit_loop": {}},
            "hyper_parameters": {"lr": 0.1, "act": functools.partial(nn.ReLU, True), "path": Path("x")}}  # fmt: skip


def _mmpretrain(seed: int) -> dict[str, Tensor]:
    """https://mmpretrain.readthedocs.io: `backbone.` and `head.fc.`"""
    return {f"head.{key}" if key.startswith("fc.") else f"backbone.{key}": value for key, value in state(seed).items()}


def _mmengine_average() -> dict[str, Any]:
    """MMEngine's hook exchanges both: `state_dict` has the average."""
    source = {f"module.{key}": value for key, value in _mmpretrain(0).items()}
    return {"meta": {"mmengine_version": "0.10.4", "epoch": 3}, "state_dict": _mmpretrain(1), "message_hub": {},
            "ema_state_dict": {"steps": torch.tensor(9), **source}}  # fmt: skip


def _typed(dtype: torch.dtype) -> dict[str, Tensor]:
    return {key: value.to(dtype) if value.is_floating_point() else value for key, value in state().items()}


def _accelerate(path: Path) -> None:
    save_file(state(), path, {"format": "pt"})


def _strided() -> dict[str, Tensor]:
    """In channels-last memory format, as after `model.to(memory_format=torch.channels_last)`."""
    return {key: value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value
            for key, value in state().items()}  # fmt: skip


def _views() -> dict[str, Tensor]:
    """All tensors in one storage."""
    flat = torch.cat([value.double().reshape(-1) for value in state().values()])
    parts = torch.split(flat, [value.numel() for value in state().values()])
    return {key: part.view(value.shape) for part, (key, value) in zip(parts, state().items(), strict=True)}


CONTENTS: Mapping[str, tuple[Callable[[], Any], int]] = {
    "bare state dict": (state, 0),
    "ordered dictionary with metadata": (lambda: network().state_dict(), 0),
    "parameters in place of tensors": (lambda: {key: nn.Parameter(value) if value.is_floating_point() else value
                                                for key, value in state().items()}, 0),
    "state_dict": (lambda: {"state_dict": state(), "epoch": 3, "best_acc1": torch.tensor(71.0)}, 0),
    "model": (lambda: {"model": state(), "optimizer": optimiser(), "lr_scheduler": {"last_epoch": 3}}, 0),
    "torchvision's reference training": (
        lambda: {"model": state(), "model_ema": {"n_averaged": torch.tensor(5), **state(1, "module.")},
                 "optimizer": optimiser(), "epoch": 3, "args": argparse.Namespace(model="resnet18")}, 1),
    "model_state_dict": (lambda: {"epoch": 1, "model_state_dict": state(), "optimizer_state_dict": optimiser(),
                                  "loss": torch.tensor(0.3)}, 0),
    "net with accuracy": (lambda: {"net": state(0, "module."), "acc": 93.0, "epoch": 9}, 0),
    "nested three deep": (lambda: {"checkpoint": {"model": {"state_dict": state(0, "module.")}}}, 0),
    "data parallel": (lambda: DataParallel(network()).state_dict(), 0),
    "twice module.": (lambda: state(0, "module.module."), 0),
    "compiled": (lambda: state(0, "_orig_mod."), 0),
    "compiled, data parallel": (lambda: state(0, "module._orig_mod."), 0),
    "lightning, model.": (lambda: _lightning("model."), 0),
    "lightning, net._orig_mod.": (lambda: _lightning("net._orig_mod."), 0),
    "lightning with an average": (
        lambda: _lightning("model.", **{"ema_model.n_averaged": torch.tensor(4)}, **state(1, "ema_model.module.")), 1),
    "lightning with a metric": (lambda: _lightning("model.", **{"val_acc.tp": torch.zeros(CLASSES)}), 0),
    "timm's training": (_timm, 1),
    "timm, average only": (lambda: {"state_dict_ema": state(1)}, 1),
    "swa_utils": (lambda: AveragedModel(network(1)).state_dict(), 1),
    "ema beside the model": (lambda: {"ema": state(1), "model": state()}, 1),
    "MMPretrain": (lambda: {"meta": {"CLASSES": ["a"] * CLASSES}, "state_dict": _mmpretrain(0)}, 0),
    "MMEngine with an average": (_mmengine_average, 1),
    "FSDP, whole": (lambda: {"model": state(0, "_fsdp_wrapped_module.")}, 0),
    "checkpointed activations": (lambda: state(0, "_checkpoint_wrapped_module."), 0),
    "DeepSpeed, stage 1": (lambda: {"module": _typed(torch.float16), "ds_version": "0.15", "dp_world_size": 8}, 0),
    "Ignite": (lambda: {"model": state(), "trainer": {"epoch": 3}, "to_save": None}, 0),
    "Composer": (lambda: {"state": {"model": state(0, "model."), "optimizers": {"AdamW": optimiser()}}}, 0),
    "Catalyst": (lambda: {"model_state_dict": state(), "criterion_state_dict": {"weight": torch.ones(2)}}, 0),
    "half": (lambda: _typed(torch.float16), 0),
    "bfloat16": (lambda: _typed(torch.bfloat16), 0),
    "double": (lambda: _typed(torch.float64), 0),
    "without counters": (lambda: {key: value for key, value in state().items() if "num_batches" not in key}, 0),
    "channels last": (_strided, 0),
    "views of one storage": (_views, 0),
    "names in another order": (lambda: OrderedDict(reversed(state().items())), 0),
}  # fmt: skip
"""Content of each file of `torch.save`, and number of the right network."""

FILES: Mapping[str, tuple[str, Callable[[Path], None]]] = {
    "before PyTorch 1.6": ("a.pth.tar", lambda path: torch.save({"state_dict": state()}, path,
                                                                  _use_new_zipfile_serialization=False)),
    "safetensors": ("model.safetensors", lambda path: save_file(state(), path)),
    "safetensors with metadata": ("model.safetensors", _accelerate),
    "safetensors, half, module.": (
        "model.safetensors", lambda path: save_file({f"module.{key}": value for key, value in
                                                     _typed(torch.float16).items()}, path)),
    "safetensors named .bin": ("pytorch_model.bin", lambda path: save_file(state(), path)),
    "torch.save named .ckpt": ("last.ckpt", lambda path: torch.save(state(), path)),
    "one shard of one": ("model-00001-of-00001.safetensors", lambda path: save_file(state(), path)),
}  # fmt: skip
"""Name of the file and how it is written; network 0 is right."""


def write_index(folder: Path) -> Path:
    """Weights in two parts and their index, as transformers writes them."""
    items = sorted(state().items())
    places = {}
    for part in (1, 2):
        file = f"model-{part:05d}-of-00002.safetensors"
        save_file(dict(items[part - 1 :: 2]), folder / file)
        places.update(dict.fromkeys(dict(items[part - 1 :: 2]), file))
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index
