"""The register step, as a plain function and as its KFP face."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from headway.components.bundle import bundle_digest
from headway.components.errors import RefusedNameError, RegistryError
from headway.components.register import component
from headway.components.register.ledger import Ledger
from headway.components.register.register import MAX_ERROR, record_outcome, register
from headway.components.register.registry import Registry
from headway.components.settings import Settings

BundleMaker = Callable[..., Path]


@pytest.fixture
def judged(tmp_path: Path, make_bundle: BundleMaker) -> Callable[..., Path]:
    """Write the verdict of a bundle: `judged(bundle, decision="promote")`."""

    def write(bundle: Path, **changes: Any) -> Path:
        path = tmp_path / "verdict.json"
        reasons = [{"code": "threshold_met", "effect": "promote", "text": "roc_auc 0.81, at least 0.7"}]
        verdict = {"decision": "promote", "reasons": reasons, "bundle_digest": bundle_digest(bundle), **changes}
        path.write_text(json.dumps(verdict))
        return path

    return write


class TestTheStep:
    def test_the_first_version(
        self, installation: Settings, make_bundle: BundleMaker, judged: Callable[..., Path]
    ) -> None:
        made = register("flights", make_bundle(), judged(make_bundle()))
        assert made.version.version == 1
        assert "**Registered flights 1 (1.0.0).** It is the **champion**." in made.summary
        assert "roc_auc 0.81, at least 0.7" in made.summary
        assert Registry().ledger.rows()[0].body["verdict"]["reasons"] == ["roc_auc 0.81, at least 0.7"]

    def test_the_second_waits(
        self, installation: Settings, make_bundle: BundleMaker, judged: Callable[..., Path]
    ) -> None:
        register("flights", make_bundle(), judged(make_bundle()))
        made = register("flights", make_bundle(1), judged(make_bundle(1)))
        assert "The champion stays flights 1 (1.0.0); this one waits as **challenger**." in made.summary

    def test_without_a_champion(
        self, installation: Settings, make_bundle: BundleMaker, judged: Callable[..., Path]
    ) -> None:
        made = register("flights", make_bundle(), judged(make_bundle()), promote_first=False)
        assert "There is no champion yet" in made.summary

    @pytest.mark.parametrize("content", [None, "", "[1]", "{"])
    def test_a_verdict_that_is_none(
        self, installation: Settings, make_bundle: BundleMaker, tmp_path: Path, content: str | None
    ) -> None:
        path = tmp_path / "verdict.json"
        if content is not None:
            path.write_text(content)
        with pytest.raises(RegistryError, match=r"verdict\.json: (no|not)[\s\S]*that `evaluate` wrote"):
            register("flights", make_bundle(), path)


class TestItsFace:
    def artifacts(self, bundle: Path, verdict: Path, tmp_path: Path) -> dict[str, Any]:
        return {
            "bundle": dsl.Model(uri=str(bundle)),
            "verdict": dsl.Artifact(uri=str(verdict)),
            "summary": dsl.Markdown(uri=str(tmp_path / "out" / "summary.md")),
        }

    def test_it_gives_the_number_and_the_summary(
        self, installation: Settings, make_bundle: BundleMaker, judged: Callable[..., Path], tmp_path: Path
    ) -> None:
        given = self.artifacts(make_bundle(), judged(make_bundle()), tmp_path)
        assert component.register.python_func("flights", **given) == "1"
        assert (tmp_path / "out" / "summary.md").read_text().startswith("**Registered flights 1 (1.0.0).**")
        assert given["summary"].metadata["semver"] == "1.0.0"

    def test_the_run_comes_from_the_bundle(
        self, installation: Settings, make_bundle: BundleMaker, judged: Callable[..., Path], tmp_path: Path
    ) -> None:
        given = self.artifacts(make_bundle(), judged(make_bundle()), tmp_path)
        given["bundle"].metadata["run_id"] = "a" * 32
        with pytest.raises(RegistryError, match="There is no MLflow run 'aaaa"):
            component.register.python_func("flights", **given)

    def test_a_bundle_that_did_not_pass(
        self, installation: Settings, make_bundle: BundleMaker, judged: Callable[..., Path], tmp_path: Path
    ) -> None:
        given = self.artifacts(make_bundle(), judged(make_bundle(), decision="hold"), tmp_path)
        with pytest.raises(RegistryError, match="the gate's decision is 'hold'"):
            component.register.python_func("flights", **given)
        assert Registry().names() == []


class TestTheEndOfARun:
    @pytest.fixture
    def ledger(self, installation: Settings) -> Ledger:
        return Ledger(installation.resolved_database_url)

    def status(self, **values: Any) -> dsl.PipelineTaskFinalStatus:
        given = {"state": "SUCCEEDED", "pipeline_job_resource_name": "train-1", "pipeline_task_name": "exit-handler-1"}
        return dsl.PipelineTaskFinalStatus(**{**given, "error_code": None, "error_message": None, **values})

    def test_a_good_run(self, ledger: Ledger) -> None:
        component.record_outcome.python_func("flights", self.status())
        row = ledger.rows()[0]
        assert (row.kind, row.model, row.body) == ("run", "flights", {"state": "SUCCEEDED", "pipeline": "train-1"})

    def test_a_failed_run_with_its_error(self, ledger: Ledger) -> None:
        message = "cannot read s3://key:hunter2@bucket " + "x" * 9000
        component.record_outcome.python_func(
            "flights", self.status(state="FAILED", error_code=13, error_message=message)
        )
        body = ledger.rows()[0].body
        assert (body["state"], body["error_code"]) == ("FAILED", 13)
        assert body["error"].startswith("cannot read s3://***@bucket x")
        assert len(body["error"]) <= MAX_ERROR

    def test_a_failed_run_without_one(self, ledger: Ledger) -> None:
        component.record_outcome.python_func("flights", self.status(state="FAILED"))
        assert ledger.rows()[0].body == {"state": "FAILED", "pipeline": "train-1"}

    def test_a_name_that_is_none(self, ledger: Ledger) -> None:
        with pytest.raises(RefusedNameError):
            record_outcome("../x", state="FAILED", pipeline="train-1", ledger=ledger)
