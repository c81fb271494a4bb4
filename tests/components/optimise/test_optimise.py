import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pyarrow.parquet as pq
import pytest
from onnx import helper

from headway.components.bundle import read_info, verify_manifest, write_manifest
from headway.components.errors import (
    ConfigError,
    SourceError,
    TrainingError,
    TrustError,
    UnknownNameError,
)
from headway.components.model import open_onnx
from headway.components.optimise.optimise import optimise
from headway.components.optimise.spec import OptimiseSpec
from headway.components.trust import Policy, load_bundle

UNSIGNED = Policy(require_signature=False)
TIMES: dict[str, Any] = {"batches": [1, 8], "seconds": 0.02, "rows": 300}
QUICK = OptimiseSpec(**TIMES)


@pytest.fixture
def run(validation: Path, tmp_path: Path) -> Any:
    def run(bundle: Path, spec: OptimiseSpec = QUICK, data: Path = validation, **more: Any) -> Any:
        return optimise(bundle, data, tmp_path / "new", spec, policy=UNSIGNED, **more)

    return run


@pytest.fixture
def hgb(bundle_of: Any) -> Path:
    return Path(bundle_of("binary", "hist_gradient_boosting"))


def by_name(found: Any) -> dict[str, Any]:
    return {one.name: one for one in found.record.candidates}


class TestNewBundle:
    def test_is_one_that_the_gate_opens(self, run: Any, hgb: Path, validation: Path) -> None:
        found = run(hgb)
        assert verify_manifest(found.path) == found.digest
        opened = load_bundle(found.path, policy=UNSIGNED)
        assert opened.format == "onnx"
        assert opened.info.optimisation == found.record
        assert opened.predict(pq.read_table(validation)).probabilities is not None
        kept = {path.name for path in hgb.iterdir()}
        assert {path.name for path in found.path.iterdir()} == kept

    def test_leaves_the_old_one_as_it_is(self, run: Any, hgb: Path) -> None:
        before = {path.name: path.read_bytes() for path in hgb.iterdir()}
        found = run(hgb)
        assert {path.name: path.read_bytes() for path in hgb.iterdir()} == before
        assert found.digest != verify_manifest(hgb)

    def test_drops_the_signature_of_the_old_one(self, run: Any, hgb: Path, tmp_path: Path) -> None:
        signed = tmp_path / "signed"
        shutil.copytree(hgb, signed)
        (signed / "bundle.sig").write_text("{}")
        assert not (run(signed).path / "bundle.sig").exists()

    def test_same_decision_gives_the_same_digest(
        self, bundle_of: Any, wide: Path, validation: Path, tmp_path: Path
    ) -> None:
        """Times differ from run to run, so none may be in the bundle."""
        for number, (bundle, int8) in enumerate([(bundle_of("binary", "naive_bayes"), "off"), (wide, "require")]):
            spec = OptimiseSpec(**TIMES, int8=int8, max_quality_loss=0.05)
            digests = {
                optimise(bundle, validation, tmp_path / f"{number}-{turn}", spec, policy=UNSIGNED).digest
                for turn in range(2)
            }
            assert len(digests) == 1

    def test_says_nothing_of_when_and_where(self, run: Any, hgb: Path, tmp_path: Path) -> None:
        found = run(hgb)
        for path in found.path.iterdir():
            assert str(tmp_path).encode() not in path.read_bytes(), path.name

    def test_graph_that_training_left_out_is_made(self, run: Any, bundle_of: Any) -> None:
        bundle = bundle_of("regression", "ridge", onnx="off")
        assert read_info(bundle).formats == ["skops"]
        found = run(bundle)
        assert found.info.formats == ["onnx", "skops"]
        assert found.info.parity is not None
        assert found.info.parity < 1e-4
        assert (found.path / "model.onnx").exists()

    def test_optimised_again_says_the_same(self, run: Any, bundle_of: Any, validation: Path, tmp_path: Path) -> None:
        found = run(bundle_of("binary", "naive_bayes"))
        again = optimise(found.path, validation, tmp_path / "again", QUICK, policy=UNSIGNED)
        assert again.digest == found.digest


class TestInt8:
    def test_taken_where_required(self, run: Any, wide: Path, validation: Path) -> None:
        found = run(wide, OptimiseSpec(**TIMES, int8="require"))
        int8 = by_name(found)["onnx-int8"]
        assert found.record.chosen == "onnx-int8"
        assert found.info.formats == ["onnx", "skops"]
        assert 1e-6 < int8.difference < 0.05
        assert int8.size < by_name(found)["onnx"].size / 2
        assert found.info.parity == int8.difference
        kinds = [node.op_type for node in onnx.load(str(found.path / "model.onnx")).graph.node]
        assert "MatMulInteger" in kinds
        served = open_onnx(found.path / "model.onnx").predict(pq.read_table(validation))
        assert served.probabilities is not None

    def test_refused_where_it_is_not_faster(self, run: Any, wide: Path) -> None:
        found = run(wide, OptimiseSpec(**TIMES, min_speedup=1e6))
        assert found.record.chosen == "onnx"
        assert found.record.reason == "int8 is not 1e+06 times faster at every batch size"
        assert not by_name(found)["onnx-int8"].refused
        assert by_name(found)["onnx"].difference < 1e-4
        assert found.info.parity == by_name(found)["onnx"].difference

    @pytest.mark.parametrize(
        ("limit", "reason"), [({"max_quality_loss": 0.0}, "loses up to"), ({"max_difference": 1e-5}, "moves a row by")]
    )
    def test_refused_where_it_loses_too_much(self, run: Any, wide: Path, limit: Any, reason: str) -> None:
        found = run(wide, OptimiseSpec(**TIMES, **limit))
        assert found.record.chosen == "onnx"
        assert by_name(found)["onnx-int8"].refused.startswith(reason)
        with pytest.raises(TrainingError, match=f"int8 is required: {reason}"):
            run(wide, OptimiseSpec(**TIMES, int8="require", **limit))

    def test_refused_without_a_target_to_judge_by(self, run: Any, wide: Path, validation: Path, tmp_path: Path) -> None:
        unlabelled = tmp_path / "unlabelled.parquet"
        pq.write_table(pq.read_table(validation).drop_columns(["late"]), unlabelled)
        found = run(wide, data=unlabelled)
        assert found.record.metric == ""
        assert "the rows have no target" in by_name(found)["onnx-int8"].refused

    def test_off(self, run: Any, wide: Path) -> None:
        found = run(wide, OptimiseSpec.parse("{int8: off, batches: [1], seconds: 0.02, rows: 100}"))
        assert list(by_name(found)) == ["skops", "onnx"]

    def test_in_regression(self, run: Any, bundle_of: Any) -> None:
        bundle = bundle_of("regression", "mlp", {"hidden_layer_sizes": [128, 128], "max_iter": 30})
        found = run(bundle, OptimiseSpec(**TIMES, int8="require", max_quality_loss=0.05, max_difference=0.5))
        int8 = by_name(found)["onnx-int8"]
        assert found.record.metric == "rmse"
        # The bundle tells units of the target, the record shares of its standard deviation.
        assert found.info.parity > 5 * int8.difference


class TestTrainedFileStays:
    def test_estimator_without_conversion(self, run: Any, bundle_of: Any) -> None:
        found = run(bundle_of("binary", "knn", {"metric": "manhattan"}))
        assert (found.record.chosen, found.info.formats, found.info.parity) == ("skops", ["skops"], None)
        assert found.record.reason.startswith("onnx: only the Euclidean distance")
        assert not (found.path / "model.onnx").exists()

    def test_estimator_without_probabilities(self, run: Any, bundle_of: Any) -> None:
        found = run(bundle_of("multiclass", "sgd", {"loss": "hinge"}))
        assert found.record.reason == "onnx: the estimator has no probabilities"
        assert by_name(found)["skops"].quality is None

    def test_graph_that_disagrees_is_left_out(self, run: Any, hgb: Path) -> None:
        found = run(hgb, OptimiseSpec(**TIMES, tolerance=1e-12))
        assert (found.record.chosen, found.info.formats) == ("skops", ["skops"])
        assert "allowed is 1e-12" in by_name(found)["onnx"].refused
        assert not (found.path / "model.onnx").exists()

    def test_int8_of_a_graph_that_disagrees_is_refused(self, run: Any, wide: Path) -> None:
        found = run(wide, OptimiseSpec(**TIMES, tolerance=1e-12))
        assert by_name(found)["onnx-int8"].refused == "onnx, which it is made from, is refused"

    def test_graph_of_another_fit(self, run: Any, bundle_of: Any, hgb: Path, tmp_path: Path) -> None:
        """A graph that was exchanged, in a bundle whose manifest was written anew, gives itself away."""
        bundle = tmp_path / "mixed"
        shutil.copytree(hgb, bundle)
        shutil.copyfile(bundle_of("binary", "naive_bayes") / "model.onnx", bundle / "model.onnx")
        write_manifest(bundle)
        found = run(bundle)
        assert found.record.chosen == "skops"
        assert by_name(found)["onnx"].flips > 0


class TestTurnedOff:
    def test_passes_the_bundle_on(self, run: Any, hgb: Path) -> None:
        found = run(hgb, OptimiseSpec(enabled=False))
        assert found.digest == verify_manifest(hgb) == verify_manifest(found.path)
        assert found.info.optimisation is None
        assert "turned off" in found.markdown()


class TestRefused:
    def test_changed_bundle(self, run: Any, hgb: Path, tmp_path: Path) -> None:
        bundle = tmp_path / "changed"
        shutil.copytree(hgb, bundle)
        (bundle / "model.onnx").write_bytes(b"other")
        with pytest.raises(TrustError, match=r"model\.onnx was changed"):
            run(bundle)

    def test_graph_with_an_operator_of_another_domain(self, run: Any, hgb: Path, tmp_path: Path) -> None:
        bundle = tmp_path / "foreign"
        shutil.copytree(hgb, bundle)
        model = onnx.load(str(bundle / "model.onnx"))
        model.graph.node.append(helper.make_node("Gelu", ["numbers"], ["unused"], domain="com.microsoft"))
        (bundle / "model.onnx").write_bytes(model.SerializeToString())
        write_manifest(bundle)
        with pytest.raises(TrustError, match=r"the domain 'com\.microsoft'"):
            run(bundle)

    def test_bundle_as_its_own_output(self, hgb: Path, validation: Path) -> None:
        with pytest.raises(ConfigError, match="is the bundle itself"):
            optimise(hgb, validation, hgb, QUICK, policy=UNSIGNED)
        verify_manifest(hgb)

    def test_place_that_is_taken(self, run: Any, hgb: Path, tmp_path: Path) -> None:
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "thesis.txt").write_text("years")
        with pytest.raises(TrainingError, match="is taken by something else"):
            run(hgb)

    def test_metric(self, run: Any, hgb: Path) -> None:
        with pytest.raises(ConfigError, match="'rmse' does not fit a binary model"):
            run(hgb, OptimiseSpec(metric="rmse"))
        with pytest.raises(UnknownNameError, match=r"did you mean 'roc_auc'"):
            run(hgb, metric="roc_acu")

    def test_section_wins_over_the_evaluation(self, run: Any, hgb: Path) -> None:
        assert run(hgb, OptimiseSpec(**TIMES, metric="log_loss"), metric="brier").record.metric == "log_loss"
        assert run(hgb, metric="brier").record.metric == "brier"

    def test_data(self, run: Any, hgb: Path, validation: Path, tmp_path: Path) -> None:
        table = pq.read_table(validation)
        pq.write_table(table.slice(0, 0), tmp_path / "empty.parquet")
        pq.write_table(table.drop_columns(["distance km"]), tmp_path / "lacks.parquet")
        (tmp_path / "text.parquet").write_text("a,b\n")
        for name, problem in (
            ("empty", "has no row"),
            ("lacks", "no column 'distance km'"),
            ("text", "text.parquet: "),
            ("none", "none.parquet: "),
        ):
            with pytest.raises(SourceError, match=problem):
                run(hgb, data=tmp_path / f"{name}.parquet")
        assert not (tmp_path / "new").exists()

    @pytest.mark.parametrize(
        "section", ["int8: maybe", "batches: []", "batches: [0]", "min_speedup: 0.5", "int_8: off", "seconds: 0"]
    )
    def test_section(self, section: str) -> None:
        with pytest.raises(ConfigError):
            OptimiseSpec.parse(section)


class TestReport:
    def test_page(self, run: Any, wide: Path) -> None:
        found = run(wide)
        page, text = found.html(), found.markdown()
        for name in ("skops", "onnx", "onnx-int8"):
            assert name in page
            assert f"| {name} |" in text
        assert ">nan" not in page
        assert page.count("<svg") == 2 + 2 * 2
        assert found.digest in page

    def test_scalars(self, run: Any, hgb: Path) -> None:
        found = run(hgb)
        assert {"microseconds_before_1", "microseconds_1", "speedup_1", "onnx_difference"} <= found.metrics.keys()
        assert found.metrics["speedup_1"] == pytest.approx(
            found.metrics["microseconds_before_1"] / found.metrics["microseconds_1"]
        )
        json.dumps(found.metrics)
