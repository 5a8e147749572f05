"""What several modules share: photographs, a small model in a repository, and the service over it, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

from export.build import build
from models.artifact.parity import Float32Array
from models.runtime.engine_cache import ENVIRONMENT
from models.training.checkpoint import Checkpoint
from service.core.settings import Settings
from tests.support.networks import make_checkpoint
from tests.support.service import TIMEOUT as TIMEOUT
from tests.support.service import Client, serve
from tests.support.tiny import Eager, Golden, cut
from tests.support.tiny import source_of as source_of

# The same examples on every run, however slow the machine.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("tests")


@pytest.fixture(scope="session", autouse=True)
def engine_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An engine cache of the tests' own: what somebody has tuned on this machine must not change what they see."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENVIRONMENT, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def photographs() -> list[tuple[str, bytes]]:
    """(file name, content) of the photographs that ship with the project."""
    folder = resources.files("export") / "photographs"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".jpg")), key=lambda file: file.name)
    assert len(files) >= 6
    return [(file.name, file.read_bytes()) for file in files]


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    """Five classes of 32 x 32 colour images, cut from a shorter side of 36 pixels."""
    return make_checkpoint("tiny", classes=5)


@pytest.fixture(scope="session")
def tiny_repository(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with version 1 of the model `tiny`. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("tiny")
    checkpoint.save(folder / "checkpoint.safetensors")
    build(folder / "checkpoint.safetensors", folder / "repository", "tiny")
    return folder / "repository"


@pytest.fixture(scope="session")
def full_repository(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `tiny_repository`, in every precision."""
    folder = tmp_path_factory.mktemp("full")
    checkpoint.save(folder / "checkpoint.safetensors")
    build(folder / "checkpoint.safetensors", folder / "repository", "tiny", float16=True, int8=True)
    return folder / "repository"


@pytest.fixture(scope="session")
def golden(full_repository: Path) -> Golden:
    """Sixteen images as `tiny` takes them, and the eager model's logits for them."""
    with np.load(full_repository / "tiny" / "1" / "golden.npz") as file:
        return file["images"], file["logits"]


@pytest.fixture(scope="session")
def eager(checkpoint: Checkpoint) -> Eager:
    """Probabilities of an image file, float32 [5], from the PyTorch model: nothing here is of the service."""
    model = checkpoint.model()

    @cache
    def probabilities(data: bytes) -> Float32Array:
        pixels = torch.from_numpy(cut(data).astype(np.float32) / 255)
        normalised = (pixels - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # on a busy machine threads that wait for each other take many times as long
        try:
            with torch.inference_mode():
                answer: Float32Array = model(normalised.permute(2, 0, 1)[None]).softmax(1)[0].numpy()
        finally:
            torch.set_num_threads(threads)
        return answer

    return probabilities


@pytest.fixture(scope="session")
def client(tiny_repository: Path) -> Iterator[Client]:
    """The service over `tiny`, ready, with one executor: a test can hold it."""
    with serve(Settings(repository=tiny_repository, instances=1)) as client:
        yield client
