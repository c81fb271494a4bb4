"""The trial of an estimator: its value is the full fit's, its folds leak nothing, its space is checked beforehand."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headway.components.data_validate.contract import Contract
from headway.components.errors import ConfigError, EvaluationError, SourceError, UnknownNameError
from headway.components.evaluate.metrics import classified, measure
from headway.components.train.estimators import CATALOGUE, TrainSpec
from headway.components.train.fit import fit
from headway.components.tune import fitting
from headway.components.tune.fitting import FitObjective, grows
from headway.components.tune.objective import Job
from headway.components.tune.spec import TuningSpec

SPACE = {"parameters.max_iter": {"type": "int", "low": 5, "high": 50}}


@pytest.fixture
def job(parts: tuple[Path, Path], contract: Contract) -> Any:
    def make(
        tuning: Any = None, *, training: str = "{}", metric: str = "roc_auc", contract: Contract = contract, **more: Any
    ) -> Job:
        spec = TuningSpec.parse({"space": SPACE, "evaluation": "validation", **(tuning or {})})
        train, validation = parts
        given = {"train": str(train), "validation": str(validation), **more}
        return Job(
            study="s",
            storage="",
            model="shops",
            contract=contract.dump(),
            training=training,
            tuning=spec.dump(),
            task="binary",
            metric=metric,
            threads=1,
            **given,
        )

    return make


def never(step: int, value: float) -> bool:
    return False


class Reports(list[Any]):
    def __call__(self, step: int, value: float) -> bool:
        self.append((step, value))
        return False


def full_fit(section: dict[str, Any], parts: Any, contract: Contract) -> float:
    """What train and evaluate make of a section: the fit on the training part, measured on the validation part."""
    train, validation = parts
    fitted = fit(train, contract, TrainSpec.parse(section), threads=1)
    table = pq.read_table(validation)
    frame = fitted.features.frame(table)
    classes = np.array(fitted.classes)
    labels = classes[fitted.pipeline.predict(frame)]
    probabilities = fitted.pipeline.predict_proba(frame) if hasattr(fitted.pipeline, "predict_proba") else None
    sample = classified("binary", table["bought"].to_numpy(), labels, probabilities, fitted.classes)
    value = measure(sample, ["roc_auc"])["roc_auc"].value
    assert value is not None
    return value


SECTIONS = [
    {"parameters": {"max_iter": 20}},
    {"estimator": "gradient_boosting", "parameters": {"n_estimators": 20, "subsample": 0.7}, "seed": 3},
    {"estimator": "random_forest", "parameters": {"n_estimators": 20}, "class_weight": "balanced"},
    {"estimator": "extra_trees", "parameters": {"n_estimators": 20}},
    {"estimator": "logistic_regression"},
    {"estimator": "mlp", "parameters": {"max_iter": 30}},
    {"estimator": "sgd", "early_stopping": True},
    {"estimator": "naive_bayes"},
    {"early_stopping": {"patience": 3}, "parameters": {"max_iter": 40}},
]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "section", SECTIONS, ids=lambda each: each.get("estimator", "boosting") + ("!" if "early_stopping" in each else "")
)
def test_the_last_rung_is_the_full_fit(section: Any, job: Any, parts: Any, contract: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(fitting, "MIN_RUNG_ROWS", 50)
    reports = Reports()
    objective = FitObjective(job({"rungs": 3}))
    value = objective(section, reports)
    assert [step for step, _ in reports] == [1, 3]
    # Train rounds the learnt category means to the 32 bits that ONNX has.
    assert value == pytest.approx(full_fit(section, parts, contract), abs=2e-4)
    alone = FitObjective(job({"pruner": "none"}))(section, never)
    assert alone == pytest.approx(value, abs=1e-12)


def test_every_estimator_that_grows_is_known() -> None:
    growing = {name for name in CATALOGUE if grows(TrainSpec(estimator=name))}
    assert growing == {"hist_gradient_boosting", "gradient_boosting", "random_forest", "extra_trees"}
    assert not grows(TrainSpec(parameters={"early_stopping": True}))
    assert grows(TrainSpec(parameters={"early_stopping": False}))


def test_a_stopped_trial_fits_no_more(job: Any, monkeypatch: Any) -> None:
    shares = []
    own = fitting._Candidate.value

    def counted(self: Any, share: float) -> Any:
        shares.append(share)
        return own(self, share)

    monkeypatch.setattr(fitting._Candidate, "value", counted)
    FitObjective(job({"rungs": 3}))({"parameters": {"max_iter": 9}}, lambda step, value: True)
    assert shares == [pytest.approx(1 / 9)]


def test_preprocessing_is_learnt_once_for_all_trials(job: Any, monkeypatch: Any) -> None:
    learnt = []
    own = FitObjective._encode

    def counted(self: Any, *arguments: Any) -> Any:
        learnt.append(arguments)
        return own(self, *arguments)

    monkeypatch.setattr(FitObjective, "_encode", counted)
    objective = FitObjective(job({"evaluation": "folds"}))
    for rate in (0.1, 0.2, 0.3):
        objective({"parameters": {"max_iter": 5, "learning_rate": rate}}, never)
    assert len(learnt) == 3  # folds, not trials
    objective({"estimator": "logistic_regression"}, never)
    assert len(learnt) == 6


class TestFolds:
    def divided(self, job: Any, folds: Any, contract: Contract | None = None) -> tuple[FitObjective, pa.Table]:
        more = {"contract": contract} if contract else {}
        objective = FitObjective(job({"evaluation": "folds", "folds": folds}, validation="", **more))
        return objective, pq.read_table(objective.job.train)

    def test_each_row_is_judged_once_and_never_by_a_model_that_saw_it(self, job: Any) -> None:
        objective, table = self.divided(job, {"count": 4})
        judged = np.concatenate([part.judged for part in objective.parts])
        assert sorted(judged) == list(range(table.num_rows))
        for part in objective.parts:
            assert not set(part.fitted) & set(part.judged)
        shares = [np.mean(objective.train.codes[part.judged]) for part in objective.parts]
        assert max(shares) - min(shares) < 0.02  # stratified

    def test_groups_stay_together(self, job: Any) -> None:
        objective, table = self.divided(job, {"count": 3, "method": "group", "column": "shop"})
        shop = np.array(table["shop"].to_pylist())
        for part in objective.parts:
            assert not set(shop[part.fitted]) & set(shop[part.judged])

    def test_the_past_judges_nothing(self, job: Any, contract: Contract) -> None:
        timed = Contract.parse({**contract.model_dump(mode="json", exclude_defaults=True), "time": "day"})
        objective, table = self.divided(job, {"count": 3}, timed)
        day = table["day"].to_numpy()
        for part in objective.parts:
            assert day[part.fitted].max() < day[part.judged].min()

    @pytest.mark.parametrize(
        ("folds", "message"),
        [
            ({"method": "group", "column": "shp"}, "no column 'shp' - did you mean 'shop'"),
            ({"method": "time"}, "method time needs a column"),
        ],
    )
    def test_a_column_that_is_not_there(self, job: Any, folds: Any, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            self.divided(job, folds)

    @pytest.mark.parametrize(
        ("folds", "message"),
        [
            ({"method": "group"}, "needs `column`"),
            ({"column": "shop"}, "auto uses no column"),
            ({"count": 1}, "greater than or equal to 2"),
        ],
    )
    def test_half_said(self, folds: Any, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            TuningSpec.parse({"space": SPACE, "folds": folds})

    def test_the_judges_see_nothing_of_preprocessing(self, job: Any, tmp_path: Path) -> None:
        """Labels of judged rows, changed, change no matrix: nothing is learnt from them."""
        objective, table = self.divided(job, {"count": 3})
        part = objective.parts[0]
        bought = table["bought"].to_numpy(zero_copy_only=False).copy()
        before = objective.matrices(TrainSpec(), CATALOGUE["hist_gradient_boosting"], 0)
        objective.train.codes[part.judged] = 1 - objective.train.codes[part.judged]
        objective._matrices.cache_clear()
        after = objective.matrices(TrainSpec(), CATALOGUE["hist_gradient_boosting"], 0)
        assert bought.any()
        np.testing.assert_array_equal(before[0], after[0])
        np.testing.assert_array_equal(before[1], after[1])


def test_validation_is_needed_where_it_judges(job: Any, shops: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs the validation part"):
        FitObjective(job(validation=""))
    pq.write_table(shops(5).slice(0, 0), tmp_path / "empty.parquet")
    with pytest.raises(SourceError, match="there are no rows"):
        FitObjective(job(validation=str(tmp_path / "empty.parquet")))


def test_an_undefined_metric_fails_the_trial_with_its_reason(job: Any, shops: Any, tmp_path: Path) -> None:
    table = shops(50)
    one = table.set_column(table.column_names.index("bought"), "bought", pa.array([True] * 50))
    pq.write_table(one, tmp_path / "one.parquet")
    objective = FitObjective(job(validation=str(tmp_path / "one.parquet")))
    with pytest.raises(EvaluationError, match="roc_auc is undefined: the target holds one class only"):
        objective({"parameters": {"max_iter": 5}}, never)


def test_weights_of_rows_and_classes_count(job: Any, shops: Any, tmp_path: Path, contract: Contract) -> None:
    table = shops(400).append_column("w", pa.array(np.random.default_rng(0).uniform(0, 2, 400)))
    pq.write_table(table, tmp_path / "w.parquet")
    document = contract.model_dump(mode="json", exclude_defaults=True)
    document["columns"] = {**document["columns"], "w": {"type": "number", "role": "weight"}}
    weighted = Contract.parse(document)
    plain = FitObjective(job(train=str(tmp_path / "w.parquet"), validation=str(tmp_path / "w.parquet")))
    own = FitObjective(
        job(train=str(tmp_path / "w.parquet"), validation=str(tmp_path / "w.parquet"), contract=weighted)
    )
    section = {"parameters": {"max_iter": 10}}
    assert own(section, never) != plain(section, never)
    with pytest.raises(ConfigError, match="'knn' takes no weights"):
        own({"estimator": "knn"}, never)


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_other_tasks(task: str, job: Any, shops: Any, tmp_path: Path) -> None:
    table = shops(400)
    price = table["price"].to_numpy()
    target = {
        "multiclass": pa.array(np.array(["low", "mid", "high"])[np.digitize(price, [-0.5, 0.5])]),
        "regression": pa.array(price * 10),
    }[task]
    table = table.set_column(table.column_names.index("bought"), "goal", target)
    pq.write_table(table, tmp_path / "t.parquet")
    kind = {"multiclass": "string", "regression": "number"}[task]
    columns = {"price": {"type": "number"}, "city": {"type": "string"}, "goal": {"type": kind}}
    contract = Contract.parse({"name": "shops", "target": "goal", "columns": columns})
    metric = {"multiclass": "macro_f1", "regression": "rmse"}[task]
    assert FitObjective.task_of(tmp_path / "t.parquet", contract, TrainSpec()) == task
    objective = FitObjective(
        job({"evaluation": "folds"}, contract=contract, metric=metric, train=str(tmp_path / "t.parquet"))
    )
    value = objective({"parameters": {"max_iter": 20}}, never)
    assert value > 0.9 if task == "multiclass" else value < 3


class TestCheck:
    """A space is held against the training section before anything runs."""

    @pytest.mark.parametrize(
        ("space", "message"),
        [
            (
                {"parameters.max_itr": {"type": "int", "low": 1, "high": 2}},
                "has no parameter 'max_itr' - did you mean 'max_iter'",
            ),
            ({"max_iter": {"type": "int", "low": 1, "high": 2}}, "did you mean 'max_iter'"),
            ({"max_itr": {"type": "int", "low": 1, "high": 2}}, "did you mean 'max_iter'"),
            ({"estimater": {"type": "categorical", "values": ["ridge", "lasso"]}}, "did you mean 'estimator'"),
            ({"parameters": {"type": "int", "low": 1, "high": 2}}, "'parameters' is a section"),
            ({"threads": {"type": "int", "low": 1, "high": 2}}, "'threads' is nothing to search: it changes no score"),
            (
                {"estimator": {"type": "categorical", "values": ["random_forest", "randm_forest"]}},
                "did you mean 'random_forest'",
            ),
            (
                {"estimator": {"type": "categorical", "values": ["random_forest", "ridge"]}},
                "'ridge' does not fit the task 'binary'",
            ),
            ({"parameters.learning_rate": {"type": "float", "low": 0.0, "high": 1.0}}, "learning_rate.*range"),
            ({"max_categories": {"type": "int", "low": 1, "high": 10}}, "max_categories.*greater than or equal to 2"),
            ({"class_weight": {"type": "categorical", "values": ["balanced", "balancd"]}}, "class_weight"),
            ({"parameters.random_state": {"type": "int", "low": 1, "high": 2}}, "set by the training section"),
            ({"early_stopping.patiense": {"type": "int", "low": 1, "high": 9}}, "did you mean 'patience'"),
            (
                {
                    "estimator": {"type": "categorical", "values": ["hist_gradient_boosting", "random_forest"]},
                    "parameters.learning_rate": {"type": "float", "low": 0.1, "high": 1},
                },
                "'random_forest' has no parameter 'learning_rate'(.|\n)*make it conditional",
            ),
        ],
    )
    def test_refused(self, space: Any, message: str) -> None:
        with pytest.raises((ConfigError, UnknownNameError), match=message):
            TuningSpec.parse({"space": space}).check(TrainSpec(), "binary")

    def test_taken(self) -> None:
        space = {
            "estimator": {"type": "categorical", "values": ["hist_gradient_boosting", "random_forest", "mlp"]},
            "kind": {"type": "categorical", "values": ["a", "b"]},
            "parameters.learning_rate": {
                "type": "float",
                "low": 0.1,
                "high": 1,
                "when": {"estimator": "hist_gradient_boosting"},
            },
            "parameters.max_depth": [
                {"type": "int", "low": 2, "high": 9, "when": {"estimator": ["hist_gradient_boosting"]}},
                {"type": "int", "low": 2, "high": 30, "when": {"estimator": "random_forest"}},
            ],
            "class_weight": {"type": "categorical", "values": ["balanced", None]},
            "early_stopping.patience": {"type": "int", "low": 1, "high": 9, "when": {"estimator": "mlp"}},
        }
        del space["kind"]
        TuningSpec.parse({"space": space}).check(TrainSpec(parameters={"max_iter": 100}), "binary")
        TuningSpec.parse({"space": space}).check(TrainSpec(), None)

    @pytest.mark.parametrize(
        ("metric", "message"), [("roc_acu", "did you mean 'roc_auc'"), ("rmse", "metric of the task 'binary'")]
    )
    def test_metric(self, metric: str, message: str) -> None:
        with pytest.raises(UnknownNameError, match=message):
            TuningSpec.parse({"space": SPACE, "metric": metric}).check(TrainSpec(), "binary")

    @pytest.mark.parametrize(
        ("objective", "message"),
        [
            ("estimater", "Unknown objective 'estimater' - did you mean 'estimator'"),
            ("nowhere:Thing", "No module named 'nowhere'"),
            ("headway.components.tune.fitting:Table", "is no Objective"),
        ],
    )
    def test_objective(self, objective: str, message: str) -> None:
        with pytest.raises((ConfigError, UnknownNameError), match=message):
            TuningSpec.parse({"space": SPACE, "objective": objective}).check(TrainSpec(), "binary")


def test_parameters_of_another_estimator_are_left_out() -> None:
    base = {"parameters": {"max_iter": 9}, "seed": 4}
    assert FitObjective.compose(base, {"estimator": "random_forest", "parameters.max_depth": 3}) == {
        "seed": 4,
        "estimator": "random_forest",
        "parameters": {"max_depth": 3},
    }
    assert FitObjective.compose(base, {"estimator": "hist_gradient_boosting"})["parameters"] == {"max_iter": 9}
    assert base == {"parameters": {"max_iter": 9}, "seed": 4}


def test_the_section_as_it_stands_takes_the_estimators_defaults() -> None:
    space = TuningSpec.parse(
        {
            "space": {
                **SPACE,
                "parameters.learning_rate": {"type": "float", "low": 0.01, "high": 1},
                "seed": {"type": "int", "low": 0, "high": 3},
            }
        }
    ).search_space
    assert FitObjective.current(space, TrainSpec(parameters={"max_iter": 30}), "binary") == {
        "parameters.max_iter": 30,
        "parameters.learning_rate": 0.1,
        "seed": 0,
    }


@pytest.mark.filterwarnings("ignore:The least populated class")
def test_too_few_rows_of_a_class(job: Any, shops: Any, tmp_path: Path) -> None:
    table = shops(40)
    rare = pa.array([at == 0 for at in range(40)])
    pq.write_table(table.set_column(table.column_names.index("bought"), "bought", rare), tmp_path / "rare.parquet")
    objective = FitObjective(job({"evaluation": "folds"}, train=str(tmp_path / "rare.parquet")))
    with pytest.raises(EvaluationError, match="one class only"):
        objective({"parameters": {"max_iter": 5}}, never)
