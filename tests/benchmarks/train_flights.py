"""The worked example as a network on two processes, beside hist_gradient_boosting: seconds and ROC AUC on July.

    python tests/benchmarks/train_flights.py [--json] [--set KEY=VALUE ...]

The same parts for both, as the pipeline's first two steps make them; `--set` changes the network's training section,
such as `--set network=embedding_mlp`. Takes about three minutes on two cores, and prints a table.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score

from headway.components.data_validate.validate import validate
from headway.components.ingest.ingest import ingest
from headway.components.settings import Settings
from headway.components.train.estimators import TrainSpec
from headway.components.train.train import train
from headway.components.train_distributed.job import Progress
from headway.components.train_distributed.spec import DistributedSpec
from headway.components.train_distributed.train import train_distributed
from headway.components.trust import Policy, load_bundle
from headway.pipelines.project import Project, resolve
from headway.pipelines.spec import change

TRAINING = {
    "trainer": "distributed",
    "network": "embedding_mlp",
    "parameters": {"hidden": [256, 128], "dropout": 0.1},
    "task": "binary",
    "epochs": 8,
    "batch_size": 1_024,
    "seed": 2013,
    "placement": {"processes": 2, "accelerator": "cpu"},
}
PARTS = ("train", "validation", "holdout")


def prepare(project: Project, folder: Path) -> dict[str, Path]:
    """The parts that training and evaluation see."""
    raw = {name: folder / f"raw-{name}.parquet" for name in PARTS}
    clean = {name: folder / f"{name}.parquet" for name in PARTS}
    ingest(
        project.spec.source,
        project.spec.split,
        project.contract,
        base=project.folder,
        train=raw["train"],
        validation=raw["validation"],
        holdout=raw["holdout"],
    )
    outcome = validate(
        project.contract,
        raw,
        clean=clean,
        quarantine=folder / "quarantine.parquet",
        profile=folder / "profile.json",
        report=folder / "report.html",
    )
    outcome.raise_if_blocked()
    return clean


def score(bundle: Path, rows: Any) -> float:
    """ROC AUC of a bundle, opened through the trust gate as a server opens it."""
    model = load_bundle(bundle, policy=Policy(require_signature=False))
    found = model.predict(rows).probabilities
    if found is None:
        raise SystemExit(f"{bundle}: gives no probabilities")
    return float(roc_auc_score(rows["late"], found[:, 1]))


def run(assignments: list[str]) -> list[dict[str, Any]]:
    """Train both on the same rows."""
    import pandas as pd

    project = resolve("flights")
    spec = change(DistributedSpec.parse(TRAINING), assignments)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        started = time.perf_counter()
        parts = prepare(project, folder)
        prepared = time.perf_counter()
        common: dict[str, Any] = {
            "name": project.name,
            "contract": project.contract,
            "profile": folder / "profile.json",
            "settings": Settings(home=folder / "home"),
        }
        network = train_distributed(parts["train"], folder / "network", spec=spec, on_progress=_say, **common)
        trained = time.perf_counter()
        trees = TrainSpec.parse(project.spec.training.model_dump(mode="json"))
        train(parts["train"], folder / "trees", spec=trees, **common)
        fitted = time.perf_counter()
        rows = pd.read_parquet(parts["validation"])
        result = network.result
        kept = f"epoch {result.best_epoch} of {len(result.epochs)}"
        return [
            {"what": "ingest and data_validate", "seconds": prepared - started},
            {
                "what": f"{spec.network}, {result.processes} processes, {kept}, {', '.join(result.formats)}",
                "seconds": trained - prepared,
                "roc_auc": score(folder / "network", rows),
            },
            {
                "what": trees.estimator,
                "seconds": fitted - trained,
                "roc_auc": score(folder / "trees", rows),
            },
        ]


def _say(progress: Progress) -> None:
    if progress.validation_loss is not None:
        sys.stderr.write(f"{progress}\n")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the training section")
    arguments = parser.parse_args()
    rows = run(arguments.set)
    machine = f"Python {platform.python_version()} on {platform.machine()}"
    if arguments.json:
        sys.stdout.write(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
        return
    table = Table("", "seconds", "ROC AUC", title=f"Flights, {machine}")
    for row in rows:
        table.add_row(row["what"], f"{row['seconds']:.1f}", f"{row['roc_auc']:.4f}" if "roc_auc" in row else "")
    Console().print(table)


if __name__ == "__main__":
    main()
