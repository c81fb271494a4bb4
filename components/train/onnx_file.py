"""The fitted pipeline as an ONNX graph, and how far the two files are apart on real rows."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.components.errors import TrainingError
from headway.components.train.features import MISSING, Features
from headway.components.train.fit import Fitted

UNSEEN = "<unseen>"
"""A category that no training row has, for the rows that the comparison makes up."""
MADE_UP_ROWS = 200
_PATCHING = threading.Lock()


@dataclass(frozen=True)
class Parity:
    """How far an ONNX graph is from the pipeline that it was converted from."""

    difference: float
    """Largest absolute difference of a probability, or of a value in regression."""
    flips: int
    """Rows with another label."""
    rows: int
    """Real rows compared; as many again up to 200 were compared with values missing and categories unseen."""


def convert(fitted: Fitted) -> bytes:
    """The pipeline as a serialised ONNX graph with the inputs `numbers` (n, p) and `texts` (n, q).

    Raises:
        TrainingError: The estimator or an encoder has no conversion; says why.
    """
    if fitted.task != "regression" and not hasattr(fitted.pipeline, "predict_proba"):
        raise TrainingError("the estimator has no probabilities")
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    inputs: list[tuple[str, Any]] = []
    if fitted.features.numbers:
        inputs.append(("numbers", FloatTensorType([None, len(fitted.features.numbers)])))
    if fitted.features.texts:
        inputs.append(("texts", StringTensorType([None, len(fitted.features.texts)])))
    model = fitted.pipeline.named_steps["model"]
    options = {} if fitted.task == "regression" else {id(model): {"zipmap": False}}
    try:
        with _exact_trees():
            graph = convert_sklearn(fitted.pipeline, name="model", initial_types=inputs, options=options)
    except Exception as error:  # a converter may raise anything; why it did is the result
        raise TrainingError(f"no conversion: {_first_line(error)}") from error
    return bytes(graph.SerializeToString(deterministic=True))


def compare(fitted: Fitted, session: Any) -> Parity:
    """Predict with both on the sample of real rows, then on rows with missing values and unseen categories.

    Args:
        fitted: The fit; its sample has at most 5,000 rows.
        session: onnxruntime session over the converted graph.
    """
    numbers, texts = fitted.features.arrays(fitted.sample)
    made_up = _made_up(fitted.features, numbers, texts)
    real = _differences(fitted, session, numbers, texts)
    other = _differences(fitted, session, *made_up)
    return Parity(difference=max(real[0], other[0]), flips=real[1] + other[1], rows=len(numbers))


def _differences(
    fitted: Fitted, session: Any, numbers: NDArray[np.float32], texts: NDArray[np.object_]
) -> tuple[float, int]:
    given = {"numbers": numbers, "texts": texts}
    inputs = {node.name: given[node.name] for node in session.get_inputs()}
    output = session.run([session.get_outputs()[-1].name], inputs)[0].astype(np.float64)
    frame = fitted.features.join(numbers, texts)
    if fitted.task == "regression":
        return float(np.abs(output.reshape(-1) - fitted.pipeline.predict(frame)).max()), 0
    expected = fitted.pipeline.predict_proba(frame)
    flips = int((output.argmax(axis=1) != expected.argmax(axis=1)).sum())
    return float(np.abs(output - expected).max()), flips


def _made_up(
    features: Features, numbers: NDArray[np.float32], texts: NDArray[np.object_]
) -> tuple[NDArray[np.float32], NDArray[np.object_]]:
    """Real rows with, in turn, one value missing or one category unseen; the last one has them all."""
    count = min(MADE_UP_ROWS, len(numbers))
    numbers, texts = numbers[:count].copy(), texts[:count].copy()
    rows = np.arange(count)
    for flag in features.flags:
        numbers[rows % len(features.numbers) == flag, flag - 1 : flag + 1] = (np.nan, 1.0)
        numbers[-1, flag - 1 : flag + 1] = (np.nan, 1.0)
    for position in range(len(features.texts)):
        texts[rows % (2 * len(features.texts)) == 2 * position, position] = MISSING
        texts[rows % (2 * len(features.texts)) == 2 * position + 1, position] = UNSEEN
        texts[-1, position] = UNSEEN
    return numbers, texts


@contextmanager
def _exact_trees() -> Iterator[None]:
    """Correct two things in the tree conversion of skl2onnx 1.20 while it runs.

    It puts numpy booleans into an integer attribute, which onnx 1.23 refuses, and for histogram gradient boosting it
    rounds a threshold to the nearest 32-bit number, which can send the row on the threshold to the other side;
    rounded down as for the other trees, `x <= threshold` has the same answer for every 32-bit x.
    """
    from skl2onnx.common import tree_ensemble

    original = tree_ensemble.add_node

    def add_node(*arguments: Any, **settings: Any) -> None:
        settings["nodes_missing_value_tracks_true"] = int(settings.get("nodes_missing_value_tracks_true", 0))
        settings["adjust_threshold_for_sklearn"] = True
        original(*arguments, **settings)

    with _PATCHING:
        tree_ensemble.add_node = add_node
        try:
            yield
        finally:
            tree_ensemble.add_node = original


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{type(error).__name__}: {lines[0]}"
