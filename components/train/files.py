"""Write a fit as a bundle folder: model files, contract, profile, signature, example, environment, manifest.

The folder is written beside its place and moved there in one step, so that a run that is killed leaves no half bundle.
Nothing in it depends on when or where it was made: no time, no host, no user, no run.
"""

import importlib.metadata
import json
import math
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from headway.components import bundle as layout
from headway.components.bundle import BundleInfo, Lineage, Signature, write_manifest
from headway.components.data_validate.contract import ColumnType, Contract
from headway.components.errors import ParityError, SourceError, TrainingError
from headway.components.model import onnx_session
from headway.components.train.estimators import TrainSpec
from headway.components.train.fit import Fitted
from headway.components.train.onnx_file import Parity, compare, convert
from headway.components.train.skops_file import write_skops

EXAMPLE_ROWS = 5
PACKAGES = ("headway", "scikit-learn", "skops", "onnxruntime", "skl2onnx", "numpy", "pandas")
"""Packages whose version decides how a bundle was made and opens."""

_MLFLOW_TYPES = {
    ColumnType.INTEGER: "long",
    ColumnType.NUMBER: "double",
    ColumnType.BOOLEAN: "boolean",
    ColumnType.STRING: "string",
    ColumnType.TIMESTAMP: "datetime",
}


@dataclass(frozen=True, kw_only=True)
class Written:
    """A bundle on disk."""

    path: Path
    info: BundleInfo
    digest: str
    parity: Parity | None
    """How far the ONNX graph is from the pipeline; None where there is no graph to compare."""
    onnx_note: str
    """Why there is no ONNX file; empty when there is one."""


def write_bundle(
    fitted: Fitted,
    output: Path,
    *,
    name: str,
    contract: Contract,
    spec: TrainSpec,
    lineage: Lineage,
    profile: Path | None = None,
) -> Written:
    """Write a fit as a bundle.

    Args:
        fitted: The fit.
        output: The folder to write; an older bundle there is replaced, anything else is refused.
        name: The model's name.
        contract: The contract that it was trained under.
        spec: The training section.
        lineage: Where the model came from.
        profile: The training part's profile, as data_validate wrote it.

    Raises:
        ParityError: ONNX is required, and the graph disagrees with the pipeline.
        TrainingError: ONNX is required and does not convert, the estimator cannot be written, or the place is taken.
        SourceError: The profile is missing.
    """
    with in_place_of(output) as folder:
        _write_skops(fitted, folder / layout.SKOPS_MODEL, spec)
        parity, note = write_onnx(
            fitted,
            folder / layout.ONNX_MODEL,
            estimator=spec.estimator,
            wanted=spec.onnx,
            tolerance=spec.parity_tolerance,
        )
        has_onnx = (folder / layout.ONNX_MODEL).exists()
        info = BundleInfo(
            name=name,
            task=fitted.task,
            target=fitted.target,
            classes=fitted.classes,
            estimator=spec.estimator,
            parameters=spec.parameters,
            formats=["onnx", "skops"] if has_onnx else ["skops"],
            parity=parity.difference if parity and has_onnx else None,
            lineage=lineage,
        )
        write_documents(folder, fitted, info, contract, profile)
        digest = write_manifest(folder)
    return Written(path=output, info=info, digest=digest, parity=parity, onnx_note=note)


def _write_skops(fitted: Fitted, path: Path, spec: TrainSpec) -> None:
    try:
        write_skops(fitted.pipeline, path)
    except (TypeError, ValueError, AttributeError) as error:
        raise TrainingError(
            f"Estimator {spec.estimator!r} cannot be written as a skops file: {error}",
            fix="take an estimator that skops supports; Headway writes no pickle",
        ) from error


def write_onnx(
    fitted: Fitted,
    path: Path,
    *,
    estimator: str,
    wanted: Literal["auto", "require", "off"] = "auto",
    tolerance: float = 1e-4,
    conversion: Callable[[Fitted], bytes] | None = None,
) -> tuple[Parity | None, str]:
    """Write the graph where it converts and agrees; otherwise say why not, or fail where it is required.

    Args:
        fitted: The fit, whose pipeline is what the graph must agree with.
        path: The file to write.
        estimator: Its name, for messages.
        wanted: What the training section says of the ONNX file.
        tolerance: Largest difference of a probability, or as a share of the target's standard deviation.
        conversion: What makes the graph; scikit-learn's by default.

    Returns:
        How far the graph is from the pipeline where there was one, and why no file was written, or an empty text.

    Raises:
        ParityError: It is required, and the graph disagrees with the pipeline.
        TrainingError: It is required, and does not convert.
    """
    if wanted == "off":
        return None, "turned off in the training section"
    try:
        graph = (conversion or convert)(fitted)
    except TrainingError as error:
        if wanted == "require":
            raise TrainingError(
                f"Estimator {estimator!r} has no ONNX file: {error.problem}", fix="set `onnx: auto`"
            ) from error
        return None, error.problem
    parity = compare(fitted, onnx_session(graph))
    allowed = tolerance * fitted.target_scale
    # Written the other way round, NaN would pass.
    if not parity.difference <= allowed:
        problem = (
            f"differs from the pipeline by {parity.difference:.3g} on {parity.rows:,} rows ({parity.flips} labels)"
        )
        if wanted == "require":
            raise ParityError(
                f"The ONNX file {problem}",
                expected=f"at most {allowed:.3g}",
                fix="raise `parity_tolerance`, set `onnx: auto`, or take another estimator",
            )
        return parity, f"{problem}; allowed is {allowed:.3g}"
    path.write_bytes(graph)
    return parity, ""


def write_documents(folder: Path, fitted: Fitted, info: BundleInfo, contract: Contract, profile: Path | None) -> None:
    """Write all of a bundle but its model files and its manifest.

    Raises:
        SourceError: The profile cannot be read.
    """
    signature = Signature.of(contract, fitted.task)
    (folder / layout.CONTRACT).write_text(contract.dump(), encoding="utf-8")
    _write_json(folder / layout.INFO, info.model_dump(mode="json"))
    _write_json(folder / layout.SIGNATURE, signature.model_dump(mode="json"))
    _write_json(folder / layout.INPUT_EXAMPLE, _example(fitted, contract))
    _write_json(folder / layout.ENVIRONMENT, environment(fitted.packages))
    (folder / layout.MLMODEL).write_text(_mlmodel(signature), encoding="utf-8")
    if profile is not None:
        try:
            shutil.copyfile(profile, folder / layout.PROFILE)
        except OSError as error:
            raise SourceError(
                f"{profile}: cannot be read: {error.strerror}", expected="the training profile"
            ) from error


def environment(more: Sequence[str] = ()) -> dict[str, Any]:
    """The Python version and the versions of the packages that made a bundle.

    Args:
        more: Packages beside those that every bundle names.

    Example:
        >>> sorted(environment()["packages"])[:2]
        ['headway', 'numpy']
    """
    packages = {name: importlib.metadata.version(name) for name in (*PACKAGES, *more)}
    return {"python": platform.python_version(), "packages": packages}


def _example(fitted: Fitted, contract: Contract) -> list[dict[str, Any]]:
    return [
        {name: _json_value(row[name], contract.columns[name].type) for name in contract.features}
        for row in fitted.sample.slice(0, EXAMPLE_ROWS).to_pylist()
    ]


def _json_value(value: Any, kind: ColumnType) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if kind is ColumnType.INTEGER:
        return int(value)
    if kind is ColumnType.NUMBER:
        return float(value)
    if kind is ColumnType.BOOLEAN:
        return bool(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _mlmodel(signature: Signature) -> str:
    import yaml

    document = {
        "flavors": {
            "python_function": {
                "loader_module": "headway.components.model",
                "python_version": platform.python_version(),
            }
        },
        "mlflow_version": importlib.metadata.version("mlflow"),
        "signature": {
            "inputs": json.dumps([_mlflow_port(port) for port in signature.inputs], ensure_ascii=False),
            "outputs": json.dumps([_mlflow_port(port) for port in signature.outputs], ensure_ascii=False),
            "params": None,
        },
    }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=1_000_000)


def _mlflow_port(port: layout.Port) -> dict[str, Any]:
    kind = port.type
    if not port.required and kind in (ColumnType.INTEGER, ColumnType.BOOLEAN):
        # A pandas column with gaps holds floats or objects, which MLflow refuses as a `long` or `boolean`.
        kind = ColumnType.NUMBER
    return {"type": _MLFLOW_TYPES[kind], "name": port.name, "required": port.required}


def _write_json(path: Path, document: Any) -> None:
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


@contextmanager
def in_place_of(output: Path) -> Iterator[Path]:
    """A new folder beside `output` that takes its place when the block ends well, and goes away when it does not."""
    taken = output.exists() and not _replaceable(output)
    if taken:
        raise TrainingError(f"{output}: is taken by something else", expected="a free path or an older bundle")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as private:
        folder = Path(private) / "new"
        folder.mkdir()
        yield folder
        if output.exists():
            output.replace(Path(private) / "old")
        folder.replace(output)


def _replaceable(output: Path) -> bool:
    return output.is_dir() and ((output / layout.MANIFEST).is_file() or not any(output.iterdir()))
