"""The gate: from measured metrics to promote, hold or reject, by rules that a person wrote down.

    primary: roc_auc
    thresholds:
      - {metric: roc_auc, min: 0.70}
      - {metric: expected_calibration_error, max: 0.05, level: hold}
      - {metric: roc_auc, min: 0.65, slice: origin, level: hold}
    slices:
      - {name: origin, column: origin}
    champion: {metric: roc_auc, max_regression: 0.005}

Each rule has an effect, and the worst effect is the decision. `level` is the rule's own: reject (the default) or hold.

    rule        what was found                                                    effect
    threshold   the whole interval is on the wrong side                           level
                the value is on the wrong side, the interval is on both           hold
                the value is on the right side, the interval is on both           promote; with `use: interval` hold
                the value is on the wrong side and there is no interval           hold
                the whole interval is on the right side                           promote
    slice       empty, fewer than min_rows, or too few of a class                 hold (`too_small: note`: promote)
                its threshold's metric is undefined                               hold
    champion    the whole interval of the difference is worse than the margin     level
                the interval holds the margin, or there is none                   hold
                the whole interval is no worse than the margin                    promote
                there is no champion, or it is the candidate itself               promote, and it is said
                it could not predict these rows                                   hold
    rows        fewer than min_rows                                               hold
    labels      the data holds a label that the model never saw                   `unseen_labels`: hold

An extreme such as max_error has no interval because it is a fact about these rows: its value stands for both ends.
A metric that a rule names and that is not computed, is undefined on all rows, or is bounded on the wrong side is an
error of its own (MetricMissingError, MetricUndefinedError, MetricDirectionError): never a pass and never a hold.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from headway.components.bundle import Task
from headway.components.config import Config
from headway.components.errors import (
    ConfigError,
    MetricDirectionError,
    MetricMissingError,
    MetricUndefinedError,
    UnknownNameError,
    did_you_mean,
)
from headway.components.evaluate.bootstrap import Bootstrap
from headway.components.evaluate.metrics import METRICS, PRIMARY, Measurement, metric, metrics_for
from headway.components.evaluate.slices import Slice, SliceResult, check_names


class Decision(StrEnum):
    """What becomes of the candidate."""

    PROMOTE = "promote"
    """It may take traffic."""
    HOLD = "hold"
    """The data does not decide it; a person looks."""
    REJECT = "reject"
    """It is worse than the rules allow."""

    @property
    def severity(self) -> int:
        """0 for promote, 1 for hold, 2 for reject."""
        return list(Decision).index(self)


Effect = Literal["reject", "hold"]


class Threshold(Config):
    """A bound for one metric, on all rows or on each part of a slice."""

    document: ClassVar[str] = "threshold"

    metric: str
    """The metric that is bounded."""
    min: float | None = None
    """Smallest value allowed; for metrics where higher is better."""
    max: float | None = None
    """Largest value allowed; for metrics where lower is better."""
    slice: str | None = None
    """The slice whose every part must meet it; without one it is for all rows."""
    level: Effect = "reject"
    """What it does to the decision when it is clearly missed."""

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError(f"the threshold on {self.metric!r} needs `min` or `max`")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"the threshold on {self.metric!r} has min {self.min} above max {self.max}")
        return self


class ChampionRule(Config):
    """How the candidate must compare with the model that serves now, on the same rows."""

    document: ClassVar[str] = "champion rule"

    metric: str
    """The metric that candidate and champion are compared by."""
    min_improvement: float | None = Field(default=None, ge=0)
    """How much better it must be, in units of the metric."""
    max_regression: float | None = Field(default=None, ge=0)
    """How much worse it may be, in units of the metric (the non-inferiority margin)."""
    level: Effect = "reject"
    """What it does to the decision when the candidate is clearly worse than the margin."""

    @model_validator(mode="after")
    def _one_margin(self) -> Self:
        if (self.min_improvement is None) is (self.max_regression is None):
            raise ValueError("the champion rule needs either `min_improvement` or `max_regression`")
        return self

    @property
    def margin(self) -> float:
        """The smallest allowed improvement; negative for an allowed regression."""
        return self.min_improvement if self.min_improvement is not None else 0.0 - (self.max_regression or 0.0)


class EvaluationSpec(Config):
    """How a model is judged."""

    document: ClassVar[str] = "evaluation section"

    primary: str = ""
    """The metric that reports lead with; empty means roc_auc, macro_f1 or rmse, by the task."""
    metrics: list[str] = Field(default_factory=list)
    """What is computed; empty means every metric that fits the task."""
    thresholds: list[Threshold] = Field(default_factory=list)
    slices: list[Slice] = Field(default_factory=list)
    champion: ChampionRule | None = None
    min_rows: int = Field(default=1, ge=1)
    """On fewer rows of validation data nothing is promoted."""
    use: Literal["point", "interval"] = "point"
    """Whether a threshold is met by the value, or only by the whole interval."""
    bootstrap: Bootstrap = Bootstrap()
    unseen_labels: Literal["note", "hold", "reject"] = "hold"
    """What rows with a label that the model never saw do to the decision; they count as errors in any case."""
    importances: bool = True
    """Whether the report shows which columns the model leans on."""

    def primary_for(self, task: Task) -> str:
        """The metric that reports lead with."""
        return self.primary or PRIMARY[task]

    def metrics_for(self, task: Task) -> list[str]:
        """What is computed: the metrics of the document, or all that fit the task; the primary one first."""
        primary = self.primary_for(task)
        return [primary, *(name for name in self.metrics or metrics_for(task) if name != primary)]

    def check(self, task: Task) -> None:
        """Hold the document against the task, before anything is computed.

        Raises:
            UnknownNameError: `primary`, `metrics` or a threshold's slice names what does not exist.
            ConfigError: A listed metric does not fit the task, or two slices have one name.
            MetricMissingError: A rule names a metric that is not computed.
            MetricDirectionError: A rule bounds a metric on the side that needs no bound.
        """
        check_names(self.slices)
        computed = self.metrics_for(task)
        for name in computed:
            if task not in metric(name).tasks:
                raise ConfigError(f"Metric {name!r} does not fit a {task} model", expected=_among(metrics_for(task)))
        for threshold in self.thresholds:
            _check_computed(f"The threshold on {threshold.metric!r}", threshold.metric, computed, task)
            _check_direction(threshold)
            if threshold.slice is not None and threshold.slice not in {one.name for one in self.slices}:
                raise UnknownNameError("slice", threshold.slice, [one.name for one in self.slices])
        if self.champion:
            _check_computed(f"The champion rule on {self.champion.metric!r}", self.champion.metric, computed, task)
            if METRICS[self.champion.metric].direction == "zero":
                raise MetricDirectionError(
                    f"The champion rule compares {self.champion.metric!r}, which is best at 0 from both sides",
                    expected="a metric that is better the higher, or the lower, it is",
                    fix="compare mae or rmse, and bound the bias with a threshold that has min and max",
                )

    def slice_metrics(self, task: Task) -> list[str]:
        """What is computed with intervals on each slice: the primary metric and those that thresholds name."""
        named = [threshold.metric for threshold in self.thresholds if threshold.slice is not None]
        return list(dict.fromkeys([self.primary_for(task), *named]))


def _check_computed(rule: str, name: str, computed: Sequence[str], task: Task) -> None:
    if name in computed:
        return
    if name in METRICS and task not in METRICS[name].tasks:
        raise MetricMissingError(
            f"{rule} cannot be judged: the metric does not fit a {task} model", expected=_among(computed)
        )
    raise MetricMissingError(
        f"{rule} cannot be judged: nothing computes it{did_you_mean(name, computed)}",
        expected=_among(computed),
        fix=f"add {name} to `metrics`" if name in METRICS else "correct the name",
    )


def _check_direction(threshold: Threshold) -> None:
    direction = metric(threshold.metric).direction
    wrong = {"higher": "max", "lower": "min", "zero": ""}[direction]
    if wrong and getattr(threshold, wrong) is not None:
        right = "min" if wrong == "max" else "max"
        raise MetricDirectionError(
            f"The threshold on {threshold.metric!r} has a `{wrong}`, but {direction} is better",
            expected=f"`{right}`, the worst value that still passes",
            fix=f"write {{metric: {threshold.metric}, {right}: {getattr(threshold, wrong)}}}",
        )


def _among(names: Iterable[str]) -> str:
    return f"one of {', '.join(names)}"


class Reason(Config):
    """One rule's finding."""

    code: str
    """What was found, stable for machines, such as `threshold_missed`."""
    effect: Decision
    """What it does to the decision."""
    text: str
    """What was found, for people."""
    metric: str | None = None
    value: float | None = None
    threshold: float | None = None
    """The bound; for the champion the margin that the improvement is held against."""
    low: float | None = None
    """Lower end of the value's interval."""
    high: float | None = None
    """Upper end of the value's interval."""
    slice: str | None = None


class Verdict(Config):
    """The decision and why; what registration reads and what a person can check years later."""

    document: ClassVar[str] = "verdict"

    decision: Decision
    reasons: list[Reason]
    """The findings, the worst first."""
    name: str = ""
    """The model's name."""
    rows: int = 0
    """Rows of validation data."""
    metrics: dict[str, Measurement] = Field(default_factory=dict)
    """The candidate's metrics on all rows."""
    differences: dict[str, Measurement] = Field(default_factory=dict)
    """Candidate minus champion, by metric."""
    slices: list[SliceResult] = Field(default_factory=list)
    bundle_digest: str = ""
    data_digest: str = ""
    """Content digest of the validation data."""
    champion_version: str = ""
    """The registry version that it was compared with; empty without one."""
    champion_digest: str = ""

    @property
    def headline(self) -> str:
        """The decision and its main reason in one line."""
        decisive = [reason for reason in self.reasons if reason.effect is self.decision]
        if self.decision is Decision.PROMOTE:
            met = sum(reason.code in PASSES for reason in self.reasons)
            rules = "the one rule is" if met == 1 else f"all {met} rules are"
            return f"Promote: {rules} met" if met else "Promote: no rule stood against it"
        more = f" (and {len(decisive) - 1} more)" if len(decisive) > 1 else ""
        return f"{self.decision.capitalize()}: {decisive[0].text}{more}"


PASSES = frozenset({"threshold_met", "champion_met"})
"""The codes of findings where a rule was met."""


class ChampionResult(Config):
    """The comparison with the champion, measured."""

    version: str = ""
    digest: str = ""
    metrics: dict[str, Measurement] = Field(default_factory=dict)
    differences: dict[str, Measurement] = Field(default_factory=dict)
    """Candidate minus champion, by metric."""
    same: bool = False
    """Whether the candidate is the champion, byte for byte; then there is nothing to compare."""
    problem: str = ""
    """Why the champion could not predict these rows."""


def decide(
    spec: EvaluationSpec,
    metrics: Mapping[str, Measurement],
    *,
    rows: int,
    slices: Sequence[SliceResult] = (),
    champion: ChampionResult | None = None,
    unseen: Mapping[str, int] | None = None,
) -> Verdict:
    """Judge a candidate by the rules of the document; the table is at the top of this module.

    Args:
        spec: The rules; `EvaluationSpec.check` has accepted them for the task.
        metrics: The candidate's metrics on all rows.
        rows: How many rows that were.
        slices: The slices, measured.
        champion: The comparison; None without a champion.
        unseen: Rows of each label that the model never saw.

    Raises:
        MetricMissingError: A rule names a metric that was not measured.
        MetricUndefinedError: A rule names a metric that is undefined on all rows.

    Example:
        >>> spec = EvaluationSpec(thresholds=[Threshold(metric="roc_auc", min=0.7)])
        >>> decide(spec, {"roc_auc": Measurement(value=0.69, low=0.67, high=0.71)}, rows=900).headline
        'Hold: roc_auc is 0.69 [0.67, 0.71], below the minimum 0.7, but the interval reaches it'
    """
    reasons: list[Reason] = []
    if rows < spec.min_rows:
        reasons.append(
            Reason(
                code="too_few_rows",
                effect=Decision.HOLD,
                text=f"the validation data has {rows:,} rows, fewer than {spec.min_rows:,}",
                value=rows,
                threshold=spec.min_rows,
            )
        )
    reasons += _on_labels(spec, unseen or {})
    for threshold in spec.thresholds:
        if threshold.slice is None:
            found = _defined(threshold.metric, metrics, f"The threshold on {threshold.metric!r}")
            reasons += _on_threshold(spec, threshold, found, None)
    for one in slices:
        reasons += _on_slice(spec, one)
    if spec.champion:
        reasons.append(_on_champion(spec.champion, champion, metrics))
    reasons.sort(key=lambda reason: -reason.effect.severity)
    return Verdict(
        decision=reasons[0].effect if reasons else Decision.PROMOTE,
        reasons=reasons,
        rows=rows,
        metrics=dict(metrics),
        differences=champion.differences if champion else {},
        slices=list(slices),
        champion_version=champion.version if champion else "",
        champion_digest=champion.digest if champion else "",
    )


def _defined(name: str, metrics: Mapping[str, Measurement], rule: str) -> Measurement:
    if name not in metrics:
        raise MetricMissingError(
            f"{rule} cannot be judged: nothing measured it{did_you_mean(name, metrics)}", expected=_among(metrics)
        )
    if metrics[name].value is None:
        raise MetricUndefinedError(
            f"{rule} cannot be judged: {name} is undefined, {metrics[name].reason}",
            expected="a number",
            fix="evaluate on rows that define it, or take the rule out of the evaluation section",
        )
    return metrics[name]


def _on_labels(spec: EvaluationSpec, unseen: Mapping[str, int]) -> list[Reason]:
    if not unseen:
        return []
    effect = Decision.PROMOTE if spec.unseen_labels == "note" else Decision(spec.unseen_labels)
    listed = ", ".join(f"{label} ({count:,} rows)" for label, count in unseen.items())
    text = f"the target holds labels that the model never saw, counted as errors: {listed}"
    return [Reason(code="unseen_labels", effect=effect, text=text, value=sum(unseen.values()))]


def _on_slice(spec: EvaluationSpec, one: SliceResult) -> list[Reason]:
    if one.unjudged:
        effect = Decision.HOLD if one.too_small == "hold" else Decision.PROMOTE
        text = f"slice {one.label} is not judged: {one.unjudged}"
        return [Reason(code="slice_too_small", effect=effect, text=text, value=one.rows, slice=one.label)]
    reasons: list[Reason] = []
    for threshold in spec.thresholds:
        if threshold.slice == one.slice:
            found = one.metrics.get(threshold.metric, Measurement(reason="it was not measured"))
            reasons += _on_threshold(spec, threshold, found, one.label)
    return reasons


def _on_threshold(spec: EvaluationSpec, threshold: Threshold, found: Measurement, part: str | None) -> list[Reason]:
    name, where = threshold.metric, f" on slice {part}" if part else ""
    if found.value is None:
        text = f"{name}{where} is undefined: {found.reason}"
        return [Reason(code="slice_undefined", effect=Decision.HOLD, text=text, metric=name, slice=part)]
    reasons = []
    for bound, sign in ((threshold.min, 1), (threshold.max, -1)):
        if bound is None:
            continue
        code, words = _side(found, bound, sign, name, whole=spec.use == "interval")
        reasons.append(
            Reason(
                code=code,
                effect=_effect(code, threshold.level),
                text=f"{name}{where} is {shown(found)}, {words}",
                metric=name,
                value=found.value,
                threshold=bound,
                low=found.low,
                high=found.high,
                slice=part,
            )
        )
    return reasons


def _effect(code: str, level: Effect) -> Decision:
    """A rule met promotes, one clearly missed has its own level, and one that the data leaves open holds."""
    if code in PASSES:
        return Decision.PROMOTE
    return Decision(level) if code in ("threshold_missed", "champion_worse") else Decision.HOLD


def _side(found: Measurement, bound: float, sign: int, name: str, *, whole: bool) -> tuple[str, str]:
    """On which side of a bound a value and its interval lie: a code, and words for people.

    Args:
        found: A defined value.
        bound: A minimum (sign 1) or a maximum (sign -1).
        sign: Turns values so that larger is better.
        name: The metric.
        whole: Whether only an interval wholly on the right side meets the bound.
    """
    worst, value, best = _turned(found, sign, name)
    edge = sign * bound
    right, wrong = ("at least", "below the minimum") if sign > 0 else ("at most", "above the maximum")
    if value >= edge:
        if not whole or (worst is not None and worst >= edge):
            return "threshold_met", f"{right} {bound:g}"
        doubt = f"has no interval ({found.reason})" if worst is None else "the interval reaches beyond it"
        return "threshold_uncertain", f"{right} {bound:g}, but {doubt}"
    if best is None:
        return "threshold_uncertain", f"{wrong} {bound:g}, but has no interval ({found.reason})"
    if best < edge:
        return "threshold_missed", f"{wrong} {bound:g}"
    return "threshold_uncertain", f"{wrong} {bound:g}, but the interval reaches it"


def _turned(found: Measurement, sign: int, name: str) -> tuple[float | None, float, float | None]:
    """Worst end, value and best end, turned so that larger is better; None where there is no interval."""
    value = found.value if found.value is not None else float("nan")
    if not METRICS[name].resampled:
        return sign * value, sign * value, sign * value
    if found.low is None or found.high is None:
        return None, sign * value, None
    worst, best = sorted((sign * found.low, sign * found.high))
    return worst, sign * value, best


def _on_champion(rule: ChampionRule, champion: ChampionResult | None, metrics: Mapping[str, Measurement]) -> Reason:
    where = f"The champion rule on {rule.metric!r}"
    _defined(rule.metric, metrics, where)
    if champion is None or champion.same or champion.problem:
        code, effect, text = _not_compared(champion)
        return Reason(code=code, effect=effect, text=text, metric=rule.metric)
    found = champion.differences.get(rule.metric, Measurement(reason="it was not measured"))
    code, words = _against(found, rule)
    return Reason(
        code=code,
        effect=_effect(code, rule.level),
        text=f"{rule.metric} differs from champion {champion.version} by {shown(found, signed=True)}{words}",
        metric=rule.metric,
        value=found.value,
        threshold=rule.margin,
        low=found.low,
        high=found.high,
    )


def _not_compared(champion: ChampionResult | None) -> tuple[str, Decision, str]:
    if champion is None:
        return "no_champion", Decision.PROMOTE, "there is no champion to compare with"
    if champion.same:
        text = f"the candidate is champion {champion.version} itself, byte for byte; nothing was compared"
        return "champion_same", Decision.PROMOTE, text
    text = f"champion {champion.version} could not be compared: {champion.problem}"
    return "champion_not_comparable", Decision.HOLD, text


def _against(found: Measurement, rule: ChampionRule) -> tuple[str, str]:
    """How a difference stands to the margin: a code, and words for people."""
    improves = rule.min_improvement is not None
    needed = f"at least {rule.margin:g} better" if improves else f"at most {abs(rule.margin):g} worse"
    if found.value is None:
        return "champion_uncertain", f" ({found.reason}); it must be {needed}"
    worst, _, best = _turned(found, 1 if METRICS[rule.metric].direction == "higher" else -1, rule.metric)
    if worst is None or best is None:
        return "champion_uncertain", f", without an interval ({found.reason}); it must be {needed}"
    if worst >= rule.margin:
        return "champion_met", f": {needed}"
    if best < rule.margin:
        return "champion_worse", f"; it must be {needed}"
    return "champion_uncertain", f"; it must be {needed}, which the interval leaves open"


def shown(found: Measurement, *, signed: bool = False) -> str:
    """A value with its interval, in four significant digits.

    Example:
        >>> shown(Measurement(value=0.69012, low=0.6, high=0.75))
        '0.6901 [0.6, 0.75]'
    """
    form = "+.4g" if signed else ".4g"
    if found.value is None:
        return "undefined"
    if found.low is None or found.high is None:
        return format(found.value, form)
    return f"{found.value:{form}} [{found.low:{form}}, {found.high:{form}}]"
