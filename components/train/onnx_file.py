"""The fitted pipeline as an ONNX graph, and how far the two files are apart on real rows."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from headway.components.bundle import Task
from headway.components.errors import TrainingError
from headway.components.model import onnx_session, run_graph
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

Answers: TypeAlias = Callable[[NDArray[np.float32], NDArray[np.object_]], NDArray[np.float64]]
"""Numbers and texts to probabilities of shape (n, k), or to values of shape (n, 1)."""


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
    """A fit as a serialised ONNX graph; see `convert_pipeline`.

    Raises:
        TrainingError: The estimator or an encoder has no conversion that runs; says why.
    """
    return convert_pipeline(fitted.pipeline, fitted.features, fitted.task)


def convert_pipeline(pipeline: Any, features: Features, task: Task) -> bytes:
    """A fitted pipeline as an ONNX graph with the inputs `numbers` (n, p) and `texts` (n, q) and one output.

    Trees compare in 32 bits, which all their inputs have. Everything else computes in 64 bits as scikit-learn does,
    but for the layers of a network: in 32 bits a value some hundred standard deviations away turns the answer of naive
    Bayes round, and a mean far above its standard deviation is lost in rounding.

    Args:
        pipeline: The pipeline of a fit: the step `columns`, then the step `model`.
        features: The columns that it takes.
        task: What it predicts.

    Returns:
        The serialised graph. Its output has probabilities of shape (n, k), or values of shape (n, 1).

    Raises:
        TrainingError: The estimator or an encoder has no conversion that runs; says why.
    """
    if task != "regression" and not hasattr(pipeline, "predict_proba"):
        raise TrainingError("the estimator has no probabilities")
    reason = ""
    trees = type(pipeline.named_steps["model"]).__module__.startswith(_TREES)
    for bits in (32,) if trees else (64, 32):
        try:
            graph = bytes(_graph(pipeline, features, task, bits=bits).SerializeToString(deterministic=True))
            onnx_session(graph)
        except TrainingError:
            raise
        except Exception as error:  # a converter may raise anything; why it did is the result
            reason = reason or f"no conversion: {_first_line(error)}"
        else:
            return graph
    raise TrainingError(reason)


def _graph(pipeline: Any, features: Features, task: Task, *, bits: int) -> Any:
    model = pipeline.named_steps["model"]
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
            pipeline,
            name="model",
            initial_types=inputs,
            options={} if task == "regression" else {id(model): {"zipmap": False}},
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
    """How far a graph is from the fit it was converted from, on the fit's sample; see `parity`.

    Args:
        fitted: The fit; its sample has at most 5,000 rows.
        session: onnxruntime session over the converted graph.
    """
    classes = fitted.task != "regression"
    return parity(
        partial(_of_pipeline, fitted.pipeline, fitted.features, classes=classes),
        partial(_of_graph, session),
        fitted.features,
        *fitted.features.arrays(fitted.sample),
        scale=None if classes else fitted.target_scale,
    )


def parity(
    expected: Answers,
    found: Answers,
    features: Features,
    numbers: NDArray[np.float32],
    texts: NDArray[np.object_],
    *,
    scale: float | None,
) -> Parity:
    """How far one model file is from another on real rows, and on rows made up from them.

    Made-up rows have a value missing or a category unseen, or an outlier in one number: ten times as far from zero as
    any row of the sample. The largest numbers that there are must give a finite answer where the first file has one.

    Args:
        expected: What the first file says: probabilities of shape (n, k), or values of shape (n, 1).
        found: What the second one says.
        features: The columns.
        numbers: Real rows, shape (n, p).
        texts: Their texts, shape (n, q).
        scale: The target's standard deviation in regression; None where the answers are probabilities.
    """
    rows = [(numbers, texts, False), (*_made_up(features, numbers, texts), False)]
    count = min(MADE_UP_ROWS, len(numbers))
    finite = True
    if len(features.numbers) > len(features.flags):
        some = numbers[:count], texts[:count]
        outliers = _outliers(features, some[0], _largest_seen(numbers) * OUTLIER)
        rows.append((outliers, some[1], True))
        largest = _outliers(features, some[0], np.finfo(np.float32).max)
        with np.errstate(over="ignore", invalid="ignore"):
            known = np.isfinite(expected(largest, some[1]))
        finite = bool(np.isfinite(found(largest, some[1]))[known].all())
    differences = [_difference(expected(a, b), found(a, b), scale=scale, relative=relative) for a, b, relative in rows]
    return Parity(
        difference=float(np.max([difference for difference, _ in differences])) if finite else float("nan"),
        flips=sum(flips for _, flips in differences),
        rows=len(numbers),
    )


def _of_graph(session: Any, numbers: NDArray[np.float32], texts: NDArray[np.object_]) -> NDArray[np.float64]:
    names = [node.name for node in session.get_inputs()]
    output = run_graph(session, session.get_outputs()[-1].name, names, numbers, texts)
    found: NDArray[np.float64] = output.astype(np.float64).reshape(len(numbers), -1)
    return found


def _of_pipeline(
    pipeline: Any, features: Features, numbers: NDArray[np.float32], texts: NDArray[np.object_], *, classes: bool
) -> NDArray[np.float64]:
    predict = pipeline.predict_proba if classes else pipeline.predict
    answers = predict(features.join(numbers, texts))
    found: NDArray[np.float64] = np.asarray(answers, dtype=np.float64).reshape(len(numbers), -1)
    return found


def _difference(
    expected: NDArray[np.float64], found: NDArray[np.float64], *, scale: float | None, relative: bool
) -> tuple[float, int]:
    """The largest difference, and how many labels differ; `relative` to values beyond the target's own scale."""
    apart = np.abs(found - expected)
    if scale is None:
        return float(apart.max()), int((found.argmax(axis=1) != expected.argmax(axis=1)).sum())
    size = np.maximum(np.abs(expected) / scale, 1.0) if relative else 1.0
    return float((apart / size).max()), 0


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
