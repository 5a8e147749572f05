"""The process's one `openvino.Core`.

A core puts the signal stack of the thread that makes it aside, and frees its own when it goes, whether or not a thread
still uses it (SigAltStackSetup in OpenVINO's plugin for CPUs). With two cores that do not end in the reverse order of
their beginning, as when a new version replaces an old one, the next SIGTERM finds no stack: a segmentation fault.
"""

from __future__ import annotations

from functools import cache

import openvino


@cache
def core() -> openvino.Core:
    """The core that everything in this process shares; it is thread-safe and never freed."""
    return openvino.Core()
