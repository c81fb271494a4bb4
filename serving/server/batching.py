"""Where and when a model call runs.

A quick call runs where it is asked for, on the event loop: handing it to a thread costs more than it takes (measured:
0.1 to 0.3 ms for the hand-over and the fight for the interpreter's lock, against 0.01 ms for a small ONNX graph and
0.15 ms for 64 rows through 200 trees). A slow one runs in one of `threads` threads, and what is asked for while all of
them are busy waits and is then answered together, at most `max_batch` rows of waiting requests in one call. So nothing
ever waits for company: a lone request runs at once, and batches grow only as fast as the model is slow.

Which call is quick is measured, not set: the seconds of past calls by their number of rows (in powers of two), the
newest counting most, and a single slow one counting little, because it was the machine that was busy. In a thread the
CPU's time is what counts, so that a call that would be quick comes back to the event loop. Warm-up makes the first
measurements; a number of rows that was never seen counts as slow.
"""

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from headway.serving.server.refusal import Refusal
from headway.serving.server.rows import Rows
from headway.serving.server.scoring import Scored, Scorer, joined

INLINE_SECONDS = 500e-6
"""Calls that take no longer run on the event loop."""
_WEIGHT = 0.2
"""What the newest measurement counts for."""
_SURPRISE = 4
"""How many times the expected seconds one measurement may count as at most."""
_WARM_CALLS, _LEAST_CALLS, _WARM_SECONDS = 30, 5, 0.05
"""How often warm-up calls the model with each number of rows: so many times, or fewer when that takes long."""
_MAX_BUCKETS = 40

Observer = Callable[[int], None]


class Calls:
    """Runs model calls.

    Args:
        scorer: The model.
        threads: Slow calls at the same time.
        max_batch: Rows of waiting requests that one call takes together.
        timeout: Seconds that a request may wait for its answer.
        observe: Takes the number of rows of each call.
    """

    def __init__(self, scorer: Scorer, *, threads: int, max_batch: int, timeout: float, observe: Observer) -> None:
        self._scorer = scorer
        self._max_batch = max_batch
        self._timeout = timeout
        self._observe = observe
        self._seconds = [math.inf] * _MAX_BUCKETS
        self._idle = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="model")
        self._waiting: deque[_Waiting] = deque()

    def quick(self, rows: Rows) -> Scored | None:
        """The prediction, if the call is quick and nobody is before it; None when it must be waited for (`slow`)."""
        bucket = rows.count.bit_length()
        if self._seconds[bucket] > INLINE_SECONDS:
            return None
        self._observe(rows.count)
        return self._timed(rows, bucket, time.perf_counter)

    async def slow(self, rows: Rows) -> Scored:
        """The prediction, from a thread.

        Raises:
            Refusal: It did not come in time.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(rows, loop.create_future())
        self._waiting.append(waiting)
        self._start(loop)
        try:
            async with asyncio.timeout(self._timeout):
                return await waiting.answer
        except TimeoutError:
            raise Refusal(504, f"No prediction within {self._timeout:g} s") from None

    def warm(self, rows: Rows) -> None:
        """Call the model some times, so that the first request finds everything in place and measured."""
        ending = time.perf_counter() + _WARM_SECONDS
        for number in range(_WARM_CALLS):
            if number >= _LEAST_CALLS and time.perf_counter() > ending:
                break
            self._timed(rows, rows.count.bit_length(), time.perf_counter)

    def close(self) -> None:
        """End the threads; calls that run are waited for."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _timed(self, rows: Rows, bucket: int, clock: Callable[[], float]) -> Scored:
        started = clock()
        scored = self._scorer.score(rows.numbers, rows.texts)
        self._measured(bucket, clock() - started)
        return scored

    def _measured(self, bucket: int, seconds: float) -> None:
        before = self._seconds[bucket]
        if before == math.inf:
            self._seconds[bucket] = seconds
        else:
            self._seconds[bucket] = before + _WEIGHT * (min(seconds, _SURPRISE * before) - before)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give what waits to a thread, if one is free."""
        if not self._idle or not self._waiting:
            return
        batch = self._take()
        if not batch:
            return
        self._idle -= 1
        work = loop.run_in_executor(self._pool, self._run, batch)
        work.add_done_callback(lambda done: self._finished(loop, batch, done))

    def _take(self) -> "list[_Waiting]":
        """The first that wait and fit into one call, without those who gave up waiting."""
        batch: list[_Waiting] = []
        size = 0
        while self._waiting:
            first = self._waiting[0]
            if first.answer.done():
                self._waiting.popleft()
                continue
            if batch and size + first.rows.count > self._max_batch:
                break
            batch.append(self._waiting.popleft())
            size += first.rows.count
        return batch

    def _run(self, batch: "list[_Waiting]") -> Scored:
        rows = batch[0].rows if len(batch) == 1 else _together(batch)
        # Not the wait for the interpreter's lock, which the event loop holds meanwhile.
        return self._timed(rows, rows.count.bit_length(), time.thread_time)

    def _finished(
        self, loop: asyncio.AbstractEventLoop, batch: "list[_Waiting]", done: "asyncio.Future[Scored]"
    ) -> None:
        self._idle += 1
        self._observe(sum(waiting.rows.count for waiting in batch))
        self._start(loop)
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        start = 0
        for waiting in batch:
            stop = start + waiting.rows.count
            with contextlib.suppress(asyncio.InvalidStateError):
                if error is not None:
                    waiting.answer.set_exception(error)
                else:
                    waiting.answer.set_result(done.result().part(start, stop))
            start = stop


class _Waiting:
    """A request that waits for a thread."""

    __slots__ = ("answer", "rows")

    def __init__(self, rows: Rows, answer: "asyncio.Future[Scored]") -> None:
        self.rows = rows
        self.answer = answer


def _together(batch: list[_Waiting]) -> Rows:
    numbers, texts = joined(waiting.rows for waiting in batch)
    return Rows(len(numbers), numbers, texts, [])
