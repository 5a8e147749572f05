"""Clients that ask Ray Serve all the time, with the fate of each request."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock, Thread

import httpx

from service.core.settings import shipped_repository

EXAMPLES = {
    path.read_bytes(): path.stem.replace("-", " ").capitalize()
    for path in sorted((Path(shipped_repository()).parent / "examples").glob("*.png"))
}
"""Held images of the shipped model, with the class that each is known to show."""
PNG = {"Content-Type": "image/png"}
TIMEOUT = 30.0


@dataclass(frozen=True)
class Outcome:
    """The fate of one request."""

    begun: float
    """Seconds, monotonic."""
    ended: float
    problem: str
    """Empty if it was answered with the class that the image shows."""
    version: str

    def in_flight(self, moment: float) -> bool:
        """Whether the client waited for the answer at a moment."""
        return self.begun <= moment <= self.ended


class Load:
    """Clients with one connection each, from `__enter__` to `__exit__`."""

    def __init__(self, url: str, clients: int) -> None:
        self.outcomes: list[Outcome] = []
        self._url = url
        self._stop = Event()
        self._lock = Lock()
        self._grown = Event()
        self._threads = [Thread(target=self._run, args=(number,)) for number in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        self.wait_for_answers(len(self._threads))
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_answers(self, count: int, version: str | None = None) -> None:
        """Wait until so many further requests were answered, the last ones in a row by a version, if one is given."""
        begin = len(self.outcomes)
        end = time.monotonic() + 4 * TIMEOUT
        while time.monotonic() < end:
            self._grown.wait(1.0)
            self._grown.clear()
            with self._lock:
                latest = self.outcomes[begin:][-count:]
            if len(latest) == count and (version is None or {each.version for each in latest} == {version}):
                return
        raise TimeoutError(f"no {count} answers{f' of version {version}' if version else ''}")

    @property
    def problems(self) -> Sequence[Outcome]:
        """The requests without the right answer."""
        return [each for each in self.outcomes if each.problem]

    @property
    def slowest(self) -> float:
        """Seconds of the longest request."""
        return max(each.ended - each.begun for each in self.outcomes)

    def _run(self, number: int) -> None:
        examples = itertools.islice(itertools.cycle(EXAMPLES.items()), number, None)
        with httpx.Client(base_url=self._url, timeout=TIMEOUT) as client:
            for content, label in examples:
                if self._stop.is_set():
                    return
                outcome = _ask(client, content, label)
                with self._lock:
                    self.outcomes.append(outcome)
                self._grown.set()


def _ask(client: httpx.Client, content: bytes, label: str) -> Outcome:
    begun, version, problem = time.monotonic(), "", ""
    try:
        answer = client.post("/v1/classify", content=content, headers=PNG)
        if answer.status_code == 200:
            body = answer.json()
            version = body["version"]
            found = body["results"][0]["predictions"][0]["label"]
            problem = "" if found == label else f"{label} was classified as {found}"
        else:
            problem = f"status {answer.status_code}: {answer.text[:200]}"
    except httpx.HTTPError as error:
        problem = repr(error)
    return Outcome(begun, time.monotonic(), problem, version)
