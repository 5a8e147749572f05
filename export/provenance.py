"""What a version was made with, for its manifest."""

from __future__ import annotations

import platform
from types import ModuleType


def tools(*modules: ModuleType) -> dict[str, str]:
    """Versions of Python and of modules. These say them: onnxruntime may have come as the package onnxruntime-gpu."""
    return {"python": platform.python_version(), **{module.__name__: module.__version__ for module in modules}}
