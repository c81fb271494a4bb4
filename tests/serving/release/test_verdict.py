"""Verdicts: what one and several findings say, in which order they count, and what never counts."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.components.errors import ConfigError
from headway.serving.platform import Counts, Histogram
from headway.serving.release.plan import ReleaseSpec, stages
from headway.serving.release.verdict import Evidence, Measured, Outcome, Sums, judge

EDGES = [1.25**step for step in range(42)]
SCORE_EDGES = [0.25, 0.5, 0.75]
NO_GUARDS = {"server_errors": None, "rejected": None, "latency": None, "prediction_shift": None}


def only(guard, **settings):
    """Guards, all off but one."""
    return {"guards": {**NO_GUARDS, guard: settings}} if guard else {"guards": NO_GUARDS}


def histogram(edges, values):
    counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)
    return Histogram(edges=edges, counts=counts.tolist())


def latencies(n, factor=1.0):
    """Exactly distributed: a lognormal of median 20 ms, p99 64 ms."""
    from scipy.stats import norm

    quantiles = (np.arange(n) + 0.5) / n
    return histogram(EDGES, factor * 20 * np.exp(0.5 * norm.ppf(quantiles)))


def measured(variant="v2", weight=500, *, users=None, outcome=None, **counts):
    return Measured(variant=variant, weight=weight, counts=Counts(**counts), users=users, outcome=outcome)


def binary(n, share):
    return Sums(n=n, total=n * share, total_of_squares=n * share)


def verdict_of(spec, stable, canary, *, stage=0, stages_=4, final=True, others=(), disagreement=None):
    spec = ReleaseSpec.parse(spec)
    evidence = Evidence(stable=stable, canary=canary, others=list(others), disagreement=disagreement)
    return judge(spec, stages(spec, 2 + len(others))[stage], evidence, stages=stages_, final=final)


def found(verdict, name):
    (finding,) = [one for one in verdict.findings if one.name == name]
    return finding


def errors(*, stable=(19_000, 190), canary=(1_000, 10), **more):
    """A verdict on server errors alone, from requests and errors of both."""
    old = measured("v1", 9_500, requests=stable[0], server_errors=stable[1])
    new = measured(requests=canary[0], server_errors=canary[1])
    return verdict_of({**only("server_errors"), **more}, old, new)


class TestServerErrors:
    @pytest.mark.parametrize(
        ("canary", "outcome"),
        [
            ((1_000, 34), Outcome.FAIL),
            ((1_000, 20), Outcome.INCONCLUSIVE),
            ((4_000, 40), Outcome.PASS),
            ((100, 0), Outcome.INCONCLUSIVE),
            ((10, 10), Outcome.FAIL),
        ],
    )
    def test_fails_passes_or_waits(self, canary, outcome):
        verdict = errors(canary=canary, stable=(19 * canary[0], canary[0] * 19 // 100))
        assert verdict.outcome is outcome
        assert found(verdict, "server_errors").outcome is outcome

    def test_says_it_in_a_sentence_with_the_numbers(self):
        finding = found(errors(canary=(1_204, 25), stable=(22_310, 223)), "server_errors")
        assert finding.text == (
            "server errors: 2.1 % of 1,204 against 1.0 % of 22,310; "
            "the rise is between -0.29 and 3.0 points, allowed 1.0: not decided yet"
        )
        assert finding.stable == pytest.approx(223 / 22_310)
        assert finding.canary == pytest.approx(25 / 1_204)
        assert finding.low < finding.canary - finding.stable < finding.high
        assert (finding.bound, finding.n_stable, finding.n_canary) == (0.01, 22_310, 1_204)

    def test_a_rise_within_the_allowance_is_no_reason_however_sure_it_is(self):
        verdict = errors(stable=(1_000_000, 10_000), canary=(200_000, 3_000))
        assert found(verdict, "server_errors").low > 0
        assert verdict.outcome is Outcome.PASS

    def test_enough_requests_are_needed_to_pass_not_to_fail(self):
        assert errors(stable=(10**6, 0), canary=(1_000, 0)).outcome is Outcome.PASS
        held = errors(stable=(10**6, 0), canary=(1_000, 0), min_requests=1_001)
        assert held.outcome is Outcome.INCONCLUSIVE
        assert held.text.endswith("1,000 of the 1,001 requests that a stage needs")
        assert errors(canary=(100, 60), min_requests=1_001).outcome is Outcome.FAIL

    @given(st.integers(0, 10**6))
    def test_client_errors_count_on_neither_side(self, clients):
        old = measured("v1", 9_500, requests=19_000, server_errors=190)
        new = measured(requests=1_000 + clients, client_errors=clients, server_errors=34)
        verdict = verdict_of(only("server_errors"), old, new)
        assert verdict == verdict_of(only("server_errors"), old, measured(requests=1_000, server_errors=34))

    def test_only_client_errors_are_no_data(self):
        old = measured("v1", 9_500, requests=19_000)
        new = measured(requests=500, client_errors=500)
        assert verdict_of(only("server_errors"), old, new).outcome is Outcome.NO_DATA

    @pytest.mark.parametrize(("stable", "canary", "silent"), [((0, 0), (50, 0), "v1"), ((50, 0), (0, 0), "v2")])
    def test_no_answers_are_no_data_never_a_pass(self, stable, canary, silent):
        verdict = errors(stable=stable, canary=canary)
        assert verdict.outcome is Outcome.NO_DATA
        assert verdict.text == f"server errors: no data of {silent}"

    @given(st.integers(0, 2_000), st.integers(0, 2_000), st.integers(0, 60_000), st.integers(0, 600))
    def test_another_failure_never_helps(self, good, bad, old_good, old_bad):
        rank = [Outcome.PASS, Outcome.INCONCLUSIVE, Outcome.FAIL]
        stable = (old_good + old_bad + 1, old_bad)
        less = errors(stable=stable, canary=(good + bad + 1, bad)).outcome
        more = errors(stable=stable, canary=(good + bad + 1, bad + 1)).outcome
        assert rank.index(more) >= rank.index(less)

    def test_more_stages_and_newcomers_need_more_evidence(self):
        counts = {"stable": (19_000, 190), "canary": (1_000, 34)}
        old = measured("v1", 9_500, requests=19_000, server_errors=190)
        new = measured(requests=1_000, server_errors=34)
        assert errors(**counts).outcome is Outcome.FAIL
        assert verdict_of(only("server_errors"), old, new, stages_=4_000).outcome is Outcome.INCONCLUSIVE
        lows = [found(verdict_of(only("server_errors"), old, new, stages_=n), "server_errors").low for n in (1, 4, 16)]
        assert lows == sorted(lows, reverse=True)


class TestRejected:
    def test_a_version_that_refuses_more_fails(self):
        old = measured("v1", 9_500, requests=19_000, client_errors=400, rejected=100)
        new = measured(requests=1_000, client_errors=80, rejected=60)
        finding = found(verdict_of(only("rejected"), old, new), "rejected")
        assert finding.outcome is Outcome.FAIL
        # Other client errors never reached the check.
        assert (finding.n_stable, finding.n_canary) == (18_700, 980)

    def test_a_reading_with_more_refusals_than_client_errors_does_no_harm(self):
        old = measured("v1", 9_500, requests=19_000)
        verdict = verdict_of(only("rejected"), old, measured(requests=3, client_errors=3, rejected=5))
        assert found(verdict, "rejected").n_canary == 5


class TestLatency:
    @pytest.mark.parametrize(
        ("answers", "factor", "outcome"),
        [
            (3_000, 1.0, Outcome.PASS),
            (3_000, 1.7, Outcome.FAIL),
            (3_000, 1.4, Outcome.INCONCLUSIVE),
            (60, 1.0, Outcome.INCONCLUSIVE),
            (60, 20.0, Outcome.FAIL),
        ],
    )
    def test_fails_passes_or_waits(self, answers, factor, outcome):
        old = measured("v1", 9_500, requests=19 * answers, latency_ms=latencies(19 * answers))
        new = measured(requests=answers, latency_ms=latencies(answers, factor))
        finding = found(verdict_of(only("latency", max_increase=0.5), old, new, stages_=4), "latency")
        assert finding.outcome is outcome
        if answers >= 3_000:
            assert finding.stable == pytest.approx(64, rel=0.03)
            assert finding.canary == pytest.approx(64 * factor, rel=0.03)
            assert finding.bound == pytest.approx(96, rel=0.03)
            assert finding.low < finding.canary < finding.high

    def test_a_rise_below_the_floor_never_counts(self):
        old = measured("v1", 9_500, requests=57_000, latency_ms=histogram(EDGES, np.full(57_000, 1.4)))
        new = measured(requests=3_000, latency_ms=histogram(EDGES, np.full(3_000, 5.0)))
        assert verdict_of(only("latency", floor_ms=5, max_increase=0.5), old, new).outcome is Outcome.PASS
        assert verdict_of(only("latency", floor_ms=1, max_increase=0.5), old, new).outcome is Outcome.FAIL

    def test_a_stable_quantile_beyond_the_last_edge_decides_nothing(self):
        slow = histogram(EDGES, np.full(5_000, 20_000.0))
        old, new = measured("v1", 5_000, requests=5_000, latency_ms=slow), measured(requests=5_000, latency_ms=slow)
        finding = found(verdict_of(only("latency", max_increase=0.5), old, new), "latency")
        assert finding.outcome is Outcome.INCONCLUSIVE
        assert finding.stable is None
        assert "the histogram ends below the stable variant's p99" in finding.text

    def test_a_newcomer_beyond_the_last_edge_fails(self):
        old = measured("v1", 9_500, requests=19_000, latency_ms=latencies(19_000))
        new = measured(requests=200, latency_ms=histogram(EDGES, np.full(200, 20_000.0)))
        finding = found(verdict_of(only("latency", max_increase=0.5), old, new), "latency")
        assert finding.outcome is Outcome.FAIL
        assert "more than 9404 ms of 200 against 63.7 ms" in finding.text
        assert "it is surely more than 9404 ms, allowed 95.6 ms: surely slower" in finding.text

    def test_without_a_histogram_there_is_no_data(self):
        old = measured("v1", 9_500, requests=19_000, latency_ms=latencies(19_000))
        assert verdict_of(only("latency"), old, measured(requests=1_000)).outcome is Outcome.NO_DATA

    def test_different_bins_are_an_error_never_a_fail(self):
        old = measured("v1", 9_500, requests=19_000, latency_ms=latencies(19_000))
        new = measured(requests=9, latency_ms=Histogram(edges=[1.0], counts=[0, 9]))
        verdict = verdict_of(only("latency"), old, new)
        assert verdict.outcome is Outcome.ERROR
        assert "different bins" in verdict.text


class TestPredictionShift:
    def scores(self, *counts):
        return Histogram(edges=SCORE_EDGES, counts=list(counts))

    @pytest.mark.parametrize(
        ("counts", "outcome"),
        [
            ((250, 250, 250, 250), Outcome.PASS),
            ((0, 100, 300, 600), Outcome.FAIL),
            ((600, 300, 100, 0), Outcome.FAIL),
            ((150, 200, 300, 350), Outcome.INCONCLUSIVE),
        ],
    )
    def test_fails_passes_or_waits(self, counts, outcome):
        old = measured("v1", 9_500, requests=20_000, scores=self.scores(5_000, 5_000, 5_000, 5_000))
        new = measured(requests=1_000, scores=self.scores(*counts))
        finding = found(verdict_of(only("prediction_shift"), old, new), "prediction_shift")
        assert finding.outcome is outcome
        assert finding.low <= finding.canary <= finding.high

    def test_a_shift_within_the_allowance_is_no_reason_however_sure_it_is(self):
        old = measured("v1", 5_000, requests=10**6, scores=self.scores(250_000, 250_000, 250_000, 250_000))
        new = measured("v2", 5_000, requests=10**6, scores=self.scores(150_000, 250_000, 250_000, 350_000))
        assert verdict_of(only("prediction_shift"), old, new).outcome is Outcome.PASS

    def test_nothing_is_found_where_nobody_counts_predictions(self):
        old, new = measured("v1", 9_500, requests=20_000), measured(requests=1_000)
        verdict = verdict_of(only("prediction_shift"), old, new)
        assert verdict.outcome is Outcome.PASS
        assert [finding.name for finding in verdict.findings] == ["traffic", "sample_ratio"]


class TestSampleRatio:
    def split(self, stable, canary, **more):
        old = measured("v1", 5_000, requests=10**6, users=stable)
        new = measured("v2", 5_000, requests=10**6, users=canary)
        return verdict_of({**only("server_errors"), **more}, old, new, stage=2)

    def test_a_wrong_split_holds_and_does_not_speak_against_the_version(self):
        verdict = self.split(48_000, 52_000)
        assert found(verdict, "server_errors").outcome is Outcome.PASS
        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert "traffic is not split as asked" in verdict.text
        assert found(verdict, "sample_ratio").holds

    def test_a_right_split_passes(self):
        assert self.split(50_100, 49_900).outcome is Outcome.PASS

    def test_requests_of_users_are_not_counted(self):
        old = measured("v1", 5_000, requests=10**6)
        verdict = verdict_of(only("server_errors"), old, measured("v2", 5_000, requests=10**5), stage=2)
        assert found(verdict, "sample_ratio").outcome is Outcome.PASS
        assert "not checked" in found(verdict, "sample_ratio").text

    def test_requests_that_are_assigned_on_their_own_are(self):
        spec = {**only("server_errors"), "sticky": "request"}
        old, new = measured("v1", 5_000, requests=10**6), measured("v2", 5_000, requests=10**5)
        verdict = verdict_of(spec, old, new, stage=2)
        assert verdict.outcome is Outcome.INCONCLUSIVE

    def test_is_left_out_where_nothing_is_split(self):
        old = measured("v1", 0, requests=10**6, users=1_000)
        verdict = verdict_of(only("server_errors"), old, measured("v2", 10_000, requests=10**4, users=1), stage=3)
        assert [finding.name for finding in verdict.findings] == ["server_errors"]
        assert verdict.findings[0].text.count(" before") == 1


class TestDisagreement:
    @pytest.mark.parametrize(
        ("share", "outcome"), [(0.02, Outcome.PASS), (0.3, Outcome.FAIL), (0.1, Outcome.INCONCLUSIVE)]
    )
    def test_fails_passes_or_waits(self, share, outcome):
        old, new = measured("v1", 10_000, requests=1_000), measured("v2", 0, requests=1_000)
        verdict = verdict_of({**only(""), "strategy": "shadow"}, old, new, stages_=1, disagreement=binary(1_000, share))
        assert verdict.outcome is outcome
        assert found(verdict, "disagreement").canary == pytest.approx(share)

    def test_nothing_compared_is_no_data(self):
        old, new = measured("v1", 10_000, requests=1_000), measured("v2", 0, requests=1_000)
        assert verdict_of({**only(""), "strategy": "shadow"}, old, new).outcome is Outcome.NO_DATA


class TestDecision:
    SPEC = {**only("server_errors"), "decision": {"metric": "accuracy", "minimum_effect": 0.02}}
    STABLE = {"weight": 5_000, "requests": 10_000}

    def decide(self, old, new, *, final=True, **changes):
        spec = {**self.SPEC, "decision": {**self.SPEC["decision"], **changes}}
        stable = measured("v1", outcome=old, **self.STABLE)
        return verdict_of(spec, stable, measured("v2", outcome=new, **self.STABLE), stage=2, final=final)

    @pytest.mark.parametrize(
        ("share", "n", "outcome"),
        [
            (0.90, 5_000, Outcome.PASS),
            (0.87, 5_000, Outcome.FAIL),
            (0.89, 3_000, Outcome.INCONCLUSIVE),
            (0.90, 99, Outcome.INCONCLUSIVE),
        ],
    )
    def test_ships_holds_back_or_waits(self, share, n, outcome):
        verdict = self.decide(binary(n, 0.9), binary(n, share))
        assert verdict.outcome is outcome
        assert found(verdict, "accuracy").outcome is outcome
        assert verdict.text.startswith("accuracy: ")

    def test_a_loss_is_better_when_lower(self):
        old = Sums(n=5_000, total=2_500, total_of_squares=1_500)
        worse = Sums(n=5_000, total=2_700, total_of_squares=1_700)
        assert self.decide(old, worse, metric="log_loss").outcome is Outcome.FAIL
        assert self.decide(worse, old, metric="log_loss", goal="better").outcome is Outcome.PASS
        assert self.decide(old, old, metric="log_loss", goal="better").outcome is Outcome.FAIL

    def test_no_outcomes_are_no_data(self):
        verdict = self.decide(None, None)
        assert verdict.outcome is Outcome.NO_DATA
        assert verdict.text == "accuracy: no data of v2"

    def test_only_the_deciding_stage_waits_for_it(self):
        few = binary(150, 0.9)
        assert self.decide(few, few).outcome is Outcome.INCONCLUSIVE
        assert self.decide(few, few, final=False).outcome is Outcome.PASS
        assert self.decide(None, None, final=False).outcome is Outcome.PASS
        assert self.decide(binary(5_000, 0.9), binary(5_000, 0.8), final=False).outcome is Outcome.FAIL

    def test_at_the_most_outcomes_a_person_decides(self):
        verdict = self.decide(binary(3_000, 0.9), binary(3_000, 0.89), max_outcomes=3_000)
        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert verdict.text.endswith("undecided after 3,000 outcomes: a person must decide")
        assert found(verdict, "accuracy").holds

    def test_the_ends_are_where_it_would_decide(self):
        finding = found(self.decide(binary(2_000, 0.9), binary(2_000, 0.9)), "accuracy")
        for edge, outcome in ((finding.low - 3e-3, Outcome.FAIL), (finding.high + 3e-3, Outcome.PASS)):
            share = round((0.9 + edge) * 2_000) / 2_000
            assert self.decide(binary(2_000, 0.9), binary(2_000, share)).outcome is outcome

    def test_outcomes_that_never_vary_decide_nothing(self):
        constant = Sums(n=500, total=1_500, total_of_squares=4_500)
        assert self.decide(constant, constant, metric="absolute_error").outcome is Outcome.INCONCLUSIVE

    def test_an_unknown_direction_is_a_mistake_of_the_plan(self):
        with pytest.raises(ConfigError, match="higher_is_better is missing"):
            self.decide(binary(200, 0.1), binary(200, 0.1), metric="converted")


class TestSeveralNewcomers:
    def verdict(self, middle, last, **spec):
        old = measured("v1", 3_334, requests=20_000, server_errors=0, outcome=binary(6_000, 0.9))
        decision = {"decision": {"metric": "accuracy", "minimum_effect": 0.02, "goal": "better"}}
        ab = {**only("server_errors"), "strategy": "ab", **decision}
        return verdict_of({**ab, **spec}, old, last, others=[middle], stages_=1)

    def one(self, name, failures=0, share=0.9):
        outcome = binary(6_000, share)
        return measured(name, 3_333, requests=20_000, server_errors=failures, outcome=outcome)

    def test_one_that_harms_fails_the_stage_and_is_named(self):
        verdict = self.verdict(self.one("v2", failures=900), self.one("v3"))
        assert verdict.outcome is Outcome.FAIL
        assert verdict.text.startswith("v2, server errors: 4.5 %")
        assert [one.variant for one in verdict.findings if one.name == "server_errors"] == ["v2", "v3"]

    def test_one_that_ships_is_enough_once_all_are_decided(self):
        good, bad, open_ = (self.one("v2", share=share) for share in (0.93, 0.9, 0.911))
        assert self.verdict(good, self.one("v3")).outcome is Outcome.PASS
        assert self.verdict(bad, self.one("v3")).outcome is Outcome.FAIL
        assert self.verdict(open_, self.one("v3", share=0.93)).outcome is Outcome.INCONCLUSIVE


class TestTogether:
    """A fail beats an error, an error beats no data, no data beats undecided, and a pass needs all."""

    ORDER = [Outcome.FAIL, Outcome.ERROR, Outcome.NO_DATA, Outcome.INCONCLUSIVE, Outcome.PASS]

    @pytest.mark.parametrize(("first", "second"), list(itertools.combinations_with_replacement(ORDER, 2)))
    def test_the_worst_of_two_stands_for_both(self, first, second):
        from headway.serving.release.verdict import Finding, _together

        two = [Finding(name=str(number), outcome=one, text="x") for number, one in enumerate((second, first))]
        assert _together(two, [], final=True).outcome is first
        assert _together(two[:1], two[1:], final=True).outcome is first

    def test_without_guards_enough_answers_pass(self):
        old = measured("v1", 9_500, requests=20_000)
        outcomes = [verdict_of(only(""), old, measured(requests=n)).outcome for n in (0, 199, 200)]
        assert outcomes == [Outcome.NO_DATA, Outcome.INCONCLUSIVE, Outcome.PASS]

    @settings(max_examples=50, deadline=None)
    @given(st.data())
    def test_any_counts_give_a_verdict_that_can_be_stored(self, data):
        def some(variant):
            total = data.draw(st.integers(0, 10**9))
            clients = data.draw(st.integers(0, total))
            return measured(
                variant,
                5_000,
                requests=total,
                client_errors=clients,
                server_errors=data.draw(st.integers(0, total - clients)),
                rejected=data.draw(st.integers(0, clients)),
                latency_ms=Histogram(edges=[1.0, 8.0], counts=data.draw(st.tuples(*[st.integers(0, 10**9)] * 3))),
                scores=Histogram(edges=[0.5], counts=data.draw(st.tuples(*[st.integers(0, 10**9)] * 2))),
                users=data.draw(st.none() | st.integers(0, 10**9)),
            )

        verdict = verdict_of({}, some("v1"), some("v2"), stage=2)
        assert type(verdict).model_validate_json(verdict.model_dump_json()) == verdict
        assert verdict.outcome in self.ORDER
        assert verdict.text
