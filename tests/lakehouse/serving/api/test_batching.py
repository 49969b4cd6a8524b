"""Tests of batching: waiting requests share a call of the model, but not its failure."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lakehouse.serving.api import batching
from lakehouse.serving.api.batching import Batcher
from lakehouse.serving.api.problems import RequestError

Scenario = Callable[[Batcher], Coroutine[Any, Any, Any]]


class Model:
    """Model that predicts a row's own number once ``may_run`` is set, and records the sizes of its batches."""

    def __init__(self) -> None:
        self.may_run, self.sizes = threading.Event(), list[int]()

    def __call__(self, rows: Sequence[tuple[Any, ...]]) -> list[float]:
        self.may_run.wait(10)
        self.sizes.append(len(rows))
        if (13,) in rows:
            raise ValueError("13")
        return [float(number) for (number,) in rows]


def run(model: Model, scenario: Scenario) -> Any:
    with ThreadPoolExecutor(1) as executor:

        async def run_with_timeout() -> Any:
            async with asyncio.timeout(10):
                return await scenario(Batcher(model, executor))

        return asyncio.run(run_with_timeout())


async def send(batcher: Batcher, *requests: Sequence[int]) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(batcher([(n,) for n in request])) for request in requests]
    await asyncio.sleep(0.05)
    return tasks


def test_waiting_requests_are_predicted_together() -> None:
    model = Model()

    async def scenario(batcher: Batcher) -> Any:
        first = await send(batcher, [1])
        more = await send(batcher, [2, 3], [4], [5, 6, 7])
        model.may_run.set()
        return await asyncio.gather(*first, *more), await batcher([(8,)])

    assert run(model, scenario) == ([[1], [2, 3], [4], [5, 6, 7]], [8])
    assert model.sizes == [1, 6, 1]


def test_a_batch_is_limited_to_max_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MAX_ROWS", 3)
    model = Model()

    async def scenario(batcher: Batcher) -> Any:
        tasks = [*await send(batcher, [0]), *await send(batcher, [1, 2], [3], [4], [5, 6, 7, 8])]
        model.may_run.set()
        return await asyncio.gather(*tasks)

    assert run(model, scenario) == [[0], [1, 2], [3], [4], [5, 6, 7, 8]]
    assert model.sizes == [1, 3, 1, 4]


def test_a_failure_affects_only_its_request() -> None:
    model = Model()

    async def scenario(batcher: Batcher) -> Any:
        tasks = await send(batcher, [1], [2], [13], [3])
        model.may_run.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, second, failed, last = run(model, scenario)
    assert (first, second, last) == ([1], [2], [3])
    assert isinstance(failed, ValueError)


def test_cancelled_requests_are_not_predicted() -> None:
    model = Model()

    async def scenario(batcher: Batcher) -> Any:
        (first,) = await send(batcher, [1])
        cancelled, last = await send(batcher, [2], [3])
        cancelled.cancel()
        await asyncio.sleep(0)
        model.may_run.set()
        return await asyncio.gather(first, last)

    assert run(model, scenario) == [[1], [3]]
    assert model.sizes == [1, 1]


def test_too_many_pending_rows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MAX_WAITING_ROWS", 3)
    model = Model()

    async def scenario(batcher: Batcher) -> Any:
        tasks = [*await send(batcher, [0]), *await send(batcher, [1, 2, 3], [4])]
        model.may_run.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        return answers, await batcher([(5,)])

    (first, second, refused), later = run(model, scenario)
    assert (first, second, later) == ([0], [1, 2, 3], [5])
    assert isinstance(refused, RequestError)
    assert (refused.status, refused.headers) == (503, {"Retry-After": "1"})
