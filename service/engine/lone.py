"""An executor on several processors for an image that comes alone, beside executors of few threads each.

Executors of one thread compute the most images a second, since none waits for another, and let a lone image wait while
the other processors are idle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock

from models.imaging.preprocess import UInt8Array
from service.engine.arrangement import MAX_INSTANCES, SMALL, Load
from service.engine.sizing import batch_seconds
from service.executors.base import Executor, ExecutorError, Float32Array, Wrapper, closed_on_error


class Lone:
    """Lends itself for an image that is computed while no other batch is, and nothing else in the service.

    Args:
        executor: on the CPU; it computes in buffers that others gave, one batch at a time.
        borrowers: executors that it is to be lent to; the last that is closed closes it.
        inside: images in the service, those that are decoded included: they need processors, too.
    """

    def __init__(self, executor: Executor, borrowers: int, inside: Callable[[], int]) -> None:
        self._executor = executor
        self._borrowers = borrowers
        self._inside = inside
        self._computing = 0
        self._lock = Lock()

    @contextmanager
    def lent(self, images: int) -> Iterator[Executor | None]:
        """The executor, where this batch is one image and the only one that is computed; else None."""
        with self._lock:
            self._computing += 1
            alone = self._computing == 1
        try:
            yield self._executor if alone and images == 1 and self._inside() <= 1 else None
        finally:
            with self._lock:
                self._computing -= 1

    def give_back(self) -> None:
        """A borrower is closed."""
        self._borrowers -= 1
        if not self._borrowers:
            self._executor.close()


class Borrower(Wrapper):
    """An executor on the CPU that has its lone images computed by another.

    Args:
        executor: computes everything else.
        lone: shared by all executors of a model.
    """

    def __init__(self, executor: Executor, lone: Lone) -> None:
        super().__init__(executor)
        self._lone = lone

    def run(self, images: UInt8Array, outputs: frozenset[str]) -> dict[str, Float32Array]:
        with self._lone.lent(len(images)) as lone:
            return (lone or self._executor).run(images, outputs)

    def close(self) -> None:
        super().close()
        self._lone.give_back()


_QUICKER = 0.9
"""RequestSlice of an image's time in another executor that it may take for one more to be worth its memory."""


def lend(
    load: Load,
    threads: int | None,
    executors: Sequence[Executor],
    images: UInt8Array,
    cpus: int,
    inside: Callable[[], int],
) -> tuple[list[Executor], int]:
    """Executors that have their lone images computed by another one.

    Args:
        load: loads that one.
        threads: that it has; 0 for none, None for all processors if the network is small and an image then takes less.
        executors: those of a model.
        images: uint8 [n, H, W, C], to try them with.
        cpus: processors that there are.
        inside: tells how many images are in the service.

    Returns:
        The executors, and the threads of the one for lone images, or 0.

    Raises:
        ExecutorError: they are not on the CPU, or it cannot be loaded.
    """
    if threads is None:
        threads = min(cpus, MAX_INSTANCES)
        alone = _load_if_quicker(load, threads, executors, images[:1])
    else:
        alone = _load_as_asked(load, threads, executors)
    if alone is None:
        return [*executors], 0
    lone = Lone(alone, len(executors), inside)
    return [Borrower(executor, lone) for executor in executors], threads


def _load_as_asked(load: Load, threads: int, executors: Sequence[Executor]) -> Executor | None:
    if not threads:
        return None
    if executors[0].device != "cpu":
        raise ExecutorError(f"lone_threads is for executors on the CPU, and this one is on {executors[0].device}")
    (alone,) = load(threads, 1, alone=True)
    return alone


def _load_if_quicker(load: Load, threads: int, executors: Sequence[Executor], image: UInt8Array) -> Executor | None:
    busy = executors[0]
    if len(executors) == 1 or threads == 1 or busy.device != "cpu" or not busy.computes:
        return None
    seconds = batch_seconds(busy, image)
    if seconds >= SMALL:  # it takes as long to load, and as much memory, as each of the others
        return None
    (alone,) = load(threads, 1, alone=True)
    with closed_on_error([alone]):
        quicker = batch_seconds(alone, image) <= _QUICKER * seconds
    if quicker:
        return alone
    alone.close()
    return None
