"""Finds the weights of a network in a checkpoint, below the names that training tools put around them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from export.errors import ForeignWeights

_WRAPPERS = {
    "module",  # DataParallel, DistributedDataParallel, AveragedModel
    "_orig_mod",  # torch.compile
    "_forward_module",  # Lightning Fabric
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
}
"""Parts of names that wrappers of modules add, at any place."""
_COUNTER = "n_averaged"
"""Counter of `torch.optim.swa_utils.AveragedModel`."""
_AVERAGED = re.compile(r"(?<![a-z])(ema|swa|avg|average|averaged)(?![a-z])")
_TRAINED_KEYS = {
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "weights",
    "params",
    "module",
}
"""Keys of the network that is trained, if a checkpoint holds others, too."""
_STEMS = (
    ("conv1.weight", "layer1."),
    ("conv1.0.weight", "layer1."),
    ("resnet.embedder.embedder.convolution.weight", "resnet.encoder."),
)
"""First convolution and beginning of the blocks, by the names of each layout."""


_HEADS = {"head.fc.weight": "fc.weight", "head.fc.bias": "fc.bias"}
"""The last layer of MMPretrain's classifiers, which stands beside their backbone."""


Place = tuple[str, ...]


@dataclass(frozen=True)
class FoundWeights:
    """Tensors of one network, by its own names."""

    place: Place
    """Keys of the checkpoint, and parts of the tensors' names."""
    tensors: dict[str, Tensor]
    averaged: bool = False
    """Whether they are a moving average of the weights."""
    known: bool = False
    """Whether the names are those of a known layout."""
    ignored: tuple[str, ...] = ()
    """Names of the tensors beside the network in the same dictionary, such as those of a loss."""

    def __str__(self) -> str:
        return ".".join(self.place)


def find_weights(content: object) -> FoundWeights | None:
    """The weights of the only network in a checkpoint, those with averaged weights first; None without tensors.

    Tensors of an unknown network are returned by their names in the file.

    Raises:
        ForeignWeights: there are several networks.
    """
    groups = list(_groups(content, (), set()))
    swapped = _is_of_mmengine(content)
    found = [network for place, tensors in groups for network in _networks(place, tensors, swapped)]
    if not found:
        return max((FoundWeights(*group) for group in groups), key=lambda each: len(each.tensors), default=None)
    found = [each for each in found if each.averaged] or found
    found = [each for each in found if _TRAINED_KEYS.intersection(each.place[-1:])] or found
    different = [each for index, each in enumerate(found) if not any(_same(each, other) for other in found[:index])]
    if len(different) > 1:
        raise ForeignWeights(f"holds several networks: {', '.join(map(str, different))}: save one of them")
    return different[0]


def _groups(content: object, place: Place, seen: set[int]) -> Iterator[tuple[Place, dict[str, Tensor]]]:
    """The tensors of each dictionary in a checkpoint, with the keys that lead to it."""
    if not isinstance(content, Mapping) or id(content) in seen:
        return
    seen.add(id(content))
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield place, tensors
    for key, value in content.items():
        yield from _groups(value, (*place, str(key)), seen)


def _networks(place: Place, tensors: dict[str, Tensor], swapped: bool) -> Iterator[FoundWeights]:
    """The networks in one dictionary, each with the names behind its prefix."""
    weights = {name: value for name, value in tensors.items() if name.rpartition(".")[2] != _COUNTER}
    names = {_without_wrappers(name): value for name, value in weights.items()}
    if len(names) < len(weights):  # two tensors have the same name without wrappers
        names = weights
    prefixes = {
        name.removesuffix(stem): None
        for stem, blocks in _STEMS
        for name in names
        if (name == stem or name.endswith(f".{stem}"))
        and any(other.startswith(name.removesuffix(stem) + blocks) for other in names)
    }
    for prefix in prefixes:
        where = (*place, *prefix.split(".")[:-1])
        used = {name: name.removeprefix(prefix) for name in names if name.startswith(prefix)}
        if prefix.endswith("backbone."):
            outer = prefix.removesuffix("backbone.")
            used |= {outer + head: name for head, name in _HEADS.items() if outer + head in names}
        own = {name: names[long] for long, name in used.items()}
        averaged = _COUNTER in tensors or any(_AVERAGED.search(part.lower()) for part in where)
        ignored = tuple(name for name in names if not name.startswith(tuple(prefixes)) and name not in used)
        yield FoundWeights(where, own, averaged != swapped, True, ignored)


def _is_of_mmengine(content: object) -> bool:
    """Whether MMEngine wrote a checkpoint with an average: it exchanges the values of `state_dict` and
    `ema_state_dict`.

    https://github.com/open-mmlab/mmengine/blob/main/mmengine/hooks/ema_hook.py
    """
    if not isinstance(content, Mapping) or "ema_state_dict" not in content:
        return False
    meta = content.get("meta")
    return "message_hub" in content or (isinstance(meta, Mapping) and "mmengine_version" in meta)


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _same(one: FoundWeights, other: FoundWeights) -> bool:
    """Whether two networks are one, which a module holds under two names."""
    return one.tensors.keys() == other.tensors.keys() and all(
        value.shape == other.tensors[name].shape and value.equal(other.tensors[name])
        for name, value in one.tensors.items()
    )
