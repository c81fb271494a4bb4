"""The plain step: measure the model files of a bundle on real rows, and write a bundle with the best one first.

A new bundle is made, never a changed one: a signature would not hold, and the registry knows bundles by their digest.
"""

import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headway.components.bundle import BundleInfo, Optimisation, bundle_digest
from headway.components.errors import ConfigError, TrainingError
from headway.components.optimise import files
from headway.components.optimise.choose import Measured, choose
from headway.components.optimise.compare import compared
from headway.components.optimise.files import INT8, ONNX, ModelFile
from headway.components.optimise.latency import latencies
from headway.components.optimise.quality import Rows, read_rows
from headway.components.optimise.spec import OptimiseSpec
from headway.components.train.files import in_place_of
from headway.components.trust import CheckedBundle, Policy, check_bundle, load_policy

if TYPE_CHECKING:
    from headway.components.settings import Settings

REPORT_FILE = "optimisation.html"


@dataclass(frozen=True, kw_only=True)
class Optimised:
    """What the step made, with what its report draws."""

    path: Path
    info: BundleInfo
    digest: str
    record: Optimisation
    measured: list[Measured] = field(default_factory=list)
    """Every file in the order of the record, with its times."""
    drawn: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """By file, what it says of some rows, shape (m,): the last class's probability, or the value."""
    seconds: float = 0.0
    """Wall time of the step."""

    @property
    def chosen(self) -> Measured | None:
        """The file that is served; None where nothing was measured."""
        return next((one for one in self.measured if one.record.name == self.record.chosen), None)

    @property
    def metadata(self) -> dict[str, Any]:
        """What the bundle's artifact says about it."""
        info = self.info
        return {
            "digest": self.digest,
            "formats": ",".join(info.formats),
            "parity": info.parity if info.parity is not None else "",
            "served": self.record.chosen,
            "optimisation": self.record.reason,
        }

    @property
    def metrics(self) -> dict[str, float]:
        """Scalars: times before and after at each batch size, how many times faster, and what int8 would lose."""
        found: dict[str, float] = {}
        before, after = self.measured[0] if self.measured else None, self.chosen
        for batch in self.record.batches if before and after else []:
            if before and after and before.microseconds and after.microseconds:
                found[f"microseconds_before_{batch}"] = before.microseconds[batch]
                found[f"microseconds_{batch}"] = after.microseconds[batch]
                found[f"speedup_{batch}"] = before.microseconds[batch] / after.microseconds[batch]
        for one in self.measured:
            if one.record.difference is not None and one is not before:
                found[f"{one.record.name.replace('-', '_')}_difference"] = one.record.difference
            if one.record.name == INT8 and one.record.loss is not None:
                found["int8_loss"] = one.record.loss
        return found

    def show(self, *, metrics: Any, summary: Any, report: Any) -> None:
        """Fill the artifacts of the run page.

        Args:
            metrics: A `dsl.Metrics`.
            summary: A `dsl.Markdown`.
            report: A `dsl.HTML`.
        """
        from headway.components import run_page

        run_page.log_metrics(metrics, self.metrics)
        run_page.write_text(summary, self.markdown())
        run_page.write_text(report, self.html())

    def html(self) -> str:
        """The report as one self-contained page."""
        from headway.components.optimise.report import render

        return render(self)

    def markdown(self) -> str:
        """The short text of the run page."""
        from headway.components.optimise.report import summary

        return summary(self)


def run(bundle: Any, data: Any, optimised: Any, *, section: str, evaluation: str) -> Optimised:
    """The whole step over artifacts: read the sections, optimise, and write to the training's MLflow run.

    Args:
        bundle: The `dsl.Model` that training wrote.
        data: The `dsl.Dataset` of the validation part.
        optimised: The `dsl.Model` to write; it says of itself what the bundle says, and what has changed.
        section: The optimise section, as YAML text.
        evaluation: The evaluation section, as YAML text.

    Raises:
        HeadwayError: As `optimise` and `log_optimisation` say.
    """
    from headway.components.evaluate.gate import EvaluationSpec

    spec = OptimiseSpec.parse(section, where="optimise")
    metric = EvaluationSpec.parse(evaluation, where="evaluation").primary or ""
    made = optimise(Path(bundle.path), Path(data.path), Path(optimised.path), spec, metric=metric)
    optimised.metadata.update({**bundle.metadata, **made.metadata})
    if run_id := str(bundle.metadata.get("run_id", "")):
        log_optimisation(made, run_id)
    return made


def optimise(
    bundle: Path,
    data: Path,
    output: Path,
    spec: OptimiseSpec | None = None,
    *,
    metric: str = "",
    policy: Policy | None = None,
) -> Optimised:
    """Measure a bundle's model files on real rows, and write a bundle whose first file is the best.

    Args:
        bundle: The bundle, as training wrote it; it stays as it is.
        data: Rows with the contract's columns and the target, a Parquet file; best ones the model was not fitted on.
        output: The folder of the new bundle; an older bundle there is replaced, anything else is refused.
        spec: The optimise section; its defaults otherwise.
        metric: What quality means where the section names no metric; the task's own otherwise.
        policy: The trust policy; the installation's by default.

    Raises:
        ConfigError: The metric does not fit the task, or output and bundle are one folder.
        SourceError: The data cannot be read, lacks a column or has no row.
        TrainingError: No file can be opened, int8 is required and refused, or the output is taken.
        TrustError: The bundle must not be opened.
    """
    started = time.perf_counter()
    spec = spec or OptimiseSpec()
    policy = policy or load_policy()
    if output.resolve() == bundle.resolve():
        raise ConfigError(f"{output}: is the bundle itself", expected="another folder: a bundle is never changed")
    with check_bundle(bundle, policy=policy, require_signature=False) as checked:
        if not spec.enabled:
            return _copied(checked, bundle, output)
        rows = read_rows(checked, data, spec.rows, spec.metric or metric)
        with tempfile.TemporaryDirectory(prefix="headway-optimise-") as scratch:
            candidates = _candidates(checked, policy, Path(scratch), rows, spec)
            measured, drawn = _measure(candidates, rows, spec)
        chosen, reason = choose(measured, spec)
        record = Optimisation(
            chosen=chosen,
            reason=reason,
            metric=rows.metric,
            rows=len(rows.numbers),
            batches=spec.batches,
            candidates=[one.record for one in measured],
        )
        info, graph = _described(checked.info, candidates, record, rows)
        with in_place_of(output) as folder:
            digest = files.write_files(checked, folder, info, graph)
    return Optimised(
        path=output,
        info=info,
        digest=digest,
        record=record,
        measured=measured,
        drawn=drawn,
        seconds=time.perf_counter() - started,
    )


def log_optimisation(optimised: Optimised, run_id: str, settings: "Settings | None" = None) -> None:
    """Write the decision, its numbers and the report to the MLflow run that trained the model.

    Args:
        optimised: What to write.
        run_id: The run.
        settings: Where MLflow is; the installation's settings by default.

    Raises:
        PlatformError: MLflow cannot be reached, or has no such run.
    """
    from mlflow import MlflowClient
    from mlflow.entities import Metric, RunTag
    from mlflow.exceptions import MlflowException

    from headway.components.errors import PlatformError
    from headway.components.settings import load_settings

    uri = (settings or load_settings()).resolved_tracking_uri
    now = int(time.time() * 1000)
    tags = {"headway.served": optimised.record.chosen, "headway.optimised_digest": optimised.digest}
    try:
        client = MlflowClient(tracking_uri=uri)
        client.log_batch(
            run_id,
            [Metric(f"optimise_{name}", value, now, 0) for name, value in optimised.metrics.items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )
        client.log_text(run_id, optimised.html(), REPORT_FILE)
    except (MlflowException, OSError) as error:
        raise PlatformError(
            f"The optimisation could not be written to MLflow run {run_id!r} at {uri}: {str(error).splitlines()[0]}",
            fix="check the tracking address with `headway config`",
        ) from error


def _copied(checked: CheckedBundle, bundle: Path, output: Path) -> Optimised:
    """The bundle as it is, under another path: the same digest."""
    import shutil

    with in_place_of(output) as folder:
        shutil.copytree(checked.folder, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
    record = Optimisation(chosen=checked.info.formats[0], reason="turned off in the optimise section", rows=0)
    return Optimised(path=output, info=checked.info, digest=bundle_digest(output), record=record)


def _candidates(
    checked: CheckedBundle, policy: Policy, scratch: Path, rows: Rows, spec: OptimiseSpec
) -> list[ModelFile]:
    """What training wrote first, where the policy lets it be opened; then the graph, then int8."""
    trained = files.as_trained(checked, policy, scratch)
    graph = files.as_graph(checked, policy, scratch, trained)
    found = [graph] if trained is None else [trained, graph]
    if spec.int8 != "off":
        found.append(files.as_int8(checked, policy, scratch, graph, rows.numbers, rows.texts))
    if found[0].predictor is None:
        raise TrainingError(f"No model file can be opened: {found[0].missing}")
    return found


def _measure(
    candidates: list[ModelFile], rows: Rows, spec: OptimiseSpec
) -> tuple[list[Measured], dict[str, NDArray[np.float64]]]:
    """Compare every file with the first one, then time those that agree."""
    first = candidates[0]
    drawn: dict[str, NDArray[np.float64]] = {}
    measured: list[Measured] = []
    for file in candidates:
        record, shown = compared(file, first, rows, spec)
        if file.name == INT8 and not record.refused and (base := measured[-1].record).refused:
            record = record.model_copy(update={"refused": f"{base.name}, which it is made from, is refused"})
        measured.append(Measured(record=record))
        if shown is not None:
            drawn[file.name] = shown
    ways = {
        file.name: file.predictor.predict_arrays
        for file, one in zip(candidates, measured, strict=True)
        if file.predictor is not None and one.allowed
    }
    times = {
        batch: latencies(ways, rows.numbers, rows.texts, batch=batch, seconds=spec.seconds) for batch in spec.batches
    }
    timed = [
        replace(one, microseconds={batch: found[one.record.name] for batch, found in times.items()})
        if one.record.name in ways
        else one
        for one in measured
    ]
    return timed, drawn


def _described(
    info: BundleInfo, candidates: list[ModelFile], record: Optimisation, rows: Rows
) -> tuple[BundleInfo, bytes]:
    """What the new bundle is, and its ONNX graph; a graph that is refused is left out."""
    allowed = {one.name for one in record.candidates if not one.refused}
    kept = INT8 if record.chosen == INT8 else ONNX
    graph = next((file.graph for file in candidates if file.name == kept and kept in allowed), b"")
    formats: list[Any] = [name for name in info.formats if name != ONNX]
    if graph:
        formats.insert(len(formats) if record.chosen in formats else 0, ONNX)
    of_graph = next((one for one in record.candidates if one.name == kept), None)
    difference = of_graph.difference if of_graph and graph else None
    return info.model_copy(
        update={
            "formats": formats,
            "parity": None if difference is None or len(formats) < 2 else difference * rows.scale,
            "optimisation": record,
        }
    ), graph
