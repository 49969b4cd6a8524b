"""Batching of predictions: requests that wait at the same time share one call of the model.

A call for hundreds of rows takes hardly longer than a call for a single row.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Final

from lakehouse.serving.api.metrics import BATCH_ROWS
from lakehouse.serving.api.problems import RequestError
from lakehouse.serving.api.schema import MAX_ROWS, Row

# No model can answer more rows than this in time.
MAX_WAITING_ROWS: Final = 20 * MAX_ROWS

Predict = Callable[[Sequence[Row]], Sequence[float]]
PendingRequest = tuple[Sequence[Row], "asyncio.Future[Sequence[float]]"]


class Batcher:
    """Caller of ``predict`` on a thread of the executor.

    One call runs at a time. It predicts the rows of all requests that arrived during the call before it.
    """

    def __init__(self, predict: Predict, executor: Executor) -> None:
        self._predict, self._executor = predict, executor
        self._pending: deque[PendingRequest] = deque()
        self._rows = 0
        self._work: asyncio.Task[None] | None = None

    async def __call__(self, rows: Sequence[Row]) -> Sequence[float]:
        """Return the rows' probabilities.

        Raises:
            RequestError: Too many rows are pending.
        """
        if self._rows + len(rows) > MAX_WAITING_ROWS:
            raise RequestError(503, "Too many rows are pending. Try again later.", headers={"Retry-After": "1"})
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Sequence[float]] = loop.create_future()
        self._pending.append((rows, answer))
        self._rows += len(rows)
        if self._work is None:
            self._work = loop.create_task(self._drain())
        return await answer

    async def _drain(self) -> None:
        while batch := self._take_batch():
            await self._answer(batch)
        self._work = None

    def _take_batch(self) -> list[PendingRequest]:
        """Take the oldest pending requests. Requests with a cancelled answer are dropped."""
        batch: list[PendingRequest] = []
        size = 0
        while self._pending and (not batch or size + len(self._pending[0][0]) <= MAX_ROWS):
            rows, answer = self._pending.popleft()
            self._rows -= len(rows)
            if not answer.done():
                batch.append((rows, answer))
                size += len(rows)
        return batch

    async def _answer(self, batch: list[PendingRequest]) -> None:
        all_rows = [row for rows, _ in batch for row in rows]
        BATCH_ROWS.observe(len(all_rows))
        try:
            loop = asyncio.get_running_loop()
            probabilities = await loop.run_in_executor(self._executor, self._predict, all_rows)
        except Exception as error:
            if len(batch) > 1:  # a faulty row must not fail the other requests
                for request in batch:
                    await self._answer([request])
            elif not batch[0][1].done():
                batch[0][1].set_exception(error)
            return
        start = 0
        for rows, answer in batch:
            if not answer.done():
                answer.set_result(probabilities[start : start + len(rows)])
            start += len(rows)
