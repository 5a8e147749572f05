"""Versions that are written at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from export.errors import BuildError
from export.staging import staged_version


def test_builds_at_the_same_time_get_different_versions(tmp_path: Path) -> None:
    barrier = Barrier(4)

    def build(writer: int) -> int:
        barrier.wait()
        with staged_version(tmp_path / "model") as (folder, number):
            (folder / "content").write_text(f"{writer}")
            barrier.wait()  # no build ends before all have begun
        return number

    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(build, range(4)))
    assert sorted(numbers) == [1, 2, 3, 4]
    for writer, number in enumerate(numbers):
        assert (tmp_path / "model" / str(number) / "content").read_text() == f"{writer}"
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["1", "2", "3", "4"]


def test_failed_build_takes_nothing_from_the_others(tmp_path: Path) -> None:
    model = tmp_path / "model"
    with pytest.raises(BuildError, match="the disk is full"), staged_version(model):
        raise OSError("the disk is full")
    assert not model.exists()
    with staged_version(model) as (_, first):
        with pytest.raises(BuildError), staged_version(model) as (_, second):
            raise OSError("the disk is full")
        assert (first, second) == (1, 2)
    assert [path.name for path in model.iterdir()] == ["1"]


def test_folder_of_a_killed_process_is_removed_and_its_number_used(tmp_path: Path) -> None:
    (tmp_path / ".partial-7-abandoned").mkdir()
    with staged_version(tmp_path) as (_, number):
        assert number == 1
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
