"""The ship decision: its two error probabilities by simulation, its sample sizes, and its sums."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.components.errors import ConfigError
from headway.serving.release.plan import DecisionRule
from headway.serving.release.sprt import SequentialTest, higher_is_better, information, mean, variance
from headway.serving.release.verdict import Sums

PATHS = 2_000


def rule(**changes):
    return DecisionRule.parse({"metric": "accuracy", "minimum_effect": 0.02, **changes})


def shipped(test, draw_old, draw_new, *, part=1, looks=400, step=40, least=100):
    """The share of simulated releases that ship, the share that are held back, and outcomes of both on average.

    Args:
        test: The test.
        draw_old: Draws sums and sums of squares of so many outcomes of the stable variant.
        draw_new: The newcomer's.
        part: Outcomes of the stable variant for each of the newcomer's.
        looks: How many at most.
        step: The newcomer's outcomes between two looks.
        least: Outcomes of each before it decides.
    """
    rng = np.random.default_rng(1)
    totals = np.arange(1, looks + 1) * np.array([[step * part], [step]])
    means, variances = [], []
    for draw, n in ((draw_old, totals[0]), (draw_new, totals[1])):
        total, squares = (values.cumsum(axis=1) for values in draw(rng, (PATHS, looks), n[0]))
        means.append(total / n)
        variances.append((squares - total**2 / n) / np.maximum(n - 1, 1))
    spread = np.maximum(*variances) * (1 / totals[0] + 1 / totals[1])
    ratio = test.log_ratio(means[1] - means[0], 1 / np.maximum(spread, 1e-12))
    decided = ((ratio >= test.upper) | (ratio <= test.lower)) & (totals.min(axis=0) >= least)
    first = decided.argmax(axis=1)
    last = np.take_along_axis(ratio, first[:, None], axis=1)[:, 0]
    ended = decided.any(axis=1)
    return (ended & (last > 0)).mean(), (ended & (last < 0)).mean(), (first + 1).mean() * step * (1 + part)


def binary(share):
    """Outcomes 0 or 1."""

    def draw(rng, shape, size):
        total = rng.binomial(size, share, shape)
        return total, total

    return draw


def minus_squared_errors(middle):
    """Squared errors, of a chi-squared distribution of this mean; lower is better."""

    def draw(rng, shape, size):
        values = -middle * rng.standard_normal((*shape, size), dtype=np.float32) ** 2
        return values.sum(axis=2), (values**2).sum(axis=2)

    return draw


SLACK = 3 * (0.2 * 0.8 / PATHS) ** 0.5


@pytest.mark.parametrize("part", [1, 3])
class TestErrorProbabilities:
    def test_no_worse(self, part):
        test = SequentialTest.of(rule(minimum_effect=0.03))
        ships, held, _ = shipped(test, binary(0.85), binary(0.85), part=part)
        assert held <= 0.05 + SLACK / 2
        assert ships + held > 0.99
        _, held, _ = shipped(test, binary(0.85), binary(0.82), part=part)
        assert held >= 0.8 - SLACK

    def test_better(self, part):
        test = SequentialTest.of(rule(minimum_effect=0.03, goal="better"))
        ships, _, _ = shipped(test, binary(0.1), binary(0.13), part=part)
        assert ships >= 0.8 - SLACK
        ships, _, _ = shipped(test, binary(0.1), binary(0.1), part=part)
        assert ships <= 0.05 + SLACK / 2

    def test_skewed_outcomes(self, part):
        as_good, worse = minus_squared_errors(1.0), minus_squared_errors(1.15)
        better = SequentialTest.of(rule(metric="squared_error", minimum_effect=0.15, goal="better"))
        ships, _, _ = shipped(better, worse, as_good, part=part, looks=120)
        assert ships >= 0.8 - SLACK
        ships, _, _ = shipped(better, as_good, as_good, part=part, looks=120)
        assert ships <= 0.05 + SLACK / 2
        no_worse = SequentialTest.of(rule(metric="squared_error", minimum_effect=0.15))
        _, held, _ = shipped(no_worse, as_good, worse, part=part, looks=120)
        assert held >= 0.8 - SLACK
        _, held, _ = shipped(no_worse, as_good, as_good, part=part, looks=120)
        assert held <= 0.05 + SLACK / 2


@pytest.mark.parametrize("difference", [-0.05, -0.025, 0.0])
def test_outcomes_needed_are_as_wald_says(difference):
    test = SequentialTest.of(rule(minimum_effect=0.05))
    shape_old, shape_new = binary(0.5), binary(0.5 + difference)
    ships, _, outcomes = shipped(test, shape_old, shape_new, looks=1_500, step=4, least=20)
    price = 0.25 * 4
    assert outcomes == pytest.approx(test.expected_information(difference) * price, rel=0.12)
    assert ships == pytest.approx(test.ships(difference), abs=0.05)


def test_it_needs_fewer_than_one_look_at_the_end():
    test = SequentialTest.of(rule())
    assert max(test.expected_information(d) for d in (test.null, 0.0)) < 0.65 * test.fixed_information


@given(
    st.floats(1e-4, 10), st.floats(0.001, 0.2), st.floats(0.55, 0.99), st.floats(-3, 3), st.sampled_from([-1.0, 0.0])
)
def test_the_chance_to_ship_rises_with_the_difference(effect, alpha, power, place, null):
    test = SequentialTest(null * effect, effect, alpha, power)
    difference = test.null + place * effect
    assert 0 <= test.ships(difference) <= test.ships(difference + 0.1 * effect) <= 1 + 1e-12
    assert test.ships(test.null) == pytest.approx(alpha)
    assert test.ships(test.null + effect) == pytest.approx(power)
    assert 0 < test.expected_information(difference) < np.inf
    assert test.log_ratio(test.difference_at(test.upper, 50.0), 50.0) == pytest.approx(test.upper)


@given(st.lists(st.floats(-1e3, 1e3, allow_nan=False), min_size=2, max_size=40))
def test_mean_and_variance_of_sums_are_those_of_the_values(values):
    sums = Sums(n=len(values), total=sum(values), total_of_squares=sum(value**2 for value in values))
    assert mean(sums) == pytest.approx(np.mean(values), abs=1e-6)
    if set(values) - {0.0, 1.0}:
        assert variance(sums) == pytest.approx(np.var(values, ddof=1), rel=1e-6, abs=1e-6)


def test_a_hundred_successes_leave_room_for_failures():
    all_good = Sums(n=100, total=100, total_of_squares=100)
    assert information(all_good, all_good) == pytest.approx(1 / (2 * 0.0097 / 100), rel=0.01)
    constant = Sums(n=100, total=300, total_of_squares=900)
    assert information(constant, constant) == np.inf


def test_the_good_direction_must_be_known():
    assert higher_is_better(rule()) is True
    assert higher_is_better(rule(metric="log_loss")) is False
    assert higher_is_better(rule(metric="converted", higher_is_better=True)) is True
    with pytest.raises(ConfigError, match="higher_is_better is missing for 'converted'"):
        higher_is_better(rule(metric="converted"))
