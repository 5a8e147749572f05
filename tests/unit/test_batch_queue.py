"""The queue: the contents and the order of batches, and requests that are dropped. The clock is a number."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from threading import Condition, Lock, Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.batch_queue import Batch, BatchQueue, QueueClosed, QueuedRequest, QueueFull
from tests.support.clock import Clock
from tests.support.queued import IMAGE, LOGITS, contents, take_all, ticket
from tests.support.service import TIMEOUT


def test_requests_share_a_batch_in_order() -> None:
    queue = BatchQueue(capacity=10, max_batch=8)
    for owner, images in (("a", 1), ("b", 2), ("c", 1)):
        queue.put(ticket(images, owner))
    assert len(queue) == 4
    batch = queue.take()
    assert batch is not None
    assert contents([batch]) == [("a", 0), ("b", 0), ("b", 1), ("c", 0)]
    assert batch.size == 4
    assert len(queue) == 0


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 16))
def test_every_image_is_in_exactly_one_full_batch_in_order(sizes: list[int], max_batch: int) -> None:
    queue = BatchQueue(capacity=sum(sizes), max_batch=max_batch)
    for owner, images in enumerate(sizes):
        queue.put(ticket(images, owner))
    queue.close()
    batches = take_all(queue)
    assert contents(batches) == [(owner, image) for owner, images in enumerate(sizes) for image in range(images)]
    assert all(batch.size == max_batch for batch in batches[:-1])
    assert 1 <= batches[-1].size <= max_batch
    assert all(batch.size == sum(part.stop - part.start for part in batch.slices) for batch in batches)
    assert len(queue) == 0


def test_batch_has_the_outputs_of_all_its_requests() -> None:
    queue = BatchQueue(capacity=10, max_batch=2)
    queue.put(ticket(1, outputs=frozenset({"logits"})))
    queue.put(ticket(1, outputs=frozenset({"embedding"})))
    queue.put(ticket(1, outputs=frozenset({"feature_map"})))
    queue.close()
    assert [batch.outputs for batch in take_all(queue)] == [{"logits", "embedding"}, {"feature_map"}]


def test_full_queue_refuses_whole_requests() -> None:
    queue = BatchQueue(capacity=4, max_batch=3)
    queue.put(ticket(3, "a"))
    with pytest.raises(QueueFull) as refused:
        queue.put(ticket(2, "b"))
    assert refused.value.waiting == 3
    assert len(queue) == 3
    queue.put(ticket(1, "c"))
    assert contents([taken for taken in [queue.take()] if taken]) == [("a", 0), ("a", 1), ("a", 2)]
    queue.put(ticket(3, "d"))
    queue.close()
    assert contents(take_all(queue)) == [("c", 0), ("d", 0), ("d", 1), ("d", 2)]


def abandon(queue: BatchQueue, tickets: Sequence[QueuedRequest], clock: Clock) -> None:
    for each in tickets:
        queue.abandon(each)


def expire(queue: BatchQueue, tickets: Sequence[QueuedRequest], clock: Clock) -> None:
    clock.now = max(each.deadline for each in tickets)


Ending = Callable[[BatchQueue, Sequence[QueuedRequest], Clock], None]
ENDINGS = pytest.mark.parametrize("end", [abandon, expire])


@ENDINGS
def test_abandoned_and_expired_requests_are_skipped(end: Ending) -> None:
    clock = Clock()
    queue = BatchQueue(capacity=10, max_batch=8, clock=clock)
    gone = [ticket(2, "first", deadline=101.0), ticket(3, "middle", deadline=102.0)]
    for each in (gone[0], ticket(1, "a"), gone[1], ticket(1, "b", deadline=102.5)):
        queue.put(each)
    end(queue, gone, clock)
    queue.close()
    assert contents(take_all(queue)) == [("a", 0), ("b", 0)]
    assert len(queue) == 0


@ENDINGS
def test_abandoned_and_expired_requests_make_room(end: Ending) -> None:
    clock = Clock()
    queue = BatchQueue(capacity=4, max_batch=8, clock=clock)
    gone = ticket(4, "gone", deadline=101.0)
    queue.put(gone)
    end(queue, [gone], clock)
    queue.put(ticket(4, "next"))
    assert len(queue) == 4
    queue.close()
    assert {owner for owner, _ in contents(take_all(queue))} == {"next"}


@ENDINGS
def test_remaining_images_of_a_request_are_dropped(end: Ending) -> None:
    clock = Clock()
    queue = BatchQueue(capacity=10, max_batch=2, clock=clock)
    gone = ticket(5, "gone", deadline=101.0)
    queue.put(gone)
    queue.put(ticket(1, "next"))
    first = queue.take()
    assert first is not None
    assert contents([first]) == [("gone", 0), ("gone", 1)]
    assert len(queue) == 4
    end(queue, [gone], clock)
    queue.close()
    assert contents(take_all(queue)) == [("next", 0)]


def test_only_waiting_images_are_counted() -> None:
    queue = BatchQueue(capacity=8, max_batch=2)
    gone = ticket(3, "gone")
    queue.put(ticket(5, "a"))
    queue.put(gone)
    assert queue.take() is not None
    assert len(queue) == 6
    queue.abandon(gone)
    assert queue.take() is not None
    assert len(queue) == 1
    queue.put(ticket(7, "b"))
    with pytest.raises(QueueFull):
        queue.put(ticket(1, "c"))


def test_closed_queue_empties_and_refuses_new_requests() -> None:
    queue = BatchQueue(capacity=10, max_batch=2)
    queue.put(ticket(3, "a"))
    queue.close()
    with pytest.raises(QueueClosed):
        queue.put(ticket(1, "b"))
    assert contents(take_all(queue)) == [("a", 0), ("a", 1), ("a", 2)]
    assert queue.take() is None


Step = Callable[[BatchQueue], object]


class ScriptedCondition(Condition):
    """Runs the next step of a script instead of waiting."""

    queue: BatchQueue

    def __init__(self, lock: Lock, steps: Sequence[Step]) -> None:
        super().__init__(lock)
        self.waits: list[float | None] = []
        self._steps = iter(steps)

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        step = next(self._steps, None)
        assert step is not None, f"waits {timeout} s although nothing more will happen"
        self.release()
        try:
            step(self.queue)
        finally:
            self.acquire()
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


MakeQueue = Callable[..., tuple[BatchQueue, ScriptedCondition]]


@pytest.fixture
def make_queue(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> MakeQueue:
    def make(steps: Sequence[Step], **options: Any) -> tuple[BatchQueue, ScriptedCondition]:
        made: list[ScriptedCondition] = []

        def scripted(lock: Lock) -> ScriptedCondition:
            made.append(ScriptedCondition(lock, steps))
            return made[-1]

        monkeypatch.setattr("service.engine.batch_queue.Condition", scripted)
        queue = BatchQueue(capacity=100, clock=clock, **options)
        condition, _ = made  # the other one is that of the single-image instance
        condition.queue = queue
        return queue, condition

    return make


def test_batch_is_not_delayed_by_default(make_queue: MakeQueue) -> None:
    queue, condition = make_queue([], max_batch=8)
    queue.put(ticket(1, "a"))
    batch = queue.take()
    assert batch is not None
    assert batch.size == 1
    assert condition.waits == []


@pytest.mark.parametrize(("max_batch", "sizes"), [(8, [4, 3]), (3, [3, 3])])
def test_batch_leaves_images_for_idle_threads(make_queue: MakeQueue, max_batch: int, sizes: list[int]) -> None:
    taken: list[Batch | None] = []

    def come(queue: BatchQueue) -> None:
        """One thread waits; seven images arrive, and another thread takes a batch first."""
        queue.put(ticket(7))
        taken.append(queue.take())

    queue, _ = make_queue([come], max_batch=max_batch, split=True)
    taken.append(queue.take())
    assert [batch and batch.size for batch in taken] == sizes


def test_empty_queue_waits_for_a_request(make_queue: MakeQueue) -> None:
    queue, condition = make_queue([lambda queue: queue.put(ticket(1, "a"))], max_batch=8)
    batch = queue.take()
    assert batch is not None
    assert contents([batch]) == [("a", 0)]
    assert condition.waits == [None]


def test_delay_counts_from_the_first_image(make_queue: MakeQueue, clock: Clock) -> None:
    def arrive(queue: BatchQueue) -> None:
        clock.now = 100.5
        queue.put(ticket(1, "c", queued_at=100.5))

    def pass_time(queue: BatchQueue) -> None:
        clock.now = 101.0

    queue, condition = make_queue([arrive, pass_time], max_batch=8, max_delay=1.0)
    queue.put(ticket(1, "a", queued_at=100.0))
    clock.now = 100.25
    queue.put(ticket(1, "b", queued_at=100.25))
    batch = queue.take()
    assert batch is not None
    assert contents([batch]) == [("a", 0), ("b", 0), ("c", 0)]
    assert condition.waits == [0.75, 0.5]


def test_full_batch_is_not_delayed(make_queue: MakeQueue) -> None:
    queue, condition = make_queue([], max_batch=4, max_delay=1.0)
    queue.put(ticket(3, "a"))
    queue.put(ticket(3, "b"))
    batch = queue.take()
    assert batch is not None
    assert contents([batch]) == [("a", 0), ("a", 1), ("a", 2), ("b", 0)]
    assert condition.waits == []


def test_batch_that_fills_up_is_taken_at_once(make_queue: MakeQueue) -> None:
    queue, condition = make_queue([lambda queue: queue.put(ticket(3, "b"))], max_batch=4, max_delay=1.0)
    queue.put(ticket(1, "a"))
    batch = queue.take()
    assert batch is not None
    assert batch.size == 4
    assert condition.waits == [1.0]


def test_closing_ends_the_delay(make_queue: MakeQueue) -> None:
    queue, condition = make_queue([lambda queue: queue.close()], max_batch=4, max_delay=1.0)
    queue.put(ticket(1, "a"))
    assert contents(take_all(queue)) == [("a", 0)]
    assert condition.waits == [1.0]


def test_request_that_expires_during_the_delay_is_skipped(make_queue: MakeQueue, clock: Clock) -> None:
    def pass_time(queue: BatchQueue) -> None:
        clock.now = 100.5

    def arrive_and_close(queue: BatchQueue) -> None:
        queue.put(ticket(1, "b"))
        queue.close()

    queue, condition = make_queue([pass_time, arrive_and_close], max_batch=4, max_delay=1.0)
    queue.put(ticket(1, "a", deadline=100.5))
    assert contents(take_all(queue)) == [("b", 0)]
    assert condition.waits == [1.0, None]


@pytest.mark.parametrize("max_delay", [0.0, 0.001])
def test_two_takers_and_three_givers_lose_no_image(max_delay: float) -> None:
    queue = BatchQueue(capacity=10_000, max_batch=7, max_delay=max_delay)
    lock = Lock()
    batches: list[Batch] = []

    def take() -> None:
        while (batch := queue.take()) is not None:
            with lock:
                batches.append(batch)

    sizes = list(itertools.islice(itertools.cycle([1, 3, 9, 2, 20]), 100))

    def give(name: int) -> None:
        for number, images in enumerate(sizes):
            queue.put(QueuedRequest([IMAGE] * images, LOGITS, float("inf"), (name, number)))

    takers = [Thread(target=take, daemon=True) for _ in range(2)]
    givers = [Thread(target=give, args=(name,), daemon=True) for name in range(3)]
    for thread in takers + givers:
        thread.start()
    for thread in givers:
        thread.join(TIMEOUT)
    queue.close()
    for thread in takers:
        thread.join(TIMEOUT)
    assert not any(thread.is_alive() for thread in takers + givers)
    assert all(1 <= batch.size <= 7 for batch in batches)
    expected = [
        ((name, number), image) for name in range(3) for number, images in enumerate(sizes) for image in range(images)
    ]
    assert sorted(contents(batches)) == expected


def test_closing_wakes_a_waiting_taker() -> None:
    queue = BatchQueue(capacity=1, max_batch=1)
    taken: list[Batch | None] = []
    taker = Thread(target=lambda: taken.append(queue.take()), daemon=True)
    taker.start()
    queue.close()
    taker.join(TIMEOUT)
    assert taken == [None]


def test_single_image_thread_takes_an_image_that_is_the_only_work() -> None:
    queue = BatchQueue(capacity=8, max_batch=8, single_image=True)
    other = Thread(target=queue.take, daemon=True)
    other.start()
    queue.put(QueuedRequest([IMAGE], LOGITS, float("inf"), "a", only_in_flight=True))
    batch = queue.take_single_image()
    assert batch is not None and contents([batch]) == [("a", 0)]
    queue.close()
    other.join(TIMEOUT)


@pytest.mark.parametrize(
    ("images", "only_in_flight", "computing"), [(2, True, False), (1, False, False), (1, True, True)]
)
def test_other_images_are_left_to_the_other_threads(images: int, only_in_flight: bool, computing: bool) -> None:
    queue = BatchQueue(capacity=8, max_batch=8, single_image=True)
    if computing:
        queue.put(ticket(1, "first"))
        assert queue.take() is not None
    single: list[Batch | None] = []
    taker = Thread(target=lambda: single.append(queue.take_single_image()), daemon=True)
    taker.start()
    queue.put(QueuedRequest([IMAGE] * images, LOGITS, float("inf"), "a", only_in_flight=only_in_flight))
    batch = queue.take()
    queue.close()
    taker.join(TIMEOUT)
    assert batch is not None and batch.size == images
    assert single == [None]


def test_image_is_single_again_once_the_other_batch_is_done() -> None:
    queue = BatchQueue(capacity=8, max_batch=8, single_image=True)
    queue.put(ticket(1, "first"))
    assert queue.take() is not None
    queue.done()
    queue.put(QueuedRequest([IMAGE], LOGITS, float("inf"), "a", only_in_flight=True))
    batch = queue.take_single_image()
    assert batch is not None and contents([batch]) == [("a", 0)]


def test_single_image_is_taken_after_another_request_was_dropped() -> None:
    queue = BatchQueue(capacity=8, max_batch=8, single_image=True)
    dropped = ticket(1, "dropped")
    queue.put(dropped)
    queue.put(QueuedRequest([IMAGE], LOGITS, float("inf"), "a", only_in_flight=True))
    queue.abandon(dropped)
    single: list[Batch | None] = []
    takers = [
        Thread(target=lambda: single.append(queue.take_single_image()), daemon=True),
        Thread(target=queue.take, daemon=True),
    ]
    for taker in takers:
        taker.start()
    takers[0].join(TIMEOUT)
    assert contents([batch for batch in single if batch is not None]) == [("a", 0)]
    queue.close()
    takers[1].join(TIMEOUT)


def test_closed_queue_gives_a_single_image_to_the_other_threads() -> None:
    queue = BatchQueue(capacity=8, max_batch=8, single_image=True)
    queue.put(QueuedRequest([IMAGE], LOGITS, float("inf"), "a", only_in_flight=True))
    queue.close()
    assert queue.take_single_image() is None
    assert contents(take_all(queue)) == [("a", 0)]
