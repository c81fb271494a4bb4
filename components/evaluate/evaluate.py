"""The plain step: judge a bundle on the valid validation part, against the rules and against the champion.

The candidate and the champion predict the same rows in this process, so their difference is paired; the champion's
numbers of its own day are never reused, because the data has changed since.
"""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from headway.components.bundle import bundle_digest
from headway.components.errors import DataError, EvaluationError, PlatformError, SourceError, UsageError
from headway.components.evaluate.bootstrap import paired_intervals, with_intervals
from headway.components.evaluate.gate import ChampionResult, EvaluationSpec, Verdict, decide
from headway.components.evaluate.importance import Importance, importances
from headway.components.evaluate.metrics import Measurement, Sample, classified, metric, regressed
from headway.components.evaluate.slices import SliceResult, columns_of, split, unjudged

if TYPE_CHECKING:
    import pyarrow as pa

    from headway.components.settings import Settings
    from headway.components.trust import Policy, TrustedModel

REPORT_FILE = "evaluation.html"
METRIC_PREFIX = "validation_"
"""In MLflow the metrics of the validation part stand beside those of training."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A judged model: the verdict, and what the report draws."""

    verdict: Verdict
    sample: Sample
    """The candidate's rows."""
    primary: str
    level: float
    champion: ChampionResult | None = None
    champion_sample: Sample | None = None
    importances: list[Importance] = field(default_factory=list)
    seconds: float = 0.0
    """Wall time of the whole step."""

    def html(self) -> str:
        """The report as one self-contained page."""
        from headway.components.evaluate.report import render

        return render(
            self.verdict,
            self.sample,
            self.primary,
            champion=self.champion_sample,
            champion_metrics=self.champion.metrics if self.champion else None,
            importances=self.importances,
            level=self.level,
        )

    def markdown(self) -> str:
        """The short text of the run page."""
        from headway.components.evaluate.report import summary

        return summary(self.verdict, self.primary)

    def show(self, *, metrics: Any, plots: Any, verdict: Any, summary: Any, report: Any) -> None:
        """Fill the artifacts of the run page.

        Args:
            metrics: A `dsl.Metrics`.
            plots: A `dsl.ClassificationMetrics`; stays empty for regression.
            verdict: A `dsl.Artifact` for the verdict as JSON.
            summary: A `dsl.Markdown`.
            report: A `dsl.HTML`.
        """
        from headway.components import run_page
        from headway.components.evaluate.report import confusion, roc

        run_page.log_metrics(metrics, _scalars(self.verdict.metrics))
        curve, matrix = roc(self.sample), confusion(self.sample)
        if curve is not None:
            run_page.log_roc(plots, *(part.tolist() for part in curve))
        if matrix is not None:
            run_page.log_confusion(plots, *matrix)
        run_page.write_text(verdict, self.verdict.model_dump_json(indent=2) + "\n")
        verdict.metadata["decision"] = str(self.verdict.decision)
        run_page.write_text(summary, self.markdown())
        run_page.write_text(report, self.html())


@dataclass(frozen=True, kw_only=True)
class Champion:
    """The model that serves now."""

    version: str
    """The registry's number."""
    bundle: Path
    """Its bundle's folder."""


def run(
    name: str,
    evaluation: str,
    bundle: str | Path,
    data: str | Path,
    *,
    champion: str = "",
    data_digest: str = "",
    run_id: str = "",
) -> Evaluation:
    """The whole step: read the section, fetch the champion, judge, and write to the training's MLflow run.

    Args:
        name: The model's name in the registry.
        evaluation: The evaluation section, as YAML text.
        bundle: The candidate's folder.
        data: The valid validation part, a Parquet file.
        champion: Version to compare with; "auto" for the one that serves now, empty for none.
        data_digest: Content digest of the data, for the verdict.
        run_id: The MLflow run that trained the model; empty where nothing was tracked.

    Raises:
        HeadwayError: As `evaluate`, `champion_for` and `log_evaluation` say.
    """
    spec = EvaluationSpec.parse(evaluation, where="evaluation")
    with tempfile.TemporaryDirectory(prefix="headway-champion-") as folder:
        rival = champion_for(name, champion, Path(folder) / "bundle")
        judged = evaluate(spec, Path(bundle), Path(data), name=name, champion=rival, data_digest=data_digest)
    if run_id:
        log_evaluation(judged, run_id)
    return judged


def evaluate(
    spec: EvaluationSpec,
    bundle: Path,
    data: Path,
    *,
    name: str = "",
    champion: Champion | None = None,
    data_digest: str = "",
    policy: "Policy | None" = None,
) -> Evaluation:
    """Judge a bundle.

    Args:
        spec: The evaluation section.
        bundle: The candidate's folder, as `train` wrote it: its manifest is checked, it is not signed yet.
        data: The valid validation part, a Parquet file.
        name: The model's name; a bundle of another model is refused. Empty accepts any.
        champion: The model to compare with; its signature is checked.
        data_digest: Content digest of the data, for the verdict.
        policy: The trust policy; the installation's by default.

    Raises:
        UsageError: The bundle is of another model.
        ConfigError: The section does not fit the model's task or contract.
        TrustError: A bundle must not be loaded.
        SourceError: The data cannot be read, or lacks a column.
        EvaluationError: There are no rows, a row has no target, or a rule's metric is undefined.
    """
    from headway.components.trust import load_bundle

    started = time.perf_counter()
    candidate = load_bundle(bundle, policy=policy, require_signature=False)
    if name and candidate.info.name != name:
        raise UsageError(f"{bundle} is a bundle of the model {candidate.info.name!r}", expected=f"one of {name!r}")
    task = candidate.info.task
    spec.check(task)
    same = champion is not None and bundle_digest(champion.bundle) == candidate.digest
    rival = load_bundle(champion.bundle, policy=policy) if champion is not None and not same else None
    table = _read(spec, data, candidate, rival)
    sample = _sample(candidate, candidate, table, data)
    theirs, problem = _rival_sample(rival, candidate, table, data)
    metrics, compared = _measured(spec, sample, theirs)
    if champion is not None:
        compared = compared.model_copy(
            update={
                "version": champion.version,
                "digest": rival.digest if rival else candidate.digest,
                "same": same,
                "problem": problem,
            }
        )
    verdict = decide(
        spec,
        metrics,
        rows=sample.rows,
        slices=_slices(spec, candidate, sample, table),
        champion=compared if champion is not None else None,
        unseen={str(label): count for label, count in sample.unseen.items()},
    )
    return Evaluation(
        verdict=verdict.model_copy(
            update={"name": candidate.info.name, "bundle_digest": candidate.digest, "data_digest": data_digest}
        ),
        sample=sample,
        primary=spec.primary_for(task),
        level=spec.bootstrap.level,
        champion=compared if champion is not None else None,
        champion_sample=theirs,
        importances=_importances(spec, candidate, table, data),
        seconds=time.perf_counter() - started,
    )


def log_evaluation(evaluation: Evaluation, run_id: str, settings: "Settings | None" = None) -> None:
    """Write metrics, decision and report to the MLflow run that trained the model.

    Args:
        evaluation: What to write.
        run_id: The run.
        settings: Where MLflow is; the installation's settings by default.

    Raises:
        PlatformError: MLflow cannot be reached, or has no such run.
    """
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from mlflow.exceptions import MlflowException

    from headway.components.settings import load_settings

    uri = (settings or load_settings()).resolved_tracking_uri
    now = int(time.time() * 1000)
    values = _scalars(evaluation.verdict.metrics)
    try:
        client = MlflowClient(tracking_uri=uri)
        client.log_batch(run_id, [Metric(METRIC_PREFIX + name, value, now, 0) for name, value in values.items()])
        client.set_tag(run_id, "headway.decision", str(evaluation.verdict.decision))
        client.set_tag(run_id, "headway.headline", evaluation.verdict.headline)
        client.log_text(run_id, evaluation.html(), REPORT_FILE)
        client.log_text(run_id, evaluation.verdict.model_dump_json(indent=2), "verdict.json")
    except (MlflowException, OSError) as error:
        raise PlatformError(
            f"The evaluation could not be written to MLflow run {run_id!r} at {uri}: {str(error).splitlines()[0]}",
            fix="check the tracking address with `headway config`",
        ) from error


def champion_for(name: str, wanted: str, folder: Path, settings: "Settings | None" = None) -> Champion | None:
    """Fetch the champion to compare with.

    Args:
        name: The model's name.
        wanted: A version of the registry, "auto" for the one that serves now (if any does), or "" for none.
        folder: Where to put its bundle; it must not exist yet.
        settings: Where the registry is; the installation's settings by default.

    Raises:
        UnknownNameError: There is no such version.
        RegistryError: The files cannot be fetched.
    """
    if not wanted:
        return None
    from headway.components.register.registry import Registry

    registry = Registry(settings)
    version = registry.find_champion(name) if wanted == "auto" else registry.version(name, wanted)
    if version is None:
        return None
    return Champion(version=str(version.version), bundle=registry.download(version, folder))


def _scalars(metrics: Mapping[str, Measurement]) -> dict[str, float]:
    return {name: found.value for name, found in metrics.items() if found.value is not None}


def _read(spec: EvaluationSpec, data: Path, candidate: "TrustedModel", rival: "TrustedModel | None") -> "pa.Table":
    """The rows, with only the columns that something reads."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    contract = candidate.contract
    needed = [*contract.features, candidate.info.target, *([contract.weight] if contract.weight else [])]
    needed += columns_of(spec.slices, contract)
    try:
        present = pq.read_schema(data).names
        missing = [name for name in needed if name not in present]
        if missing:
            raise SourceError(
                f"{data}: no column {', '.join(map(repr, missing))}", expected="the valid validation part of the model"
            )
        needed += [name for name in (rival.contract.features if rival else ()) if name in present]
        table = pq.read_table(data, columns=list(dict.fromkeys(needed)))
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{data}: {str(error).splitlines()[0]}", expected="a Parquet file") from None
    if table.num_rows == 0:
        raise EvaluationError(
            f"{data}: there are no rows to evaluate on", fix="check the split and what validation put into quarantine"
        )
    return table


def _sample(model: "TrustedModel", candidate: "TrustedModel", table: "pa.Table", data: Path) -> Sample:
    """What a model predicts for the rows; target, classes and weight are the candidate's."""
    info, contract = candidate.info, candidate.contract
    target = _target(table, info.target, data)
    weight = _values(table, contract.weight) if contract.weight else None
    predicted = model.predict(table)
    if info.task == "regression":
        return regressed(target, predicted.labels, weight=weight)
    return classified(info.task, target, predicted.labels, predicted.probabilities, info.classes, weight=weight)


def _target(table: "pa.Table", name: str, data: Path) -> NDArray[Any]:
    import pyarrow.compute as pc

    missing = pc.sum(pc.is_null(table.column(name), nan_is_null=True)).as_py()
    if missing:
        raise EvaluationError(
            f"{data}: {missing:,} of {table.num_rows:,} rows have no value of the target {name!r}",
            expected="a target in every row",
            fix="give the target a rule for missing values in the contract, so that such rows go to quarantine",
        )
    return _values(table, name)


def _values(table: "pa.Table", name: str) -> NDArray[Any]:
    values: NDArray[Any] = table.column(name).to_numpy()
    return values


def _rival_sample(
    rival: "TrustedModel | None", candidate: "TrustedModel", table: "pa.Table", data: Path
) -> tuple[Sample | None, str]:
    """What the champion predicts for the candidate's rows, or why it cannot."""
    if rival is None:
        return None, ""
    for what, theirs, ours in (
        ("task", rival.info.task, candidate.info.task),
        ("target", rival.info.target, candidate.info.target),
        ("classes", rival.info.classes, candidate.info.classes),
    ):
        if theirs != ours:
            return None, f"its {what} is {theirs}, the candidate's is {ours}"
    try:
        return _sample(rival, candidate, table, data), ""
    except DataError as error:
        return None, error.problem


def _measured(
    spec: EvaluationSpec, sample: Sample, rival: Sample | None
) -> tuple[dict[str, Measurement], ChampionResult]:
    names = spec.metrics_for(sample.task)
    if rival is None:
        return with_intervals(sample, names, spec.bootstrap), ChampionResult()
    paired = paired_intervals(sample, rival, names, spec.bootstrap)
    return paired.candidate, ChampionResult(metrics=paired.champion, differences=paired.difference)


def _slices(spec: EvaluationSpec, candidate: "TrustedModel", sample: Sample, table: "pa.Table") -> list[SliceResult]:
    names = spec.slice_metrics(sample.task)
    results = []
    for part in split(spec.slices, table, candidate.contract):
        rows = sample.subset(part.rows)
        why = unjudged(part.slice, rows)
        results.append(
            SliceResult(
                slice=part.slice.name,
                label=part.label,
                rows=rows.rows,
                metrics={} if why else with_intervals(rows, names, spec.bootstrap),
                unjudged=why,
                too_small=part.slice.too_small,
            )
        )
    return results


def _importances(spec: EvaluationSpec, candidate: "TrustedModel", table: "pa.Table", data: Path) -> list[Importance]:
    if not spec.importances:
        return []
    return importances(
        lambda rows: _sample(candidate, candidate, rows, data),
        table,
        list(candidate.contract.features),
        metric(spec.primary_for(candidate.info.task)),
        seed=spec.bootstrap.seed,
    )
