"""Outcomes find the variant that caused them, and each metric is what its textbook says."""

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.components.bundle import SKOPS_MODEL
from headway.components.errors import MeasurementError
from headway.components.model import open_skops
from headway.components.settings import Settings
from headway.serving import payloads
from headway.serving.experiment.losses import LOG_LOSS_CLIP, same
from headway.serving.experiment.outcome import Outcome
from headway.serving.experiment.outcome_store import Outcomes
from headway.serving.experiment.outcomes import decision_sums, disagreement
from headway.serving.release.verdict import Sums
from headway.serving.server.payload_log import PayloadLog
from headway.serving.server.payload_table import PayloadTable, Source
from headway.serving.server.scoring import Scorer

Log = Callable[..., None]


@pytest.fixture
def store(settings: Settings) -> Outcomes:
    return Outcomes(settings)


def binary(number: int, p: float, **more: Any) -> dict[str, Any]:
    return {
        "id": f"r{number}",
        "prediction": "true" if p > 0.5 else "false",
        "score": p,
        "probability": p,
        **more,
    }


def of_label(value: Any, prediction: str) -> Outcome:
    return Outcome(metric="label", value=value, prediction=prediction)


class TestLabels:
    def sums(self, settings: Settings, metric: str, clock: Any, **more: Any) -> dict[str, Sums]:
        since = clock() - timedelta(hours=1)
        return decision_sums(settings, "flights", metric, variants=["v1", "v2"], since=since, **more)

    def test_against_the_textbook(self, settings: Settings, store: Outcomes, log: Log, clock: Any) -> None:
        from sklearn.metrics import accuracy_score, brier_score_loss, log_loss

        rng = np.random.default_rng(0)
        scores = rng.uniform(0.001, 0.999, 500)
        truth = rng.random(500) < scores
        log([binary(number, float(p)) for number, p in enumerate(scores)])
        store.record_many("flights", (of_label(bool(y), f"r{n}") for n, y in enumerate(truth)), now=clock())
        for metric, expected in (
            ("accuracy", accuracy_score(truth, scores > 0.5)),
            ("log_loss", log_loss(truth, scores)),
            ("brier", brier_score_loss(truth, scores)),
        ):
            found = self.sums(settings, metric, clock)["v1"]
            assert found.n == 500
            assert found.total / found.n == pytest.approx(expected, rel=1e-12)
            assert found.total_of_squares >= found.total**2 / found.n

    def test_values_of_a_regression(self, settings: Settings, store: Outcomes, log: Log, clock: Any) -> None:
        log([{"id": f"r{n}", "prediction": str(float(n)), "score": float(n)} for n in range(3)])
        store.record_many("flights", [of_label(n + 2, f"r{n}") for n in range(3)], now=clock())
        assert self.sums(settings, "absolute_error", clock)["v1"] == Sums(n=3, total=6, total_of_squares=12)
        assert self.sums(settings, "squared_error", clock)["v1"] == Sums(n=3, total=12, total_of_squares=48)

    def test_a_sure_mistake_costs_a_lot_and_not_everything(
        self, settings: Settings, store: Outcomes, log: Log, clock: Any
    ) -> None:
        log([binary(1, 1.0)])
        store.record("flights", of_label(False, "r1"), now=clock())
        assert self.sums(settings, "log_loss", clock)["v1"].total == pytest.approx(-math.log(LOG_LOSS_CLIP))

    def test_labels_that_come_days_later_and_are_corrected(
        self, settings: Settings, store: Outcomes, log: Log, clock: Any
    ) -> None:
        since = clock()
        log([binary(1, 0.9), binary(2, 0.9, endpoint="v2")])

        def sums() -> dict[str, Sums]:
            return decision_sums(settings, "flights", "accuracy", variants=["v1", "v2"], since=since)

        assert sums() == {"v1": Sums(), "v2": Sums()}
        clock.forward(days=3)
        store.record_many("flights", [of_label(True, "r1"), of_label(True, "r2")], now=clock())
        assert sums()["v1"] == sums()["v2"] == Sums(n=1, total=1, total_of_squares=1)
        clock.forward(days=1)
        store.record("flights", Outcome(metric="label", value=False, prediction="r1", time=clock()), now=clock())
        assert sums()["v1"] == Sums(n=1, total=0, total_of_squares=0)

    def test_a_label_before_its_row_is_written_waits(
        self, settings: Settings, store: Outcomes, log: Log, clock: Any
    ) -> None:
        store.record("flights", of_label(True, "r1"), now=clock())
        assert self.sums(settings, "accuracy", clock)["v1"].n == 0
        log([binary(1, 0.9)])
        assert self.sums(settings, "accuracy", clock)["v1"].n == 1

    def test_predictions_before_the_stage_do_not_count(
        self, settings: Settings, store: Outcomes, log: Log, clock: Any
    ) -> None:
        log([binary(1, 0.9)])
        clock.forward(hours=2)
        log([binary(2, 0.9)])
        store.record_many("flights", [of_label(True, "r1"), of_label(True, "r2")], now=clock())
        assert self.sums(settings, "accuracy", clock)["v1"].n == 1

    def test_a_retried_request_counts_once(self, settings: Settings, store: Outcomes, log: Log, clock: Any) -> None:
        log([binary(1, 0.9), binary(1, 0.2, time=clock() + timedelta(seconds=1))])
        store.record("flights", of_label(True, "r1"), now=clock())
        assert self.sums(settings, "accuracy", clock)["v1"] == Sums(n=1, total=1, total_of_squares=1)

    def test_a_refused_request_has_no_prediction(
        self, settings: Settings, store: Outcomes, log: Log, clock: Any
    ) -> None:
        log([{"id": "r1", "code": 400}])
        store.record("flights", of_label(True, "r1"), now=clock())
        assert self.sums(settings, "accuracy", clock)["v1"].n == 0

    def test_copied_requests_are_judged_by_the_same_label(
        self, settings: Settings, store: Outcomes, log: Log, clock: Any
    ) -> None:
        log([binary(1, 0.9), binary(1, 0.1, endpoint="v2", mirrored=True)])
        store.record("flights", of_label(True, "r1"), now=clock())
        assert self.sums(settings, "accuracy", clock) == {
            "v1": Sums(n=1, total=1, total_of_squares=1),
            "v2": Sums(n=1, total=0, total_of_squares=0),
        }

    def test_a_user_is_one_observation_of_what_was_assigned(
        self, settings: Settings, store: Outcomes, log: Log, clock: Any
    ) -> None:
        log([binary(n, 0.9, user="ann") for n in range(4)] + [binary(4, 0.9, user="bob"), binary(5, 0.9)])
        store.record_many("flights", [of_label(n != 0, f"r{n}") for n in range(6)], now=clock())
        by_user = self.sums(settings, "accuracy", clock)["v1"]
        assert by_user == Sums(n=3, total=2.75, total_of_squares=2.5625)
        assert self.sums(settings, "accuracy", clock, assigned="request")["v1"].n == 6

    def test_a_metric_that_does_not_fit_is_an_error_never_a_number(
        self, settings: Settings, store: Outcomes, log: Log, clock: Any
    ) -> None:
        log([{"id": "r1", "prediction": '"UA"', "score": 2.0, "probability": 0.7}])
        store.record("flights", of_label("AA", "r1"), now=clock())
        assert self.sums(settings, "accuracy", clock)["v1"].n == 1
        with pytest.raises(MeasurementError, match="log_loss cannot be computed: 1 predictions of 'v1' come from a mo"):
            self.sums(settings, "log_loss", clock)
        with pytest.raises(MeasurementError, match="a label that is no number"):
            self.sums(settings, "absolute_error", clock)


class TestServer:
    """What the model server writes is what is read here."""

    def test_a_binary_model(
        self, settings: Settings, store: Outcomes, make_bundle: Callable[..., Path], clock: Any
    ) -> None:
        from sklearn.metrics import accuracy_score, brier_score_loss, log_loss

        predictor = open_skops(make_bundle() / SKOPS_MODEL)
        features = {"distance": [float(n * 50) for n in range(90)], "carrier": ["AA", "B6", "UA"] * 30}
        scorer = Scorer(SimpleNamespace(info=predictor.info, predictor=predictor))  # type: ignore[arg-type]
        source = Source(endpoint="flights", namespace="", variant="v1", version=1, digest="d")
        since = datetime.now(UTC)
        table = PayloadTable(source, list(features))
        log = PayloadLog(payloads.folder(settings) / "flights" / "v1", table, most=1_000)
        scored = scorer.score(*predictor.features.arrays(features))
        answered = {"user": None, "mirrored": False, "code": 200, "seconds": 0.001, "scored": scored}
        log.put(table.entry(id="batch", kept=features, **answered))  # type: ignore[arg-type]
        log.close(10)
        truth = np.arange(90) % 4 > 1
        store.record_many("flights", (of_label(bool(y), f"batch-{n}") for n, y in enumerate(truth)))
        assert scored.probability is not None
        for metric, expected in (
            ("accuracy", accuracy_score(truth, scored.labels)),
            ("log_loss", log_loss(truth, scored.probability)),
            ("brier", brier_score_loss(truth, scored.probability)),
        ):
            found = decision_sums(settings, "flights", metric, variants=["v1"], since=since)["v1"]
            assert (found.n, found.total / found.n) == (90, pytest.approx(expected))


class TestRecordedOutcomes:
    def sums(self, settings: Settings, clock: Any, **more: Any) -> dict[str, Sums]:
        since = clock() - timedelta(hours=1)
        return decision_sums(settings, "flights", "revenue", variants=["v1", "v2"], since=since, **more)

    def test_of_predictions(self, settings: Settings, store: Outcomes, log: Log, clock: Any) -> None:
        log([binary(1, 0.9), binary(2, 0.9, endpoint="v2"), binary(1, 0.9, endpoint="v2", mirrored=True)])
        outcomes = [
            Outcome(metric="revenue", value=2, prediction="r1", event="a"),
            Outcome(metric="revenue", value=3, prediction="r1", event="b"),
            Outcome(metric="revenue", value=7, prediction="r2"),
            Outcome(metric="revenue", value=9, prediction="unknown"),
        ]
        store.record_many("flights", outcomes, now=clock())
        assert self.sums(settings, clock) == {
            "v1": Sums(n=1, total=5, total_of_squares=25),
            "v2": Sums(n=1, total=7, total_of_squares=49),
        }

    def test_of_users_by_what_they_saw_first(self, settings: Settings, store: Outcomes, log: Log, clock: Any) -> None:
        log([binary(1, 0.9, user="ann")])
        clock.forward(minutes=1)
        log([binary(2, 0.9, user="ann", endpoint="v2"), binary(3, 0.9, user="bob", endpoint="v2")])
        outcomes = [
            Outcome(metric="revenue", value=2, user="ann"),
            Outcome(metric="revenue", value=4, user="bob"),
            Outcome(metric="revenue", value=5, user="bob", event="before", time=clock() - timedelta(minutes=1)),
            Outcome(metric="revenue", value=9, user="eve"),
        ]
        store.record_many("flights", outcomes, now=clock())
        assert self.sums(settings, clock) == {
            "v1": Sums(n=1, total=2, total_of_squares=4),
            "v2": Sums(n=1, total=4, total_of_squares=16),
        }

    def test_variants_that_nobody_asked_for_are_left_out(
        self, settings: Settings, store: Outcomes, log: Log, clock: Any
    ) -> None:
        log([binary(1, 0.9, endpoint="v9")])
        store.record("flights", Outcome(metric="revenue", value=2, prediction="r1"), now=clock())
        assert self.sums(settings, clock) == {"v1": Sums(), "v2": Sums()}


class TestDisagreement:
    def found(self, settings: Settings, clock: Any, tolerance: float = 0.1) -> Sums:
        since = clock() - timedelta(hours=1)
        return disagreement(settings, "flights", stable="v1", canary="v2", since=since, tolerance=tolerance)

    def test_no_log(self, settings: Settings, clock: Any) -> None:
        assert self.found(settings, clock) == Sums()

    def test_classes(self, settings: Settings, log: Log, clock: Any) -> None:
        live, copies = ['"AA"', '"AA"', "1", "true", '"AA"'], ['"AA"', '"B6"', "1.0", "false", None]
        log([{"id": f"r{n}", "prediction": text, "probability": 0.9} for n, text in enumerate(live)])
        log(
            [
                {"id": f"r{n}", "prediction": text, "probability": 0.8, "endpoint": "v2", "mirrored": True}
                for n, text in enumerate(copies)
            ]
        )
        assert self.found(settings, clock) == Sums(n=4, total=2, total_of_squares=2)

    def test_values_within_a_tolerance(self, settings: Settings, log: Log, clock: Any) -> None:
        pairs = [(100.0, 109.0), (100.0, 115.0), (0.0, 0.0), (0.0, 1e-9), (-50.0, 50.0), (-10.0, -10.5)]
        for place, variant in enumerate(("v1", "v2")):
            rows = [
                {
                    "id": f"r{n}",
                    "prediction": str(pair[place]),
                    "score": pair[place],
                    "endpoint": variant,
                    "mirrored": variant == "v2",
                }
                for n, pair in enumerate(pairs)
            ]
            log(rows)
        assert self.found(settings, clock).total == 3
        assert self.found(settings, clock, tolerance=0.2).total == 2

    def test_live_traffic_of_the_newcomer_is_no_copy(self, settings: Settings, log: Log, clock: Any) -> None:
        log([binary(1, 0.9), binary(1, 0.1, endpoint="v2")])
        assert self.found(settings, clock) == Sums()


class TestSameClass:
    @pytest.mark.parametrize(
        ("left", "right", "equal"),
        [
            ('"AA"', '"AA"', True),
            ('"AA"', '"aa"', False),
            ("1", "1.0", True),
            ("true", "1", True),
            ("false", "0", True),
            ("true", "false", False),
            ('"1"', "1", True),
            ('"007"', "7", False),
            ('"true"', "true", True),
            ("1e2", "100", True),
            ('"a\\"b"', '"a\\"b"', True),
        ],
    )
    def test_pairs(self, left: str, right: str, equal: bool) -> None:
        assert self.equal(left, right) is equal
        assert self.equal(right, left) is equal

    @given(st.one_of(st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False)))
    def test_a_value_is_itself(self, value: Any) -> None:
        import json

        assert self.equal(json.dumps(value), json.dumps(value))

    @given(st.text(max_size=20).filter(lambda text: "\0" not in text))
    def test_a_text_is_itself(self, text: str) -> None:
        import json

        assert self.equal(json.dumps(text, ensure_ascii=False), json.dumps(text, ensure_ascii=False))

    def equal(self, left: str, right: str) -> bool:
        import duckdb

        (found,) = duckdb.execute(f"SELECT {same('a', 'b')} FROM (SELECT ? AS a, ? AS b)", [left, right]).fetchone()
        return bool(found)
