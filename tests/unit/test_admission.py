"""Admission with a clock that the test sets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from service.core.errors import DeadlineExceeded, Overloaded, UnprocessableImage
from service.core.priority import Priority
from service.inference.admission import Admission
from tests.support.clock import Clock

INTERACTIVE, BULK = Priority.interactive, Priority.bulk


@pytest.fixture
def clock() -> Clock:
    return Clock()


@contextmanager
def admit(admission: Admission, images: int, seconds: float, priority: Priority) -> Iterator[None]:
    """Images in flight while the context is entered."""
    admission.check(images, seconds, priority)
    admission.enter(images, priority)
    try:
        yield
    except BaseException as error:
        admission.leave(images, priority, error)
        raise
    admission.leave(images, priority)


def refusal(admission: Admission, images: int, seconds: float, priority: Priority = INTERACTIVE) -> Overloaded:
    with pytest.raises(Overloaded) as refused:
        admission.check(images, seconds, priority)
    return refused.value


def measure(admission: Admission, clock: Clock, seconds_an_image: float, images: int = 400) -> ExitStack:
    """Compute images one by one with 4 in flight, which is two full batches of 2; the result holds these 4."""
    in_flight = [ExitStack() for _ in range(4)]
    for each in in_flight:
        each.enter_context(admit(admission, 1, 1000.0, INTERACTIVE))
    for _ in range(images):
        coming = ExitStack()
        coming.enter_context(admit(admission, 1, 1e9, INTERACTIVE))
        in_flight.append(coming)
        clock.now += seconds_an_image
        in_flight.pop(0).close()
    rest = ExitStack()
    for each in in_flight:
        rest.push(each)
    return rest


def test_images_count_until_they_are_answered() -> None:
    admission = Admission(capacity=10, max_batch=2)
    with admit(admission, 4, 1.0, INTERACTIVE):
        with admit(admission, 5, 1.0, INTERACTIVE):
            assert len(admission) == 9
            assert refusal(admission, 1, 1.0).reason == "queue_full"
        assert len(admission) == 4
        admission.check(5, 1.0, INTERACTIVE)
        assert refusal(admission, 6, 1.0).retry_after == 1
    assert len(admission) == 0


@pytest.mark.parametrize("error", [DeadlineExceeded("late"), UnprocessableImage("bad"), KeyError("mistake")])
def test_images_leave_after_any_error(error: Exception) -> None:
    admission = Admission(capacity=1, max_batch=1)
    with pytest.raises(type(error)), admit(admission, 1, 1.0, INTERACTIVE):
        raise error
    admission.check(1, 1.0, INTERACTIVE)


@pytest.mark.parametrize(("many", "few"), [(BULK, INTERACTIVE), (INTERACTIVE, BULK)])
def test_each_priority_has_reserved_capacity(many: Priority, few: Priority) -> None:
    admission = Admission(capacity=80, max_batch=2)
    with admit(admission, 70, 1.0, many):
        assert refusal(admission, 1, 1.0, many).reason == "queue_full"
        with admit(admission, 10, 1.0, few):
            assert refusal(admission, 1, 1.0, few).reason == "queue_full"
            assert refusal(admission, 1, 1.0, many).reason == "queue_full"


def test_idle_service_admits_any_request_within_the_capacity() -> None:
    Admission(capacity=100, max_batch=2).check(100, 1.0, BULK)


def test_late_request_is_refused_with_retry_after(clock: Clock) -> None:
    admission = Admission(capacity=1000, max_batch=2, clock=clock)
    with measure(admission, clock, seconds_an_image=0.5), admit(admission, 16, 1000.0, INTERACTIVE):
        # 20 images are before the next one, which take 10 seconds; with the next one 10.5.
        admission.check(1, 13.0, INTERACTIVE)
        late = refusal(admission, 1, 10.4)
        assert late.reason == "would_be_late"
        assert late.retry_after == 10
        assert late.headers == {"Retry-After": "10"}
        assert refusal(admission, 20, 13.0).reason == "would_be_late"


def test_interactive_images_do_not_wait_for_bulk(clock: Clock) -> None:
    admission = Admission(capacity=1000, max_batch=2, clock=clock)
    with measure(admission, clock, seconds_an_image=0.5), admit(admission, 100, 1000.0, BULK):
        admission.check(1, 4.0, INTERACTIVE)
        assert refusal(admission, 1, 4.0, BULK).reason == "would_be_late"


def test_bulk_images_wait_for_their_share_at_most(clock: Clock) -> None:
    """Of 104 images 4 are bulk, which get an eighth of the engine: they take as long as 32, and not as 104."""
    admission = Admission(capacity=1000, max_batch=2, clock=clock)
    rest = measure(admission, clock, seconds_an_image=0.5)
    with rest, admit(admission, 96, 1000.0, INTERACTIVE), admit(admission, 4, 1000.0, BULK):
        admission.check(1, 0.5 * 40 * 1.3, BULK)
        assert refusal(admission, 1, 0.5 * 40, BULK).reason == "would_be_late"


def test_throughput_follows_the_recent_past(clock: Clock) -> None:
    admission = Admission(capacity=1000, max_batch=2, clock=clock)
    measure(admission, clock, seconds_an_image=5.0).close()
    with measure(admission, clock, seconds_an_image=0.01, images=2000), admit(admission, 96, 1000.0, INTERACTIVE):
        admission.check(1, 1.5, INTERACTIVE)
        assert refusal(admission, 1, 0.9).reason == "would_be_late"


def test_few_images_are_admitted_after_a_disturbance(clock: Clock) -> None:
    """A throughput measured during a disturbance must not refuse all images: then it would never be measured again."""
    admission = Admission(capacity=1000, max_batch=2, clock=clock)
    measure(admission, clock, seconds_an_image=100.0).close()
    with admit(admission, 3, 1.0, INTERACTIVE), admit(admission, 1, 1.0, INTERACTIVE):
        assert refusal(admission, 1, 1.0).reason == "would_be_late"


def test_idle_time_is_not_measured(clock: Clock) -> None:
    admission = Admission(capacity=1000, max_batch=2, clock=clock)
    measure(admission, clock, seconds_an_image=0.01).close()
    clock.now += 10_000.0
    with admit(admission, 50, 1.0, INTERACTIVE):
        admission.check(1, 1.0, INTERACTIVE)


def test_late_images_do_not_count_as_throughput(clock: Clock) -> None:
    admission = Admission(capacity=1000, max_batch=2, clock=clock)
    with measure(admission, clock, seconds_an_image=0.1), admit(admission, 96, 1000.0, INTERACTIVE):
        admission.check(1, 13.0, INTERACTIVE)
        for _ in range(100):
            with pytest.raises(DeadlineExceeded), admit(admission, 1, 1000.0, INTERACTIVE):
                clock.now += 0.1
                raise DeadlineExceeded("late")
        assert refusal(admission, 1, 13.0).reason == "would_be_late"


class Elsewhere:
    """Images in flight in other workers, which the test sets."""

    def __init__(self) -> None:
        self.images = 0
        self.stated = 0.0

    def state(self, amount: float) -> None:
        self.stated = amount

    def elsewhere(self) -> float:
        return self.images


def test_workers_share_the_capacity(clock: Clock) -> None:
    others = Elsewhere()
    admission = Admission(10, max_batch=4, clock=clock, shared=others, workers=2)  # type: ignore[arg-type]
    others.images = 8  # one place is kept for bulk requests
    admission.check(1, 1.0, INTERACTIVE)
    assert refusal(admission, 2, 1.0).reason == "queue_full"
    with admit(admission, 1, 1.0, INTERACTIVE):
        assert others.stated == 1
        assert refusal(admission, 1, 1.0).reason == "queue_full"
    assert others.stated == 0
    others.images = 0
    admission.check(10, 1.0, INTERACTIVE)
