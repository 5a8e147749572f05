"""Line 3: the fast loop and the whole suite, in parallel and in any order."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.acceptance.house.checkout import ROOT, variables

MAX_FAST_SECONDS = 60
MAX_SECONDS = 600
MIN_SHARE = 0.5
"""Share of the modules of each layer that the fast loop calls a function of."""
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Outcome:
    """A run of tests."""

    passed: bool
    seconds: float


def check() -> tuple[bool, str]:
    """Times of the two loops, and the whole suite twice in two processes and twice in one, in random orders."""
    fast = _run("make test-fast", *_make("test-fast"))
    shares = _shares_of_layers()
    low = {layer: f"{share:.0%}" for layer, share in shares.items() if share < MIN_SHARE}
    parallel = [_run("make test", *_make("test")) for _ in range(2)]
    serial = [_run("pytest in one process", sys.executable, "-m", "pytest") for _ in range(2)]
    passed = all(outcome.passed for outcome in (fast, *parallel, *serial))
    times = [", ".join(f"{outcome.seconds:.0f}" for outcome in outcomes) for outcomes in (parallel, serial)]
    holds = passed and fast.seconds <= MAX_FAST_SECONDS and max(run.seconds for run in parallel) <= MAX_SECONDS
    return holds and not low, (
        f"make test-fast {fast.seconds:.0f} s ({MAX_FAST_SECONDS}), calls at least {min(shares.values()):.0%} of the "
        f"modules of each of {len(shares)} layers ({MIN_SHARE:.0%}{f', less: {low}' if low else ''}); make test with "
        f"two processes {times[0]} s ({MAX_SECONDS}); in one process {times[1]} s; all passed: {passed}"
    )


def _make(target: str) -> list[str]:
    """A target of the Makefile, with this Python and without an installation."""
    return ["make", "--old-file=.venv/test.done", f"BIN={BIN}", "PROCESSES=2", target]


def _run(name: str, *command: str, **environment: str) -> Outcome:
    """Run tests in a random order. Each run has another seed, which is shown with the summary."""
    begun = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=variables(ROOT, environment), capture_output=True, text=True)
    seconds = time.monotonic() - begun
    lines = done.stdout.strip().splitlines() or ["no output"]
    seed = re.search(r"--randomly-seed=\d+", done.stdout)
    print(f"  {seconds:6.1f} s  {name}, {seed[0] if seed else 'order not random'}: {lines[-1].strip('= ')}", flush=True)
    if done.returncode:
        failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        print(*(f"    {line}" for line in failed or [done.stderr[-2000:]]), sep="\n", flush=True)
    return Outcome(done.returncode == 0 and seed is not None, seconds)


def _shares_of_layers() -> dict[str, float]:
    """For each package of service and models, and for export, the share of modules that the fast loop calls."""
    with TemporaryDirectory(prefix="house-") as folder:
        plugin = {"PYTEST_ADDOPTS": "-p tests.acceptance.house.called", "CALLED": folder}
        _run("make test-fast, recorded", *_make("test-fast"), **plugin)
        called = {line for file in Path(folder).iterdir() for line in file.read_text().splitlines()}
    shares = {}
    for layer in _layers():
        modules = [path for path in layer.rglob("*.py") if "def " in path.read_text(encoding="utf-8")]
        found = [path for path in modules if path.relative_to(ROOT).as_posix() in called]
        if modules:
            shares[layer.relative_to(ROOT).as_posix()] = len(found) / len(modules)
            missing = [path.name for path in modules if path not in found]
            print(f"    {layer.relative_to(ROOT)}: {len(found)} of {len(modules)}, not called: {missing or 'none'}")
    return shares


def _layers() -> list[Path]:
    packages = [path.parent for name in ("service", "models") for path in sorted((ROOT / name).glob("*/__init__.py"))]
    return [*packages, ROOT / "export"]
