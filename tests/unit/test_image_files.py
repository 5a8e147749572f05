"""Which files of a folder are images, and texts with a byte-order mark."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from models.files import decode_text
from models.imaging import sorted_entries
from models.imaging.image_files import Skipped, find_images


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_one_rule(tmp_path: Path) -> None:
    root = tmp_path / "root"
    make(root, "z.jpg", "a.JPEG", "deep/m.Png", "deep/er/b.tiff", "photo.jfif", "deep/notes.txt", "noext")
    make(root, ".hidden.jpg", ".cache/a.jpg", "deep/._m.png")
    make(tmp_path, "elsewhere/one.jpg", "two.jpg")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "linked.jpg").symlink_to(tmp_path / "two.jpg")
    (root / "deep" / "loop").symlink_to("..")
    (root / "deep" / "outside").symlink_to(tmp_path)
    (root / "nothing.jpg").symlink_to("missing")
    os.mkfifo(root / "pipe.jpg")
    skipped = Skipped()
    assert list(find_images(root, skipped)) == [
        "a.JPEG", "deep/er/b.tiff", "deep/m.Png", "linked/one.jpg", "linked.jpg", "photo.jfif", "z.jpg",
    ]  # fmt: skip
    assert {reason: sorted(Path(path).relative_to(root).as_posix() for path in paths)
            for reason, paths in skipped.paths.items()} == {
        "hidden": [".cache", ".hidden.jpg", "deep/._m.png"],
        "without the suffix of an image": ["deep/notes.txt", "noext"],
        "linked to a folder around it": ["deep/loop", "deep/outside"],
        "linked to nothing": ["nothing.jpg"],
        "not a regular file": ["pipe.jpg"],
    }  # fmt: skip
    assert "3 hidden (" in str(skipped)
    assert not skipped.unreadable


def test_large_folder_is_sorted_in_runs_and_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order is that of Python's own sort, by the parts of a path; a walk continues behind any of its images."""
    monkeypatch.setattr(sorted_entries, "RUN", 3)
    monkeypatch.setattr(sorted_entries, "_PIECE", 8)
    numbers = range(10)
    names = [*(f"{number}.png" for number in numbers), *(f"{number}/{name}" for number in numbers for name in "ab")]
    names = [name if name.endswith(".png") else f"{name}.png" for name in names]
    names += ["1.png.d/x.png", "1-/x.png", os.fsdecode(b"caf\xe9.png")]
    make(tmp_path, *names)
    expected = sorted(names, key=lambda name: name.split("/"))
    assert list(find_images(tmp_path)) == expected
    for index, name in enumerate(expected):
        assert list(find_images(tmp_path, after=name)) == expected[index + 1 :]
    os.unlink(tmp_path / expected[7])
    assert list(find_images(tmp_path, after=expected[7])) == expected[8:]


def test_link_to_itself_is_reported_as_unreadable(tmp_path: Path) -> None:
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    skipped = Skipped()
    assert list(find_images(tmp_path, skipped)) == []
    (line,) = skipped.unreadable
    assert line.startswith(f"{tmp_path}/self.jpg: cannot be read: ")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_of_any_editor(encoding: str) -> None:
    assert decode_text("Straße\nÖl\n".encode(encoding)) == "Straße\nÖl\n"


def test_other_bytes_are_no_text() -> None:
    with pytest.raises(UnicodeDecodeError):
        decode_text("Straße".encode("latin-1"))
