"""A bundle: the folder that a model version is, from training to serving.

    bundle.json         what it is: name, task, target, classes, estimator, lineage (`BundleInfo`)
    model.skops         the fitted scikit-learn pipeline, preprocessing included; never a pickle
    model.npz           a network's weights as plain arrays, in the place of model.skops
    network.json        the network's architecture and preprocessing, beside model.npz
    model.onnx          the same as an ONNX graph, where it converts and agrees on real rows
    contract.yaml       what a request must be
    profile.json        what the training data looked like
    signature.json      the model's inputs and outputs (`Signature`)
    input_example.json  rows that the model accepts, as a list of records
    environment.json    Python and package versions
    MLmodel             lets `mlflow.pyfunc.load_model` open the folder, through the same trust gate
    manifest.json       SHA-256 and size of every file above
    bundle.sig          the detached signature, written at registration; not part of the manifest

Nothing in it depends on when or where it was made, so the same training gives the same digest.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from headway.components.config import Config
from headway.components.data_validate.contract import ColumnType, Contract
from headway.components.errors import TrustError

INFO = "bundle.json"
SKOPS_MODEL = "model.skops"
ONNX_MODEL = "model.onnx"
TORCH_MODEL = "model.npz"
NETWORK = "network.json"
CONTRACT = "contract.yaml"
PROFILE = "profile.json"
SIGNATURE = "signature.json"
INPUT_EXAMPLE = "input_example.json"
ENVIRONMENT = "environment.json"
MLMODEL = "MLmodel"
MANIFEST = "manifest.json"
DETACHED_SIGNATURE = "bundle.sig"

REQUIRED_FILES = (INFO, CONTRACT, SIGNATURE, INPUT_EXAMPLE, ENVIRONMENT, MANIFEST)
MLFLOW_NOTE = "registered_model_meta"
"""MLflow puts it beside what it downloads from its registry: a name and a version, which nothing here reads."""
_UNLISTED = frozenset({MANIFEST, DETACHED_SIGNATURE, MLFLOW_NOTE})
_CHUNK = 1 << 20

Task = Literal["binary", "multiclass", "regression"]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Port(Config):
    """One input or output of a model."""

    name: str
    type: ColumnType
    required: bool = True
    """Whether a request must carry a value."""


class Signature(Config):
    """What a model takes and gives; a change that breaks callers forces a major version."""

    document: ClassVar[str] = "model signature"

    inputs: list[Port]
    outputs: list[Port]

    @classmethod
    def of(cls, contract: Contract, task: Task) -> "Signature":
        """The signature of a model that was trained under a contract."""
        inputs = [
            Port(name=name, type=column.type, required=not column.nullable)
            for name, column in contract.features.items()
        ]
        label = ColumnType.NUMBER if task == "regression" else contract.column(contract.require_target()).type
        outputs = [Port(name="prediction", type=label)]
        if task != "regression":
            outputs.append(Port(name="probability", type=ColumnType.NUMBER))
        return cls(inputs=inputs, outputs=outputs)


class Lineage(Config):
    """Where a model came from."""

    data_digest: str
    """Content digest of the training part, as ingest computed it."""
    contract_digest: str
    code_revision: str = ""
    """The git commit of the working folder, with `-dirty` when it had changes; empty outside a repository."""
    seed: int = 0


class Candidate(Config):
    """One model file that could have been served, as the optimise step found it.

    Without times: they differ from machine to machine, and a bundle must not. They are in the step's report.
    """

    name: str
    """`skops` or `torch` as trained, `onnx`, or `onnx-int8`."""
    size: int = Field(ge=0)
    """Bytes; 0 where there is no file."""
    difference: float | None = None
    """Largest absolute difference from the trained file on real rows: of a probability, or as a share of the target's
    standard deviation in regression."""
    flips: int = 0
    """Rows with another label."""
    quality: float | None = None
    """The metric's value on the real rows."""
    loss: float | None = None
    """How much worse the metric is than the trained file's, at worst within its interval; negative where better. In
    the metric's unit, or as a share of the target's standard deviation for errors in the target's unit."""
    refused: str = ""
    """Why it may not be served; empty when it may."""


class Optimisation(Config):
    """Which model file is served, and why."""

    document: ClassVar[str] = "optimisation record"

    chosen: str
    """Name of the candidate that stands first in the bundle."""
    reason: str
    metric: str = ""
    """What quality means; empty where the rows had no target."""
    rows: int = Field(ge=0)
    """Real rows that the files were compared on."""
    batches: list[int] = []
    """Rows of one call, for each of which the files were timed."""
    candidates: list[Candidate] = []


class BundleInfo(Config):
    """What a bundle is, in one document."""

    document: ClassVar[str] = "bundle description"

    format_version: Literal[1] = 1
    name: str
    """The model's name."""
    task: Task
    target: str
    classes: list[bool | int | str] = []
    """Class labels in the order of the probability columns; empty for regression."""
    estimator: str
    """The estimator's name in the catalogue, or its dotted path."""
    parameters: dict[str, Any] = {}
    """The estimator's own parameters as given."""
    formats: list[Literal["skops", "onnx", "torch"]] = Field(min_length=1)
    """The model files in the bundle, the preferred one first."""
    parity: float | None = None
    """Largest absolute difference between the files on real rows, in units of the output; None with one file."""
    lineage: Lineage
    optimisation: Optimisation | None = None
    """Which file was chosen for speed, and why; None where nobody measured."""


class ManifestEntry(Config):
    """One file of a bundle."""

    sha256: Sha256
    size: int = Field(ge=0)
    """Bytes."""


class Manifest(Config):
    """Every file of a bundle with its digest."""

    document: ClassVar[str] = "bundle manifest"

    files: dict[str, ManifestEntry] = Field(min_length=1)


def write_manifest(bundle: Path) -> str:
    """List every file of the bundle with its SHA-256, and return the bundle's digest."""
    files = {name: {"sha256": sha256_file(path), "size": path.stat().st_size} for name, path in _files(bundle)}
    (bundle / MANIFEST).write_text(json.dumps({"files": files}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return bundle_digest(bundle)


def bundle_digest(bundle: Path) -> str:
    """The one digest that names the bundle: SHA-256 of its manifest.

    Raises:
        TrustError: The bundle has no manifest.
    """
    manifest = bundle / MANIFEST
    if not manifest.is_file():
        raise TrustError(f"{bundle}: no {MANIFEST}", expected="a bundle folder that `train` wrote")
    return sha256_file(manifest)


def verify_manifest(bundle: Path) -> str:
    """Compare every file with the manifest, and return the bundle's digest.

    Raises:
        TrustError: A file is missing, not listed, a link, or has other bytes; all of them are named.
    """
    digest = bundle_digest(bundle)
    listed = Manifest.load(bundle / MANIFEST).files
    present = dict(_files(bundle))
    problems = [f"{name} is missing" for name in sorted(listed.keys() - present.keys())]
    problems += [f"{name} is not in the manifest" for name in sorted(present.keys() - listed.keys())]
    problems += [f"{name} is required" for name in REQUIRED_FILES if name != MANIFEST and name not in listed]
    for name in sorted(listed.keys() & present.keys()):
        path = present[name]
        if path.is_symlink():
            problems.append(f"{name} is a link")
        elif path.stat().st_size != listed[name].size or sha256_file(path) != listed[name].sha256:
            problems.append(f"{name} was changed")
    if problems:
        raise TrustError(
            f"{bundle}: {'; '.join(problems)}",
            expected="exactly the files of the manifest",
            fix="fetch the bundle again, or train it again",
        )
    return digest


def read_info(bundle: Path) -> BundleInfo:
    """The bundle's description. Check the manifest first: `verify_manifest`, or the trust gate."""
    return BundleInfo.load(bundle / INFO)


def read_contract(bundle: Path) -> Contract:
    """The contract that the model was trained under."""
    return Contract.load(bundle / CONTRACT)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _files(bundle: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(bundle.rglob("*")):
        name = path.relative_to(bundle).as_posix()
        if (path.is_file() or path.is_symlink()) and name not in _UNLISTED:
            yield name, path
