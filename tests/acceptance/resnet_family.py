"""Every architecture, and images as they really are.

    python -m tests.acceptance.resnet_family [LINE ...]

Needs the `cpu`, `train` and `dev` extras; line 5 fuzzes for ten minutes and needs `pip install atheris`.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image, features
from torch.nn import functional as F

from export.build import build as build_version
from export.formats import onnx as onnx_format
from export.fusion import onnxruntime
from export.graph import ServingGraph
from export.samples import photographs
from export.verify import OnnxRunner, check_parity
from models.architectures import VARIANTS, build
from models.architectures.complexity import count_multiply_adds, count_parameters
from models.training.evaluate import predict
from tests.acceptance.report import run
from tests.acceptance.server import serve
from tests.support.networks import make_checkpoint

ROOT = Path(__file__).parents[2]
FUZZ_SECONDS = int(os.environ.get("FUZZ_SECONDS", "600"))

PARAMETERS = {"resnet20": 0.27, "resnet32": 0.46, "resnet44": 0.66, "resnet56": 0.85, "resnet110": 1.7,
              "resnet1202": 19.4}  # fmt: skip
MULTIPLY_ADDS = {"resnet18": 1.8, "resnet34": 3.66, "resnet50-v1": 3.86, "resnet101-v1": 7.6, "resnet152-v1": 11.3,
                 "resnet101": 7.8, "resnet152": 11.5}  # fmt: skip


def line_1() -> tuple[bool, str]:
    """Parameters and multiply-adds within 2 % of the papers' tables."""
    deviations = {}
    with torch.device("meta"):
        for name, millions in PARAMETERS.items():
            deviations[name] = count_parameters(build(name, 10)) / (millions * 1e6) - 1
        for name, billions in MULTIPLY_ADDS.items():
            deviations[name] = count_multiply_adds(build(name, 1000), 3, (224, 224)) / (billions * 1e9) - 1
    worst = max(deviations, key=lambda name: abs(deviations[name]))
    return abs(deviations[worst]) <= 0.02, (
        f"{len(deviations)} figures, the largest deviation is {deviations[worst]:+.2%} ({worst})"
    )


def line_2() -> tuple[bool, str]:
    """Blocks equal tensor arithmetic in float64 to 1e-10; ResNet-18 and -50 equal transformers' to 1e-5."""
    command = [sys.executable, "-m", "pytest", "tests/unit/test_blocks.py", "tests/integration/test_transformers.py"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return result.returncode == 0, result.stdout.strip().splitlines()[-1]


def line_3() -> tuple[bool, str]:
    """Every architecture trains one step, exports and is fused: with 1 and 3 channels, with every shortcut."""
    cases: list[tuple[str, int, dict[str, Any]]] = []
    for name in VARIANTS:
        cases += [(name, channels, {}) for channels in ((3,) if "1202" in name else (1, 3))]
    for name in ("tiny", "resnet20", "resnet50", "preact-resnet20", "linear-join-resnet50"):
        cases += [(name, 3, {"shortcut": kind}) for kind in ("A", "B", "C", "none")]
    wrong = []
    worst = 0.0
    for name, channels, options in cases:
        try:
            error, adds, fused = _train_and_export(name, channels, options)
        except Exception as failure:
            wrong.append(f"{name} {channels} {options}: {failure}")
            continue
        plain = name.startswith("plain") or options.get("shortcut") == "none"
        expected = 0 if plain else sum(VARIANTS[name].depths)
        print(f"  {name}, {channels} channels {options or ''}: error {error:.1e}, {fused} of {adds} fused", flush=True)
        worst = max(worst, error)
        if not fused == adds == expected:
            wrong.append(f"{name} {channels} {options}: {fused} of {adds} fused, expected {expected}")
    return not wrong, f"{len(cases)} networks, largest logit error {worst:.1e} of the spread; wrong: {wrong or 'none'}"


def _train_and_export(name: str, channels: int, options: dict[str, Any]) -> tuple[float, int, int]:
    size = 64 if VARIANTS[name].reduces_early else 32
    torch.manual_seed(0)
    model = build(name, 10, channels, **options)
    before = model.classifier.weight.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loss = F.cross_entropy(model(torch.randn(2, channels, size, size)), torch.tensor([1, 2]))
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    if torch.equal(before, model.classifier.weight) or any(p.grad is None for p in model.parameters()):
        raise RuntimeError("the step did not reach every parameter")
    size = 128 if VARIANTS[name].reduces_early else 32
    made = make_checkpoint(name, size=size, channels=channels, **options)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx_format.write(ServingGraph(made.model(), made.preprocess), made.preprocess, path)
        images = photographs(made.preprocess)
        expected = predict(made.model(), images, made.preprocess).numpy()
        parity = check_parity(OnnxRunner(path), images, expected, "float32")
        report = onnxruntime.report(path)
    return parity.logit_error, report.residual_adds, report.fused


def line_4() -> tuple[bool, str]:
    """Every kind of image answers as its plain PNG twin; every bad request gets its status, and the next one works."""
    wrong, kinds, bad = [], 0, 0
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        # A colour network: the one that ships sees grey only.
        make_checkpoint("resnet20", size=32).save(Path(folder) / "checkpoint.safetensors")
        build_version(Path(folder) / "checkpoint.safetensors", Path(folder) / "repository", "colour")
        server = stack.enter_context(serve("--repository", f"{folder}/repository"))
        url = f"{server.url}/v1/classify"

        def post(content: bytes, kind: str = "application/octet-stream", query: str = "") -> httpx.Response:
            return httpx.post(f"{url}{query}", content=content, headers={"Content-Type": kind}, timeout=60)

        for name, data, twin in _kinds():
            kinds += 1
            given, expected = (post(content).json()["results"][0]["predictions"] for content in (data, twin))
            if given != expected:
                wrong.append(f"{name}: {given[0]} instead of {expected[0]}")
        good = _encode(Image.new("RGB", (1, 1)))
        requests: list[tuple[str, int, Callable[[], httpx.Response]]] = [
            ("empty", 422, lambda: post(b"")),
            ("text", 422, lambda: post(b"no image at all", "image/png")),
            ("bomb", 413, lambda: post(_bomb(20_000, 20_000))),
            ("50 MB", 413, lambda: post(bytes(50_000_000))),
            ("media type", 415, lambda: post(good, "text/plain")),
            ("unknown model", 404, lambda: httpx.post(f"{server.url}/v1/models/none/classify", content=good)),
            ("top_k = 0", 400, lambda: post(good, query="?top_k=0")),
            *((f"JPEG cut at {part}/20", 422, functools.partial(post, _cut_jpeg(part))) for part in range(20)),
        ]
        for name, status, request in requests:
            bad += 1
            response = request()
            if response.status_code != status or not response.json().get("detail"):
                wrong.append(f"{name}: {response.status_code} {response.text[:100]}")
            if not post(good).is_success:
                wrong.append(f"{name}: the next request failed")
        if len(post(good, query="?top_k=1000").json()["results"][0]["predictions"]) != 10:
            wrong.append("top_k over the class count is not clamped")
    return not wrong, f"{kinds} kinds of images equal their twins, {bad} bad requests; wrong: {wrong or 'none'}"


def _kinds() -> Iterator[tuple[str, bytes, bytes]]:
    """(name, file, PNG with the pixels that it should be read as)."""
    photograph = Image.open(ROOT / "export" / "photographs" / "cat.jpg").convert("RGB")
    pixels = np.asarray(photograph)
    grey = photograph.convert("L")
    plain = _encode(photograph)
    for orientation, transpose in ((3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_270),
                                   (8, Image.Transpose.ROTATE_90)):  # fmt: skip
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield (
            f"EXIF orientation {orientation}",
            _encode(photograph, exif=exif),
            _encode(photograph.transpose(transpose)),
        )
    yield "grey", _encode(grey), _encode(Image.merge("RGB", [grey] * 3))
    palette = photograph.quantize(64)
    yield "palette", _encode(palette), _encode(palette.convert("RGB"))
    wide = np.asarray(grey).astype(np.uint16) * 257
    yield "16-bit PNG", _encode(Image.fromarray(wide)), _encode(grey)
    yield "16-bit TIFF", _encode(Image.fromarray(wide), "TIFF"), _encode(grey)
    cmyk = photograph.convert("CMYK")
    yield "CMYK TIFF", _encode(cmyk, "TIFF"), _encode(cmyk.convert("RGB"))
    for file_format in ("JPEG", "WEBP", "AVIF"):
        if file_format == "AVIF" and not features.check("avif"):
            continue
        lossy = _encode(photograph, file_format)
        yield file_format, lossy, _encode(Image.open(io.BytesIO(lossy)).convert("RGB"))
    cmyk_jpeg = _encode(cmyk, "JPEG")
    yield "CMYK JPEG", cmyk_jpeg, _encode(Image.open(io.BytesIO(cmyk_jpeg)).convert("RGB"))
    alpha = np.linspace(0, 255, pixels.shape[0]).astype(np.uint8)[:, None].repeat(pixels.shape[1], 1)
    with_alpha = Image.fromarray(np.dstack([pixels, alpha]))
    white = Image.new("RGBA", with_alpha.size, "white")
    yield "alpha", _encode(with_alpha), _encode(Image.alpha_composite(white, with_alpha).convert("RGB"))
    yield "lossless WebP", _encode(photograph, "WEBP", lossless=True), plain
    yield "TIFF", _encode(photograph, "TIFF"), plain
    yield "BMP", _encode(photograph, "BMP"), plain
    black = Image.new("RGB", photograph.size)
    yield "animated PNG", _encode(photograph, "PNG", save_all=True, append_images=[black]), plain
    yield "animated WebP", _encode(photograph, "WEBP", save_all=True, append_images=[black], lossless=True), plain
    yield "multi-page TIFF", _encode(photograph, "TIFF", save_all=True, append_images=[black]), plain
    first = photograph.quantize(256)
    yield (
        "animated GIF",
        _encode(first, "GIF", save_all=True, append_images=[black.quantize(256)]),
        _encode(Image.open(io.BytesIO(_encode(first, "GIF"))).convert("RGB")),
    )


def _encode(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _cut_jpeg(twentieth: int) -> bytes:
    data = (ROOT / "export" / "photographs" / "cat.jpg").read_bytes()
    return data[: len(data) * twentieth // 20]


def _bomb(width: int, height: int) -> bytes:
    """A PNG header that announces a huge image, and next to no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def line_5() -> tuple[bool, str]:
    """Ten minutes of fuzzing the decoder: no exception but the documented ones, no growth of memory."""
    with tempfile.TemporaryDirectory() as folder:
        seeds = Path(folder)
        for index, (_, data, twin) in enumerate(_kinds()):
            for kind, content in (("kind", data), ("twin", twin)):
                small = Image.open(io.BytesIO(content))
                if kind == "twin":
                    content = _encode(small.resize((16, 12)), "JPEG")
                (seeds / f"{index}-{kind}").write_bytes(content if len(content) < 40_000 else content[:40_000])
        command = [sys.executable, "-m", "tests.acceptance.fuzz_decoder", f"-max_total_time={FUZZ_SECONDS}",
                   "-max_len=65536", folder]  # fmt: skip
        result = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
                                text=True)  # fmt: skip
    runs = re.search(r"Done (\d+) runs in (\d+) second", result.stderr)
    memory = [int(megabytes) for megabytes in re.findall(r"memory: (\d+) MB", result.stderr)]
    if result.returncode != 0 or runs is None or len(memory) < 2:
        return False, f"exit code {result.returncode}: {result.stderr[-600:]}"
    early, late = memory[len(memory) // 2], memory[-1]
    return late <= 1.1 * early, (
        f"{int(runs[1]):,} damaged files in {runs[2]} s, no undocumented exception; resident memory in tenths of the "
        f"time {memory} MB, from the middle to the end at most 10 % more"
    )


if __name__ == "__main__":
    run({1: line_1, 2: line_2, 3: line_3, 4: line_4, 5: line_5})
