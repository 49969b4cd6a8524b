"""Requests that wait together are predicted together, and none is another's failure."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from serving.api import batching
from serving.api.batching import Batcher
from serving.api.problems import RequestError

Ask = Callable[[Batcher], Coroutine[Any, Any, Any]]


class Model:
    """Predicts a row's own number, when it is let; keeps the sizes of its batches."""

    def __init__(self) -> None:
        self.let, self.sizes = threading.Event(), list[int]()

    def __call__(self, rows: Sequence[tuple[Any, ...]]) -> list[float]:
        self.let.wait(10)
        self.sizes.append(len(rows))
        if (13,) in rows:
            raise ValueError("13")
        return [float(number) for (number,) in rows]


def run(model: Model, ask: Ask) -> Any:
    with ThreadPoolExecutor(1) as executor:

        async def all_of_it() -> Any:
            async with asyncio.timeout(10):
                return await ask(Batcher(model, executor))

        return asyncio.run(all_of_it())


async def asked(batcher: Batcher, *requests: Sequence[int]) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(batcher([(n,) for n in request])) for request in requests]
    await asyncio.sleep(0.05)
    return tasks


def test_what_waits_meanwhile_is_predicted_together() -> None:
    model = Model()

    async def ask(batcher: Batcher) -> Any:
        first = await asked(batcher, [1])
        more = await asked(batcher, [2, 3], [4], [5, 6, 7])
        model.let.set()
        return await asyncio.gather(*first, *more), await batcher([(8,)])

    assert run(model, ask) == ([[1], [2, 3], [4], [5, 6, 7]], [8])
    assert model.sizes == [1, 6, 1]


def test_a_batch_has_no_more_rows_than_a_request_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MAX_ROWS", 3)
    model = Model()

    async def ask(batcher: Batcher) -> Any:
        tasks = [*await asked(batcher, [0]), *await asked(batcher, [1, 2], [3], [4], [5, 6, 7, 8])]
        model.let.set()
        return await asyncio.gather(*tasks)

    assert run(model, ask) == [[0], [1, 2], [3], [4], [5, 6, 7, 8]]
    assert model.sizes == [1, 3, 1, 4]


def test_one_requests_failure_is_its_own() -> None:
    model = Model()

    async def ask(batcher: Batcher) -> Any:
        tasks = await asked(batcher, [1], [2], [13], [3])
        model.let.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, second, failed, last = run(model, ask)
    assert (first, second, last) == ([1], [2], [3])
    assert isinstance(failed, ValueError)


def test_rows_that_nobody_waits_for_any_more_are_left_out() -> None:
    model = Model()

    async def ask(batcher: Batcher) -> Any:
        (first,) = await asked(batcher, [1])
        given_up, last = await asked(batcher, [2], [3])
        given_up.cancel()
        await asyncio.sleep(0)
        model.let.set()
        return await asyncio.gather(first, last)

    assert run(model, ask) == [[1], [3]]
    assert model.sizes == [1, 1]


def test_more_than_can_be_answered_in_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MAX_WAITING_ROWS", 3)
    model = Model()

    async def ask(batcher: Batcher) -> Any:
        tasks = [*await asked(batcher, [0]), *await asked(batcher, [1, 2, 3], [4])]
        model.let.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        return answers, await batcher([(5,)])

    (first, second, refused), later = run(model, ask)
    assert (first, second, later) == ([0], [1, 2, 3], [5])
    assert isinstance(refused, RequestError)
    assert (refused.status, refused.headers) == (503, {"Retry-After": "1"})
