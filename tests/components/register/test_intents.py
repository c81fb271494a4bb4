"""Compare-and-swap over a store that has none, with many at once, on both kinds of database."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from headway.components.register.intents import Intent, Intents
from headway.components.register.ledger import Ledger


class Conflict(Exception):  # noqa: N818 - it stands for PromotionConflictError
    """The state is not the expected one."""


class Crash(BaseException):
    """Stands for the end of the process."""


class Counter:
    """A number that is moved by plain writes, as MLflow moves an alias."""

    def __init__(self, url: str) -> None:
        self.value = 0
        self.url = url
        self.crash = False

    def intents(self) -> Intents:
        """What another process would have: its own connection, the same database, the same store."""
        return Intents(Ledger(self.url), self._carry_out)

    def move(self, expected: int, to: int, intents: Intents | None = None) -> Any:
        def decide() -> Intent | None:
            if self.value != expected:
                raise Conflict
            return Intent(kind="promoted", model="flights", actor="ann", expected=expected, champion=to)

        return (intents or self.intents()).transact("flights", decide)

    def _carry_out(self, intent: Intent) -> tuple[str, int, dict[str, Any]]:
        if self.crash:
            raise Crash
        assert intent.champion is not None
        self.value = intent.champion
        return intent.kind, intent.champion, {"champion": intent.champion}


@pytest.fixture
def counter(url: str) -> Counter:
    return Counter(url)


def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    def attempt(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Conflict:
            return None

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(attempt, calls))


class TestManyAtOnce:
    def test_one_of_them_wins(self, counter: Counter) -> None:
        found = at_once([lambda to=to: counter.move(0, to) for to in range(1, 9)])  # type: ignore[misc]
        rows = [row for row in found if row is not None]
        assert [row.body["champion"] for row in rows] == [counter.value]
        assert Ledger(counter.url).verify().rows == 1

    def test_no_step_is_lost_or_taken_twice(self, counter: Counter) -> None:
        def climb() -> int:
            intents, taken = counter.intents(), 0
            for _ in range(10):
                before = counter.value
                try:
                    counter.move(before, before + 1, intents)
                    taken += 1
                except Conflict:
                    continue
            return taken

        assert sum(at_once([climb] * 4)) == counter.value == Ledger(counter.url).verify().rows


class TestACrash:
    def test_the_next_one_finishes_it_then_decides(self, counter: Counter) -> None:
        counter.crash = True
        with pytest.raises(Crash):
            counter.move(0, 1)
        counter.crash = False
        with pytest.raises(Conflict):
            counter.move(0, 2)
        assert counter.value == 1
        assert [row.body["champion"] for row in Ledger(counter.url).rows()] == [1]

    def test_nothing_is_left_to_finish_twice(self, counter: Counter) -> None:
        counter.crash = True
        with pytest.raises(Crash):
            counter.move(0, 1)
        counter.crash = False
        found = at_once([lambda: counter.intents().finish("flights")] * 4)
        assert len([row for row in found if row is not None]) == 1

    def test_models_do_not_wait_for_each_other(self, counter: Counter) -> None:
        counter.crash = True
        with pytest.raises(Crash):
            counter.move(0, 1)
        assert counter.intents().transact("taxis", lambda: None) is None
        counter.crash = False
        assert counter.intents().finish("taxis") is None
        assert counter.intents().finish("flights") is not None
