"""Interactive work is served before bulk work, and bulk work gets its share."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.priority import Priority, PrioritySemaphore
from service.engine.batch_queue import BatchQueue
from tests.support.queued import contents, take_all, ticket

INTERACTIVE, BULK = Priority.interactive, Priority.bulk


def put(queue: BatchQueue, images: int, priority: Priority) -> None:
    each = ticket(images, priority)
    each.priority = priority
    queue.put(each)


def test_interactive_images_are_computed_before_bulk() -> None:
    queue = BatchQueue(capacity=100, max_batch=4)
    put(queue, 6, BULK)
    put(queue, 2, INTERACTIVE)
    batch = queue.take()
    assert batch is not None
    assert contents([batch]) == [(INTERACTIVE, 0), (INTERACTIVE, 1), (BULK, 0), (BULK, 1)]
    assert len(queue) == 4


@given(st.integers(1, 32), st.integers(1, 40), st.integers(1, 40))
def test_bulk_gets_a_tenth_of_a_loaded_executor(max_batch: int, bulk_size: int, interactive_size: int) -> None:
    """For all sizes of batches and requests: a tenth of any 1000 images, while both wait."""
    queue = BatchQueue(capacity=10_000, max_batch=max_batch)
    bulk, images = 0, 0
    while images < 1000:
        while queue._bulk.waiting < max_batch:
            put(queue, bulk_size, BULK)
        while queue._interactive.waiting < max_batch:
            put(queue, interactive_size, INTERACTIVE)
        batch = queue.take()
        assert batch is not None
        assert batch.size == max_batch
        images += batch.size
        bulk += sum(part.stop - part.start for part in batch.slices if part.request.priority is BULK)
    assert 0.1 * images - 1 <= bulk <= 0.15 * images + max_batch


@given(st.lists(st.tuples(st.integers(1, 9), st.sampled_from(Priority)), min_size=1, max_size=40), st.integers(1, 8))
def test_each_priority_keeps_its_order_and_nothing_is_lost(
    requests: list[tuple[int, Priority]], max_batch: int
) -> None:
    queue = BatchQueue(capacity=10_000, max_batch=max_batch)
    for number, (images, priority) in enumerate(requests):
        each = ticket(images, number)
        each.priority = priority
        queue.put(each)
    queue.close()
    computed = contents(take_all(queue))
    for priority in Priority:
        assert [(owner, image) for owner, image in computed if requests[owner][1] is priority] == [
            (number, image)
            for number, (images, own) in enumerate(requests)
            if own is priority
            for image in range(images)
        ]
    assert len(computed) == sum(images for images, _ in requests)


def test_bulk_share_does_not_add_up_without_interactive_work() -> None:
    queue = BatchQueue(capacity=10_000, max_batch=16)
    for _ in range(100):
        put(queue, 1, BULK)
        assert queue.take() is not None
    put(queue, 100, BULK)
    put(queue, 16, INTERACTIVE)
    batch = queue.take()
    assert batch is not None
    assert [part.request.priority for part in batch.slices] == [INTERACTIVE, BULK]
    assert batch.slices[1].stop == 2


def test_late_request_is_skipped_if_others_wait() -> None:
    queue = BatchQueue(capacity=100, max_batch=2, clock=lambda: 100.0)
    queue.batch_seconds = 1.0
    for owner, deadline in (("late", 100.9), ("a", 101.1), ("b", 105.0)):
        queue.put(ticket(1, owner, deadline=deadline))
    queue.close()
    assert contents(take_all(queue)) == [("a", 0), ("b", 0)]


def test_late_request_is_computed_if_no_other_waits() -> None:
    """Otherwise an estimate that is too long would never be corrected."""
    queue = BatchQueue(capacity=100, max_batch=2, clock=lambda: 100.0)
    queue.batch_seconds = 1000.0
    queue.put(ticket(2, "hopeful", deadline=101.0))
    queue.close()
    assert contents(take_all(queue)) == [("hopeful", 0), ("hopeful", 1)]


def order(arrivals: list[Priority], leave: tuple[int, ...] = ()) -> list[int]:
    """Numbers of the waiters in the order in which they get a single place; some are cancelled before."""

    async def play() -> list[int]:
        turns, let_in = PrioritySemaphore(1), list[int]()

        async def pass_through(number: int, priority: Priority) -> None:
            await turns.acquire(priority)
            let_in.append(number)
            await asyncio.sleep(0)
            turns.release()

        await turns.acquire(INTERACTIVE)
        tasks = [asyncio.create_task(pass_through(number, each)) for number, each in enumerate(arrivals)]
        await asyncio.sleep(0)
        for number in leave:
            tasks[number].cancel()
        turns.release()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(1):  # the place is free again
            await turns.acquire(BULK)
        return let_in

    return asyncio.run(play())


def test_waiters_of_a_priority_are_served_in_order() -> None:
    assert order([BULK, INTERACTIVE, BULK, INTERACTIVE]) == [1, 3, 0, 2]


def test_every_eighth_place_is_for_bulk() -> None:
    let_in = order([BULK] * 4 + [INTERACTIVE] * 28)
    assert [place for place, number in enumerate(let_in, start=1) if number < 4] == [8, 16, 24, 32]


@pytest.mark.parametrize("leave", [(0,), (1,), (0, 2), (0, 1, 2)])
def test_cancelled_waiter_is_skipped(leave: tuple[int, ...]) -> None:
    assert order([INTERACTIVE, BULK, INTERACTIVE], leave) == [each for each in (0, 2, 1) if each not in leave]


def test_place_of_a_waiter_that_is_cancelled_is_passed_on() -> None:
    async def play() -> None:
        turns = PrioritySemaphore(1)
        await turns.acquire(INTERACTIVE)
        waiting = asyncio.create_task(turns.acquire(INTERACTIVE))
        await asyncio.sleep(0)
        turns.release()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with asyncio.timeout(1):
            await turns.acquire(INTERACTIVE)

    asyncio.run(play())
