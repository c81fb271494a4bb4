"""Rehearsals: each injected fault is caught by what should catch it, and a good version goes out."""

import numpy as np
import pytest

from headway.components.errors import ConfigError, ReleaseError
from headway.serving.release.plan import ReleaseSpec
from headway.serving.release.recording import Recording
from headway.serving.release.rehearsal import DEFAULT_FAULTS, Fault, Rehearsed, rehearse
from headway.serving.release.report import rehearsal_page
from headway.serving.release.state import State

SPEC = ReleaseSpec.parse({"steps": [10, 50, 100], "min_seconds": 10, "rollback_window_seconds": 60})


def recording(*, requests: int = 20_000, seconds: float = 1_000, labels: bool = False) -> Recording:
    """Twenty requests a second by some thousand users, one answer in a thousand an error."""
    random = np.random.default_rng(7)
    scores = random.beta(2, 5, requests)
    truth = random.random(requests) < scores
    brier = np.where(truth, 1 - scores, scores) ** 2
    return Recording(
        seconds=np.sort(random.uniform(0, seconds, requests)),
        users=[f"u{user}" for user in random.integers(0, 3_000, requests)],
        latency_ms=random.gamma(4, 3, requests),
        errors=random.random(requests) < 0.001,
        scores=scores,
        outcomes=brier if labels else np.full(requests, np.nan),
    )


@pytest.fixture(scope="module")
def rehearsed() -> dict[str, Rehearsed]:
    return {one.fault.kind: one for one in rehearse(recording(), SPEC)}


def test_a_good_version_goes_out(rehearsed: dict[str, Rehearsed]) -> None:
    good = rehearsed["none"]
    assert (good.state, good.right, good.caught_by) == (State.PROMOTED, True, "")
    assert [weight for _, weight in good.timeline] == [1_000, 5_000, 10_000, 10_000]


@pytest.mark.parametrize(
    ("kind", "guard"),
    [("errors", "server_errors"), ("latency", "latency"), ("labels", "prediction_shift"), ("schema", "rejected")],
)
def test_each_fault_is_caught_by_its_guard_in_the_first_stage(
    rehearsed: dict[str, Rehearsed], kind: str, guard: str
) -> None:
    found = rehearsed[kind]
    assert found.right
    assert (found.state, found.caught_by, found.stage) == (State.ROLLED_BACK, guard, 1)
    # A tenth of the users at most, and far fewer requests than a fixed rule of minutes would let through.
    assert 0 < found.users_exposed < 450
    assert found.newcomer_requests < 3_000


def test_labels_that_were_recorded_decide_where_predictions_alone_would_not() -> None:
    spec = SPEC.model_copy(
        update={
            "guards": SPEC.guards.model_copy(update={"prediction_shift": None}),
            "decision": ReleaseSpec.parse({"decision": {"metric": "brier", "minimum_effect": 0.03}}).decision,
        }
    )
    good, bad = rehearse(recording(labels=True), spec, faults=[Fault(), Fault(kind="labels", size=0.4)])
    assert good.state is State.PROMOTED
    assert (bad.state, bad.caught_by) == (State.ROLLED_BACK, "brier")
    assert bad.stage == 2


def test_without_labels_the_guards_alone_are_rehearsed() -> None:
    decision = ReleaseSpec.parse({"decision": {"metric": "brier", "minimum_effect": 0.03}}).decision
    (good,) = rehearse(recording(), SPEC.model_copy(update={"decision": decision}), faults=[Fault()])
    assert good.state is State.PROMOTED


def test_a_rehearsal_can_be_repeated_to_the_last_request() -> None:
    faults = [Fault(kind="errors", size=0.02)]
    assert rehearse(recording(), SPEC, faults=faults, seed=3) == rehearse(recording(), SPEC, faults=faults, seed=3)


def test_a_short_recording_starts_again() -> None:
    (good,) = rehearse(recording(requests=500, seconds=25), SPEC, faults=[Fault()])
    assert good.state is State.PROMOTED
    assert good.newcomer_requests > 500


def test_too_little_is_no_recording() -> None:
    with pytest.raises(ReleaseError, match="holds 1 requests"):
        recording(requests=1)


@pytest.mark.parametrize("text", ["errrors=0.1", "errors=-1", "errors=lots"])
def test_a_fault_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        Fault.parse_text(text)


def test_the_report_says_what_happened(rehearsed: dict[str, Rehearsed]) -> None:
    html = rehearsal_page(list(rehearsed.values()), "20,000 requests")
    assert "Every fault was caught" in html
    assert all(guard in html for guard in ("server_errors", "latency", "prediction_shift", "rejected"))
    assert len(DEFAULT_FAULTS) == html.count('<td class="n">') / 3
