"""Users are split as asked, always alike, and by each salt anew."""

import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from headway.serving.experiment.assignment import assign, bucket, pick
from headway.serving.platform import TOTAL_WEIGHT, Route

USERS = [f"user-{number}" for number in range(100_000)]


def test_shares_are_as_asked() -> None:
    weights = {"a": 5_000, "b": 3_000, "c": 2_000}
    counts = dict.fromkeys(weights, 0)
    for user in USERS:
        counts[pick("shares", weights, user)] += 1
    for name, weight in weights.items():
        share = weight / TOTAL_WEIGHT
        # Five standard deviations of the count of 100,000 independent users.
        assert abs(counts[name] - share * len(USERS)) < 5 * np.sqrt(len(USERS) * share * (1 - share))


def test_buckets_are_uniform() -> None:
    from scipy.stats import chisquare

    counts = np.bincount([bucket("uniform", user) // 100 for user in USERS], minlength=100)
    assert chisquare(counts).pvalue > 1e-4


def test_salts_are_independent() -> None:
    from scipy.stats import chi2_contingency

    table = np.zeros((4, 4))
    for user in USERS:
        table[bucket("one", user) // 2_500, bucket("two", user) // 2_500] += 1
    assert chi2_contingency(table).pvalue > 1e-4


def test_another_process_agrees() -> None:
    script = (
        "from headway.serving.experiment.assignment import bucket\n"
        "print(sum(bucket('stable', f'user-{n}') * (n + 1) for n in range(1000)))"
    )
    seeds = [subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True) for _ in "ab"]
    here = sum(bucket("stable", user) * (number + 1) for number, user in enumerate(USERS[:1_000]))
    assert {int(process.stdout) for process in seeds} == {here}


@given(st.text(min_size=1), st.integers(0, TOTAL_WEIGHT), st.integers(0, TOTAL_WEIGHT))
def test_a_ramp_moves_users_one_way(user: str, one: int, other: int) -> None:
    low, high = sorted((one, other))

    def seen(weight: int) -> str:
        return pick("ramp", {"stable": TOTAL_WEIGHT - weight, "canary": weight}, user)

    assert not (seen(low) == "canary" and seen(high) == "stable")


@given(st.text(min_size=1))
def test_a_route_and_its_weights_agree(user: str) -> None:
    shares = [{"variant": "v1", "weight": 4_000}, {"variant": "v2", "weight": 6_000}]
    assert assign(Route.parse({"salt": "s", "shares": shares}), user) == pick("s", {"v1": 4_000, "v2": 6_000}, user)
