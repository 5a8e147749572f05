"""A plugin for pytest that records which modules of the project have a function that a test called.

    CALLED=FOLDER pytest -p tests.acceptance.house.called

Each process of the run writes one file, with a path per line, relative to the checkout.
"""

from __future__ import annotations

import inspect
import os
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = str(Path(__file__).parents[3]) + os.sep
_files: set[str] = set()


def _record(frame: FrameType, event: str, argument: Any) -> None:
    """Trace a call; the lines of the function are not traced."""
    # The body of a module or a class is no function, and runs when it is imported.
    if frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        _files.add(frame.f_code.co_filename)


def pytest_runtest_setup() -> None:
    sys.settrace(_record)
    threading.settrace(_record)


def pytest_sessionfinish() -> None:
    sys.settrace(None)
    paths = sorted(path.removeprefix(ROOT) for path in _files if path.startswith(ROOT))
    Path(os.environ["CALLED"], str(os.getpid())).write_text("\n".join(paths))
