"""Intervals: do they hold the truth as often as they say, and do pairs see the same resamples?"""

import numpy as np
import pytest
from scipy import stats

from headway.components.errors import UsageError
from headway.components.evaluate.bootstrap import Bootstrap, bca, paired_intervals, with_intervals
from headway.components.evaluate.metrics import classified, metrics_for, regressed

QUICK = Bootstrap(resamples=300, seed=5)


def scored(truth, score):
    return classified("binary", truth, score > 0.5, np.column_stack([1 - score, score]), [False, True])


def draw(random, n, shift=1.0):
    """Scores whose true area under the curve is known: two normals, `shift` apart."""
    truth = random.random(n) < 0.4
    truth[:2] = [False, True]
    return truth, stats.norm.cdf(random.normal(size=n) + shift * truth - shift / 2)


class TestCoverage:
    """Of many intervals at 95 %, 90 to 98 % hold the true value."""

    def test_roc_auc(self):
        random, true = np.random.default_rng(0), stats.norm.cdf(1 / np.sqrt(2))
        held = 0
        for seed in range(200):
            found = with_intervals(scored(*draw(random, 250)), ["roc_auc"], Bootstrap(resamples=300, seed=seed))
            held += found["roc_auc"].low <= true <= found["roc_auc"].high
        assert 0.90 <= held / 200 <= 0.98

    def test_mean_absolute_error_of_skewed_errors(self):
        random = np.random.default_rng(1)
        held = 0
        for seed in range(200):
            errors = random.exponential(size=150)
            found = with_intervals(regressed(np.zeros(150), errors), ["mae"], Bootstrap(resamples=300, seed=seed))
            held += found["mae"].low <= 1.0 <= found["mae"].high
        assert 0.90 <= held / 200 <= 0.98

    def test_paired_difference(self):
        random = np.random.default_rng(2)
        # Independent errors of standard deviation 1 and 2: the mean absolute errors differ by sqrt(2 / pi).
        true, held = np.sqrt(2 / np.pi), 0
        for seed in range(200):
            better, worse = (regressed(np.zeros(150), random.normal(0, scale, 150)) for scale in (1, 2))
            found = paired_intervals(worse, better, ["mae"], Bootstrap(resamples=300, seed=seed)).difference["mae"]
            held += found.low <= true <= found.high
        assert 0.90 <= held / 200 <= 0.98


def test_bca_agrees_with_scipy():
    data = np.random.default_rng(0).exponential(size=60)
    found = with_intervals(regressed(np.zeros(60), data), ["mae"], Bootstrap(resamples=20_000))["mae"]
    theirs = stats.bootstrap(
        (data,), np.mean, n_resamples=20_000, method="BCa", random_state=np.random.default_rng(1)
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), rel=0.02)


def test_the_seed_decides_the_interval():
    sample = scored(*draw(np.random.default_rng(3), 300))
    first, again = (with_intervals(sample, ["roc_auc", "f1"], QUICK) for _ in range(2))
    assert first == again
    assert with_intervals(sample, ["roc_auc"], Bootstrap(resamples=300, seed=6))["roc_auc"].low != first["roc_auc"].low


def test_a_higher_level_is_a_wider_interval():
    sample = scored(*draw(np.random.default_rng(3), 300))
    narrow, wide = (
        with_intervals(sample, ["roc_auc"], Bootstrap(resamples=500, level=level))["roc_auc"] for level in (0.8, 0.99)
    )
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_every_interval_lies_around_its_value():
    random = np.random.default_rng(4)
    truth, score = draw(random, 400)
    classes = classified(
        "multiclass", truth * 1 + (score > 0.8), truth * 1, random.dirichlet([1, 1, 1], 400), [0, 1, 2]
    )
    for sample in (scored(truth, score), classes, regressed(score + 1, random.random(400))):
        for name, found in with_intervals(sample, metrics_for(sample.task), QUICK).items():
            if name == "max_error":
                assert found.low is None
                assert "extreme" in found.reason
            else:
                assert found.low < found.high, name
                assert found.low <= found.value <= found.high or name == "expected_calibration_error", name


def test_weights_move_value_and_interval():
    truth, score = draw(np.random.default_rng(5), 400)
    plain = scored(truth, score)
    weighted = classified(
        "binary", truth, score > 0.5, np.column_stack([1 - score, score]), [False, True], weight=np.where(truth, 5.0, 1)
    )
    low, high = (with_intervals(sample, ["accuracy"], QUICK)["accuracy"] for sample in (plain, weighted))
    assert high.value != low.value
    assert high.low < high.value < high.high


class TestPairs:
    def test_a_model_never_differs_from_itself(self):
        sample = scored(*draw(np.random.default_rng(6), 300))
        for found in paired_intervals(sample, sample, metrics_for("binary"), QUICK).difference.values():
            assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)

    def test_the_difference_is_narrower_than_the_values(self):
        random = np.random.default_rng(7)
        truth, score = draw(random, 600)
        close = np.clip(score + random.normal(0, 0.02, 600), 0, 1)
        found = paired_intervals(scored(truth, score), scored(truth, close), ["roc_auc"], QUICK)
        value, difference = found.candidate["roc_auc"], found.difference["roc_auc"]
        assert difference.high - difference.low < 0.3 * (value.high - value.low)

    def test_swapping_the_models_turns_the_sign(self):
        random = np.random.default_rng(8)
        truth, score = draw(random, 300)
        one, other = scored(truth, score), scored(truth, random.random(300))
        there, back = (
            paired_intervals(*pair, ["brier"], QUICK).difference["brier"] for pair in ((one, other), (other, one))
        )
        assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low), abs=2e-3)

    def test_the_values_are_those_of_each_model_alone(self):
        random = np.random.default_rng(9)
        truth, score = draw(random, 300)
        one, other = scored(truth, score), scored(truth, random.random(300))
        found = paired_intervals(one, other, ["roc_auc"], QUICK)
        assert found.candidate == with_intervals(one, ["roc_auc"], QUICK)
        assert found.champion == with_intervals(other, ["roc_auc"], QUICK)

    def test_a_metric_that_one_model_lacks_has_no_difference(self):
        truth, score = draw(np.random.default_rng(10), 100)
        labels_only = classified("binary", truth, score > 0.5, None, [False, True])
        found = paired_intervals(scored(truth, score), labels_only, ["roc_auc"], QUICK)
        assert found.candidate["roc_auc"].low is not None
        assert found.difference["roc_auc"].value is None
        assert found.difference["roc_auc"].reason == "champion: the model gives no probabilities"

    def test_other_rows_are_refused(self):
        with pytest.raises(UsageError, match="not of the same rows"):
            paired_intervals(regressed([1.0], [1.0]), regressed([2.0], [1.0]), ["mae"])


class TestManyRows:
    """Above `max_rows` a part of the rows is resampled; the interval is about that of all rows."""

    few = Bootstrap(resamples=1000, max_rows=2000)
    every = Bootstrap(resamples=1000)

    def test_values(self):
        sample = scored(*draw(np.random.default_rng(11), 8000))
        names = ["roc_auc", "brier", "f1"]
        part, whole = with_intervals(sample, names, self.few), with_intervals(sample, names, self.every)
        for name in names:
            assert part[name].value == whole[name].value
            assert part[name].low < part[name].value < part[name].high
            width = (part[name].high - part[name].low) / (whole[name].high - whole[name].low)
            assert width == pytest.approx(1, abs=0.2), name

    def test_differences(self):
        random = np.random.default_rng(12)
        truth, score = draw(random, 8000)
        one, other = scored(truth, score), scored(truth, np.clip(score + random.normal(0, 0.1, 8000), 0, 1))
        part, whole = (
            paired_intervals(one, other, ["brier"], how).difference["brier"] for how in (self.few, self.every)
        )
        assert part.value == whole.value
        assert (part.high - part.low) / (whole.high - whole.low) == pytest.approx(1, abs=0.2)

    def test_what_is_undefined_stays_so(self):
        sample = scored(np.zeros(3000, dtype=bool), np.linspace(0, 1, 3000))
        found = with_intervals(sample, ["roc_auc", "accuracy"], Bootstrap(resamples=100, max_rows=1000))
        assert found["roc_auc"].reason == "the target holds one class only"
        assert found["accuracy"].low is not None


class TestNoInterval:
    def test_undefined_in_many_resamples(self):
        truth = np.zeros(50, dtype=bool)
        truth[0] = True
        found = with_intervals(scored(truth, np.linspace(0, 0.9, 50)), ["roc_auc"], QUICK)["roc_auc"]
        assert found.value == 0.0
        assert found.low is None
        assert "of the resamples" in found.reason

    def test_undefined_on_the_data(self):
        found = with_intervals(scored(np.zeros(20, dtype=bool), np.linspace(0, 1, 20)), ["roc_auc"], QUICK)
        assert found["roc_auc"].value is None
        assert found["roc_auc"].reason == "the target holds one class only"

    def test_one_row(self):
        found = with_intervals(regressed([1.0], [3.0]), ["mae"], QUICK)["mae"]
        assert (found.value, found.low, found.high) == (2.0, 2.0, 2.0)


def test_all_resamples_alike_give_an_interval_without_width():
    assert bca(1.0, np.ones(100), np.ones(10), 0.95) == (1.0, 1.0)
