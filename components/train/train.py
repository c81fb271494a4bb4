"""The training step: one MLflow run around fit, files and their comparison."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headway.components.bundle import Lineage, sha256_file
from headway.components.data_validate.contract import Contract
from headway.components.errors import SourceError
from headway.components.settings import Settings, load_settings
from headway.components.train.estimators import TrainSpec, find
from headway.components.train.files import Written, environment, write_bundle
from headway.components.train.fit import Fitted, fit, wait_without_spinning
from headway.components.train.tracking import Run, code_revision, tracked_run


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training step made."""

    written: Written
    fitted: Fitted
    run_id: str
    run_link: str
    """The MLflow run's page; empty where nothing serves one."""

    @property
    def metadata(self) -> dict[str, Any]:
        """What the bundle's artifact says about it; the run stands here, outside the bundle."""
        info = self.written.info
        return {
            "framework": "scikit-learn",
            "estimator": info.estimator,
            "task": info.task,
            "digest": self.written.digest,
            "run_id": self.run_id,
            "run_link": self.run_link,
            "formats": ",".join(info.formats),
            "parity": info.parity if info.parity is not None else "",
            "onnx_note": self.written.onnx_note,
        }

    @property
    def metrics(self) -> dict[str, float]:
        """Scalars of the fit, and the largest difference between the model files."""
        parity = self.written.parity
        return self.fitted.metrics | ({"onnx_difference": parity.difference} if parity else {})


def train(
    data: Path,
    output: Path,
    *,
    name: str,
    contract: Contract,
    spec: TrainSpec,
    profile: Path | None = None,
    data_digest: str = "",
    settings: Settings | None = None,
) -> Trained:
    """Fit, write the bundle, and log both to MLflow.

    Args:
        data: The valid training part, a Parquet file.
        output: The bundle's folder.
        name: The model's name, and the MLflow experiment's.
        contract: The data contract.
        spec: The training section.
        profile: The training part's profile as JSON.
        data_digest: Content digest of the training part; empty takes the file's SHA-256.
        settings: Where MLflow is and how many threads a step may use; the installation's by default.

    Raises:
        PlatformError: MLflow cannot be reached; known before the fit begins.
        ConfigError: The training section does not fit the contract or the estimator.
        SourceError: The data or the profile cannot be read.
        TrainingError: The model could not be fitted or written.
    """
    settings = settings or load_settings()
    wait_without_spinning()
    find(spec.estimator)  # a misspelt name needs no run
    if not data.is_file():
        raise SourceError(f"{data}: no such file", expected="the training part as Parquet")
    lineage = Lineage(
        data_digest=data_digest or sha256_file(data),
        contract_digest=contract.digest(),
        code_revision=code_revision(),
        seed=spec.seed,
    )
    with tracked_run(name, settings) as run:
        run.log(params=_params(spec, lineage), tags=_tags(name, lineage))
        fitted = fit(data, contract, spec, threads=settings.threads)
        written = write_bundle(
            fitted, output, name=name, contract=contract, spec=spec, lineage=lineage, profile=profile
        )
        trained = Trained(written=written, fitted=fitted, run_id=run.run_id, run_link=run.link)
        _log(run, trained)
    return trained


def summary(trained: Trained) -> str:
    """The step's page as Markdown."""
    written, fitted = trained.written, trained.fitted
    info = written.info
    run = f"[{trained.run_id}]({trained.run_link})" if trained.run_link else f"`{trained.run_id}`"
    lines = [
        f"## {info.name}: {info.estimator} fitted on {fitted.rows:,} rows in {fitted.seconds:.1f} s",
        "",
        "| | |",
        "|---|---|",
        f"| task | {info.task}, target `{info.target}` |",
        f"| features | {len(fitted.features.columns)} columns, {len(fitted.features.names)} after typing |",
        f"| model files | {', '.join(info.formats)} |",
        f"| ONNX | {_onnx_line(written)} |",
        f"| bundle | `{written.digest[:16]}` |",
        f"| training data | `{info.lineage.data_digest[:16]}` |",
        f"| code | {f'`{info.lineage.code_revision}`' if info.lineage.code_revision else 'no git repository'} |",
        f"| MLflow run | {run} |",
        "",
        "Error on the training rows themselves says how well they were learnt, not how good the model is:",
        "",
        "| metric | value |",
        "|---|---|",
    ]
    lines += [f"| {name} | {value:,.6g} |" for name, value in trained.metrics.items()]
    return "\n".join(lines) + "\n"


def _onnx_line(written: Written) -> str:
    if written.onnx_note:
        return f"none: {written.onnx_note.replace('|', '/')}"
    parity = written.parity
    return (
        f"differs by at most {parity.difference:.2g} on {parity.rows:,} rows, {parity.flips} labels" if parity else ""
    )


def _params(spec: TrainSpec, lineage: Lineage) -> dict[str, Any]:
    section = spec.model_dump(mode="json", exclude={"parameters"})
    own = {f"parameters.{key}": value for key, value in spec.parameters.items()}
    return section | own | {"data_digest": lineage.data_digest, "contract_digest": lineage.contract_digest}


def _tags(name: str, lineage: Lineage) -> dict[str, str]:
    made_with = environment()
    packages = {f"headway.package.{package}": version for package, version in made_with["packages"].items()}
    return {
        "headway.model": name,
        "headway.step": "train",
        "headway.python": made_with["python"],
        "mlflow.source.git.commit": lineage.code_revision.removesuffix("-dirty"),
        "headway.code_revision": lineage.code_revision,
        **packages,
    }


def _log(run: Run, trained: Trained) -> None:
    written = trained.written
    run.log(
        metrics=trained.metrics,
        tags={
            "headway.digest": written.digest,
            "headway.formats": ",".join(written.info.formats),
            "headway.onnx_note": written.onnx_note,
        },
    )
    run.log_bundle(written.path)
