"""Data sets: small ones of each format, written here, read back and compared with NumPy and Pillow."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import struct
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from models.cli.app import app
from models.data import (
    ArrayDataset,
    DataError,
    Split,
    Subset,
    imagefolder,
    load,
    load_held_out,
    match_classes,
    read_ahead,
)
from models.data.files import check_images
from models.data.imagefolder import ImageFolder
from models.imaging.image_files import Skipped
from models.imaging.preprocess import Geometry, Preprocess, UInt8Array
from models.training import checkpoint
from models.training.input.splits import measure_preprocess
from models.training.recipe import Recipe
from models.training.train import train
from service.cli.file_list import FileList

SMALL = Geometry(size=(16, 16), resize=18)
TIMEOUT = 60
"""Seconds until a test that would hang fails instead."""


def noise(seed: int, *shape: int) -> UInt8Array:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def everything(dataset: object) -> UInt8Array:
    images: UInt8Array = dataset.images(np.arange(len(dataset.labels)))  # type: ignore[attr-defined]
    assert images.dtype == np.uint8
    return images


def encode(seed: int, suffix: str = "png", size: tuple[int, int] = (24, 20), mode: str = "RGB") -> bytes:
    """An image file of noise, `size` being width and height."""
    buffer = io.BytesIO()
    pixels = noise(seed, size[1], size[0], 3)
    Image.fromarray(pixels).convert(mode).save(buffer, Image.registered_extensions()[f".{suffix}"])
    return buffer.getvalue()


def cut(data: bytes) -> UInt8Array:
    """The image of a file of `encode` in the geometry `SMALL`: 24 x 20 to shorter side 18, then the centre 16 x 16."""
    image = Image.open(io.BytesIO(data)).convert("RGB").resize((21, 18), Image.Resampling.BILINEAR)
    return np.asarray(image.crop((2, 1, 18, 17)))


# IDX


def idx_bytes(array: UInt8Array) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


IDX_IMAGES = noise(0, 6, 5, 4)
IDX_LABELS = np.array([2, 0, 1, 1, 0, 2], np.uint8)


def write_idx(folder: Path, *, suffix: str = "", dot: bool = False) -> Path:
    for prefix, images, labels in (("train", IDX_IMAGES, IDX_LABELS), ("t10k", IDX_IMAGES[:2], IDX_LABELS[1:3])):
        for stem, array in ((f"{prefix}-images-idx3-ubyte", images), (f"{prefix}-labels-idx1-ubyte", labels)):
            data = idx_bytes(array)
            name = stem.replace("-idx", ".idx") if dot else stem
            (folder / f"{name}{suffix}").write_bytes(gzip.compress(data) if suffix else data)
    return folder


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("dot", [False, True])
def test_idx(tmp_path: Path, suffix: str, dot: bool) -> None:
    data = load(write_idx(tmp_path, suffix=suffix, dot=dot), "train")
    np.testing.assert_array_equal(everything(data), IDX_IMAGES[..., None])
    assert data.labels.tolist() == IDX_LABELS.tolist()
    assert data.geometry == Geometry(size=(5, 4), mode="L")
    np.testing.assert_array_equal(data.images(np.array([4, 1])), IDX_IMAGES[[4, 1], ..., None])
    test = load(tmp_path, "test")
    np.testing.assert_array_equal(everything(test), IDX_IMAGES[:2, ..., None])
    # The test split has no image of class 2, and three classes all the same.
    assert data.classes == test.classes == ("0", "1", "2")


def test_idx_class_names(tmp_path: Path) -> None:
    (write_idx(tmp_path) / "labels.txt").write_text("cat\n dog \n\nshiba inu\n")
    assert load(tmp_path, "train").classes == ("cat", "dog", "shiba inu")
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match="label 2, but there are only 2 class names"):
        load(tmp_path, "train")
    (tmp_path / "labels.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match=r"labels\.txt: cannot be read"):
        load(tmp_path, "train")


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("train-images-idx3-ubyte", idx_bytes(IDX_IMAGES)[:-1], "has 135 bytes, its header says 136"),
        ("train-images-idx3-ubyte", idx_bytes(IDX_IMAGES) + b"x", "has 137 bytes, its header says 136"),
        ("train-images-idx3-ubyte", b"\0\0", "is not an IDX file"),
        ("train-images-idx3-ubyte", idx_bytes(IDX_LABELS), "is not an IDX file of bytes in 3 dimensions"),
        ("train-images-idx3-ubyte", bytes((0, 0, 8, 3)) + b"\xff" * 12, "its header says"),
        ("train-labels-idx1-ubyte", b"", "is not an IDX file"),
    ],
)
def test_damaged_idx(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    (write_idx(tmp_path) / name).write_bytes(data)
    with pytest.raises(DataError, match=rf"{name}: .*{reason}"):
        load(tmp_path, "train")


def test_damaged_gzip_and_missing_idx(tmp_path: Path) -> None:
    path = write_idx(tmp_path, suffix=".gz") / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for data in (whole[:-9], whole[:40], b"no gzip", whole[:30] + b"\xff\xff" + whole[32:]):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: "):
            load(tmp_path, "train")
    path.unlink()
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.* is missing"):
        load(tmp_path, "train")


def test_idx_of_different_lengths(tmp_path: Path) -> None:
    (write_idx(tmp_path) / "train-labels-idx1-ubyte").write_bytes(idx_bytes(IDX_LABELS[:5]))
    with pytest.raises(DataError, match="6 train images but 5 labels"):
        load(tmp_path, "train")


# CIFAR


def cifar_bytes(images: UInt8Array, *labels: NDArray[np.int64]) -> bytes:
    """Records of labels and the red, green and blue planes, as the authors' page describes them."""
    return b"".join(
        bytes(int(column[index]) for column in labels) + b"".join(image[..., c].tobytes() for c in range(3))
        for index, image in enumerate(images)
    )


CIFAR_IMAGES = noise(1, 12, 32, 32, 3)
CIFAR_LABELS = np.arange(12) % 3


def write_cifar10(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, 6):
        part = slice(2 * number - 2, 2 * number)
        data = cifar_bytes(CIFAR_IMAGES[part], CIFAR_LABELS[part])
        (folder / f"data_batch_{number}.bin").write_bytes(data)
    (folder / "test_batch.bin").write_bytes(cifar_bytes(CIFAR_IMAGES[10:], CIFAR_LABELS[10:]))
    (folder / "batches.meta.txt").write_text("airplane\nautomobile\nbird\n\n")
    return folder


def write_cifar100(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train.bin", slice(0, 10)), ("test.bin", slice(10, 12))):
        (folder / name).write_bytes(cifar_bytes(CIFAR_IMAGES[part], CIFAR_LABELS[part] + 7, CIFAR_LABELS[part]))
    (folder / "fine_label_names.txt").write_text("apple\naquarium_fish\nbaby\n")
    (folder / "coarse_label_names.txt").write_text("fruit\n")
    return folder


@pytest.mark.parametrize("child", [False, True])
@pytest.mark.parametrize(
    ("write", "name", "archive", "classes"),
    [
        (write_cifar10, "cifar-10", "cifar-10-batches-bin", ("airplane", "automobile", "bird")),
        (write_cifar100, "cifar-100", "cifar-100-binary", ("apple", "aquarium_fish", "baby")),
    ],
)
def test_cifar(
    tmp_path: Path, write: Callable[[Path], Path], name: str, archive: str, classes: tuple[str, ...], child: bool
) -> None:
    write(tmp_path / archive if child else tmp_path)
    data, test = load(tmp_path, "train"), load(tmp_path, "test")
    np.testing.assert_array_equal(everything(data), CIFAR_IMAGES[:10])
    np.testing.assert_array_equal(everything(test), CIFAR_IMAGES[10:])
    assert data.labels.tolist() == CIFAR_LABELS[:10].tolist()
    assert test.labels.tolist() == CIFAR_LABELS[10:].tolist()
    assert data.classes == test.classes == classes
    assert data.name == name
    assert data.geometry == Geometry(size=(32, 32))


def test_both_cifars_are_ambiguous(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "cifar-10-batches-bin")
    write_cifar100(tmp_path / "cifar-100-binary")
    with pytest.raises(DataError, match="holds cifar-10-batches-bin and cifar-100-binary: give one"):
        load(tmp_path, "train")


@pytest.mark.parametrize(
    ("write", "name", "size"), [(write_cifar10, "data_batch_3.bin", 3073), (write_cifar100, "train.bin", 3074)]
)
def test_damaged_cifar(tmp_path: Path, write: Callable[[Path], Path], name: str, size: int) -> None:
    path = write(tmp_path) / name
    whole = path.read_bytes()
    for data in (whole[:-1], whole + b"x", b""):
        path.write_bytes(data)
        with pytest.raises(DataError, match=f"{name}: has {len(data)} bytes, not a multiple of {size}"):
            load(tmp_path, "train")
    path.unlink()
    with pytest.raises(DataError, match=f"{name}: is missing"):
        load(tmp_path, "train")


def test_cifar_without_or_with_too_few_names(tmp_path: Path) -> None:
    names = write_cifar10(tmp_path) / "batches.meta.txt"
    names.write_text("airplane\n")
    with pytest.raises(DataError, match="label 2, but there are only 1 class names"):
        load(tmp_path, "train")
    names.unlink()
    with pytest.raises(DataError, match=r"batches\.meta\.txt: is missing"):
        load(tmp_path, "train")


# Arrays brought to another geometry


@pytest.mark.parametrize("resize", [None, 32])
def test_array_of_the_requested_geometry_is_unchanged(resize: int | None, tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    asked = Preprocess(size=(32, 32), resize=resize, mean=(0.5,) * 3, std=(0.2,) * 3)
    data = load(tmp_path, "train", asked)
    np.testing.assert_array_equal(everything(data), CIFAR_IMAGES[:10])
    assert data.geometry == Geometry(size=(32, 32))


def test_array_of_the_requested_size_is_resized_and_cropped_like_a_file(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    asked = Geometry(size=(32, 32), resize=40)
    data = load(tmp_path, "train", asked)
    assert data.geometry == asked
    larger = Image.fromarray(CIFAR_IMAGES[3]).resize((40, 40), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(data.images(np.array([3]))[0], np.asarray(larger.crop((4, 4, 36, 36))))


def test_array_is_converted_to_size_and_mode(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    grey = Geometry(size=(20, 24), mode="L", interpolation="bicubic")
    data = load(tmp_path, "train", grey)
    assert data.geometry == grey
    expected = [
        np.asarray(Image.fromarray(image).convert("L").resize((24, 20), Image.Resampling.BICUBIC))[..., None]
        for image in CIFAR_IMAGES[[7, 2]]
    ]
    np.testing.assert_array_equal(data.images(np.array([7, 2])), expected)
    assert data.images(np.array([], np.int64)).shape == (0, 20, 24, 1)


def test_grey_becomes_colour(tmp_path: Path) -> None:
    data = load(write_idx(tmp_path), "train", Geometry(size=(5, 4)))
    np.testing.assert_array_equal(everything(data), np.repeat(IDX_IMAGES[..., None], 3, axis=3))


# Folders of image files


def write_files(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


TRAIN_FILES = {
    "train/cat/2.JPEG": encode(2, "jpeg"),
    "train/cat/10.png": encode(10),
    "train/cat/more/deep.webp": encode(3, "webp"),
    "train/ant/1.bmp": encode(4, "bmp"),
    "train/bee/1.gif": encode(5, "gif"),
}
TEST_FILES = {"cat/1.png": encode(6), "ant/7.png": encode(7)}


@pytest.mark.parametrize("test_name", ["test", "val", "valid", "validation"])
def test_image_folder(tmp_path: Path, test_name: str) -> None:
    write_files(tmp_path, TRAIN_FILES)
    write_files(tmp_path / test_name, TEST_FILES)
    write_files(tmp_path, {"train/cat/notes.txt": b"x", "train/cat/._2.jpg": b"x", "train/.cache/a/1.jpg": b"x"})
    data, test = load(tmp_path, "train", SMALL), load(tmp_path, "test", SMALL)
    assert data.name == tmp_path.name
    assert data.classes == test.classes == ("ant", "bee", "cat")
    assert data.labels.tolist() == [0, 1, 2, 2, 2]
    order = ["ant/1.bmp", "bee/1.gif", "cat/10.png", "cat/2.JPEG", "cat/more/deep.webp"]
    expected = np.stack([cut(TRAIN_FILES[f"train/{name}"]) for name in order])
    np.testing.assert_array_equal(everything(data), expected)
    np.testing.assert_array_equal(data.images(np.array([3, 0, 3])), expected[[3, 0, 3]])
    assert test.labels.tolist() == [0, 2]
    np.testing.assert_array_equal(everything(test), [cut(TEST_FILES["ant/7.png"]), cut(TEST_FILES["cat/1.png"])])
    assert data.geometry == SMALL


@pytest.mark.parametrize(
    ("names", "validation", "test"),
    [(("val", "test"), 2, 2), (("valid",), 2, None), (("test",), None, 2), ((), None, None)],
)
def test_validation_split_of_a_folder(
    names: tuple[str, ...], validation: int | None, test: int | None, tmp_path: Path
) -> None:
    write_files(tmp_path, TRAIN_FILES)
    for name in names:
        write_files(tmp_path / name, TEST_FILES)
    found = load_held_out(tmp_path, SMALL)
    assert tuple(None if each is None else len(each.labels) for each in found) == (validation, test)


def test_image_folder_without_a_geometry(tmp_path: Path) -> None:
    data = encode(1, size=(300, 400))
    write_files(tmp_path, {"train/a/1.png": data, "test/a/1.png": data})
    dataset = load(tmp_path, "test")
    assert dataset.geometry == Geometry(size=(224, 224), resize=256, mode="RGB")
    image = Image.open(io.BytesIO(data)).resize((256, 341), Image.Resampling.BILINEAR).crop((16, 58, 240, 282))
    np.testing.assert_array_equal(everything(dataset)[0], np.asarray(image))


def test_image_folder_in_grey(tmp_path: Path) -> None:
    data = encode(1, mode="L", size=(16, 16))
    write_files(tmp_path, {"train/a/1.png": data, "test/a/1.png": data})
    dataset = load(tmp_path, "train", Geometry(size=(16, 16), mode="L"))
    np.testing.assert_array_equal(everything(dataset)[0, ..., 0], np.asarray(Image.open(io.BytesIO(data))))


def test_class_folders_alone_are_split_by_a_hash_of_the_path(tmp_path: Path) -> None:
    picture = encode(0, size=(16, 16))
    names = [f"{kind}/{index}.png" for kind in ("cat", "dog", "train") for index in range(60)]
    write_files(tmp_path, dict.fromkeys(names, picture))
    hashes = {name: int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) for name in names}
    held = {name for name in names if hashes[name] % 10 == 0}
    assert 5 <= len(held) <= 40

    def files(split: Split) -> set[str]:
        dataset = load(tmp_path, split, SMALL)
        assert isinstance(dataset, ImageFolder)
        assert dataset.classes == ("cat", "dog", "train")
        assert [dataset.classes[label] for label in dataset.labels] == [name.split("/")[0] for name in dataset.files]
        return set(dataset.files)

    assert files("test") == held
    assert files("train") == set(names) - held
    (tmp_path / "dog" / "new.png").write_bytes(picture)
    assert files("test") - {"dog/new.png"} == held


def test_test_split_alone_is_enough_to_evaluate(tmp_path: Path) -> None:
    write_files(tmp_path / "val", TEST_FILES)
    assert load(tmp_path, "test", SMALL).classes == ("ant", "cat")
    with pytest.raises(DataError, match="there are no class folders in train"):
        load(tmp_path, "train", SMALL)


def test_training_and_scoring_skip_the_same_files_and_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files(tmp_path, TRAIN_FILES)
    write_files(tmp_path / "test", TEST_FILES)
    write_files(tmp_path / "extra", {"cat/2.png": encode(8), "cat/3.png": encode(9)})
    write_files(tmp_path, {"train/cat/9.jfif": encode(9, "jpeg"), "train/cat/._9.jpg": b"x", "train/0.png": encode(1)})
    (tmp_path / "train" / "cat" / "loop").symlink_to("..")
    (tmp_path / "train" / "wasp").symlink_to("bee")
    data, test = load(tmp_path, "train", SMALL), load(tmp_path, "test", SMALL)
    assert isinstance(data, ImageFolder)
    scored = [
        Path(file.name).relative_to(tmp_path / "train" / "cat").as_posix()
        for file in FileList([str(tmp_path / "train" / "cat")]).walk(Skipped())
    ]
    assert [name for name in data.files if name.startswith("cat/")] == [f"cat/{name}" for name in scored]
    assert "9.jfif" in scored
    assert data.classes == ("ant", "bee", "cat", "wasp")
    assert len(test.labels) == len(TEST_FILES)
    said = capsys.readouterr().err
    for part in (
        f"1 hidden ({tmp_path}/train/cat/._9.jpg)",
        f"1 linked to a folder around it ({tmp_path}/train/cat/loop)",
        f"skipped: extra in {tmp_path}, beside the splits train and test",
        f"1 outside the folders of the classes ({tmp_path}/train/0.png)",
    ):
        assert said.count(part) == 1


def test_class_names_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    write_files(tmp_path, TRAIN_FILES)
    (tmp_path / "train" / "ant").rename(tmp_path / "train" / os.fsdecode(b"caf\xe9"))
    with pytest.raises(DataError, match="is not UTF-8: rename it"):
        load(tmp_path, "train")


def test_incomplete_image_folders_are_refused(tmp_path: Path) -> None:
    write_files(tmp_path, TRAIN_FILES)
    with pytest.raises(DataError, match="no class folders in test or val or valid or validation"):
        load(tmp_path, "test")
    write_files(tmp_path / "val", {**TEST_FILES, "dog/1.png": encode(1)})
    with pytest.raises(DataError, match="val/dog: is not a class of the training split"):
        load(tmp_path, "test")
    (tmp_path / "train" / "zebra").mkdir()
    with pytest.raises(DataError, match="train/zebra: holds no images"):
        load(tmp_path, "train")
    # The names of the files decide which ones are test images: here all of class b, and some of class a.
    names = [f"{number}.png" for number in range(40)]
    tenth = [name for name in names if imagefolder._is_test(f"b/{name}")]
    write_files(tmp_path / "rare", {f"a/{name}": encode(1) for name in names} | {f"b/{tenth[0]}": encode(1)})
    with pytest.raises(DataError, match="rare/b: all of its few images are in the tenth that is the test split"):
        load(tmp_path / "rare", "train")
    write_files(tmp_path / "few", {"a/1.png": encode(1)})
    with pytest.raises(DataError, match=r"few: too few images for a (train|test) split"):
        (load(tmp_path / "few", "train"), load(tmp_path / "few", "test"))


@pytest.mark.parametrize("data", [b"", b"no image", encode(1)[:200], encode(1, "jpeg")[:300]])
def test_damaged_image_file_is_named_when_it_is_read(tmp_path: Path, data: bytes) -> None:
    write_files(tmp_path, {**TRAIN_FILES, "train/bee/bad.jpg": data})
    dataset = load(tmp_path, "train", SMALL)
    good = np.array([0, 1, 3])
    assert dataset.images(good).shape == (3, 16, 16, 3)
    with pytest.raises(DataError, match=r"train/bee/bad\.jpg: .*(image|ends before its pixels)"):
        everything(dataset)
    (tmp_path / "train/bee/bad.jpg").unlink()
    with pytest.raises(DataError, match=r"train/bee/bad\.jpg: cannot be read: No such file"):
        everything(dataset)


# Tar shards


def write_tar(path: Path, members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


PICTURES = [encode(20 + index, suffix) for index, suffix in enumerate(("png", "jpeg", "webp", "png"))]
FIRST = {"0.png": PICTURES[0], "0.cls": b"1\n", "1.jpeg": PICTURES[1], "1.json": b'{"label": 0, "caption": "x"}'}
SECOND = {"a.b/2.WebP": PICTURES[2], "a.b/2.cls": b" 2", "a.b/2.txt": b"a text"}


def write_shards(folder: Path, prefix: str = "") -> Path:
    write_tar(folder / f"{prefix}train-000000.tar", FIRST)
    write_tar(folder / f"{prefix}train-000001.tar", SECOND)
    write_tar(folder / f"{prefix}val-000000.tar", {"x/0.png": PICTURES[3], "x/0.cls": b"0"})
    return folder


@pytest.mark.parametrize("prefix", ["", "flowers-"])
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_tar_shards(tmp_path: Path, prefix: str, form: int) -> None:
    write_shards(tmp_path, prefix)
    write_tar(tmp_path / f"{prefix}train-000001.tar", SECOND, form)
    data, test = load(tmp_path, "train", SMALL), load(tmp_path, "test", SMALL)
    assert data.labels.tolist() == [1, 0, 2]
    expected = np.stack([cut(picture) for picture in PICTURES])
    np.testing.assert_array_equal(everything(data), expected[:3])
    np.testing.assert_array_equal(data.images(np.array([2, 0])), expected[[2, 0]])
    np.testing.assert_array_equal(everything(test), expected[3:])
    # The test split alone has one class; the training shards tell how many there are.
    assert data.classes == test.classes == ("0", "1", "2")
    assert data.name == tmp_path.name
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "labels.txt").write_text("rose\ntulip\nlys Ö\n", encoding=encoding)
        assert load(tmp_path, "test").classes == ("rose", "tulip", "lys Ö")


def test_byte_order_marks_in_a_shard_and_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = {"0.cls": "1".encode("utf-8-sig"), "1.json": '{"label": 0}'.encode("utf-8-sig")}
    odd = {"2.psd": b"x", "2.json": b'{"label": 2}', ".3.png": b"x"}
    write_tar(tmp_path / "train.tar", {**FIRST, **labels, **odd})
    write_tar(tmp_path / "extra.tar", FIRST)
    assert load(tmp_path, "train", SMALL).labels.tolist() == [1, 0]
    said = capsys.readouterr().err
    for part in ("without an image (", "1 hidden", f"1 not used as a shard of a split ({tmp_path}/extra.tar)"):
        assert part in said


def test_long_names_and_links_in_a_shard(tmp_path: Path) -> None:
    name = "ordner/" + "ä" * 150
    path = write_tar(tmp_path / "train.tar", {f"{name}.png": PICTURES[0], f"{name}.cls": b"0", "README": b"x"})
    with tarfile.open(path, "a") as archive:
        for kind, member in ((tarfile.SYMTYPE, "1.png"), (tarfile.DIRTYPE, "folder.png"), (tarfile.LNKTYPE, "2.png")):
            info = tarfile.TarInfo(member)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    np.testing.assert_array_equal(everything(load(tmp_path, "train", SMALL)), [cut(PICTURES[0])])


def test_names_in_a_shard_are_not_used_as_paths(tmp_path: Path) -> None:
    write_tar(tmp_path / "set" / "train.tar", {"../../out.png": PICTURES[0], "../../out.cls": b"0"})
    write_tar(tmp_path / "set" / "test.tar", {"/etc/out.png": PICTURES[1], "/etc/out.cls": b"0"})
    for split, picture in (("train", PICTURES[0]), ("test", PICTURES[1])):
        np.testing.assert_array_equal(everything(load(tmp_path / "set", split, SMALL)), [cut(picture)])  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["set", "test.tar", "train.tar"]


def test_truncated_or_damaged_shard_is_named(tmp_path: Path) -> None:
    path = write_shards(tmp_path) / "train-000000.tar"
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        offsets = [info.offset for info in archive]
        data = [info.offset_data for info in archive]
    header = bytearray(whole)
    header[offsets[2] + 3] ^= 0xFF
    negative = bytearray(whole)
    negative[offsets[1] + 124 : offsets[1] + 136] = b"\xff" * 12  # -1, in base 256
    negative[offsets[1] + 148 : offsets[1] + 156] = b" " * 8
    negative[offsets[1] + 148 : offsets[1] + 156] = b"%06o\0 " % sum(negative[offsets[1] : offsets[1] + 512])
    damaged = {
        "in data": whole[: data[2] + 10],
        "in a header": whole[: offsets[2] + 100],
        "between members": whole[: offsets[2]],
        "after the last header": whole[: data[3]],
        "empty": b"",
        "no tar": b"no tar file" * 100,
        "compressed": gzip.compress(whole),
        "header": bytes(header),
        "size": bytes(negative),
    }
    for kind, content in damaged.items():
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"train-000000\.tar: "):
            pytest.fail(f"{kind}: {load(tmp_path, 'train').labels}")


def test_shard_that_shrinks_or_holds_a_damaged_image_is_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "train.tar", {"0.png": PICTURES[0][:100], "0.cls": b"0", "1.png": PICTURES[1], "1.cls": b"0"})
    data = load(tmp_path, "train", SMALL)
    with pytest.raises(DataError, match=r"train\.tar: member '0\.png': the image is damaged"):
        everything(data)
    with (tmp_path / "train.tar").open("r+b") as file:
        file.truncate(2100)
    with pytest.raises(DataError, match=r"train\.tar: member '1\.png': cannot be read: the shard ends"):
        data.images(np.array([1]))


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"0.png": PICTURES[0]}, "member '0.png': has no label"),
        ({"0.png": PICTURES[0], "0.cls": b"cat"}, "member '0.cls': holds no label"),
        ({"0.png": PICTURES[0], "0.cls": b""}, "member '0.cls': holds no label"),
        ({"0.png": PICTURES[0], "0.cls": b"-1"}, "member '0.cls': its label is -1"),
        ({"0.png": PICTURES[0], "0.cls": b"9" * 30}, "member '0.cls': its label is 9999"),
        ({"0.png": PICTURES[0], "0.json": b"{"}, "member '0.json': holds no label"),
        ({"0.png": PICTURES[0], "0.json": b"[" * 100_000}, "member '0.json': holds no label"),
        ({"0.png": PICTURES[0], "0.json": b"[]"}, "member '0.json': holds no label"),
        ({"0.png": PICTURES[0], "0.json": b'{"class": 1}'}, "member '0.json': holds no label: KeyError: 'label'"),
        ({"0.png": PICTURES[0], "0.json": b'{"label": true}'}, "member '0.json': its label is True"),
        ({"0.png": PICTURES[0], "0.json": b'{"label": "1"}'}, "member '0.json': its label is '1'"),
        ({"0.png": PICTURES[0], "0.jpg": PICTURES[1], "0.cls": b"0"}, "sample '0' has 2 images, not one"),
        ({"0.cls": b"0"}, "sample '0' has 0 images, not one"),
        ({"0.PNG": PICTURES[0], "0.png": PICTURES[0], "0.cls": b"0"}, "member '0.png': occurs twice"),
        ({"meta.json": b"{}"}, "hold no images"),
    ],
)
def test_unusable_samples_are_refused(tmp_path: Path, members: dict[str, bytes], reason: str) -> None:
    write_tar(tmp_path / "train.tar", members)
    with pytest.raises(DataError) as caught:
        load(tmp_path, "train")
    assert reason in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_labels_beyond_the_class_names_are_refused(tmp_path: Path) -> None:
    (write_shards(tmp_path) / "labels.txt").write_text("rose\ntulip\n")
    with pytest.raises(DataError, match="label 2, but there are only 2 class names"):
        load(tmp_path, "train")


# Any folder


def test_folder_of_an_unknown_format_lists_the_formats(tmp_path: Path) -> None:
    write_files(tmp_path, {"notes.txt": b"x", "sets/deep/cat/1.png": encode(1), "train.bin": b"x", "other.tar": b"x"})
    with pytest.raises(DataError) as caught:
        load(tmp_path, "train")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}: holds no data set")
    assert all(format_ in message for format_ in ("IDX", "CIFAR", "train/CLASS", "tar shards"))
    with pytest.raises(DataError, match="there is no such folder"):
        load(tmp_path / "none", "train")


def test_folder_of_two_data_sets_is_ambiguous(tmp_path: Path) -> None:
    write_files(write_shards(tmp_path), TRAIN_FILES)
    with pytest.raises(DataError, match=r"holds more than one data set .*CLASS.*; tar shards"):
        load(tmp_path, "train")


def test_split_without_images_is_refused(tmp_path: Path) -> None:
    write_idx(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(IDX_IMAGES[:0]))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(IDX_LABELS[:0]))
    with pytest.raises(DataError, match="the test split holds no images"):
        load(tmp_path, "test")


def test_subset_has_the_geometry_of_its_source(tmp_path: Path) -> None:
    data = load(write_files(tmp_path, TRAIN_FILES), "train", SMALL)
    subset = Subset(data, np.array([4, 1]))
    assert (subset.geometry, subset.name, subset.classes) == (SMALL, data.name, data.classes)
    assert subset.labels.tolist() == data.labels[[4, 1]].tolist()
    np.testing.assert_array_equal(subset.images(np.array([1, 0])), data.images(np.array([1, 4])))


# Reading ahead, and training


class Watched(ArrayDataset):
    """Says when a batch is read."""

    def images(self, indices: NDArray[np.int64]) -> UInt8Array:
        READ[int(indices[0])].set()
        if indices[0] == 6:
            raise DataError("bad.png: is damaged")
        return super().images(indices)


READ: dict[int, Event] = {}


def test_next_batch_is_read_while_one_is_used() -> None:
    READ.update({first: Event() for first in (0, 2, 4, 6)})
    data = Watched("watched", ("a", "b"), np.arange(8) % 2, noise(3, 8, 4, 4, 3))

    def indices() -> Iterator[NDArray[np.int64]]:
        for first in (0, 2, 4, 6):
            yield np.arange(first, first + 2)

    with ThreadPoolExecutor(1) as reader:
        batches = read_ahead(data.images, indices(), reader)
        for first in (0, 2, 4):
            batch = next(batches)
            np.testing.assert_array_equal(batch, data.array[first : first + 2])
            assert READ[first + 2].wait(TIMEOUT)
            assert not any(READ[later].is_set() for later in range(first + 4, 8, 2))
        with pytest.raises(DataError, match=r"bad\.png"):
            next(batches)


def test_statistics_of_image_files(tmp_path: Path) -> None:
    data = load(write_files(tmp_path, TRAIN_FILES), "train", SMALL)
    preprocess = measure_preprocess(data)
    values = everything(data).reshape(-1, 3) / 255.0
    np.testing.assert_allclose(preprocess.mean, values.mean(0), atol=1e-6)
    np.testing.assert_allclose(preprocess.std, values.std(0), atol=1e-6)
    assert (preprocess.size, preprocess.resize, preprocess.mode) == ((16, 16), 18, "RGB")


RECIPE = Recipe("tiny", epochs=1, batch_size=4, crop_padding=1, compute="float32")


def write_pictures(folder: Path, damaged: bool = False) -> Path:
    """Dark and light noise, in JPEG files of different sizes."""
    files = {}
    for split, count in (("train", 6), ("val", 2)):
        for label, name in enumerate(("dark", "light")):
            for index in range(count):
                pixels = noise(index, 20 + index, 30 - index, 3) // 4 + 180 * label
                buffer = io.BytesIO()
                Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG")
                files[f"{split}/{name}/{index}.jpg"] = buffer.getvalue()
    if damaged:
        files["train/light/3.jpg"] = files["train/light/3.jpg"][:-300]
    return write_files(folder, files)


@pytest.mark.slow
def test_epoch_on_image_files(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures")
    data, test = load(folder, "train", SMALL), load(folder, "test", SMALL)
    result = train(RECIPE, data, test, tmp_path / "run")
    saved = checkpoint.load(tmp_path / "run" / "model.safetensors")
    assert saved.labels == ("dark", "light")
    assert (saved.preprocess.size, saved.preprocess.resize) == ((16, 16), 18)
    assert result.training["dataset"] == "pictures"
    assert result.training["test"]["images"] == 4
    # Decoding ahead in threads changes nothing.
    array = ArrayDataset("pictures", data.classes, data.labels, everything(data))
    again = train(RECIPE, array, None, tmp_path / "again")
    for key, value in saved.weights.items():
        assert value.equal(again.weights[key])


def test_training_names_the_damaged_file(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", damaged=True)
    with pytest.raises(DataError, match=r"train/light/3\.jpg: the JPEG file ends before its pixels"):
        train(replace(RECIPE, validation=2), load(folder, "train", SMALL), None, tmp_path / "run")


@pytest.mark.slow
def test_train_and_evaluate_commands_on_image_files(tmp_path: Path) -> None:
    folder, out = write_pictures(tmp_path / "pictures"), tmp_path / "run"
    options = ["--data", str(folder), "--out", str(out), "--epochs", "1", "--size", "28", "--batch-size", "4"]
    result = CliRunner().invoke(app, ["train", "--arch", "tiny", "--compute", "float32", *options])
    assert result.exit_code == 0, result.output
    preprocess = checkpoint.load(out / "model.safetensors").preprocess
    assert (preprocess.size, preprocess.resize, preprocess.mode) == ((28, 28), 32, "RGB")
    result = CliRunner().invoke(app, ["evaluate", str(out / "model.safetensors"), "--data", str(folder)])
    assert result.exit_code == 0, result.output
    assert "dark" in result.stdout
    assert "images 4" in result.stdout
    (folder / "val" / "dark").rename(folder / "val" / "night")
    (folder / "train" / "dark").rename(folder / "train" / "night")
    result = CliRunner().invoke(app, ["evaluate", str(out / "model.safetensors"), "--data", str(folder)])
    assert (result.exit_code, "1 of its 2 classes are not classes of the network: 'night'" in result.stderr) == (
        2,
        True,
    )
    line = json.loads((out / "metrics.jsonl").read_text())
    assert line["epoch"] == 1


def test_label_that_training_lacks_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "train.tar", FIRST)
    write_tar(tmp_path / "test.tar", {"x/0.png": PICTURES[3], "x/0.cls": b"7"})
    with pytest.raises(DataError, match="holds label 7"):
        load(tmp_path, "test", SMALL)


def test_images_with_other_classes_are_checked(tmp_path: Path) -> None:
    write_files(tmp_path, {**TRAIN_FILES, "train/cat/broken.png": b"no image"})
    data = load(tmp_path, "train", SMALL)
    renamed = match_classes(data, tuple(reversed(data.classes)))
    assert renamed is not data
    with pytest.raises(DataError, match=r"broken\.png"):
        check_images(renamed)
