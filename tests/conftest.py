"""Fixtures of all tests: photographs, the small model in a repository, and the service over it, in this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest

from models.runtime.engine_cache import ENVIRONMENT
from service.core.settings import Settings
from tests.support import tiny
from tests.support.service import Client, serve
from tests.support.tiny import Eager, Golden, Photographs

# Several test processes share the CPUs: threads of PyTorch that wait for each other take up to three times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples on every run, however slow the machine.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("tests")

FOLDERS = ("unit", "integration", "e2e", "gpu")
"""Below this folder; each is the marker of its tests."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with the name of its folder."""
    here = Path(__file__).parent
    for item in items:
        folder = item.path.relative_to(here).parts[0]
        if folder in FOLDERS:
            item.add_marker(folder)


@pytest.fixture(scope="session", autouse=True)
def engine_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give the tests an empty engine cache: measurements of this machine's user must not change results."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENVIRONMENT, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def photographs() -> Photographs:
    """(file name, content) of the photographs that ship with the project."""
    return tiny.read_photographs()


@pytest.fixture(scope="session")
def checkpoint_file() -> Path:
    """The checkpoint of `tiny`."""
    return tiny.FOLDER / tiny.CHECKPOINT


@pytest.fixture(scope="session")
def tiny_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with version 1 of the model `tiny`, in float32. Copy it before changing it."""
    return tiny.copy_repository(tmp_path_factory.mktemp("tiny") / "repository", ["float32"])


@pytest.fixture(scope="session")
def full_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `tiny_repository`, in every precision."""
    return tiny.copy_repository(tmp_path_factory.mktemp("full") / "repository", ["float32", "float16", "int8"])


@pytest.fixture(scope="session")
def golden(full_repository: Path) -> Golden:
    """Sixteen images as `tiny` takes them, and the PyTorch model's logits for them."""
    with np.load(full_repository / "tiny" / "1" / "golden.npz") as file:
        return file["images"], file["logits"]


@pytest.fixture(scope="session")
def eager(photographs: Photographs) -> Eager:
    """Probabilities of a photograph, float32 [5], as the PyTorch model gave them when the data was made."""
    with np.load(tiny.FOLDER / tiny.PROBABILITIES) as file:
        by_content = {data: file[name] for name, data in photographs}
    return by_content.__getitem__


@pytest.fixture(scope="session")
def client(tiny_repository: Path) -> Iterator[Client]:
    """The service over `tiny`, ready, with one instance: a test can hold it."""
    with serve(Settings(repository=tiny_repository, instances=1)) as client:
        yield client
