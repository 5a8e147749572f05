"""The device for training, and its dtype."""

from __future__ import annotations

from typing import Literal

import torch

Compute = Literal["auto", "float32", "bfloat16"]


def best_device() -> torch.device:
    """The GPU, if PyTorch can use one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compute_dtype(choice: Compute, device: torch.device) -> torch.dtype:
    """The dtype of convolutions; "auto" is bfloat16 if the device has instructions for it."""
    if choice == "auto":
        choice = "bfloat16" if _has_bfloat16(device) else "float32"
    return torch.bfloat16 if choice == "bfloat16" else torch.float32


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
