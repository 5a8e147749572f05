"""The memory of the service and of its models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from service.core.process_memory import ServiceMemory
from service.registry.loader import Footprint
from service.registry.repository import VersionDir
from service.registry.residency.costs import Costs
from service.telemetry import statistics
from service.telemetry.statistics import Statistics

_HOLD = "import sys; held = bytearray({}); print('held', flush=True); sys.stdin.read()"


def test_memory_of_the_service_includes_processes_of_its_processes() -> None:
    """A process holds 40 MB, and its child 80 MB: the kernel's VmRSS of both is the reference."""
    inner = _HOLD.format(80_000_000)
    outer = f"import subprocess; subprocess.Popen([{sys.executable!r}, '-c', {inner!r}]); " + _HOLD.format(40_000_000)
    with subprocess.Popen([sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == [b"held\n"] * 2
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        expected = sum(_status(pid) for pid in (str(process.pid), child))
        assert ServiceMemory(process.pid).resident_bytes() == pytest.approx(expected, rel=0.02)
        assert expected > 120_000_000
        process.kill()


def _status(pid: str) -> int:
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(lines["VmRSS"].split()[0]) * 1024


@pytest.mark.parametrize(
    ("file_bytes", "side", "resident", "peak"),
    [
        (1_098_447, 32, 25.5e6, 26.5e6),
        (46_751_994, 64, 166e6, 263e6),
        (46_751_994, 224, 276e6, 335e6),
        (102_154_664, 224, 700e6, 840e6),
        (25_900_000, 224, 288e6, 338e6),
    ],
    ids=["resnet20", "resnet18, small images", "resnet18", "resnet50", "resnet50, int8"],
)
def test_estimate_is_near_the_measured_memory(file_bytes: int, side: int, resident: float, peak: float) -> None:
    """Resident memory of the process before and after a load, and its largest value meanwhile; three instances."""
    estimate = Costs(lambda folder: Footprint(file_bytes, 3, side * side)).estimate(VersionDir(Path("a/1"), ()))
    assert resident * 0.65 <= estimate.resident <= resident * 1.5
    assert peak * 0.75 <= estimate.peak <= peak * 1.55


def test_measurements_correct_the_estimates() -> None:
    costs = Costs(lambda folder: Footprint(1_000_000, 1, 1024))
    first, second = VersionDir(Path("a/1"), (("model.onnx", 1, 1),)), VersionDir(Path("b/1"), ())
    before = costs.estimate(first)
    costs.learn(first, before, 2 * before.resident)
    assert costs.estimate(first).resident == 2 * before.resident
    assert before.resident < costs.estimate(second).resident < 2 * before.resident
    changed = VersionDir(Path("a/1"), (("model.onnx", 2, 2),))
    assert costs.estimate(changed).resident == costs.estimate(second).resident
    for _ in range(20):
        costs.learn(first, costs.estimate(first), before.resident)
    assert costs.estimate(first).resident == pytest.approx(before.resident, rel=0.01)


def test_costs_are_known_without_reading_until_the_content_changes() -> None:
    costs = Costs(lambda folder: Footprint(1_000_000 if folder.parent.name == "small" else 20_000_000, 1, 1024))
    small, large = VersionDir(Path("small/1"), ()), VersionDir(Path("large/1"), ())
    assert costs.known(small) is None
    assert costs.resident([small, large]) == 0
    estimates = costs.estimate(small), costs.estimate(large)
    assert (costs.known(small), costs.known(large)) == estimates
    assert costs.resident([small, large]) == sum(estimate.resident for estimate in estimates)
    assert costs.known(VersionDir(Path("small/1"), (("model.onnx", 1, 1),))) is None
    costs.learn(large, estimates[1], 2 * estimates[1].resident)
    assert costs.resident([large]) == 2 * estimates[1].resident
    costs.keep_only({small.folder})
    assert costs.known(small) is not None
    assert costs.known(large) is None


def test_a_clock_that_is_set_does_not_change_the_order_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(statistics, "time", clock)
    first, second = Statistics(), Statistics()
    first.succeeded(1, 0.0, 0.0, 0.0, 0.0)
    clock.wall, clock.elapsed = 500.0, 1.0
    second.succeeded(1, 0.0, 0.0, 0.0, 0.0)
    assert (first.last_inference, second.last_inference) == (1000.0, 500.0)
    assert first.last_used < second.last_used


class Clock:
    """Stands for the module `time`."""

    wall, elapsed = 1000.0, 0.0

    def time(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.elapsed
