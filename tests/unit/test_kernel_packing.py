"""Weights, buffers and launches of the CUDA engine's plans."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from itertools import combinations, pairwise

import numpy as np
import pytest

from export.errors import UnsupportedDevice, UnsupportedNetwork
from export.kernels.network import Convolution, Form, Pixels, Shape
from export.kernels.packing.arena import Need, place_tensors
from export.kernels.packing.layout import Layout
from export.kernels.packing.pixels import mean_and_scale
from export.kernels.packing.planner import draft
from export.kernels.packing.weights import WeightStore, as_bytes, matrix, pixel_matrix, span
from export.kernels.reading.reader import read
from export.kernels.tiles import TABLE, KernelTarget, Problem, ProblemKey, select_tile, target
from models.runtime.cuda_engine.check import check
from models.runtime.cuda_engine.file import pack
from models.runtime.cuda_engine.plan import LaunchPlan, MapArgument, Pointer
from tests.support import tiny

VERSION = tiny.FOLDER / tiny.REPOSITORY / "tiny" / "1"


def convolution(weight: np.ndarray, groups: int = 1) -> Convolution:
    form = Form("y", Shape(4, 4, len(weight)))
    bias = np.zeros(len(weight), np.float32)
    padding = weight.shape[2] // 2
    return Convolution("conv", "x", weight, None, bias, 1, padding, groups, None, (form,), ("conv",))


@pytest.mark.parametrize(("out", "inside", "groups"), [(40, 24, 1), (64, 64, 16), (256, 256, 2), (64, 64, 2)])
def test_packed_weights_give_the_same_products(out: int, inside: int, groups: int) -> None:
    """Each output channel, from the input channels that a kernel's block loads for it."""
    random = np.random.default_rng(3)
    conv = convolution(random.normal(size=(out, inside // groups, 3, 3)).astype(np.float32), groups)
    block = 32
    packed, width = matrix(conv, block), span(conv, block)
    pixels = random.normal(size=(3, 3, -(-inside // 32) * 32)).astype(np.float32)
    expected = np.zeros(len(packed))
    for channel in range(out):
        first = channel // (out // groups) * (inside // groups)
        seen = pixels[..., first : first + inside // groups]
        expected[channel] = (seen.transpose(2, 0, 1) * conv.weight[channel]).sum()
    found = np.zeros(len(packed))
    for channel in range(len(packed)):
        first = channel // block * block // width * width if groups > 1 else 0
        found[channel] = (pixels[..., first : first + width].reshape(-1) * packed[channel]).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_groups_that_fit_no_block_are_refused() -> None:
    with pytest.raises(UnsupportedNetwork, match="groups of 12 channels"):
        span(convolution(np.zeros((96, 12, 3, 3), np.float32), 8), 32)
    with pytest.raises(UnsupportedNetwork, match="other numbers of outputs"):
        span(convolution(np.zeros((64, 16, 3, 3), np.float32), 2), 32)


def test_a_row_of_pixels_is_one_tap() -> None:
    random = np.random.default_rng(4)
    conv = convolution(random.normal(size=(8, 3, 7, 7)).astype(np.float32))
    packed = pixel_matrix(conv, 4)
    image = random.normal(size=(7, 8, 4)).astype(np.float32)  # one pixel more than the window has
    found = packed @ image.reshape(-1)
    expected = (image[:, :7, :3].transpose(2, 0, 1) * conv.weight).sum((1, 2, 3))
    np.testing.assert_allclose(found[:8], expected, rtol=1e-4, atol=1e-4)
    assert not found[8:].any()


def test_bfloat16_is_rounded_half_to_even() -> None:
    import torch

    values = np.array([0.0, 1.0, -1.0, 1.00390625, 1.01171875, 3.1415927, -65504.0, 1e-30, 1e30], np.float32)
    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().tobytes()
    assert as_bytes(values, "bf16") == expected


def test_equal_constants_are_stored_once() -> None:
    store = WeightStore()
    first, second, again = store.add(b"one"), store.add(b"two"), store.add(b"one")
    assert first == again != second
    assert second % 256 == 0
    assert store.content()[second:] == b"two"


@pytest.mark.parametrize("step", [None, 0.0187, 0.0079])
def test_pixels_have_the_integers_of_the_graph(step: float | None) -> None:
    byte = np.arange(256, dtype=np.float32)[:, None]
    values = (byte - np.array([123.675, 116.28], np.float32)) * np.array([0.017124754, 0.017507], np.float32)
    pixels = Pixels(values, Form("images.0", Shape(8, 8, 2), step), ())
    mean, scale = mean_and_scale(pixels)
    found = (byte - mean) * scale
    if step is None:
        np.testing.assert_allclose(found, values, atol=1e-5)
    else:
        quantized = np.clip(np.rint(values / np.float32(step)), -128, 127)
        np.testing.assert_array_equal(np.clip(np.rint(found), -128, 127), quantized)


def test_pixels_of_another_arithmetic_are_refused() -> None:
    values = np.sqrt(np.arange(256, dtype=np.float32))[:, None]
    with pytest.raises(UnsupportedNetwork, match="no difference with a mean"):
        mean_and_scale(Pixels(values, Form("images.0", Shape(8, 8, 1)), ()))


def test_tensors_share_memory_only_at_other_times() -> None:
    random = np.random.default_rng(5)
    needs = []
    for number in range(60):
        first = int(random.integers(0, 40))
        pattern = (int(random.integers(0, 3)),) if number % 3 == 0 else None
        size = 512 if pattern else int(random.integers(1, 5000))
        needs.append(Need(str(number), size, pattern, first, first + int(random.integers(0, 6))))
    places, size = place_tensors(needs)
    assert sorted(need.name for place in places for need in place.tensors) == sorted(need.name for need in needs)
    for one, other in combinations(places, 2):
        apart = one.offset + one.bytes <= other.offset or other.offset + other.bytes <= one.offset
        later = one.last < other.first or other.last < one.first
        assert apart or (later and not one.zeroed and not other.zeroed)
    for place in places:
        spans = sorted((need.first, need.last) for need in place.tensors)
        assert all(end < start for (_, end), (start, _) in pairwise(spans))
        assert len({need.pattern for need in place.tensors}) == 1
        assert place.offset % 256 == 0 and place.offset + place.bytes <= size
    assert size < sum(need.bytes for need in needs)


def test_padding_is_what_taps_read() -> None:
    layout = Layout(Shape(5, 7, 40), 1, "i8")
    assert (layout.channels, layout.pitch, layout.plane, layout.margin) == (64, 8, 48, 9)
    # The first tap of the first pixel, and the last tap of the last one.
    assert layout.start() == 9 * 64
    assert layout.bytes(2) == (2 * 48 + 18) * 64


def plans() -> Iterator[tuple[str, LaunchPlan]]:
    for file, precision in (("model.onnx", "float16"), ("model.onnx", "bfloat16"), ("model.int8.onnx", "int8")):
        for architecture in ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"):
            made = draft(read(VERSION / file), precision, target(architecture), (8, 1), "ab" * 32, "none")  # type: ignore[arg-type]
            yield f"{precision} {architecture}", pack(made.plan, made.weights, []).plan


def test_plans_keep_the_rules_on_all_architectures() -> None:
    for name, plan in plans():
        check(plan, plan.weights.bytes)
        assert plan.batches == (1, 8), name
        uses_maps = any(program.tensor_maps for program in plan.programs)
        assert uses_maps == (plan.architecture == "sm_90"), name


def test_every_byte_that_is_read_has_been_written_or_is_zero() -> None:
    """Reads come after a write to the same buffer, within this plan's order."""
    for name, plan in plans():
        for program in plan.programs:
            ready = {
                number
                for number, buffer in enumerate(program.buffers)
                if buffer.kind in ("images", "weights") or buffer.name.startswith("counters")
            }
            for launch in program.launches:
                pointers = [
                    program.tensor_maps[given.tensor_map].address if isinstance(given, MapArgument) else given
                    for given in launch.arguments
                    if isinstance(given, Pointer | MapArgument)
                ]
                read_by = {pointer.buffer for pointer in pointers if pointer.access == "read"}
                assert read_by <= ready, name
                ready |= {pointer.buffer for pointer in pointers if pointer.access != "read"}


def test_only_known_gpus_have_kernels() -> None:
    with pytest.raises(UnsupportedDevice, match="no kernels for sm_75, only for sm_80"):
        target("sm_75")


def _problem(**changes: object) -> Problem:
    fields = {
        "precision": "int8", "kernel": 3, "stride": 1, "inside": 256, "out": 256, "size": 14, "residual": False,
        "batch": 128, "rows": 128 * 196, "span": 256, "taps": 9, "grouped": False, "pixels": False,
    }  # fmt: skip
    fields |= changes
    key = {field.name: fields.pop(field.name) for field in dataclasses.fields(ProblemKey)}
    return Problem(ProblemKey(**key), **fields)  # type: ignore[arg-type]


def test_measured_blocks_are_used_near_their_batch_size() -> None:
    rows = json.loads(TABLE.read_text())["sm_90"]
    row = next(
        row
        for row in rows
        if (row["precision"], row["inside"], row["size"], row["stride"], row["batch"], row["kernel"])
        == ("int8", 256, 14, 1, 128, 3)
    )
    tile = select_tile(_problem(), target("sm_90")).tile
    expected = (row["loads"] == "tensor maps", *(row[key] for key in ("rows", "columns", "depth", "warps", "stages")))
    assert (tile.tensor_maps, tile.rows, tile.columns, tile.depth, tile.warps, tile.stages) == expected
    # One image has too few pixels for such blocks.
    single = select_tile(_problem(batch=1, rows=196), target("sm_90")).tile
    assert single.rows * single.columns < tile.rows * tile.columns


@pytest.mark.parametrize("architecture", ["sm_80", "sm_86", "sm_89", "sm_90"])
def test_blocks_fit_the_shape_and_the_shared_memory(architecture: str) -> None:
    limit = {"sm_80": 163, "sm_86": 99, "sm_89": 99, "sm_90": 227}[architecture] * 1024
    for precision in ("int8", "float16"):
        for out in (32, 64, 96, 128, 512):
            for rows in (49, 3136, 200_704):
                problem = _problem(precision=precision, out=out, rows=rows, inside=96, span=96, batch=1)
                tile = select_tile(problem, target(architecture)).tile
                assert out % tile.columns == 0 and 96 % tile.depth == 0
                loads = (tile.rows + tile.columns) * tile.depth * problem.element_bytes * tile.stages
                assert loads <= limit
                assert not tile.tensor_maps or architecture == "sm_90"


def test_the_interpreter_gets_few_large_blocks() -> None:
    tile = select_tile(_problem(batch=3, rows=588), KernelTarget("interpreter", tensor_maps=True)).tile
    assert tile.rows >= 588 and (tile.columns, tile.depth) == (256, 256)
