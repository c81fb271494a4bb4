"""Time of one call, as trained and as served: every estimator of the catalogue, scikit-learn against onnxruntime.

    python tests/benchmarks/model_files.py [--rows 20000] [--seconds 0.5] [--quick] [--json]

Each estimator is fitted on `--rows` made-up rows of 20 columns (12 numbers, two of them with gaps, one boolean, one
timestamp, six texts, one of them with 300 values) with the catalogue's parameters, written as a bundle and put through
the optimise step, which compares the files on 2,000 other rows. Three networks stand beside the catalogue's, since 8
bits are for wide layers only. A call goes from the arrays that the model server makes of a request to labels and
probabilities, in one thread, the files of one model in turn; the fastest of seven rounds counts. "skops" is the fitted
pipeline, so scikit-learn and pandas; "alone" is scikit-learn's estimator by itself, given the matrix that the pipeline
would make for it; the other files are graphs in onnxruntime. Times are µs at 1 and at 64 rows. Takes about six minutes
on two cores; --quick fits 2,000 rows and takes less than two.
"""

import argparse
import json
import platform
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from headway.components.bundle import Lineage
from headway.components.data_validate.contract import Contract
from headway.components.optimise.choose import Measured
from headway.components.optimise.latency import latencies
from headway.components.optimise.optimise import optimise
from headway.components.optimise.spec import OptimiseSpec
from headway.components.train.estimators import TrainSpec, names
from headway.components.train.files import write_bundle
from headway.components.train.fit import Fitted, fit, wait_without_spinning
from headway.components.trust import Policy

ENSEMBLES = {"extra_trees", "gradient_boosting", "hist_gradient_boosting", "random_forest"}
TARGET = 20
"""Times that a tree ensemble must be faster at one row."""
FEW: dict[str, dict[str, Any]] = {"mlp": {"max_iter": 10}}
"""A call takes as long after ten rounds of training as after two hundred."""
NETWORKS = ([256, 256], [512, 512], [1024, 1024])
PACKAGES = ("scikit-learn", "pandas", "onnxruntime", "skl2onnx", "numpy")
COLUMNS: dict[str, Any] = {
    **{f"number{i}": {"type": "number"} for i in range(10)},
    **{f"gap{i}": {"type": "number", "missing": {"max_share": 1.0}} for i in range(2)},
    "flag": {"type": "boolean"},
    "moment": {"type": "timestamp"},
    **{f"text{i}": {"type": "string"} for i in range(6)},
}
TARGETS: dict[str, Any] = {
    "binary": {"late": {"type": "boolean"}},
    "multiclass": {"class": {"type": "string"}},
    "regression": {"delay": {"type": "number"}},
}


def make_table(rows: int, seed: int) -> pa.Table:
    """Rows whose targets depend on some of the columns."""
    random = np.random.default_rng(seed)
    columns: dict[str, Any] = {f"number{i}": random.normal(size=rows) for i in range(10)}
    for i in range(2):
        values = random.exponential(size=rows)
        columns[f"gap{i}"] = pa.array(values, mask=random.random(rows) < 0.2)
    columns["flag"] = random.random(rows) < 0.3
    columns["moment"] = np.datetime64("2024-01-01", "us") + random.integers(0, 8_760, rows).astype("timedelta64[h]")
    for i, count in enumerate((3, 5, 8, 12, 40, 300)):
        columns[f"text{i}"] = [f"value {number}" for number in random.integers(0, count, rows)]
    effect = np.arange(300) % 7 / 3
    codes = np.array([int(text.split()[1]) for text in columns["text5"]])
    signal = columns["number0"] * columns["number1"] + np.abs(columns["number2"]) + effect[codes] + columns["flag"]
    signal = signal + random.normal(0, 0.5, rows)
    columns["late"] = signal > 2.5
    columns["class"] = np.array(["early", "on time", "late"])[np.digitize(signal, [1.5, 3.0])]
    columns["delay"] = signal * 10
    return pa.table(columns)


def cases(*, quick: bool) -> list[tuple[str, str, dict[str, Any]]]:
    """Task, estimator and parameters of everything that is measured."""
    found: list[tuple[str, str, dict[str, Any]]] = []
    for task in ("binary", "multiclass", "regression"):
        found += [(task, name, FEW.get(name, {})) for name in names(task)]  # type: ignore[arg-type]
    widths = NETWORKS[:1] if quick else NETWORKS
    return found + [("binary", "mlp", {"hidden_layer_sizes": list(layers), "max_iter": 10}) for layers in widths]


def measure(task: str, estimator: str, parameters: dict[str, Any], folder: Path, seconds: float) -> dict[str, Any]:
    """Fit, write and optimise one model."""
    contract = Contract.parse({"name": "rows", "target": next(iter(TARGETS[task])), "columns": COLUMNS | TARGETS[task]})
    spec = TrainSpec(estimator=estimator, parameters=parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a network that has not converged
        fitted = fit(folder / "train.parquet", contract, spec)
    lineage = Lineage(data_digest="d", contract_digest="c")
    write_bundle(fitted, folder / "bundle", name="rows", contract=contract, spec=spec, lineage=lineage)
    found = optimise(
        folder / "bundle",
        folder / "other.parquet",
        folder / "optimised",
        OptimiseSpec(seconds=seconds, rows=2_000),
        policy=Policy(require_signature=False),
    )
    layers = parameters.get("hidden_layer_sizes")
    alone = _alone(fitted, folder / "other.parquet", seconds)
    return {
        "task": task,
        "estimator": f"{estimator} {'x'.join(map(str, layers))}" if layers else estimator,
        "served": found.record.chosen,
        "reason": found.record.reason,
        "alone": {str(batch): time for batch, time in alone.items()},
        "files": [_file(one) for one in found.measured],
    }


def _alone(fitted: Fitted, rows: Path, seconds: float) -> dict[int, float]:
    """Time of scikit-learn's estimator by itself, in µs by rows of a call."""
    columns, model = fitted.pipeline.named_steps["columns"], fitted.pipeline.named_steps["model"]
    matrix = columns.transform(fitted.features.frame(pq.read_table(rows)))
    predict = model.predict if fitted.task == "regression" else model.predict_proba
    texts = np.empty((len(matrix), 0), dtype=object)
    found = {}
    with threadpool_limits(limits=1):
        for batch in OptimiseSpec().batches:
            found |= {batch: latencies({"": lambda a, _: predict(a)}, matrix, texts, batch=batch, seconds=seconds)[""]}
    return found


def _file(one: Measured) -> dict[str, Any]:
    record = one.record
    return {
        "name": record.name,
        "microseconds": {str(batch): time for batch, time in one.microseconds.items()},
        "size": record.size,
        "difference": record.difference,
        "loss": record.loss,
        "refused": record.refused,
    }


def _times(files: dict[str, Any], name: str) -> list[str]:
    if name not in files or not files[name]["microseconds"]:
        return ["-", "-"]
    return [f"{time:,.0f}" if time >= 100 else f"{time:.1f}" for time in files[name]["microseconds"].values()]


def _ratios(files: dict[str, Any], served: str, than: str = "skops") -> list[float]:
    before, after = files[than]["microseconds"], files[served]["microseconds"]
    return [before[batch] / after[batch] for batch in before]


def show(results: list[dict[str, Any]], title: str) -> None:
    """Print the results as a table, and whether the tree ensembles reach their target."""
    files_of_one = ["skops", "alone", "onnx", "int8"]
    headings = [f"{name} {batch}" for batch in (1, 64) for name in [*files_of_one, "times"]]
    table = Table("task", "estimator", *headings, "difference", "served", title=title)
    for heading in table.columns[2:-1]:
        heading.justify = "right"
    for result in results:
        files = _by_name(result)
        one, many = zip(*(_times(files, name) for name in ("skops", "alone", "onnx", "onnx-int8")), strict=True)
        ratios = [f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}" for ratio in _ratios(files, result["served"])]
        difference = files[result["served"]]["difference"]
        cells = [*one, ratios[0], *many, ratios[1]]
        shown = "-" if difference is None else f"{difference:.1g}"
        table.add_row(result["task"], result["estimator"], *cells, shown, result["served"])
    console = Console(width=None if sys.stdout.isatty() else 170)
    console.print(table)
    for result in results:
        files = _by_name(result)
        if (int8 := files.get("onnx-int8")) and int8["microseconds"]:
            console.print(f"{result['estimator']}, int8 loses {int8['loss']:.2g} at worst: {result['reason']}.")
    trees = [(result, _by_name(result)) for result in results if result["estimator"] in ENSEMBLES]
    least = {
        name: min((_ratios(files, one["served"], name)[0], one["estimator"]) for one, files in trees)
        for name in ("skops", "alone")
    }
    verdict = "reached" if least["skops"][0] >= TARGET else "missed"
    console.print("Tree ensembles at 1 row: at least {:,.0f} times ({}).".format(*least["skops"]), end=" ")
    console.print(f"The target of {TARGET} is {verdict}.")
    console.print("Against the estimator alone, given a finished matrix: {:,.1f} times ({}).".format(*least["alone"]))


def _by_name(result: dict[str, Any]) -> dict[str, Any]:
    alone = {"name": "alone", "microseconds": result["alone"]}
    return {file["name"]: file for file in [*result["files"], alone]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--quick", action="store_true", help="fewer rows, shorter rounds, one wide network")
    parser.add_argument("--rows", type=int, default=20_000, help="rows to fit on")
    parser.add_argument("--seconds", type=float, default=0.5, help="time for each file at each batch size")
    arguments = parser.parse_args()
    wait_without_spinning()
    rows, seconds = (2_000, 0.1) if arguments.quick else (arguments.rows, arguments.seconds)
    results = []
    with tempfile.TemporaryDirectory(prefix="headway-model-files-") as scratch:
        folder = Path(scratch)
        pq.write_table(make_table(rows, 0), folder / "train.parquet")
        pq.write_table(make_table(2_000, 1), folder / "other.parquet")
        for task, estimator, parameters in cases(quick=arguments.quick):
            results.append(measure(task, estimator, parameters, folder, seconds))
            sys.stderr.write(f"{len(results):3d}  {task} {results[-1]['estimator']}\n")
    machine = f"Python {platform.python_version()} on {platform.machine()}"
    versions = {package: version(package) for package in PACKAGES}
    if arguments.json:
        document = {"machine": machine, "versions": versions, "rows": rows, "models": results}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return
    named = ", ".join(f"{package} {number}" for package, number in versions.items())
    show(results, f"µs of one call, fitted on {rows:,} rows of 20 columns; {named}; {machine}")


if __name__ == "__main__":
    main()
