"""A finding for each guard and for the decision: what the rules say of a stage's evidence, in numbers and in words."""

from dataclasses import dataclass
from math import isfinite, log
from typing import Any

import numpy as np

from headway.serving.platform import TOTAL_WEIGHT, Histogram
from headway.serving.release import rules
from headway.serving.release.plan import DecisionRule, ErrorGuard, LatencyGuard, ReleaseSpec, ShiftGuard, Stage
from headway.serving.release.rules import Levels
from headway.serving.release.sprt import SequentialTest, higher_is_better, information, mean
from headway.serving.release.statistics import allocation_evidence, share_high, share_low
from headway.serving.release.verdict import Evidence, Finding, Measured, Outcome, Sums

SAMPLE_RATIO_ALPHA = 0.001
"""Chance to say of a stage that traffic is not split as asked when it is: strict, for it stops the release."""

_WAIT, _WITHIN = "not decided yet", "surely within what is allowed"


@dataclass(frozen=True)
class Case:
    """One comparison of a newcomer with the stable variant."""

    stable: Measured
    canary: Measured
    levels: Levels
    min_requests: int
    several: bool
    """Whether there are other newcomers: then the texts name this one."""
    concurrent: bool
    """Whether both answer at the same time."""

    def finding(self, name: str, outcome: Outcome, text: str, **numbers: Any) -> Finding:
        """A finding on this newcomer; a number that does not exist is left out."""
        who = f"{self.canary.variant}, " if self.several else ""
        kept = {key: value for key, value in numbers.items() if value is not None and isfinite(value)}
        return Finding(name=name, outcome=outcome, text=f"{who}{text}", variant=self.canary.variant, **kept)

    def missing(self, name: str, old: int, new: int, what: str) -> Finding | None:
        """The finding that there is nothing to compare, where there is not."""
        if new and old:
            return None
        silent = self.stable.variant if new else self.canary.variant
        return self.finding(name, Outcome.NO_DATA, f"{what}: no data of {silent}", n_stable=old, n_canary=new)

    def outcome(self, call: rules.Call | rules.Latencies, answers: int) -> Outcome:
        """What a rule's call says, given so many answers of the newcomer."""
        if call.fails:
            return Outcome.FAIL
        return Outcome.PASS if call.passes and answers >= self.min_requests else Outcome.INCONCLUSIVE

    def waiting(self, passes: Any, answers: int) -> str:
        """Why it is not decided, at the end of a sentence."""
        if passes and answers < self.min_requests:
            return f"{answers:,} of the {self.min_requests:,} requests that a stage needs"
        return _WAIT

    @property
    def before(self) -> str:
        """Marks numbers of the stable variant that are not of now."""
        return "" if self.concurrent else " before"


def cases(spec: ReleaseSpec, stage: Stage, evidence: Evidence, stages: int) -> list[Case]:
    """The comparisons of a stage: each newcomer with the stable variant."""
    newcomers = [*evidence.others, evidence.canary]
    levels = levels_of(spec, stages=stages, newcomers=len(newcomers), shadow=stage.mirror_weight > 0)
    return [
        Case(evidence.stable, one, levels, spec.min_requests, len(newcomers) > 1, stage.concurrent) for one in newcomers
    ]


def levels_of(spec: ReleaseSpec, *, stages: int, newcomers: int = 1, shadow: bool = False) -> Levels:
    """The error probabilities of each guard in each stage."""
    guards = spec.guards
    used = (guards.server_errors, guards.rejected, guards.latency, guards.prediction_shift)
    number = sum(guard is not None for guard in used) + shadow
    return Levels(worse=spec.alpha / max(1, number * stages * newcomers), harm=spec.alpha)


def guarded(spec: ReleaseSpec, stage: Stage, case: Case, compared: Sums | None) -> list[Finding]:
    """The findings of all guards that are on; where there is none, whether it answered enough.

    Args:
        spec: The release's guards and limits.
        stage: The stage.
        case: The comparison.
        compared: Shadow: how often the two answered differently.
    """
    guards = spec.guards
    found: list[Finding | None] = []
    if guards.server_errors:
        found.append(server_errors(guards.server_errors, case))
    if guards.rejected:
        found.append(rejected(guards.rejected, case))
    if guards.latency:
        found.append(latency(guards.latency, case))
    if guards.prediction_shift:
        found.append(prediction_shift(guards.prediction_shift, case))
    if stage.mirror_weight:
        found.append(disagreement(spec, case, compared))
    return [finding for finding in found if finding is not None] or [traffic(case)]


def traffic(case: Case) -> Finding:
    """Whether the newcomer answered enough, where no guard asks for more."""
    answers = case.canary.counts.requests - case.canary.counts.client_errors
    outcome = Outcome.PASS if answers >= case.min_requests else Outcome.INCONCLUSIVE if answers else Outcome.NO_DATA
    text = f"traffic: {case.canary.variant} answered {answers:,} of the {case.min_requests:,} requests asked for"
    return case.finding("traffic", outcome, text, n_canary=answers)


def server_errors(guard: ErrorGuard, case: Case) -> Finding:
    """Answers 5xx, of all but those to the clients' mistakes.

    Client errors are in neither number: counted as answers, one client that sends nonsense would hide its variant's
    failures.
    """
    old, new = case.stable.counts, case.canary.counts
    return _rise(
        "server_errors",
        "server errors",
        guard,
        case,
        (old.server_errors, max(old.requests - old.client_errors, old.server_errors)),
        (new.server_errors, max(new.requests - new.client_errors, new.server_errors)),
    )


def rejected(guard: ErrorGuard, case: Case) -> Finding:
    """Requests that the contract's check refused, of all that reached it: other client errors did not."""
    old, new = case.stable.counts, case.canary.counts
    return _rise(
        "rejected",
        "requests refused by the contract's check",
        guard,
        case,
        (old.rejected, max(old.requests - old.client_errors, 0) + old.rejected),
        (new.rejected, max(new.requests - new.client_errors, 0) + new.rejected),
    )


def latency(guard: LatencyGuard, case: Case) -> Finding:
    """A quantile of the durations at the gateway."""
    name, label = "latency", f"p{guard.quantile * 100:g} latency"
    old, new = case.stable.counts.latency_ms, case.canary.counts.latency_ms
    if (
        odd := case.missing(name, old.total, new.total, label) or _other_edges(name, label, case, old, new)
    ) is not None:
        return odd
    level = guard.quantile
    call = rules.latency(
        new.edges,
        old.counts,
        new.counts,
        level=level,
        max_increase=guard.max_increase,
        floor=guard.floor_ms,
        levels=case.levels,
    )
    before, now, low, high, bound = (float(value) for value in call[2:])
    outcome = case.outcome(call, new.total)
    last = new.edges[-1]
    text = (
        f"{label}: {_ms(now, last)} of {new.total:,} against {_ms(before, last)} of {old.total:,}{case.before}; "
        f"it is {_range(low, high, last)}, allowed {_ms(bound, last)}: "
    )
    if not isfinite(before):
        text += f"the histogram ends below the stable variant's p{level * 100:g}"
    else:
        sure = {Outcome.FAIL: "surely slower, and by more than allowed", Outcome.PASS: _WITHIN}
        text += sure.get(outcome) or case.waiting(call.passes, new.total)
    return case.finding(
        name,
        outcome,
        text,
        stable=before,
        canary=now,
        low=low,
        high=high,
        bound=bound,
        n_stable=old.total,
        n_canary=new.total,
    )


def prediction_shift(guard: ShiftGuard, case: Case) -> Finding | None:
    """How far the predictions' distribution moved; nothing where no variant counts its predictions."""
    name, label = "prediction_shift", "predictions"
    old, new = case.stable.counts.scores, case.canary.counts.scores
    if not old.edges and not new.edges:
        return None
    if (
        odd := case.missing(name, old.total, new.total, label) or _other_edges(name, label, case, old, new)
    ) is not None:
        return odd
    limits = rules.shift_limits(old.counts, new.counts, case.levels)
    call = rules.shift_within(limits, guard.max_distance)
    distance, low, high = (float(value) for value in limits)
    outcome = case.outcome(call, new.total)
    sure = {Outcome.FAIL: "surely further than allowed", Outcome.PASS: _WITHIN}
    text = (
        f"{label}: {distance:.3f} apart (Kolmogorov-Smirnov) in {new.total:,} against {old.total:,}{case.before}; "
        f"the distance is between {low:.3f} and {high:.3f}, allowed {guard.max_distance:g}: "
        f"{sure.get(outcome) or case.waiting(call.passes, new.total)}"
    )
    numbers = {"canary": distance, "low": low, "high": high, "bound": guard.max_distance}
    return case.finding(name, outcome, text, **numbers, n_stable=old.total, n_canary=new.total)


def sample_ratio(spec: ReleaseSpec, stage: Stage, evidence: Evidence) -> Finding | None:
    """Whether traffic is split as asked. It holds a release, and does not speak against a version.

    Users are counted, or requests where each is assigned on its own. Requests of users who always see the same variant
    come in bunches, and prove nothing.
    """
    name, measured = "sample_ratio", [evidence.stable, *evidence.others, evidence.canary]
    weights = [one.weight for one in measured]
    if not stage.concurrent or stage.mirror_weight or min(weights) == 0:
        return None
    units, what = [one.users for one in measured], "users"
    if spec.sticky == "request":
        units, what = [one.counts.requests for one in measured], "requests"
    elif any(users is None for users in units):
        text = "traffic: the split is not checked, because users are not known here and their requests come in bunches"
        return Finding(name=name, outcome=Outcome.PASS, text=text)
    counts = [unit or 0 for unit in units]
    asked = [weight / TOTAL_WEIGHT for weight in weights]
    evidence_against = float(allocation_evidence(counts, asked))
    split = evidence_against <= -log(SAMPLE_RATIO_ALPHA)
    total = sum(counts)
    share = counts[-1] / total if total else None
    shown = " : ".join(f"{count:,}" for count in counts)
    text = f"traffic: {shown} {what} where {' : '.join(f'{part * 100:g} %' for part in asked)} were asked for"
    text += ": as it should be" if split else ": traffic is not split as asked, so no number here can be trusted"
    numbers = {} if share is None else {"canary": share}
    return Finding(
        name=name,
        outcome=Outcome.PASS if split else Outcome.INCONCLUSIVE,
        text=text,
        bound=asked[-1],
        n_stable=counts[0],
        n_canary=counts[-1],
        holds=not split,
        **numbers,
    )


def disagreement(spec: ReleaseSpec, case: Case, sums: Sums | None) -> Finding:
    """Shadow: the share of copied requests that the newcomer answered differently."""
    name, label = "disagreement", "copied requests answered differently"
    count = sums.n if sums else 0
    if sums is None or not count:
        return case.finding(name, Outcome.NO_DATA, f"{label}: none was compared yet", bound=spec.max_disagreement)
    allowed = spec.max_disagreement
    limits = rules.Limits(
        np.asarray(mean(sums)),
        share_low(sums.total, count, alpha=case.levels.worse, typical=allowed),
        share_high(sums.total, count, alpha=case.levels.harm, typical=allowed),
    )
    call = rules.shift_within(limits, allowed)
    share, low, high = (float(value) for value in limits)
    outcome = case.outcome(call, count)
    sure = {Outcome.FAIL: "surely more than allowed", Outcome.PASS: _WITHIN}
    text = (
        f"{label}: {_percent(share)} of {count:,}; it is between {_percent(low)} and {_percent(high)}, "
        f"allowed {_percent(allowed)}: {sure.get(outcome) or case.waiting(call.passes, count)}"
    )
    numbers = {"canary": share, "low": low, "high": high, "bound": allowed}
    return case.finding(name, outcome, text, **numbers, n_canary=count)


def decision(rule: DecisionRule, case: Case, newcomers: int) -> Finding:
    """Wald's test on the decision's metric. The ends are where the measured difference would decide, now.

    Raises:
        ConfigError: The rule does not say which direction of its metric is good.
    """
    sign = 1.0 if higher_is_better(rule) else -1.0
    old, new = case.stable.outcome or Sums(), case.canary.outcome or Sums()
    if (odd := case.missing(rule.metric, old.n, new.n, rule.metric)) is not None:
        return odd
    test = SequentialTest.of(rule, newcomers)
    difference = mean(new) - mean(old)
    text = f"{rule.metric}: {mean(new):.4g} of {new.n:,} against {mean(old):.4g} of {old.n:,}{case.before}"
    numbers = {"stable": mean(old), "canary": mean(new), "n_stable": old.n, "n_canary": new.n}
    numbers["bound"] = sign * test.null
    few = min(old.n, new.n) < rule.min_outcomes
    known = 0.0 if few else information(old, new)
    if few or not isfinite(known):
        why = f"fewer than {rule.min_outcomes:,} of one" if few else "no outcome differs from another"
        return case.finding(rule.metric, Outcome.INCONCLUSIVE, f"{text}; {why}: {_WAIT}", **numbers)
    ratio = test.log_ratio(sign * difference, known)
    ends = sorted(sign * test.difference_at(end, known) for end in (test.lower, test.upper))
    outcome, why = _decided(rule, test, ratio, new.n)
    text += f"; a difference of {difference:+.4g}, decided outside {ends[0]:+.4g} to {ends[1]:+.4g}: {why}"
    over = outcome is Outcome.INCONCLUSIVE and _exhausted(rule, new.n)
    return case.finding(rule.metric, outcome, text, low=ends[0], high=ends[1], **numbers).model_copy(
        update={"holds": over}
    )


def _exhausted(rule: DecisionRule, outcomes: int) -> bool:
    return rule.max_outcomes is not None and outcomes >= rule.max_outcomes


def _decided(rule: DecisionRule, test: SequentialTest, ratio: float, outcomes: int) -> tuple[Outcome, str]:
    effect = f"{rule.minimum_effect:g}"
    if ratio >= test.upper:
        good = f"not worse by {effect}" if rule.goal == "no_worse" else f"better, by about {effect} or more"
        return Outcome.PASS, good
    if ratio <= test.lower:
        bad = f"worse, by about {effect} or more" if rule.goal == "no_worse" else f"not better by {effect}"
        return Outcome.FAIL, bad
    if _exhausted(rule, outcomes):
        return Outcome.INCONCLUSIVE, f"undecided after {outcomes:,} outcomes: a person must decide"
    return Outcome.INCONCLUSIVE, _WAIT


def _rise(name: str, label: str, guard: ErrorGuard, case: Case, old: tuple[int, int], new: tuple[int, int]) -> Finding:
    if (odd := case.missing(name, old[1], new[1], label)) is not None:
        return odd
    allowed = guard.max_increase
    limits = rules.rise_limits(*old, *new, allowed=allowed, levels=case.levels)
    call = rules.rise_within(limits, allowed)
    _, low, high = (float(value) for value in limits)
    before, now = old[0] / old[1], new[0] / new[1]
    outcome = case.outcome(call, new[1])
    sure = {Outcome.FAIL: "surely worse, and by more than allowed", Outcome.PASS: _WITHIN}
    text = (
        f"{label}: {_percent(now)} of {new[1]:,} against {_percent(before)} of {old[1]:,}{case.before}; "
        f"the rise is between {_points(low)} and {_points(high)} points, allowed {_points(allowed)}: "
        f"{sure.get(outcome) or case.waiting(call.passes, new[1])}"
    )
    numbers = {"stable": before, "canary": now, "low": low, "high": high, "bound": allowed}
    return case.finding(name, outcome, text, **numbers, n_stable=old[1], n_canary=new[1])


def _other_edges(name: str, label: str, case: Case, old: Histogram, new: Histogram) -> Finding | None:
    if old.edges == new.edges and new.edges:
        return None
    text = f"{label}: the two variants count in different bins, which cannot be compared"
    return case.finding(name, Outcome.ERROR, text, n_stable=old.total, n_canary=new.total)


def _percent(share: float) -> str:
    return f"{_points(share)} %"


def _points(share: float) -> str:
    """A share in percent: one digit behind the point, more where it is small."""
    percent = share * 100
    return f"{percent:.1f}" if abs(percent) >= 0.95 or percent == 0 else f"{percent:.2g}"


def _ms(value: float, last: float) -> str:
    return f"{value:.3g} ms" if isfinite(value) else f"more than {last:.4g} ms"


def _range(low: float, high: float, last: float) -> str:
    if not isfinite(low):
        return f"surely {_ms(low, last)}"
    return f"between {_ms(low, last)} and {_ms(high, last)}" if isfinite(high) else f"surely above {_ms(low, last)}"
