"""Outcomes are stored once, corrected by later ones, in whatever order they come, and refused when they are none."""

import itertools
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as budget
from hypothesis import strategies as st

from headway.components.errors import ExperimentError, UsageError
from headway.components.settings import Settings
from headway.serving.experiment.outcome import Outcome, Recorded, key_of, row_of, settle
from headway.serving.experiment.outcome_store import Followed, Outcomes

NOW = datetime(2026, 11, 25, 10, tzinfo=UTC)


def hour(number: int) -> datetime:
    return NOW - timedelta(hours=10 - number)


def label(value: Any, prediction: str = "p1", time: datetime | None = None) -> Outcome:
    return Outcome(metric="label", value=value, prediction=prediction, time=time)


@pytest.fixture
def store(settings: Settings) -> Outcomes:
    return Outcomes(settings)


def stored(store: Outcomes, metric: str = "label") -> list[str]:
    return sorted(store.fetch("flights", metric)[0]["value"].to_pylist())


class TestRecording:
    def test_twice_is_once(self, store: Outcomes) -> None:
        assert store.record("flights", label("AA", time=hour(1))) == Recorded(new=1)
        assert store.record("flights", label("AA", time=hour(1))) == Recorded(same=1)
        assert store.record("flights", label("AA")) == Recorded(same=1)
        assert stored(store) == ['"AA"']

    def test_a_later_value_corrects(self, store: Outcomes) -> None:
        store.record("flights", label("AA", time=hour(1)))
        assert store.record("flights", label("B6", time=hour(2))) == Recorded(corrected=1)
        assert store.record("flights", label("UA", time=hour(1))) == Recorded(outdated=1)
        assert stored(store) == ['"B6"']

    def test_two_values_of_one_time_contradict(self, store: Outcomes) -> None:
        store.record("flights", label("AA", time=hour(1)))
        with pytest.raises(ExperimentError, match=r'at one time: "AA" is recorded, "B6" came'):
            store.record("flights", label("B6", time=hour(1)))
        assert stored(store) == ['"AA"']

    def test_one_number_in_two_spellings_is_one_value(self, store: Outcomes) -> None:
        for value in (1, 1.0, True):
            store.record("flights", label(value, time=hour(1)))
        assert stored(store) == ["1"]

    def test_keys_are_apart(self, store: Outcomes) -> None:
        outcomes = [
            Outcome(metric="label", value=1, prediction="x"),
            Outcome(metric="revenue", value=1, prediction="x"),
            Outcome(metric="revenue", value=1, user="x"),
            Outcome(metric="revenue", value=1, user="x", event="e1"),
            Outcome(metric="revenue", value=1, user="x", event="e2"),
        ]
        assert store.record_many("flights", outcomes).new == 5
        assert store.record_many("taxis", outcomes).new == 5
        assert [(row["metric"], row["unit"], row["outcomes"]) for row in store.summary("flights")] == [
            ("label", "prediction", 1),
            ("revenue", "prediction", 1),
            ("revenue", "user", 3),
        ]
        assert store.scopes() == ["flights", "taxis"]

    def test_one_call_may_bring_one_key_often(self, store: Outcomes) -> None:
        found = store.record_many("flights", [label(value, time=hour(value)) for value in (2, 1, 3, 3)])
        assert found == Recorded(new=1, same=1, corrected=1, outdated=1)
        assert stored(store) == ["3"]

    def test_many_are_stored_in_lots(self, store: Outcomes) -> None:
        found = store.record_many("flights", (label(number % 2, f"p{number}") for number in range(25_000)))
        assert found == Recorded(new=25_000)
        assert store.count("flights", "label") == 25_000
        table, last = store.fetch("flights", "label")
        assert table.num_rows == 25_000
        assert store.fetch("flights", "label", after=last)[0].num_rows == 0

    def test_a_bad_one_is_named_and_the_lots_before_it_stay(self, store: Outcomes) -> None:
        outcomes = itertools.chain((label(1, f"p{number}") for number in range(10_000)), [label(float("nan"))])
        with pytest.raises(ExperimentError, match="Outcome 10001, metric 'label': the value is nan"):
            store.record_many("flights", outcomes)
        assert store.count("flights", "label") == 10_000

    def test_late_ones_are_found_by_when_they_came(self, store: Outcomes) -> None:
        store.record("flights", label(1, time=hour(1)), now=NOW)
        assert store.count("flights", "label", since=NOW) == 1
        assert store.count("flights", "label", since=NOW + timedelta(minutes=2)) == 0

    def test_processes_record_each_outcome_once(self, settings: Settings) -> None:
        script = (
            "import sys; from pathlib import Path; from pydantic import SecretStr\n"
            "from headway.components.settings import Settings\n"
            "from headway.serving.experiment.outcome import Outcome\n"
            "from headway.serving.experiment.outcome_store import Outcomes\n"
            "store = Outcomes(Settings(home=Path(sys.argv[1]), database_url=SecretStr(sys.argv[2])))\n"
            "print(sum(store.record('flights', Outcome(metric='label', value=n, prediction=f'p{n}')).new "
            "for n in range(40)))"
        )
        url = settings.database_url.get_secret_value()
        arguments = [sys.executable, "-c", script, str(settings.home), url]
        started = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        new = [int(process.communicate(timeout=60)[0]) for process in started]
        assert sum(new) == 40
        assert Outcomes(settings).count("flights", "label") == 40


class TestRefusals:
    @pytest.mark.parametrize(
        ("outcome", "message"),
        [
            (label(float("nan")), "the value is nan"),
            (label(float("inf")), "the value is inf"),
            (label(10**400), "the value is 1000"),
            (label(None), "the value is None"),
            (label([1]), r"the value is \[1\]"),
            (label("x" * 300), "the value is 'xxx"),
            (Outcome(metric="revenue", value="12", user="ann"), "the value is '12'"),
            (Outcome(metric="accuracy", value=1, prediction="p"), "computed from labels"),
            (Outcome(metric="a b", value=1, prediction="p"), "refused name"),
            (Outcome(metric="", value=1, prediction="p"), "refused name"),
            (Outcome(metric="label", value=1), "neither of `prediction` and `user`"),
            (Outcome(metric="revenue", value=1, prediction="p", user="u"), "both of"),
            (Outcome(metric="label", value=1, user="ann"), "label came for a user"),
            (label(1, "p" * 300), "the id is 'ppp"),
            (label(1, "p\0"), "the id is"),
            (label(1, time=datetime(2099, 1, 1)), "which is to come"),
        ],
    )
    def test_what_is_no_outcome(self, store: Outcomes, outcome: Outcome, message: str) -> None:
        with pytest.raises(ExperimentError, match=message):
            store.record("flights", outcome, now=NOW)
        assert store.scopes() == []

    @pytest.mark.parametrize("scope", ["", "a b", "other/flights", "experiment/", "../x"])
    def test_what_is_no_scope(self, store: Outcomes, scope: str) -> None:
        with pytest.raises(UsageError, match="Refused name"):
            store.record(scope, label(1))


class TestOrder:
    @given(st.permutations([(1, "a"), (2, "b"), (3, "a"), (4, "c"), (4, "c"), (5, "a")]), st.integers(1, 5))
    @budget(max_examples=60)
    def test_the_value_of_the_latest_time_counts_in_any_order(self, came: list[tuple[int, str]], lot: int) -> None:
        known: dict[Any, Any] = {}
        for start in range(0, len(came), lot):
            rows = [
                row_of("flights", label(value, time=hour(number)), NOW, 1)
                for number, value in came[start : start + lot]
            ]
            settle(rows, known)
        (row,) = known.values()
        assert row["value"] == '"a"'
        assert key_of(row) == ("flights", "label", "prediction", "p1", "")


class TestFollowing:
    def test_it_reads_what_is_new_and_what_was_corrected(self, store: Outcomes) -> None:
        followed = Followed(store, "flights", "label", NOW)
        assert followed.table().num_rows == 0
        store.record("flights", label("a", "p1", hour(1)), now=NOW)
        assert followed.table()["value"].to_pylist() == ['"a"']
        store.record("flights", label("b", "p2", hour(1)), now=NOW)
        store.record("flights", label("c", "p1", hour(2)), now=NOW)
        assert sorted(followed.table()["value"].to_pylist()) == ['"b"', '"c"']

    @given(came=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.booleans()), max_size=30))
    @budget(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_it_always_has_what_a_fresh_look_has(self, store: Outcomes, came: list[tuple[int, int, bool]]) -> None:
        scope = f"f{len(store.scopes())}"
        store.record(scope, Outcome(metric="other", value=1, user="ann"))
        followed = Followed(store, scope, "label", NOW)
        for prediction, number, look in came:
            store.record(scope, label(number, f"p{prediction}", hour(number)), now=NOW)
            if look:
                followed.table()
        fresh, _ = store.fetch(scope, "label")
        assert followed.table().sort_by("subject").equals(fresh.sort_by("subject"))
