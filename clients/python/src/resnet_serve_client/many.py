"""Parts of `classify_many`: batches, their order, and progress."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Sized,
)
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

Progress = bool | Callable[[int], object]
"""True for a progress bar (extra `progress`), or a function that is called with the number of finished images."""


def check(batch: int, concurrency: int) -> None:
    """Check the options.

    Raises:
        ValueError: one is below 1.
    """
    for name, value in (("batch", batch), ("concurrency", concurrency)):
        if value < 1:
            raise ValueError(f"{name} is {value}: give a number above 0")


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items in their order; the last one may be shorter. Items are read as lists are taken."""
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group


async def async_batches(items: Iterable[T] | AsyncIterable[T], size: int) -> AsyncIterator[list[T]]:
    """As `batches`, also of an asynchronous iterable."""
    if not isinstance(items, AsyncIterable):
        for group in batches(items, size):
            yield group
        return
    group = []
    async for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def in_order(groups: Iterable[list[T]], submit: Callable[[list[T]], Future[R]], window: int) -> Iterator[R]:
    """Give the results of groups in their order, with at most `window` groups in flight.

    The rest is cancelled if the iterator is closed.
    """
    pending = deque[Future[R]]()
    try:
        for group in groups:
            pending.append(submit(group))
            while pending and (len(pending) >= window or pending[0].done()):
                yield pending[0].result()
                pending.popleft()
        while pending:
            yield pending[0].result()
            pending.popleft()
    finally:
        for future in pending:
            future.cancel()


async def async_in_order(
    groups: AsyncIterator[list[T]], send: Callable[[list[T]], Coroutine[Any, Any, R]], window: int
) -> AsyncGenerator[R]:
    """As `in_order`, with tasks."""
    pending = deque[asyncio.Task[R]]()
    try:
        async for group in groups:
            pending.append(asyncio.create_task(send(group)))
            while pending and (len(pending) >= window or pending[0].done()):
                yield await pending[0]
                pending.popleft()
        while pending:
            yield await pending[0]
            pending.popleft()
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


@contextmanager
def counting(progress: Progress, items: object) -> Iterator[Callable[[], object]]:
    """Give a function that counts one finished image.

    Args:
        progress: as `Progress`.
        items: the input; its length, if it has one, is the end of the bar.

    Raises:
        ImportError: a progress bar needs tqdm.
    """
    if progress is True:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            raise ImportError("a progress bar needs tqdm: pip install 'resnet-serve-client[progress]'") from None
        with tqdm(total=len(items) if isinstance(items, Sized) else None, unit=" images") as bar:
            yield bar.update
        return
    finished = 0

    def count() -> None:
        nonlocal finished
        finished += 1
        if callable(progress):
            progress(finished)

    yield count
