"""The step on real bundles, a real registry and a real MLflow, all in a temporary folder."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kfp import dsl

from headway.components.bundle import bundle_digest
from headway.components.errors import (
    EvaluationError,
    MetricDirectionError,
    MetricUndefinedError,
    PlatformError,
    SourceError,
    TrustError,
    UnknownNameError,
    UsageError,
)
from headway.components.evaluate.component import evaluate as component
from headway.components.evaluate.evaluate import Champion, champion_for, evaluate, log_evaluation
from headway.components.evaluate.gate import EvaluationSpec, Verdict
from headway.components.trust import Policy

UNSIGNED = Policy(require_signature=False)
QUICK = {"bootstrap": {"resamples": 200}, "importances": False}


def judge(world, task="binary", *, bundle=None, data=None, rival=None, **section):
    return evaluate(
        EvaluationSpec.parse({**QUICK, **section}),
        bundle or world.bundle(task),
        data or world.validation,
        champion=rival and Champion(version="3", bundle=rival),
        data_digest="v" * 64,
        policy=UNSIGNED,
    )


def changed(world, tmp_path, **columns):
    """The validation part with other columns."""
    table = pq.read_table(world.validation)
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    path = tmp_path / "changed.parquet"
    pq.write_table(table, path)
    return path


class TestVerdict:
    @pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
    def test_every_task(self, world, task):
        evaluation = judge(world, task, slices=[{"name": "origin", "column": "origin"}])
        verdict = evaluation.verdict
        assert verdict.decision == "promote"
        assert verdict.rows == 1200
        assert all(found.value is not None for found in verdict.metrics.values())
        assert [(one.label, one.rows > 100) for one in verdict.slices] == [
            ("origin = JFK", True),
            ("origin = EWR", True),
            ("origin = LGA", True),
        ]
        assert sum(one.rows for one in verdict.slices) == 1200

    def test_names_what_was_judged(self, world):
        verdict = judge(world).verdict
        assert verdict.name == "trips"
        assert verdict.bundle_digest == bundle_digest(world.bundle())
        assert verdict.data_digest == "v" * 64
        assert verdict.champion_version == ""

    @pytest.mark.parametrize(
        ("minimum", "decision"),
        [(0.70, "promote"), (0.99, "reject")],
    )
    def test_a_threshold(self, world, minimum, decision):
        assert judge(world, thresholds=[{"metric": "roc_auc", "min": minimum}]).verdict.decision == decision

    def test_a_slice_that_nothing_falls_into_holds(self, world):
        verdict = judge(world, slices=[{"name": "night", "where": "hour > 99"}]).verdict
        assert verdict.headline == "Hold: slice night is not judged: 0 rows, fewer than 100"

    def test_the_same_twice_is_the_same(self, world):
        once, again = (judge(world, slices=[{"name": "origin", "column": "origin"}]).verdict for _ in range(2))
        assert once == again

    def test_a_label_that_the_model_never_saw(self, world, tmp_path):
        labels = pq.read_table(world.validation).column("class").to_pylist()
        data = changed(world, tmp_path, **{"class": ["cancelled"] * 5 + labels[5:]})
        evaluation = judge(world, "multiclass", data=data)
        assert evaluation.verdict.decision == "hold"
        assert "cancelled (5 rows)" in evaluation.verdict.headline
        assert evaluation.sample.unseen == {"cancelled": 5}

    def test_importances_find_the_columns_that_matter(self, world):
        found = judge(world, importances=True).importances
        assert {one.column for one in found} == {"distance", "hour", "origin"}
        assert found[0].loss > found[-1].loss > 0

    def test_only_needed_columns_are_read(self, world, tmp_path):
        table = pq.read_table(world.validation).drop(["aircraft", "class", "delay"])
        pq.write_table(table, tmp_path / "narrow.parquet")
        assert judge(world, data=tmp_path / "narrow.parquet").verdict.rows == 1200


class TestChampion:
    rule = {"metric": "roc_auc", "max_regression": 0.01}

    def test_a_better_candidate(self, world):
        evaluation = judge(world, rival=world.weak_bundle(), champion=self.rule)
        verdict = evaluation.verdict
        assert verdict.decision == "promote"
        assert (verdict.champion_version, verdict.champion_digest) == ("3", bundle_digest(world.weak_bundle()))
        assert verdict.differences["roc_auc"].low > 0
        assert evaluation.champion_sample.rows == 1200

    def test_a_worse_candidate(self, world):
        verdict = judge(world, bundle=world.weak_bundle(), rival=world.bundle(), champion=self.rule).verdict
        assert verdict.decision == "reject"
        assert verdict.reasons[0].code == "champion_worse"
        assert verdict.differences["roc_auc"].high < -0.01

    def test_a_worse_regression(self, world):
        rule = {"metric": "rmse", "max_regression": 0.1}
        bundles = {"bundle": world.weak_bundle("regression"), "rival": world.bundle("regression")}
        verdict = judge(world, "regression", **bundles, champion=rule).verdict
        assert verdict.decision == "reject"
        assert verdict.differences["rmse"].low > 0.1

    def test_the_candidate_itself(self, world):
        evaluation = judge(world, rival=world.bundle(), champion=self.rule)
        assert evaluation.verdict.decision == "promote"
        assert evaluation.verdict.reasons[0].text.startswith("the candidate is champion 3 itself")
        assert evaluation.champion_sample is None

    def test_of_another_task(self, world):
        verdict = judge(world, rival=world.bundle("regression"), champion=self.rule).verdict
        assert verdict.decision == "hold"
        assert "its task is regression, the candidate's is binary" in verdict.headline

    def test_that_needs_a_column_which_is_gone(self, world, tmp_path):
        data = tmp_path / "narrow.parquet"
        pq.write_table(pq.read_table(world.validation).drop(["hour"]), data)
        contract = world.contract("binary", without="hour")
        candidate = world.bundle(label="without hour", contract=contract)
        verdict = judge(world, bundle=candidate, rival=world.bundle(), data=data, champion=self.rule).verdict
        assert verdict.decision == "hold"
        assert "could not be compared" in verdict.headline
        assert "'hour'" in verdict.headline

    def test_without_an_accepted_signature(self, world, installation):
        champion = Champion(version="3", bundle=world.weak_bundle())
        with pytest.raises(TrustError, match="not signed"):
            evaluate(EvaluationSpec.parse(QUICK), world.bundle(), world.validation, champion=champion)

    def test_a_candidate_needs_no_signature(self, world, installation):
        assert evaluate(EvaluationSpec.parse(QUICK), world.bundle(), world.validation).verdict.decision == "promote"


class TestRefused:
    def test_no_rows(self, world, tmp_path):
        pq.write_table(pq.read_table(world.validation).slice(0, 0), tmp_path / "empty.parquet")
        with pytest.raises(EvaluationError, match="no rows to evaluate on"):
            judge(world, data=tmp_path / "empty.parquet")

    @pytest.mark.parametrize(("task", "column"), [("binary", "late"), ("multiclass", "class"), ("regression", "delay")])
    def test_rows_without_a_target(self, world, tmp_path, task, column):
        values = pq.read_table(world.validation).column(column).to_pylist()
        data = changed(world, tmp_path, **{column: [None] * 3 + values[3:]})
        with pytest.raises(EvaluationError, match=f"3 of 1,200 rows have no value of the target '{column}'"):
            judge(world, task, data=data)

    def test_a_target_that_is_not_a_number(self, world, tmp_path):
        values = pq.read_table(world.validation).column("delay").to_pylist()
        with pytest.raises(EvaluationError, match="1 of 1,200 rows have no value"):
            judge(world, "regression", data=changed(world, tmp_path, delay=[float("nan"), *values[1:]]))

    def test_a_missing_column(self, world, tmp_path):
        pq.write_table(pq.read_table(world.validation).drop(["hour", "late"]), tmp_path / "narrow.parquet")
        with pytest.raises(SourceError, match="no column 'hour', 'late'"):
            judge(world, data=tmp_path / "narrow.parquet")

    def test_no_file(self, world, tmp_path):
        with pytest.raises(SourceError, match=r"nowhere\.parquet"):
            judge(world, data=tmp_path / "nowhere.parquet")

    def test_no_parquet(self, world, tmp_path):
        (tmp_path / "text.parquet").write_text("a,b")
        with pytest.raises(SourceError, match="Parquet"):
            judge(world, data=tmp_path / "text.parquet")

    def test_a_changed_bundle(self, world, tmp_path):
        bundle = tmp_path / "bundle"
        shutil.copytree(world.bundle(), bundle)
        (bundle / "contract.yaml").write_text("name: other")
        with pytest.raises(TrustError, match=r"contract\.yaml was changed"):
            judge(world, bundle=bundle)

    def test_a_wrong_direction_before_any_data_is_read(self, world, tmp_path):
        with pytest.raises(MetricDirectionError):
            judge(world, data=tmp_path / "nowhere.parquet", thresholds=[{"metric": "roc_auc", "max": 0.7}])

    def test_a_gate_on_an_undefined_metric(self, world, tmp_path):
        data = changed(world, tmp_path, late=[False] * 1200)
        with pytest.raises(MetricUndefinedError, match="the target holds one class only"):
            judge(world, data=data, thresholds=[{"metric": "roc_auc", "min": 0.7}])

    def test_a_bundle_of_another_model(self, world):
        with pytest.raises(UsageError, match="is a bundle of the model 'trips'"):
            evaluate(EvaluationSpec(), world.bundle(), world.validation, name="flights", policy=UNSIGNED)


class TestRegistry:
    def register(self, world, installation, label):
        from headway.components.register.registry import Registry

        registry = Registry(installation)
        bundle = world.weak_bundle() if label == "weak" else world.bundle()
        verdict = {"decision": "promote", "bundle_digest": bundle_digest(bundle)}
        return registry.register("trips", bundle, verdict=verdict, actor="test")

    def test_no_champion_is_asked_for(self, tmp_path):
        assert champion_for("trips", "", tmp_path / "champion") is None

    def test_there_is_none_yet(self, installation, tmp_path):
        assert champion_for("trips", "auto", tmp_path / "champion", installation) is None

    def test_an_unknown_version(self, world, installation, tmp_path):
        self.register(world, installation, "weak")
        with pytest.raises(UnknownNameError, match="'99'"):
            champion_for("trips", "99", tmp_path / "champion", installation)

    @pytest.mark.parametrize("wanted", ["auto", "1"])
    def test_the_one_that_serves_is_fetched_and_compared(self, world, installation, tmp_path, wanted):
        self.register(world, installation, "weak")
        champion = champion_for("trips", wanted, tmp_path / "champion", installation)
        assert champion.version == "1"
        spec = EvaluationSpec.parse({**QUICK, "champion": TestChampion.rule})
        verdict = evaluate(spec, world.bundle(), world.validation, champion=champion).verdict
        assert verdict.decision == "promote"
        assert verdict.champion_digest == bundle_digest(world.weak_bundle())

    def test_a_signed_champion_is_recognised_as_the_candidate(self, world, installation, tmp_path):
        self.register(world, installation, "good")
        champion = champion_for("trips", "auto", tmp_path / "champion", installation)
        spec = EvaluationSpec.parse({**QUICK, "champion": TestChampion.rule})
        verdict = evaluate(spec, world.bundle(), world.validation, champion=champion).verdict
        assert verdict.reasons[0].code == "champion_same"


class TestTracking:
    def run_of(self, installation):
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=installation.resolved_tracking_uri)
        experiment = client.create_experiment("trips", artifact_location=installation.resolved_artifact_root)
        return client, client.create_run(experiment).info.run_id

    def test_metrics_decision_and_report_reach_the_run(self, world, installation):
        client, run_id = self.run_of(installation)
        evaluation = judge(world, thresholds=[{"metric": "roc_auc", "min": 0.99}])
        log_evaluation(evaluation, run_id, installation)
        run = client.get_run(run_id)
        assert run.data.metrics["validation_roc_auc"] == evaluation.verdict.metrics["roc_auc"].value
        assert run.data.tags["headway.decision"] == "reject"
        assert {file.path for file in client.list_artifacts(run_id)} == {"evaluation.html", "verdict.json"}

    def test_an_unknown_run(self, world, installation):
        with pytest.raises(PlatformError, match="could not be written to MLflow run 'nope'"):
            log_evaluation(judge(world), "nope", installation)


class TestComponent:
    """The KFP face on artifacts made by hand."""

    def artifacts(self, world, tmp_path, task="binary", **metadata):
        bundle = dsl.Model(uri=str(world.bundle(task)))
        bundle.metadata.update(metadata)
        data = dsl.Dataset(uri=str(world.validation))
        data.metadata["digest"] = "v" * 64
        kinds = {
            "metrics": dsl.Metrics,
            "plots": dsl.ClassificationMetrics,
            "verdict": dsl.Artifact,
            "summary": dsl.Markdown,
            "report": dsl.HTML,
        }
        made = {name: kind(uri=str(tmp_path / "out" / name)) for name, kind in kinds.items()}
        return {"bundle": bundle, "data": data, **made}

    section = "{bootstrap: {resamples: 200}, importances: false, thresholds: [{metric: METRIC, BOUND: 0.6}]}"

    def test_a_classifier(self, world, installation, tmp_path):
        made = self.artifacts(world, tmp_path)
        section = self.section.replace("METRIC", "roc_auc").replace("BOUND", "min")
        decision = component.python_func(name="trips", evaluation=section, champion="auto", **made)
        assert decision == "promote"
        written = json.loads((tmp_path / "out" / "metrics").read_text())
        assert written == made["metrics"].metadata
        verdict = Verdict.load(tmp_path / "out" / "verdict")
        assert (verdict.decision, verdict.data_digest) == ("promote", "v" * 64)
        assert verdict.bundle_digest == bundle_digest(world.bundle())
        assert verdict.metrics["roc_auc"].value == written["roc_auc"]
        curve = made["plots"].metadata["confidenceMetrics"]
        assert 2 < len(curve) <= 200
        assert all(np.isfinite(point["confidenceThreshold"]) for point in curve)
        matrix = made["plots"].metadata["confusionMatrix"]
        assert [spec["displayName"] for spec in matrix["annotationSpecs"]] == ["False", "True"]
        assert (tmp_path / "out" / "summary").read_text().startswith("# Promote: the one rule is met")
        assert "<h1" in (tmp_path / "out" / "report").read_text()
        assert made["verdict"].metadata["decision"] == "promote"

    def test_a_regression_that_is_rejected(self, world, installation, tmp_path):
        made = self.artifacts(world, tmp_path, "regression")
        section = self.section.replace("METRIC", "rmse").replace("BOUND", "max")
        assert component.python_func(name="trips", evaluation=section, **made) == "reject"
        assert Verdict.load(tmp_path / "out" / "verdict").decision == "reject"
        assert made["plots"].metadata == {}

    def test_it_writes_to_the_run_of_the_training(self, world, installation, tmp_path):
        client, run_id = TestTracking().run_of(installation)
        made = self.artifacts(world, tmp_path, run_id=run_id)
        component.python_func(name="trips", evaluation="{bootstrap: {resamples: 200}}", **made)
        assert client.get_run(run_id).data.tags["headway.decision"] == "promote"
