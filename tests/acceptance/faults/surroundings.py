"""Cases 12, 13, 14 and 17: surroundings that fail."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import httpx

from models.artifact import manifest
from models.runtime import tuning
from models.runtime.tuning import Bounds, Host, Measurement, TuningProfile
from service.core.cpus import available_cpus
from service.core.settings import shipped_repository
from tests.acceptance.faults.case import check, expect
from tests.acceptance.faults.served import ROOT, ServedProcess, serve

_SHIPPED = shipped_repository()
_MODEL = "fashion-mnist-resnet20"
_DROPPED = "resnet_log_lines_dropped_total"
TIMEOUT = 20.0
"""Seconds within which a change must show."""


def _wait_for(holds: Callable[[], bool], message: str, seconds: float = TIMEOUT) -> float:
    """Wait until something holds. Returns the seconds that it took."""
    started = time.monotonic()
    while not holds():
        expect(time.monotonic() - started < seconds, f"{message}, after {seconds:.0f} s")
        time.sleep(0.05)
    return time.monotonic() - started


def _add_version(repository: Path, number: int, name: str = _MODEL, hangs: bool = False) -> Path:
    """Add the shipped model under another name and number, as an export does: complete, by a rename.

    With `hangs`, to open its weights waits for a process that writes into a pipe, and no process does.
    """
    model = repository / name
    model.mkdir(parents=True, exist_ok=True)
    partial = Path(shutil.copytree(_SHIPPED / _MODEL / "1", model / f".{number}"))
    path = partial / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "name": name, "version": number}))
    if hangs:
        (partial / "model.onnx").unlink()
        os.mkfifo(partial / "model.onnx")
    return partial.rename(model / str(number))


def _wait_for_version(service: ServedProcess, number: int, seconds: float = TIMEOUT) -> float:
    """Wait until requests without a version are answered by this one. Returns the seconds that it took."""
    message = f"version {number} does not serve"
    return _wait_for(lambda: _classify(service).json()["version"] == str(number), message, seconds)


def _ready(service: ServedProcess) -> httpx.Response:
    return httpx.get(f"{service.url}/readyz?verbose", timeout=30)


def _expect_end(service: ServedProcess, seconds: float) -> float:
    """Send SIGTERM, and expect success. Returns the seconds that it took."""
    ended = service.terminate()
    expect(ended <= seconds, f"the service took {ended:.1f} s to end")
    expect(service.process.returncode == 0, f"the service ended with {service.process.returncode}")
    return ended


@check(12, "the root of the repository is replaced: symlink swap, removed and created again, renamed")
def root_is_replaced(folder: Path) -> str:
    first, link = folder / "first", folder / "link"
    _add_version(first, 1)
    link.symlink_to(first)
    seconds = []
    with serve("--repository", str(link)) as service:
        for number in (2, 3):
            _add_version(folder / f"root-{number}", number)
            (folder / "new-link").symlink_to(folder / f"root-{number}")
            (folder / "new-link").rename(link)
            seconds.append(_wait_for_version(service, number))
        root = folder / "root-3"
        shutil.rmtree(root)
        _add_version(root, 4)
        seconds.append(_wait_for_version(service, 4))
        root.rename(folder / "away")
        time.sleep(3)
        expect(_classify(service).json()["version"] == "4", "the service forgets its model while the root is missing")
        _add_version(folder / "other", 5)
        (folder / "other").rename(root)
        seconds.append(_wait_for_version(service, 5))
    return f"noticed within {max(seconds):.1f} s"


@check(12, "a flood of file events, after which the kernel drops them")
def events_are_dropped(folder: Path) -> str:
    repository = folder / "repository"
    _add_version(repository, 1)
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    with serve("--repository", str(repository)) as service:
        file = repository / _MODEL / "1" / "touched"
        for _ in range(2 * limit):
            file.touch()
            file.unlink()
        _add_version(repository, 2)
        seconds = _wait_for_version(service, 2)
    return f"noticed within {seconds:.1f} s after {4 * limit:,} changes"


@check(12, "link loops and unreadable files beside a good model")
def link_loops(folder: Path) -> str:
    repository = folder / "repository"
    _add_version(repository, 1)
    with serve("--repository", str(repository)) as service:
        (repository / "loop").symlink_to("loop")
        (repository / _MODEL / "up").symlink_to("..")
        (repository / _MODEL / "8").symlink_to("8")
        weights = _add_version(repository, 9) / "model.onnx"
        weights.unlink()
        weights.symlink_to(weights)
        closed = _add_version(repository, 7)
        closed.chmod(0)
        _wait_for(lambda: "model.onnx: cannot be read" in service.log, "the version with a link loop is not reported")
        _add_version(repository, 10)
        seconds = _wait_for_version(service, 10)
        ready = _ready(service)
        expect(ready.status_code == 200, f"/readyz is {ready.status_code}: {ready.text}")
        expect("loop" in ready.text, f"/readyz does not name the link loop: {ready.text}")
        closed.chmod(0o755)
    return f"the good model follows within {seconds:.1f} s"


@check(12, "no file descriptors, then no memory while a version arrives")
def nothing_is_left(folder: Path) -> str:
    repository = folder / "repository"
    _add_version(repository, 1)
    seconds = []
    with serve("--repository", str(repository)) as service:
        pid = service.process.pid
        for number, kind in ((2, resource.RLIMIT_NOFILE), (3, resource.RLIMIT_AS)):
            before = resource.prlimit(pid, kind)
            allowed = 0 if kind == resource.RLIMIT_NOFILE else service.address_space()
            lines = len(service.log.splitlines())
            resource.prlimit(pid, kind, (allowed, before[1]))
            _add_version(repository, number)
            _wait_for(lambda lines=lines: _errors(service, lines), "no error is logged")  # type: ignore[misc]
            resource.prlimit(pid, kind, before)
            seconds.append(_wait_for_version(service, number, 30))
    return f"loaded {seconds[0]:.1f} s after descriptors are back, {seconds[1]:.1f} s after memory is back"


def _errors(service: ServedProcess, start: int) -> bool:
    """Whether the log has an error from a line on."""
    return any('"level":"error"' in line for line in service.log.splitlines()[start:])


@check(12, "a model whose load does not end, while another one is replaced, rolled back and shut down")
def load_hangs(folder: Path) -> str:
    repository = folder / "repository"
    _add_version(repository, 1)
    with serve("--repository", str(repository), "--shutdown-seconds", "3") as service:
        _add_version(repository, 90, hangs=True)
        _add_version(repository, 1, name="a-first", hangs=True)
        _wait_for(lambda: _ready(service).text.count("LOADING") == 2, "the versions are not being loaded")
        _add_version(repository, 91)
        taken = _wait_for_version(service, 91)
        _add_version(repository, 92)
        _wait_for_version(service, 92)
        shutil.rmtree(repository / _MODEL / "92")
        rolled_back = _wait_for_version(service, 91)
        _expect_end(service, 5)
    return f"takeover {taken:.1f} s, rollback {rolled_back:.1f} s"


@check(13, "an executor that hangs")
def executor_hangs(folder: Path) -> str:
    with serve("--executor", "simulated:3600000", "--shutdown-seconds", "3") as service:
        started = time.monotonic()
        late = httpx.post(f"{service.url}/v1/classify?timeout_ms=500", content=_photograph(), timeout=30)
        expect(late.status_code == 504, f"the answer is {late.status_code}")
        _wait_for(lambda: _ready(service).status_code == 503, "/readyz says 200")
        noticed = time.monotonic() - started
        reasons = _ready(service).json()["reasons"]
        expect("has not finished a batch within 10 s" in str(reasons), f"the reason is {reasons}")
        expect(service.metric("resnet_devices_stalled") == 1, "the metric does not count the device")
        asked = time.monotonic()
        refused = httpx.post(f"{service.url}/v1/classify", content=_photograph(), timeout=30)
        expect(refused.status_code == 503, f"a new request is answered with {refused.status_code}")
        expect(time.monotonic() - asked < 1, "a new request has to wait")
        ended = _expect_end(service, 5)
    return f"not ready after {noticed:.1f} s, ended in {ended:.1f} s"


@check(14, "the log cannot be written for a while, then it can")
def log_is_not_writable(folder: Path) -> str:
    with serve() as service:

        def send(count: int) -> None:
            for _ in range(count):
                httpx.post(f"{service.url}/v1/classify", content=b"no image")

        def limit(size: int) -> None:
            hard = resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (size, hard))

        limit(len(service.log.encode()))
        send(20)
        _wait_for(lambda: service.metric(_DROPPED) >= 20, "the metric does not count 20 lines")
        limit(resource.RLIM_INFINITY)
        _wait_for(lambda: "log lines were dropped" in service.log, "the log does not say that lines were dropped")
        dropped, stated = (
            service.metric(_DROPPED),
            sum(map(int, re.findall(r"(\d+) log lines were dropped", service.log))),
        )
        expect(dropped == stated, f"the metric counts {dropped:.0f} lines, and the log states {stated}")
        before = service.log.count("POST /v1/classify")
        send(3)
        _wait_for(lambda: service.log.count("POST /v1/classify") == before + 3, "the log did not continue")
        return f"{stated} lines dropped, counted and stated; the log continues"


@check(17, "the home of the user after a start and a request")
def home_is_left_alone(folder: Path) -> str:
    home = folder / "home"
    home.mkdir()
    with serve(HOME=str(home), ORT_DISABLE_TELEMETRY="") as service:
        _classify(service)
        service.terminate()
    files = [str(path.relative_to(home)) for path in home.rglob("*")]
    expect(not files, f"the service wrote {', '.join(files)} into the home of the user")
    return "nothing is written"


@check(17, "a profile that was measured for an executor that this machine cannot use")
def profile_of_another_executor(folder: Path) -> str:
    described = manifest.read(_SHIPPED / _MODEL / "1")
    best = Measurement(
        executor="tensorrt",
        precision="float32",
        threads=7,
        batch=64,
        instances=3,
        images_per_second=9000.0,
        latency_ms=7.0,
        accuracy_loss=0.0,
        rounds=3,
    )
    profile = TuningProfile(
        schema=1,
        model=described.name,
        version=1,
        artifacts=tuning.hashes(described),
        host=Host.here(available_cpus()),
        created=datetime.now(UTC),
        bounds=Bounds(),
        measurements=(best,),
    )
    tuning.write(folder / "tuned", described, profile)
    served = []
    for cache in ("tuned", "empty"):
        with serve("--cache", str(folder / cache)) as service:
            model = httpx.get(f"{service.url}/v1/models/{_MODEL}").json()
            served.append({name: model[name] for name in ("executor", "threads", "concurrent_batches", "max_batch")})
    expect(served[0] == served[1], f"served with {served[0]} instead of {served[1]}")
    return ", ".join(f"{name} {value}" for name, value in served[0].items())


def _photograph() -> bytes:
    return next((ROOT / "export" / "photographs").glob("*.jpg")).read_bytes()


def _classify(service: ServedProcess) -> httpx.Response:
    answer = httpx.post(f"{service.url}/v1/classify", content=_photograph(), timeout=30)
    expect(answer.status_code == 200, f"the answer is {answer.status_code}: {answer.text}")
    return answer
