"""Line 2: `resnet-export engines` without a GPU, for a ResNet-50 in both precisions."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from models.artifact import manifest
from models.artifact.manifest import Artifact, Manifest
from tests.acceptance.suites import pytest_counts
from tests.support.kernel_networks import write_network
from tests.support.networks import make_checkpoint
from tests.support.thorough import VARIABLE

LIMIT_SECONDS = 600
_BLOCKED = """
import importlib.abc, sys
class NoTorch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] == 'torch':
            raise ImportError('torch is blocked')
sys.meta_path.insert(0, NoTorch())
"""


def check() -> tuple[bool, str]:
    """Build for sm_90 with torch blocked; then inspect."""
    with tempfile.TemporaryDirectory() as folder:
        version = write_version(Path(folder) / "repository" / "resnet50" / "1")
        cache = Path(folder) / "cache"
        started = time.monotonic()
        built = _command(folder, "engines", str(version), "--runtime", "cuda", "--compute-capability", "9.0",
                         "--cache", str(cache), "--no-measure")  # fmt: skip
        seconds = time.monotonic() - started
        print(built, flush=True)
        shown = _command(folder, "inspect", str(version), "--cache", str(cache), "--kernels")
        print(shown, flush=True)
        fused = re.findall(r"16 of 16 residual additions fused", shown)
        engines = sorted(path.name for path in cache.rglob("*.engine"))
        holds = built.count("built: ") == 2 and len(fused) == 2 and seconds < LIMIT_SECONDS and len(engines) == 2
    passed, counts = pytest_counts("tests/integration/test_cuda_compile.py", **{VARIABLE: "1"})
    figures = f"{', '.join(engines)} in {seconds:.0f} s (limit {LIMIT_SECONDS}), {len(fused)} of 2 with 16 of 16"
    return holds and passed, f"{figures}; every precision for every architecture: {counts}"


def write_version(version: Path) -> Path:
    """A version with the files of a ResNet-50 for 224 x 224, without the rest of a repository's files."""
    version.mkdir(parents=True)
    files = write_network("resnet50", version, size=224, classes=1000)
    checkpoint = make_checkpoint("resnet50", size=224, classes=1000)
    described = Manifest(
        schema=1,
        name="resnet50",
        version=1,
        architecture=checkpoint.architecture,
        labels=checkpoint.labels,
        preprocess=checkpoint.preprocess,
        artifacts=(
            Artifact(
                file=files.float32.name, format="onnx", precision="float32", sha256=manifest.sha256(files.float32)
            ),
            Artifact(file=files.int8.name, format="onnx", precision="int8", sha256=manifest.sha256(files.int8)),
        ),
        golden_sha256="0" * 64,
    )
    (version / manifest.FILE_NAME).write_text(described.to_json())
    return version


def _command(folder: str, *arguments: str) -> str:
    """Output of `resnet-export` in processes that cannot import torch."""
    blocked = Path(folder) / "blocked"
    blocked.mkdir(exist_ok=True)
    (blocked / "sitecustomize.py").write_text(_BLOCKED)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{blocked}:{Path.cwd()}",
        "COLUMNS": "200",
    }
    command = [sys.executable, "-m", "export", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return done.stdout + done.stderr
