"""A repository that is replaced, that cannot be read, or whose versions cannot be loaded for a while."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import shutil
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from threading import Event

import pytest

from models.artifact.traffic import TrafficPolicy
from service.core.errors import Unavailable
from service.core.settings import Settings
from service.registry import load_queue, model_versions, periodic, repository_reader, version
from service.registry.loader import Loader
from service.registry.registry import Registry
from service.registry.repository import Contents, read_repository
from service.registry.version import LoadedVersion
from service.telemetry.metrics import Metrics
from tests.support.service import TIMEOUT
from tests.support.tiny import renumber

Scenario = Callable[[Registry], Awaitable[None]]


class Clock:
    """Stands for the module `time`."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


def add(repository: Path, tiny: Path, number: int, name: str = "tiny") -> Path:
    """Add `tiny` version 1 under another number."""
    version = shutil.copytree(tiny / "tiny" / "1", repository / name / str(number))
    renumber(version, number, name)
    return version


@pytest.fixture
def repo(tiny_repository: Path, tmp_path: Path) -> Path:
    """A repository with `tiny` version 1, which a test may change."""
    return shutil.copytree(tiny_repository, tmp_path / "repository")


def play(repository: Path, scenario: Scenario, metrics: Metrics | None = None, traffic: Path | None = None) -> None:
    """Play a scenario on a registry that has loaded the repository; only `refresh` reads it again."""

    async def run() -> None:
        settings = Settings(repository=repository, executor="simulated:0", traffic=traffic)
        registry = Registry(settings, metrics or Metrics())
        async with asyncio.timeout(TIMEOUT):
            await registry.start()
            try:
                await scenario(registry)
            finally:
                await registry.close()

    asyncio.run(run())


def served(registry: Registry, name: str = "tiny") -> list[str]:
    return [model.version for model in registry.catalog.served(name)]


def swap_link(link: Path, newer: Path) -> None:
    """As git-sync does: another link is renamed over the old one."""
    other = link.with_name("other-link")
    other.symlink_to(newer)
    other.rename(link)


def recreate(root: Path, newer: Path) -> None:
    shutil.rmtree(root)
    shutil.copytree(newer, root)


def rename(root: Path, newer: Path) -> None:
    root.rename(root.with_name("away"))
    newer.rename(root)


@pytest.mark.parametrize("replace", [swap_link, recreate, rename])
def test_replaced_root_is_followed(
    replace: Callable[[Path, Path], None], repo: Path, tiny_repository: Path, tmp_path: Path
) -> None:
    async def scenario(registry: Registry) -> None:
        assert served(registry) == ["1"]
        replace(root, newer)
        await registry.refresh()
        assert served(registry) == ["2"]

    root, newer = repo, tmp_path / "newer"
    add(newer, tiny_repository, 2)
    if replace is swap_link:
        root = tmp_path / "link"
        root.symlink_to(repo)
    play(root, scenario)


def test_unreadable_folders_and_link_loops_affect_only_themselves(
    repo: Path, tiny_repository: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    listdir = os.listdir

    def protected(folder: Path) -> list[str]:
        if folder in (repo / "closed", repo / "served"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return listdir(folder)

    async def scenario(registry: Registry) -> None:
        monkeypatch.setattr(os, "listdir", protected)
        await registry.refresh()
        add(repo, tiny_repository, 3)
        await registry.refresh()
        assert served(registry) == ["3"]
        assert served(registry, "served") == ["1"]
        assert await registry.not_ready() == []
        reasons = [f"{repo / 'closed'}: cannot be read: Permission denied"]
        reasons += [f"{repo / 'loop'}: cannot be read: Too many levels of symbolic links"]
        reasons += [f"{repo / 'served'}: cannot be read: Permission denied"]
        assert await registry.degraded() == reasons
        assert sorted(record.message for record in caplog.records if record.message in reasons) == reasons
        failed = {status.version: str(status.reason) for status in await registry.versions("tiny")}
        assert f"{repo / 'tiny' / '4' / 'model.onnx'}: cannot be read" in failed["4"]
        assert f"{repo / 'tiny' / '5' / 'manifest.json'}: cannot be read" in failed["5"]

    (repo / "loop").symlink_to("loop")
    add(repo, tiny_repository, 1, name="closed")
    add(repo, tiny_repository, 1, name="served")
    (repo / "tiny" / "5").symlink_to("5")
    weights = add(repo, tiny_repository, 4) / "model.onnx"
    weights.unlink()
    weights.symlink_to("model.onnx")
    play(repo, scenario)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "cannot be read: .* Too many open files"),
        (RuntimeError("can't start new thread"), "cannot be read: RuntimeError"),
    ],
)
def test_repository_that_cannot_be_read_is_reported_and_read_again(
    error: Exception,
    reason: str,
    repo: Path,
    tiny_repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics = Metrics()

    listdir = os.listdir

    def refuse(folder: Path) -> list[str]:
        if repo not in (folder, *folder.parents):  # of a service that another test has left open
            return listdir(folder)
        raise error

    def reads(outcome: str) -> float | None:
        return metrics.registry.get_sample_value("resnet_repository_reads_total", {"outcome": outcome})

    async def scenario(registry: Registry) -> None:
        add(repo, tiny_repository, 2)
        with monkeypatch.context() as patched:
            patched.setattr(os, "listdir", refuse)
            for _ in range(2):
                await registry.refresh()
        assert served(registry) == ["1"]
        assert await registry.not_ready() == []
        (problem,) = await registry.degraded()
        assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == [problem]
        assert re.search(reason, problem)
        assert (reads("read"), reads("failed")) == (1, 2)
        await registry.refresh()
        assert served(registry) == ["2"]
        assert await registry.degraded() == []

    play(repo, scenario, metrics)


def hide_repository(repository: Path) -> None:
    repository.rename(repository.with_name("away"))


def loop_model(repository: Path) -> None:
    """The folder of the model becomes a link to itself."""
    (repository / "tiny").rename(repository.with_name("away"))
    (repository / "tiny").symlink_to("tiny")


@pytest.mark.parametrize("hide", [hide_repository, loop_model])
def test_admins_unload_and_load_while_the_repository_cannot_be_read(hide: Callable[[Path], None], repo: Path) -> None:
    async def scenario(registry: Registry) -> None:
        hide(repo)
        await registry.load("tiny")
        assert served(registry) == ["1"]
        await registry.unload("tiny")
        assert served(registry) == []
        assert registry.catalog.current() == {}
        with pytest.raises(Unavailable, match=r"could not be loaded: .*(no such|No such|cannot be read)"):
            await registry.load("tiny")

    play(repo, scenario)


@pytest.mark.parametrize("hide", [hide_repository, loop_model])
def test_a_traffic_policy_applies_while_the_repository_cannot_be_read(
    hide: Callable[[Path], None], repo: Path, tiny_repository: Path, tmp_path: Path
) -> None:
    async def scenario(registry: Registry) -> None:
        await registry.set_traffic("tiny", TrafficPolicy(weights={1: 3, 2: 1}))
        hide(repo)
        changed = TrafficPolicy(weights={1: 1, 2: 3})
        await registry.set_traffic("tiny", changed)
        assert registry.catalog.models["tiny"].traffic == changed
        assert registry.catalog.find("tiny").version == "2"
        assert served(registry) == ["1", "2"]

    add(repo, tiny_repository, 2)
    play(repo, scenario, traffic=tmp_path / "traffic.toml")


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), MemoryError("no memory")])
def test_failed_version_is_loaded_again_after_a_growing_pause(
    error: Exception, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    attempts: list[float] = []
    load = Loader.load

    def fail(loader: Loader, folder: Path) -> LoadedVersion:
        attempts.append(clock.now)
        if len(attempts) < 9:
            raise error
        return load(loader, folder)

    async def scenario(registry: Registry) -> None:
        assert str(error.args[-1]) in str(await registry.not_ready())
        while not served(registry):
            clock.now += 10
            await registry.refresh()
        pauses = [later - earlier for earlier, later in pairwise(attempts)]
        assert pauses == [10, 20, 40, 80, 160, 320, 600, 600]
        assert await registry.not_ready() == []

    monkeypatch.setattr(model_versions, "time", clock)
    monkeypatch.setattr(version, "time", clock)
    monkeypatch.setattr(Loader, "load", fail)
    play(repo, scenario)


def test_slow_load_holds_up_nothing_else(repo: Path, tiny_repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, leave = Event(), Event()
    load = Loader.load

    def slow(loader: Loader, folder: Path) -> LoadedVersion:
        if folder.parent.name == "slow" or folder.name == "9":
            entered.set()
            assert leave.wait(TIMEOUT)
        return load(loader, folder)

    async def scenario(registry: Registry) -> None:
        add(repo, tiny_repository, 1, name="slow")
        await registry._read()
        assert await asyncio.to_thread(entered.wait, TIMEOUT)
        add(repo, tiny_repository, 2)
        await registry._read()
        await registry._models["tiny"].settled()
        assert served(registry) == ["2"], "takeover"
        add(repo, tiny_repository, 9)
        await registry._read()
        add(repo, tiny_repository, 10)
        await registry._read()
        while 10 in registry._models["tiny"].catalog().loading:
            await asyncio.wait(registry._models["tiny"]._loads, return_when=asyncio.FIRST_COMPLETED)
        assert served(registry) == ["10"], "takeover from a slow version of the same model"
        shutil.rmtree(repo / "tiny" / "10")
        shutil.rmtree(repo / "tiny" / "9")
        await registry._read()
        while 2 not in registry._models["tiny"].catalog().versions:
            await asyncio.wait(registry._models["tiny"]._loads, return_when=asyncio.FIRST_COMPLETED)
        assert served(registry) == ["2"], "rollback"
        await registry.load("tiny")  # does not wait for the loads that are not needed any more
        await registry.unload("tiny")
        assert served(registry) == []

    monkeypatch.setattr(load_queue, "_TURN_SECONDS", 0.0)
    monkeypatch.setattr(Loader, "load", slow)
    try:
        play(repo, scenario)  # closes the registry, too
        assert not leave.is_set()
    finally:
        leave.set()


def test_repeated_work_continues_after_an_error(caplog: pytest.LogCaptureFixture) -> None:
    stop = asyncio.Event()
    calls: list[int] = []

    async def step() -> float:
        calls.append(len(calls))
        if len(calls) == 2:
            raise ZeroDivisionError("an unknown error")
        if len(calls) == 4:
            stop.set()
        return 0.0

    asyncio.run(asyncio.wait_for(periodic.repeat(step, 0.0, stop), TIMEOUT))
    assert calls == [0, 1, 2, 3]
    assert "an unknown error" in caplog.text


def test_read_that_does_not_end_is_reported(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    entered, leave = Event(), Event()

    def hang(folder: Path, only_model: str | None) -> Contents:
        entered.set()
        assert leave.wait(TIMEOUT)
        return read_repository(folder, only_model)

    async def scenario(registry: Registry) -> None:
        monkeypatch.setattr(repository_reader, "read_repository", hang)
        reading = asyncio.create_task(registry.refresh())
        assert await asyncio.to_thread(entered.wait, TIMEOUT)
        clock.now += 31
        assert await registry.degraded() == [f"{repo}: has not answered for 31 s"]
        leave.set()
        await reading
        assert await registry.degraded() == []
        assert registry._reader.pause == 10

    monkeypatch.setattr(repository_reader, "time", clock)
    play(repo, scenario)
