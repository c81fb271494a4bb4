"""Every metric against scikit-learn, and what happens where one is undefined."""

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.components.errors import EvaluationError, UnknownNameError
from headway.components.evaluate.metrics import (
    METRICS,
    Weighted,
    classified,
    measure,
    metric,
    metrics_for,
    regressed,
)


def values(sample, names=None):
    return {name: found.value for name, found in measure(sample, names or metrics_for(sample.task)).items()}


def reasons(sample, names):
    return {name: found.reason for name, found in measure(sample, names).items()}


def binary(seed, n, *, ties, weighted, classes=(False, True)):
    random = np.random.default_rng(seed)
    truth = random.random(n) < random.uniform(0.2, 0.8)
    truth[:2] = [False, True]
    score = random.random(n) * 0.9 + 0.05
    if ties:
        score = np.round(score * 6) / 7 + 0.02
    labels = score > 0.5
    weight = random.uniform(0.1, 3, n) if weighted else None
    named = np.array(classes, dtype=object)
    both = np.column_stack([1 - score, score])
    return classified("binary", named[truth * 1], named[labels * 1], both, classes, weight=weight), truth, score, labels


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(5, 200), st.booleans(), st.booleans())
def test_binary_metrics_agree_with_scikit_learn(seed, n, ties, weighted):
    sample, truth, score, labels = binary(seed, n, ties=ties, weighted=weighted)
    w = {"sample_weight": sample.weight}
    expected = {
        "roc_auc": sk.roc_auc_score(truth, score, **w),
        "average_precision": sk.average_precision_score(truth, score, **w),
        "log_loss": sk.log_loss(truth, score, **w),
        "brier": sk.brier_score_loss(truth, score, **w),
        "accuracy": sk.accuracy_score(truth, labels, **w),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, labels, **w),
        "recall": sk.recall_score(truth, labels, **w),
        "f1": sk.f1_score(truth, labels, **w),
    }
    if labels.any():
        expected["precision"] = sk.precision_score(truth, labels, **w)
    if labels.any() and not labels.all():
        expected["mcc"] = sk.matthews_corrcoef(truth, labels, **w)
    assert values(sample, expected) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(8, 200), st.integers(3, 6), st.booleans())
def test_multiclass_metrics_agree_with_scikit_learn(seed, n, k, weighted):
    random = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(k), random.integers(0, k, n)])
    given_ = random.dirichlet(np.ones(k), len(truth))
    labels = given_.argmax(axis=1)
    weight = random.uniform(0.1, 3, len(truth)) if weighted else None
    names = [f"class {code}" for code in range(k)]
    text = np.array(names, dtype=object)
    sample = classified("multiclass", text[truth], text[labels], given_, names, weight=weight)
    w = {"sample_weight": weight}
    scores = {"precision": sk.precision_score, "recall": sk.recall_score, "f1": sk.f1_score}
    expected = {
        f"{average}_{name}": score(truth, labels, average=average, zero_division=0, **w)
        for name, score in scores.items()
        for average in ("macro", "weighted")
    }
    expected |= {
        "accuracy": sk.accuracy_score(truth, labels, **w),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, labels, **w),
        "log_loss": sk.log_loss(truth, given_, **w),
        "roc_auc_ovr": sk.roc_auc_score(truth, given_, multi_class="ovr", **w),
    }
    assert values(sample) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 100), st.booleans())
def test_regression_metrics_agree_with_scikit_learn(seed, n, weighted):
    random = np.random.default_rng(seed)
    truth, predicted = random.normal(5, 2, n), random.normal(5, 2, n)
    weight = random.uniform(0.1, 3, n) if weighted else None
    w = {"sample_weight": weight}
    expected = {
        "rmse": sk.root_mean_squared_error(truth, predicted, **w),
        "mae": sk.mean_absolute_error(truth, predicted, **w),
        "r2": sk.r2_score(truth, predicted, **w),
        "mape": sk.mean_absolute_percentage_error(truth, predicted, **w),
        "max_error": sk.max_error(truth, predicted),
        "bias": np.average(predicted - truth, weights=weight),
    }
    if weight is None:
        expected["median_absolute_error"] = sk.median_absolute_error(truth, predicted)
    assert values(regressed(truth, predicted, weight=weight), expected) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_whole_weights_are_repeated_rows(task):
    random = np.random.default_rng(4)
    n, k = 120, 2 if task == "binary" else 3
    repeats = random.integers(0, 4, n)
    truth, given_ = random.integers(0, k, n), random.dirichlet(np.ones(k), n)

    def sample(rows, weight=None):
        if task == "regression":
            return regressed(truth[rows] + 1, given_[rows, 0], weight=weight)
        labels = given_[rows].argmax(axis=1)
        return classified(task, truth[rows], labels, given_[rows], list(range(k)), weight=weight)

    weighted = sample(np.arange(n), repeats.astype(float))
    repeated = sample(np.repeat(np.arange(n), repeats))
    assert values(weighted) == pytest.approx(values(repeated), abs=1e-9)


def test_many_sets_of_weights_give_what_each_gives_alone():
    sample, *_ = binary(1, 80, ties=True, weighted=False)
    weights = np.random.default_rng(0).integers(0, 3, (5, 80)).astype(float)
    for name in metrics_for("binary"):
        together = METRICS[name].values(Weighted(sample, weights))
        alone = [METRICS[name].values(Weighted(sample, row[None]))[0] for row in weights]
        assert together == pytest.approx(alone, nan_ok=True), name


def test_calibration_error_by_hand():
    score = np.array([0.05, 0.05, 0.95, 0.95])
    sample = classified("binary", [0, 1, 1, 1], score > 0.5, np.column_stack([1 - score, score]), [0, 1])
    # Half of the rows promise 0.05 and half of them are positive; the others promise 0.95 and all are.
    expected = 0.5 * abs(0.5 - 0.05) + 0.5 * abs(1 - 0.95)
    assert values(sample, ["expected_calibration_error"])["expected_calibration_error"] == pytest.approx(expected)


def test_every_metric_is_a_whole_row_of_data():
    for name, one in METRICS.items():
        assert one.name == name
        assert one.low < one.high
        assert one.tasks
    for task in ("binary", "multiclass", "regression"):
        assert len(metrics_for(task)) == len(set(metrics_for(task))) > 5


class TestUndefined:
    def test_one_class_in_the_target(self):
        score = np.array([0.2, 0.4, 0.7])
        sample = classified("binary", [False] * 3, score > 0.5, np.column_stack([1 - score, score]), [False, True])
        found = measure(sample, ["roc_auc", "average_precision", "recall", "balanced_accuracy", "mcc"])
        assert all(one.value is None for one in found.values())
        assert found["roc_auc"].reason == "the target holds one class only"
        assert found["recall"].reason == "the target holds no row of the positive class"

    def test_no_positive_prediction(self):
        sample = classified("binary", [0, 1, 1], [0, 0, 0], None, [0, 1])
        assert values(sample, ["recall", "f1", "precision"]) == {"recall": 0.0, "f1": 0.0, "precision": None}
        assert reasons(sample, ["precision"])["precision"] == "the model predicts no row as positive"

    def test_neither_in_target_nor_prediction(self):
        sample = classified("binary", [0, 0], [0, 0], None, [0, 1])
        assert values(sample, ["f1"])["f1"] is None

    def test_no_probabilities(self):
        sample = classified("binary", [0, 1], [0, 1], None, [0, 1])
        assert values(sample, ["accuracy", "roc_auc"]) == {"accuracy": 1.0, "roc_auc": None}
        assert reasons(sample, ["roc_auc"])["roc_auc"] == "the model gives no probabilities"

    def test_share_of_a_true_value_of_zero(self):
        assert reasons(regressed([0.0, 1.0], [1.0, 1.0]), ["mape"])["mape"] == "the target is 0 in some rows"

    def test_variance_of_a_constant_target(self):
        found = measure(regressed(np.full(50, 0.1), np.linspace(0, 1, 50)), ["r2", "mae"])
        assert found["r2"].value is None
        assert found["r2"].reason == "the target is constant"
        assert found["mae"].value is not None

    def test_a_class_without_rows(self):
        given_ = np.full((4, 3), 1 / 3)
        sample = classified("multiclass", [0, 1, 0, 1], [0, 1, 0, 1], given_, [0, 1, 2])
        found = measure(sample, ["roc_auc_ovr", "accuracy"])
        assert found["roc_auc_ovr"].value is None
        assert "has no row" in found["roc_auc_ovr"].reason
        assert found["accuracy"].value == 1.0


class TestLabels:
    @pytest.mark.parametrize("classes", [(False, True), (0, 1), ("no", "yes"), ("yes", "no")])
    def test_the_second_class_is_the_positive_one(self, classes):
        sample, truth, score, _ = binary(3, 60, ties=False, weighted=False, classes=classes)
        assert values(sample, ["roc_auc"])["roc_auc"] == pytest.approx(sk.roc_auc_score(truth, score))

    def test_numbers_stand_for_booleans(self):
        sample = classified("binary", np.array([0, 1, 1]), np.array([False, True, False]), None, [False, True])
        assert values(sample, ["accuracy"])["accuracy"] == pytest.approx(2 / 3)

    def test_a_label_that_the_model_never_saw_is_an_error(self):
        given_ = np.eye(3)[[0, 1, 2, 0]]
        target = np.array(["a", "b", "c", "new"], dtype=object)
        labels = np.array(["a", "b", "c", "a"], dtype=object)
        sample = classified("multiclass", target, labels, given_, ["a", "b", "c"])
        found = values(sample)
        assert sample.unseen == {"new": 1}
        assert found["accuracy"] == 0.75
        assert found["balanced_accuracy"] == 0.75
        assert found["log_loss"] == pytest.approx(-np.log(np.finfo(float).eps) / 4)
        assert found["macro_recall"] == pytest.approx(sk.recall_score(target, labels, average="macro", zero_division=0))

    def test_a_third_label_is_an_error_of_a_binary_model(self):
        both = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        sample = classified("binary", ["no", "yes", "maybe"], ["no", "yes", "no"], both, ["no", "yes"])
        found = values(sample, ["accuracy", "brier", "recall"])
        assert found == pytest.approx({"accuracy": 2 / 3, "brier": 1 / 3, "recall": 1.0})

    def test_no_label_in_common(self):
        with pytest.raises(EvaluationError, match="None of the target's labels \\('0', '1'\\) is a class") as caught:
            classified("binary", np.array(["0", "1"], dtype=object), [0, 1], None, [0, 1])
        assert "labels of the same type" in str(caught.value)


class TestRefused:
    def test_no_rows(self):
        with pytest.raises(EvaluationError, match="no rows"):
            regressed([], [])

    def test_infinite_prediction(self):
        with pytest.raises(EvaluationError, match="the prediction holds values that are not finite"):
            regressed([1.0], [np.inf])

    def test_negative_weight(self):
        with pytest.raises(EvaluationError, match="weights hold a negative"):
            regressed([1.0, 2.0], [1.0, 2.0], weight=np.array([1.0, -1.0]))

    def test_uneven_length(self):
        with pytest.raises(EvaluationError, match="the prediction has 1 rows"):
            regressed([1.0, 2.0], [1.0])

    def test_wrong_number_of_probability_columns(self):
        with pytest.raises(EvaluationError, match=r"shape \(2, 3\)"):
            classified("binary", [0, 1], [0, 1], np.full((2, 3), 1 / 3), [0, 1])

    def test_unknown_name(self):
        with pytest.raises(UnknownNameError, match="did you mean 'accuracy'"):
            metric("acuracy")
