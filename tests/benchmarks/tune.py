"""Tuning: 50 pruned trials by four workers, by one worker, and plain random search over the same space.

    python tests/benchmarks/tune.py [--rows 8000] [--trials 50] [--workers 4] [--seeds 3] [--json]

Histogram boosting on ROWS rows by 20 columns, judged on a quarter as many others. Random search prunes nothing and
learns nothing; what it had found by the time that the pruned search was done is the comparison at the same budget of
time. One seed decides little, so several are run. The default takes two minutes on two quiet cores; `--rows 2000000
--seeds 1` is the size that the other benchmarks of training have, and takes hours there.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from headway.components.data_validate.contract import Contract
from headway.components.settings import Settings
from headway.components.train.fit import available_threads
from headway.components.tune.outcome import Outcome, best_of
from headway.components.tune.search import plan, search
from headway.components.tune.spec import TuningSpec

COLUMNS = 20
SPACE = {
    "parameters.learning_rate": {"type": "float", "low": 0.005, "high": 0.5, "log": True},
    "parameters.max_iter": {"type": "int", "low": 50, "high": 150},
    "parameters.max_leaf_nodes": {"type": "int", "low": 4, "high": 64, "log": True},
    "parameters.min_samples_leaf": {"type": "int", "low": 5, "high": 200, "log": True},
    "parameters.l2_regularization": {"type": "float", "low": 0.001, "high": 100, "log": True},
}
FIRST = (
    "parameters: {learning_rate: 0.1, max_iter: 100, max_leaf_nodes: 31, min_samples_leaf: 20, l2_regularization: 0.01}"
)


def write_table(path: Path, rows: int, seed: int) -> None:
    """A binary target with interactions and noise, so that no setting is perfect and most are worse than the best."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, COLUMNS)).astype(np.float32)
    signal = x[:, 0] * x[:, 1] + np.sin(3 * x[:, 2]) + np.abs(x[:, 3]) * x[:, 4] + 0.5 * x[:, 5] ** 2
    target = signal + random.logistic(size=rows) > 0.5
    pq.write_table(pa.table({**{f"x{at}": x[:, at] for at in range(COLUMNS)}, "y": target}), path)


def contract() -> Contract:
    """The table's contract."""
    columns = {f"x{at}": {"type": "number"} for at in range(COLUMNS)}
    return Contract.parse({"name": "bench", "target": "y", "columns": {**columns, "y": {"type": "boolean"}}})


def measure(folder: Path, name: str, trials: int, seed: int, **tuning: Any) -> Outcome:
    """One search from nothing, worker start and reading included."""
    given = {"space": SPACE, "metric": "roc_auc", "evaluation": "validation", "trials": trials, "seed": seed, **tuning}
    parts = {"train": folder / "train.parquet", "validation": folder / "validation.parquet"}
    job = plan(name, contract(), FIRST, TuningSpec.parse(given), data_digest="0", **parts)
    return search(job, Settings(home=folder / "home"), on_progress=_say(name))


def _say(name: str) -> Any:
    began = time.monotonic()

    def say(progress: Any) -> None:
        if progress.last is not None and progress.done % 10 == 0:
            sys.stderr.write(f"{name}: {progress.done}/{progress.total} after {time.monotonic() - began:.0f} s\n")

    return say


def found_by(outcome: Outcome, seconds: float) -> float | None:
    """The best value that a search had after some seconds."""
    ends = [row.began + row.seconds for row in outcome.rows if row.began is not None and row.seconds is not None]
    start = max(ends) - outcome.seconds
    early = [row for row in outcome.rows if (row.began or 0) + (row.seconds or 0) - start <= seconds]
    best = best_of(early, outcome.job.metric)
    return best.value if best else None


def result_of(outcomes: list[Outcome]) -> dict[str, Any]:
    """What the table shows of a search: means over the seeds."""
    best = [outcome.require_best().value or 0.0 for outcome in outcomes]
    fits = [sum(row.seconds or 0.0 for row in outcome.rows) for outcome in outcomes]
    return {
        "seconds": round(float(np.mean([outcome.seconds for outcome in outcomes])), 1),
        "best": round(float(np.mean(best)), 5),
        "best_by_seed": [round(value, 5) for value in best],
        "pruned": round(float(np.mean([outcome.counts.get("pruned", 0) for outcome in outcomes])), 1),
        "failed": sum(outcome.counts.get("failed", 0) for outcome in outcomes),
        "fit_seconds": round(float(np.mean(fits)), 1),
    }


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8_000)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    several: list[Outcome] = []
    one: list[Outcome] = []
    random: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="headway-bench-tune-") as scratch:
        folder = Path(scratch)
        write_table(folder / "train.parquet", given.rows, 0)
        write_table(folder / "validation.parquet", max(given.rows // 4, 4_000), 1)
        for seed in range(given.seeds):
            several.append(measure(folder, f"several-{seed}", given.trials, seed, workers=given.workers))
            one.append(measure(folder, f"one-{seed}", given.trials, seed))
            random.append(measure(folder, f"random-{seed}", given.trials, seed, sampler="random", pruner="none"))
    late = [found_by(plain, pruned.seconds) for plain, pruned in zip(random, one, strict=True)]
    searches = {
        f"{given.workers} workers, pruned": result_of(several),
        "1 worker, pruned": result_of(one),
        "1 worker, random": result_of(random),
    }
    first, second, third = searches.values()
    result = {
        "rows": given.rows,
        "trials": given.trials,
        "seeds": given.seeds,
        "cores": available_threads(),
        "searches": searches,
        "as_it_stood": round(one[0].baseline.value or 0.0, 5) if one[0].baseline else None,
        "random_after_the_seconds_of_one_worker": round(float(np.mean([value or 0.0 for value in late])), 5),
        "speed_of_several_over_one": round(second["seconds"] / first["seconds"], 2),
        "speed_of_one_over_random": round(third["seconds"] / second["seconds"], 2),
        "versions": {name: version(name) for name in ("headway", "optuna", "scikit-learn")}
        | {"python": platform.python_version()},
    }
    sys.stdout.write((json.dumps(result, indent=2) if given.json else _table(result)) + "\n")
    return 0


def _table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['trials']} trials on {result['rows']:,} rows by {COLUMNS} columns, {result['cores']} cores, "
        f"mean of {result['seeds']} seeds",
        f"{'':<22}{'seconds':>9}{'fits, s':>9}{'best AUC':>10}{'pruned':>8}   best by seed",
    ]
    lines += [
        f"{name:<22}{row['seconds']:>9}{row['fit_seconds']:>9}{row['best']:>10}{row['pruned']:>8}   "
        f"{' '.join(map(str, row['best_by_seed']))}"
        for name, row in result["searches"].items()
    ]
    lines += [
        f"random search after as many seconds as one pruned worker: {result['random_after_the_seconds_of_one_worker']}",
        f"as it stood: {result['as_it_stood']}",
        f"several workers against one: {result['speed_of_several_over_one']} times as fast",
        f"pruned against random, one worker each: {result['speed_of_one_over_random']} times as fast",
        ", ".join(f"{name} {number}" for name, number in result["versions"].items()),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
