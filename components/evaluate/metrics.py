"""The metrics: what each one is, as data, and one implementation that serves the point and the bootstrap alike.

A metric is a function of a sample under B sets of row weights, so one call values a thousand resamples: the rows are
sorted once, and every resample is a weighted sum over them. The point is the same function under one set of weights.
The tests hold each one against scikit-learn's, with and without weights.

An undefined metric (one class only in the target, no positive prediction, a constant target) is None with the reason:
never a crash and never 0.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headway.components.bundle import Task
from headway.components.config import Config
from headway.components.errors import EvaluationError, UnknownNameError

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
Label = bool | int | str
Direction = Literal["higher", "lower", "zero"]

CALIBRATION_BINS = 15
"""Bins of equal width between 0 and 1 for the calibration error."""


class Measurement(Config):
    """A metric's value on some rows, with its confidence interval."""

    value: float | None = None
    """None where the metric is undefined."""
    low: float | None = None
    """Lower end of the interval; None where there is no interval."""
    high: float | None = None
    """Upper end of the interval."""
    reason: str = ""
    """Why there is no value, or no interval."""


@dataclass(frozen=True)
class Sample:
    """Rows with their truth and one model's prediction; make it with `classified` or `regressed`.

    Attributes:
        task: The kind of prediction.
        truth: (n,) class codes, or the target's values for regression.
        predicted: (n,) class codes, or predicted values.
        probabilities: (n, k) probability of each of the model's classes; None where the model gives none.
        weight: (n,) weight of each row; None when all rows count alike.
        classes: The model's classes, then the labels that it never saw. For binary the second is the positive one.
        known: How many of the classes the model knows.
    """

    task: Task
    truth: NDArray[Any]
    predicted: NDArray[Any]
    probabilities: Floats | None = None
    weight: Floats | None = None
    classes: tuple[Label, ...] = ()
    known: int = 0

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.truth)

    @property
    def unseen(self) -> dict[Label, int]:
        """Rows of each label that the model never saw."""
        return {self.classes[code]: int((self.truth == code).sum()) for code in range(self.known, len(self.classes))}

    def subset(self, rows: NDArray[Any]) -> "Sample":
        """The sample of some rows.

        Args:
            rows: (m,) row numbers, or an (n,) mask.
        """
        return replace(
            self,
            truth=self.truth[rows],
            predicted=self.predicted[rows],
            probabilities=None if self.probabilities is None else self.probabilities[rows],
            weight=None if self.weight is None else self.weight[rows],
        )

    @cached_property
    def positive(self) -> Floats:
        """(n,) probability of the positive class of a binary task."""
        return self.probability_of(1)

    def probability_of(self, code: int) -> Floats:
        """(n,) probability of one class."""
        return self._given_probabilities[:, code]

    @property
    def _given_probabilities(self) -> Floats:
        if self.probabilities is None:
            raise EvaluationError("The model gives no probabilities", fix="ask for metrics that need labels only")
        return self.probabilities

    @cached_property
    def errors(self) -> Floats:
        """(n,) prediction minus truth of a regression, in units of the target."""
        return np.asarray(self.predicted - self.truth, dtype=np.float64)

    @cached_property
    def log_losses(self) -> Floats:
        """(n,) minus the logarithm of the true class's probability, in nats; clipped as scikit-learn does."""
        given = self._given_probabilities
        padding = np.zeros((self.rows, len(self.classes) - self.known))
        normed = given / given.sum(axis=1, keepdims=True)
        of_truth = np.hstack([normed, padding])[np.arange(self.rows), self.truth]
        return np.asarray(-np.log(np.clip(of_truth, np.finfo(np.float64).eps, 1.0)))

    @cached_property
    def squared_errors(self) -> Floats:
        """(n,) squared distance of the positive probability from the outcome; 1 for a label the model never saw."""
        squared = np.square(self.positive - (self.truth == 1))
        return np.asarray(np.where(self.truth < self.known, squared, 1.0))

    @cached_property
    def miscalibration(self) -> Any:
        """(bins, n) sparse: outcome minus positive probability, in the line of the row's bin."""
        from scipy.sparse import csr_array

        bins = np.minimum((self.positive * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
        gaps = (self.truth == 1) - self.positive
        return csr_array((gaps, (bins, np.arange(self.rows))), shape=(CALIBRATION_BINS, self.rows))

    @cached_property
    def indicators(self) -> Any:
        """(3 k, n) sparse rows that count, for each class: true, predicted, and correct."""
        from scipy.sparse import csr_array

        k, every = len(self.classes), np.arange(self.rows)
        hits = self.truth == self.predicted
        rows = np.concatenate([self.truth, k + self.predicted, 2 * k + self.truth[hits]])
        columns = np.concatenate([every, every, every[hits]])
        return csr_array((np.ones(len(rows)), (rows, columns)), shape=(3 * k, self.rows))

    @cached_property
    def _orders(self) -> dict[int, "_Order"]:
        return {}

    def order(self, code: int) -> "_Order":
        """The rows of one class and of the rest, each sorted by the class's probability; sorted once."""
        if code not in self._orders:
            self._orders[code] = _Order.of(self.probability_of(code), self.truth == code)
        return self._orders[code]

    @cached_property
    def by_size_of_error(self) -> Codes:
        """(n,) row numbers from the smallest absolute error to the largest."""
        return np.argsort(np.abs(self.errors), kind="stable")


class _Order(NamedTuple):
    """Positives and negatives sorted by score, and where each positive falls among them."""

    positives: Codes
    negatives: Codes
    positives_below: Codes
    """(p,) positives with a smaller score than this one."""
    negatives_below: Codes
    negatives_up_to: Codes
    """(p,) negatives with a smaller score or the same."""

    @classmethod
    def of(cls, score: Floats, is_positive: NDArray[np.bool_]) -> "_Order":
        order = np.argsort(score, kind="stable")
        positives, negatives = order[is_positive[order]], order[~is_positive[order]]
        high, low = score[positives], score[negatives]
        return cls(
            positives,
            negatives,
            np.searchsorted(high, high, side="left"),
            np.searchsorted(low, high, side="left"),
            np.searchsorted(low, high, side="right"),
        )


def classified(
    task: Task,
    target: NDArray[Any],
    labels: NDArray[Any],
    probabilities: Floats | None,
    classes: Sequence[Label],
    *,
    weight: Floats | None = None,
) -> Sample:
    """The sample of a binary or multiclass model.

    A label that the model never saw gets a code behind the model's classes, so its rows count as errors.

    Args:
        task: "binary" or "multiclass".
        target: (n,) true labels, of any type that equals the classes (0 and 1 stand for False and True).
        labels: (n,) predicted labels.
        probabilities: (n, k), in the order of the classes; None where the model gives none.
        classes: The model's k classes. For binary the second is the positive one.
        weight: (n,) weight of each row.

    Raises:
        EvaluationError: No true label is a class of the model, or a shape does not fit.
    """
    codes = {label: code for code, label in enumerate(classes)}
    truth, names = _encode(target, dict(codes))
    if (truth >= len(classes)).all():
        raise EvaluationError(
            f"None of the target's labels ({_some(names[len(classes) :])}) is a class of the model",
            expected=f"labels among {_some(classes)}",
            fix="evaluate on data of the same target, with labels of the same type",
        )
    predicted, predictable = _encode(labels, dict(codes))
    if len(predictable) > len(classes):
        raise EvaluationError(
            f"The model predicts {_some(predictable[len(classes) :])}", expected=f"its own classes, {_some(classes)}"
        )
    sample = Sample(task, truth, predicted, _probabilities(probabilities), _weight(weight), tuple(names), len(classes))
    return _check(sample)


def regressed(target: NDArray[Any], predicted: NDArray[Any], *, weight: Floats | None = None) -> Sample:
    """The sample of a regression model.

    Args:
        target: (n,) true values.
        predicted: (n,) predicted values, in the target's unit.
        weight: (n,) weight of each row.

    Raises:
        EvaluationError: A value is not finite, or a shape does not fit.
    """
    truth, values = np.asarray(target, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    return _check(Sample("regression", truth, values, weight=_weight(weight)))


def _encode(labels: NDArray[Any], codes: dict[Any, int]) -> tuple[Codes, list[Label]]:
    """Codes of the labels; one without a code gets the next free one, in sorted order."""
    import pandas as pd

    positions, found = pd.factorize(np.asarray(labels), use_na_sentinel=False)
    plain = [value.item() if isinstance(value, np.generic) else value for value in found]
    for value in sorted((value for value in plain if value not in codes), key=str):
        codes[value] = len(codes)
    return np.array([codes[value] for value in plain], dtype=np.int64)[positions], list(codes)


def _probabilities(given: Any) -> Floats | None:
    return None if given is None else np.asarray(given, dtype=np.float64)


def _weight(given: Any) -> Floats | None:
    return None if given is None else np.asarray(given, dtype=np.float64)


def _check(sample: Sample) -> Sample:
    if sample.rows == 0:
        raise EvaluationError("There are no rows to evaluate on", fix="check the validation part and its quarantine")
    columns = {"the prediction": sample.predicted, "the weight": sample.weight, "the probability": sample.probabilities}
    for name, values in columns.items():
        if values is not None and len(values) != sample.rows:
            raise EvaluationError(f"{name} has {len(values):,} rows", expected=f"{sample.rows:,}, as the target has")
    for name, values in {"the target": sample.truth, **columns}.items():
        if values is not None and not np.isfinite(values).all():
            raise EvaluationError(f"{name} holds values that are not finite numbers")
    if sample.probabilities is not None and sample.probabilities.shape != (sample.rows, sample.known):
        raise EvaluationError(
            f"The probabilities have the shape {sample.probabilities.shape}",
            expected=f"({sample.rows}, {sample.known}): one column a class",
        )
    if sample.weight is not None and (sample.weight.min() < 0 or sample.weight.sum() <= 0):
        raise EvaluationError("The weights hold a negative value or are all 0", expected="weights of 0 or more")
    return sample


def _some(labels: Sequence[Label], limit: int = 5) -> str:
    shown = ", ".join(repr(label) for label in labels[:limit])
    return shown if len(labels) <= limit else f"{shown} and {len(labels) - limit} more"


class Counts(NamedTuple):
    """Weighted counts of each class under each set of weights."""

    true: Floats
    """(B, k)"""
    predicted: Floats
    """(B, k)"""
    correct: Floats
    """(B, k)"""


class Weighted:
    """A sample under B sets of row weights; what several metrics share is computed once.

    Args:
        sample: n rows.
        weights: (B, n), 0 or more.
    """

    def __init__(self, sample: Sample, weights: Floats) -> None:
        self.sample = sample
        self.weights = weights
        self._ranks: dict[int, _Ranks] = {}

    @cached_property
    def total(self) -> Floats:
        """(B,) sum of the weights."""
        return np.asarray(self.weights.sum(axis=1))

    def mean(self, values: Floats) -> Floats:
        """(B,) weighted mean of (n,) values."""
        return np.asarray(self.weights @ values / self.total)

    @cached_property
    def counts(self) -> Counts:
        """True, predicted and correct by class."""
        return Counts(*np.split((self.sample.indicators @ self.weights.T).T, 3, axis=1))

    def ranks(self, code: int) -> "_Ranks":
        """How the rows of one class rank against the rest by the class's probability."""
        if code not in self._ranks:
            self._ranks[code] = _Ranks.of(self.sample.order(code), self.weights)
        return self._ranks[code]


class _Ranks(NamedTuple):
    """Cumulative weights along the scores, at each positive."""

    weight: Floats
    """(B, p) weight of each positive, by ascending score."""
    positives: Floats
    """(B, p + 1) running sum of it."""
    negatives: Floats
    """(B, q + 1) running sum of the negatives' weights."""
    order: _Order

    @classmethod
    def of(cls, order: _Order, weights: Floats) -> "_Ranks":
        weight = weights[:, order.positives]
        return cls(weight, _running(weight), _running(weights[:, order.negatives]), order)

    def roc_auc(self) -> Floats:
        """(B,) the share of pairs in the right order, ties as half."""
        below = self.negatives[:, self.order.negatives_below]
        if not np.array_equal(self.order.negatives_below, self.order.negatives_up_to):
            below = (below + self.negatives[:, self.order.negatives_up_to]) / 2
        pairs = self.positives[:, -1] * self.negatives[:, -1]
        return _ratio(np.einsum("bp,bp->b", self.weight, below), pairs)

    def average_precision(self) -> Floats:
        """(B,) precision at each positive's score, averaged over the positives."""
        hits = self.positives[:, -1:] - self.positives[:, self.order.positives_below]
        alarms = self.negatives[:, -1:] - self.negatives[:, self.order.negatives_below]
        # A positive of weight 0 at the top has no alarm above it: it adds nothing, so it may divide by anything.
        precision = hits / np.maximum(hits + alarms, np.finfo(np.float64).tiny)
        return _ratio(np.einsum("bp,bp->b", self.weight, precision), self.positives[:, -1])


def _running(values: Floats) -> Floats:
    sums = np.zeros((values.shape[0], values.shape[1] + 1))
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return sums


def _ratio(top: Floats, bottom: Floats) -> Floats:
    """`top / bottom`, NaN where `bottom` is 0."""
    empty = np.full(np.broadcast(top, bottom).shape, np.nan)
    return np.asarray(np.divide(top, bottom, out=empty, where=bottom > 0))


def accuracy(w: Weighted) -> Floats:
    """(B,) share of rows with the right label."""
    return np.asarray(w.counts.correct.sum(axis=1) / w.total)


def balanced_accuracy(w: Weighted) -> Floats:
    """(B,) mean recall of the classes that the target holds (Brodersen et al., 2010)."""
    return _at_least_two_classes(w, np.nanmean(_ratio(w.counts.correct, w.counts.true), axis=1))


def precision(w: Weighted) -> Floats:
    """(B,) share of positive predictions that are right."""
    return _ratio(w.counts.correct[:, 1], w.counts.predicted[:, 1])


def recall(w: Weighted) -> Floats:
    """(B,) share of positives that were found."""
    return _ratio(w.counts.correct[:, 1], w.counts.true[:, 1])


def f1(w: Weighted) -> Floats:
    """(B,) harmonic mean of precision and recall."""
    return np.asarray(_f1_by_class(w)[:, 1])


def _f1_by_class(w: Weighted) -> Floats:
    return _ratio(2 * w.counts.correct, w.counts.true + w.counts.predicted)


def _precision_by_class(w: Weighted) -> Floats:
    return _ratio(w.counts.correct, w.counts.predicted)


def _recall_by_class(w: Weighted) -> Floats:
    return _ratio(w.counts.correct, w.counts.true)


def _macro(by_class: Callable[[Weighted], Floats]) -> Callable[[Weighted], Floats]:
    """The mean over the classes that occur in truth or prediction; one without a value counts 0, as in scikit-learn."""

    def macro(w: Weighted) -> Floats:
        occurs = (w.counts.true + w.counts.predicted) > 0
        values = np.where(occurs, np.nan_to_num(by_class(w)), 0.0)
        return _at_least_two_classes(w, _ratio(values.sum(axis=1), occurs.sum(axis=1)))

    return macro


def _by_support(by_class: Callable[[Weighted], Floats]) -> Callable[[Weighted], Floats]:
    """The mean over the classes, each by its weight in the target."""

    def weighted(w: Weighted) -> Floats:
        values = (np.nan_to_num(by_class(w)) * w.counts.true).sum(axis=1) / w.total
        return _at_least_two_classes(w, values)

    return weighted


def _at_least_two_classes(w: Weighted, values: Floats) -> Floats:
    return np.where((w.counts.true > 0).sum(axis=1) > 1, values, np.nan)


def roc_auc(w: Weighted) -> Floats:
    """(B,) chance that a positive scores above a negative (Hanley & McNeil, 1982)."""
    return w.ranks(1).roc_auc()


def roc_auc_ovr(w: Weighted) -> Floats:
    """(B,) mean over the classes of the area of one class against the rest."""
    return np.asarray(np.mean([w.ranks(code).roc_auc() for code in range(w.sample.known)], axis=0))


def average_precision(w: Weighted) -> Floats:
    """(B,) area under the precision-recall steps, without interpolation."""
    return w.ranks(1).average_precision()


def log_loss(w: Weighted) -> Floats:
    """(B,) mean negative log-likelihood, in nats a row."""
    return w.mean(w.sample.log_losses)


def brier(w: Weighted) -> Floats:
    """(B,) mean squared distance of the positive probability from the outcome (Brier, 1950)."""
    return w.mean(w.sample.squared_errors)


def mcc(w: Weighted) -> Floats:
    """(B,) correlation of prediction and truth (Matthews, 1975; many classes: Gorodkin, 2004)."""
    true, predicted, correct = w.counts
    right = correct.sum(axis=1) * w.total - (true * predicted).sum(axis=1)
    spread = (w.total**2 - (predicted**2).sum(axis=1)) * (w.total**2 - (true**2).sum(axis=1))
    # Squares of whole numbers cancel exactly; of weights they leave dust where the spread is 0.
    return _ratio(right, np.sqrt(np.where(spread > 1e-12 * w.total**4, spread, 0.0)))


def expected_calibration_error(w: Weighted) -> Floats:
    """(B,) mean distance of mean probability and share of positives over equal-width bins (Naeini et al., 2015)."""
    return np.asarray(np.abs(w.sample.miscalibration @ w.weights.T).sum(axis=0) / w.total)


def rmse(w: Weighted) -> Floats:
    """(B,) root of the mean squared error."""
    return np.asarray(np.sqrt(w.mean(np.square(w.sample.errors))))


def mae(w: Weighted) -> Floats:
    """(B,) mean absolute error."""
    return w.mean(np.abs(w.sample.errors))


def median_absolute_error(w: Weighted) -> Floats:
    """(B,) weighted median of the absolute error; the mean of the two middle ones where the weights halve exactly."""
    order = w.sample.by_size_of_error
    sizes = np.abs(w.sample.errors)[order]
    running = np.cumsum(w.weights[:, order], axis=1)
    half = running[:, -1:] / 2
    slack = 1e-12 * half
    lower = (running < half - slack).sum(axis=1)
    upper = (running <= half + slack).sum(axis=1)
    return np.asarray((sizes[lower] + sizes[np.minimum(upper, len(sizes) - 1)]) / 2)


def r2(w: Weighted) -> Floats:
    """(B,) share of the target's variance that the prediction explains."""
    # Centred first: the difference of two large sums would lose the digits of a small variance.
    centred = w.sample.truth - w.sample.truth.mean()
    variance = w.mean(np.square(centred)) - np.square(w.mean(centred))
    residual = w.mean(np.square(w.sample.errors))
    spread = np.where(variance > 1e-14 * np.square(w.sample.truth).max(initial=0.0), variance, 0.0)
    return np.asarray(1 - _ratio(residual, spread))


def mape(w: Weighted) -> Floats:
    """(B,) mean absolute error as a share of the true value; undefined where a true value is 0."""
    sizes = np.abs(w.sample.truth)
    if not sizes.all():
        return np.full(len(w.weights), np.nan)
    return w.mean(np.abs(w.sample.errors) / sizes)


def max_error(w: Weighted) -> Floats:
    """(B,) largest absolute error among the rows of positive weight."""
    order = w.sample.by_size_of_error
    last = w.sample.rows - 1 - np.argmax(w.weights[:, order[::-1]] > 0, axis=1)
    return np.asarray(np.abs(w.sample.errors)[order][last])


def bias(w: Weighted) -> Floats:
    """(B,) mean of prediction minus truth."""
    return w.mean(w.sample.errors)


@dataclass(frozen=True)
class Metric:
    """One metric, as data."""

    name: str
    tasks: frozenset[Task]
    direction: Direction
    """Which way is better; "zero" means the nearer to 0 the better, from both sides."""
    low: float
    """The smallest value it can take."""
    high: float
    """The largest value it can take."""
    needs: Literal["labels", "probabilities"]
    function: Callable[[Weighted], Floats]
    undefined: str = "it is undefined on these rows"
    """What is the matter when it comes out undefined."""
    resampled: bool = True
    """Whether the bootstrap says anything about it."""

    def better(self, value: float, than: float) -> bool:
        """Whether one value is better than another."""
        return self.goodness(value) > self.goodness(than)

    def goodness(self, value: float) -> float:
        """The value turned so that larger is better."""
        return {"higher": value, "lower": -value, "zero": -abs(value)}[self.direction]

    def unavailable(self, sample: Sample) -> str:
        """Why it cannot be asked of a sample at all; empty when it can."""
        lacks = self.needs == "probabilities" and sample.probabilities is None
        return "the model gives no probabilities" if lacks else ""

    def values(self, w: Weighted) -> Floats:
        """(B,) values under each set of weights; NaN where undefined."""
        if self.unavailable(w.sample):
            return np.full(len(w.weights), np.nan)
        with np.errstate(all="ignore"):
            return self.function(w)


_BINARY: frozenset[Task] = frozenset({"binary"})
_MULTICLASS: frozenset[Task] = frozenset({"multiclass"})
_CLASSES: frozenset[Task] = _BINARY | _MULTICLASS
_REGRESSION: frozenset[Task] = frozenset({"regression"})
_INF = float("inf")
_ONE_CLASS = "the target holds one class only"
_NO_POSITIVE = "the target holds no row of the positive class"
_SILENT = "the model predicts no row as positive"


def _score(name: str, tasks: frozenset[Task], function: Callable[[Weighted], Floats], undefined: str) -> Metric:
    return Metric(name, tasks, "higher", 0.0, 1.0, "labels", function, undefined)


def _rank(name: str, tasks: frozenset[Task], function: Callable[[Weighted], Floats], undefined: str) -> Metric:
    return Metric(name, tasks, "higher", 0.0, 1.0, "probabilities", function, undefined)


def _error(name: str, function: Callable[[Weighted], Floats], undefined: str = "", *, resampled: bool = True) -> Metric:
    return Metric(name, _REGRESSION, "lower", 0.0, _INF, "labels", function, undefined, resampled)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        _rank("roc_auc", _BINARY, roc_auc, _ONE_CLASS),
        _rank("average_precision", _BINARY, average_precision, _NO_POSITIVE),
        Metric("log_loss", _CLASSES, "lower", 0.0, _INF, "probabilities", log_loss),
        Metric("brier", _BINARY, "lower", 0.0, 1.0, "probabilities", brier),
        Metric("expected_calibration_error", _BINARY, "lower", 0.0, 1.0, "probabilities", expected_calibration_error),
        _rank("roc_auc_ovr", _MULTICLASS, roc_auc_ovr, "a class of the model has no row, or all rows, in the target"),
        _score("accuracy", _CLASSES, accuracy, ""),
        _score("balanced_accuracy", _CLASSES, balanced_accuracy, _ONE_CLASS),
        _score("precision", _BINARY, precision, _SILENT),
        _score("recall", _BINARY, recall, _NO_POSITIVE),
        _score("f1", _BINARY, f1, f"{_NO_POSITIVE} and {_SILENT}"),
        Metric("mcc", _BINARY, "higher", -1.0, 1.0, "labels", mcc, "the target or the prediction holds one class only"),
        _score("macro_f1", _MULTICLASS, _macro(_f1_by_class), _ONE_CLASS),
        _score("macro_precision", _MULTICLASS, _macro(_precision_by_class), _ONE_CLASS),
        _score("macro_recall", _MULTICLASS, _macro(_recall_by_class), _ONE_CLASS),
        _score("weighted_f1", _MULTICLASS, _by_support(_f1_by_class), _ONE_CLASS),
        _score("weighted_precision", _MULTICLASS, _by_support(_precision_by_class), _ONE_CLASS),
        _score("weighted_recall", _MULTICLASS, _by_support(_recall_by_class), _ONE_CLASS),
        _error("rmse", rmse),
        _error("mae", mae),
        _error("median_absolute_error", median_absolute_error),
        Metric("r2", _REGRESSION, "higher", -_INF, 1.0, "labels", r2, "the target is constant"),
        _error("mape", mape, "the target is 0 in some rows"),
        _error("max_error", max_error, resampled=False),
        Metric("bias", _REGRESSION, "zero", -_INF, _INF, "labels", bias),
    )
}
"""Every metric by name, in the order in which reports show them."""

PRIMARY: dict[Task, str] = {"binary": "roc_auc", "multiclass": "macro_f1", "regression": "rmse"}
"""The metric that a report leads with when the document names none."""


def metrics_for(task: Task) -> list[str]:
    """The names of the metrics that fit a task.

    Example:
        >>> metrics_for("regression")
        ['rmse', 'mae', 'median_absolute_error', 'r2', 'mape', 'max_error', 'bias']
    """
    return [name for name, metric in METRICS.items() if task in metric.tasks]


def metric(name: str) -> Metric:
    """One metric by name.

    Raises:
        UnknownNameError: There is none of that name; offers the near ones.
    """
    if name not in METRICS:
        raise UnknownNameError("metric", name, METRICS)
    return METRICS[name]


def measure(sample: Sample, names: Iterable[str]) -> dict[str, Measurement]:
    """The values of metrics on a sample, without intervals.

    Example:
        >>> truth, score = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])
        >>> both = np.column_stack([1 - score, score])
        >>> sample = classified("binary", truth, score > 0.5, both, [0, 1])
        >>> {name: found.value for name, found in measure(sample, ["roc_auc", "precision", "recall"]).items()}
        {'roc_auc': 0.75, 'precision': 1.0, 'recall': 0.5}
        >>> measure(sample.subset(truth == 0), ["roc_auc"])["roc_auc"].reason
        'the target holds one class only'
    """
    weights = np.ones((1, sample.rows)) if sample.weight is None else sample.weight[None, :]
    weighted = Weighted(sample, weights)
    return {name: _measure_one(metric(name), weighted) for name in names}


def _measure_one(found: Metric, weighted: Weighted) -> Measurement:
    value = float(found.values(weighted)[0])
    if not np.isfinite(value):
        return Measurement(reason=found.unavailable(weighted.sample) or found.undefined)
    return Measurement(value=value)
