"""The decision table, row by row, and the document's three kinds of mistake."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.components.errors import (
    ConfigError,
    MetricDirectionError,
    MetricMissingError,
    MetricUndefinedError,
    UnknownNameError,
)
from headway.components.evaluate.gate import (
    ChampionResult,
    ChampionRule,
    Decision,
    EvaluationSpec,
    Threshold,
    Verdict,
    decide,
)
from headway.components.evaluate.metrics import Measurement
from headway.components.evaluate.slices import Slice, SliceResult

LOSSES = {"log_loss", "brier", "expected_calibration_error"}


def measured(value, low=None, high=None, reason=""):
    return Measurement(value=value, low=low, high=high, reason=reason)


def of_threshold(found, *, use="point", level="reject", name="roc_auc", **bound):
    spec = EvaluationSpec(thresholds=[Threshold(metric=name, level=level, **bound)], use=use)
    return decide(spec, {name: found}, rows=1000)


def of_champion(difference, *, level="reject", name="roc_auc", **margin):
    spec = EvaluationSpec(champion=ChampionRule(metric=name, level=level, **margin))
    champion = ChampionResult(version="3", differences={name: difference})
    return decide(spec, {name: measured(0.5)}, rows=1000, champion=champion)


class TestThreshold:
    @pytest.mark.parametrize(
        ("value", "low", "high", "use", "level", "decision", "code"),
        [
            # the whole interval below the minimum of 0.7
            (0.60, 0.58, 0.62, "point", "reject", "reject", "threshold_missed"),
            (0.60, 0.58, 0.62, "point", "hold", "hold", "threshold_missed"),
            (0.60, 0.58, 0.62, "interval", "reject", "reject", "threshold_missed"),
            # the value below, the interval reaches the minimum
            (0.69, 0.67, 0.71, "point", "reject", "hold", "threshold_uncertain"),
            (0.69, 0.67, 0.70, "point", "reject", "hold", "threshold_uncertain"),
            (0.69, 0.67, 0.71, "interval", "hold", "hold", "threshold_uncertain"),
            # the value above, the interval reaches below
            (0.71, 0.69, 0.73, "point", "reject", "promote", "threshold_met"),
            (0.71, 0.69, 0.73, "interval", "reject", "hold", "threshold_uncertain"),
            # exactly the minimum
            (0.70, 0.70, 0.72, "interval", "reject", "promote", "threshold_met"),
            # the whole interval above
            (0.80, 0.78, 0.82, "point", "reject", "promote", "threshold_met"),
            (0.80, 0.78, 0.82, "interval", "reject", "promote", "threshold_met"),
            # no interval
            (0.60, None, None, "point", "reject", "hold", "threshold_uncertain"),
            (0.80, None, None, "point", "reject", "promote", "threshold_met"),
            (0.80, None, None, "interval", "reject", "hold", "threshold_uncertain"),
        ],
    )
    def test_a_score_and_its_mirrored_loss(self, value, low, high, use, level, decision, code):
        found = of_threshold(measured(value, low, high), use=use, level=level, min=0.7)
        assert (found.decision, found.reasons[0].code) == (decision, code)
        mirrored = measured(1 - value, None if high is None else 1 - high, None if low is None else 1 - low)
        found = of_threshold(mirrored, use=use, level=level, name="brier", max=1 - 0.7)
        assert (found.decision, found.reasons[0].code) == (decision, code)

    def test_the_finding_in_words_and_numbers(self):
        (reason,) = of_threshold(measured(0.6, 0.58, 0.62), min=0.7).reasons
        assert reason.text == "roc_auc is 0.6 [0.58, 0.62], below the minimum 0.7"
        assert (reason.metric, reason.value, reason.threshold, reason.low, reason.high) == (
            "roc_auc",
            0.6,
            0.7,
            0.58,
            0.62,
        )
        assert of_threshold(measured(0.4, 0.3, 0.45), name="brier", max=0.2).reasons[0].text == (
            "brier is 0.4 [0.3, 0.45], above the maximum 0.2"
        )
        assert of_threshold(measured(0.8, 0.6, 0.9), use="interval", min=0.7).reasons[0].text == (
            "roc_auc is 0.8 [0.6, 0.9], at least 0.7, but the interval reaches beyond it"
        )
        without = of_threshold(measured(0.6, reason="undefined in 9% of the resamples"), min=0.7).reasons[0].text
        assert (
            without == "roc_auc is 0.6, below the minimum 0.7, but has no interval (undefined in 9% of the resamples)"
        )

    def test_an_extreme_stands_for_both_ends(self):
        assert of_threshold(measured(9.0), name="max_error", max=5).decision == "reject"
        assert of_threshold(measured(4.0), name="max_error", max=5, use="interval").decision == "promote"

    @pytest.mark.parametrize(("value", "decision"), [(0.0, "promote"), (3.0, "reject"), (-3.0, "reject")])
    def test_a_bias_has_two_bounds(self, value, decision):
        found = of_threshold(measured(value, value - 0.5, value + 0.5), name="bias", min=-1, max=1)
        assert found.decision == decision
        assert len(found.reasons) == 2

    def test_the_worst_of_several_decides_and_stands_first(self):
        spec = EvaluationSpec(
            thresholds=[
                Threshold(metric="accuracy", min=0.5),
                Threshold(metric="roc_auc", min=0.7),
                Threshold(metric="f1", min=0.9),
            ]
        )
        metrics = {"accuracy": measured(0.9, 0.8, 1), "roc_auc": measured(0.69, 0.6, 0.8), "f1": measured(0.1, 0, 0.2)}
        found = decide(spec, metrics, rows=10)
        assert found.decision is Decision.REJECT
        assert [reason.effect for reason in found.reasons] == ["reject", "hold", "promote"]
        assert found.headline == "Reject: f1 is 0.1 [0, 0.2], below the minimum 0.9"

    def test_no_rule_promotes_and_says_so(self):
        assert decide(EvaluationSpec(), {}, rows=10).headline == "Promote: no rule stood against it"


class TestChampion:
    @pytest.mark.parametrize(
        ("value", "low", "high", "margin", "level", "decision", "code"),
        [
            # may be 0.01 worse
            (0.02, 0.01, 0.03, {"max_regression": 0.01}, "reject", "promote", "champion_met"),
            (0.00, -0.005, 0.005, {"max_regression": 0.01}, "reject", "promote", "champion_met"),
            (0.00, -0.01, 0.01, {"max_regression": 0.01}, "reject", "promote", "champion_met"),
            (0.00, -0.02, 0.02, {"max_regression": 0.01}, "reject", "hold", "champion_uncertain"),
            (-0.02, -0.03, -0.01, {"max_regression": 0.01}, "reject", "hold", "champion_uncertain"),
            (-0.03, -0.04, -0.02, {"max_regression": 0.01}, "reject", "reject", "champion_worse"),
            (-0.03, -0.04, -0.02, {"max_regression": 0.01}, "hold", "hold", "champion_worse"),
            # must be 0.01 better
            (0.03, 0.02, 0.04, {"min_improvement": 0.01}, "reject", "promote", "champion_met"),
            (0.02, 0.00, 0.04, {"min_improvement": 0.01}, "reject", "hold", "champion_uncertain"),
            (0.00, -0.005, 0.005, {"min_improvement": 0.01}, "reject", "reject", "champion_worse"),
            # must not be worse at all
            (0.01, 0.00, 0.02, {"max_regression": 0.0}, "reject", "promote", "champion_met"),
            # no interval
            (0.01, None, None, {"max_regression": 0.5}, "reject", "hold", "champion_uncertain"),
        ],
    )
    def test_a_score_and_its_mirrored_loss(self, value, low, high, margin, level, decision, code):
        found = of_champion(measured(value, low, high), level=level, **margin)
        assert (found.decision, found.reasons[0].code) == (decision, code)
        mirrored = measured(-value, None if high is None else -high, None if low is None else -low)
        found = of_champion(mirrored, level=level, name="log_loss", **margin)
        assert (found.decision, found.reasons[0].code) == (decision, code)

    def test_the_finding_in_words(self):
        (reason,) = of_champion(measured(-0.03, -0.04, -0.02), max_regression=0.01).reasons
        assert reason.text == "roc_auc differs from champion 3 by -0.03 [-0.04, -0.02]; it must be at most 0.01 worse"
        assert reason.threshold == -0.01

    def test_undefined_difference_holds(self):
        found = of_champion(measured(None, reason="champion: the model gives no probabilities"), max_regression=0.1)
        assert found.decision == "hold"
        assert "the model gives no probabilities" in found.reasons[0].text

    @pytest.mark.parametrize(
        ("champion", "decision", "code", "text"),
        [
            (None, "promote", "no_champion", "there is no champion"),
            (ChampionResult(version="3", same=True), "promote", "champion_same", "is champion 3 itself"),
            (
                ChampionResult(version="3", problem="no 'x'"),
                "hold",
                "champion_not_comparable",
                "not be compared: no 'x'",
            ),
        ],
    )
    def test_nothing_to_compare(self, champion, decision, code, text):
        spec = EvaluationSpec(champion=ChampionRule(metric="roc_auc", max_regression=0.01))
        found = decide(spec, {"roc_auc": measured(0.7)}, rows=10, champion=champion)
        assert (found.decision, found.reasons[0].code) == (decision, code)
        assert text in found.reasons[0].text

    def test_without_a_rule_the_champion_does_not_count(self):
        champion = ChampionResult(version="3", differences={"roc_auc": measured(-0.3, -0.4, -0.2)})
        found = decide(EvaluationSpec(), {"roc_auc": measured(0.5)}, rows=10, champion=champion)
        assert found.decision == "promote"
        assert found.differences["roc_auc"].value == -0.3


class TestSlices:
    spec = EvaluationSpec(
        slices=[Slice(name="origin", column="origin")],
        thresholds=[Threshold(metric="roc_auc", min=0.7, slice="origin")],
    )

    def judged(self, **given):
        one = SliceResult(slice="origin", label="origin = JFK", **{"rows": 500, **given})
        return decide(self.spec, {"roc_auc": measured(0.9)}, rows=1000, slices=[one])

    @pytest.mark.parametrize(
        ("value", "low", "high", "decision"),
        [(0.8, 0.75, 0.85, "promote"), (0.69, 0.6, 0.75, "hold"), (0.5, 0.4, 0.6, "reject")],
    )
    def test_its_own_threshold(self, value, low, high, decision):
        found = self.judged(metrics={"roc_auc": measured(value, low, high)})
        assert found.decision == decision
        assert found.reasons[0].slice == "origin = JFK"
        assert "roc_auc on slice origin = JFK is" in found.reasons[0].text

    @pytest.mark.parametrize("rows", [0, 7])
    def test_too_small_holds_and_never_passes(self, rows):
        found = self.judged(rows=rows, unjudged=f"{rows} rows, fewer than 100")
        assert found.decision == "hold"
        assert found.reasons[0].code == "slice_too_small"
        assert found.reasons[0].text == f"slice origin = JFK is not judged: {rows} rows, fewer than 100"
        assert found.reasons[0].value == rows

    def test_too_small_and_only_noted(self):
        found = self.judged(rows=7, unjudged="7 rows", too_small="note")
        assert found.decision == "promote"
        assert found.reasons[0].code == "slice_too_small"
        assert found.headline == "Promote: no rule stood against it"

    def test_undefined_holds(self):
        found = self.judged(metrics={"roc_auc": measured(None, reason="the target holds one class only")})
        assert (found.decision, found.reasons[0].code) == ("hold", "slice_undefined")

    def test_a_threshold_for_all_rows_is_not_for_slices(self):
        spec = EvaluationSpec(slices=self.spec.slices, thresholds=[Threshold(metric="roc_auc", min=0.7)])
        one = SliceResult(slice="origin", label="origin = JFK", rows=500, metrics={"roc_auc": measured(0.1, 0, 0.2)})
        assert decide(spec, {"roc_auc": measured(0.9, 0.8, 1)}, rows=10, slices=[one]).decision == "promote"


class TestData:
    def test_too_few_rows(self):
        found = decide(EvaluationSpec(min_rows=1000), {}, rows=999)
        assert (found.decision, found.headline) == ("hold", "Hold: the validation data has 999 rows, fewer than 1,000")

    @pytest.mark.parametrize(("effect", "decision"), [("note", "promote"), ("hold", "hold"), ("reject", "reject")])
    def test_labels_that_the_model_never_saw(self, effect, decision):
        found = decide(EvaluationSpec(unseen_labels=effect), {}, rows=10, unseen={"new": 4})
        assert found.decision == decision
        assert found.reasons[0].text.endswith("counted as errors: new (4 rows)")


class TestThreeMistakes:
    """A metric that is missing, one that is undefined, and a bound on the wrong side are not one thing."""

    def test_missing_because_nothing_computes_it(self):
        spec = EvaluationSpec(metrics=["roc_auc", "f1"], thresholds=[Threshold(metric="recall", min=0.5)])
        with pytest.raises(
            MetricMissingError, match="threshold on 'recall' cannot be judged: nothing computes it"
        ) as caught:
            spec.check("binary")
        assert "add recall to `metrics`" in str(caught.value)

    def test_missing_because_of_a_typing_error(self):
        spec = EvaluationSpec(thresholds=[Threshold(metric="acuracy", min=0.5)])
        with pytest.raises(MetricMissingError, match="did you mean 'accuracy'"):
            spec.check("binary")

    def test_missing_because_of_the_task(self):
        spec = EvaluationSpec(champion=ChampionRule(metric="rmse", max_regression=1))
        with pytest.raises(MetricMissingError, match=r"champion rule on 'rmse' .* does not fit a binary model"):
            spec.check("binary")

    def test_missing_among_what_was_measured(self):
        with pytest.raises(MetricMissingError, match="nothing measured it"):
            decide(EvaluationSpec(thresholds=[Threshold(metric="f1", min=0.5)]), {"roc_auc": measured(0.9)}, rows=10)

    def test_undefined(self):
        spec = EvaluationSpec(thresholds=[Threshold(metric="roc_auc", min=0.5)])
        undefined = {"roc_auc": measured(None, reason="the target holds one class only")}
        with pytest.raises(MetricUndefinedError, match="roc_auc is undefined, the target holds one class only"):
            decide(spec, undefined, rows=10)

    @pytest.mark.parametrize(("name", "bound"), [("log_loss", "min"), ("roc_auc", "max"), ("f1", "max")])
    def test_wrong_side(self, name, bound):
        spec = EvaluationSpec(thresholds=[Threshold(metric=name, **{bound: 0.5})])
        right = "max" if bound == "min" else "min"
        with pytest.raises(MetricDirectionError, match=f"has a `{bound}`") as caught:
            spec.check("binary")
        assert f"{{metric: {name}, {right}: 0.5}}" in str(caught.value)

    def test_a_bias_is_no_contest(self):
        spec = EvaluationSpec(champion=ChampionRule(metric="bias", max_regression=1))
        with pytest.raises(MetricDirectionError, match="best at 0 from both sides"):
            spec.check("regression")


class TestDocument:
    def test_reads_what_the_documentation_shows(self):
        spec = EvaluationSpec.parse(
            """
            primary: roc_auc
            thresholds:
              - {metric: roc_auc, min: 0.70}
              - {metric: expected_calibration_error, max: 0.05, level: hold}
              - {metric: roc_auc, min: 0.65, slice: origin, level: hold}
            slices:
              - {name: origin, column: origin}
              - {name: night, where: "hour < 6", min_rows: 200}
            champion: {metric: roc_auc, max_regression: 0.005}
            """
        )
        spec.check("binary")
        assert EvaluationSpec.parse(spec.dump()) == spec
        assert spec.slice_metrics("binary") == ["roc_auc"]

    def test_the_primary_metric_comes_first_and_is_always_computed(self):
        spec = EvaluationSpec(primary="f1", metrics=["accuracy", "f1", "recall"])
        assert spec.metrics_for("binary") == ["f1", "accuracy", "recall"]
        assert EvaluationSpec().metrics_for("regression")[0] == "rmse"

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"thresholds": [{"metric": "f1"}]}, "the threshold on 'f1' needs `min` or `max`"),
            ({"thresholds": [{"metric": "bias", "min": 1, "max": -1}]}, "min 1.0 above max -1.0"),
            ({"thresholds": [{"metric": "f1", "mim": 1}]}, "did you mean 'min'"),
            ({"champion": {"metric": "f1"}}, "either `min_improvement` or `max_regression`"),
            ({"champion": {"metric": "f1", "max_regression": -1}}, "greater than or equal to 0"),
            ({"bootstrap": {"resamples": 5}}, "greater than or equal to 100"),
            ({"thresholds": [{"metric": "f1", "min": float("nan")}]}, "finite number"),
        ],
    )
    def test_what_is_refused(self, given, message):
        with pytest.raises(ConfigError, match=message):
            EvaluationSpec.parse(given)

    def test_a_listed_metric_that_does_not_exist(self):
        with pytest.raises(UnknownNameError, match="did you mean 'roc_auc'"):
            EvaluationSpec(metrics=["roc_aucc"]).check("binary")

    def test_a_listed_metric_of_another_task(self):
        with pytest.raises(ConfigError, match="Metric 'rmse' does not fit a binary model"):
            EvaluationSpec(metrics=["rmse"]).check("binary")

    def test_a_threshold_on_a_slice_that_is_not_declared(self):
        spec = EvaluationSpec(
            slices=[Slice(name="origin", column="o")], thresholds=[Threshold(metric="f1", min=0, slice="orign")]
        )
        with pytest.raises(UnknownNameError, match="Unknown slice 'orign' - did you mean 'origin'"):
            spec.check("binary")

    def test_a_verdict_survives_its_file(self, tmp_path):
        verdict = of_threshold(measured(0.6, 0.58, 0.62), min=0.7)
        path = tmp_path / "verdict.json"
        path.write_text(verdict.model_dump_json(indent=2), encoding="utf-8")
        assert Verdict.load(path) == verdict


def intervals():
    ends = st.floats(0, 1)
    return st.tuples(ends, ends, ends).map(sorted)


@given(
    st.lists(
        st.tuples(st.sampled_from(["roc_auc", "f1", "log_loss", "brier"]), intervals(), st.floats(0, 1)), max_size=4
    ),
    st.floats(0, 0.5),
    st.sampled_from(["point", "interval"]),
    st.sampled_from(["reject", "hold"]),
    st.floats(-0.2, 0.2),
    intervals(),
)
def test_better_metrics_never_worsen_the_decision(rules, gain, use, level, margin, difference):
    """Moving every value and interval towards better, by one step, keeps the decision or improves it."""
    bounds = [(name, {"max" if name in LOSSES else "min": bound}) for name, _, bound in rules]
    allowed = {"min_improvement": margin} if margin > 0 else {"max_regression": -margin}
    spec = EvaluationSpec(
        use=use,
        thresholds=[Threshold(metric=name, level=level, **bound) for name, bound in bounds],
        champion=ChampionRule(metric="roc_auc", level=level, **allowed),
    )

    def judged(step):
        metrics = {"roc_auc": measured(0.5, 0.5, 0.5)}
        for name, (low, value, high), _ in rules:
            by = -step if name in LOSSES else step
            metrics[name] = measured(value + by, low + by, high + by)
        low, value, high = (end - 0.5 + step for end in difference)
        champion = ChampionResult(version="1", differences={"roc_auc": measured(value, low, high)})
        return decide(spec, metrics, rows=100, champion=champion).decision.severity

    assert judged(gain) <= judged(0.0)


@given(intervals(), st.floats(0, 1), st.floats(0, 1))
def test_a_narrower_interval_moves_away_from_hold_only(interval, share, bound):
    """More data may turn a hold into a decision, and never a decision into its opposite."""
    low, value, high = interval
    narrow = measured(value, value - share * (value - low), value + share * (high - value))
    before, after = (
        of_threshold(found, use="interval", min=bound).decision for found in (measured(value, low, high), narrow)
    )
    assert before in (after, Decision.HOLD)
