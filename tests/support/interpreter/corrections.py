"""The one place that corrects the interpreter of Triton 3.6.

NumPy 2.4 converts only arrays of zero dimensions to a Python number. The interpreter keeps scalars in arrays of one
element, and uses them as numbers in `range`, in slices and as conditions.

NumPy has no bfloat16. The interpreter keeps its bits in uint16, and would multiply them as integers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter


def apply() -> None:
    """Let tensors of one element be numbers again, and multiply bfloat16 as numbers."""
    _patch_numbers()
    _patch_products()


def _patch_numbers() -> None:
    original = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched


def _patch_products() -> None:
    original = interpreter.InterpreterBuilder.create_dot

    def patched(self: Any, a: Any, b: Any, *more: Any) -> Any:
        return original(self, _as_float32(a), _as_float32(b), *more)

    interpreter.InterpreterBuilder.create_dot = patched


def _as_float32(handle: Any) -> Any:
    if handle.dtype.scalar != tl.bfloat16:
        return handle
    bits = handle.data.astype(np.uint32) << 16
    return interpreter.TensorHandle(bits.view(np.float32), tl.float32)
