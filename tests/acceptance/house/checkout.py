"""Other checkouts of this repository, and commands that run in them with this Python."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[3]


@contextmanager
def clone() -> Iterator[Path]:
    """A fresh clone of the committed state."""
    with TemporaryDirectory(prefix="house-") as folder:
        path = Path(folder) / "resnet-serve"
        subprocess.run(["git", "clone", "--quiet", ROOT, path], check=True)
        yield path


def extract(commit: str, folder: Path) -> Path:
    """Write the files of a commit to a folder."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    return folder


def python(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run this Python on the code of a checkout."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=checkout, env=variables(checkout, environment), capture_output=True, text=True
    )


def variables(checkout: Path, more: Mapping[str, str] = {}) -> dict[str, str]:
    """Environment variables with which this Python imports a checkout, and no setting of the service."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RESNET_SERVE_", "OTEL_"))}
    return {**inherited, "PYTHONPATH": str(checkout), **more}


def lint_imports(checkout: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of a checkout."""
    command = "from importlinter.cli import lint_imports_command as command; command()"
    return python(checkout, "-c", command, "--no-cache", "--no-logo")
