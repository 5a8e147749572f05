"""The one `openvino.Core` of the process.

A core replaces the signal stack of the thread that creates it, and frees its own stack at the end even if a thread
still uses it (SigAltStackSetup in OpenVINO's CPU plugin). If two cores do not end in the reverse order of their
creation, as when a new version replaces an old one, the next SIGTERM has no stack: a segmentation fault.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from threading import Lock
from weakref import WeakValueDictionary

# The package imports its converter, which reports its use to the vendor, writes a file into the home folder, and fails
# for a user without one. Nothing here converts; OpenVINO itself goes on if the import fails.
sys.modules["openvino.tools.ovc"] = None  # type: ignore[assignment]
import openvino as openvino  # noqa: E402 - the executor imports it from here

del sys.modules["openvino.tools.ovc"]

_read: WeakValueDictionary[tuple[Path, int], openvino.Model] = WeakValueDictionary()
_reading = Lock()


@cache
def core() -> openvino.Core:
    """The shared core; it is thread-safe and never freed."""
    return openvino.Core()


def read(path: Path) -> openvino.Model:
    """The graph of a file, to be cloned and compiled; clones share its weights.

    While a graph of the file is in use, the same graph is returned again.

    Raises:
        OSError: the file does not exist.
        RuntimeError: OpenVINO cannot read the file.
    """
    key = path.resolve(), path.stat().st_mtime_ns
    with _reading:
        model = _read.get(key)
        if model is None:
            _read[key] = model = core().read_model(path)
        return model
