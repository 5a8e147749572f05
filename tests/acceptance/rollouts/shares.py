"""Line 1: versions share the requests of a model by their weights, which change under load."""

from __future__ import annotations

import json
import math
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

import httpx

from models.artifact.traffic import TrafficPolicy, change_traffic
from tests.acceptance.faults.case import Failed
from tests.acceptance.rollouts.versions import copy_versions
from tests.acceptance.workers.served import EXAMPLE, TINY, Workers, check_each, serve
from tests.support.api_keys import KEYS, OPERATOR, WEB, write_keys
from tests.support.load import Answer, Load
from tests.support.worker_processes import wait_until

REQUESTS = 20_000
AGAIN = 2_000
CONNECTIONS = 16
CHANGES = 30
KEY = f"X-API-Key: {WEB}\r\n"
SIGMAS = 4.0
"""Bound of a share, in standard deviations of the binomial distribution: one run in 16,000 is outside."""


def check() -> tuple[bool, str]:
    """Shares, stickiness and changes, with one process and with workers."""
    return check_each(*(partial(_check_with, workers) for workers in (1, 2)))


def _check_with(workers: int) -> str:
    with _served(workers) as (served, traffic):
        figures = [_check_shares(served, weights) for weights in ({1: 95.0, 2: 5.0}, {1: 50.0, 2: 50.0})]
        figures.append(_check_changes(served, traffic))
    return f"{workers} workers: {'; '.join(figures)}"


@contextmanager
def _served(workers: int) -> Iterator[tuple[Workers, Path]]:
    """A service with versions 1 and 2 of `tiny`, and its traffic file."""
    with TemporaryDirectory(prefix="rollouts-") as name:
        folder = Path(name)
        copy_versions(TINY / "tiny" / "1", folder / "repository", 2)
        write_keys(folder / "keys.toml", KEYS)
        traffic = folder / "traffic.toml"
        options = ("--repository", folder / "repository", "--traffic", traffic, "--api-keys", folder / "keys.toml")
        with serve(workers, *options, "--admin", "--executor", "simulated:0") as served:
            yield served, traffic


def _put(served: Workers, weights: dict[int, float], sticky_header: str | None = None) -> None:
    answer = httpx.put(
        f"{served.service.url}/v1/models/tiny/rollout",
        json={"weights": {str(number): weight for number, weight in weights.items()}, "sticky_header": sticky_header},
        headers={"authorization": f"Bearer {OPERATOR}"},
        timeout=60.0,
    )
    if answer.status_code != 200:
        raise Failed(f"the policy was refused: {answer.text}")


def _ask(served: Workers, count: int, header: str, names: list[str]) -> dict[str, str]:
    """Send requests; the version of each, by the value of its header."""
    headers = [f"{KEY}{header}: {name}\r\n" for name in names]
    with Load(served.port, EXAMPLE, CONNECTIONS, _version, limit=count, headers=lambda number: headers[number]) as load:
        load.wait()
    if set(load.statuses) != {200} or len(load.answers) != count:
        raise Failed(f"{count} requests had answers by status {load.statuses}")
    return {names[answer.number]: answer.content for answer in load.answers}


def _check_shares(served: Workers, weights: dict[int, float]) -> str:
    """Shares of new names within the bound, and the same version for names that come again, by both kinds of names."""
    figures = []
    for header in ("X-Request-Id", "X-User"):
        _put(served, weights, None if header == "X-Request-Id" else header)
        names = [secrets.token_hex(8) for _ in range(REQUESTS)]
        versions = _ask(served, REQUESTS, header, names)
        share = weights[2] / sum(weights.values())
        counts = Counter(versions.values())
        off = (counts["2"] - REQUESTS * share) / math.sqrt(REQUESTS * share * (1 - share))
        again = _ask(served, AGAIN, header, names[:AGAIN])
        moved = sum(versions[name] != version for name, version in again.items())
        if abs(off) > SIGMAS or moved or set(counts) != {"1", "2"}:
            raise Failed(f"{weights}: by version {dict(counts)}, {off:+.1f} sigma; {moved} of {AGAIN} moved")
        figures.append(f"{counts['2'] / REQUESTS:.2%} by {header} ({off:+.1f} sigma, {moved} of {AGAIN} moved)")
    return f"of {REQUESTS:,} at {weights[1]:g}:{weights[2]:g}, version 2 got {' and '.join(figures)}"


def _check_changes(served: Workers, traffic: Path) -> str:
    """Weights change under load, by requests and by the file: all requests are answered, by versions with a weight."""
    changes: list[tuple[float, set[str]]] = []
    with Load(served.port, EXAMPLE, CONNECTIONS, _version, headers=lambda number: KEY) as load:
        for turn in range(CHANGES):
            weights = ({1: 1.0}, {1: 1.0, 2: 1.0}, {2: 1.0})[turn % 3]
            if turn % 2:
                change_traffic(traffic, "tiny", TrafficPolicy(weights=weights))
                wait_until(partial(_is_applied, served, weights), "the changed file applies")
            else:
                _put(served, weights)
            changes.append((monotonic(), {str(number) for number in weights}))
            wait_until(partial(_has_answers, load, len(load.answers) + 200), "200 more answers")
            changes.append((monotonic(), {"1", "2"}))  # the next change may apply from now on
    late = [answer for answer in load.answers if answer.content not in _allowed(changes, answer)]
    if set(load.statuses) != {200} or late:
        raise Failed(f"{CHANGES} changes: answers by status {load.statuses}, {len(late)} by a version without a weight")
    return f"{CHANGES} changes under load: {len(load.answers):,} answers, all 200, 0 by a version without a weight"


def _has_answers(load: Load, count: int) -> bool:
    return len(load.answers) >= count


def _allowed(changes: list[tuple[float, set[str]]], answer: Answer) -> set[str]:
    """Versions that may answer a request that was sent after a change was reported, and before the next one began."""
    allowed = {"1", "2"}
    for at, versions in changes:
        if at > answer.sent:
            break
        allowed = versions
    return allowed


def _is_applied(served: Workers, weights: dict[int, float]) -> bool:
    headers = {"authorization": f"Bearer {WEB}"}
    rollout = httpx.get(f"{served.service.url}/v1/models/tiny/rollout", headers=headers, timeout=30.0).json()
    shares = {int(each["version"]): each["share"] for each in rollout["versions"] if each["share"]}
    return shares == {number: weight / sum(weights.values()) for number, weight in weights.items()}


def _version(body: bytes) -> str:
    version: str = json.loads(body)["version"]
    return version
