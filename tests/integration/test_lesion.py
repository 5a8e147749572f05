"""Blocks deleted from the network that is served, in one process and with the two sides apart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import numpy as np
import pytest

from export.build import build
from models import malloc
from models.artifact import manifest
from models.training import checkpoint
from models.training.evaluate import predict
from service.core.process_memory import ServiceMemory
from service.core.settings import Settings
from service.engine import idle_queue
from service.inference import lesion
from service.registry import lesions
from tests.support import split, tiny
from tests.support.api import as_form, check_problem
from tests.support.gate import Gate
from tests.support.lesions import scaled
from tests.support.service import TIMEOUT, Client, serve
from tests.support.tiny import Photographs

PATH = "/v1/models/tiny/lesion"
BLOCKS = 2


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lesions")
    build(tiny.FOLDER / tiny.CHECKPOINT, folder, "tiny", lesions=True)
    return folder


@pytest.fixture(scope="module", params=["one process", "apart"])
def client(request: Any, repository: Path) -> Iterator[Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(split.VARIABLE, "1" if request.param == "apart" else "0")
        with serve(Settings(repository=repository, instances=1)) as client:
            yield client


@pytest.fixture
def gate(client: Client, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(client.engine(), monkeypatch)
    yield gate
    gate.let_through(1000)


def expected(data: bytes, deleted: set[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Probabilities [5] by PyTorch, without blocks with these numbers."""
    trained = checkpoint.load(tiny.FOLDER / tiny.CHECKPOINT)
    gates = np.array([number not in deleted for number in range(1, BLOCKS + 1)], np.float32)
    logits = predict(scaled(trained, gates), tiny.cut(data)[None].copy(), trained.preprocess)
    return logits.softmax(1)[0].numpy()


def by_class(predictions: list[dict[str, Any]]) -> list[float]:
    assert predictions == sorted(predictions, key=lambda each: -each["probability"])
    assert all(each["label"] == f"class {each['index']}" for each in predictions)
    return [each["probability"] for each in sorted(predictions, key=lambda each: each["index"])]


def after(
    record: Callable[..., object], call: Callable[..., Any], arguments: Callable[..., list[Any]] = lambda *_: []
) -> Callable[..., Any]:
    """A function that calls `record` before `call`, with `arguments` of the arguments of the call."""

    def both(*args: Any) -> Any:
        record(*arguments(*args))
        return call(*args)

    return both


def test_answers_are_those_of_pytorch(client: Client, photographs: Photographs) -> None:
    for deleted, (_, data) in zip(((), (1,), (2,), (2, 1)), photographs, strict=False):
        query = {"deleted": ",".join(map(str, deleted))} if deleted else {}
        response = client.post(PATH, content=data, params=query)
        assert response.status_code == 200, response.text
        answer = response.json()
        assert (answer["model"], answer["version"]) == ("tiny", "1")
        np.testing.assert_allclose(by_class(answer["whole"]), expected(data, set()), atol=1e-5)
        np.testing.assert_allclose(by_class(answer["predictions"]), expected(data, set(deleted)), atol=1e-5)
        assert answer["blocks"] == [
            {"number": 1, "name": "stage 1, block 1", "changes_shape": False, "gate": float(1 not in deleted)},
            {"number": 2, "name": "stage 2, block 1", "changes_shape": True, "gate": float(2 not in deleted)},
        ]
    (first,) = client.post(PATH, content=data, params={"top_k": 1, "deleted": "2"}).json()["predictions"]
    assert first["index"] == expected(data, {2}).argmax()
    assert client.post("/v1/models/tiny/versions/1/lesion", **as_form(data)).status_code == 200
    described = client.get("/v1/models/tiny").json()["lesions"]
    assert described == [{key: block[key] for key in ("name", "changes_shape")} for block in answer["blocks"]]


def test_malformed_requests(client: Client, photographs: Photographs) -> None:
    data = photographs[0][1]
    check_problem(client.post(PATH, content=data, params={"deleted": "3"}), 400, "no block 3: the blocks are 1 to 2")
    check_problem(client.post(PATH, content=data, params={"deleted": "0"}), 400, "no block 0")
    check_problem(client.post(PATH, content=data, params={"deleted": "1;2"}), 400, "deleted")
    check_problem(client.post(PATH, content=data, params={"delete": "1"}), 400, "did you mean 'deleted'")
    check_problem(client.post(PATH, **as_form(data, data)), 400, "2 images: send one")
    check_problem(client.post(PATH, content=b"no image"), 422)
    check_problem(client.post("/v1/models/other/lesion", content=data), 404)
    check_problem(client.post("/v1/models/tiny/versions/2/lesion", content=data), 404)


def test_absent_file_is_not_found(tiny_repository: Path, photographs: Photographs) -> None:
    with serve(Settings(repository=tiny_repository)) as client:
        check_problem(client.post(PATH, content=photographs[0][1]), 404, "export it with resnet-export build --lesions")
        assert "lesions" not in client.get("/v1/models/tiny").json()


def test_images_of_others_come_first(
    client: Client, gate: Gate, photographs: Photographs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request waits while a batch is computed, and is refused after some time."""
    data, engine = photographs[0][1], client.engine()

    async def post(path: str) -> httpx.Response:
        return await client.http.post(path, content=data)

    async def test() -> None:
        waits = asyncio.Event()
        monkeypatch.setattr(engine, "observe", after(waits.set, engine.observe))
        batch = asyncio.create_task(post("/v1/classify"))
        await gate.started()
        waiting = asyncio.create_task(post(PATH))
        await asyncio.wait_for(waits.wait(), TIMEOUT)
        assert not waiting.done()
        gate.let_through()
        assert (await waiting).status_code == (await batch).status_code == 200

        monkeypatch.setattr(idle_queue, "_MAX_WAIT_SECONDS", 0.01)
        batch = asyncio.create_task(post("/v1/classify"))
        await gate.started()
        refused = await post(PATH)
        check_problem(refused, 503, "try again in 1 s")
        assert refused.headers["retry-after"] == "1"
        gate.let_through()
        assert (await batch).status_code == 200
        assert gate.images == 2  # no lesion was computed by the engine

    client.portal.call(test)


def test_few_requests_are_accepted(client: Client, photographs: Photographs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lesion, "_MAX_IN_FLIGHT", 0)
    check_problem(client.post(PATH, content=photographs[0][1]), 503, "try again")
    monkeypatch.setattr(lesion, "_MAX_IN_FLIGHT", 1)
    assert [client.post(PATH, content=photographs[0][1]).status_code for _ in range(2)] == [200, 200]
    monkeypatch.setattr(idle_queue, "_MAX_JOBS", 0)
    check_problem(client.post(PATH, content=photographs[0][1]), 503, "try again")


def test_graph_is_loaded_at_its_first_use_and_leaves_memory(
    repository: Path, photographs: Photographs, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, freed = list[Path](), Event()
    monkeypatch.setattr(lesions, "open_graph", after(opened.append, lesions.open_graph, lambda _, folder: [folder]))
    memory, limit = 0, 200_000_000
    monkeypatch.setattr(ServiceMemory, "resident_bytes", lambda _: memory)
    with serve(Settings(repository=repository, memory_limit=limit, pin="tiny")) as client:
        registry: Any = client.registry

        def status() -> int:
            return client.post(PATH, content=photographs[0][1], params={"deleted": "1"}).status_code

        assert opened == []
        memory = limit - 5_000_000  # less than the margin and the graph
        check_problem(client.post(PATH, content=photographs[0][1]), 503, "the memory for requests is used up")
        assert opened == []
        memory = 0
        assert [status(), status()] == [200, 200]
        assert opened == [repository / "tiny" / "1"]
        memory = limit + 1  # requests need the memory
        client.portal.call(registry._residency.relieve)
        assert registry._lesions._graph is None
        memory = 0
        monkeypatch.setattr(lesions, "_UNUSED_SECONDS", 0.0)
        monkeypatch.setattr(malloc, "trim", after(freed.set, malloc.trim))
        assert status() == 200
        assert freed.wait(TIMEOUT)
        assert registry._lesions._graph is None
        assert status() == 200


def test_altered_file_is_refused(repository: Path, tmp_path: Path, photographs: Photographs) -> None:
    version = tiny.copy_repository(tmp_path / "copy", ["float32"]) / "tiny" / "1"
    for file in (repository / "tiny" / "1").iterdir():
        (version / file.name).write_bytes(file.read_bytes())
    path = version / manifest.LESION_FILE
    path.write_bytes(path.read_bytes()[:-1])
    with serve(Settings(repository=tmp_path / "copy")) as client:
        response = client.post(PATH, content=photographs[0][1])
        check_problem(response, 503, "no blocks of the model can be deleted: .*its content is not what the manifest")
        assert client.post("/v1/classify", content=photographs[0][1]).status_code == 200
