"""The process's one `openvino.Core`.

A core puts the signal stack of the thread that makes it aside, and frees its own when it goes, whether or not a thread
still uses it (SigAltStackSetup in OpenVINO's plugin for CPUs). With two cores that do not end in the reverse order of
their beginning, as when a new version replaces an old one, the next SIGTERM finds no stack: a segmentation fault.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from threading import Lock
from weakref import WeakValueDictionary

import openvino

_read: WeakValueDictionary[tuple[Path, int], openvino.Model] = WeakValueDictionary()
_reading = Lock()


@cache
def core() -> openvino.Core:
    """The core that everything in this process shares; it is thread-safe and never freed."""
    return openvino.Core()


def read(path: Path) -> openvino.Model:
    """The graph of a file, to be cloned and compiled. While one is in use the same is given again, and clones share its
    weights.

    Raises:
        OSError: there is no such file.
        RuntimeError: OpenVINO cannot read it.
    """
    key = path.resolve(), path.stat().st_mtime_ns
    with _reading:
        model = _read.get(key)
        if model is None:
            _read[key] = model = core().read_model(path)
        return model
