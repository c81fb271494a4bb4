"""What rank 0 leaves at the end: the bundle in its place, the MLflow run, the result for the launcher."""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.components import bundle as layout
from headway.components.bundle import BundleInfo, write_manifest
from headway.components.data_validate.contract import Contract
from headway.components.errors import SourceError
from headway.components.settings import load_settings
from headway.components.train.features import Features
from headway.components.train.files import in_place_of, write_documents, write_onnx
from headway.components.train.fit import Fitted
from headway.components.train_distributed.checkpoint import State, weights_digest
from headway.components.train_distributed.job import RESULT, Job, Result
from headway.components.train_distributed.network_file import NetworkDescription, NetworkPredictor, write_network
from headway.components.train_distributed.onnx_graph import convert
from headway.components.train_distributed.scan import Scan
from headway.components.train_distributed.track import log_result

PACKAGES = ("torch",)


class _Pipeline:
    """A network with the face of a scikit-learn pipeline, which the comparison of model files asks."""

    def __init__(self, predictor: NetworkPredictor) -> None:
        self._predictor = predictor

    def predict_proba(self, frame: Any) -> NDArray[np.float64]:
        """Probabilities (n, k) for a frame of `Features.join`."""
        features = self._predictor.features
        numbers = frame[features.numbers].to_numpy(np.float32)
        return self._predictor.raw(numbers, frame[features.texts].to_numpy(object))

    def predict(self, frame: Any) -> NDArray[np.float64]:
        """Values (n,) for a frame of `Features.join`."""
        return self.predict_proba(frame).reshape(-1)


def deliver(
    job: Job,
    contract: Contract,
    scan: Scan,
    weights: dict[str, Any],
    state: State,
    facts: dict[str, Any],
    started: float,
) -> Result:
    """Write bundle, MLflow run and result.

    Args:
        job: The job.
        contract: The data contract.
        scan: What is known of the table.
        weights: The best epoch's, whole, on the CPU.
        state: Where the run ended.
        facts: Fields of the result that the run knows.
        started: When this run began, on the clock of `time.perf_counter`.

    Raises:
        ParityError: ONNX is required, and disagrees with the network.
        TrainingError: ONNX is required and does not export, or the bundle's place is taken.
        PlatformError: MLflow did not take it.
    """
    from headway.components.train_distributed.networks import build

    spec = job.training
    model = build(spec.network, spec.parameters, scan.learnt)
    model.load_state_dict(weights)
    features = Features.of(contract)
    info = BundleInfo(
        name=job.name,
        task=scan.learnt.task,
        target=contract.require_target(),
        classes=scan.learnt.classes,
        estimator=spec.network,
        parameters=spec.parameters,
        formats=["torch"],
        lineage=job.lineage,
    )
    predictor = NetworkPredictor(model, scan.learnt, info, features)
    fitted = _fitted(predictor, contract, scan, facts["rows"], started)
    with tempfile.TemporaryDirectory(prefix="headway-bundle-") as private:
        remote = "://" in job.output
        place = Path(private) / "bundle" if remote else Path(job.output)
        written = _write(place, job, contract, info, predictor, fitted, weights, scan)
        result = Result(
            **facts,
            **written,
            task=info.task,
            classes=len(info.classes),
            features=len(features.names),
            epochs=state.epochs,
            best_epoch=state.best_epoch,
            steps=state.step,
            seconds=time.perf_counter() - started,
            weights=weights_digest(weights),
            metrics=fitted.metrics | _validation(state),
        )
        if job.run_id:
            log_result(job, result, place, load_settings())
        if remote:
            _upload(place, job.output)
    scratch = Path(job.folder) / f"{RESULT}.new"
    scratch.write_text(result.model_dump_json(indent=2), encoding="utf-8")
    scratch.replace(Path(job.folder) / RESULT)
    return result


def _fitted(predictor: NetworkPredictor, contract: Contract, scan: Scan, rows: int, started: float) -> Fitted:
    """The network in the form in which every fit is written and compared."""
    learnt, target = scan.learnt, contract.require_target()
    sample = scan.sample.drop_columns([target])
    found = predictor.raw(*predictor.features.arrays(sample))
    seconds = time.perf_counter() - started
    return Fitted(
        pipeline=_Pipeline(predictor),
        features=predictor.features,
        task=learnt.task,
        target=target,
        classes=list(learnt.classes),
        rows=rows,
        seconds=seconds,
        target_scale=learnt.target_scale,
        metrics={"rows": rows, "features": len(predictor.features.names), "fit_seconds": seconds}
        | _training_error(found, scan.sample.column(target).to_pylist(), learnt),
        sample=sample,
        packages=PACKAGES,
    )


def _training_error(found: NDArray[np.float64], target: list[Any], learnt: Any) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, log_loss, r2_score, root_mean_squared_error

    if learnt.task == "regression":
        values = np.array(target, dtype=np.float64)
        return {
            "training_rmse": float(root_mean_squared_error(values, found[:, 0])),
            "training_r2": float(r2_score(values, found[:, 0])),
        }
    codes = {label: code for code, label in enumerate(learnt.classes)}
    true = np.array([codes[value] for value in target])
    found = found / found.sum(axis=1, keepdims=True)  # they are 32 bits wide, and add up to 1 within that
    return {
        "training_accuracy": float(accuracy_score(true, found.argmax(axis=1))),
        "training_log_loss": float(log_loss(true, found, labels=range(len(codes)))),
    }


def _validation(state: State) -> dict[str, float]:
    return {} if state.best == float("inf") else {"validation_loss": state.best}


def _write(
    place: Path,
    job: Job,
    contract: Contract,
    info: BundleInfo,
    predictor: NetworkPredictor,
    fitted: Fitted,
    weights: dict[str, Any],
    scan: Scan,
) -> dict[str, Any]:
    spec = job.training
    with in_place_of(place) as folder, _profile(job.profile) as profile:
        description = NetworkDescription(network=spec.network, parameters=spec.parameters, preprocess=scan.learnt)
        write_network(folder, description, weights)
        parity, note = write_onnx(
            fitted,
            folder / layout.ONNX_MODEL,
            estimator=spec.network,
            wanted=spec.onnx,
            tolerance=spec.parity_tolerance,
            conversion=lambda one: convert(one, predictor.answers, scan.learnt),
        )
        has_onnx = (folder / layout.ONNX_MODEL).exists()
        difference = parity.difference if parity and has_onnx else None
        complete = info.model_copy(
            update={"formats": ["onnx", "torch"] if has_onnx else ["torch"], "parity": difference}
        )
        write_documents(folder, fitted, complete, contract, profile)
        digest = write_manifest(folder)
    return {"digest": digest, "formats": complete.formats, "parity": difference, "onnx_note": note}


class _profile:  # noqa: N801 - used as `with _profile(...)`
    """The training profile as a file of this machine, or None."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._folder = tempfile.TemporaryDirectory(prefix="headway-profile-")

    def __enter__(self) -> Path | None:
        if not self._address:
            return None
        if "://" not in self._address:
            return Path(self._address)
        import fsspec

        path = Path(self._folder.name) / layout.PROFILE
        try:
            with fsspec.open(self._address, "rb") as source, path.open("wb") as target:
                shutil.copyfileobj(source, target)
        except OSError as error:
            raise SourceError(f"{self._address}: cannot be read: {error}", expected="the training profile") from error
        return path

    def __exit__(self, *error: object) -> None:
        self._folder.cleanup()


def _upload(folder: Path, address: str) -> None:
    """Copy the bundle to an object store, its manifest last: without it nothing opens the rest."""
    import fsspec

    storage, root = fsspec.core.url_to_fs(address)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != layout.MANIFEST)
    for path in [*files, folder / layout.MANIFEST]:
        storage.put_file(str(path), f"{root.rstrip('/')}/{path.relative_to(folder).as_posix()}")
