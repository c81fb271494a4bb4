from typing import Any

import pytest

from headway.components.errors import ConfigError, UnknownNameError
from headway.components.train.estimators import CATALOGUE, TrainSpec, build, find, names


class TestNames:
    def test_every_entry_imports_and_takes_its_own_defaults(self) -> None:
        for name, entry in CATALOGUE.items():
            for task in ("binary", "regression"):
                if (entry.regressor if task == "regression" else entry.classifier) is not None:
                    model = build(TrainSpec(estimator=name), task, threads=1)
                    assert entry.defaults(task).items() <= model.get_params().items()

    def test_unknown_name_offers_the_near_one(self) -> None:
        with pytest.raises(
            UnknownNameError, match=r"Unknown estimator 'random_forrest' - did you mean 'random_forest'\?"
        ):
            find("random_forrest")

    @pytest.mark.parametrize("name", ["ridge", "lasso", "elastic_net"])
    def test_regressor_is_refused_for_classes(self, name: Any) -> None:
        with pytest.raises(ConfigError, match=f"'{name}' does not fit the task 'binary'") as caught:
            build(TrainSpec(estimator=name), "binary", threads=1)
        assert "logistic_regression" in str(caught.value)

    def test_names_of_a_task(self) -> None:
        assert "ridge" in names("regression")
        assert "ridge" not in names("binary")
        assert names("binary") == names("multiclass")


class TestDottedPath:
    def test_class_outside_the_catalogue(self) -> None:
        entry = find("sklearn.ensemble.AdaBoostClassifier")
        assert entry.path("binary") == "sklearn.ensemble.AdaBoostClassifier"
        assert entry.scales
        assert build(TrainSpec(estimator=entry.name), "binary", threads=1).__class__.__name__ == "AdaBoostClassifier"

    def test_class_of_the_catalogue_keeps_its_treatment(self) -> None:
        assert find("sklearn.ensemble.HistGradientBoostingClassifier") is CATALOGUE["hist_gradient_boosting"]

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("no_such_package.Model", "No module named 'no_such_package'"),
            ("sklearn.ensemble.AdaBoostClasifier", "did you mean 'AdaBoostClassifier'"),
            ("sklearn.preprocessing.StandardScaler", "has no predict"),
            ("collections.OrderedDict", "has no fit, predict, get_params"),
            ("sklearn.cluster.KMeans", "neither a classifier nor a regressor"),
            ("sklearn.ensemble.VotingClassifier", "a class that needs no arguments"),
        ],
    )
    def test_path_that_leads_to_no_estimator(self, path: Any, message: Any) -> None:
        with pytest.raises(ConfigError, match=message):
            find(path)

    def test_regressor_is_refused_for_classes(self) -> None:
        with pytest.raises(ConfigError, match="does not fit the task 'binary'"):
            build(TrainSpec(estimator="sklearn.linear_model.HuberRegressor"), "binary", threads=1)


class TestParameters:
    def test_unknown_parameter_offers_the_near_one(self) -> None:
        spec = TrainSpec(estimator="hist_gradient_boosting", parameters={"learning_rat": 0.1})
        with pytest.raises(ConfigError, match=r"has no parameter 'learning_rat' - did you mean 'learning_rate'\?"):
            build(spec, "binary", threads=1)

    @pytest.mark.parametrize(
        ("parameter", "key"), [("random_state", "seed"), ("n_jobs", "threads"), ("class_weight", "class_weight")]
    )
    def test_parameter_that_the_section_sets(self, parameter: Any, key: Any) -> None:
        with pytest.raises(ConfigError, match=f"give `{key}:` beside `parameters:`"):
            build(TrainSpec(estimator="random_forest", parameters={parameter: 1}), "binary", threads=1)

    def test_seed_and_threads_reach_the_estimator(self) -> None:
        model = build(TrainSpec(estimator="random_forest", seed=7), "binary", threads=2)
        assert (model.random_state, model.n_jobs) == (7, 2)

    def test_given_parameter_wins_over_the_catalogue(self) -> None:
        assert build(TrainSpec(estimator="sgd", parameters={"loss": "hinge"}), "binary", threads=1).loss == "hinge"


class TestEarlyStopping:
    @pytest.mark.parametrize("name", sorted(name for name, entry in CATALOGUE.items() if entry.early_stopping))
    def test_reaches_the_estimator(self, name: Any) -> None:
        spec = TrainSpec.parse(f"estimator: {name}\nearly_stopping: {{patience: 3, validation_share: 0.2}}")
        values = build(spec, "binary", threads=1).get_params()
        assert (values["n_iter_no_change"], values["validation_fraction"]) == (3, 0.2)
        assert values.get("early_stopping", True) is True

    def test_estimator_that_cannot(self) -> None:
        with pytest.raises(ConfigError, match="'ridge' does not stop early"):
            build(TrainSpec.parse("{estimator: ridge, early_stopping: true}"), "regression", threads=1)

    def test_given_twice(self) -> None:
        spec = TrainSpec.parse("{estimator: mlp, early_stopping: true, parameters: {n_iter_no_change: 2}}")
        with pytest.raises(ConfigError, match="'n_iter_no_change' of 'mlp' is also set by early_stopping"):
            build(spec, "binary", threads=1)

    def test_false_means_none(self) -> None:
        assert TrainSpec.parse("early_stopping: false").early_stopping is None


class TestSection:
    def test_bare_off_is_read_as_off(self) -> None:
        assert TrainSpec.parse("onnx: off").onnx == "off"

    def test_unknown_key(self) -> None:
        with pytest.raises(ConfigError, match="estimater is not a known key - did you mean 'estimator'"):
            TrainSpec.parse("estimater: ridge")

    def test_round_trip(self) -> None:
        spec = TrainSpec.parse("{estimator: mlp, early_stopping: {patience: 4}, class_weight: {true: 2.0}}")
        assert TrainSpec.parse(spec.dump()) == spec
