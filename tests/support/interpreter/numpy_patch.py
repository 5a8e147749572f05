"""The one place that makes the interpreter of Triton 3.6 work with NumPy 2.4.

NumPy 2.4 converts only arrays of zero dimensions to a Python number. The interpreter keeps scalars in arrays of one
element, and uses them as numbers in `range`, in slices and as conditions.
"""

from __future__ import annotations

from typing import Any

from triton.runtime import interpreter


def apply() -> None:
    """Let tensors of one element be numbers again."""
    original = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched
