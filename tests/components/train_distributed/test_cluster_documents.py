"""What a cluster gets: equal to the golden files and the page, allowed by every version's schema, complete and safe."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from headway.components.errors import ConfigError, PlatformError
from headway.components.kubernetes.kinds import KINDS
from headway.components.settings import Settings
from headway.components.train_distributed import cluster_job, launch_cluster
from headway.components.train_distributed.cluster_job import LONGEST_NAME, Step, unknown_fields
from headway.components.train_distributed.cluster_spec import RUNTIME, ClusterSpec, Volume
from headway.components.train_distributed.launch import choose
from headway.components.train_distributed.launch_torchrun import Machine
from headway.components.train_distributed.pytorchjob import PyTorchJobEngine
from headway.components.train_distributed.trainjob import TrainJobEngine
from tests.components.kubernetes import schemas
from tests.components.train_distributed import cluster_golden as golden
from tests.components.train_distributed.cluster_world import OlderTrainer

DOCUMENTS = golden.documents()
MANIFESTS = Path(__file__).resolve().parents[3] / "manifests" / "training"
SHIPPED = [
    document
    for path in sorted(MANIFESTS.glob("*.yaml"))
    if path.name != "kustomization.yaml"
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
]


def shipped(kind: str) -> dict[str, Any]:
    return next(each for each in SHIPPED if each["kind"] == kind)


def older() -> dict[str, Any]:
    return OlderTrainer.schema(object.__new__(OlderTrainer), "TrainJob")


class TestGolden:
    @pytest.mark.parametrize("name", DOCUMENTS)
    def test_documents_are_those_of_the_golden_files(self, name: str) -> None:
        assert yaml.safe_load((golden.FOLDER / f"{name}.yaml").read_text(encoding="utf-8")) == DOCUMENTS[name]

    def test_no_golden_file_is_left_over(self) -> None:
        assert {path.stem for path in golden.FOLDER.iterdir()} == set(DOCUMENTS)

    def test_the_page_shows_the_job_that_results(self) -> None:
        found = golden.BLOCK.search(golden.PAGE.read_text(encoding="utf-8"))
        assert found is not None
        assert yaml.safe_load(found[2]) == DOCUMENTS["trainjob"]

    def test_the_pages_document_and_placement_are_those_of_the_job(self) -> None:
        text = golden.PAGE.read_text(encoding="utf-8")
        block = text.split("   ```yaml\n")[1].split("   ```")[0]
        assert ClusterSpec.parse("\n".join(line[3:] for line in block.splitlines())) == ClusterSpec.parse(golden.SPEC)
        (row,) = [line for line in text.splitlines() if line.startswith("| 2 machines")]
        assert yaml.safe_load(row.split("`")[1]) == golden.PLACEMENT

    @pytest.mark.parametrize("name", [name for name in DOCUMENTS if name != "trainjob-2.1"])
    def test_the_cluster_would_take_them(self, name: str) -> None:
        assert schemas.problems(DOCUMENTS[name]) == []

    def test_the_older_trainer_would_take_its_own_and_no_other(self) -> None:
        assert schemas.problems_by(DOCUMENTS["trainjob-2.1"], older()) == []
        assert unknown_fields(DOCUMENTS["trainjob-2.1"], older()) == []
        dropped = {"spec.activeDeadlineSeconds", "spec.runtimePatches"}
        assert set(unknown_fields(DOCUMENTS["trainjob-rich"], older())) == dropped
        assert schemas.problems_by(DOCUMENTS["trainjob-rich"], older()) != []

    @pytest.mark.parametrize("name", [name for name in DOCUMENTS if name != "trainjob-2.1"])
    def test_unknown_fields_are_found_at_every_depth(self, name: str) -> None:
        document = yaml.safe_load(golden.as_yaml(DOCUMENTS[name]))
        assert unknown_fields(document, schemas.schema(document["kind"])) == []
        places = list(objects_in(document["spec"]))
        for place in places:
            place["misspelt"] = 1
            expected = schemas.problems(document)
            assert bool(unknown_fields(document, schemas.schema(document["kind"]))) == bool(expected), place
            del place["misspelt"]
        assert len(places) > 10

    def test_the_engine_takes_the_fields_that_the_schema_has(self) -> None:
        engine = TrainJobEngine(set(older()["properties"]["spec"]["properties"]))
        assert not engine.ends_late
        assert "podTemplateOverrides" in golden.rendered(engine)["spec"]
        with pytest.raises(PlatformError, match="no volumes"):
            TrainJobEngine({"trainer", "runtimeRef"})


def objects_in(value: Any) -> Any:
    """All mappings in a document whose keys a schema names (not free ones such as labels)."""
    if isinstance(value, dict):
        if not {"Master", "Worker"} & set(value):
            yield value
        for name, each in value.items():
            if name not in ("nodeSelector", "requests", "limits", "annotations"):
                yield from objects_in(each)
    if isinstance(value, list):
        for each in value:
            yield from objects_in(each)


class TestContent:
    def test_two_machines_with_four_gpus_are_asked_for(self) -> None:
        trainer = DOCUMENTS["trainjob"]["spec"]["trainer"]
        assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 4)
        assert trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == "4"
        env = {each["name"]: each.get("value") for each in trainer["env"]}
        assert env["OMP_NUM_THREADS"] == "8"
        assert env["TORCHELASTIC_ERROR_FILE"] == "/dev/termination-log"
        reserved = {"PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT"}
        assert not reserved & set(env)  # Trainer's webhook refuses them

    def test_the_trainers_own_container_gets_its_environment_from_the_trainer(self) -> None:
        patch = DOCUMENTS["trainjob-rich"]["spec"]["runtimePatches"][0]
        (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
        (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
        assert "env" not in container  # Trainer's webhook refuses it there
        assert "/" in patch["manager"]

    def test_processes_without_gpus_are_those_of_one_machine(self) -> None:
        trainer = DOCUMENTS["trainjob-cpu"]["spec"]["trainer"]
        assert trainer["numProcPerNode"] == 4
        assert "nvidia.com/gpu" not in trainer["resourcesPerNode"]["limits"]

    def test_a_pytorch_job_tells_torchrun_who_is_who(self) -> None:
        replicas = DOCUMENTS["pytorchjob"]["spec"]["pytorchReplicaSpecs"]
        assert {name: each["replicas"] for name, each in replicas.items()} == {"Master": 1, "Worker": 1}
        (container,) = replicas["Worker"]["template"]["spec"]["containers"]
        given = dict(zip(container["args"][:-3:2], container["args"][1:-3:2], strict=True))
        assert given["--nnodes"] == "2"
        assert given["--node-rank"] == "$(RANK)"
        assert container["terminationMessagePath"] == "/dev/termination-log"

    def test_rank_0_is_in_the_masters_pod_or_the_first_workers(self) -> None:
        def pod(name: str, kind: str, index: int) -> dict[str, Any]:
            label = "training.kubeflow.org/replica-"
            spec = DOCUMENTS[name]["spec"]["pytorchReplicaSpecs"][kind]["template"]["spec"]
            return {"metadata": {"labels": {f"{label}type": kind.lower(), f"{label}index": str(index)}}, "spec": spec}

        node = PyTorchJobEngine().node
        assert [node(pod("pytorchjob", "Master", 0)), node(pod("pytorchjob", "Worker", 0))] == [0, 1]
        assert [node(pod("pytorchjob-elastic", "Worker", index)) for index in (0, 3)] == [0, 3]

    def test_torchrun_understands_the_arguments(self) -> None:
        run = pytest.importorskip("torch.distributed.run", reason="torchrun comes with torch (headway[torch])")
        for name in ("trainjob", "pytorchjob", "pytorchjob-elastic"):
            spec = DOCUMENTS[name]["spec"]
            container = (
                spec.get("trainer")
                or next(iter(spec["pytorchReplicaSpecs"].values()))["template"]["spec"]["containers"][0]
            )
            said = [{"$(RANK)": "1", "$(MASTER_PORT)": "23456"}.get(each, each) for each in container["args"]]
            found = run.parse_args(said)
            assert found.module
            assert found.training_script == "headway.components.train_distributed.trainer"
            assert found.training_script_args == ["/shared/runs/5f2c77aa/train/job.json"]

    @given(
        model=st.text(max_size=80),
        run=st.text(min_size=1, max_size=80),
        digest=st.from_regex(r"\A[0-9a-f]{64}\Z"),
    )
    def test_a_name_is_one_that_every_object_of_a_job_can_bear(self, model: str, run: str, digest: str) -> None:
        name = cluster_job._name(model, run, digest)
        assert len(name) <= LONGEST_NAME
        assert len(f"{name}-node-0-999-abcde") <= 63
        assert name[0].isalpha()
        assert name[-1].isalnum()
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")

    def test_a_name_follows_what_is_trained_and_where_not_the_attempt(self) -> None:
        def name(**changes: Any) -> str:
            job = golden.job().model_copy(update=changes)
            found = cluster_job.order(job, ClusterSpec.parse(golden.SPEC), Settings(), golden.STEP)
            return found.name

        assert name() == name(run_id="another-mlflow-run")
        assert len({name(), name(output="s3://bucket/elsewhere"), name(folder="/shared/other")}) == 3


class TestSpec:
    @pytest.mark.parametrize("wrong", [{}, {"claim": "a", "secret": "b"}])
    def test_a_volume_has_one_source(self, wrong: dict[str, str]) -> None:
        with pytest.raises(ConfigError, match="exactly one of"):
            Volume.parse({"name": "v", "mount": "/v", **wrong})

    def test_a_misspelt_key_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="did you mean 'tolerations'"):
            ClusterSpec.parse({"toleration": []})

    def test_the_settings_name_the_document(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
        (tmp_path / "cluster.yaml").write_text("queues: gpu\n")
        settings = Settings(platform="kubeflow", training_cluster=tmp_path / "cluster.yaml")
        with pytest.raises(ConfigError, match="queues is not a known key"):
            choose(golden.job().training.placement, settings)
        with pytest.raises(PlatformError, match="No credentials"):
            choose(golden.job().training.placement, Settings(platform="kubeflow"))

    def test_one_machine_needs_no_cluster(self) -> None:
        placement = golden.job(nodes=1, accelerator="cpu").training.placement
        assert type(choose(placement, Settings(platform="kubeflow"))).__name__ == "TorchrunLauncher"
        assert Machine.of(placement).processes == 4

    def test_cpu_must_be_a_quantity(self) -> None:
        with pytest.raises(ConfigError, match="500m"):
            cluster_job.order(golden.job(cpu="many"), ClusterSpec.parse(golden.SPEC), Settings(), golden.STEP)


class TestShipped:
    def test_the_kustomization_lists_every_file(self) -> None:
        listed = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
        assert sorted(listed) == sorted(
            path.name for path in MANIFESTS.glob("*.yaml") if path.name != "kustomization.yaml"
        )

    def test_the_cluster_takes_the_runtime(self) -> None:
        assert schemas.problems(shipped("ClusterTrainingRuntime")) == []

    def test_the_gang_restarts_as_a_whole_and_keeps_its_last_words(self) -> None:
        runtime = shipped("ClusterTrainingRuntime")
        assert runtime["metadata"]["name"] == RUNTIME
        jobs = runtime["spec"]["template"]["spec"]
        assert jobs["failurePolicy"] == {"maxRestarts": 3, "restartStrategy": "BlockingRecreate"}
        (node,) = jobs["replicatedJobs"]
        assert node["name"] == TrainJobEngine.container == "node"
        assert node["template"]["spec"]["backoffLimit"] == 0
        pod = node["template"]["spec"]["template"]["spec"]
        assert pod["restartPolicy"] == "Never"
        assert pod["terminationGracePeriodSeconds"] == cluster_job.GRACE_SECONDS
        (container,) = pod["containers"]
        assert container["terminationMessagePath"] == cluster_job.TERMINATION_LOG
        assert {each["mountPath"] for each in container["volumeMounts"]} == {"/dev/shm"}

    def test_steps_may_do_what_the_launcher_asks_for_and_nothing_else(self) -> None:
        rules = shipped("Role")["rules"] + shipped("ClusterRole")["rules"]
        given = {(verb, group, plural) for rule in rules for verb in rule["verbs"] for group in rule["apiGroups"]
                 for plural in rule["resources"]}  # fmt: skip
        needs = {**TrainJobEngine.needs, **PyTorchJobEngine.needs, **launch_cluster._READS}
        wanted = {(verb, KINDS[kind].group, KINDS[kind].plural) for kind, verbs in needs.items() for verb in verbs}
        assert given == wanted | {("get", "", "pods/log")}

    def test_the_shipped_document_is_one(self) -> None:
        config = shipped("ConfigMap")
        spec = ClusterSpec.parse(config["data"]["cluster.yaml"])
        (volume,) = spec.volumes
        claim = shipped("PersistentVolumeClaim")
        assert volume.claim == claim["metadata"]["name"]
        assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
        step = Step(run="r", namespace="kubeflow")
        cluster_job.order(golden.job(), spec, Settings(), step)
