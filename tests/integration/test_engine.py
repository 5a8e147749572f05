"""The engine over an executor that a test can hold in the middle of a batch."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.core.errors import DeadlineExceeded, InferenceFailed, Overloaded, Unavailable
from service.engine.batch_queue import BatchQueue
from service.engine.engine import Engine
from service.messages.inference import InferenceRequest, InferenceResult
from service.telemetry.metrics import Metrics
from tests.support.held_executor import BROKEN, HeldExecutor, image
from tests.support.service import TIMEOUT

LOGITS = frozenset({"logits"})


Scenario = Callable[[Engine, HeldExecutor], Awaitable[None]]


def run(scenario: Scenario, capacity: int = 1000, max_batch: int = 8) -> HeldExecutor:
    """Play a scenario on a new engine, then close it."""

    async def play() -> HeldExecutor:
        executor = HeldExecutor()
        engine = Engine([executor], BatchQueue(capacity, max_batch), Metrics(), "model")
        engine.start()
        try:
            async with asyncio.timeout(TIMEOUT):
                await scenario(engine, executor)
        finally:
            executor.release(1000)
            await engine.close()
        return executor

    return asyncio.run(play())


def submit(
    engine: Engine, values: Sequence[int], outputs: frozenset[str] = LOGITS, seconds: float = TIMEOUT
) -> asyncio.Task[InferenceResult]:
    request = InferenceRequest([image(value) for value in values], outputs, time.monotonic() + seconds)
    return asyncio.create_task(engine.submit(request))


async def turn() -> None:
    """Let every task that can run take a step: new tasks have then put their images into the queue."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    loop.call_soon(done.set_result, None)
    await done


def logits(result: InferenceResult) -> list[float]:
    """[n, 1] as numbers; the executor gives value + 0.5."""
    assert result.outputs["logits"].shape[1:] == (1,)
    return [float(value) for value in result.outputs["logits"][:, 0]]


def test_requests_during_a_batch_share_the_next() -> None:
    async def scenario(engine: Engine, executor: HeldExecutor) -> None:
        first = submit(engine, [1])
        await executor.started()
        others = [submit(engine, [2]), submit(engine, [3, 4]), submit(engine, [5])]
        await turn()
        assert engine.waiting == 4
        executor.release(2)
        assert logits(await first) == [1.5]
        assert [logits(result) for result in await asyncio.gather(*others)] == [[2.5], [3.5, 4.5], [5.5]]
        assert first.result().batch_size == 1
        assert [other.result().batch_size for other in others] == [4, 4, 4]

    assert run(scenario).batches == [[1], [2, 3, 4, 5]]


def test_large_request_is_split_and_joined() -> None:
    async def scenario(engine: Engine, executor: HeldExecutor) -> None:
        executor.release(100)
        small, large = submit(engine, [1, 2]), submit(engine, range(100, 107))
        result = await large
        assert logits(result) == [value + 0.5 for value in range(100, 107)]
        assert logits(await small) == [1.5, 2.5]
        assert result.batch_size == 3
        assert result.inference_seconds > 0

    executor = run(scenario, max_batch=3)
    assert [value for batch in executor.batches for value in batch] == [1, 2, *range(100, 107)]
    assert max(len(batch) for batch in executor.batches) == 3


def test_each_request_gets_its_own_outputs() -> None:
    async def scenario(engine: Engine, executor: HeldExecutor) -> None:
        hold = submit(engine, [1])
        await executor.started()
        one, other = submit(engine, [2]), submit(engine, [3], frozenset({"embedding"}))
        both = submit(engine, [4], frozenset({"logits", "embedding"}))
        await turn()
        executor.release(2)
        await hold
        assert {name: value.tolist() for name, value in (await one).outputs.items()} == {"logits": [[2.5]]}
        assert {name: value.tolist() for name, value in (await other).outputs.items()} == {"embedding": [[-3.0]]}
        assert {name: value.tolist() for name, value in (await both).outputs.items()} == {
            "logits": [[4.5]],
            "embedding": [[-4.0]],
        }

    assert run(scenario).batches == [[1], [2, 3, 4]]


def test_three_hundred_concurrent_requests() -> None:
    rng = random.Random(0)
    sizes = [rng.randint(1, 20) for _ in range(300)]
    firsts = [sum(sizes[:position]) for position in range(len(sizes))]
    requests = [list(range(10_000 + first, 10_000 + first + size)) for first, size in zip(firsts, sizes, strict=True)]

    async def scenario(engine: Engine, executor: HeldExecutor) -> None:
        executor.release(10_000)
        results = await asyncio.gather(*(submit(engine, values) for values in requests))
        for values, result in zip(requests, results, strict=True):
            assert logits(result) == [value + 0.5 for value in values]

    executor = run(scenario, capacity=10_000, max_batch=7)
    assert [value for batch in executor.batches for value in batch] == list(range(10_000, 10_000 + sum(sizes)))


def test_full_queue_is_refused_with_the_time_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("service.engine.workers.time", SimpleNamespace(monotonic=lambda: clock.now))

    def three_seconds() -> None:
        clock.now += 3.0

    async def scenario(engine: Engine, executor: HeldExecutor) -> None:
        executor.on_run = three_seconds
        blocker = submit(engine, [1])
        await executor.started()
        waiting = [submit(engine, [2, 3]), submit(engine, [4, 5])]
        await turn()
        with pytest.raises(Overloaded) as unmeasured:
            await submit(engine, [6])
        assert unmeasured.value.retry_after == 1
        executor.release()
        await blocker
        await executor.started()  # of 2 and 3
        refill = submit(engine, [7, 8])
        await turn()
        with pytest.raises(Overloaded) as measured:
            await submit(engine, [9])
        # 4, 5, 7 and 8 wait: two batches, of 3 seconds each.
        assert measured.value.retry_after == 6
        assert measured.value.headers == {"Retry-After": "6"}
        assert measured.value.status == 503
        executor.release(3)
        await asyncio.gather(*waiting, refill)

    assert run(scenario, capacity=4, max_batch=2).batches == [[1], [2, 3], [4, 5], [7, 8]]


@pytest.mark.parametrize("seconds", [-1.0, 0.01])
def test_deadline_in_the_queue(seconds: float) -> None:
    async def scenario(engine: Engine, executor: HeldExecutor) -> None:
        first = submit(engine, [1])
        await executor.started()
        with pytest.raises(DeadlineExceeded):
            await submit(engine, [2], seconds=seconds)
        last = submit(engine, [3])
        await turn()
        executor.release(2)
        assert [logits(await first), logits(await last)] == [[1.5], [3.5]]

    assert run(scenario).batches == [[1], [3]]


def test_deadline_in_the_executor() -> None:
    async def scenario(engine: Engine, executor: HeldExecutor) -> None:
        late = submit(engine, [1], seconds=0.01)
        patient = submit(engine, [2])
        await executor.started()
        with pytest.raises(DeadlineExceeded):
            await late
        executor.release(2)
        assert logits(await patient) == [2.5]

    run(scenario)


def test_cancelled_request_is_skipped() -> None:
    async def scenario(engine: Engine, executor: HeldExecutor) -> None:
        first = submit(engine, [1])
        await executor.started()
        gone, last = submit(engine, [2]), submit(engine, [3])
        await turn()
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        executor.release(2)
        assert [logits(await first), logits(await last)] == [[1.5], [3.5]]

    assert run(scenario).batches == [[1], [3]]


def test_request_cancelled_during_its_batch_does_not_affect_others() -> None:
    async def scenario(engine: Engine, executor: HeldExecutor) -> None:
        hold = submit(engine, [1])
        await executor.started()
        gone, neighbour = submit(engine, [2]), submit(engine, [3])
        await turn()
        executor.release()
        await hold
        await executor.started()
        gone.cancel()
        executor.release()
        assert logits(await neighbour) == [3.5]
        assert gone.cancelled()

    assert run(scenario).batches == [[1], [2, 3]]


def test_failed_batch_fails_its_own_requests_only(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(engine: Engine, executor: HeldExecutor) -> None:
        first = submit(engine, [1])
        await executor.started()
        unlucky = [submit(engine, [BROKEN]), submit(engine, [2])]
        await turn()
        executor.release()
        assert logits(await first) == [1.5]
        await executor.started()
        last = submit(engine, [3])
        await turn()
        executor.release(2)
        for task in unlucky:
            with pytest.raises(InferenceFailed) as failure:
                await task
            assert isinstance(failure.value.__cause__, RuntimeError)
            assert "no kernel" not in str(failure.value)
        assert logits(await last) == [3.5]
        assert engine.alive

    assert run(scenario).batches == [[1], [BROKEN, 2], [3]]
    assert "no kernel for this" in caplog.text


def test_request_fails_if_one_of_its_batches_fails() -> None:
    async def scenario(engine: Engine, executor: HeldExecutor) -> None:
        executor.release(100)
        with pytest.raises(InferenceFailed):
            await submit(engine, [1, 2, 3, BROKEN, 4, 5])
        assert logits(await submit(engine, [6])) == [6.5]

    run(scenario, max_batch=2)


def test_closing_computes_waiting_requests_and_refuses_new_ones() -> None:
    async def scenario(engine: Engine, executor: HeldExecutor) -> None:
        accepted = [submit(engine, [1])]
        await executor.started()
        accepted += [submit(engine, [2]), submit(engine, [3])]
        await turn()
        closing = asyncio.create_task(engine.close())
        await turn()
        with pytest.raises(Unavailable, match="shutting down") as refused:
            await submit(engine, [4])
        assert not isinstance(refused.value, Overloaded)
        executor.release(2)
        assert [logits(result) for result in await asyncio.gather(*accepted)] == [[1.5], [2.5], [3.5]]
        await closing
        assert executor.closed_after == 2
        assert not engine.alive
        with pytest.raises(Unavailable, match="not running"):
            await submit(engine, [5])

    assert run(scenario).batches == [[1], [2, 3]]


def test_engine_refuses_requests_before_it_is_started() -> None:
    async def scenario() -> None:
        engine = Engine([HeldExecutor()], BatchQueue(1, 1), Metrics(), "model")
        assert not engine.alive
        with pytest.raises(Unavailable):
            await engine.submit(InferenceRequest([image(1)], LOGITS, time.monotonic() + TIMEOUT))

    asyncio.run(scenario())


def test_times_and_metrics_of_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=time.monotonic())
    monkeypatch.setattr("service.engine.workers.time", SimpleNamespace(monotonic=lambda: clock.now))
    metrics = Metrics()

    async def scenario() -> InferenceResult:
        executor = HeldExecutor()
        engine = Engine([executor], BatchQueue(100, 2), metrics, "model")
        engine.start()

        def quarter_second() -> None:
            clock.now += 0.25

        executor.on_run = quarter_second
        executor.release(3)
        result = await submit(engine, range(5))
        await engine.close()
        return result

    result = asyncio.run(scenario())
    assert result.inference_seconds == pytest.approx(0.75)
    samples = {
        (sample.name, sample.labels.get("model")): sample.value
        for family in text_string_to_metric_families(asyncio.run(metrics.render()).decode())
        for sample in family.samples
        if "le" not in sample.labels
    }
    assert samples["resnet_batch_size_sum", "model"] == 5
    assert samples["resnet_batch_size_count", "model"] == 3
    assert samples["resnet_batch_seconds_sum", "model"] == pytest.approx(0.75)
