"""Says what a checkpoint without a known network holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

SAVE = "save only model.state_dict()"
_DISTRIBUTED = (".ShardedTensor", ".DTensor")
DISTRIBUTED_PROBLEM = (
    "parts of tensors, which a distributed training wrote: save the whole state dict (full_state_dict=True)"
)
_FLAT = "flat_param"
"""Part of the names of FSDP's parameters that are joined to one vector."""
_OPTIMISER = ("param_groups", "optimizer_state_dict", "base_optimizer_state", "fp32_flat_groups")


class _Placeholder:
    """Takes the place of a class or function that a file refers to, and does nothing."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __new__(cls, *_: object, **__: object) -> _Placeholder:
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None: ...

    # Files write items into instances of dictionaries and lists.
    def __setitem__(self, _: object, __: object) -> None: ...


def placeholder(name: str) -> type[Any]:
    """A class that takes the place of a class or function, by its full name."""
    return type(name.rpartition(".")[2], (_Placeholder,), {"__module__": name})


def is_distributed(name: str) -> bool:
    """Whether a class, by its full name, holds a part of a tensor."""
    return name.endswith(_DISTRIBUTED)


def content_problem(content: object, metadata: Mapping[str, str]) -> str | None:
    """Name the content of a file without a network of a known layout, and what to do; None for other tensors.

    Args:
        content: the content of the file.
        metadata: texts in the header of a safetensors file.
    """
    if "resnet-serve" in metadata:
        return "a checkpoint of resnet-train: resnet-export build takes it as it is"
    if "state" in metadata and metadata["state"].startswith("{"):
        return "the state of a training, for resnet-train --resume: the checkpoint is model.safetensors beside it"
    found = list(_walk(content, set()))
    objects = [type(value).__module__ for _, value in found if isinstance(value, _Placeholder)]
    keys = {key for key, _ in found}
    if any(_FLAT in key for key in keys):
        return "flat parameters of FSDP, without the names of the tensors: save the whole state dict"
    tensors = [(key, value) for key, value in found if isinstance(value, Tensor)]
    if keys.intersection(_OPTIMISER):
        return f"the state of an optimiser, no network: {SAVE}"
    if any(name.startswith(("numpy.", "jax.")) for name in objects) and not tensors:
        return f"arrays of NumPy, no tensors: {SAVE}"
    return None if tensors else f"{_kind(content)}, no state dict: {SAVE}"


def _walk(content: object, seen: set[int]) -> Iterator[tuple[str, object]]:
    """The keys and values of all dictionaries in a checkpoint."""
    if isinstance(content, Mapping) and id(content) not in seen:
        seen.add(id(content))
        for key, value in content.items():
            yield str(key), value
            yield from _walk(value, seen)


def _kind(content: object) -> str:
    if isinstance(content, _Placeholder):
        return f"an object of {type(content).__module__}"
    if isinstance(content, dict):
        objects = [type(value).__module__ for value in content.values() if isinstance(value, _Placeholder)]
        return f"objects of {', '.join(dict.fromkeys(objects))}" if objects else "only values without tensors"
    return f"a {type(content).__name__}"
