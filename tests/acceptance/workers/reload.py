"""Line 5: versions are added, replaced and removed under load."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import httpx

from tests.acceptance.faults.served import ROOT
from tests.acceptance.workers.served import TINY, Workers, serve
from tests.support.load import Answer, Load
from tests.support.worker_processes import wait_until

WORKERS = 4
CONNECTIONS = 32
SECONDS = 60.0
ROUNDS = 10
MAX_ARRIVAL_SECONDS = 0.1
PHOTOGRAPH = (ROOT / "export" / "photographs" / "cat.jpg").read_bytes()


class Source(NamedTuple):
    """The version that an answer is from, and its generation, which its labels name."""

    version: str
    generation: str


def check() -> tuple[bool, str]:
    """32 connections for 60 s, while versions come and go ten times."""
    with TemporaryDirectory(prefix="workers-") as folder:
        repository = Path(shutil.copytree(TINY, Path(folder) / "repository"))
        with serve(WORKERS, "--repository", repository) as workers:
            changes = Changes(workers, repository / "tiny")
            started = time.monotonic()
            with Load(workers.port, PHOTOGRAPH, CONNECTIONS, _read, path="/v1/classify?top_k=1") as load:
                for turn in range(ROUNDS):
                    changes.play_round(turn)
                    print(f"  round {turn + 1}: {time.monotonic() - started:.0f} s", flush=True)
                time.sleep(max(0.0, started + SECONDS - time.monotonic()))
    late = changes.find_late(load.answers)
    sources = {answer.content for answer in load.answers if answer.status == 200}
    arrival = changes.longest_arrival(load.answers)
    slowest = max(answer.seconds for answer in load.answers)
    holds = set(load.statuses) == {200} and not late and not changes.refused and arrival <= MAX_ARRIVAL_SECONDS
    return holds and len(sources) > ROUNDS, (
        f"{len(load.answers)} answers by status {load.statuses} from {len(sources)} versions and replacements, slowest "
        f"{slowest:.2f} s, to requests after their version was reported gone: {dict(late) or 'none'}, latest arrival "
        f"of an answer {arrival * 1000:+.0f} ms from that report ({MAX_ARRIVAL_SECONDS * 1000:.0f}), "
        f"refused questions about the model: {dict(changes.refused) or 'none'}"
    )


class Changes:
    """Changes the versions of a model, and notes the times at which they are reported.

    Args:
        workers: the service.
        model: folder of the model, with version 1.
    """

    def __init__(self, workers: Workers, model: Path) -> None:
        self._url = f"{workers.service.url}/v1/models/{model.name}"
        self._model = model
        self._original = model.parent / ".original"
        shutil.copytree(model / "1", self._original)
        self.refused: Counter[str] = Counter()
        """Answers about the model that are errors."""
        self._gone: dict[Source, float] = {}
        """Monotonic time at which a version or its replaced content was reported gone."""

    def play_round(self, turn: int) -> None:
        """Add a version, replace it, add another, and remove both, each once the service reports the last change."""
        first, second = 2 * turn + 2, 2 * turn + 3
        self._add(first)
        self._wait(lambda info: _state(info, first) == "READY")
        self._write_labels(self._model / str(first), first, "replaced")
        self._note(Source(str(first), "original"), lambda info: info["labels"][0].startswith("replaced"))
        self._add(second)
        self._wait(lambda info: _state(info, second) == "READY")
        for number, generation in ((second, "original"), (first, "replaced")):
            shutil.rmtree(self._model / str(number))
            self._note(Source(str(number), generation), partial(_is_gone, number))

    def find_late(self, answers: Sequence[Answer]) -> Counter[str]:
        """Answers to requests that were sent after their version, or its replaced content, was reported gone."""
        late: Counter[str] = Counter()
        for answer in answers:
            if answer.sent > self._gone.get(answer.content, answer.sent):
                late[f"version {answer.content.version}, {answer.content.generation}"] += 1
        return late

    def longest_arrival(self, answers: Sequence[Answer]) -> float:
        """Seconds by which the latest answer of a version arrived after it was reported gone.

        The clients and the questions about the model share a process, so some milliseconds say nothing.
        """
        gone = {source: at for source, at in self._gone.items() if Source(source.version, "replaced") not in self._gone}
        arrivals = [answer.sent + answer.seconds - gone[answer.content] for answer in answers if answer.content in gone]
        return max(arrivals)

    def _add(self, number: int) -> None:
        staging = Path(shutil.copytree(self._original, self._model / ".staging"))
        self._write_labels(staging, number, "original")
        staging.rename(self._model / str(number))

    def _write_labels(self, version: Path, number: int, generation: str) -> None:
        path = version / "manifest.json"
        described = json.loads(path.read_text())
        labels = [f"{generation} {index}" for index in range(len(described["labels"]))]
        staging = version.parent / ".manifest"
        staging.write_text(json.dumps({**described, "version": number, "labels": labels}))
        os.replace(staging, path)

    def _note(self, source: Source, gone: Callable[[dict[str, Any]], bool]) -> None:
        self._wait(gone)
        self._gone[source] = time.monotonic()

    def _wait(self, holds: Callable[[dict[str, Any]], bool]) -> None:
        """Ask over new connections, so that any worker answers."""

        def reported() -> bool:
            answer = httpx.get(self._url, timeout=30.0)
            if not answer.is_success:
                self.refused[f"{answer.status_code} {answer.json()['detail']}"] += 1
                return False
            return holds(answer.json())

        wait_until(reported, "a change is reported")


def _state(info: dict[str, Any], number: int) -> str | None:
    """State of a version; None if it is not reported."""
    return next((each["state"] for each in info["versions"] if each["version"] == str(number)), None)


def _is_gone(number: int, info: dict[str, Any]) -> bool:
    return _state(info, number) is None


def _read(body: bytes) -> Source:
    answer = json.loads(body)
    return Source(answer["version"], answer["results"][0]["predictions"][0]["label"].split()[0])
