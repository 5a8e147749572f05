"""Versions of the tools, for the manifest."""

from __future__ import annotations

import platform
from types import ModuleType


def tools(*modules: ModuleType) -> dict[str, str]:
    """Versions of Python and of modules, by module: the package of onnxruntime may be onnxruntime-gpu."""
    return {"python": platform.python_version(), **{module.__name__: module.__version__ for module in modules}}
