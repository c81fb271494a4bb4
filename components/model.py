"""Open the model files of a bundle and predict with them. Call it through the trust gate, which checks a bundle first.

Both kinds of file give the same `Predictor`: raw columns as the contract names them go in, labels and probabilities
come out. The label is the class of the largest probability, so the two files of one bundle cannot differ in a rule.
"""

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from headway.components import bundle as layout
from headway.components.bundle import BundleInfo
from headway.components.errors import TrustError
from headway.components.train.features import Data, Features

if TYPE_CHECKING:
    import pandas as pd

    from headway.components.trust import TrustedModel

KNOWN_TYPES: tuple[str, ...] = (
    "numpy.dtype",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
)
"""The types in the skops files of the catalogue's estimators that skops itself does not vouch for.

None of them runs code of the file's choosing. The two of trees hold node numbers that compiled code follows unchecked,
which is why a bundle's digests and signature are checked before its files are opened."""

ROWS_AT_ONCE = 256
"""Rows of one run of a graph: more gain nothing in speed, and 256 against a million training rows are 2 GB."""


@dataclass(frozen=True)
class Prediction:
    """What a model says about n rows."""

    labels: NDArray[Any]
    """Class labels in the target's own type, or values in regression; shape (n,)."""
    probabilities: NDArray[np.float64] | None
    """Shape (n, k), columns in the order of `BundleInfo.classes`; None where the model has none, as in regression."""


class Predictor(Protocol):
    """An opened model."""

    info: BundleInfo
    features: Features

    def predict(self, data: Data) -> Prediction:
        """Predict for rows given as raw columns: a pandas frame, an Arrow table or a mapping from name to values.

        Raises:
            DataError: A column is missing, or a value cannot be read as its type.
        """

    def predict_arrays(self, numbers: NDArray[np.float32], texts: NDArray[np.object_]) -> Prediction:
        """Predict for rows that `Features.arrays` has made."""


class SkopsPredictor:
    """A fitted scikit-learn pipeline.

    Attributes:
        pipeline: It, from `Features.frame` to class numbers, or to values in regression.
    """

    def __init__(self, pipeline: Any, info: BundleInfo, features: Features) -> None:
        self.info = info
        self.features = features
        self.pipeline = pipeline
        self._labels = class_labels(info)

    def predict(self, data: Data) -> Prediction:
        """Predict for rows given as raw columns."""
        return self.predict_arrays(*self.features.arrays(data))

    def predict_arrays(self, numbers: NDArray[np.float32], texts: NDArray[np.object_]) -> Prediction:
        """Predict for rows that `Features.arrays` has made."""
        if not len(numbers):
            return nothing(self.info)
        frame = self.features.join(numbers, texts)
        if self.info.task == "regression":
            return Prediction(np.asarray(self.pipeline.predict(frame), dtype=np.float64).reshape(-1), None)
        if not hasattr(self.pipeline, "predict_proba"):
            return Prediction(self._labels[np.asarray(self.pipeline.predict(frame), dtype=np.int64)], None)
        return classified(self._labels, self.pipeline.predict_proba(frame))


class OnnxPredictor:
    """An ONNX graph in onnxruntime."""

    def __init__(self, session: Any, info: BundleInfo, features: Features) -> None:
        self.info = info
        self.features = features
        self._session = session
        self._labels = class_labels(info)
        self._inputs = {node.name for node in session.get_inputs()}
        # A classifier's graph gives labels, then probabilities.
        self._output = session.get_outputs()[-1].name

    def predict(self, data: Data) -> Prediction:
        """Predict for rows given as raw columns."""
        return self.predict_arrays(*self.features.arrays(data))

    def predict_arrays(self, numbers: NDArray[np.float32], texts: NDArray[np.object_]) -> Prediction:
        """Predict for rows that `Features.arrays` has made."""
        if not len(numbers):
            return nothing(self.info)
        output = run_graph(self._session, self._output, self._inputs, numbers, texts)
        if self.info.task == "regression":
            return Prediction(output.astype(np.float64).reshape(-1), None)
        return classified(self._labels, output)


def open_skops(path: Path, trusted_types: Iterable[str] = KNOWN_TYPES) -> SkopsPredictor:
    """Open the skops file of a bundle.

    Args:
        path: The file, beside the bundle's other documents.
        trusted_types: Types that the file may hold besides those that skops vouches for.

    Raises:
        TrustError: The file is missing or damaged, or holds a type that is not trusted; all of them are named.
    """
    import skops.io

    trusted = set(trusted_types)
    foreign = [name for name in required_types(path) if name not in trusted]
    if foreign:
        raise TrustError(
            f"{path}: holds types that are not trusted: {', '.join(foreign)}",
            expected="only types that the policy trusts",
            fix="add them to the policy's trusted types once you have read their code, or do not load the file",
        )
    try:
        pipeline = skops.io.load(path, trusted=sorted(trusted))
    except (ImportError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise TrustError(
            f"{path}: cannot be opened: {error}", fix="use the package versions of the bundle's environment.json"
        ) from error
    return SkopsPredictor(pipeline, layout.read_info(path.parent), Features.of(layout.read_contract(path.parent)))


def open_onnx(path: Path, threads: int = 1) -> OnnxPredictor:
    """Open the ONNX file of a bundle.

    Args:
        path: The file, beside the bundle's other documents.
        threads: Threads of one prediction; 0 means as many as there are cores.

    Raises:
        TrustError: The file is missing or no ONNX graph.
    """
    _check_present(path)
    session = onnx_session(path.read_bytes(), threads=threads)
    return OnnxPredictor(session, layout.read_info(path.parent), Features.of(layout.read_contract(path.parent)))


def open_torch(path: Path, trusted_types: Iterable[str] = ()) -> Predictor:
    """Open the network of a bundle; needs torch.

    Args:
        path: The weights' file, beside the bundle's other documents.
        trusted_types: Dotted paths of network classes that may be imported besides our own.

    Raises:
        TrustError: torch is missing, the network's class is not trusted, or the files do not belong together.
    """
    from headway.components.train_distributed.network_file import open_network

    _check_present(path)
    return open_network(path.parent, list(trusted_types))


def onnx_session(graph: bytes, *, threads: int = 1) -> Any:
    """An onnxruntime session over a serialised graph.

    Raises:
        TrustError: It is no ONNX graph.
    """
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as states

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Errors come back as exceptions; the warnings are about the graph's own optimisation.
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except (
        states.Fail,
        states.InvalidArgument,
        states.InvalidGraph,
        states.InvalidProtobuf,
        states.NotImplemented,
    ) as error:
        raise TrustError(f"{layout.ONNX_MODEL}: not an ONNX graph that runs here: {error}") from error


def run_graph(
    session: Any, output: str, inputs: Iterable[str], numbers: NDArray[np.float32], texts: NDArray[np.object_]
) -> NDArray[Any]:
    """One output of a graph for rows, some at a time: nearest neighbours hold each row against all training rows.

    Args:
        session: onnxruntime session.
        output: Name of the output.
        inputs: Which of `numbers` and `texts` the graph takes.
        numbers: Shape (n, p).
        texts: Shape (n, q).
    """
    given = {"numbers": numbers, "texts": texts}
    taken = {name: given[name] for name in inputs}
    found: NDArray[Any]
    if len(numbers) <= ROWS_AT_ONCE:
        (found,) = session.run([output], taken)
        return found
    pieces = [
        session.run([output], {name: values[start : start + ROWS_AT_ONCE] for name, values in taken.items()})[0]
        for start in range(0, len(numbers), ROWS_AT_ONCE)
    ]
    found = np.concatenate(pieces)
    return found


def required_types(path: Path) -> list[str]:
    """The types in a skops file that skops itself does not vouch for, sorted; nothing is loaded.

    Raises:
        TrustError: It is no skops file.
    """
    import skops.io

    _check_present(path)
    try:
        return sorted(skops.io.get_untrusted_types(file=path))
    except (OSError, zipfile.BadZipFile, KeyError, TypeError, ValueError, RecursionError) as error:
        raise TrustError(f"{path}: not a skops file: {error}", fix="fetch the bundle again") from error


class PyfuncModel:
    """What `mlflow.pyfunc.load_model` gives for a bundle."""

    def __init__(self, model: "TrustedModel | Predictor") -> None:
        self.model = model

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> "pd.DataFrame":
        """Predict for a pandas frame; `params` is MLflow's, and unused.

        Returns:
            `prediction`, and for classes `probability`: of the second class (binary) or the predicted one (multiclass).
        """
        import pandas as pd

        found = self.model.predict(model_input)
        columns: dict[str, Any] = {"prediction": found.labels}
        if found.probabilities is not None:
            binary = self.model.info.task == "binary"
            columns["probability"] = found.probabilities[:, 1] if binary else found.probabilities.max(axis=1)
        return pd.DataFrame(columns)


def _load_pyfunc(path: str) -> PyfuncModel:
    """What the bundle's MLmodel names as its loader; goes through the trust gate."""
    from headway.components.trust import load_bundle

    return PyfuncModel(load_bundle(path))


def _check_present(path: Path) -> None:
    if not path.is_file():
        raise TrustError(f"{path.parent}: no {path.name}", expected="a bundle folder that `train` wrote")


def classified(labels: NDArray[Any], probabilities: NDArray[Any]) -> Prediction:
    """The prediction that probabilities make.

    Args:
        labels: Class labels, shape (k,).
        probabilities: Shape (n, k).
    """
    wide = np.asarray(probabilities, dtype=np.float64)
    return Prediction(labels[wide.argmax(axis=1)], wide)


def class_labels(info: BundleInfo) -> NDArray[Any]:
    """The class labels, shape (k,); none for regression."""
    return np.array(info.classes, dtype=object if info.classes and isinstance(info.classes[0], str) else None)


def nothing(info: BundleInfo) -> Prediction:
    """The prediction for no rows."""
    if info.task == "regression":
        return Prediction(np.empty(0), None)
    return Prediction(class_labels(info)[:0], np.empty((0, len(info.classes))))
