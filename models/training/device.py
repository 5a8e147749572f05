"""The device for training, and its dtype."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

Compute = Literal["auto", "float32", "bfloat16", "float16"]


def best_device() -> torch.device:
    """The GPU, if PyTorch can use one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compute_dtype(choice: Compute, device: torch.device) -> torch.dtype:
    """The dtype of convolutions; "auto" is bfloat16 where that is faster."""
    if choice == "auto":
        choice = "bfloat16" if _has_fast_bfloat16(device) else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[choice]


def memory_format(model: nn.Module, device: torch.device) -> torch.memory_format:
    """The layout of images and weights: channels last, which is faster, unless PyTorch crashes with it.

    On a CPU, PyTorch 2.13 writes beyond a buffer in the backward pass of a 1x1 convolution with stride 2 and fewer than
    16 input channels, as in the shortcuts of the smallest networks, if the number of images is odd.
    """
    crashes = device.type == "cpu" and any(
        module.kernel_size == (1, 1) and module.stride != (1, 1) and module.in_channels < 16
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
    )
    return torch.contiguous_format if crashes else torch.channels_last


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there is not enough memory, on a GPU or on the CPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _has_fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Only with AMX: a ResNet-20 (28 x 28 pixels, batches of 128, two CPUs of a Sapphire Rapids without AMX) trains at
    # 807 images/s in float32 and at 607 images/s in bfloat16, although the CPU has AVX-512 instructions for it.
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))
