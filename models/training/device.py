"""The device for training, and its dtype."""

from __future__ import annotations

import ctypes
from typing import Literal

import torch
from torch import nn

Compute = Literal["auto", "float32", "bfloat16", "float16"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE_BYTES = 32 * 1024 * 1024


def best_device() -> torch.device:
    """The GPU, if PyTorch can use one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compute_dtype(choice: Compute, device: torch.device) -> torch.dtype:
    """The dtype of convolutions; "auto" is bfloat16 where that is faster."""
    if choice == "auto":
        choice = "bfloat16" if _has_fast_bfloat16(device) else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[choice]


def keep_freed_memory() -> None:
    """Let the process keep freed blocks of up to 32 MB for the next step. Does nothing without glibc.

    By default glibc returns free memory at the end of its heap to the system, which clears every page before the next
    step gets it again. Without that, a ResNet-20 (28 x 28, batches of 128) trains 1.08 times as fast on two CPUs, and a
    ResNet-50 (224 x 224, batches of 32) 1.05 times, in 1 to 2 % more memory. With larger blocks it is 1.11 times, in
    14 % more memory. Medians of rounds in turn.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)  # the largest value: never
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


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


def _has_fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Only with AMX: a ResNet-20 (28 x 28 pixels, batches of 128, two CPUs of a Sapphire Rapids without AMX) trains at
    # 807 images/s in float32 and at 607 images/s in bfloat16, although the CPU has AVX-512 instructions for it.
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))
