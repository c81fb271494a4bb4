"""Who waits is answered together, everybody with their own answer; nobody waits for company."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from headway.serving.server.batching import Calls
from headway.serving.server.refusal import Refusal
from headway.serving.server.rows import Rows
from headway.serving.server.scoring import Scored


class Model:
    """A stand-in that answers each row with its first number, as slowly as it is told."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.sizes: list[int] = []
        self.threads: set[int] = set()
        self.at_once = 0
        self.most_at_once = 0
        self._lock = threading.Lock()

    def score(self, numbers: Any, texts: Any) -> Scored:
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        self.threads.add(threading.get_ident())
        self.sizes.append(len(numbers))
        if len(numbers) and numbers[0, 0] < 0:
            raise ValueError("a row that breaks the model")
        if self.seconds:
            time.sleep(self.seconds)
        with self._lock:
            self.at_once -= 1
        return Scored(numbers[:, 0].astype(np.float64), None, None)


def rows(*values: float) -> Rows:
    numbers = np.array([[value] for value in values], dtype=np.float32)
    return Rows(len(values), numbers, np.empty((len(values), 0), dtype=object), [])


def calls(
    model: Any, *, threads: int = 1, timeout: float = 10.0, observe: Callable[[int], None] = lambda _: None
) -> Calls:
    return Calls(model, threads=threads, max_batch=8, timeout=timeout, observe=observe)


class TestSlowCalls:
    def test_everybody_gets_their_own_answer(self) -> None:
        model = Model(seconds=0.005)
        sizes: list[int] = []
        runner = calls(model, observe=sizes.append)

        async def ask() -> list[Scored]:
            wanted = [runner.slow(rows(*range(start, start + 1 + start % 3))) for start in range(60)]
            return await asyncio.gather(*wanted)

        for start, answer in enumerate(asyncio.run(ask())):
            assert answer.labels.tolist() == list(range(start, start + 1 + start % 3))
        assert model.sizes[0] == 1  # the first found the model idle, and waited for nobody
        assert 4 < max(model.sizes) <= 8
        assert sum(model.sizes) == sum(sizes) == sum(1 + start % 3 for start in range(60))

    def test_a_large_request_is_not_cut(self) -> None:
        model = Model()
        answer = asyncio.run(calls(model).slow(rows(*range(20))))
        assert answer.labels.tolist() == list(range(20))
        assert model.sizes == [20]

    @pytest.mark.parametrize("threads", [1, 3])
    def test_the_thread_limit(self, threads: int) -> None:
        model = Model(seconds=0.02)
        runner = calls(model, threads=threads)

        async def ask() -> None:
            await asyncio.gather(*[runner.slow(rows(*range(8))) for _ in range(9)])

        asyncio.run(ask())
        assert model.most_at_once == threads

    def test_too_slow_is_504_and_the_next_request_is_answered(self) -> None:
        model = Model(seconds=0.3)
        runner = calls(model, timeout=0.05)

        async def ask() -> Scored:
            with pytest.raises(Refusal) as caught:
                await runner.slow(rows(1))
            assert caught.value.status == 504
            model.seconds = 0
            while runner._idle == 0:
                await asyncio.sleep(0.01)
            return await runner.slow(rows(2))

        assert asyncio.run(ask()).labels.tolist() == [2]

    def test_who_gave_up_is_not_predicted_for(self) -> None:
        model = Model(seconds=0.1)
        runner = calls(model)

        async def ask() -> None:
            first = asyncio.ensure_future(runner.slow(rows(1)))
            gone = asyncio.ensure_future(runner.slow(rows(2)))
            await asyncio.sleep(0.02)
            gone.cancel()
            last = asyncio.ensure_future(runner.slow(rows(3)))
            assert (await first).labels.tolist() == [1]
            assert (await last).labels.tolist() == [3]

        asyncio.run(ask())
        assert model.sizes == [1, 1]

    def test_a_broken_call_fails_those_in_it_only(self) -> None:
        runner = calls(Model(seconds=0.02))

        async def ask() -> None:
            first = asyncio.ensure_future(runner.slow(rows(1)))
            broken = asyncio.ensure_future(runner.slow(rows(-1)))
            await asyncio.sleep(0.03)
            last = asyncio.ensure_future(runner.slow(rows(3)))
            assert (await first).labels.tolist() == [1]
            with pytest.raises(ValueError, match="breaks the model"):
                await broken
            assert (await last).labels.tolist() == [3]

        asyncio.run(ask())


class TestQuickCalls:
    def test_an_unmeasured_call_is_no_quick_one(self) -> None:
        assert calls(Model()).quick(rows(1)) is None

    def test_a_quick_model_is_called_where_it_is_asked(self) -> None:
        model = Model()
        runner = calls(model)
        runner.warm(rows(1))
        answer = runner.quick(rows(5))
        assert answer is not None
        assert answer.labels.tolist() == [5]
        assert model.threads == {threading.get_ident()}

    def test_a_model_that_grows_slow_leaves_the_loop(self) -> None:
        model = Model()
        runner = calls(model)
        runner.warm(rows(1))
        model.seconds = 0.005
        assert runner.quick(rows(1)) is not None  # once is the machine's fault
        assert any(runner.quick(rows(1)) is None for _ in range(30))

    def test_a_call_that_was_slow_by_accident_comes_back(self) -> None:
        runner = calls(Model())
        runner._seconds[1] = 0.01

        async def ask() -> None:
            for _ in range(50):
                await runner.slow(rows(1))

        assert runner.quick(rows(1)) is None
        asyncio.run(ask())
        assert runner.quick(rows(1)) is not None

    def test_sizes_are_measured_apart(self) -> None:
        runner = calls(Model())
        runner.warm(rows(1))
        assert runner.quick(rows(1)) is not None
        assert runner.quick(rows(*range(64))) is None
