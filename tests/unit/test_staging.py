"""Versions that are written at the same time."""

from __future__ import annotations

import os
from collections.abc import Iterator
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


def test_files_of_this_prefix_are_no_folders_of_versions(tmp_path: Path) -> None:
    """`atomic_write` writes them into the same folder; the digits of a name are not a number of a version."""
    (tmp_path / "1").mkdir()
    new, old = tmp_path / ".partial-12345678", tmp_path / ".partial-87654321"
    new.write_text("another process writes it")
    old.write_text("its process was killed")
    os.utime(old, (0, 0))
    with staged_version(tmp_path) as (_, number):
        assert number == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [new.name, "1", "2"]


@pytest.mark.parametrize("folder", [False, True])
def test_partial_entry_that_another_process_renames_is_left_to_it(
    folder: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = tmp_path / (".partial-7-abandoned" if folder else ".partial-abcdefgh")
    partial.mkdir() if folder else partial.write_text("x")
    listed = Path.glob

    def glob(path: Path, pattern: str) -> Iterator[Path]:
        found = list(listed(path, pattern))
        partial.rename(tmp_path / "renamed")
        return iter(found)

    monkeypatch.setattr(Path, "glob", glob)
    with staged_version(tmp_path) as (_, number):
        assert number == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "renamed"]
