"""Line 4: no slower than commit 00e1378, and shorter."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import compare
from service.cli.tune_timing import MAX_OTHER_LOAD
from tests.acceptance.house.checkout import ROOT, extract
from tools import count_lines

BEFORE = "00e1378"
QUICK = bool(os.environ.get("HOUSE_QUICK"))
"""One round of two seconds per load: shows that the script works, and says nothing of the speed."""
ROUNDS = 1 if QUICK else 5
RETRIES = 0 if QUICK else 15
"""How often a round that other processes disturbed is measured again, per load."""
MIN_LINES_FEWER = 600


@dataclass(frozen=True)
class Requirement:
    """A load, and how much slower the service may have become."""

    model: str
    connections: int
    min_ratio: float
    seconds: float = 8.0
    """Time of one measurement."""


REQUIREMENTS = (
    Requirement("resnet20", 32, 0.92),
    Requirement("resnet20", 1, 0.97),
    Requirement("resnet50", 32, 0.97, 15.0),
)


@dataclass(frozen=True)
class Comparison:
    """The rounds of one load."""

    requirement: Requirement
    rounds: Sequence[compare.ComparedRound]

    @property
    def holds(self) -> bool:
        """Whether the median is high enough, and no round was disturbed by other processes."""
        return compare.median_ratio(self.rounds) >= self.requirement.min_ratio and not self._disturbed

    @property
    def _disturbed(self) -> int:
        return sum(each.other_load > MAX_OTHER_LOAD for each in self.rounds)

    def __str__(self) -> str:
        load = f"{self.requirement.model} at {self.requirement.connections}"
        disturbed = f", {self._disturbed} rounds disturbed" if self._disturbed else ""
        return f"{load} {compare.median_ratio(self.rounds):.3f} ({self.requirement.min_ratio}{disturbed})"


def check() -> tuple[bool, str]:
    """Throughput in turns with the service of before, both with defaults, and lines of code."""
    with TemporaryDirectory(prefix="house-") as folder:
        before = extract(BEFORE, Path(folder))
        counts = [
            sum(count_lines.count_package(checkout, name) for name in count_lines.PACKAGES)
            for checkout in (before, ROOT)
        ]
        fewer = counts[0] - counts[1]
        print(f"  lines of code before {counts[0]:,}, now {counts[1]:,}", flush=True)
        compared = []
        for requirement in REQUIREMENTS:
            options = compare.repository_options(requirement.model, None)
            sides = compare.Side(before, options), compare.Side(ROOT, options)
            compared.append(measure(*sides, requirement, compare.make_requests(requirement.model)))
    named = BEFORE in (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    return all(each.holds for each in compared) and fewer >= MIN_LINES_FEWER and named, (
        f"median ratios to {BEFORE}: {', '.join(map(str, compared))}; {fewer} lines fewer ({MIN_LINES_FEWER}); "
        f"table in docs/performance.md: {named}"
    )


def measure(
    before: compare.Side, after: compare.Side, requirement: Requirement, requests: Sequence[bytes]
) -> Comparison:
    """The rounds of one load. The service of one side serves while the other rests."""
    load = compare.ComparedLoad(requirement.model, requirement.connections)
    seconds = 2.0 if QUICK else requirement.seconds
    rounds = compare.compare(before, after, load, requests, ROUNDS, seconds, RETRIES, _print)
    return Comparison(requirement, rounds)


def _print(line: str) -> None:
    print(f"  {line}", flush=True)
