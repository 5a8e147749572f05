"""HEIC and JPEG XL, which plug-ins of Pillow decode in a process of its own."""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from models.imaging import images
from models.imaging.allowance import UNLIMITED, Allowance, DecodeMemory
from models.imaging.conversion import Mode
from models.imaging.errors import DeadlinePassed, ImageError, NotAnImage, TooManyPixels, TooMuchMemory
from models.imaging.formats import heif, jxl, process
from models.imaging.image_files import Skipped, find_images
from tests.support.service import Client
from tests.support.tiny import Photographs

pillow_heif = pytest.importorskip("pillow_heif", reason="needs the extra formats")
pytest.importorskip("pillow_jxl", reason="needs the extra formats")
pytestmark = pytest.mark.slow

EXIF, TURNED = 0x0112, 6
ANIMATED_JXL = bytes.fromhex(
    "ff0a07054d0020260804010040004b188b158055ff7f0000450700f41f090804010044004b188b15801dfeff0000900e00ec"
    "33c2010804050044004b188b15805dfeff0000920e002c2fd203"
)
"""Three frames of 48 x 32 pixels, by libjxl."""
DEEP_JXL = bytes.fromhex(
    "0000000c4a584c200d0a870a00000014667479706a786c20000000006a786c20000000096a786c6c0a000000336a786c63ff"
    "0a0070fc00142d020804010070004b188b15420ad8380d18d4054200b880f8fbbd3df734aade25808001"
)
"""Two pixels of 16 bits per colour: (65535, 0, 32896) and (257, 514, 771); by libjxl."""
HUGE = 30_000


@pytest.fixture(scope="module", autouse=True)
def _heif_writer() -> None:
    pillow_heif.register_heif_opener()


@pytest.fixture(scope="module")
def photograph(photographs: Photographs) -> Image.Image:
    return Image.open(io.BytesIO(photographs[0][1])).convert("RGB").resize((120, 80))


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[EXIF] = TURNED
    return exif.tobytes()


def deep(image: Image.Image) -> bytes:
    """A HEIC with 10 bits per colour."""
    values = (np.asarray(image).astype(np.uint16) * 257).tobytes()
    buffer = io.BytesIO()
    pillow_heif.from_bytes(mode="RGB;16", size=image.size, data=values).save(buffer)
    return buffer.getvalue()


def see_through(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def wide(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


FILES: dict[str, Callable[[Image.Image], bytes]] = {
    "HEIC": lambda image: encode(image, "HEIF"),
    "HEIC, grey": lambda image: encode(image.convert("L"), "HEIF"),
    "HEIC, alpha": lambda image: encode(see_through(image), "HEIF"),
    "HEIC, tiles": lambda image: encode(image, "HEIF", tile_size=64),
    "HEIC, 10 bits": deep,
    "HEIC, the second of two is the first to show": lambda image: encode(
        Image.new("RGB", (200, 200)), "HEIF", save_all=True, append_images=[image], primary_index=1
    ),
    "JPEG XL": lambda image: encode(image, "JXL"),
    "JPEG XL, in boxes": lambda image: encode(image, "JXL", use_container=True),
    "JPEG XL, lossless, grey": lambda image: encode(image.convert("L"), "JXL", lossless=True),
    "JPEG XL, alpha": lambda image: encode(see_through(image), "JXL"),
    "JPEG XL, 16 bits": lambda image: encode(wide(image), "JXL", lossless=True),
    "JPEG XL with EXIF, which does not turn it": lambda image: encode(image, "JXL", exif=turned()),
}


def expected(data: bytes, mode: Mode) -> np.ndarray[Any, Any]:
    """The image by Pillow's own plug-in and operations."""
    image: Image.Image = Image.open(io.BytesIO(data))
    if image.mode == "I;16":
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert(mode))


@pytest.mark.parametrize("name", FILES)
def test_pixels_are_those_of_pillow(name: str, photograph: Image.Image) -> None:
    data = FILES[name](photograph)
    decoded = images.decode(data, "RGB")
    assert (decoded.format, decoded.size) == ("HEIF" if "HEIC" in name else "JXL", photograph.size)
    np.testing.assert_array_equal(np.asarray(decoded), expected(data, "RGB"))


def test_photograph_is_turned_once(photograph: Image.Image, tmp_path: Path, client: Client) -> None:
    """As phones write it, with the orientation in the header and in EXIF; and a JPEG file packed into JPEG XL."""
    heic = encode(photograph, "HEIF", exif=turned(), quality=95, chroma=444)
    upright = photograph.transpose(Image.Transpose.ROTATE_270)
    decoded = images.decode(heic, "RGB")
    assert decoded.size == upright.size
    assert np.abs(np.asarray(decoded).astype(int) - np.asarray(upright)).mean() < 5
    result = client.post("/v1/classify", content=heic, headers={"content-type": "image/heic"}).json()["results"][0]
    assert result["image"] == {"width": 80, "height": 120, "format": "HEIF"}

    (tmp_path / "a.jpg").write_bytes(encode(photograph, "JPEG", exif=turned()))
    with Image.open(tmp_path / "a.jpg") as jpeg:
        packed = encode(jpeg, "JXL", lossless_jpeg=True)
        assert b"jbrd" in packed
        np.testing.assert_array_equal(
            np.asarray(images.decode(packed, "RGB")), np.asarray(ImageOps.exif_transpose(jpeg))
        )


def test_16_bits_per_colour_are_reduced_to_8() -> None:
    decoded = np.asarray(images.decode(DEEP_JXL, "RGB"))
    np.testing.assert_array_equal(decoded, [[[255, 0, 128], [1, 2, 3]]])


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (256, 256), (200, 150), (320, 180), (37, 61), (600, 1), (250, 200)])
def test_size_of_jpeg_xl_is_read_from_its_header(size: tuple[int, int]) -> None:
    for in_boxes in (False, True):
        assert jxl.size(encode(Image.new("RGB", size), "JXL", effort=1, use_container=in_boxes)) == size


def claim(data: bytes, width: int, height: int) -> bytes:
    """A HEIC file whose header claims another size."""
    places = [place for place in range(len(data)) if data.startswith(b"ispe", place)]
    for place in places:
        data = data[: place + 8] + struct.pack(">II", width, height) + data[place + 16 :]
    assert places
    return data


def jxl_header(width: int, height: int) -> bytes:
    """The header of a JPEG XL file with 30 bits per side."""
    bits = 0 | 3 << 1 | (height - 1) << 3 | 0 << 33 | 3 << 36 | (width - 1) << 38 | 1 << 68
    return b"\xff\x0a" + bits.to_bytes(16, "little")


HOSTILE: dict[str, tuple[Callable[[], bytes], type[ImageError], str]] = {
    "HEIC of too many pixels": (
        lambda: claim(encode(Image.new("RGB", (64, 64)), "HEIF"), HUGE, HUGE), TooManyPixels, "30000 x 30000 pixels",
    ),
    "JPEG XL of too many pixels": (lambda: jxl_header(HUGE, HUGE), TooManyPixels, "30000 x 30000 pixels"),
    "JPEG XL of a long side": (lambda: jxl_header(1 << 30, 1), TooManyPixels, "along one side"),
    "HEIC that takes too much memory": (
        lambda: claim(encode(Image.new("RGB", (64, 64)), "HEIF"), 4000, 4000), TooMuchMemory, "MB of memory",
    ),
    "HEIC with more pixels than it claims": (
        lambda: claim(encode(Image.new("RGB", (2048, 2048)), "HEIF"), 16, 16), NotAnImage, "damaged or incomplete",
    ),
    "HEIC without a size": (
        lambda: encode(Image.new("RGB", (64, 64)), "HEIF").replace(b"ispe", b"none"), NotAnImage, "no size in its",
    ),
    "HEIC of a signature": (lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", NotAnImage, "no size in its header"),
    "HEIC of many boxes": (
        lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + 2000 * b"\0\0\0\x08free", NotAnImage, "more than 1,024 boxes",
    ),
    "JPEG XL of a signature": (lambda: b"\xff\x0a", NotAnImage, "header of the JPEG XL file is damaged"),
    "JPEG XL of noise": (lambda: b"\xff\x0a" + bytes(range(1, 200)), NotAnImage, "damaged or incomplete"),
    "JPEG XL of empty boxes": (lambda: b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(8), NotAnImage, "header"),
    "JPEG XL animation": (lambda: ANIMATED_JXL, NotAnImage, "is an animation, which is not accepted"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_words(name: str) -> None:
    make, kind, message = HOSTILE[name]
    with pytest.raises(kind, match=message):
        images.decode(make(), "RGB", Allowance(memory=DecodeMemory(150_000_000)))


@pytest.mark.parametrize("file_format", ["HEIF", "JXL"])
def test_cut_files_are_refused(file_format: str, photograph: Image.Image) -> None:
    data = encode(photograph, file_format)
    for share in (0.02, 0.3, 0.9):
        with pytest.raises(NotAnImage, match="send the whole file"):
            images.decode(data[: int(share * len(data))], "RGB")


@pytest.mark.parametrize("file_format", ["HEIF", "JXL"])
def test_process_has_the_memory_of_the_header(file_format: str) -> None:
    """A file whose frames are larger than its header claims ends its process, and nothing else."""
    data = encode(Image.new("RGB", (1024, 1024)), file_format)
    with process.open_image(data, file_format, (1024, 1024), 64 << 20, UNLIMITED) as image:
        assert image.size == (1024, 1024)
    with pytest.raises(NotAnImage):
        process.open_image(data, file_format, (1024, 1024), 2 << 20, UNLIMITED)
    with pytest.raises(NotAnImage, match="larger than the header"):
        process.open_image(data, file_format, (16, 16), 64 << 20, UNLIMITED)


@pytest.mark.parametrize(
    ("script", "kind", "message"),
    [
        ("import signal; signal.pause()", DeadlinePassed, "time limit passed"),
        ("import os; os.abort()", NotAnImage, "more memory or time than"),
        ("raise MemoryError", NotAnImage, "damaged or incomplete"),
    ],
)
def test_end_of_the_process(
    script: str, kind: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "script.py"
    path.write_text(script)
    monkeypatch.setattr(process, "_SCRIPT", path)
    with pytest.raises(kind, match=message):
        process.open_image(b"", "JXL", (8, 8), 1 << 20, Allowance(deadline=time.monotonic() + 0.3))


def test_without_plug_ins_the_error_names_the_extra(
    photograph: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "INSTALLED", ())
    monkeypatch.setattr("models.imaging.image_files.SUFFIXES", frozenset({".jpg"}))
    for file_format, name in (("HEIF", "HEIC"), ("JXL", "JPEG XL")):
        with pytest.raises(NotAnImage, match=f"{name} files need the extra formats"):
            images.decode(encode(photograph, file_format), "RGB")
    (tmp_path / "a.HEIC").touch()
    skipped = Skipped()
    assert list(find_images(tmp_path, skipped)) == []
    assert "1 in a format that needs the extra formats" in str(skipped)


def test_files_of_both_formats_are_found_in_folders(tmp_path: Path) -> None:
    names = ["a.heic", "b.HEIF", "c.hif", "d.jxl"]
    for name in names:
        (tmp_path / name).touch()
    assert list(find_images(tmp_path)) == names


def test_avif_is_no_heic(photograph: Image.Image) -> None:
    data = encode(photograph, "AVIF")
    assert not heif.matches(data)
    assert images.decode(data, "RGB").format == "AVIF"
