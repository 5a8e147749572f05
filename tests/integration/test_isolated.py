"""An executor in a process of its own, and what happens when that ends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pytest

from models.artifact import parity
from service import executors
from service.core.settings import Settings
from service.engine.isolated import Isolated, ProcessDied, answer, isolate
from service.executors import Runtime
from service.executors.base import DeviceLost, ExecutorError, compute
from tests.support import fake_gpu
from tests.support.service import TIMEOUT, serve
from tests.support.tiny import Eager, source_of

NAMES = frozenset({"logits"})


def load(runtime: Runtime, repository: Path) -> Isolated:
    loaded = isolate(runtime).make(source_of(repository / "tiny" / "1", runtime))
    assert isinstance(loaded, Isolated)
    return loaded


@pytest.fixture
def executor(tiny_repository: Path) -> Iterator[Isolated]:
    loaded = load(executors.find("onnxruntime-cpu"), tiny_repository)
    yield loaded
    loaded.close()


def check_golden(executor: Isolated, repository: Path) -> None:
    with np.load(repository / "tiny" / "1" / "golden.npz") as golden:
        parity.check(compute(executor, golden["images"], NAMES)["logits"], golden["logits"], "float32")


def end(executor: Isolated) -> int:
    """Kill the executor's process; its number."""
    number = executor.process
    os.kill(number, signal.SIGKILL)
    os.waitid(os.P_PID, number, os.WEXITED | os.WNOWAIT)
    return number


def test_it_answers_as_the_eager_model(executor: Isolated, tiny_repository: Path) -> None:
    assert executor.process != os.getpid()
    assert (executor.computes, executor.device, tuple(executor.buckets)) == (True, "cpu", ())
    check_golden(executor, tiny_repository)


def test_a_process_that_ended_is_started_again_and_the_batch_answered(
    executor: Isolated, tiny_repository: Path
) -> None:
    before = end(executor)
    check_golden(executor, tiny_repository)
    assert executor.process != before


def test_what_was_made_ready_is_made_ready_again(tiny_repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = load(executors.find("onnxruntime-cpu"), tiny_repository)
    asked: list[object] = []
    ask = Isolated._ask

    def note_and_ask(self: Isolated, *question: object) -> object:
        asked.append(question[:2])
        return ask(self, *question)

    executor.prepare(4)
    monkeypatch.setattr(Isolated, "_ask", note_and_ask)
    end(executor)
    check_golden(executor, tiny_repository)
    assert ("prepare", 4) in asked
    executor.close()


def test_a_batch_that_ends_every_process_fails_and_others_do_not(
    executor: Isolated, tiny_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Isolated._start

    def start_and_end(self: Isolated) -> None:
        start(self)
        end(self)

    with monkeypatch.context() as patch:
        patch.setattr(Isolated, "_start", start_and_end)
        end(executor)
        with pytest.raises(ProcessDied, match="a batch of 1 ended the process of executor 'onnxruntime-cpu' twice"):
            executor.run(executor.acquire(1), NAMES)
    check_golden(executor, tiny_repository)


def test_a_process_that_cannot_be_started_again_is_a_lost_device(
    executor: Isolated, tiny_repository: Path, tmp_path: Path
) -> None:
    executor._source = replace(executor._source, version=tmp_path)  # as if the version had been removed
    end(executor)
    with pytest.raises(DeviceLost, match=r"model\.onnx"):
        executor.run(executor.acquire(1), NAMES)


def test_an_error_of_the_runtime_is_that_batch_s_alone(executor: Isolated, tiny_repository: Path) -> None:
    number = executor.process
    with pytest.raises(RuntimeError, match="nonsense"):
        executor.run(executor.acquire(1), frozenset({"nonsense"}))
    check_golden(executor, tiny_repository)
    assert executor.process == number


def test_what_cannot_be_loaded_is_said(tiny_repository: Path) -> None:
    with pytest.raises(ExecutorError, match="takes milliseconds a batch, not 'soon'"):
        load(executors.find("simulated:soon"), tiny_repository)


def test_closing_ends_the_process(tiny_repository: Path) -> None:
    executor = load(executors.find("simulated:0"), tiny_repository)
    number = executor.process
    executor.close()
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


def test_the_service_over_two_processes(
    tiny_repository: Path, eager: Eager, photographs: list[tuple[str, bytes]]
) -> None:
    settings = Settings(repository=tiny_repository, isolate=True, instances=2, threads=1)
    with serve(settings) as client:
        files = [data for _, data in photographs] * 3
        answers = client.post_together("/v1/classify", [{"content": data} for data in files])
        for data, answer in zip(files, answers, strict=True):
            expected = eager(data)
            for prediction in answer.json()["results"][0]["predictions"]:
                assert prediction["probability"] == pytest.approx(expected[prediction["index"]], abs=1e-4)


def test_in_the_process_too_each_batch_has_its_lane(
    tiny_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other end of the pipe, in a thread, with a fake GPU: its memory is not the one that images come in."""
    version = tiny_repository / "tiny" / "1"
    fake = fake_gpu.install(monkeypatch)
    fake.build_engines(version, tmp_path)
    here, there = Pipe()
    process = threading.Thread(target=answer, args=(there,))
    process.start()
    here.send(("tensorrt", source_of(version, executors.find("tensorrt:0"), cache=tmp_path)))
    assert here.recv()[:2] == (True, "cuda:0")
    with np.load(version / "golden.npz") as golden:
        for _ in range(3):  # more often than there are lanes
            here.send(("compute", golden["images"], NAMES))
            parity.check(here.recv()["logits"], golden["logits"], "float32")
    here.close()
    process.join(TIMEOUT)
    assert fake.cuda.allocations == 0
