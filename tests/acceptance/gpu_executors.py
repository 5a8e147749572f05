"""Executors on GPUs: `python -m tests.acceptance.gpu_executors [LINE…]`.

Needs the `cpu`, `train` and `dev` extras and `tensorrt-rtx-cu13`. `docs/gpu/report.md` holds the
measurements on a GPU.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from benchmarks.gpu.__main__ import STEPS
from models.runtime.cuda import device as cuda
from service import executors
from tests.acceptance.report import run
from tests.support.fake_cuda import FakeRuntime, Kind
from tests.support.fake_network import virtual_seconds
from tests.support.gpu import why_not

ROOT = Path(__file__).parents[2]


def _pytest(*arguments: str) -> tuple[bool, str]:
    """Whether tests pass, and the counts. The reasons of those that are skipped are shown."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "-o", "addopts=", *arguments],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    lines = done.stdout.strip().splitlines()
    print("\n".join(f"  {line}" for line in lines if line.startswith(("SKIPPED", "FAILED", "ERROR"))), flush=True)
    return done.returncode == 0, lines[-1].strip("= ") if lines else done.stderr


def line_1() -> tuple[bool, str]:
    """One suite over every executor; the lanes on a fake device that is checked against the real ones."""
    passed, suite = _pytest("tests/integration/test_conformance.py")
    lanes_passed, lanes = _pytest(
        "tests/gpu/test_cuda_streams.py",
        "tests/gpu/test_devices.py",
        "tests/gpu/test_tensorrt_executor.py",
        "tests/gpu/test_onnxruntime_cuda.py",
        "tests/gpu/test_gpu_jpeg.py",
        "tests/gpu/test_gpu_resize.py",
        "tests/gpu/test_gpu_batcher.py",
    )
    return passed and lanes_passed, f"{', '.join(executors.names())}: {suite}; lanes: {lanes}"


def line_2() -> tuple[bool, str]:
    """Two lanes against the time of the kernels alone, in virtual time."""
    shares = {}
    for copies in (0.1, 0.3, 0.45):
        work: dict[Kind, float] = {"in": copies, "compute": 1.0, "out": copies}
        with pytest.MonkeyPatch.context() as patch:
            fake = FakeRuntime()
            patch.setattr(cuda, "runtime", fake)
            shares[copies] = [200 / virtual_seconds(fake, lanes, 200, work) for lanes in (1, 2)]
    figures = [f"copies {2 * copies:.1f}: {one:.1%}, {two:.1%}" for copies, (one, two) in shares.items()]
    return min(two for _, two in shares.values()) >= 0.95, f"share of the bound, one lane and two: {'; '.join(figures)}"


def line_3() -> tuple[bool, str]:
    """Without a driver, and with plans from elsewhere, each in a process of its own."""
    passed, counts = _pytest("tests/gpu/test_tensorrt_executor.py", "-k", "no_native_runtime")
    return passed and "skipped" not in counts, f"processes that ended by themselves: {counts}"


def line_4() -> tuple[bool, str]:
    """The script without a GPU; and the report of a machine with one, in the repository."""
    committed = (ROOT / "docs" / "gpu" / "report.md").read_text()
    on_gpu = committed.startswith("# GPU report: NVIDIA")
    head = committed.partition("\n")[0].removeprefix("# ")
    there = f"committed: {head}, with {len(_not_done(committed))} things that it could not do"
    if (reason := why_not()) is not None:
        with TemporaryDirectory() as folder:
            script = [str(ROOT / "benchmarks" / "gpu.sh"), folder]
            done = subprocess.run(
                script, capture_output=True, text=True, env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}
            )
            report = (Path(folder) / "report.md").read_text()
        missing = _not_done(report)
        without = done.returncode == 0 and len(missing) == len(STEPS) and all(line.endswith(reason) for line in missing)
        return without and on_gpu, f"{len(missing)} steps not done here, each for: {reason}; {there}"
    return on_gpu, there


def _not_done(report: str) -> list[str]:
    return report.partition("## Not done\n\n")[2].strip().splitlines()


def line_5() -> tuple[bool, str]:
    """Files of the service, of the table of engines and of the packaging that name an executor that is no default."""
    name = "openvino"
    pattern = re.compile(rf"executors[./]{name}|\"{name}\"|'{name}'")
    files = [*(ROOT / "service").rglob("*.py"), ROOT / "benchmarks" / "engines.py", ROOT / "pyproject.toml"]
    named = [
        str(path.relative_to(ROOT))
        for path in files
        if path.stem == name or pattern.search(path.read_text(encoding="utf-8"))
    ]
    with TemporaryDirectory() as folder:
        found = _with_another(Path(folder))
    few = set(named) <= {f"service/executors/{name}.py", "pyproject.toml"}
    return few and found, f"{name}: {', '.join(named)}; a new file alone is found, chosen and computed with: {found}"


def _with_another(folder: Path) -> bool:
    """Whether a file that is put beside the others is an executor, in the list and in the conformance suite."""
    source = (ROOT / "service" / "executors" / "onnxruntime_cpu.py").read_text()
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder / "checkout")], check=True)
    checkout = folder / "checkout"
    (checkout / "service" / "executors" / "another_one.py").write_text(source)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "tests/integration/test_conformance.py",
        "-k",
        "another-one",
    ]
    done = subprocess.run(
        [*command, "-o", "addopts="],
        capture_output=True,
        text=True,
        cwd=checkout,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(checkout)},
    )
    print("  " + done.stdout.strip().splitlines()[-1], flush=True)
    return done.returncode == 0 and " passed" in done.stdout


if __name__ == "__main__":
    run({1: line_1, 2: line_2, 3: line_3, 4: line_4, 5: line_5})
