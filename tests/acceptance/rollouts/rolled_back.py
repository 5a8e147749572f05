"""Line 4: a version that is wrong, slow, or dies is rolled back by rules, and no request is lost."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from models.artifact.traffic import Rules, TrafficPolicy, change_traffic, read_traffic
from tests.acceptance.faults.case import Failed
from tests.acceptance.faults.served import ServedProcess, serve
from tests.acceptance.rollouts.versions import copy_versions
from tests.acceptance.workers.served import EXAMPLE, TINY, check_each
from tests.support.load import Load
from tests.support.worker_processes import wait_until

CONNECTIONS = 4
IMAGES = 300
BATCH_MS = 5
"""Long beside the delays on a busy machine, so that a version which takes three times as long shows."""
MORE = 400
"""Answers after the decision, which must all be of version 1."""
MODULE = "tests.acceptance.rollouts.fixed_service"
RULES = Rules(candidate=2, min_images=IMAGES, min_agreement=0.95, max_slowdown=2.0)
REASONS = {
    "wrong": r"0 of \d+ images have the same label first",
    "slow": r"its p99 is \d+\.\d+ times that of version 1, the bound is 2",
    "error": r"\d+ of its batches failed, and 0 may",
    "lost": r"is lost: it fell off the bus",
    "damaged": r"it could not be loaded: .*not what the manifest describes",
}


def check() -> tuple[bool, str]:
    """Each fault, with one process and with workers; and an equal version, which is promoted."""
    faults = [partial(_check_fault, fault, workers) for workers in (1, 2) for fault in REASONS]
    return check_each(*faults, *(partial(_check_equal, workers) for workers in (1, 2)))


def _check_fault(fault: str, workers: int) -> str:
    return _check(fault, workers, REASONS[fault], promoted=False)


def _check_equal(workers: int) -> str:
    return _check("equal", workers, r"\d+ of \d+ images have the same label first, 100\.00%", promoted=True)


def _check(fault: str, workers: int, reason: str, *, promoted: bool) -> str:
    """Load on version 1 (80 %) and version 2 (20 %) until the rules decide, and then some more."""
    with TemporaryDirectory(prefix="rollouts-") as name:
        folder = Path(name)
        _, second = copy_versions(TINY / "tiny" / "1", folder / "repository", 2)
        _change(second, fault)
        traffic = folder / "traffic.toml"
        change_traffic(traffic, "tiny", TrafficPolicy(weights={1: 80, 2: 20}, shadow={2: 1.0}, rules=RULES))
        options = ("--repository", str(folder / "repository"), "--traffic", str(traffic), "--workers", str(workers))
        executor = ("--executor", f"fixed:{BATCH_MS}-2")
        log = str(folder / "batches.log")
        with serve(*options, *executor, module=MODULE, FIXED_LOG=log, FIXED_FAULT=fault) as service:
            with Load(service.port, EXAMPLE, CONNECTIONS, _version) as load:
                wait_until(lambda: read_traffic(traffic)["tiny"].rules is None, "the rules decide")
                _wait_until_applied(load, promoted)
                decided = len(load.answers)
                wait_until(lambda: len(load.answers) >= decided + MORE, "more answers")
            line = _line(service)
    counts = Counter(answer.content for answer in load.answers)
    after = Counter(answer.content for answer in load.answers[decided:])
    stayed = "2" if promoted else "1"
    images = int(found[1]) if (found := re.search(r"of (\d+) images", line)) else 0
    text = f"{fault}, {workers} workers: {dict(counts)} answers, then {dict(after)}; {line!r}"
    if set(load.statuses) != {200} or set(after) != {stayed} or not re.search(reason, line) or images > 1.2 * IMAGES:
        raise Failed(f"{text}; by status {load.statuses}")
    return text


def _change(version: Path, fault: str) -> None:
    path = version / "manifest.json"
    if fault == "wrong":
        described = json.loads(path.read_text())
        path.write_text(json.dumps({**described, "labels": [f"not {label}" for label in described["labels"]]}))
    elif fault == "damaged":
        with (version / "model.onnx").open("ab") as file:
            file.write(b"\0")


def _wait_until_applied(load: Load, promoted: bool) -> None:
    """Wait for 100 answers in a row by the version that gets all requests."""
    stayed = "2" if promoted else "1"
    wait_until(lambda: {answer.content for answer in load.answers[-100:]} == {stayed}, "the decision applies")


def _line(service: ServedProcess) -> str:
    """The line of the log with the decision."""
    lines = [line for line in service.log.splitlines() if re.search("version 2 gets (all|no) requests", line)]
    if len(lines) != 1:
        raise Failed(f"{len(lines)} lines of the log have the decision")
    message: str = json.loads(lines[0])["message"] if lines[0].startswith("{") else lines[0]
    return message


def _version(body: bytes) -> str:
    version: str = json.loads(body)["version"]
    return version
