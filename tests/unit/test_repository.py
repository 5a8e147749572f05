"""The versions that are found in the folder of a repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.registry.repository import LoadError, find_versions


def test_folders_with_a_manifest_are_versions(tmp_path: Path) -> None:
    def add(path: str) -> Path:
        folder = tmp_path / path
        folder.mkdir(parents=True)
        (folder / "manifest.json").touch()
        return folder

    odd = ("b/.partial-x", "b/draft", "b/-11", "b/11.5", "b/0", "b/012", "b/1\u0663", ".hidden/1", "__pycache__/1")
    for path in ("b/1", "b/9", "a/3", *odd):
        add(path)
    newest = add("b/10")
    (tmp_path / "b" / "12").mkdir()  # without a manifest it is no version yet
    (tmp_path / "empty").mkdir()
    (tmp_path / "README.md").touch()
    found = find_versions(tmp_path)
    assert {name: sorted(versions) for name, versions in found.items()} == {"a": [3], "b": [1, 9, 10]}
    assert found["b"][10].folder == newest
    assert list(found) == ["a", "b"]


@pytest.mark.parametrize("name", ["missing", "file"])
def test_missing_folder_is_an_error(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LoadError, match=rf"{tmp_path / name}: there is no such folder"):
        find_versions(tmp_path / name)


def test_folder_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """A name that is too long fails for every user, as a folder that may not be entered fails for most."""
    with pytest.raises(LoadError, match=r"cannot be read: .*File name too long|there is no such folder"):
        find_versions(tmp_path / ("x" * 300))


def test_fingerprint_changes_with_the_content(tmp_path: Path) -> None:
    folder = tmp_path / "tiny" / "1"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    before = find_versions(tmp_path)["tiny"][1].fingerprint
    assert find_versions(tmp_path)["tiny"][1].fingerprint == before
    (folder / "manifest.json").write_text("{ }")
    assert find_versions(tmp_path)["tiny"][1].fingerprint != before
