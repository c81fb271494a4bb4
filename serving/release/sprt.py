"""The ship decision: Wald's sequential probability ratio test on the difference of two means.

    goal       where nothing differs            at the minimum effect
    no_worse   held back with chance alpha      (worse) held back with chance power
    better     shipped with chance alpha        (better) shipped with chance power

The difference of two means behaves like Brownian motion in information time, I = 1 / variance of the difference,
whatever the outcomes' distribution, with unequal sample sizes and variances (Jennison and Turnbull, "Group-sequential
analysis incorporating covariate information", 1997); the variances come from the data (Cox, "Large sample sequential
tests for composite hypotheses", 1963). So the log-likelihood ratio of the two hypotheses is known from the sums alone,
and the test is Wald's ("Sequential tests of statistical hypotheses", 1945): decide as soon as it leaves the thresholds.

Of all tests with these two error probabilities it needs the fewest outcomes on average (Wald and Wolfowitz, 1948). Its
probabilities hold approximately, not exactly like those of the guards: hence a minimum of outcomes.
"""

from dataclasses import dataclass
from math import exp, expm1, inf, log

from headway.components.errors import ConfigError
from headway.serving.release.plan import DecisionRule
from headway.serving.release.verdict import Sums

HIGHER_IS_BETTER = {
    "accuracy": True,
    "log_loss": False,
    "brier": False,
    "absolute_error": False,
    "squared_error": False,
}
"""The metrics that follow from labels, and their good direction."""


def higher_is_better(rule: DecisionRule) -> bool:
    """Which direction of the decision's metric is good.

    Raises:
        ConfigError: It is an outcome of one's own, and the rule does not say.
    """
    if rule.higher_is_better is not None:
        return rule.higher_is_better
    if rule.metric not in HIGHER_IS_BETTER:
        raise ConfigError(
            f"decision.higher_is_better is missing for {rule.metric!r}",
            expected=f"true or false for a metric that is none of {', '.join(HIGHER_IS_BETTER)}",
        )
    return HIGHER_IS_BETTER[rule.metric]


def mean(sums: Sums) -> float:
    """The mean of some outcomes, of which there is at least one."""
    return sums.total / sums.n


def variance(sums: Sums) -> float:
    """The variance of one outcome, of which there are at least two.

    Outcomes that are all 0 or 1 get one more of each kind (Agresti and Coull, 1998): a hundred successes in a row do
    not prove that there are no failures.

    Example:
        >>> variance(Sums(n=4, total=10.0, total_of_squares=30.0))
        1.6666666666666667
        >>> round(variance(Sums(n=100, total=100.0, total_of_squares=100.0)), 4)
        0.0097
    """
    if sums.total == sums.total_of_squares and 0 <= sums.total <= sums.n:
        share = (sums.total + 1) / (sums.n + 2)
        return share * (1 - share)
    return max(0.0, (sums.total_of_squares - sums.total**2 / sums.n) / (sums.n - 1))


def information(stable: Sums, canary: Sums) -> float:
    """One over the variance of the difference of the two means; infinite where the outcomes do not vary.

    The larger of the two variances counts for both. Where outcomes are skewed, as losses are, the smaller variant's
    mean and variance are too low together: with its own variance, a test at 5 % would be wrong in 7 of 100 releases.
    """
    spread = max(variance(stable), variance(canary)) * (1 / stable.n + 1 / canary.n)
    return 1 / spread if spread > 0 else inf


@dataclass(frozen=True)
class SequentialTest:
    """Wald's test in information time, of differences that are better when higher.

    Attributes:
        null: The difference at which the newcomer is to be held back.
        effect: How far above it the difference lies at which it is to ship.
        alpha: Chance to ship at `null`.
        power: Chance to ship at `null + effect`.
    """

    null: float
    effect: float
    alpha: float
    power: float

    @classmethod
    def of(cls, rule: DecisionRule, comparisons: int = 1) -> "SequentialTest":
        """The test that a decision rule asks for, with its alpha over a number of newcomers."""
        alpha = rule.alpha / comparisons
        if rule.goal == "no_worse":
            # Here the error that `alpha` bounds is to hold back a newcomer that is as good.
            return cls(-rule.minimum_effect, rule.minimum_effect, 1 - rule.power, 1 - alpha)
        return cls(0.0, rule.minimum_effect, alpha, rule.power)

    @property
    def upper(self) -> float:
        """Log-likelihood ratio from which on it ships.

        Example:
            >>> round(SequentialTest(null=0, effect=1, alpha=0.05, power=0.8).upper, 3)
            2.773
        """
        return log(self.power / self.alpha)

    @property
    def lower(self) -> float:
        """Log-likelihood ratio down to which it is held back."""
        return log((1 - self.power) / (1 - self.alpha))

    def log_ratio(self, difference: float, information: float) -> float:
        """How much likelier the measured difference is at `null + effect` than at `null`, as a logarithm.

        Example:
            >>> round(SequentialTest(null=0, effect=0.01, alpha=0.05, power=0.8).log_ratio(0.01, 60_000), 3)
            3.0
        """
        return information * self.effect * (difference - self.null - self.effect / 2)

    def difference_at(self, log_ratio: float, information: float) -> float:
        """The measured difference that has a log-likelihood ratio: where a threshold lies now."""
        return log_ratio / (information * self.effect) + self.null + self.effect / 2

    def ships(self, difference: float) -> float:
        """Chance that it ships when this is the true difference.

        Example:
            >>> test = SequentialTest(null=-0.01, effect=0.01, alpha=0.05, power=0.8)
            >>> [round(test.ships(difference), 3) for difference in (-0.01, -0.005, 0.0)]
            [0.05, 0.36, 0.8]
        """
        tilt = 1 - 2 * (difference - self.null) / self.effect
        if abs(tilt) < 1e-9:
            return -self.lower / (self.upper - self.lower)
        return -expm1(tilt * self.lower) / (exp(tilt * self.upper) - exp(tilt * self.lower))

    def expected_information(self, difference: float) -> float:
        """Information at which it decides, on average, when this is the true difference (Wald's formula).

        Example:
            >>> test = SequentialTest(null=0, effect=0.01, alpha=0.05, power=0.8)
            >>> [round(test.expected_information(difference)) for difference in (0, 0.01)]
            [26832, 38129]
        """
        ships = self.ships(difference)
        slope = self.effect * (difference - self.null - self.effect / 2)
        if abs(slope) < 1e-12 * self.effect**2:
            return -self.upper * self.lower / self.effect**2
        return (ships * self.upper + (1 - ships) * self.lower) / slope

    @property
    def fixed_information(self) -> float:
        """What a test of the same error probabilities needs that looks once, at the end.

        Example:
            >>> round(SequentialTest(null=0, effect=0.01, alpha=0.05, power=0.8).fixed_information)
            61826
        """
        from scipy.special import ndtri

        return float(((ndtri(1 - self.alpha) + ndtri(self.power)) / self.effect) ** 2)
