"""The model files that could be served, each opened through the trust gate as a server would open it."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headway.components import bundle as layout
from headway.components.bundle import BundleInfo, write_manifest
from headway.components.errors import TrainingError, TrustError
from headway.components.trust import MODEL_FILES, CheckedBundle, Policy, load_bundle

if TYPE_CHECKING:
    from headway.components.model import Predictor

ONNX = "onnx"
INT8 = "onnx-int8"


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """One way to serve the model, or why there is none."""

    name: str
    predictor: "Predictor | None" = None
    graph: bytes = b""
    """The ONNX graph; empty for the file that training wrote, and where there is no graph."""
    size: int = 0
    """Bytes."""
    missing: str = ""
    """Why there is no such file."""

    def answers(self, numbers: NDArray[np.float32], texts: NDArray[np.object_]) -> NDArray[np.float64]:
        """Probabilities of shape (n, k), or values of shape (n, 1).

        Raises:
            TrainingError: There is no file, or it gives labels only.
        """
        if self.predictor is None:
            raise TrainingError(f"There is no file {self.name!r}: {self.missing}")
        found = self.predictor.predict_arrays(numbers, texts)
        if self.predictor.info.task == "regression":
            return np.asarray(found.labels, dtype=np.float64).reshape(-1, 1)
        if found.probabilities is None:
            raise TrainingError(f"The file {self.name!r} gives labels only", fix="take an estimator with probabilities")
        return found.probabilities


def as_trained(checked: CheckedBundle, policy: Policy, scratch: Path) -> ModelFile | None:
    """The file that training wrote; None where the bundle has only a graph, or the policy allows no other."""
    for name in checked.info.formats:
        if name != ONNX and name in MODEL_FILES and name in policy.formats:
            predictor = _open(checked, policy, scratch / name, formats=[name])
            return ModelFile(name=name, predictor=predictor, size=(checked.folder / MODEL_FILES[name]).stat().st_size)
    return None


def as_graph(checked: CheckedBundle, policy: Policy, scratch: Path, trained: ModelFile | None) -> ModelFile:
    """The ONNX graph of the bundle, or one converted now from the pipeline that training wrote."""
    if ONNX in checked.info.formats:
        graph = (checked.folder / layout.ONNX_MODEL).read_bytes()
        return _opened(checked, policy, scratch / ONNX, ONNX, lambda: graph)
    pipeline = getattr(trained.predictor, "pipeline", None) if trained else None
    if trained is None or trained.predictor is None or pipeline is None:
        return ModelFile(name=ONNX, missing=f"a bundle of {', '.join(checked.info.formats)} needs one from training")
    features = trained.predictor.features

    def converted() -> bytes:
        from headway.components.train.onnx_file import convert_pipeline

        return convert_pipeline(pipeline, features, checked.info.task)

    return _opened(checked, policy, scratch / ONNX, ONNX, converted)


def as_int8(
    checked: CheckedBundle,
    policy: Policy,
    scratch: Path,
    graph: ModelFile,
    numbers: NDArray[np.float32],
    texts: NDArray[np.object_],
) -> ModelFile:
    """The graph with its wide layers in 8 bits.

    Args:
        checked: The bundle.
        policy: The trust policy.
        scratch: A folder for what is opened.
        graph: The graph in full precision.
        numbers: Real rows, shape (n, p), which show the range of each layer.
        texts: Their texts, shape (n, q).
    """

    def quantised() -> bytes:
        from headway.components.optimise.quantise import quantise

        if not graph.graph:
            raise TrainingError("there is no ONNX graph")
        return quantise(graph.graph, {"numbers": numbers, "texts": texts})

    return _opened(checked, policy, scratch / INT8, INT8, quantised)


def write_files(checked: CheckedBundle, target: Path, info: BundleInfo, graph: bytes) -> str:
    """Write the bundle anew with other model files, unsigned, and return its digest.

    Args:
        checked: The bundle that the documents come from.
        target: A folder that exists and is empty.
        info: What the new bundle is; its formats say which files it keeps.
        graph: Its ONNX graph, where it has one.
    """
    left_out = {layout.MANIFEST, layout.DETACHED_SIGNATURE, layout.INFO, layout.ONNX_MODEL}
    left_out |= {file for name, file in MODEL_FILES.items() if name not in info.formats}
    for path in sorted(checked.folder.iterdir()):
        if path.name not in left_out:
            shutil.copyfile(path, target / path.name)
    if ONNX in info.formats:
        (target / layout.ONNX_MODEL).write_bytes(graph)
    # As training writes it: two spaces, names as they are, one line at the end.
    (target / layout.INFO).write_text(_json(info.model_dump(mode="json")), encoding="utf-8")
    return write_manifest(target)


def _json(document: Any) -> str:
    import json

    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _opened(checked: CheckedBundle, policy: Policy, folder: Path, name: str, make: Callable[[], bytes]) -> ModelFile:
    try:
        graph = make()
        predictor = _open(checked, policy, folder, formats=[ONNX], graph=graph)
    except (TrainingError, TrustError) as error:
        return ModelFile(name=name, missing=error.problem.replace(f"{folder}: ", ""))
    return ModelFile(name=name, predictor=predictor, graph=graph, size=len(graph))


def _open(
    checked: CheckedBundle, policy: Policy, folder: Path, *, formats: list[Any], graph: bytes = b""
) -> "Predictor":
    folder.mkdir()
    write_files(checked, folder, checked.info.model_copy(update={"formats": formats}), graph)
    # One thread, as in the server: it answers several requests at a time, not one on all cores.
    return load_bundle(folder, policy=policy, require_signature=False, threads=1).predictor
