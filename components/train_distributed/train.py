"""The distributed training step: one MLflow run around a job, wherever it runs."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from headway.components.bundle import Lineage, sha256_file
from headway.components.data_validate.contract import Contract
from headway.components.errors import SourceError
from headway.components.settings import Settings, load_settings
from headway.components.train.tracking import code_revision, tracked_run
from headway.components.train_distributed.job import Job, Progress, Result
from headway.components.train_distributed.launch import launch
from headway.components.train_distributed.spec import DistributedSpec
from headway.components.train_distributed.track import LiveCurve, scalars


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a distributed training step made."""

    job: Job
    result: Result
    run_link: str
    """The MLflow run's page; empty where nothing serves one."""

    @property
    def metadata(self) -> dict[str, Any]:
        """What the bundle's artifact says about it; the run stands here, outside the bundle."""
        result = self.result
        return {
            "framework": "torch",
            "estimator": self.job.training.network,
            "task": result.task,
            "digest": result.digest,
            "run_id": self.job.run_id,
            "run_link": self.run_link,
            "formats": ",".join(result.formats),
            "parity": result.parity if result.parity is not None else "",
            "onnx_note": result.onnx_note,
            "weights": result.weights,
        }

    @property
    def metrics(self) -> dict[str, float]:
        """Scalars of the job: losses, sizes, speed."""
        return scalars(self.result)

    def _repr_html_(self) -> str:
        """What a notebook shows: the report."""
        from html import escape

        from headway.components.train_distributed.report import training_report

        page = escape(training_report(self))
        return f'<iframe sandbox srcdoc="{page}" style="width: 100%; height: 640px; border: 0"></iframe>'


def train_distributed(
    data: str | Path,
    output: str | Path,
    *,
    name: str,
    contract: Contract,
    spec: DistributedSpec,
    profile: str | Path | None = None,
    data_digest: str = "",
    folder: str | Path | None = None,
    settings: Settings | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_log: Callable[[str], None] | None = None,
) -> Trained:
    """Train a network, write its bundle, and log both to MLflow.

    Args:
        data: The valid training part: a Parquet file or a folder of them; an fsspec address where ranks run elsewhere.
        output: The bundle's folder, or an fsspec address; rank 0 writes it there, once.
        name: The model's name, and the MLflow experiment's.
        contract: The data contract.
        spec: The training section.
        profile: The training part's profile as JSON.
        data_digest: Content digest of the training part; empty takes that of the files.
        folder: Working folder for checkpoints, on storage that every rank sees; under the settings' home by default.
            A run that was stopped or killed goes on from it, in whatever pipeline run it is started again.
        settings: The settings in force, if not the usual ones.
        on_progress: Called with each line of progress.
        on_log: Called with each line of output.

    Raises:
        PlatformError: MLflow or the cluster cannot be reached; known before training begins.
        ConfigError: The training section does not fit the contract, the network or the machine.
        SourceError: The data or the profile cannot be read.
        TrainingError: Training failed, hung or was stopped; says why.
    """
    settings = settings or load_settings()
    spec.check()
    lineage = Lineage(
        data_digest=data_digest or _digest(str(data)),
        contract_digest=contract.digest(),
        code_revision=code_revision(),
        seed=spec.seed,
    )
    home = settings.home.expanduser().resolve()
    job = Job(
        name=name,
        contract=contract.dump(),
        training=spec,
        data=_absolute(data),
        output=_absolute(output),
        folder=str(Path(folder).resolve() if folder else home / "training" / name),
        lineage=lineage,
        profile=_absolute(profile) if profile else "",
    )
    with tracked_run(name, settings) as run:
        job = job.model_copy(update={"run_id": run.run_id})
        run.log(params=_params(job), tags={"headway.model": name, "headway.step": "train_distributed"})
        live = LiveCurve(run)

        def told(progress: Progress) -> None:
            live(progress)
            if on_progress is not None:
                on_progress(progress)

        result = launch(job, settings=settings, on_progress=told, on_log=on_log)
    _forget(job)
    return Trained(job=job, result=result, run_link=run.link)


def _absolute(place: str | Path) -> str:
    return str(place) if "://" in str(place) else str(Path(place).resolve())


def _digest(address: str) -> str:
    """A digest of local files, by their bytes; of remote ones by their address and the sizes of their row groups."""
    path = Path(address)
    if path.is_file():
        return sha256_file(path)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return sha256("".join(sha256_file(file) for file in files).encode()).hexdigest()
    if "://" not in address:
        raise SourceError(f"{address}: no such file", expected="the training part as Parquet")
    return sha256(address.encode()).hexdigest()


def _params(job: Job) -> dict[str, Any]:
    section = job.training.model_dump(mode="json", exclude={"parameters", "placement", "checkpoint", "early_stopping"})
    inner = {
        "parameters": job.training.parameters,
        "placement": job.training.placement.model_dump(mode="json"),
        "early_stopping": job.training.early_stopping.model_dump(mode="json") if job.training.early_stopping else {},
    }
    flat = {f"{key}.{name}": value for key, values in inner.items() for name, value in values.items()}
    lineage = {"data_digest": job.lineage.data_digest, "contract_digest": job.lineage.contract_digest}
    return section | flat | lineage


def _forget(job: Job) -> None:
    """Remove the checkpoints of a job whose bundle is written: they were for the case that it is not."""
    import shutil

    shutil.rmtree(job.state, ignore_errors=True)
