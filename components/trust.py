"""The trust gate: the one way to open a model, and the policy that it asks, which lives outside the model.

A bundle is opened only after, in this order:

    path        a folder of plain files, not too many, not too large; links and devices are refused
    manifest    exactly the files of the manifest, with their digests
    signature   made by a signer that the policy names
    format      a format that the policy allows; no file that some other loader would unpickle
    structure   ONNX: known operator domains, no file outside; skops: a sane archive, only types that the policy trusts;
                torch: an archive of plain arrays, and a network of ours or one that the policy trusts

Denied by default: what the policy does not allow is refused with `TrustError`, before anything of the model has run.
The list of trusted types comes from Headway and the policy, never from the artifact (MLflow took it from there,
GHSA-w582-9x45-8mpx), and there is no fallback to joblib (skops had one, CVE-2025-54886).

All checks and the opening work on one private copy of the folder, made first and readable by this user only. Whoever
can write to the original can therefore not exchange a file between its check and its use.
"""

import contextlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from headway.components.bundle import (
    CONTRACT,
    INFO,
    INPUT_EXAMPLE,
    MLFLOW_NOTE,
    MLMODEL,
    ONNX_MODEL,
    PROFILE,
    SIGNATURE,
    SKOPS_MODEL,
    TORCH_MODEL,
    BundleInfo,
    Signature,
    verify_manifest,
)
from headway.components.config import Config, parse_yaml
from headway.components.data_validate.contract import Contract
from headway.components.errors import ConfigError, TrustError
from headway.components.settings import Settings, load_settings
from headway.components.signing import Signer, make_key, public_key, verify_signature, write_once

if TYPE_CHECKING:
    import pandas as pd

    from headway.components.model import Prediction, Predictor

Format = Literal["skops", "onnx", "torch"]

MODEL_FILES: dict[str, str] = {"skops": SKOPS_MODEL, "onnx": ONNX_MODEL, "torch": TORCH_MODEL}
"""The file of each format that the gate opens."""
ONNX_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
"""Operator domains of the ONNX standard; any other needs a library of its own."""
UNPICKLED_BY_OTHERS = frozenset({".bin", ".ckpt", ".dill", ".joblib", ".pickle", ".pkl", ".pt", ".pth"})
"""Suffixes that some loader unpickles: KServe's scikit-learn server opens any `*.pkl` in a model folder."""
LOADER = "headway.components.model"
"""What the bundle's MLmodel may name as its loader: MLflow imports and calls whatever stands there."""

_TYPE = re.compile(r"[A-Za-z_][\w]*(\.[A-Za-z_][\w]*)+")
_MEBIBYTE = 1 << 20
_MAX_SCHEMA_BYTES = 64 * _MEBIBYTE
_MAX_ENTRIES = 100_000
_MAX_EXPANSION = 100
_MAX_ONNX_DEPTH = 32
_CHUNK = _MEBIBYTE
_KEY_MODE = 0o600


class Policy(Config):
    """Which bundles may be opened. A file of the installation or the deployment, never of a model."""

    document: ClassVar[str] = "trust policy"

    formats: list[Format] = Field(default=["onnx", "skops"])
    """Model formats that may be opened."""
    types: list[str] = Field(default=[])
    """Types that a skops file may hold, and classes of networks, besides those Headway knows: full dotted names, no
    wildcards."""
    signers: list[Signer] = Field(default=[])
    """Whose signatures are accepted."""
    require_signature: bool = True
    """Whether a bundle without an accepted signature is refused."""
    max_bytes: int = Field(default=2 << 30, gt=0)
    """Largest bundle, and largest unpacked skops file, in bytes."""
    max_files: int = Field(default=200, gt=0)
    """Most files in a bundle."""

    @field_validator("types")
    @classmethod
    def _exact(cls, types: list[str]) -> list[str]:
        for name in types:
            if not _TYPE.fullmatch(name):
                raise ValueError(f"{name!r} is not a full dotted name; wildcards are not allowed")
        return types

    @field_validator("signers")
    @classmethod
    def _distinct(cls, signers: list[Signer]) -> list[Signer]:
        if len({signer.name for signer in signers}) != len(signers):
            raise ValueError("two signers have one name")
        return signers


@dataclass(frozen=True, kw_only=True)
class CheckedBundle:
    """A bundle that passed every check; its model is not open yet."""

    folder: Path
    """The private copy; gone when the check's `with` block ends."""
    info: BundleInfo
    contract: Contract
    signature: Signature
    digest: str
    signer: str
    """Who signed it; empty where no signature was asked for."""
    format: Format
    """The first of the bundle's formats that the policy allows."""
    types: list[str]
    """Types that its skops file needs beyond those that skops itself trusts."""


@dataclass(frozen=True, kw_only=True)
class TrustedModel:
    """An open model, with the documents that belong to it."""

    info: BundleInfo
    contract: Contract
    signature: Signature
    digest: str
    signer: str
    """Who signed it; empty where no signature was asked for."""
    format: Format
    predictor: "Predictor"
    profile: str
    """The training data's profile as JSON text; empty when the bundle has none."""
    input_example: str
    """Rows that the model accepts, as JSON text."""

    def predict(self, frame: "pd.DataFrame") -> "Prediction":
        """Labels and probabilities for rows that meet the contract.

        Args:
            frame: One column for each input of `signature`, shape (rows, inputs).
        """
        return self.predictor.predict(frame)


def load_policy(settings: Settings | None = None) -> Policy:
    """The trust policy in force; the embedded platform makes its own with a key pair on first use.

    Raises:
        ConfigError: The file is missing or wrong.
        TrustError: A signer's key cannot be read.
    """
    settings = settings or load_settings()
    path = settings.resolved_policy
    if settings.embedded_keys:
        _make_embedded(path, settings.resolved_signing_key)
    policy = Policy.load(path)
    pinned = [Signer(name=signer.name, public_key=signer.pem(path.parent).decode("ascii")) for signer in policy.signers]
    return policy.model_copy(update={"signers": pinned})


def load_bundle(
    path: str | Path,
    *,
    policy: Policy | None = None,
    require_signature: bool | None = None,
    digest: str | None = None,
    threads: int = 0,
) -> TrustedModel:
    """Check a bundle and open its model: the only way to a model in Headway.

    Args:
        path: The bundle's folder.
        policy: What is allowed; the installation's policy by default.
        require_signature: Overrides the policy. Only the evaluation of a candidate that is not registered yet, in the
            run that trained it, passes False.
        digest: The digest that the registry has for it; any other is refused.
        threads: Threads that the model may use; 0 means as many as there are cores.

    Raises:
        TrustError: It must not be opened; says why.
    """
    with check_bundle(path, policy=policy, require_signature=require_signature, digest=digest) as checked:
        with _named(checked.folder, Path(path)):
            predictor = _open(checked, threads)
        return TrustedModel(
            info=checked.info,
            contract=checked.contract,
            signature=checked.signature,
            digest=checked.digest,
            signer=checked.signer,
            format=checked.format,
            predictor=predictor,
            profile=_text(checked.folder / PROFILE),
            input_example=_text(checked.folder / INPUT_EXAMPLE),
        )


@contextlib.contextmanager
def check_bundle(
    path: str | Path,
    *,
    policy: Policy | None = None,
    require_signature: bool | None = None,
    digest: str | None = None,
) -> Iterator[CheckedBundle]:
    """Check a bundle without opening its model; the private copy lives as long as the `with` block.

    Args:
        path: The bundle's folder.
        policy: What is allowed; the installation's policy by default.
        require_signature: Overrides the policy.
        digest: The digest that the registry has for it; any other is refused.

    Raises:
        TrustError: It must not be opened; says why.
    """
    policy = policy or load_policy()
    source = Path(path)
    with tempfile.TemporaryDirectory(prefix="headway-bundle-") as private:
        folder = Path(private) / "bundle"
        _copy(source, folder, policy)
        with _named(folder, source):
            checked = _check(folder, policy, require_signature, digest)
        yield checked


def _check(folder: Path, policy: Policy, require_signature: bool | None, digest: str | None) -> CheckedBundle:
    found = verify_manifest(folder)
    if digest is not None and found != digest:
        raise TrustError(f"{folder}: its digest is {found[:16]}…", expected=f"{digest[:16]}…, as the registry has it")
    needed = policy.require_signature if require_signature is None else require_signature
    # `load_policy` put the keys into the policy by value; a path in a policy made in code starts at the current folder.
    signer = verify_signature(folder, [(s.name, s.pem(Path.cwd())) for s in policy.signers]) if needed else ""
    info = BundleInfo.load(folder / INFO)
    chosen = _check_formats(folder, info, policy)
    return CheckedBundle(
        folder=folder,
        info=info,
        contract=Contract.load(folder / CONTRACT),
        signature=Signature.load(folder / SIGNATURE),
        digest=found,
        signer=signer,
        format=chosen,
        types=_check_structure(folder, info, policy),
    )


def _check_formats(folder: Path, info: BundleInfo, policy: Policy) -> Format:
    dangerous = [file.name for file in sorted(folder.rglob("*")) if file.suffix.lower() in UNPICKLED_BY_OTHERS]
    if dangerous:
        raise TrustError(
            f"{folder}: {', '.join(dangerous)} would be unpickled by other loaders",
            expected="skops or ONNX files",
        )
    undeclared = [file for name, file in MODEL_FILES.items() if (folder / file).exists() and name not in info.formats]
    missing = [name for name in info.formats if name in MODEL_FILES and not (folder / MODEL_FILES[name]).is_file()]
    if undeclared or missing:
        raise TrustError(
            f"{folder}: {INFO} declares the formats {', '.join(info.formats)}",
            expected="one model file for each format, and no other",
        )
    allowed = [name for name in info.formats if name in policy.formats and name in MODEL_FILES]
    if not allowed:
        raise TrustError(
            f"{folder}: its formats are {', '.join(info.formats)}",
            expected=f"one that the policy allows: {', '.join(policy.formats)}",
        )
    return allowed[0]


def _check_structure(folder: Path, info: BundleInfo, policy: Policy) -> list[str]:
    """Check every model file of an allowed format; return the types that the skops file needs."""
    _check_mlmodel(folder / MLMODEL)
    if "onnx" in info.formats and "onnx" in policy.formats:
        _check_onnx(folder / ONNX_MODEL)
    if "torch" in info.formats and "torch" in policy.formats:
        _check_arrays(folder / TORCH_MODEL, policy)
        return list(policy.types)
    if "skops" in info.formats and "skops" in policy.formats:
        return _check_skops(folder / SKOPS_MODEL, policy)
    return []


def _check_mlmodel(path: Path) -> None:
    """MLflow would import what MLmodel names, from a folder that it names: only ours, and no code in the bundle."""
    if not path.is_file():
        return
    document = parse_yaml(path.read_text(encoding="utf-8"), where=str(path))
    flavors = document.get("flavors") if isinstance(document, dict) else None
    flavor = flavors.get("python_function") if isinstance(flavors, dict) and len(flavors) == 1 else None
    allowed = isinstance(flavor, dict) and flavor.keys() <= {"loader_module", "python_version"}
    if flavor is None or not allowed or flavor.get("loader_module") != LOADER:
        raise TrustError(f"{path}: names code to run", expected=f"the one flavor python_function, loaded by {LOADER}")


def _check_skops(path: Path, policy: Policy) -> list[str]:
    from headway.components.model import KNOWN_TYPES, required_types

    _check_archive(path, policy)
    try:
        types = sorted(required_types(path))
    except TrustError:
        raise
    # The archive is hostile until proven otherwise, and the audit walks all of it: whatever it stumbles over is a
    # reason to refuse. Nothing has been loaded at this point.
    except Exception as error:
        raise TrustError(f"{path}: cannot be audited: {type(error).__name__}: {error}") from error
    untrusted = [name for name in types if name not in KNOWN_TYPES and name not in policy.types]
    if untrusted:
        raise TrustError(
            f"{path}: holds the untrusted types {', '.join(untrusted)}",
            expected="only types that Headway or the trust policy names",
            fix="review them, then add them to `types` in the trust policy",
        )
    return types


def _check_arrays(path: Path, policy: Policy) -> None:
    """Weights are plain arrays: an archive of .npy files, whose reader makes no objects."""
    names = _check_archive(path, policy, schema=False)
    foreign = [name for name in names if not name.endswith(".npy")]
    if foreign:
        raise TrustError(f"{path}: holds {foreign[0]!r}", expected="arrays only")


def _check_archive(path: Path, policy: Policy, *, schema: bool = True) -> list[str]:
    """Check an archive before anything of it is read; returns its entries' names."""
    import zipfile

    if not zipfile.is_zipfile(path):
        kind = "a skops file" if schema else "an archive of arrays"
        raise TrustError(f"{path}: not {kind}", expected="a ZIP archive; a pickle is never opened")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        raise TrustError(f"{path}: a broken archive: {error}") from None
    names = [entry.filename for entry in entries]
    unpacked = sum(entry.file_size for entry in entries)
    described = next((entry for entry in entries if entry.filename == "schema.json"), None)
    problems = {
        "no schema.json in it": schema and described is None,
        f"more than {_MAX_ENTRIES:,} entries": len(entries) > _MAX_ENTRIES,
        "an entry stands twice": len(set(names)) != len(names),
        "an encrypted entry": any(entry.flag_bits & 1 for entry in entries),
        "an entry outside the archive": any(name.startswith("/") or ".." in name.split("/") for name in names),
        f"unpacks to {unpacked:,} bytes": unpacked > policy.max_bytes
        or unpacked > max(64 * _MEBIBYTE, _MAX_EXPANSION * path.stat().st_size),
        "schema.json is too large": described is not None and described.file_size > _MAX_SCHEMA_BYTES,
    }
    if found := [problem for problem, holds in problems.items() if holds]:
        raise TrustError(f"{path}: {'; '.join(found)}", expected="an archive as Headway writes it")
    return names


def _check_onnx(path: Path) -> None:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise TrustError(f"{path}: not an ONNX graph: {error}") from None
    graphs = [model.graph, *model.functions]
    for graph in graphs:
        _check_graph(path, graph, depth=0)


def _check_graph(path: Path, graph: Any, *, depth: int) -> None:
    """Check one graph or function, and the graphs inside its nodes."""
    if depth > _MAX_ONNX_DEPTH:
        raise TrustError(f"{path}: graphs are nested more than {_MAX_ONNX_DEPTH} deep")
    for tensor in getattr(graph, "initializer", ()):
        _check_tensor(path, tensor)
    for sparse in getattr(graph, "sparse_initializer", ()):
        _check_tensor(path, sparse.values)
        _check_tensor(path, sparse.indices)
    for node in graph.node:
        if node.domain not in ONNX_DOMAINS:
            raise TrustError(
                f"{path}: the operator {node.op_type} is of the domain {node.domain!r}",
                expected="operators of the ONNX standard: ai.onnx and ai.onnx.ml",
            )
        for attribute in node.attribute:
            _check_attribute(path, attribute, depth=depth)


def _check_attribute(path: Path, attribute: Any, *, depth: int) -> None:
    for tensor in (attribute.t, *attribute.tensors, attribute.sparse_tensor.values, attribute.sparse_tensor.indices):
        _check_tensor(path, tensor)
    for sparse in attribute.sparse_tensors:
        _check_tensor(path, sparse.values)
        _check_tensor(path, sparse.indices)
    for graph in (attribute.g, *attribute.graphs):
        _check_graph(path, graph, depth=depth + 1)


def _check_tensor(path: Path, tensor: Any) -> None:
    from onnx import TensorProto

    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise TrustError(
            f"{path}: the tensor {tensor.name!r} lies in another file", expected="all weights in the graph"
        )


def _open(checked: CheckedBundle, threads: int) -> "Predictor":
    from headway.components.model import open_onnx, open_skops, open_torch

    try:
        if checked.format == "onnx":
            return open_onnx(checked.folder / ONNX_MODEL, threads)
        if checked.format == "torch":
            return open_torch(checked.folder / TORCH_MODEL, checked.types)
        return open_skops(checked.folder / SKOPS_MODEL, checked.types)
    except TrustError:
        raise
    # Audited and still not loadable: the file is of another version, or was made to confuse the loader.
    except Exception as error:
        kind = type(error).__name__
        raise TrustError(f"{checked.folder}: its {checked.format} file cannot be opened: {kind}: {error}") from error


def _copy(source: Path, target: Path, policy: Policy) -> None:
    """Copy a folder of plain files, following no link and reading no device."""
    if not source.is_dir():
        raise TrustError(f"{source}: no such folder", expected="a bundle folder that `train` wrote")
    target.mkdir(mode=0o700)
    left, files = policy.max_bytes, 0
    for root, folders, names in os.walk(source, followlinks=False):
        place = target / Path(root).relative_to(source)
        for name in folders:
            if (Path(root) / name).is_symlink():
                raise TrustError(f"{source}: {(Path(root) / name).relative_to(source)} is a link")
            (place / name).mkdir(mode=0o700)
        for name in names:
            if Path(root) == source and name == MLFLOW_NOTE:
                continue
            files += 1
            left -= _copy_file(Path(root) / name, place / name, left)
            if files > policy.max_files:
                raise TrustError(f"{source}: more than {policy.max_files} files", expected="`max_files` of the policy")


def _copy_file(source: Path, target: Path, most: int) -> int:
    try:
        handle = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        kind = "is a link" if source.is_symlink() else f"cannot be read: {error.strerror}"
        raise TrustError(f"{source.parent}: {source.name} {kind}", expected="plain files") from None
    with os.fdopen(handle, "rb") as reader, target.open("xb") as writer:
        if not stat.S_ISREG(os.fstat(reader.fileno()).st_mode):
            raise TrustError(f"{source.parent}: {source.name} is not a plain file", expected="plain files")
        copied = 0
        while chunk := reader.read(_CHUNK):
            copied += len(chunk)
            if copied > most:
                raise TrustError(f"{source.parent}: too large", expected="at most `max_bytes` of the policy")
            writer.write(chunk)
    return copied


def _make_embedded(policy: Path, key: Path) -> None:
    """Make the embedded platform's key pair and policy, unless they exist; many processes may start at once."""
    if policy.is_file():
        return
    if not key.is_file():
        key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        key.parent.chmod(0o700)
        write_once(key, make_key(), mode=_KEY_MODE)
    signer = Signer(name="embedded", public_key=public_key(key).decode("ascii"))
    write_once(policy, Policy(signers=[signer]).dump().encode(), mode=0o644)


@contextlib.contextmanager
def _named(folder: Path, source: Path) -> Iterator[None]:
    """Let messages name the folder that the caller gave, and make a broken document a refusal like any other."""
    try:
        yield
    except (TrustError, ConfigError) as error:
        place, name = str(folder), str(source)
        raise TrustError(
            error.problem.replace(place, name),
            expected=error.expected and error.expected.replace(place, name),
            fix=error.fix and error.fix.replace(place, name),
        ) from None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
