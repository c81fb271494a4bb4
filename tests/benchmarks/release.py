"""How soon a bad version is taken back, and how often a good one: Headway's judge against thresholds at intervals.

    python tests/benchmarks/release.py [--releases 1000] [--json]

Every scenario is released a thousand times in simulation, at 100 requests a second from 20,000 users: the stable
version fails 1 % of the requests, and its 99th percentile is 64 ms. The peers' rules are simulated, not the products:

    Flagger, as documented   interval 1 min, threshold 5 failed checks, stepWeight 10, maxWeight 50, success rate of the
                             minute at least 99 %, p99 at most 500 ms (docs, "Istio Canary Deployments")
    Flagger, tuned           the same with the allowances that Headway has: 98 % and 1.25 times the stable version's p99
    Argo, as documented      interval 5 min, successCondition 0.95, failureLimit 3 (taken back at the fourth failure),
                             weights 20, 40, 60, 80 for 10 min each (docs, "Analysis & Progressive Delivery")
    Argo, tuned              the same steps, every minute, with the allowances that Headway has

Both count a check as failed that is below its threshold in its own window; a failed check stops Flagger's ramp, not
Argo's. Their thresholds are absolute: the tuned ones know the stable version's figures beforehand. Whether Flagger's
threshold is reached is checked here at once, there at the next interval. Headway's rows have all guards on, look every
five seconds, and include the rollback window of ten minutes, in which the peers judge no more; a newcomer that is
neither taken back nor shipped is held for a person. All is as by default.
"""

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from headway.serving.release.plan import ReleaseSpec, stages
from headway.serving.release.simulation import Behaviour, simulate

RATE = 100.0
"""Requests a second."""
USERS = 20_000
LOOK_SECONDS = 5.0
SEED = 1
P99_MS = 64.0
SLOWER = 0.25
"""How much the 99th percentile may rise, as a share, for Headway and for the tuned peers."""

EDGES = [round(1.25**step, 3) for step in range(42)]
"""Bins of the latency, in milliseconds."""


@dataclass(frozen=True)
class Rule:
    """Thresholds at intervals, as Flagger and Argo Rollouts apply them."""

    name: str
    interval: float
    """Seconds."""
    weights: Sequence[float]
    """The newcomer's shares, in percent."""
    checks: int
    """Good checks before the next weight."""
    limit: int
    """Failed checks at which it is taken back."""
    max_errors: float
    max_p99_ms: float
    stops: bool
    """Whether a failed check stops the ramp."""


RULES = [
    Rule("Flagger, as documented", 60, (10, 20, 30, 40, 50), 1, 5, 0.01, 500.0, True),
    Rule("Flagger, tuned", 60, (10, 20, 30, 40, 50), 1, 5, 0.02, (1 + SLOWER) * P99_MS, True),
    Rule("Argo, as documented", 300, (20, 40, 60, 80), 2, 4, 0.05, math.inf, False),
    Rule("Argo, tuned", 60, (20, 40, 60, 80), 10, 4, 0.02, (1 + SLOWER) * P99_MS, False),
]


@dataclass
class Result:
    """How the releases of one scenario went under one rule. Arrays have shape (releases,)."""

    fails: NDArray[np.bool_]
    ships: NDArray[np.bool_]
    requests: NDArray[np.int64]
    """That the newcomer answered."""
    seconds: NDArray[np.float64]
    """(releases, stages)"""
    weights: Sequence[float]

    def row(self) -> dict[str, float]:
        """The figures."""
        return {
            "taken back": float(self.fails.mean()),
            "shipped": float(self.ships.mean()),
            "requests": float(self.requests.mean()),
            "requests, 9 of 10 within": float(np.quantile(self.requests, 0.9)),
            "users": float(self.users().mean()),
            "minutes": float(self.seconds.sum(axis=1).mean() / 60),
        }

    def users(self) -> NDArray[np.float64]:
        """(releases,) users who saw the newcomer: each stage adds some, who stay."""
        shares = np.diff(np.concatenate([[0.0], np.asarray(self.weights) / 100]))
        remaining = self.seconds[:, ::-1].cumsum(axis=1)[:, ::-1]
        return np.asarray((shares * USERS * -np.expm1(-remaining * RATE / USERS)).sum(axis=1))


def stable() -> Behaviour:
    """The stable version: latencies with a lognormal distribution, predictions with a beta distribution."""
    from scipy.stats import beta, norm

    spread = 0.5
    middle = math.log(P99_MS) - spread * norm.ppf(0.99)
    below = np.concatenate([[0.0], norm.cdf((np.log(EDGES) - middle) / spread), [1.0]])
    scores = np.diff(beta.cdf(np.linspace(0, 1, 21), 2, 5))
    return Behaviour(
        error_rate=0.01, rejected_rate=0.002, edges=EDGES, latency=np.diff(below).tolist(), scores=scores.tolist()
    )


def scenarios() -> dict[str, Behaviour]:
    """The newcomers."""
    good = stable()
    return {
        "as good": good,
        "errors 1 % → 3 %": replace(good, error_rate=0.03),
        "errors 1 % → 1.5 % (allowed)": replace(good, error_rate=0.015),
        "p99 +50 %": good.slower(1.5),
        "p99 +100 %": good.slower(2.0),
    }


def headway(newcomer: Behaviour, releases: int) -> Result:
    """Headway's judge."""
    spec = ReleaseSpec.parse({"guards": {"latency": {"max_increase": SLOWER}}})
    planned = stages(spec, 2)
    runs = simulate(
        spec,
        planned,
        stable(),
        newcomer,
        requests_per_second=RATE,
        releases=releases,
        look_seconds=LOOK_SECONDS,
        growth=0.005,
        seed=SEED,
    )
    weights = [stage.weights[-1] / 100 for stage in planned]
    return Result(runs.fails, runs.passes, runs.canary_requests, runs.stage_seconds, weights)


def by_rule(rule: Rule, newcomer: Behaviour, releases: int) -> Result:
    """A rule of thresholds at intervals."""
    rng = np.random.default_rng(SEED)
    step, good, bad = (np.zeros(releases, dtype=np.int64) for _ in range(3))
    requests = np.zeros(releases, dtype=np.int64)
    seconds = np.zeros((releases, len(rule.weights)))
    weights = np.asarray(rule.weights)
    slow = 0.0 if math.isinf(rule.max_p99_ms) else float(newcomer.share_slower(rule.max_p99_ms))
    open_ = np.arange(releases)
    while len(open_):
        came = rng.poisson(RATE * weights[step[open_]] / 100 * rule.interval)
        failed = rng.binomial(came, newcomer.error_rate) > rule.max_errors * came
        failed |= rng.binomial(came, slow) > 0.01 * came
        requests[open_] += came
        seconds[open_, step[open_]] += rule.interval
        bad[open_] += failed
        good[open_] += ~failed if rule.stops else 1
        moves = good[open_] >= rule.checks
        step[open_[moves]] += 1
        good[open_[moves]] = 0
        open_ = open_[(bad[open_] < rule.limit) & (step[open_] < len(weights))]
    fails = bad >= rule.limit
    return Result(fails, ~fails, requests, seconds, rule.weights)


def run(releases: int) -> dict[str, list[dict[str, Any]]]:
    """Every scenario under every rule, ours first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for scenario, newcomer in scenarios().items():
        results = {"Headway": headway(newcomer, releases)}
        results |= {rule.name: by_rule(rule, newcomer, releases) for rule in RULES}
        rows = [{"rule": name, **result.row()} for name, result in results.items()]
        for row in rows:
            row["times ours"] = row["requests"] / rows[0]["requests"]
        found[scenario] = rows
    return found


def show(found: dict[str, list[dict[str, Any]]], releases: int, seconds: float) -> None:
    """Print the tables."""
    console = Console(width=130)
    for scenario, rows in found.items():
        heads = ["rule", "taken back", "shipped", "newcomer's requests", "9 of 10 within", "times ours", "users", "min"]
        table = Table(*heads, title=f"A newcomer: {scenario}; {releases:,} releases")
        for row in rows:
            table.add_row(
                row["rule"],
                f"{row['taken back']:.1%}",
                f"{row['shipped']:.1%}",
                f"{row['requests']:,.0f}",
                f"{row['requests, 9 of 10 within']:,.0f}",
                f"{row['times ours']:.2f}",
                f"{row['users']:,.0f}",
                f"{row['minutes']:.1f}",
            )
        console.print(table)
    console.print(f"{seconds:.0f} s, Python {platform.python_version()} on {platform.machine()}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--releases", type=int, default=1_000, help="simulated releases of each scenario")
    arguments = parser.parse_args()
    started = time.perf_counter()
    found = run(arguments.releases)
    seconds = time.perf_counter() - started
    if arguments.json:
        document = {"releases": arguments.releases, "seconds": seconds, "scenarios": found}
        sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
        return
    show(found, arguments.releases, seconds)


if __name__ == "__main__":
    main()
