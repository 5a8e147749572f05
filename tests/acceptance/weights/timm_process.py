"""timm and torchvision in a process and an environment of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

_TIMM = "1.0.31"
_PROGRAM = Path(__file__).with_name("timm_reference.py")


class TimmProcess:
    """Asks `timm_reference.py`, which runs until the end of the `with` block."""

    def __enter__(self) -> Self:
        # Without this project on its path, and without this folder, whose modules have common names.
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        self._process = subprocess.Popen(
            [_python(), "-P", str(_PROGRAM)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._process.communicate()

    def ask(self, do: str, **request: str) -> dict[str, Any]:
        """The answer to a request; its fields are described in `timm_reference.py`.

        Raises:
            RuntimeError: the library failed.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps({"do": do, **request}), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline() or '{"error": "the process ended"}')
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


def _python() -> Path:
    """The interpreter of an environment with timm, which is made if it does not exist."""
    torch_version = torch.__version__.partition("+")[0]
    folder = Path.home() / ".cache" / "resnet-serve-acceptance" / f"timm-{_TIMM}-torch-{torch_version}"
    python, complete = folder / "bin" / "python", folder / "complete"
    if not complete.exists():
        print(f"  making an environment with timm {_TIMM} in {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        packages = [f"torch=={torch_version}", f"timm=={_TIMM}"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        complete.touch()
    return python
