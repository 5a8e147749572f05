"""The client with a real service, which is killed and started again, and its file of examples."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_serve_client import BadRequest, Client, Unauthorized, UnprocessableImage
from tests.support.api_keys import KEYS, WEB, write_keys
from tests.support.process import ServerProcess, environment, running
from tests.support.service import TIMEOUT
from tests.support.tiny import Eager, Photographs

ROOT = Path(__file__).parents[2]


def test_every_kind_of_image(
    tiny_repository: Path, tmp_path: Path, photographs: Photographs, eager: Eager, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, content = photographs[0]
    (tmp_path / name).write_bytes(content)
    write_keys(tmp_path / "keys.toml", KEYS)
    expected = eager(content)
    with running("--repository", tiny_repository, "--api-keys", tmp_path / "keys.toml") as server:
        monkeypatch.setenv("RESNET_SERVE_URL", server.url)
        with Client() as client, pytest.raises(Unauthorized):
            client.classify(content)
        with Client(api_key=WEB) as client, Image.open(io.BytesIO(content)) as image:
            for each in (tmp_path / name, content, io.BytesIO(content), image, np.asarray(image)):
                result = client.classify(each, model="tiny", version=1, top_k=5)
                found = {prediction.index: prediction.probability for prediction in result.predictions}
                np.testing.assert_allclose([found[index] for index in range(5)], expected, atol=1e-5)
            assert result.image is not None
            assert (result.image.width, result.image.height) == image.size
            with pytest.raises(UnprocessableImage):
                client.classify(b"text")
            with pytest.raises(BadRequest, match="top_k"):
                client.classify(content, top_k=0)
            assert [len(prediction.cam or ()) for prediction in client.classify(content, cam="values").predictions]
            assert len(client.embed(content)) > 5
            (model,) = client.models()
            assert (model.name, model.version, model.input_size) == ("tiny", "1", (32, 32))
            assert model == client.model("tiny")
            assert client.ready().ready
            assert client.live()


@pytest.mark.slow
def test_many_images_survive_a_killed_service(tiny_repository: Path, photographs: Photographs, eager: Eager) -> None:
    contents = [content for _, content in photographs]
    expected = [int(eager(content).argmax()) for content in contents]
    with running("--repository", tiny_repository) as server:
        flags = ("--port", server.url.rpartition(":")[2], "--repository", tiny_repository)
        started: list[ServerProcess] = []

        def images() -> Iterator[bytes]:
            for number in range(240):
                if number == 120:
                    server.process.kill()
                    started.append(ServerProcess(*flags))
                yield contents[number % len(contents)]

        try:
            with Client(server.url) as client:
                found = [result.best.index for result in client.classify_many(images(), batch=4, concurrency=4)]
        finally:
            for each in started:
                each.kill()
    assert found == [expected[number % len(contents)] for number in range(240)]


@pytest.mark.slow
def test_the_examples_run() -> None:
    with running() as server:
        command = [sys.executable, "clients/python/examples.py"]
        settings = environment(RESNET_SERVE_URL=server.url)
        done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "one image: Trouser with a probability of 0.99",
        "Pillow image: Trouser",
        "array: Trouser",
        "bytes: Trouser",
        "several images: Pullover",
        "several images: UnreadableImage",
        "several images: UnprocessableImage",
        "embedding: 64 features",
        "heat map: PNG",
        "many images: 60 images, first Ankle boot",
        "error: 404 no model no-such-model is served; there is: fashion-mnist-resnet20 version 1",
        "model: fashion-mnist-resnet20 version 1, 10 classes",
        "ready: True",
        "asynchronous: Ankle boot",
        "asynchronous: Pullover",
        "asynchronous: Trouser",
    ]
