"""Embeddings and activation maps compared with PyTorch, receptive fields and Pillow."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from export.build import build
from models import architectures
from models.artifact.parity import Float32Array
from models.imaging.preprocess import Geometry, UInt8Array
from models.training.checkpoint import Checkpoint
from models.training.evaluate import normalise
from service.core.settings import Settings
from service.inference import activation_maps
from tests.support.api import as_form, as_json
from tests.support.marks import slow_except
from tests.support.networks import make_checkpoint
from tests.support.service import TIMEOUT, Client, serve
from tests.support.tiny import cut

Photographs = list[tuple[str, bytes]]


@pytest.fixture(scope="module", params=slow_except("tiny", ["tiny", "preact-resnet20", "linear-join-resnet20"]))
def network(request: pytest.FixtureRequest) -> Checkpoint:
    """Five classes; the input of the pooling differs: after ReLU, after normalisation and ReLU, after neither."""
    return make_checkpoint(request.param, classes=5)


@pytest.fixture(scope="module")
def served(network: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("network")
    network.save(folder / "checkpoint.safetensors")
    build(folder / "checkpoint.safetensors", folder / "repository", "network", allow_unfused=True)
    with serve(Settings(repository=folder / "repository")) as client:
        yield client


def eager(network: Checkpoint, pixels: UInt8Array) -> tuple[Float32Array, Float32Array, Float32Array]:
    """Logits [5], embedding [features] and maps [5, h, w] of one image, with the classifier as a 1x1 convolution."""
    model = network.model()
    taken: list[torch.Tensor] = []
    model.classifier.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
    with torch.inference_mode():
        inputs = normalise(torch.from_numpy(pixels.copy())[None].permute(0, 3, 1, 2), network.preprocess)
        logits = model(inputs)[0]
        features = model.features(inputs)
        torch.testing.assert_close(F.adaptive_avg_pool2d(features, 1).flatten(1), taken[0])
        maps = F.conv2d(features, model.classifier.weight[:, :, None, None])[0] / features[0, 0].numel()
    return logits.numpy(), taken[0][0].numpy(), maps.numpy()


@pytest.mark.slow
def test_maps_and_embeddings_equal_those_of_pytorch(
    network: Checkpoint, served: Client, photographs: Photographs
) -> None:
    bias = network.model().classifier.bias.detach().numpy()
    for _, data in photographs:
        logits, embedding, maps = eager(network, cut(data))
        (result,) = served.post("/v1/classify?cam=true&embedding=true", content=data).json()["results"]
        np.testing.assert_allclose(result["embedding"], embedding, atol=1e-4)
        assert len(result["predictions"]) == 5
        for prediction in result["predictions"]:
            index = prediction["index"]
            np.testing.assert_allclose(prediction["cam"], maps[index], atol=1e-4)
            assert np.sum(prediction["cam"]) + bias[index] == pytest.approx(logits[index], abs=1e-4)


@pytest.mark.parametrize("send", ["cam=values", "cam=true", "cam=overlay", "cam=picture", "embedding=true"])
def test_each_image_of_a_batch_gets_its_own_maps(send: str, client: Client, photographs: Photographs) -> None:
    """With bad images and several batches."""
    files = [photographs[0][1], b"no image", *(data for _, data in photographs[1:3])]
    form = {"files": [("image", ("x.jpg", data, "image/jpeg")) for data in files]}
    path = f"/v1/classify?top_k=3&{send}"
    answer = client.post(path, **form).json()
    results = answer["results"]
    assert results[1]["error"]["status"] == 422
    assert answer["timing"]["extras_ms"] > 0
    for data, together in zip(files, results, strict=True):
        if data != b"no image":
            (alone,) = client.post(path, content=data).json()["results"]
            assert alone.keys() == together.keys()
            for key in alone:
                _compare(alone[key], together[key])


def _compare(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            if key == "cam_png":
                difference = np.abs(decoded(one[key]).astype(int) - decoded(other[key]))
                assert difference.max() <= 3
            else:
                _compare(one[key], other[key])
    elif isinstance(one, list):
        for pair in zip(one, other, strict=True):
            _compare(*pair)
    elif isinstance(one, float):
        assert one == pytest.approx(other, abs=1e-4)
    else:
        assert one == other


def decoded(png: str) -> UInt8Array:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA"))


def test_optional_outputs_are_computed_only_on_request(
    client: Client, photographs: Photographs, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = client.engine().executors[0]
    asked = []
    run = executor.run

    def spy(images: UInt8Array, outputs: frozenset[str]) -> dict[str, Float32Array]:
        asked.append(outputs)
        return run(images, outputs)

    monkeypatch.setattr(executor, "run", spy)
    for query in ("", "?cam=false&embedding=false", "?embedding=true", "?cam=overlay"):
        answer = client.post(f"/v1/classify{query}", content=photographs[0][1]).json()
        extras = {"embedding"} if "embedding=true" in query else set()
        assert answer["results"][0].keys() == {"predictions", "image"} | extras
    assert asked == [
        {"probabilities"},
        {"probabilities"},
        {"probabilities", "embedding"},
        {"probabilities", "feature_map"},
    ]


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("cam=yes", "cam: .*'values', 'overlay' or 'picture'"),
        ("embedding=2", "embedding"),
        ("cam=picture&top_k=5", "cam: 65 maps.*at most 64.*'picture'.*top_k"),
    ],
)
@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
def test_mistakes(query: str, detail: str, accept: str, client: Client, photographs: Photographs) -> None:
    form = {"files": [("image", ("x.jpg", photographs[0][1], "image/jpeg"))] * 13}
    response = client.post(f"/v1/classify?{query}", **form, headers={"accept": accept})
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    assert re.search(detail, response.json()["detail"]), response.text


def test_a_version_without_classifier_is_served_without_maps(
    tiny_repository: Path, tmp_path: Path, photographs: Photographs
) -> None:
    """A version that was exported before there were maps."""
    version = tmp_path / "repository" / "tiny" / "1"
    shutil.copytree(tiny_repository, tmp_path / "repository")
    (version / "classifier.npz").unlink()
    content = json.loads((version / "manifest.json").read_text())
    del content["classifier_sha256"]
    (version / "manifest.json").write_text(json.dumps(content))
    data = photographs[0][1]
    with serve(Settings(repository=tmp_path / "repository")) as client:
        assert client.get("/v1/models/tiny").json()["cam"] is False
        refused = client.post("/v1/classify?cam=true", content=data)
        assert (refused.status_code, "export it again" in refused.json()["detail"]) == (400, True)
        assert client.post("/v1/classify?embedding=true", content=data).status_code == 200


def test_a_deadline_that_passes_while_maps_are_drawn(
    client: Client, photographs: Photographs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other requests are answered meanwhile, also if they are parsed or written in a thread."""
    stop = Event()
    monkeypatch.setattr(activation_maps, "overlay", lambda *_: stop.wait(TIMEOUT))
    data = photographs[0][1]
    try:
        late = client.post_together("/v1/classify?cam=overlay&timeout_ms=300", [{"content": data}] * 12)
        assert client.post("/v1/classify?embedding=false", **as_json(*[data] * 100)).status_code == 200
    finally:
        stop.set()
    for response in late:
        assert (response.status_code, "timeout_ms" in response.json()["detail"]) == (504, True)
    assert client.post("/v1/classify?cam=values", content=data).status_code == 200


def test_more_maps_than_are_computed_ahead_of_a_slow_client(client: Client, photographs: Photographs) -> None:
    files = [data for _, data in photographs] * 8
    headers = {"accept": "application/x-ndjson"}
    lines = client.post("/v1/classify?cam=overlay&top_k=2", **as_form(*files), headers=headers).text.splitlines()
    assert sorted(json.loads(line)["index"] for line in lines) == list(range(len(files)))
    assert all(len(json.loads(line)["predictions"]) == 2 for line in lines)


def test_an_executor_that_computes_nothing_gives_no_maps(tiny_repository: Path, photographs: Photographs) -> None:
    with serve(Settings(repository=tiny_repository, executor="simulated:0")) as client:
        refused = client.post("/v1/classify?cam=true", content=photographs[0][1])
        assert (refused.status_code, "simulated" in refused.json()["detail"]) == (400, True)


@pytest.mark.parametrize("size", [(200, 133), (150, 250), (36, 36), (37, 250), (48, 72)])
@pytest.mark.parametrize(
    "geometry", [Geometry(size=(32, 32), resize=36), Geometry(size=(24, 40), resize=48), Geometry(size=(32, 32))]
)
def test_region_is_the_input_of_the_network(size: tuple[int, int], geometry: Geometry) -> None:
    """The pixels of the image hold their positions: the outermost pixels of the input are the edges of the region."""
    width, height = size
    left, top, right, bottom = geometry.region(width, height)
    columns, rows = np.meshgrid(np.arange(width, dtype=np.uint8), np.arange(height, dtype=np.uint8))
    kept = geometry.apply(Image.fromarray(np.stack([columns, rows, rows], axis=-1))).astype(float)
    # Pixel k reaches from k to k + 1, and a pixel of the input over `across` of them.
    across, down = (right - left) / geometry.size[1], (bottom - top) / geometry.size[0]
    first, last = kept[0, 0] + 0.5, kept[-1, -1] + 0.5
    assert (first[0] - across / 2, first[1] - down / 2) == pytest.approx((left, top), abs=1.01)
    assert (last[0] + across / 2, last[1] + down / 2) == pytest.approx((right, bottom), abs=1.01)


@pytest.fixture(scope="module")
def receptive_fields() -> dict[tuple[int, int], tuple[float, float]]:
    """Receptive fields of positions of the map of a ResNet-18 at 448 x 448: centres (x, y) of the gradients' energy.

    Only positions near the centre: the edges cut off the fields of others.
    """
    torch.manual_seed(0)
    model = architectures.build("resnet18", 5, 3).eval()
    inputs = torch.randn(1, 3, 448, 448, requires_grad=True)
    features = model.features(inputs)
    places = torch.arange(448) + 0.5
    centres = {}
    for row, column in ((7, 7), (6, 8), (8, 6)):
        (gradient,) = torch.autograd.grad(features[0, :, row, column].sum(), inputs, retain_graph=True)
        weight = gradient.square().sum((0, 1))
        x, y = (weight.sum(0) * places).sum() / weight.sum(), (weight.sum(1) * places).sum() / weight.sum()
        centres[row, column] = (float(x), float(y))
    return centres


@pytest.mark.slow
@pytest.mark.parametrize("size", [(512, 512), (500, 300), (224, 640)])
def test_drawn_map_is_at_the_receptive_field(
    size: tuple[int, int], receptive_fields: dict[tuple[int, int], tuple[float, float]]
) -> None:
    geometry = Geometry(size=(448, 448), resize=512)
    # A pixel of the input is `scale` pixels of the image, and both have the same centre.
    scale = min(size) / 512
    for (row, column), (x, y) in receptive_fields.items():
        values = np.zeros((14, 14), np.float32)
        values[row, column] = 1.0
        drawn = decoded(base64.b64encode(activation_maps.overlay(values, geometry, *size)).decode())
        opacity = drawn[..., 3].astype(float)
        assert opacity.shape[::-1] == pytest.approx(
            [side * activation_maps.OVERLAY_SIDE / max(size) for side in size], abs=0.5
        )
        enlarged = max(size) / activation_maps.OVERLAY_SIDE
        peak = np.average(np.argwhere(opacity == opacity.max()), axis=0)[::-1]
        found = (peak + 0.5) * enlarged
        expected = (size[0] / 2 + (x - 224) * scale, size[1] / 2 + (y - 224) * scale)
        # Spreading the cells evenly over the crop would be 16 of the 448 pixels off.
        assert tuple(found) == pytest.approx(expected, abs=8 * scale)


def test_overlay_is_transparent_outside_the_crop_and_at_negative_values() -> None:
    geometry = Geometry(size=(32, 32), resize=36)
    values = np.array([[1.0, 0.5], [0.25, -1.0]], np.float32)
    opacity = decoded(base64.b64encode(activation_maps.overlay(values, geometry, 400, 200)).decode())[..., 3]
    left, top, right, bottom = (round(edge * activation_maps.OVERLAY_SIDE / 400) for edge in geometry.region(400, 200))
    inside = np.zeros_like(opacity, bool)
    inside[top:bottom, left:right] = True
    assert not opacity[~inside].any()
    assert opacity[top, left] == opacity.max() > 100
    assert opacity[bottom - 1, right - 1] == 0
    assert not decoded(base64.b64encode(activation_maps.overlay(-values.clip(0), geometry, 400, 200)).decode())[
        ..., 3
    ].any()


@given(
    width=st.integers(1, 3000),
    height=st.integers(1, 3000),
    geometry=st.sampled_from(
        [Geometry(size=(24, 40), resize=400), Geometry(size=(33, 57)), Geometry(size=(8, 8), resize=8)]
    ),
    cells=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_every_shape_of_image_and_map_can_be_drawn(
    width: int, height: int, geometry: Geometry, cells: tuple[int, int]
) -> None:
    drawn = decoded(
        base64.b64encode(activation_maps.overlay(np.ones(cells, np.float32), geometry, width, height)).decode()
    )
    assert max(drawn.shape[:2]) == activation_maps.OVERLAY_SIDE
    assert drawn[..., 3].any()


def test_a_picture_is_the_photograph_with_colour_over_it(client: Client, photographs: Photographs) -> None:
    data = dict(photographs)["cat.jpg"]
    (result,) = client.post("/v1/classify?cam=picture&top_k=1", content=data).json()["results"]
    picture = decoded(result["predictions"][0]["cam_png"])[..., :3].astype(int)
    photograph = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert picture.shape == photograph.shape
    left, top, right, bottom = (round(edge) for edge in result["image"]["region"])
    difference = np.abs(picture - photograph).max(2)
    assert difference[top:bottom, left:right].max() > 50
    difference[top:bottom, left:right] = 0
    assert not difference.any()


@pytest.mark.parametrize("mode", ["LA", "P", "CMYK", "I;16", "RGBA"])
def test_a_picture_of_any_kind_of_image(mode: str, client: Client) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (50, 40), (200, 100, 50)).convert("L" if mode == "I;16" else "RGB").convert(mode).save(
        buffer, "TIFF" if mode in ("CMYK", "I;16") else "PNG"
    )
    (result,) = client.post("/v1/classify?cam=picture", content=buffer.getvalue()).json()["results"]
    assert decoded(result["predictions"][0]["cam_png"]).shape == (205, 256, 4)


def test_the_colours_are_plasma() -> None:
    """The colours of matplotlib, whose lightness rises evenly."""
    ramp = np.tile(np.linspace(0, 1, 256, dtype=np.float32), (256, 1))
    drawn = decoded(base64.b64encode(activation_maps.overlay(ramp, Geometry(size=(256, 256)), 256, 256)).decode())
    colours = drawn[96, :, :3].astype(int)
    places = np.linspace(0, 255, len(colours)).round().astype(int)
    plasma = (matplotlib.colormaps["plasma"](places)[:, :3] * 255).round().astype(int)
    assert np.abs(colours - plasma).max() <= 12
    opacity = drawn[96, :, 3].astype(int)
    assert (np.diff(opacity) >= 0).all()
