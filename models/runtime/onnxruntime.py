"""ONNX Runtime without its telemetry. The only module that imports the package.

The Linux packages keep a database of usage events and an identifier of the machine in the user's home, and send the
events if they can. The package reads the variable once, when it is imported.
"""

from __future__ import annotations

import os

_TELEMETRY_OFF = "ORT_DISABLE_TELEMETRY"

os.environ[_TELEMETRY_OFF] = os.environ.get(_TELEMETRY_OFF) or "1"  # 0 keeps it on

import onnxruntime as ort  # noqa: E402  # after the variable is set

__all__ = ["ort"]
