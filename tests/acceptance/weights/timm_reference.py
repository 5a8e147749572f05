"""Answers requests about the networks of timm and torchvision, in an environment of its own, without this project.

    python timm_reference.py

Reads one request per line, JSON, and answers each with one line. Requests:

    {"do": "list"}
        names of networks: {"timm": [...], "torchvision": [...]}
    {"do": "write", "library": L, "name": N, "folder": F}
        writes a random network as the library writes it, and reference.npz with images and the network's logits
    {"do": "logits", "library": L, "name": N, "folder": F, "images": I}
        loads the weights in F, strictly, writes logits.npy for the images of the .npz file I, and answers with the
        preprocessing that timm reads
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

SIZE, IMAGES = 64, 6


def define_operators() -> Any:
    """torchvision's wheel cannot load its operators into a torch for CPUs; an import needs their names only."""
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("timm needs torchvision")
    text = (Path(found.origin).parent / "_meta_registrations.py").read_text()
    library: Any = torch.library
    operators = library.Library("torchvision", "DEF")
    for name in sorted(set(re.findall(r'register_fake\("torchvision::(\w+)"', text))):
        operators.define(f"{name}() -> ()")
    return operators  # they last as long as this object


def answer(request: dict[str, Any]) -> dict[str, Any]:
    if request["do"] == "list":
        models = importlib.import_module("torchvision.models.resnet")
        names = [name for name in models.__all__ if name[0].islower()]
        return {"timm": _timm().list_models(module="resnet"), "torchvision": names}
    library, name, folder = request["library"], request["name"], Path(request["folder"])
    if request["do"] == "write":
        return write(library, name, folder)
    return compute(library, name, folder, Path(request["images"]))


def _timm() -> Any:
    return importlib.import_module("timm")


def write(library: str, name: str, folder: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    create = _timm().create_model if library == "timm" else importlib.import_module("torchvision.models").get_model
    model = create(name)
    images = settle(model)
    with torch.inference_mode():
        np.savez(folder / "reference.npz", images=images.numpy(), logits=model(images).numpy())
    if library == "timm":
        _timm().models.save_for_hf(model, str(folder), safe_serialization=True)
    else:
        torch.save(model.state_dict(), folder / "weights.pth")
    return {}


def settle(model: nn.Module) -> torch.Tensor:
    """Random scales, statistics from random images, logits that tell images apart; gives other images.

    Residual branches are weak, as training leaves them: otherwise a deep network is chaotic, and its float32 logits
    have large errors of their own.
    """
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(2 * IMAGES, 3, 9, 9, generator=generator)
    images = nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bilinear")
    images = images + 0.3 * torch.randn(images.shape, generator=generator)
    last = {id(each) for block in model.modules() if hasattr(block, "downsample")
            for each in [getattr(block, "bn3", None) or getattr(block, "bn2", None)]}  # fmt: skip
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # a cumulative average
            low, high = (0.1, 0.3) if id(module) in last else (0.7, 1.3)
            nn.init.uniform_(module.weight, low, high, generator=generator)
            nn.init.normal_(module.bias, std=0.1, generator=generator)
    head: Any = model.fc
    nn.init.normal_(head.weight, std=0.05, generator=generator)
    with torch.no_grad():
        model.train()(images[:IMAGES])
        head.bias.sub_(model.eval()(images).mean(0))
    return images[IMAGES:]


def compute(library: str, name: str, folder: Path, images: Path) -> dict[str, Any]:
    if library == "timm":
        model = _timm().create_model(f"local-dir:{folder}", pretrained=True)
    else:
        files = [*folder.glob("*.safetensors"), *folder.glob("*.pth")]
        state = load_file(files[0]) if files[0].suffix == ".safetensors" else torch.load(files[0], weights_only=True)
        model = importlib.import_module("torchvision.models").get_model(name, num_classes=len(state["fc.bias"]))
        model.load_state_dict(state, strict=True)
    with torch.inference_mode():
        logits = model.eval()(torch.from_numpy(np.load(images)["images"])).numpy()
    np.save(folder / "logits.npy", logits)
    return {"preprocess": _timm().data.resolve_data_config(model=model)} if library == "timm" else {}


if __name__ == "__main__":
    operators = define_operators()
    for line in sys.stdin:
        try:
            result = answer(json.loads(line))
        except Exception as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(result), file=sys.__stdout__, flush=True)
