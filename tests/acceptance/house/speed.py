"""Line 4: no slower than commit 00e1378, and shorter."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import compare
from benchmarks.serve import payloads
from export.build import build
from tests.acceptance.house.checkout import ROOT, extract
from tests.support.networks import make_checkpoint
from tools import count_lines

BEFORE = "00e1378"
QUICK = bool(os.environ.get("HOUSE_QUICK"))
"""One round of two seconds per load: shows that the script works, and says nothing of the speed."""
ROUNDS = 1 if QUICK else 5
RETRIES = 0 if QUICK else 15
"""How often a round that other processes disturbed is measured again, per load."""
MIN_LINES_FEWER = 600
SMALL, LARGE = "fashion-mnist-resnet20", "resnet50"


@dataclass(frozen=True)
class Requirement:
    """A load, and how much slower the service may have become."""

    model: str
    connections: int
    min_ratio: float
    seconds: float


REQUIREMENTS = (
    Requirement(SMALL, 32, 0.92, 8.0),
    Requirement(SMALL, 1, 0.97, 8.0),
    Requirement(LARGE, 32, 0.97, 15.0),
)


def check() -> tuple[bool, str]:
    """Throughput in turns with the service of before, both with defaults, and lines of code."""
    with TemporaryDirectory(prefix="house-") as folder:
        before = extract(BEFORE, Path(folder) / "before")
        fewer = sum(count_lines.count_package(before, name) for name in count_lines.PACKAGES) - sum(
            count_lines.count_package(ROOT, name) for name in count_lines.PACKAGES
        )
        print(f"  {fewer} lines of code fewer", flush=True)
        repository = _resnet50(Path(folder))
        figures, holds = [], fewer >= MIN_LINES_FEWER
        for requirement in REQUIREMENTS:
            options = () if requirement.model == SMALL else ("--repository", str(repository))
            measured = measure(
                compare.Side(before, options), compare.Side(ROOT, options), requirement, _requests(requirement.model)
            )
            ratio = compare.median_ratio(measured)
            disturbed = sum(each.other_load > compare.MAX_OTHER_LOAD for each in measured)
            holds &= ratio >= requirement.min_ratio and not disturbed
            figures.append(
                f"{requirement.model} at {requirement.connections} {ratio:.3f} ({requirement.min_ratio}"
                f"{f', {disturbed} rounds disturbed' if disturbed else ''})"
            )
    named = BEFORE in (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    return holds and named, (
        f"median ratios to {BEFORE}: {', '.join(figures)}; {fewer} lines fewer ({MIN_LINES_FEWER}); "
        f"table in docs/performance.md: {named}"
    )


def measure(
    before: compare.Side, after: compare.Side, requirement: Requirement, requests: Sequence[bytes]
) -> list[compare.Round]:
    """The rounds of one load. The service of one side serves while the other rests."""
    load = compare.Load(requirement.model, requirement.connections)
    return compare.compare(before, after, load, requests, ROUNDS, 2.0 if QUICK else requirement.seconds, RETRIES)


def small_requests() -> list[bytes]:
    """Requests with the images that ship with the small model."""
    return _requests(SMALL)


def _requests(model: str) -> list[bytes]:
    if model == SMALL:
        return payloads.single(payloads.photographs(ROOT / "models" / "pretrained" / "examples"), "PNG", model)
    photographs = payloads.photographs(ROOT / "export" / "photographs")
    return payloads.single(payloads.encoded(photographs, "JPEG"), "JPEG", model)


def _resnet50(folder: Path) -> Path:
    """A repository with a ResNet-50 of random weights that both services can read."""
    make_checkpoint(LARGE, size=224, classes=1000).save(folder / "checkpoint.safetensors")
    build(folder / "checkpoint.safetensors", folder / "repository", LARGE)
    return folder / "repository"
