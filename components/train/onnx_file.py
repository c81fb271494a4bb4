"""The fitted pipeline as an ONNX graph, and how far the two files are apart on real rows."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.components.errors import TrainingError
from headway.components.model import onnx_session
from headway.components.train.features import MISSING, Features
from headway.components.train.fit import Fitted
from headway.components.train.onnx_converters import constant_graph, converters

UNSEEN = "<unseen>"
"""A category that no training row has, for the rows that the comparison makes up."""
MADE_UP_ROWS = 200
OUTLIER = 10
"""How many times as far from zero as any real value the outliers of the comparison are."""
_REPRESENTABLE = np.finfo(np.float32).min, np.finfo(np.float32).max
_PATCHING = threading.Lock()
_TREES = ("sklearn.ensemble", "sklearn.tree")


@dataclass(frozen=True)
class Parity:
    """How far an ONNX graph is from the pipeline that it was converted from."""

    difference: float
    """Largest absolute difference of a probability, or of a value in regression."""
    flips: int
    """Rows with another label."""
    rows: int
    """Real rows compared; up to 200 were compared again with values missing, categories unseen, and outliers."""


def convert(fitted: Fitted) -> bytes:
    """The pipeline as a serialised ONNX graph with the inputs `numbers` (n, p) and `texts` (n, q) and one output.

    Trees compare in 32 bits, which all their inputs have. Everything else computes in 64 bits as scikit-learn does,
    but for the layers of a network: in 32 bits a value some hundred standard deviations away turns the answer of naive
    Bayes round, and a mean far above its standard deviation is lost in rounding.

    Raises:
        TrainingError: The estimator or an encoder has no conversion that runs; says why.
    """
    if fitted.task != "regression" and not hasattr(fitted.pipeline, "predict_proba"):
        raise TrainingError("the estimator has no probabilities")
    model = fitted.pipeline.named_steps["model"]
    reason = ""
    for bits in (32,) if type(model).__module__.startswith(_TREES) else (64, 32):
        try:
            graph = bytes(_graph(fitted, model, bits=bits).SerializeToString(deterministic=True))
            onnx_session(graph)
        except TrainingError:
            raise
        except Exception as error:  # a converter may raise anything; why it did is the result
            reason = reason or f"no conversion: {_first_line(error)}"
        else:
            return graph
    raise TrainingError(reason)


def _graph(fitted: Fitted, model: Any, *, bits: int) -> Any:
    features = fitted.features
    if type(model).__module__ == "sklearn.dummy":
        return constant_graph(model, len(features.numbers), len(features.texts))
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, StringTensorType
    from skl2onnx.helpers.onnx_helper import select_model_inputs_outputs

    inputs: list[tuple[str, Any]] = []
    if features.numbers:
        kind = FloatTensorType if bits == 32 else DoubleTensorType
        inputs.append(("numbers", kind([None, len(features.numbers)])))
    if features.texts:
        inputs.append(("texts", StringTensorType([None, len(features.texts)])))
    with _exact_trees():
        graph = convert_sklearn(
            fitted.pipeline,
            name="model",
            initial_types=inputs,
            options={} if fitted.task == "regression" else {id(model): {"zipmap": False}},
            custom_conversion_functions=converters(),
        )
    # Labels follow from the probabilities; what computes them in the graph would only cost time.
    graph = select_model_inputs_outputs(graph, outputs=[graph.graph.output[-1].name])
    if bits == 64 and features.numbers:
        _widen(graph)
    if _is_logarithm(model):
        _exponentiate(graph)
    return graph


def _widen(model: Any) -> None:
    """Let a graph over 64-bit numbers take 32-bit ones."""
    from onnx import TensorProto, helper

    graph = model.graph
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == "numbers":
                node.input[place] = "numbers_64"
    graph.node.insert(0, helper.make_node("Cast", ["numbers"], ["numbers_64"], to=TensorProto.DOUBLE))
    given = next(value for value in graph.input if value.name == "numbers")
    given.type.tensor_type.elem_type = TensorProto.FLOAT


def _is_logarithm(model: Any) -> bool:
    """Whether what the trees sum up to is the logarithm of the answer, which skl2onnx passes over."""
    link = getattr(getattr(model, "_loss", None), "link", None)  # histogram boosting names it nowhere else
    return type(model).__name__ == "HistGradientBoostingRegressor" and type(link).__name__ == "LogLink"


def _exponentiate(model: Any) -> None:
    from onnx import helper

    graph = model.graph
    name = graph.output[0].name
    for node in graph.node:
        for place, output in enumerate(node.output):
            if output == name:
                node.output[place] = f"{name}_logarithm"
    graph.node.append(helper.make_node("Exp", [f"{name}_logarithm"], [name]))


def compare(fitted: Fitted, session: Any) -> Parity:
    """Predict with both on the sample of real rows, then on rows made up from them.

    Made-up rows have a value missing or a category unseen, or an outlier in one number: ten times as far from zero as
    any row of the sample. The largest numbers that there are must give a finite answer where the pipeline has one.

    Args:
        fitted: The fit; its sample has at most 5,000 rows.
        session: onnxruntime session over the converted graph.
    """
    numbers, texts = fitted.features.arrays(fitted.sample)
    real = _differences(fitted, session, numbers, texts)
    gaps = _differences(fitted, session, *_made_up(fitted.features, numbers, texts))
    found = [real, gaps]
    if len(fitted.features.numbers) > len(fitted.features.flags):
        count = min(MADE_UP_ROWS, len(numbers))
        outliers = _outliers(fitted.features, numbers, _largest_seen(numbers) * OUTLIER)[:count]
        found.append(_differences(fitted, session, outliers, texts[:count], relative=True))
        largest = _outliers(fitted.features, numbers, np.finfo(np.float32).max)[:count]
        lost = np.isfinite(_expected(fitted, largest, texts[:count])) & ~np.isfinite(
            _answers(session, largest, texts[:count])
        )
        if lost.any():
            found.append((float("nan"), 0))
    return Parity(
        difference=float(np.max([difference for difference, _ in found])),
        flips=sum(flips for _, flips in found),
        rows=len(numbers),
    )


def _answers(session: Any, numbers: NDArray[np.float32], texts: NDArray[np.object_]) -> NDArray[np.float64]:
    """What the graph says: probabilities of shape (n, k), or values of shape (n, 1)."""
    given = {"numbers": numbers, "texts": texts}
    inputs = {node.name: given[node.name] for node in session.get_inputs()}
    output = session.run([session.get_outputs()[-1].name], inputs)[0]
    found: NDArray[np.float64] = output.astype(np.float64).reshape(len(numbers), -1)
    return found


def _differences(
    fitted: Fitted, session: Any, numbers: NDArray[np.float32], texts: NDArray[np.object_], *, relative: bool = False
) -> tuple[float, int]:
    """The largest difference, and how many labels differ; relative to values beyond the target's own scale."""
    output, expected = _answers(session, numbers, texts), _expected(fitted, numbers, texts)
    if fitted.task == "regression":
        scale = np.maximum(np.abs(expected) / fitted.target_scale, 1.0) if relative else 1.0
        return float((np.abs(output - expected) / scale).max()), 0
    flips = int((output.argmax(axis=1) != expected.argmax(axis=1)).sum())
    return float(np.abs(output - expected).max()), flips


def _expected(fitted: Fitted, numbers: NDArray[np.float32], texts: NDArray[np.object_]) -> NDArray[np.float64]:
    """What the pipeline says, in the shape of `_answers`."""
    frame = fitted.features.join(numbers, texts)
    predict = fitted.pipeline.predict if fitted.task == "regression" else fitted.pipeline.predict_proba
    with np.errstate(over="ignore", invalid="ignore"):
        found: NDArray[np.float64] = np.asarray(predict(frame), dtype=np.float64).reshape(len(numbers), -1)
    return found


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


def _largest_seen(numbers: NDArray[np.float32]) -> NDArray[np.float32]:
    """Per column, shape (p,): the largest distance from zero; 1 where a column is missing in every row."""
    found: NDArray[np.float32] = np.fmax.reduce(np.abs(np.nan_to_num(numbers)), axis=0)
    return np.where(found > 0, found, np.float32(1.0))


def _outliers(features: Features, numbers: NDArray[np.float32], size: Any) -> NDArray[np.float32]:
    """Real rows, each with one number exchanged for `size`, scalar or by column, of either sign."""
    numbers = numbers.copy()
    columns = np.array([at for at in range(len(features.numbers)) if at not in features.flags])
    rows = np.arange(len(numbers))
    at = columns[rows % len(columns)]
    signs = np.where(rows // len(columns) % 2, np.float32(-1), np.float32(1))
    with np.errstate(over="ignore"):
        values = np.clip(np.broadcast_to(size, numbers.shape[1])[at] * signs, *_REPRESENTABLE)
    numbers[rows, at] = values
    for flag in features.flags:
        numbers[at == flag - 1, flag] = 0.0
    return numbers


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
