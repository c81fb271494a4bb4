"""The registry over a real MLflow: what it makes, what it refuses, and what a crash or a race leaves."""

import multiprocessing
import os
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from headway.components.bundle import bundle_digest, verify_manifest, write_manifest
from headway.components.errors import (
    HeadwayError,
    PlatformError,
    PromotionConflictError,
    RefusedNameError,
    RegistryError,
    TrustError,
    UnknownNameError,
)
from headway.components.register.intents import Intents
from headway.components.register.registry import Registry
from headway.components.register.store import Store, Version
from headway.components.settings import Settings

BundleMaker = Callable[..., Path]
ROWS = pd.DataFrame({"distance": [100.0, 4900.0], "carrier": ["UA", "AA"]})
WIDER: dict[str, Any] = {
    "name": "flights",
    "target": "late",
    "columns": {
        "distance": {"type": "number", "range": {"min": 0, "max": 9000}},
        "carrier": {"type": "string", "values": {"allowed": ["AA", "B6", "UA"]}},
        "late": {"type": "boolean"},
    },
}
WITH_SPEED = {**WIDER, "columns": {**WIDER["columns"], "speed": {"type": "number"}}}


@pytest.fixture(autouse=True)
def _temporary_files_go_with_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed leaves its temporary files, wherever they are."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def registry(installation: Settings) -> Registry:
    return Registry(installation)


def verdict(bundle: Path, **changes: Any) -> dict[str, Any]:
    return {"decision": "promote", "bundle_digest": bundle_digest(bundle), **changes}


def register(registry: Registry, bundle: Path, name: str = "flights", **options: Any) -> Version:
    return registry.register(name, bundle, verdict=verdict(bundle), actor="ann", **options)


def promote(registry: Registry, ref: str | int, expected: int | None, **options: Any) -> Version:
    return registry.promote("flights", ref, expected=expected, actor="ann", reason="better", **options)


def aliases(registry: Registry) -> dict[str, int]:
    return registry.store.require_aliases("flights")


def kinds(registry: Registry) -> list[str]:
    assert registry.ledger.verify().ok
    return [row.kind for row in registry.ledger.rows()]


@pytest.fixture(scope="module")
def home_of_three(
    make_bundle: BundleMaker, mlflow_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A home with three registered versions, the first of them champion; and a copy to restore it from."""
    home = tmp_path_factory.mktemp("three") / "home"
    home.mkdir()
    shutil.copyfile(mlflow_database, home / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for seed in range(3):
            register(Registry(Settings(home=home)), make_bundle(seed))
    return home, Path(shutil.copytree(home, home.parent / "copy"))


@pytest.fixture
def three(home_of_three: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Three versions; the first is champion."""
    home, copy = home_of_three
    shutil.rmtree(home / "artifacts")
    shutil.copytree(copy / "artifacts", home / "artifacts")
    # MLflow keeps its database open, so the content goes back through SQLite.
    for name in ("mlflow.db", "ledger.db"):
        with closing(sqlite3.connect(copy / name)) as source, closing(sqlite3.connect(home / name)) as target:
            source.backup(target)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("HEADWAY_HOME", str(home))
    return Registry(Settings(home=home))


class TestTheFirstVersion:
    def test_it_is_signed_described_and_champion(self, registry: Registry, make_bundle: BundleMaker) -> None:
        bundle = make_bundle()
        version = register(registry, bundle)
        assert (version.version, version.semver, version.aliases) == (1, "1.0.0", ("champion",))
        assert version.digest == bundle_digest(bundle)
        assert version.decision == "promote"
        assert "| Estimator | `logistic_regression` |" in version.card
        assert "- `distance`: number" in version.card
        assert not (bundle / "bundle.sig").exists()
        row = registry.ledger.rows()[0]
        assert (row.kind, row.version, row.actor, row.body["reason"]) == ("registered", "1", "ann", "first version")
        assert row.body["digest"] == version.digest

    def test_it_waits_where_nobody_wants_it_as_champion(self, registry: Registry, make_bundle: BundleMaker) -> None:
        version = register(registry, make_bundle(), promote_first=False)
        assert version.aliases == ("challenger",)
        assert registry.find_champion("flights") is None
        with pytest.raises(RegistryError, match=r"'flights' has no champion[\s\S]*headway model promote flights"):
            registry.champion("flights")
        assert promote(registry, 1, None).aliases == ("champion",)

    def test_it_opens_from_the_registry(self, registry: Registry, make_bundle: BundleMaker) -> None:
        model = registry.load(register(registry, make_bundle()))
        assert model.signer == "embedded"
        assert model.predict(ROWS).labels.tolist() == [False, True]

    def test_it_opens_with_mlflow(
        self, registry: Registry, make_bundle: BundleMaker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import mlflow

        version = register(registry, make_bundle())
        monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.settings.resolved_tracking_uri)
        monkeypatch.setenv("MLFLOW_REGISTRY_URI", registry.settings.resolved_tracking_uri)
        model = mlflow.pyfunc.load_model("models:/flights@champion")
        assert model.predict(ROWS)["prediction"].tolist() == [False, True]
        # MLflow leaves a note among the files; they stay trusted.
        with registry.check(version) as checked:
            assert checked.signer == "embedded"

    def test_its_files_are_where_kserve_can_fetch_them(self, registry: Registry, make_bundle: BundleMaker) -> None:
        uri = registry.storage_uri(register(registry, make_bundle()))
        assert uri.startswith("file:///")
        assert verify_manifest(Path(uri.removeprefix("file://"))) == bundle_digest(make_bundle())


class TestMoreVersions:
    def test_a_champion_stays_and_the_newest_waits(self, three: Registry) -> None:
        assert aliases(three) == {"champion": 1, "challenger": 3}
        assert [version.semver for version in three.versions("flights")] == ["1.0.0", "1.0.1", "1.0.2"]

    def test_semantic_versions_follow_the_change(self, registry: Registry, make_bundle: BundleMaker) -> None:
        made = [
            register(registry, bundle).semver
            for bundle in (
                make_bundle(),
                make_bundle(parameters={"C": 0.5}),
                make_bundle(contract=WIDER),
                make_bundle(contract=WITH_SPEED),
                make_bundle(1, contract=WITH_SPEED),
                make_bundle(contract=WIDER, seed=2),
            )
        ]
        assert made == ["1.0.0", "1.1.0", "1.2.0", "2.0.0", "2.0.1", "3.0.0"]
        why = registry.ledger.rows()[3].body["changes"]
        assert "input 'speed' was added and is required" in why

    def test_versions_are_found_by_number_semantic_version_and_alias(self, three: Registry) -> None:
        assert [three.version("flights", ref).version for ref in (2, "2", "1.0.1", "champion")] == [2, 2, 2, 1]

    def test_unknown_ones_are_named(self, three: Registry) -> None:
        with pytest.raises(UnknownNameError, match="Unknown model 'flight' - did you mean 'flights'"):
            three.versions("flight")
        with pytest.raises(UnknownNameError, match="Unknown version of 'flights' '9'"):
            three.version("flights", 9)
        with pytest.raises(UnknownNameError, match=r"Unknown version of 'flights' '1.0.9'[\s\S]*1\.0\.2"):
            three.version("flights", "1.0.9")
        with pytest.raises(RegistryError, match="'flights' has no previous"):
            three.version("flights", "previous")
        assert three.find_champion("nothing") is None

    @pytest.mark.parametrize("name", ["../x", "/etc", "a#b", "%2e%2e", "a\0", "Flights"])
    def test_hostile_names_are_refused_everywhere(self, three: Registry, make_bundle: BundleMaker, name: str) -> None:
        calls: list[Callable[[], Any]] = [
            lambda: three.versions(name),
            lambda: three.version(name, 1),
            lambda: three.version("flights", name),
            lambda: three.find_champion(name),
            lambda: three.champion_at(name, datetime.now(UTC)),
            lambda: register(three, make_bundle(), name),
            lambda: three.promote(name, 1, expected=None, actor="ann", reason="x"),
            lambda: three.rollback(name, actor="ann", reason="x"),
            lambda: three.repair(name),
        ]
        for call in calls:
            with pytest.raises(RefusedNameError):
                call()


class TestARetry:
    def test_the_same_bundle_is_the_same_version(self, registry: Registry, make_bundle: BundleMaker) -> None:
        first, second = register(registry, make_bundle()), register(registry, make_bundle())
        assert first == second
        assert kinds(registry) == ["registered"]

    def test_two_at_once_make_one_version(self, registry: Registry, make_bundle: BundleMaker) -> None:
        bundle = make_bundle()
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(lambda _: register(Registry(registry.settings), bundle), range(4)))
        assert {version.version for version in made} == {1}
        assert [version.version for version in registry.versions("flights")] == [1]
        assert kinds(registry) == ["registered"]


class TestWhatIsNotRegistered:
    def test_no_bundle(self, registry: Registry, tmp_path: Path) -> None:
        for folder in (tmp_path / "missing", tmp_path / "empty"):
            (tmp_path / "empty").mkdir(exist_ok=True)
            with pytest.raises(RegistryError, match=f"Nothing to register: no bundle in {folder}"):
                registry.register("flights", folder, verdict={}, actor="ann")
        assert registry.names() == []

    @pytest.mark.parametrize("decision", ["hold", "reject", None])
    def test_a_bundle_that_did_not_pass(
        self, registry: Registry, make_bundle: BundleMaker, decision: str | None
    ) -> None:
        bundle = make_bundle()
        with pytest.raises(RegistryError, match=f"the gate's decision is {decision!r}"):
            registry.register("flights", bundle, verdict=verdict(bundle, decision=decision), actor="ann")
        assert registry.names() == []

    def test_the_verdict_of_another_bundle(self, registry: Registry, make_bundle: BundleMaker) -> None:
        with pytest.raises(RegistryError, match="a verdict about this bundle"):
            registry.register("flights", make_bundle(), verdict=verdict(make_bundle(1)), actor="ann")

    def test_a_bundle_of_another_model(self, registry: Registry, make_bundle: BundleMaker) -> None:
        with pytest.raises(RegistryError, match="its name is 'flights'"):
            register(registry, make_bundle(), "taxis")

    def test_a_bundle_without_its_origin(self, registry: Registry, make_bundle: BundleMaker, tmp_path: Path) -> None:
        bundle = Path(shutil.copytree(make_bundle(), tmp_path / "bundle"))
        info = bundle / "bundle.json"
        info.write_text(info.read_text().replace("0" * 64, ""))
        write_manifest(bundle)
        with pytest.raises(RegistryError, match="no digest of the training data"):
            register(registry, bundle)

    def test_a_spoiled_bundle(self, registry: Registry, make_bundle: BundleMaker, tmp_path: Path) -> None:
        bundle = Path(shutil.copytree(make_bundle(), tmp_path / "bundle"))
        (bundle / "model.onnx").write_bytes(b"other")
        with pytest.raises(TrustError, match=r"model\.onnx was changed"):
            register(registry, bundle)

    def test_a_run_that_failed_or_is_not_there(self, registry: Registry, make_bundle: BundleMaker) -> None:
        with pytest.raises(RegistryError, match=r"There is no MLflow run 'f{32}'"):
            register(registry, make_bundle(), run_id="f" * 32)
        client = registry.store.client
        run = client.create_run(client.create_experiment("train"))
        client.set_terminated(run.info.run_id, "FAILED")
        with pytest.raises(RegistryError, match="is FAILED"):
            register(registry, make_bundle(), run_id=run.info.run_id)
        assert registry.names() == []

    def test_a_run_that_trained_it_keeps_the_files(self, registry: Registry, make_bundle: BundleMaker) -> None:
        client = registry.store.client
        root = registry.settings.resolved_artifact_root
        run = client.create_run(client.create_experiment("train", artifact_location=root))
        version = register(registry, make_bundle(), run_id=run.info.run_id)
        assert version.run_id == run.info.run_id
        assert f"/{run.info.run_id}/artifacts/registered/{version.digest[:16]}-" in version.source


class TestPromoting:
    def test_the_champion_moves_and_the_way_back_is_known(self, three: Registry) -> None:
        assert promote(three, 3, 1).aliases == ("champion",)
        assert aliases(three) == {"champion": 3, "previous": 1}
        row = three.ledger.rows()[-1]
        assert (row.kind, row.version, row.body["from"], row.body["reason"]) == ("promoted", "3", 1, "better")

    def test_another_got_there_first(self, three: Registry) -> None:
        promote(three, 2, 1)
        before = aliases(three), kinds(three)
        with pytest.raises(
            PromotionConflictError, match=r"the champion is version 2; nothing was changed[\s\S]*version 1"
        ):
            promote(three, 3, 1)
        assert (aliases(three), kinds(three)) == before

    def test_a_retry_changes_nothing(self, three: Registry) -> None:
        assert promote(three, 2, 1) == promote(three, 2, 1)
        assert kinds(three).count("promoted") == 1

    def test_only_one_of_many_at_once_wins(self, three: Registry) -> None:
        def attempt(ref: int) -> str:
            try:
                return str(promote(Registry(three.settings), ref, 1).version)
            except PromotionConflictError:
                return "conflict"

        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(attempt, [2, 3, 2, 3]))
        winner = aliases(three)["champion"]
        assert set(found) == {str(winner), "conflict"}
        assert kinds(three).count("promoted") == 1

    def test_it_takes_a_reason_and_a_verdict_that_says_so(self, three: Registry) -> None:
        with pytest.raises(RegistryError, match="There is no reason"):
            three.promote("flights", 2, expected=1, actor="ann", reason=" ")
        with pytest.raises(RegistryError, match="the verdict is 'hold'"):
            promote(three, 2, 1, verdict={"decision": "hold"})
        promote(three, 2, 1, verdict={"decision": "promote", "reasons": [{"text": "auc rose"}], "slices": [{}] * 9})
        kept = three.ledger.rows()[-1].body["verdict"]
        assert (kept["reasons"], "slices" in kept, len(kept["sha256"])) == (["auc rose"], False, 64)

    def test_files_that_were_changed_in_the_store(self, three: Registry) -> None:
        place = Path(three.storage_uri(three.version("flights", 2)).removeprefix("file://"))
        (place / "model.onnx").write_bytes(b"other")
        with pytest.raises(TrustError, match=r"flights 2 \(1\.0\.1\): model\.onnx was changed"):
            promote(three, 2, 1)
        assert aliases(three)["champion"] == 1

    def test_files_that_were_exchanged_for_those_of_another_signed_version(self, three: Registry) -> None:
        two, three_ = (
            Path(three.storage_uri(three.version("flights", number)).removeprefix("file://")) for number in (2, 3)
        )
        shutil.rmtree(two)
        shutil.copytree(three_, two)
        with pytest.raises(TrustError, match="its digest is"):
            promote(three, 2, 1)

    def test_files_that_are_gone(self, three: Registry) -> None:
        shutil.rmtree(three.storage_uri(three.version("flights", 2)).removeprefix("file://"))
        with pytest.raises(HeadwayError, match="flights 2"):
            promote(three, 2, 1)
        assert aliases(three)["champion"] == 1

    def test_a_version_that_headway_did_not_make(self, three: Registry, tmp_path: Path) -> None:
        three.store.client.create_model_version("flights", source=tmp_path.as_uri())
        with pytest.raises(RegistryError, match="flights 4 has no digest: Headway did not register it"):
            promote(three, 4, 1)


class TestRollingBack:
    def back(self, registry: Registry, **options: Any) -> Version:
        return registry.rollback("flights", actor="ann", reason="worse", **options)

    def test_to_the_champion_before(self, three: Registry) -> None:
        promote(three, 2, 1)
        assert self.back(three).version == 1
        assert aliases(three) == {"champion": 1, "challenger": 3}

    def test_twice_is_once(self, three: Registry) -> None:
        promote(three, 2, 1)
        promote(three, 3, 2)
        assert [self.back(three).version for _ in range(3)] == [2, 2, 2]
        assert kinds(three).count("rolled_back") == 1

    def test_to_any_version(self, three: Registry) -> None:
        promote(three, 2, 1)
        promote(three, 3, 2)
        assert self.back(three, to=1).version == 1

    def test_nothing_to_go_back_to(self, three: Registry) -> None:
        with pytest.raises(RegistryError, match=r"no previous champion[\s\S]*--to VERSION"):
            self.back(three)

    def test_from_another_champion_than_expected(self, three: Registry) -> None:
        promote(three, 2, 1)
        with pytest.raises(PromotionConflictError, match="the champion is version 2"):
            self.back(three, expected=3)

    def test_to_files_that_were_changed(self, three: Registry) -> None:
        promote(three, 2, 1)
        place = Path(three.storage_uri(three.version("flights", 1)).removeprefix("file://"))
        (place / "bundle.sig").unlink()
        with pytest.raises(TrustError, match="not signed"):
            self.back(three)
        assert aliases(three)["champion"] == 2

    def test_it_needs_nothing_of_the_present_champion(self, three: Registry) -> None:
        promote(three, 2, 1)
        shutil.rmtree(three.storage_uri(three.champion("flights")).removeprefix("file://"))
        assert self.back(three).version == 1


class TestThePast:
    def test_what_served_then(self, three: Registry) -> None:
        promote(three, 2, 1)
        between = datetime.now(UTC)
        three.rollback("flights", actor="ann", reason="worse")
        then, now = three.champion_at("flights", between), three.champion_at("flights", datetime.now(UTC))
        assert then is not None
        assert now is not None
        assert (then.body["champion"], then.body["reason"]) == (2, "better")
        assert (now.body["champion"], now.kind) == (1, "rolled_back")
        assert three.champion_at("flights", between - timedelta(days=1)) is None


class TestDownloading:
    def test_the_folder_appears_whole(self, three: Registry, tmp_path: Path) -> None:
        version = three.champion("flights")
        folder = three.download(version, tmp_path / "down" / "flights")
        assert verify_manifest(folder) == version.digest
        assert (folder / "bundle.sig").is_file()
        assert [path.name for path in folder.parent.iterdir()] == ["flights"]

    def test_it_overwrites_nothing(self, three: Registry, tmp_path: Path) -> None:
        (tmp_path / "mine").write_text("")
        with pytest.raises(RegistryError, match="already there"):
            three.download(three.champion("flights"), tmp_path)

    def test_changed_files_leave_no_folder(self, three: Registry, tmp_path: Path) -> None:
        version = three.champion("flights")
        (Path(three.storage_uri(version).removeprefix("file://")) / "more").write_text("")
        with pytest.raises(TrustError, match="more is not in the manifest"):
            three.download(version, tmp_path / "down")
        assert not (tmp_path / "down").exists()


class Killed(BaseException):
    """Stands for the end of the process."""


def dying(method: Callable[..., Any], *, before: bool) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if not before:
            method(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    return call


def in_a_process_that_dies(action: Callable[[], Any]) -> None:
    process = multiprocessing.get_context("fork").Process(target=action)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL, "the step at which the process dies was never reached"


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
class TestKilled:
    """A SIGKILL before and after each write; whoever comes next finishes the work, and nothing is there twice."""

    @pytest.mark.parametrize("step", ["upload", "create", "set_alias"])
    def test_while_registering(
        self, registry: Registry, make_bundle: BundleMaker, monkeypatch: pytest.MonkeyPatch, step: str, before: bool
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Store, step, dying(getattr(Store, step), before=before))
            in_a_process_that_dies(lambda: register(registry, make_bundle()))
        assert registry.find_champion("flights") is None or step == "set_alias"
        version = register(registry, make_bundle())
        assert (version.version, version.aliases) == (1, ("champion",))
        assert len(registry.versions("flights")) == 1
        assert kinds(registry) == ["registered"]
        with registry.check(version) as checked:
            assert checked.signer == "embedded"

    @pytest.mark.parametrize("step", ["set_alias", "delete_alias"])
    def test_while_promoting(self, three: Registry, monkeypatch: pytest.MonkeyPatch, step: str, before: bool) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Store, step, dying(getattr(Store, step), before=before))
            in_a_process_that_dies(lambda: promote(three, 3, 1))
        assert aliases(three)["champion"] in (1, 3)
        row = three.repair("flights")
        assert row is not None
        assert (row.kind, row.actor, row.body["champion"]) == ("promoted", "ann", 3)
        assert aliases(three) == {"champion": 3, "previous": 1}
        assert kinds(three).count("promoted") == 1
        assert three.repair("flights") is None


class TestKilledAndOvertaken:
    def test_what_was_written_down_is_finished_before_the_next_decision(
        self, three: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Store, "set_alias", dying(Store.set_alias, before=True))
            in_a_process_that_dies(lambda: promote(three, 2, 1))
        with pytest.raises(PromotionConflictError, match="the champion is version 2"):
            promote(three, 3, 1)
        assert kinds(three).count("promoted") == 1

    def test_what_was_not_yet_written_down_never_happened(
        self, three: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Intents, "_write_down", dying(Intents._write_down, before=False))
            in_a_process_that_dies(lambda: promote(three, 2, 1))
        assert promote(three, 3, 1).version == 3
        assert kinds(three).count("promoted") == 1


class TestMovedOutsideOfHeadway:
    def test_a_half_done_promotion_is_dropped(self, three: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
        def die(*_: Any) -> None:
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(Store, "set_alias", die)
            with pytest.raises(Killed):
                promote(three, 2, 1)
        three.store.set_alias("flights", "champion", 3)
        row = three.repair("flights")
        assert row is not None
        assert row.kind == "abandoned"
        assert "the champion was moved to 3 outside of Headway" in row.body["abandoned"]
        assert aliases(three)["champion"] == 3


class TestMlflowIsDown:
    def test_it_is_said_with_the_address(self, installation: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        down = installation.model_copy(update={"tracking_uri": "http://127.0.0.1:9"})
        with pytest.raises(PlatformError, match=r"MLflow at http://127\.0\.0\.1:9 said no[\s\S]*MLFLOW_TRACKING_URI"):
            Registry(down).names()
